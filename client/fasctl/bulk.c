/*
 * bulk.c: see bulk.h. A round is 16 requests of 16 MiB, two of them in flight: then the daemon
 * fills the results of one (every row that is not computed is written, with 0) while those of the
 * other travel, and what is measured is the transport. With one request of 128 MiB a quarter of the
 * time was the filling.
 */
#include "client/fasctl/bulk.h"

#include <stdlib.h>

#include "client/fasctl/clock.h"
#include "client/fasctl/workload.h"

#define ROUNDS 9
#define REQUESTS 16 /* of a round */
#define IN_FLIGHT 2

/* Rows of 512 bytes. */
#define ROWS ((16 << 20) / 512)

/* k and v travel, one row of them is used; or o comes back, one row of it computed. */
static struct shape shape_of(bool up)
{
    return (struct shape){.dtype = FAS_BF16,
                          .hq = 1,
                          .hkv = 1,
                          .batch = 1,
                          .d = up ? 256 : 8,
                          .dv = 256,
                          .idle_q_rows = up ? 1 : ROWS,
                          .idle_k_rows = up ? ROWS / 2 : 1};
}

struct flights {
    struct workload workloads[IN_FLIGHT];
    struct fas_call *calls[IN_FLIGHT];
};

static void count(struct bulk *bulk, const struct fas_report *report)
{
    const double part = 1.0 / (ROUNDS * REQUESTS);
    struct outcome *outcome = &bulk->outcome;
    outcome->queue_us += part * (double)report->queue_us;
    outcome->copy_in_us += part * (double)report->copy_in_us;
    outcome->compute_us += part * (double)report->compute_us;
    outcome->copy_out_us += part * (double)report->copy_out_us;
    if (report->error.status != FAS_OK) {
        bulk->error = report->error;
    }
}

static void finish(struct bulk *bulk, struct fas_call **call, bool counts)
{
    if (!*call) {
        return;
    }
    fas_wait(*call, -1);
    const struct fas_report *report = fas_call_report(*call);
    if (counts || report->error.status != FAS_OK) {
        count(bulk, report);
    }
    fas_call_close(*call);
    *call = NULL;
}

/* Seconds of one round; negative: a request failed, see bulk->error. */
static double round_run(struct bulk *bulk, struct flights *flights, bool counts)
{
    uint64_t begin_ns = clock_ns();
    for (int i = 0; i < REQUESTS + IN_FLIGHT; i++) {
        struct fas_call **call = &flights->calls[i % IN_FLIGHT];
        finish(bulk, call, counts);
        if (i < REQUESTS && bulk->error.status == FAS_OK) {
            fas_submit(bulk->client, &flights->workloads[i % IN_FLIGHT].request, call,
                       &bulk->error);
        }
    }
    return bulk->error.status == FAS_OK ? clock_seconds(begin_ns) : -1;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Medians: a noisy machine disturbs both alike. */
static bool rounds_run(struct bulk *bulk, struct flights *flights)
{
    double ours[ROUNDS], plain[ROUNDS];
    double in = REQUESTS * (double)flights->workloads[0].bytes_in;
    double out = REQUESTS * (double)flights->workloads[0].bytes_out;
    for (int i = -1; i < ROUNDS; i++) { /* the first warms up */
        double seconds = round_run(bulk, flights, i >= 0);
        double alone = plain_move(bulk->plain, (uint64_t)in, (uint64_t)out);
        if (seconds < 0) {
            return false;
        }
        if (i >= 0) {
            ours[i] = seconds;
            plain[i] = alone;
        }
    }
    qsort(ours, ROUNDS, sizeof(double), by_value);
    qsort(plain, ROUNDS, sizeof(double), by_value);
    bulk->bytes = in + out;
    bulk->outcome.requests = ROUNDS;
    bulk->outcome.p50_us = ours[ROUNDS / 2] * 1e6;
    bulk->outcome.p90_us = ours[ROUNDS * 9 / 10] * 1e6;
    bulk->outcome.gbytes_per_s = bulk->bytes * 1e-9 / ours[ROUNDS / 2];
    bulk->plain_gbytes_per_s = plain[0] > 0 ? bulk->bytes * 1e-9 / plain[ROUNDS / 2] : 0;
    return true;
}

bool bulk_run(struct bulk *bulk)
{
    struct flights flights = {0};
    const struct shape shape = shape_of(bulk->up);
    bool good = true;
    for (int i = 0; good && i < IN_FLIGHT; i++) {
        good = workload_open(&flights.workloads[i], &shape, bulk->client, bulk->place,
                             &bulk->error) == FAS_OK;
    }
    good = good && rounds_run(bulk, &flights);
    for (int i = 0; i < IN_FLIGHT; i++) {
        workload_close(&flights.workloads[i]);
    }
    return good;
}
