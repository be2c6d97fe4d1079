/*
 * beside.c: see beside.h.
 */
#include "client/fasctl/beside.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "client/fasctl/clock.h"

#define STATS_MAX 512
#define STATS_TIMEOUT_MS 5000
/* What pinned memory moves over the bus of an H200 (PCIe 5.0 x16), measured one way at a time. */
#define BUS_IN_BYTES_PER_US 54e3
#define BUS_OUT_BYTES_PER_US 55e3

/* One round. */
struct turn {
    double in_process_us, in_process_p50_us, union_us, sets_us, batches_us, cut_us, copies_us;
    double served_us;
};

/* ---- how busy the devices were ---- */

struct busy {
    double us[BESIDE_LANES];
    uint64_t at_ns;
};

static struct busy busy_now(struct fas_client *client)
{
    static const char *const ends[BESIDE_LANES] = {".upload_us", ".busy_us", ".download_us"};
    static struct fas_stat stats[STATS_MAX];
    struct busy busy = {.at_ns = clock_ns()};
    uint32_t count = 0;
    fas_stats(client, STATS_TIMEOUT_MS, stats, STATS_MAX, &count, NULL);
    for (uint32_t i = 0; i < count; i++) {
        const char *end = strchr(stats[i].name, '.');
        for (int lane = 0; end && lane < BESIDE_LANES; lane++) {
            busy.us[lane] += strcmp(end, ends[lane]) == 0 ? stats[i].value : 0;
        }
    }
    return busy;
}

static void busy_add(struct beside *beside, const struct busy *from, const struct busy *to,
                     int rounds)
{
    double us = (double)(to->at_ns - from->at_ns) * 1e-3 * rounds;
    for (int lane = 0; lane < BESIDE_LANES; lane++) {
        beside->busy[lane] += (to->us[lane] - from->us[lane]) / us;
    }
}

/* ---- rounds ---- */

static bool time_one(const struct beside_options *options, const struct baseline_load *load,
                     double *us_of_each)
{
    struct baseline_times times;
    bool good = baseline_time(options->baseline, load, &times);
    *us_of_each = good ? times.mean_us / (load->copies * load->sets) : 0;
    return good;
}

/* All callers' requests as one launch, as if they were one request; the same as requests; and as
 * many of these as a batch has, launch after launch. Of `one`, which is of a single request. */
static bool time_crowd(const struct load *load, const struct beside_options *options,
                       const struct outcome *outcome, const struct baseline_load *one,
                       struct turn *turn)
{
    struct baseline_load all = *one, sets = *one, batches = *one;
    all.copies = sets.sets = load->callers;
    batches.sets = outcome->requests > 0 ? (int)(outcome->batch_requests + 0.5) : 1;
    return time_one(options, &all, &turn->union_us) && time_one(options, &sets, &turn->sets_us) &&
           time_one(options, &batches, &turn->batches_us);
}

static bool time_in_process(const struct load *load, const struct beside_options *options,
                            const struct outcome *outcome, struct turn *turn)
{
    struct baseline_times times;
    struct baseline_load one = {.shape = &load->shape,
                                .copies = 1,
                                .sets = 1,
                                .in_flight = load->callers < 2 ? load->callers : 2,
                                .parts = 1,
                                .seconds = load->seconds};
    if (load->place == FAS_PLACE_REGION) {
        one.in_bytes = outcome->bytes_in;
        one.out_bytes = outcome->bytes_out;
    }
    if (!baseline_time(options->baseline, &one, &times)) {
        return false;
    }
    turn->in_process_us = times.mean_us;
    turn->in_process_p50_us = times.p50_us;
    turn->copies_us = times.copies_us;
    one.in_bytes = one.out_bytes = 0;
    struct baseline_load cut = one;
    cut.parts = options->parts;
    return (options->parts <= 1 || time_one(options, &cut, &turn->cut_us)) &&
           (load->callers <= 2 || time_crowd(load, options, outcome, &one, turn));
}

static bool serve(struct load *load, const struct beside_options *options, struct outcome *outcome,
                  struct turn *turn, struct beside *beside)
{
    const struct outcome before = *outcome;
    struct busy from = busy_now(load->clients[0]);
    if (!load_run(load, outcome)) {
        return false;
    }
    struct busy to = busy_now(load->clients[0]);
    busy_add(beside, &from, &to, options->rounds);
    double requests = (double)(outcome->requests - before.requests);
    turn->served_us = requests > 0 ? (outcome->seconds - before.seconds) * 1e6 / requests : 0;
    return requests > 0;
}

/* Each is second by turns. */
static bool take_turn(struct load *load, const struct beside_options *options, bool serve_first,
                      struct outcome *outcome, struct turn *turn, struct beside *beside)
{
    return (!serve_first || serve(load, options, outcome, turn, beside)) &&
           (!options->baseline || time_in_process(load, options, outcome, turn)) &&
           (serve_first || serve(load, options, outcome, turn, beside));
}

/* ---- what came of it ---- */

static void add(struct turn *to, const struct turn *turn, double part)
{
    to->in_process_us += part * turn->in_process_us;
    to->in_process_p50_us += part * turn->in_process_p50_us;
    to->union_us += part * turn->union_us;
    to->sets_us += part * turn->sets_us;
    to->batches_us += part * turn->batches_us;
    to->cut_us += part * turn->cut_us;
    to->copies_us += part * turn->copies_us;
    to->served_us += part * turn->served_us;
}

/* Means of two turns each, in their place; one that is left over is not fair, unless it is the only
 * one. Returns how many there are. */
static int pair_up(struct turn *turns, int count)
{
    for (int i = 0; i < count / 2; i++) {
        struct turn pair = {0};
        add(&pair, &turns[2 * i], 0.5);
        add(&pair, &turns[2 * i + 1], 0.5);
        turns[i] = pair;
    }
    return count > 1 ? count / 2 : count;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Of a number of each turn, over another one (NULL: as it is). */
static struct spread spread_of(const struct turn *turns, int count, size_t offset,
                               const size_t *over)
{
    double values[BESIDE_ROUNDS_MAX];
    for (int i = 0; i < count; i++) {
        const char *turn = (const char *)&turns[i];
        memcpy(&values[i], turn + offset, sizeof(double));
        double divisor = 1;
        if (over) {
            memcpy(&divisor, turn + *over, sizeof(double));
        }
        values[i] = divisor > 0 ? values[i] / divisor : 0;
    }
    qsort(values, (size_t)count, sizeof(double), by_value);
    double median = (values[(count - 1) / 2] + values[count / 2]) / 2;
    return (struct spread){median, values[0], values[count - 1]};
}

static void conclude(const struct load *load, const struct outcome *outcome, struct turn *turns,
                     int rounds, struct beside *beside)
{
    int count = pair_up(turns, rounds);
    const size_t one = offsetof(struct turn, in_process_us);
    const size_t served = offsetof(struct turn, served_us);
    const size_t all = offsetof(struct turn, union_us), cut = offsetof(struct turn, cut_us);
    const size_t sets = offsetof(struct turn, sets_us);
    const size_t batches = offsetof(struct turn, batches_us);
    const size_t p50 = offsetof(struct turn, in_process_p50_us);
    const size_t copies = offsetof(struct turn, copies_us);
    beside->rounds = rounds;
    beside->in_process_us = spread_of(turns, count, one, NULL).median;
    beside->in_process_p50_us = spread_of(turns, count, p50, NULL).median;
    beside->union_us = spread_of(turns, count, all, NULL).median;
    beside->cut_us = spread_of(turns, count, cut, NULL).median;
    beside->of_in_process = spread_of(turns, count, one, &served);
    beside->of_union = spread_of(turns, count, all, &served);
    beside->sets_of_union = spread_of(turns, count, all, &sets);
    beside->batches_of_union = spread_of(turns, count, all, &batches);
    beside->cut_over = spread_of(turns, count, cut, &one);
    if (load->place == FAS_PLACE_REGION) {
        double in_us = outcome->bytes_in / BUS_IN_BYTES_PER_US;
        double out_us = outcome->bytes_out / BUS_OUT_BYTES_PER_US;
        double bus_us = in_us > out_us ? in_us : out_us;
        beside->bound_us = bus_us > beside->in_process_us ? bus_us : beside->in_process_us;
        beside->over_bound = spread_of(turns, count, served, NULL).median / beside->bound_us;
        beside->copies_us = spread_of(turns, count, copies, NULL).median;
        beside->over_copies = spread_of(turns, count, served, &copies);
    }
}

bool beside_run(struct load *load, const struct beside_options *options, struct outcome *outcome,
                struct beside *beside)
{
    struct turn turns[BESIDE_ROUNDS_MAX] = {0}, warm_up;
    int count = options->rounds;
    memset(beside, 0, sizeof(*beside));
    memset(outcome, 0, sizeof(*outcome));
    load->seconds /= count;
    load->requests = (load->requests + count - 1) / count;
    if (options->baseline && !time_in_process(load, options, outcome, &warm_up)) {
        return false;
    }
    for (int i = 0; i < count; i++) { /* the load goes first, and says how large batches are */
        if (!take_turn(load, options, i % 2 == 0, outcome, &turns[i], beside)) {
            return false;
        }
    }
    if (options->baseline) {
        conclude(load, outcome, turns, count, beside);
    }
    return true;
}
