/*
 * bench_attn: how fast the GPU rows are, beside what the same machine's cuBLAS does and beside
 * flash-attention 3's best recorded number on an H200 (2026-11-22, same protocol).
 *
 * usage: bench_attn [--lens FOLDER] [--only TEXT] [--pause MS] [--json FILE]
 * Protocol: workload.h's, median of 20. Each case follows a pause, because a GPU at
 * its power limit lowers its clock by up to a fifth in the course of a long run; the 8192^3 GEMM is
 * measured under the same rule, and the ratio to it is what travels between machines.
 */
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/attn_cuda.h"
#include "tests/bench/workload.h"

enum { RUNS = 20, GEMM = 8192, PLAN_BYTES = 64 << 20 };

struct options {
    const char *lens, *only;
    int pause_ms;
    FILE *json;
};

static void must(cudaError_t error)
{
    if (error != cudaSuccess) {
        fprintf(stderr, "bench_attn: %s\n", cudaGetErrorString(error));
        exit(EXIT_FAILURE);
    }
}

/* ---- the GEMM, by the machine's cuBLAS, which is not ours to link ---- */

struct gemm {
    int (*run)(void *, int, int, int, int, int, const void *, const void *, int, int, const void *,
               int, int, const void *, void *, int, int, int, int);
    void *handle, *a, *b, *c;
};

static void run_gemm(void *argument)
{
    enum { R_16BF = 14, COMPUTE_32F = 68, OP_N = 0, ALGO_DEFAULT = -1 };
    struct gemm *g = argument;
    float one = 1, zero = 0;
    g->run(g->handle, OP_N, OP_N, GEMM, GEMM, GEMM, &one, g->a, R_16BF, GEMM, g->b, R_16BF, GEMM,
           &zero, g->c, R_16BF, GEMM, COMPUTE_32F, ALGO_DEFAULT);
}

/* TFLOP/s, 0 without a cuBLAS. */
static double measure_gemm(void)
{
    void *library = dlopen("libcublas.so.13", RTLD_NOW);
    library = library ? library : dlopen("libcublas.so.12", RTLD_NOW);
    struct gemm g = {0};
    int (*create)(void **) = NULL;
    if (library) {
        *(void **)&create = dlsym(library, "cublasCreate_v2");
        *(void **)&g.run = dlsym(library, "cublasGemmEx");
    }
    if (!create || !g.run || create(&g.handle) != 0) {
        return 0;
    }
    g.a = workload_random((size_t)GEMM * GEMM, 1);
    g.b = workload_random((size_t)GEMM * GEMM, 2);
    must(cudaMalloc(&g.c, (size_t)GEMM * GEMM * 2));
    double ms = workload_time(run_gemm, &g, RUNS);
    must(cudaFree(g.a));
    must(cudaFree(g.b));
    must(cudaFree(g.c));
    return 2.0 * GEMM * GEMM * GEMM / ms * 1e-9;
}

/* ---- attention ---- */

struct attention {
    const struct attn_row *row;
    struct attn_context *context;
    struct attn_launch launch;
};

static void run_attention(void *argument)
{
    struct attention *a = argument;
    if (a->row->launch(a->context, &a->launch) != ATTN_OK) {
        fprintf(stderr, "bench_attn: %s refused the launch\n", a->row->name);
        exit(EXIT_FAILURE);
    }
}

static void report(const struct options *o, const struct batch *b, int score, double tflops,
                   double ms, double gemm)
{
    static bool first = true;
    int fa3 = b->fa3[score];
    printf("%-15s %2d/%-2d d%d/%-3d %-14s %7.1f TFLOP/s %8.4f ms  gemm %.3f  fa3 %d (%.3f)\n",
           b->name, b->hq, b->hkv, b->d, b->dv, workload_score_names[score], tflops, ms,
           gemm > 0 ? tflops / gemm : 0, fa3, fa3 > 0 ? tflops / fa3 : 0);
    fflush(stdout);
    if (o->json) {
        fprintf(o->json,
                "%s  {\"batch\": \"%s\", \"hq\": %d, \"hkv\": %d, \"d\": %d, \"dv\": %d, \"pass\": "
                "\"%s\", "
                "\"tflops\": %.1f, \"ms\": %.4f, \"fa3\": %d}",
                first ? "" : ",\n", b->name, b->hq, b->hkv, b->d, b->dv,
                workload_score_names[score], tflops, ms, fa3);
        first = false;
    }
}

/* The output and LSE that a backward of this mask starts from: another mask's LSE would make its
 * probabilities other than a training step's, and their power, too. */
static void run_forward(struct attn_context *context, const struct attn_launch *backward)
{
    struct attention a = {.context = context, .launch = *backward};
    const char *reason;
    a.launch.shape.pass = ATTN_FORWARD;
    a.launch.shape.deterministic = false;
    a.row = attn_select(attn_cuda_arch(), &a.launch.shape, &reason);
    if (a.row) {
        run_attention(&a);
    }
}

/* Returned: TFLOP/s, 0: no row of this device serves it. */
static double measure(const struct options *o, struct attn_context *context, const struct batch *b,
                      const struct work *w, struct attn_set *set, int score, double gemm)
{
    struct attention a = {.context = context};
    const char *reason;
    a.launch.shape = workload_shape(b, score);
    a.launch.sets = set;
    a.launch.sequences = w->sequences;
    a.launch.set_count = 1;
    a.launch.sequence_count = w->count;
    a.row = attn_select(attn_cuda_arch(), &a.launch.shape, &reason);
    if (!a.row) {
        return 0;
    }
    a.launch.scratch_bytes = a.row->scratch_bytes(&a.launch);
    must(cudaMalloc(&a.launch.scratch, a.launch.scratch_bytes + 1));
    if (score >= 2) {
        run_forward(context, &a.launch);
    }
    workload_rest(o->pause_ms);
    double ms = workload_time(run_attention, &a, RUNS);
    must(cudaFree(a.launch.scratch));
    double tflops = workload_flops(b, w, score) / ms * 1e-9;
    report(o, b, score, tflops, ms, gemm);
    return tflops;
}

/*
 * The table of flash-attention's pull request 2150, which held varlen to 0.2 to 4 % over equal
 * lengths. To these kernels a padded batch is sequences like others, so both are one launch, and
 * what is printed is how far two places in a run differ.
 */
struct varlen {
    double padded[SCORES], packed[SCORES];
};

/* Where a batch's results go in it; NULL: it is none of the two. */
static double *varlen_column(struct varlen *table, const struct batch *b)
{
    double *column = strcmp(b->name, "4x8192") == 0          ? table->packed
                     : strcmp(b->name, "4x8192 padded") == 0 ? table->padded
                                                             : NULL;
    return b->d == 128 && b->dv == 128 ? column : NULL;
}

static void print_varlen(const struct varlen *table)
{
    for (int score = 0; score < SCORES; score++) {
        if (table->padded[score] > 0 && table->packed[score] > 0) {
            printf("varlen, 4x8192 d128 %-14s %7.1f TFLOP/s  padded %7.1f  slower by %+.1f %%\n",
                   workload_score_names[score], table->packed[score], table->padded[score],
                   100 * (table->padded[score] / table->packed[score] - 1));
        }
    }
}

static void bench(const struct options *o, struct attn_context *context, double gemm)
{
    int count;
    const struct batch *batches = workload_batches(&count);
    struct varlen varlen = {0};
    for (int i = 0; i < count; i++) {
        const struct batch *b = &batches[i];
        double *column = varlen_column(&varlen, b);
        static struct work w;
        if (o->only && !strstr(b->name, o->only)) {
            continue;
        }
        if (!workload_read(&w, b, o->lens)) {
            fprintf(stderr, "bench_attn: no lengths for %s (--lens FOLDER)\n", b->name);
            continue;
        }
        struct attn_set set = workload_open_set(b, w.tokens);
        for (int score = 0; score < SCORES; score++) {
            double tflops = measure(o, context, b, &w, &set, score, gemm);
            if (column) {
                column[score] = tflops;
            }
        }
        workload_close_set(&set);
    }
    print_varlen(&varlen);
}

static struct options parse(int argc, char **argv)
{
    struct options o = {.lens = "tests/bench/lens", .pause_ms = 300};
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--lens") == 0) {
            o.lens = argv[i + 1];
        } else if (strcmp(argv[i], "--only") == 0) {
            o.only = argv[i + 1];
        } else if (strcmp(argv[i], "--pause") == 0) {
            o.pause_ms = atoi(argv[i + 1]);
        } else if (strcmp(argv[i], "--json") == 0) {
            o.json = fopen(argv[i + 1], "w");
        }
    }
    return o;
}

int main(int argc, char **argv)
{
    struct options o = parse(argc, argv);
    struct cudaDeviceProp device;
    struct attn_context *context =
        attn_cuda_arch() == ATTN_CPU ? NULL : attn_cuda_open(NULL, PLAN_BYTES);
    if (!context || cudaGetDeviceProperties(&device, 0) != cudaSuccess) {
        fprintf(stderr, "bench_attn: no GPU with kernels of its own here\n");
        return 77;
    }
    double gemm = measure_gemm();
    time_t now = time(NULL);
    char date[32];
    strftime(date, sizeof date, "%Y-%m-%d %H:%M UTC", gmtime(&now));
    printf("%s, %s, gemm 8192^3 %.1f TFLOP/s\n", device.name, date, gemm);
    if (o.json) {
        fprintf(o.json,
                "{\"gpu\": \"%s\", \"date\": \"%s\", \"gemm8192_tflops\": %.1f, \"rows\": [\n",
                device.name, date, gemm);
    }
    bench(&o, context, gemm);
    if (o.json) {
        fprintf(o.json, "\n]}\n");
        fclose(o.json);
    }
    attn_cuda_close(context);
    return EXIT_SUCCESS;
}
