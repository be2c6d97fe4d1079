/*
 * bench_race: variants of the GPU kernels beside each other, by turns, in one process.
 *
 * usage: bench_race [option...] LIBRARY...
 *   --only LIST     batches whose name holds one of these texts, with commas between: "mixed,1x"
 *   --dims D        batches of this head_dim
 *   --scores TEXT   of "fwd bwd det", those that are in it; followed by 'full' or 'causal' only
 * that mask: --scores "fwd det causal"
 *   --rounds N      turns of each library (3)
 *   --runs N        timed calls a turn (10)
 *   --pause MS      before each turn (50): a GPU at its power limit lowers its clock
 *   --lens FOLDER   files of lengths (tests/bench/lens)
 *   --json FILE     also the milliseconds of each turn
 * A library is the target kernels_race of some version of this tree, or whatever else has that
 * one's three functions: other people's kernels behind them race, too. A GPU's clock moves a result
 * by some 5 % with its place in a run, so only columns of one row compare, and turns alternate. The
 * first library's results are what the others' are compared with: "same" is bit for bit, else the
 * largest relative L2 distance of any result. All results are NaN beforehand. A library that does
 * not serve a shape has no number there; where the first one does not, there is no row.
 */
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/attn_cuda.h"
#include "tests/bench/workload.h"

enum { VARIANTS_MAX = 12, ROUNDS_MAX = 32, RESULTS = 5, PLAN_BYTES = 64 << 20 };

struct options {
    const char *only, *scores, *lens;
    int dims, rounds, runs, pause_ms;
    FILE *json;
};

struct variant {
    const char *name;
    struct attn_context *context;
    enum attn_arch arch;
    const struct attn_row *(*select)(enum attn_arch, const struct attn_shape *, const char **);
    bool serves;           /* what is being timed */
    void *result[RESULTS]; /* on the host */
    double ms[ROUNDS_MAX];
};

struct race {
    struct options options;
    struct variant variants[VARIANTS_MAX];
    int count, rows; /* of variants, of the report */
    const struct batch *batch;
    struct work work;
    struct attn_set set;
};

/* A launch of one variant. */
struct run {
    const struct attn_row *row;
    struct attn_context *context;
    struct attn_launch launch;
};

static void must(cudaError_t error)
{
    if (error != cudaSuccess) {
        fprintf(stderr, "bench_race: %s\n", cudaGetErrorString(error));
        exit(EXIT_FAILURE);
    }
}

static void *symbol(void *library, const char *path, const char *name)
{
    void *found = library ? dlsym(library, name) : NULL;
    if (!found) {
        fprintf(stderr, "bench_race: %s: %s\n", path, dlerror());
        exit(EXIT_FAILURE);
    }
    return found;
}

static void open_variant(struct variant *v, const char *path)
{
    char place[PATH_MAX]; /* dlopen takes a name without a slash for one of the system's */
    void *library = dlopen(realpath(path, place) ? place : path, RTLD_NOW | RTLD_LOCAL);
    struct attn_context *(*open)(void *, size_t) = NULL;
    enum attn_arch (*arch)(void) = NULL;
    *(void **)&open = symbol(library, path, "attn_cuda_open");
    *(void **)&arch = symbol(library, path, "attn_cuda_arch");
    *(void **)&v->select = symbol(library, path, "attn_select");
    const char *slash = strrchr(path, '/');
    v->name = slash ? slash + 1 : path;
    v->arch = arch();
    v->context = v->arch == ATTN_CPU ? NULL : open(NULL, PLAN_BYTES);
    if (!v->context) {
        fprintf(stderr, "bench_race: no GPU with kernels of its own here\n");
        exit(77);
    }
}

static bool prepare(struct race *race, struct variant *v, int score, struct run *run)
{
    const char *reason;
    *run = (struct run){.context = v->context,
                        .launch = {.shape = workload_shape(race->batch, score),
                                   .sets = &race->set,
                                   .set_count = 1,
                                   .sequences = race->work.sequences,
                                   .sequence_count = race->work.count}};
    run->row = v->select(v->arch, &run->launch.shape, &reason);
    v->serves = run->row != NULL;
    if (!v->serves) {
        return false;
    }
    run->launch.scratch_bytes = run->row->scratch_bytes(&run->launch);
    must(cudaMalloc(&run->launch.scratch, run->launch.scratch_bytes + 1));
    return true;
}

static void launch(void *argument)
{
    struct run *run = argument;
    if (run->row->launch(run->context, &run->launch) != ATTN_OK) {
        fprintf(stderr, "bench_race: %s refused the launch\n", run->row->name);
        exit(EXIT_FAILURE);
    }
}

/* ---- results ---- */

struct result {
    void *data;
    size_t bytes;
    bool is_fp32;
};

static int results_of(const struct race *race, int score, struct result *out)
{
    const struct batch *b = race->batch;
    const struct attn_set *s = &race->set;
    size_t tokens = (size_t)race->work.tokens, q = tokens * (size_t)b->hq,
           k = tokens * (size_t)b->hkv, d = (size_t)b->d, dv = (size_t)b->dv;
    if (score < 2) {
        out[0] = (struct result){s->o.data, q * dv * 2, false};
        out[1] = (struct result){s->lse.data, q * 4, true};
        return 2;
    }
    out[0] = (struct result){s->dq.data, q * d * 2, false};
    out[1] = (struct result){s->dk.data, k * d * 2, false};
    out[2] = (struct result){s->dv.data, k * dv * 2, false};
    return 3;
}

static float element(const void *data, size_t i, bool is_fp32)
{
    float x;
    if (is_fp32) {
        return ((const float *)data)[i];
    }
    uint32_t bits = (uint32_t)((const uint16_t *)data)[i] << 16;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static double distance(const void *a, const void *b, size_t bytes, bool is_fp32)
{
    double error = 0, norm = 0;
    size_t count = bytes / (is_fp32 ? 4 : 2);
    for (size_t i = 0; i < count; i++) {
        double x = element(a, i, is_fp32), y = element(b, i, is_fp32);
        error += (x - y) * (x - y);
        norm += x * x;
    }
    return sqrt(error / norm);
}

/* Runs once from NaN, keeps what came out. */
static void keep_results(struct race *race, struct variant *v, int score, struct run *run)
{
    struct result results[RESULTS];
    int count = results_of(race, score, results);
    for (int i = 0; i < count; i++) {
        must(cudaMemset(results[i].data, 0xff, results[i].bytes));
    }
    must(cudaMemset(run->launch.scratch, 0xff, run->launch.scratch_bytes));
    launch(run);
    for (int i = 0; i < count; i++) {
        v->result[i] = malloc(results[i].bytes);
        if (!v->result[i]) {
            abort();
        }
        must(cudaMemcpy(v->result[i], results[i].data, results[i].bytes, cudaMemcpyDeviceToHost));
    }
}

/* Of a variant's results from the first one's; 0: same bits. */
static double compare(const struct race *race, const struct variant *v, int score)
{
    struct result results[RESULTS];
    double worst = 0;
    int count = results_of(race, score, results);
    for (int i = 0; i < count; i++) {
        const void *first = race->variants[0].result[i];
        if (memcmp(first, v->result[i], results[i].bytes) != 0) {
            double d = distance(first, v->result[i], results[i].bytes, results[i].is_fp32);
            worst = d > worst || isnan(d) ? d : worst;
        }
    }
    return worst;
}

static void drop_results(struct race *race)
{
    for (int i = 0; i < race->count; i++) {
        for (int k = 0; k < RESULTS; k++) {
            free(race->variants[i].result[k]);
            race->variants[i].result[k] = NULL;
        }
    }
}

/* ---- the race ---- */

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double tflops_of(const struct race *race, const struct variant *v, int score)
{
    double ms[ROUNDS_MAX];
    size_t rounds = (size_t)race->options.rounds;
    memcpy(ms, v->ms, sizeof ms);
    qsort(ms, rounds, sizeof ms[0], compare_doubles);
    return workload_flops(race->batch, &race->work, score) / ms[rounds / 2] * 1e-9;
}

static void report_json(const struct race *race, const struct variant *v, double tflops,
                        double away)
{
    FILE *json = race->options.json;
    fprintf(json, "%s{\"library\": \"%s\"", v == race->variants ? "" : ", ", v->name);
    for (int i = 0; v->serves && i < race->options.rounds; i++) {
        fprintf(json, "%s%.4f", i ? ", " : ", \"ms\": [", v->ms[i]);
    }
    if (v->serves) {
        fprintf(json, "], \"tflops\": %.1f, \"away\": ", tflops);
        fprintf(json, isnan(away) ? "null" : "%.1e", away);
    }
    fprintf(json, "}");
}

static void report_variant(const struct race *race, const struct variant *v, int score)
{
    double first = tflops_of(race, &race->variants[0], score), mine = 0, away = 0;
    if (!v->serves) {
        printf(" |      -");
    } else if (v == race->variants) {
        mine = first;
        printf(" | %6.1f", mine);
    } else {
        mine = tflops_of(race, v, score);
        away = compare(race, v, score);
        printf(" | %6.1f %+5.1f%% ", mine, (mine / first - 1) * 100);
        printf(away == 0 ? "same" : "%.1e", away);
    }
    if (race->options.json) {
        report_json(race, v, mine, away);
    }
}

static void report(struct race *race, int score)
{
    const struct batch *b = race->batch;
    FILE *json = race->options.json;
    printf("%-15s %2d/%-2d d%d/%-3d %-14s fa3 %3d", b->name, b->hq, b->hkv, b->d, b->dv,
           workload_score_names[score], b->fa3[score]);
    if (json) {
        fprintf(json,
                "%s\n  {\"batch\": \"%s\", \"hq\": %d, \"hkv\": %d, \"d\": %d, \"dv\": %d, "
                "\"pass\": \"%s\", \"of\": [",
                race->rows++ ? "," : "", b->name, b->hq, b->hkv, b->d, b->dv,
                workload_score_names[score]);
    }
    for (int i = 0; i < race->count; i++) {
        report_variant(race, &race->variants[i], score);
    }
    printf("\n");
    fflush(stdout);
    if (json) {
        fprintf(json, "]}");
        fflush(json);
    }
}

/* The output and LSE that a backward of this mask starts from, by the first variant. */
static void run_forward(struct race *race, int score)
{
    struct run run;
    if (score >= 2 && prepare(race, &race->variants[0], score % 2, &run)) {
        launch(&run);
        must(cudaFree(run.launch.scratch));
    }
}

static void take_turns(struct race *race, struct run *runs)
{
    const struct options *o = &race->options;
    for (int round = 0; round < o->rounds; round++) {
        for (int k = 0; k < race->count; k++) {
            int i = (k + round) % race->count;
            if (race->variants[i].serves) {
                workload_rest(o->pause_ms);
                race->variants[i].ms[round] = workload_time(launch, &runs[i], o->runs);
            }
        }
    }
}

static void race_score(struct race *race, int score)
{
    struct run runs[VARIANTS_MAX] = {0};
    run_forward(race, score);
    for (int i = 0; i < race->count; i++) {
        if (prepare(race, &race->variants[i], score, &runs[i])) {
            keep_results(race, &race->variants[i], score, &runs[i]);
        }
    }
    if (race->variants[0].serves) {
        take_turns(race, runs);
        report(race, score);
    }
    for (int i = 0; i < race->count; i++) {
        must(cudaFree(runs[i].launch.scratch));
    }
    drop_results(race);
}

/* Whether the name holds one of the texts. */
static bool named(const char *name, const char *list)
{
    bool found = *list == 0;
    for (const char *text = list; *text && !found;) {
        char one[64];
        size_t length = strcspn(text, ",");
        snprintf(one, sizeof one, "%.*s", (int)length, text);
        found = strstr(name, one) != NULL;
        text += length + (text[length] == ',');
    }
    return found;
}

static bool wanted(const struct options *o, int score)
{
    static const char *const passes[] = {"fwd", "bwd", "det"};
    const char *mask = score % 2 ? "causal" : "full";
    bool any = strstr(o->scores, "full") || strstr(o->scores, "causal");
    return strstr(o->scores, passes[score / 2]) && (!any || strstr(o->scores, mask));
}

static void race_all(struct race *race)
{
    int count;
    const struct batch *batches = workload_batches(&count);
    const struct options *o = &race->options;
    for (int i = 0; i < count; i++) {
        race->batch = &batches[i];
        if (!named(batches[i].name, o->only) || (o->dims && o->dims != batches[i].d)) {
            continue;
        }
        if (!workload_read(&race->work, &batches[i], o->lens)) {
            fprintf(stderr, "bench_race: no lengths for %s\n", batches[i].name);
            continue;
        }
        race->set = workload_open_set(&batches[i], race->work.tokens);
        for (int score = 0; score < SCORES; score++) {
            if (wanted(o, score)) {
                race_score(race, score);
            }
        }
        workload_close_set(&race->set);
    }
}

static int within(const char *text, int max)
{
    int value = atoi(text);
    return value < 1 ? 1 : value > max ? max : value;
}

static FILE *open_json(const char *path)
{
    FILE *file = fopen(path, "w");
    if (!file) {
        perror(path);
        exit(EXIT_FAILURE);
    }
    return file;
}

static void parse(struct race *race, int argc, char **argv)
{
    struct options *o = &race->options;
    *o = (struct options){"", "fwd bwd det", "tests/bench/lens", 0, 3, 10, 50, NULL};
    for (int i = 1; i < argc; i++) {
        const char *next = i + 1 < argc ? argv[i + 1] : "";
        if (strncmp(argv[i], "--", 2) != 0) {
            if (race->count < VARIANTS_MAX) {
                open_variant(&race->variants[race->count++], argv[i]);
            }
            continue;
        }
        i++;
        if (strcmp(argv[i - 1], "--only") == 0) {
            o->only = next;
        } else if (strcmp(argv[i - 1], "--dims") == 0) {
            o->dims = atoi(next);
        } else if (strcmp(argv[i - 1], "--scores") == 0) {
            o->scores = next;
        } else if (strcmp(argv[i - 1], "--rounds") == 0) {
            o->rounds = within(next, ROUNDS_MAX);
        } else if (strcmp(argv[i - 1], "--runs") == 0) {
            o->runs = within(next, WORKLOAD_RUNS_MAX);
        } else if (strcmp(argv[i - 1], "--pause") == 0) {
            o->pause_ms = atoi(next);
        } else if (strcmp(argv[i - 1], "--lens") == 0) {
            o->lens = next;
        } else if (strcmp(argv[i - 1], "--json") == 0) {
            o->json = open_json(next);
        } else {
            fprintf(stderr, "bench_race: no option %s\n", argv[i - 1]);
            exit(2);
        }
    }
}

static void print_head(FILE *json)
{
    struct cudaDeviceProp device;
    time_t now = time(NULL);
    char date[32];
    must(cudaGetDeviceProperties(&device, 0));
    strftime(date, sizeof date, "%Y-%m-%d %H:%M UTC", gmtime(&now));
    fprintf(json, "{\"gpu\": \"%s\", \"date\": \"%s\", \"rows\": [", device.name, date);
}

int main(int argc, char **argv)
{
    static struct race race;
    parse(&race, argc, argv);
    if (race.count == 0) {
        fprintf(stderr, "usage: bench_race [option...] LIBRARY...\n");
        return 2;
    }
    printf("TFLOP/s of");
    for (int i = 0; i < race.count; i++) {
        printf(" | %s", race.variants[i].name);
    }
    printf("\n");
    FILE *json = race.options.json;
    if (json) {
        print_head(json);
    }
    race_all(&race);
    if (json) {
        fprintf(json, "\n]}\n");
        fclose(json);
    }
    return EXIT_SUCCESS;
}
