/*
 * bench.c: fasctl bench. Without a load of your own it runs the standard ones: a small request's
 * latency, callers side by side, random arrivals, and bulk in either direction beside a plain
 * program on the same kind of socket. A table for people, --json for machines. SIGINT or SIGTERM
 * ends it after the load at hand, with what was measured until then; a second one at once.
 */
#include <cjson/cJSON.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/fasctl/baseline.h"
#include "client/fasctl/beside.h"
#include "client/fasctl/bulk.h"
#include "client/fasctl/fasctl.h"
#include "client/fasctl/load.h"
#include "client/fasctl/plain.h"
#include "client/fasctl/table.h"

#define CLIENTS_MAX 64
#define ROWS_MAX 32
/* Turns with the baseline: four pairs. */
#define ROUNDS 8

#define BULKS_MAX 2
struct bench {
    struct fas_client *clients[CLIENTS_MAX];
    int client_count;
    struct {
        struct fas_client *client;
        struct plain plain;
        int connections;
    } bulks[BULKS_MAX]; /* one connection, and several */
    int bulk_count;
    double seconds; /* of each load */
    enum fas_place place;
    int64_t gpu, gpus;            /* clients' CUDA memory, by turns; -1: the daemon's first */
    const char *baseline_program; /* NULL: none */
    struct baseline baseline;
    int64_t rounds, parts; /* 0: as it fits */
    struct row {
        char what[40];
        int callers;
        double rate;
        bool bulk;
        int connections; /* of the bulk */
        int64_t tokens;  /* of a request */
        struct outcome outcome;
        struct beside beside;
        double plain_gbytes_per_s; /* bulk */
    } rows[ROWS_MAX];
    int row_count;
    bool failed; /* some request, and not for want of room */
};

/* ---- stopped before its end ---- */

static volatile sig_atomic_t interrupted;

static void interrupt(int signal)
{
    (void)signal;
    interrupted = 1;
}

static void heed_signals(void)
{
    const struct sigaction once = {.sa_handler = interrupt, .sa_flags = SA_RESTART | SA_RESETHAND};
    sigaction(SIGINT, &once, NULL);
    sigaction(SIGTERM, &once, NULL);
}

static bool may_begin(const char *what)
{
    if (interrupted) {
        fprintf(stderr, "fasctl: interrupted: \"%s\" and what follows it were not run\n", what);
    }
    return !interrupted;
}

/* ---- loads ---- */

static bool bench_load(struct bench *bench, const char *what, struct shape shape, int callers,
                       double rate)
{
    struct row *row = &bench->rows[bench->row_count];
    struct load load = {.shape = shape,
                        .place = bench->place,
                        .clients = bench->clients,
                        .client_count = bench->client_count,
                        .callers = callers,
                        .rate = rate,
                        .requests = 20,
                        .seconds = bench->seconds};
    if (!may_begin(what)) {
        return false;
    }
    snprintf(row->what, sizeof(row->what), "%s", what);
    row->callers = callers;
    row->rate = rate;
    for (int32_t i = 0; i < shape.batch; i++) {
        row->tokens += shape.lengths[i];
    }
    const struct beside_options options = {
        .baseline = bench->baseline_program && rate == 0 ? &bench->baseline : NULL,
        .rounds = bench->rounds                          ? (int)bench->rounds
                  : bench->baseline_program && rate == 0 ? ROUNDS
                                                         : 1,
        .parts = (int)bench->parts};
    bool ran = load_open(&load) && beside_run(&load, &options, &row->outcome, &row->beside);
    load_close(&load);
    if (!ran) {
        if (load.error.status != FAS_OK) {
            complain(what, &load.error);
        }
        return false;
    }
    if (load.error.status != FAS_OK) {
        fprintf(stderr, "fasctl: %lld request%s failed; one of them:\n",
                (long long)row->outcome.failed, table_plural((double)row->outcome.failed));
        complain(what, &load.error);
        /* That there is no room is what more callers than it has show. */
        bench->failed |= load.error.status != FAS_RESOURCE_EXHAUSTED;
    }
    bench->row_count++;
    return load.error.status != FAS_UNAVAILABLE;
}

static struct shape small_shape(void)
{
    static const int32_t lengths[] = {128};
    return (struct shape){FAS_FORWARD, FAS_BF16, 8, 2, 64, 64, 1, true, lengths};
}

static struct shape middle_shape(void)
{
    static const int32_t lengths[] = {512, 512, 256, 256};
    return (struct shape){FAS_FORWARD, FAS_BF16, 8, 2, 64, 64, 4, true, lengths};
}

/* ---- bulk ---- */

static bool bench_bulk(struct bench *bench, int number, bool up)
{
    struct row *row = &bench->rows[bench->row_count];
    int connections = bench->bulks[number].connections;
    struct bulk bulk = {.client = bench->bulks[number].client,
                        .place = bench->place,
                        .plain = &bench->bulks[number].plain,
                        .up = up};
    const char *what = up ? "bulk up" : "bulk down";
    if (!may_begin(what)) {
        return false;
    }
    if (!bulk_run(&bulk)) {
        complain(what, &bulk.error);
        return false;
    }
    snprintf(row->what, sizeof(row->what), "%s, %.0f MB, %d connection%s", what, bulk.bytes * 1e-6,
             connections, table_plural(connections));
    row->bulk = true;
    row->callers = 1;
    row->connections = connections;
    row->outcome = bulk.outcome;
    row->plain_gbytes_per_s = bulk.plain_gbytes_per_s;
    bench->row_count++;
    return true;
}

/* Plain sockets fork, so before anything connects. */
static void bulks_plan(struct bench *bench, int connections)
{
    bool tcp = strncmp(target_url(), "ipc://", 6) != 0;
    const int counts[BULKS_MAX] = {1, connections};
    for (int i = 0; i < (connections > 1 ? 2 : 1); i++) {
        bench->bulks[i].connections = counts[i];
        bench->bulk_count++;
        plain_open(&bench->bulks[i].plain, tcp, counts[i], BULK_BUFFER_BYTES);
    }
}

static bool bulk_loads(struct bench *bench)
{
    bool good = true;
    for (int i = 0; good && i < bench->bulk_count; i++) {
        bench->bulks[i].client = target_connect(0, (uint32_t)bench->bulks[i].connections);
        good = bench->bulks[i].client && bench_bulk(bench, i, true) && bench_bulk(bench, i, false);
    }
    return good;
}

static void bulks_close(struct bench *bench)
{
    for (int i = 0; i < bench->bulk_count; i++) {
        fas_close(bench->bulks[i].client);
        plain_close(&bench->bulks[i].plain);
    }
}

/* ---- what is printed ---- */

static void print_beside(struct table *table, const struct row *row)
{
    const struct beside *b = &row->beside;
    if (b->rounds == 0) {
        table_cell(table, "%s", "");
    } else if (b->bound_us > 0) {
        table_cell(table,
                   "bound %s, so %.2f times it; copies alone %s, so %.2f times that; copies in "
                   "%.0f %%, kernels %.0f %%, copies out %.0f %% of the time",
                   table_us(b->bound_us), b->over_bound, table_us(b->copies_us),
                   b->over_copies.median, 100 * b->busy[BESIDE_UPLOAD],
                   100 * b->busy[BESIDE_COMPUTE], 100 * b->busy[BESIDE_DOWNLOAD]);
    } else if (row->callers > 2) {
        table_cell(table,
                   "in process as one launch %.0f tokens/s, so %.1f %% (%.1f to %.1f); there by "
                   "request %.1f %%, by batch %.1f %%",
                   (double)row->tokens / b->union_us * 1e6, 100 * b->of_union.median,
                   100 * b->of_union.min, 100 * b->of_union.max, 100 * b->sets_of_union.median,
                   100 * b->batches_of_union.median);
    } else if (row->callers == 2) {
        table_cell(table, "in process %s, so %.1f %% (%.1f to %.1f)", table_us(b->in_process_us),
                   100 * b->of_in_process.median, 100 * b->of_in_process.min,
                   100 * b->of_in_process.max);
    } else {
        table_cell(table, "in process %s, so %+.0f us", table_us(b->in_process_p50_us),
                   row->outcome.p50_us - b->in_process_p50_us);
    }
}

static void print_row(struct table *table, const struct row *row)
{
    const struct outcome *o = &row->outcome;
    table_cell(table, "%s", row->what);
    table_cell(table, "%lld", (long long)o->requests);
    table_cell(table, "%s", table_us(o->p50_us));
    table_cell(table, "%s", table_us(o->p90_us));
    table_cell(table, "%s", row->bulk ? "" : table_us(o->p99_us));
    table_cell(table, "%s", row->bulk ? "" : table_us(o->p999_us));
    table_cell(table, "%s", table_us(o->queue_us));
    table_cell(table, "%s", table_us(o->copy_in_us));
    table_cell(table, "%s", table_us(o->compute_us));
    table_cell(table, "%s", table_us(o->copy_out_us));
    if (row->bulk) {
        table_cell(table, "%s", "");
        table_cell(table, "%s", "");
    } else {
        table_cell(table, "%.1f", o->batch_requests);
        table_cell(table, "%.0f", o->tokens_per_s);
    }
    table_cell(table, "%.2f", o->gbytes_per_s);
    if (row->bulk && row->plain_gbytes_per_s == 0) {
        table_cell(table, "no plain sockets to be had");
    } else if (row->bulk) {
        table_cell(table, "plain sockets: %.2f GB/s, so %.0f %%", row->plain_gbytes_per_s,
                   100 * o->gbytes_per_s / row->plain_gbytes_per_s);
    } else {
        print_beside(table, row);
    }
}

static void print_table(const struct bench *bench)
{
    printf("%s at %s, %d connection%s\n\n", fas_server(bench->clients[0])->name, target.url,
           bench->client_count, bench->client_count > 1 ? "s" : "");
    struct table *table = table_open("load|requests|p50|p90|p99|p99.9|queue|copy in|compute|copy "
                                     "out|batch|tokens/s|GB/s|");
    for (int i = 0; i < bench->row_count; i++) {
        print_row(table, &bench->rows[i]);
    }
    table_print(table);
    printf("(times as the caller sees them; queue to copy out as the daemon says, means; GB/s of "
           "tensors, both ways)\n");
}

static void print_json(const struct bench *bench)
{
    cJSON *array = cJSON_CreateArray();
    for (int i = 0; i < bench->row_count; i++) {
        const struct row *row = &bench->rows[i];
        const struct outcome *o = &row->outcome;
        const struct {
            const char *name;
            double value;
        } numbers[] = {
            {"callers", row->callers},
            {"connections", row->connections},
            {"rate_per_s", row->rate},
            {"requests", (double)o->requests},
            {"failed", (double)o->failed},
            {"seconds", o->seconds},
            {"p50_us", o->p50_us},
            {"p90_us", o->p90_us},
            {"p99_us", o->p99_us},
            {"p999_us", o->p999_us},
            {"queue_us", o->queue_us},
            {"copy_in_us", o->copy_in_us},
            {"compute_us", o->compute_us},
            {"copy_out_us", o->copy_out_us},
            {"batch_requests", o->batch_requests},
            {"tokens_per_s", o->tokens_per_s},
            {"gbytes_per_s", o->gbytes_per_s},
            {"plain_gbytes_per_s", row->plain_gbytes_per_s},
            {"bytes_in", o->bytes_in},
            {"bytes_out", o->bytes_out},
            {"upload_busy", row->beside.busy[BESIDE_UPLOAD]},
            {"compute_busy", row->beside.busy[BESIDE_COMPUTE]},
            {"download_busy", row->beside.busy[BESIDE_DOWNLOAD]},
            {"rounds", row->beside.rounds},
            {"in_process_us", row->beside.in_process_us},
            {"in_process_p50_us", row->beside.in_process_p50_us},
            {"of_in_process", row->beside.of_in_process.median},
            {"of_in_process_min", row->beside.of_in_process.min},
            {"of_in_process_max", row->beside.of_in_process.max},
            {"union_us", row->beside.union_us},
            {"of_union", row->beside.of_union.median},
            {"of_union_min", row->beside.of_union.min},
            {"of_union_max", row->beside.of_union.max},
            {"sets_of_union", row->beside.sets_of_union.median},
            {"batches_of_union", row->beside.batches_of_union.median},
            {"cut_us", row->beside.cut_us},
            {"cut_over", row->beside.cut_over.median},
            {"cut_over_min", row->beside.cut_over.min},
            {"cut_over_max", row->beside.cut_over.max},
            {"bound_us", row->beside.bound_us},
            {"over_bound", row->beside.over_bound},
            {"copies_us", row->beside.copies_us},
            {"over_copies", row->beside.over_copies.median},
            {"over_copies_min", row->beside.over_copies.min},
            {"over_copies_max", row->beside.over_copies.max},
        };
        cJSON *object = cJSON_CreateObject();
        cJSON_AddStringToObject(object, "load", row->what);
        for (size_t n = 0; n < sizeof(numbers) / sizeof(numbers[0]); n++) {
            if (numbers[n].value != 0) {
                cJSON_AddNumberToObject(object, numbers[n].name, numbers[n].value);
            }
        }
        cJSON_AddItemToArray(array, object);
    }
    char *text = cJSON_Print(array);
    if (text) {
        puts(text);
    }
    free(text);
    cJSON_Delete(array);
}

/* ---- the story ---- */

static bool standard_loads(struct bench *bench)
{
    char what[40];
    if (!bench_load(bench, "1 x 128 tokens, one caller", small_shape(), 1, 0)) {
        return false;
    }
    double best = 0;
    for (int callers = 1; callers <= 16; callers *= 4) {
        snprintf(what, sizeof(what), "4 documents, %d caller%s", callers, table_plural(callers));
        if (!bench_load(bench, what, middle_shape(), callers, 0)) {
            return false;
        }
        const struct outcome *o = &bench->rows[bench->row_count - 1].outcome;
        double rate = (double)o->requests / o->seconds;
        best = rate > best ? rate : best;
    }
    for (int percent = 50; percent <= 80; percent += 30) {
        snprintf(what, sizeof(what), "4 documents, random, %d %% load", percent);
        if (!bench_load(bench, what, middle_shape(), 0, best * percent / 100)) {
            return false;
        }
    }
    return true;
}

static bool connect_all(struct bench *bench, int count)
{
    for (; bench->client_count < count; bench->client_count++) {
        target.cuda_device =
            bench->gpu < 0 ? 0 : (uint32_t)(bench->gpu + bench->client_count % bench->gpus) + 1;
        bench->clients[bench->client_count] = target_connect(64, 1);
        if (!bench->clients[bench->client_count]) {
            return false;
        }
    }
    return true;
}

/* What a daemon on a GPU is held to, and how many launches of 25 ms the longest takes. */
static const struct target_row {
    const char *what, *lengths;
    enum fas_place place;
    enum fas_pass pass;
    bool causal;
    int32_t hkv;
    int callers, clients, parts;
} target_rows[] = {
    {"4 x 8192, two callers", "4x8192", FAS_PLACE_CUDA, FAS_FORWARD, false, 16, 2, 1, 1},
    {"4 x 8192, two callers", "4x8192", FAS_PLACE_CUDA, FAS_BACKWARD, false, 16, 2, 1, 1},
    {"4 x 8192, two callers", "4x8192", FAS_PLACE_REGION, FAS_FORWARD, false, 16, 2, 1, 1},
    {"4 x 8192, two callers", "4x8192", FAS_PLACE_REGION, FAS_BACKWARD, false, 16, 2, 1, 1},
    {"1 x 128, one caller", "128", FAS_PLACE_CUDA, FAS_FORWARD, true, 16, 1, 1, 1},
    {"1 x 128, one caller", "128", FAS_PLACE_INLINE, FAS_FORWARD, true, 16, 1, 1, 1},
    {"4k mixed, 16 clients", "512,1024,2048,512", FAS_PLACE_CUDA, FAS_FORWARD, true, 4, 32, 16, 1},
    {"1 x 131072, one caller", "131072", FAS_PLACE_CUDA, FAS_FORWARD, false, 16, 1, 1, 9},
};
#define TARGET_CLIENTS 16
/* A turn ends with the kernel and the way back of the last request, 10 ms in which nothing else
 * moves: in one of 0.5 s the bus seems 2 % slower than it is. */
#define REGION_SECONDS 3

static bool target_load(struct bench *bench, const struct target_row *row)
{
    char what[40];
    int32_t *lengths;
    struct shape shape = {.pass = row->pass,
                          .dtype = FAS_BF16,
                          .hq = 16,
                          .hkv = row->hkv,
                          .d = 128,
                          .dv = 128,
                          .causal = row->causal};
    const int clients = bench->client_count;
    const double seconds = bench->seconds;
    snprintf(what, sizeof(what), "%s %s, %s", fas_place_name(row->place),
             row->pass == FAS_FORWARD ? "fwd" : "bwd", row->what);
    if (!lengths_parse(row->lengths, &lengths, &shape.batch)) {
        return false;
    }
    shape.lengths = lengths;
    bench->place = row->place;
    bench->parts = row->parts;
    bench->client_count = row->clients;
    bench->seconds *= row->place == FAS_PLACE_REGION ? REGION_SECONDS : 1;
    bool good = bench_load(bench, what, shape, row->callers, 0);
    bench->client_count = clients;
    bench->seconds = seconds;
    free(lengths);
    return good;
}

static bool target_loads(struct bench *bench)
{
    for (size_t i = 0; i < sizeof(target_rows) / sizeof(target_rows[0]); i++) {
        if (!target_load(bench, &target_rows[i])) {
            return false;
        }
    }
    return true;
}

enum set { SET_STANDARD, SET_BULK, SET_TARGETS };

/* Options of a load of one's own. */
struct own {
    const char *lengths, *pass, *dtype;
    int64_t hq, hkv, d, dv, callers;
    double rate;
    bool full;
};

static bool own_shape(const struct own *own, struct shape *shape, int32_t **lengths)
{
    bool backward = strcmp(own->pass, "backward") == 0;
    int dtype = 0;
    while (dtype < FAS_DTYPE_COUNT &&
           strcmp(own->dtype, fas_dtype_name((enum fas_dtype)dtype)) != 0) {
        dtype++;
    }
    if (!backward && strcmp(own->pass, "forward") != 0) {
        fprintf(stderr, "fasctl: --pass: \"%s\" is neither forward nor backward\n", own->pass);
        return false;
    }
    if (dtype == FAS_DTYPE_COUNT) {
        fprintf(stderr, "fasctl: --dtype: \"%s\" is none of bf16, fp16, fp32\n", own->dtype);
        return false;
    }
    *shape = (struct shape){backward ? FAS_BACKWARD : FAS_FORWARD,
                            (enum fas_dtype)dtype,
                            (int32_t)own->hq,
                            (int32_t)own->hkv,
                            (int32_t)own->d,
                            (int32_t)(own->dv ? own->dv : own->d),
                            0,
                            !own->full,
                            NULL};
    if (!lengths_parse(own->lengths, lengths, &shape->batch)) {
        fprintf(stderr, "fasctl: --lengths: \"%s\" is not like 512,512,2048 or 64x512\n",
                own->lengths);
        return false;
    }
    shape->lengths = *lengths;
    return true;
}

static int bench_run(struct bench *bench, const struct own *own, int clients, int connections,
                     enum set set, bool json)
{
    struct shape shape;
    int32_t *lengths = NULL;
    if (own->lengths && !own_shape(own, &shape, &lengths)) {
        return EXIT_USAGE;
    }
    if (bench->baseline_program && !baseline_open(&bench->baseline, bench->baseline_program)) {
        free(lengths);
        return EXIT_USAGE;
    }
    if (!own->lengths && set != SET_TARGETS) {
        bulks_plan(bench, connections);
    }
    int code = EXIT_NO_SERVER;
    if (connect_all(bench, set == SET_TARGETS ? TARGET_CLIENTS : clients)) {
        heed_signals();
        bool good =
            own->lengths ? bench_load(bench, own->lengths, shape, (int)own->callers, own->rate)
            : set == SET_TARGETS ? target_loads(bench)
                                 : (set == SET_BULK || standard_loads(bench)) && bulk_loads(bench);
        if (json) {
            print_json(bench);
        } else if (bench->row_count > 0) {
            print_table(bench);
        }
        code = good && !bench->failed ? EXIT_OK : EXIT_FAILED;
    }
    for (int i = 0; i < bench->client_count; i++) {
        fas_close(bench->clients[i]);
    }
    bulks_close(bench); /* its peers were forked and hold the baseline's pipe open */
    baseline_close(&bench->baseline);
    free(lengths);
    return code;
}

static bool read_place(const char *text, enum fas_place *place)
{
    for (int i = 0; i < FAS_PLACE_COUNT; i++) {
        if (strcmp(text, fas_place_name((enum fas_place)i)) == 0) {
            *place = (enum fas_place)i;
            return true;
        }
    }
    fprintf(stderr, "fasctl: --place: \"%s\" is none of inline, region, cuda\n", text);
    return false;
}

int command_bench(int argc, char **argv)
{
    static struct bench bench;
    struct own own = {NULL, "forward", "bf16", 8, 2, 64, 0, 1, 0, false};
    int64_t clients = 1, connections = 1;
    bool json = false, bulk = false, targets = false;
    const char *place = "inline";
    bench.seconds = 2;
    bench.gpu = -1;
    bench.gpus = 1;
    const struct option_row rows[] = {
        {"lengths", OPTION_TEXT, &own.lengths, "LIST",
         "a load of your own: 512,512,2048 or 64x512; without: the standard loads", 0, 0},
        {"pass", OPTION_TEXT, &own.pass, "PASS", "forward or backward", 0, 0},
        {"dtype", OPTION_TEXT, &own.dtype, "TYPE", "bf16, fp16 or fp32", 0, 0},
        {"heads", OPTION_INT, &own.hq, "N", "query heads (8)", 1, 1024},
        {"kv-heads", OPTION_INT, &own.hkv, "N", "key and value heads (2)", 1, 1024},
        {"d", OPTION_INT, &own.d, "N", "head dim of q and k (64)", 8, 256},
        {"dv", OPTION_INT, &own.dv, "N", "head dim of v (as d)", 8, 256},
        {"full", OPTION_FLAG, &own.full, NULL, "no causal mask", 0, 0},
        {"callers", OPTION_INT, &own.callers, "N", "requests in flight, closed loop (1)", 1, 256},
        {"rate", OPTION_REAL, &own.rate, "N", "open loop: random arrivals, N a second", 0.001, 1e7},
        {"clients", OPTION_INT, &clients, "N", "connections, shared by the callers (1)", 1,
         CLIENTS_MAX},
        {"connections", OPTION_INT, &connections, "N",
         "bulk also by one client of N connections, beside N plain sockets (1)", 1,
         PLAIN_SOCKETS_MAX},
        {"seconds", OPTION_REAL, &bench.seconds, "S", "of each load (2)", 0.01, 86400},
        {"place", OPTION_TEXT, &place, "PLACE",
         "where the tensors are: inline (in messages), region (shared memory) or cuda", 0, 0},
        {"gpu", OPTION_INT, &bench.gpu, "N", "cuda: of which GPU (the daemon's first)", 0, 63},
        {"gpus", OPTION_INT, &bench.gpus, "N", "and of those after it, by turns of clients (1)", 1,
         64},
        {"baseline", OPTION_TEXT, &bench.baseline_program, "FASERVED",
         "this program computes the same in process, by turns with the load", 0, 0},
        {"rounds", OPTION_INT, &bench.rounds, "N", "turns, by twos (8 with a baseline, else 1)", 1,
         BESIDE_ROUNDS_MAX},
        {"parts", OPTION_INT, &bench.parts, "N",
         "launches the baseline cuts a request into, for comparison (1)", 1, 1024},
        {"targets", OPTION_FLAG, &targets, NULL,
         "the loads a GPU's daemon is held to: CUDA memory, regions, a crowd, one long", 0, 0},
        {"bulk", OPTION_FLAG, &bulk, NULL, "of the standard loads only bulk, both ways", 0, 0},
        {"json", OPTION_FLAG, &json, NULL, "an array of objects instead of the table", 0, 0},
        TARGET_ROWS,
        {0}};
    int code;
    if (!command_options("bench [OPTIONS]", rows, argc, argv, &code)) {
        return code;
    }
    enum set set = targets ? SET_TARGETS : bulk ? SET_BULK : SET_STANDARD;
    return read_place(place, &bench.place)
               ? bench_run(&bench, &own, (int)clients, (int)connections, set, json)
               : EXIT_USAGE;
}
