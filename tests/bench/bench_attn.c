/*
 * bench_attn: how fast the GPU rows are, beside what the same machine's cuBLAS does and beside
 * flash-attention 3's best recorded number on an H200 (2026-11-22, same protocol).
 *
 * usage: bench_attn [--lens FOLDER] [--only TEXT] [--pause MS] [--json FILE]
 * Protocol: bf16, N(0,1)-like inputs, scale 1/sqrt(d), CUDA events, 5 warm-ups, median of 20. FLOPs
 * by the field's rule (attn_flops), half for causal. Each case follows a pause, because a GPU at
 * its power limit lowers its clock by up to a fifth in the course of a long run; the 8192^3 GEMM is
 * measured under the same rule, and the ratio to it is what travels between machines.
 */
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/attn_cuda.h"

enum { WARM_UPS = 5, RUNS = 20, SEQUENCES_MAX = 1024, GEMM = 8192, PLAN_BYTES = 64 << 20 };
enum { SCORES = 6, NO_RECORD = 0 };

struct options {
    const char *lens, *only;
    int pause_ms;
    FILE *json;
};

/*
 * fa3: forward full, causal; backward full, causal; deterministic full, causal (TFLOP/s). Where
 * flash-attention 3 has none: 192/128, cuDNN's; d 256 deterministic, 0.85 of its backward.
 */
struct batch {
    const char *name;
    int copies, length; /* 0 copies: lengths from the file of that name */
    int hq, hkv, d, dv;
    int fa3[SCORES];
};

/* Padded and packed batches are the same launch here: its sequences say where rows lie. */
static const struct batch batches[] = {
    {"4x8192", 4, 8192, 16, 16, 128, 128, {635, 680, 589, 568, 542, 486}},
    {"4x8192 padded", 4, 8192, 16, 16, 128, 128, {735, 731, 592, 564, 543, 460}},
    {"mixed64", 0, 0, 16, 16, 128, 128, {601, 562, 568, 506, 488, 450}},
    {"mixed64", 0, 0, 32, 8, 128, 128, {595, 566, 548, 490, 485, 430}},
    {"docs_lognormal", 0, 0, 16, 16, 128, 128, {630, 626, 539, 458, 469, 417}},
    {"docs_lognormal", 0, 0, 32, 8, 128, 128, {556, 565, 518, 428, 451, 397}},
    {"one_long", 0, 0, 16, 16, 128, 128, {663, 652, 558, 499, 512, 448}},
    {"short1024", 0, 0, 16, 16, 128, 128, {317, 206, 254, 146, 222, 134}},
    {"short1024", 0, 0, 32, 8, 128, 128, {313, 215, 202, 111, 168, 94}},
    {"1x32768", 1, 32768, 16, 16, 128, 128, {663, 609, 585, 587, 557, 525}},
    {"16x2048", 16, 2048, 16, 16, 128, 128, {667, 568, 557, 460, 438, 375}},
    {"32x1024", 32, 1024, 16, 16, 128, 128, {541, 440, 487, 356, 385, 295}},
    {"64x512", 64, 512, 16, 16, 128, 128, {456, 322, 357, 228, 307, 202}},
    {"128x256", 128, 256, 16, 16, 128, 128, {302, 213, 223, 134, 201, 124}},
    {"4x8192", 4, 8192, 16, 16, 64, 64, {576, 535, 530, 518, 444, 503}},
    {"4x8192", 4, 8192, 8, 8, 256, 256, {746, 628, 480, NO_RECORD, 408, NO_RECORD}},
    {"4x8192", 4, 8192, 16, 16, 192, 128, {NO_RECORD, 643, NO_RECORD, NO_RECORD, NO_RECORD, 442}},
};

struct work {
    struct attn_sequence sequences[SEQUENCES_MAX];
    int count;
    int64_t tokens;
};

static void must(cudaError_t error)
{
    if (error != cudaSuccess) {
        fprintf(stderr, "bench_attn: %s\n", cudaGetErrorString(error));
        exit(EXIT_FAILURE);
    }
}

static void rest(int ms)
{
    struct timespec t = {ms / 1000, ms % 1000 * 1000000L};
    nanosleep(&t, NULL);
}

static void add_sequence(struct work *w, int length)
{
    if (w->count < SEQUENCES_MAX) {
        w->sequences[w->count] = (struct attn_sequence){.index = w->count,
                                                        .q_first = w->tokens,
                                                        .k_first = w->tokens,
                                                        .q_len = length,
                                                        .k_len = length,
                                                        .q_span = length,
                                                        .k_span = length};
        w->count++;
        w->tokens += length;
    }
}

static bool read_lengths(struct work *w, const struct batch *b, const char *folder)
{
    char path[512];
    *w = (struct work){0};
    for (int i = 0; i < b->copies; i++) {
        add_sequence(w, b->length);
    }
    if (b->copies > 0) {
        return true;
    }
    snprintf(path, sizeof path, "%s/%s.txt", folder, b->name);
    FILE *file = fopen(path, "r");
    int length;
    while (file && fscanf(file, "%d", &length) == 1) {
        add_sequence(w, length);
    }
    if (file) {
        fclose(file);
    }
    return w->count > 0;
}

/* Sums of twelve uniform numbers: N(0, 1) but for the far tails. A block of them is repeated. */
static void *random_tensor(size_t elements, unsigned seed)
{
    enum { BLOCK = 1 << 20 };
    static uint16_t block[BLOCK];
    for (int i = 0; i < BLOCK; i++) {
        float sum = -6;
        for (int k = 0; k < 12; k++) {
            seed = seed * 1664525u + 1013904223u;
            sum += (float)(seed >> 8) * 0x1p-24f;
        }
        uint32_t bits;
        memcpy(&bits, &sum, sizeof bits);
        block[i] = (uint16_t)((bits + 0x8000u) >> 16);
    }
    unsigned char *there;
    must(cudaMalloc((void **)&there, elements * 2));
    for (size_t at = 0; at < elements; at += BLOCK) {
        size_t part = elements - at < BLOCK ? elements - at : BLOCK;
        must(cudaMemcpy(there + at * 2, block, part * 2, cudaMemcpyHostToDevice));
    }
    return there;
}

static int compare_floats(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* Median milliseconds of one call. */
static double time_calls(void (*call)(void *argument), void *argument)
{
    float ms[RUNS];
    cudaEvent_t start, end;
    must(cudaEventCreate(&start));
    must(cudaEventCreate(&end));
    for (int i = -WARM_UPS; i < RUNS; i++) {
        must(cudaEventRecord(start, NULL));
        call(argument);
        must(cudaEventRecord(end, NULL));
        must(cudaEventSynchronize(end));
        must(cudaEventElapsedTime(&ms[i < 0 ? 0 : i], start, end));
    }
    must(cudaEventDestroy(start));
    must(cudaEventDestroy(end));
    qsort(ms, RUNS, sizeof ms[0], compare_floats);
    return ms[RUNS / 2];
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
    g.a = random_tensor((size_t)GEMM * GEMM, 1);
    g.b = random_tensor((size_t)GEMM * GEMM, 2);
    must(cudaMalloc(&g.c, (size_t)GEMM * GEMM * 2));
    double ms = time_calls(run_gemm, &g);
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

static struct attn_tensor open_tensor(int64_t tokens, int heads, int d, unsigned seed)
{
    return (struct attn_tensor){random_tensor((size_t)(tokens * heads * d), seed),
                                (int64_t)heads * d * 2, d * 2};
}

/* o, lse, do and the gradients too: a backward needs them all. */
static struct attn_set open_set(const struct batch *b, int64_t tokens)
{
    void *lse;
    must(cudaMalloc(&lse, (size_t)(tokens * b->hq) * 4));
    return (struct attn_set){
        .q = open_tensor(tokens, b->hq, b->d, 1),
        .k = open_tensor(tokens, b->hkv, b->d, 2),
        .v = open_tensor(tokens, b->hkv, b->dv, 3),
        .o = open_tensor(tokens, b->hq, b->dv, 4),
        .do_ = open_tensor(tokens, b->hq, b->dv, 5),
        .dq = open_tensor(tokens, b->hq, b->d, 6),
        .dk = open_tensor(tokens, b->hkv, b->d, 7),
        .dv = open_tensor(tokens, b->hkv, b->dv, 8),
        .lse = {lse, 4, 4 * tokens},
    };
}

static void close_set(struct attn_set *s)
{
    void *all[] = {s->q.data,  s->k.data,  s->v.data,  s->o.data,  s->do_.data,
                   s->dq.data, s->dk.data, s->dv.data, s->lse.data};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        must(cudaFree(all[i]));
    }
}

static const char *const score_names[SCORES] = {"fwd full",   "fwd causal",   "bwd full",
                                                "bwd causal", "bwd det full", "bwd det causal"};

static struct attn_shape shape_of_score(const struct batch *b, int score)
{
    return (struct attn_shape){
        .pass = score < 2 ? ATTN_FORWARD : ATTN_BACKWARD,
        .dtype = ATTN_BF16,
        .hq = b->hq,
        .hkv = b->hkv,
        .d = b->d,
        .dv = b->dv,
        .mask = {.has_right = score % 2 == 1},
        .softmax_scale = 1.0f / sqrtf((float)b->d),
        .deterministic = score >= 4,
    };
}

/* By the records' rule: 2 h (d + dv) sum(s^2), half of it if causal, 2.5 times it backward. */
static double flops_of(const struct batch *b, const struct work *w, int score)
{
    double sum = 0;
    for (int i = 0; i < w->count; i++) {
        sum += (double)w->sequences[i].q_len * w->sequences[i].k_len;
    }
    return 2.0 * b->hq * (b->d + b->dv) * sum * (score % 2 ? 0.5 : 1) * (score < 2 ? 1 : 2.5);
}

static void report(const struct options *o, const struct batch *b, int score, double tflops,
                   double ms, double gemm)
{
    static bool first = true;
    int fa3 = b->fa3[score];
    printf("%-15s %2d/%-2d d%d/%-3d %-14s %7.1f TFLOP/s %8.4f ms  gemm %.3f  fa3 %d (%.3f)\n",
           b->name, b->hq, b->hkv, b->d, b->dv, score_names[score], tflops, ms,
           gemm > 0 ? tflops / gemm : 0, fa3, fa3 > 0 ? tflops / fa3 : 0);
    fflush(stdout);
    if (o->json) {
        fprintf(o->json,
                "%s  {\"batch\": \"%s\", \"hq\": %d, \"hkv\": %d, \"d\": %d, \"dv\": %d, \"pass\": "
                "\"%s\", "
                "\"tflops\": %.1f, \"ms\": %.4f, \"fa3\": %d}",
                first ? "" : ",\n", b->name, b->hq, b->hkv, b->d, b->dv, score_names[score], tflops,
                ms, fa3);
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

static void measure(const struct options *o, struct attn_context *context, const struct batch *b,
                    const struct work *w, struct attn_set *set, int score, double gemm)
{
    struct attention a = {.context = context};
    const char *reason;
    a.launch.shape = shape_of_score(b, score);
    a.launch.sets = set;
    a.launch.sequences = w->sequences;
    a.launch.set_count = 1;
    a.launch.sequence_count = w->count;
    a.row = attn_select(attn_cuda_arch(), &a.launch.shape, &reason);
    if (!a.row) {
        return;
    }
    a.launch.scratch_bytes = a.row->scratch_bytes(&a.launch);
    must(cudaMalloc(&a.launch.scratch, a.launch.scratch_bytes + 1));
    if (score >= 2) {
        run_forward(context, &a.launch);
    }
    rest(o->pause_ms);
    double ms = time_calls(run_attention, &a);
    must(cudaFree(a.launch.scratch));
    report(o, b, score, flops_of(b, w, score) / ms * 1e-9, ms, gemm);
}

static void bench(const struct options *o, struct attn_context *context, double gemm)
{
    for (size_t i = 0; i < sizeof batches / sizeof batches[0]; i++) {
        const struct batch *b = &batches[i];
        static struct work w;
        if (o->only && !strstr(b->name, o->only)) {
            continue;
        }
        if (!read_lengths(&w, b, o->lens)) {
            fprintf(stderr, "bench_attn: no lengths for %s (--lens FOLDER)\n", b->name);
            continue;
        }
        struct attn_set set = open_set(b, w.tokens);
        for (int score = 0; score < SCORES; score++) {
            measure(o, context, b, &w, &set, score, gemm);
        }
        close_set(&set);
    }
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
