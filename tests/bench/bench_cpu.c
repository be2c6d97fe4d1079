/*
 * bench_cpu.c: milliseconds of the CPU kernels over a grid of documents, one JSON line per case.
 * bench_cpu.py runs it beside PyTorch and prints the table.
 *
 *     bench_cpu [threads] [seconds per case] [case, -1: all] [wall or cpu]
 *
 * FLOPs are attn_flops: visible pairs only, backward 2.5 times forward. A time is the best of the
 * repetitions, which is what a kernel can do; other load on the machine only adds. "cpu" takes the
 * processor time of the whole process instead, which is for one thread on a machine that is shared.
 */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/attn.h"

enum { HEADS = 8, TOKENS = 4096, SEQUENCES_MAX = 4096 };

struct bench_case {
    enum attn_dtype dtype;
    int d, length;
    bool causal;
    int tokens; /* of all documents */
};

static clockid_t bench_clock = CLOCK_MONOTONIC;

static double now(void)
{
    struct timespec t;
    clock_gettime(bench_clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void *allocate(size_t bytes)
{
    void *memory = aligned_alloc(256, (bytes + 255) / 256 * 256);
    if (!memory) {
        fprintf(stderr, "bench_cpu: out of memory\n");
        exit(1);
    }
    return memory;
}

static struct attn_tensor random_tensor(enum attn_dtype dtype, int64_t rows, int width)
{
    size_t bytes = attn_dtype_bytes(dtype);
    struct attn_tensor t = {.row_stride = (int64_t)bytes * width * HEADS,
                            .head_stride = (int64_t)bytes * width};
    t.data = allocate((size_t)(rows * t.row_stride));
    for (int64_t i = 0; i < rows * HEADS * width; i++) {
        float x = (float)rand() / (float)RAND_MAX * 2 - 1;
        uint32_t bits;
        memcpy(&bits, &x, sizeof bits);
        if (dtype == ATTN_FP32) {
            ((float *)t.data)[i] = x;
        } else if (dtype == ATTN_BF16) {
            ((uint16_t *)t.data)[i] = (uint16_t)(bits >> 16);
        } else { /* a sign, a fraction and an exponent that keep it below 1 */
            ((uint16_t *)t.data)[i] = (uint16_t)((bits >> 16 & 0x8000u) | (bits >> 9 & 0x3bffu));
        }
    }
    return t;
}

static struct attn_tensor statistic(int64_t rows)
{
    return (struct attn_tensor){allocate((size_t)(rows * HEADS) * 4), 4, 4 * rows};
}

static struct attn_set make_set(enum attn_dtype dtype, int d, int64_t rows)
{
    return (struct attn_set){.q = random_tensor(dtype, rows, d),
                             .k = random_tensor(dtype, rows, d),
                             .v = random_tensor(dtype, rows, d),
                             .o = random_tensor(dtype, rows, d),
                             .lse = statistic(rows),
                             .do_ = random_tensor(dtype, rows, d),
                             .dq = random_tensor(dtype, rows, d),
                             .dk = random_tensor(dtype, rows, d),
                             .dv = random_tensor(dtype, rows, d)};
}

static void free_set(struct attn_set *s)
{
    void *all[] = {s->q.data,   s->k.data,  s->v.data,  s->o.data, s->lse.data,
                   s->do_.data, s->dq.data, s->dk.data, s->dv.data};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        free(all[i]);
    }
}

/* Best time of one pass, seconds. */
static double measure(struct attn_context *context, struct attn_launch *launch, double budget)
{
    const char *reason;
    const struct attn_row *row = attn_select(ATTN_CPU, &launch->shape, &reason);
    launch->scratch_bytes = row->scratch_bytes(launch);
    launch->scratch = allocate(launch->scratch_bytes);
    double best = INFINITY;
    double end = now() + budget;
    for (int i = 0; i < 3 || now() < end; i++) {
        double start = now();
        if (row->launch(context, launch) != ATTN_OK) {
            exit(1);
        }
        best = fmin(best, now() - start);
    }
    free(launch->scratch);
    return best;
}

static void run_case(struct attn_context *context, const struct bench_case *c, int threads,
                     double budget)
{
    static const char *const dtypes[] = {"bf16", "fp16", "fp32"};
    int documents = c->tokens / c->length;
    struct attn_set set = make_set(c->dtype, c->d, (int64_t)documents * c->length);
    struct attn_sequence sequences[SEQUENCES_MAX];
    for (int i = 0; i < documents; i++) {
        int64_t first = (int64_t)i * c->length;
        sequences[i] =
            (struct attn_sequence){0, i, first, first, c->length, c->length, c->length, c->length};
    }
    struct attn_launch launch = {
        .shape = {.dtype = c->dtype,
                  .hq = HEADS,
                  .hkv = HEADS,
                  .d = c->d,
                  .dv = c->d,
                  .mask = {.has_right = c->causal},
                  .softmax_scale = 1 / sqrtf((float)c->d)},
        .sets = &set,
        .sequences = sequences,
        .set_count = 1,
        .sequence_count = documents,
    };
    for (int pass = ATTN_FORWARD; pass <= ATTN_BACKWARD; pass++) {
        launch.shape.pass = pass;
        double seconds = measure(context, &launch, budget);
        double flops = documents * attn_flops(&launch.shape, c->length, c->length);
        printf("{\"pass\": \"%s\", \"dtype\": \"%s\", \"d\": %d, \"length\": %d, \"causal\": %s, "
               "\"documents\": %d, \"heads\": %d, \"threads\": %d, \"ms\": %.4f, "
               "\"gflops\": %.1f}\n",
               pass == ATTN_FORWARD ? "forward" : "backward", dtypes[c->dtype], c->d, c->length,
               c->causal ? "true" : "false", documents, HEADS, threads, seconds * 1e3,
               flops / seconds * 1e-9);
        fflush(stdout);
    }
    free_set(&set);
}

int main(int argc, char **argv)
{
    static const struct bench_case cases[] = {
        {ATTN_FP32, 64, 512, true, TOKENS},   {ATTN_FP32, 64, 1024, true, TOKENS},
        {ATTN_FP32, 64, 4096, true, TOKENS},  {ATTN_FP32, 128, 512, true, TOKENS},
        {ATTN_FP32, 128, 1024, true, TOKENS}, {ATTN_FP32, 128, 4096, true, TOKENS},
        {ATTN_FP32, 64, 1024, false, TOKENS}, {ATTN_FP32, 128, 1024, false, TOKENS},
        {ATTN_BF16, 64, 1024, true, TOKENS},  {ATTN_BF16, 128, 4096, true, TOKENS},
        {ATTN_FP16, 128, 1024, true, TOKENS}, {ATTN_FP32, 64, 34, true, TOKENS},
        {ATTN_FP32, 64, 128, true, 128}, /* one small request: latency */
    };
    int threads = argc > 1 ? atoi(argv[1]) : 2;
    double budget = argc > 2 ? atof(argv[2]) : 0.5;
    if (argc > 4 && strcmp(argv[4], "cpu") == 0) {
        bench_clock = CLOCK_PROCESS_CPUTIME_ID;
    }
    struct attn_context *context = attn_cpu_open(threads);
    if (!context) {
        fprintf(stderr, "bench_cpu: no context with %d threads\n", threads);
        return 1;
    }
    int only = argc > 3 ? atoi(argv[3]) : -1;
    for (int i = 0; i < (int)(sizeof cases / sizeof cases[0]); i++) {
        if (only < 0 || i == only) {
            run_case(context, &cases[i], threads, budget);
        }
    }
    attn_cpu_close(context);
    return 0;
}
