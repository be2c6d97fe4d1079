/*
 * workload.c: see workload.h.
 */
#include "tests/bench/workload.h"

#include <cuda_runtime_api.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { WARM_UPS = 5, NO_RECORD = 0 };

const char *const workload_score_names[SCORES] = {"fwd full",   "fwd causal",   "bwd full",
                                                  "bwd causal", "bwd det full", "bwd det causal"};

/*
 * fa3: flash-attention 3 on an H200, 2026-11-22, same protocol. Where it has none: 192/128,
 * cuDNN's; d 256 deterministic, 0.85 of its backward.
 */
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

const struct batch *workload_batches(int *count)
{
    *count = sizeof batches / sizeof batches[0];
    return batches;
}

static void must(cudaError_t error)
{
    if (error != cudaSuccess) {
        fprintf(stderr, "bench: %s\n", cudaGetErrorString(error));
        exit(EXIT_FAILURE);
    }
}

void workload_rest(int ms)
{
    struct timespec t = {ms / 1000, ms % 1000 * 1000000L};
    nanosleep(&t, NULL);
}

static void add_sequence(struct work *w, int length)
{
    if (w->count < WORKLOAD_SEQUENCES_MAX) {
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

bool workload_read(struct work *w, const struct batch *b, const char *folder)
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
void *workload_random(size_t elements, unsigned seed)
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

double workload_time(void (*call)(void *argument), void *argument, int runs)
{
    float ms[WORKLOAD_RUNS_MAX];
    cudaEvent_t start, end;
    must(cudaEventCreate(&start));
    must(cudaEventCreate(&end));
    for (int i = -WARM_UPS; i < runs; i++) {
        must(cudaEventRecord(start, NULL));
        call(argument);
        must(cudaEventRecord(end, NULL));
        must(cudaEventSynchronize(end));
        must(cudaEventElapsedTime(&ms[i < 0 ? 0 : i], start, end));
    }
    must(cudaEventDestroy(start));
    must(cudaEventDestroy(end));
    qsort(ms, (size_t)runs, sizeof ms[0], compare_floats);
    return ms[runs / 2];
}

static struct attn_tensor open_tensor(int64_t tokens, int heads, int d, unsigned seed)
{
    return (struct attn_tensor){workload_random((size_t)(tokens * heads * d), seed),
                                (int64_t)heads * d * 2, d * 2};
}

/* o, lse, do and the gradients too: a backward needs them all. */
struct attn_set workload_open_set(const struct batch *b, int64_t tokens)
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

void workload_close_set(struct attn_set *s)
{
    void *all[] = {s->q.data,  s->k.data,  s->v.data,  s->o.data,  s->do_.data,
                   s->dq.data, s->dk.data, s->dv.data, s->lse.data};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        must(cudaFree(all[i]));
    }
}

struct attn_shape workload_shape(const struct batch *b, int score)
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

double workload_flops(const struct batch *b, const struct work *w, int score)
{
    double sum = 0;
    for (int i = 0; i < w->count; i++) {
        sum += (double)w->sequences[i].q_len * w->sequences[i].k_len;
    }
    return 2.0 * b->hq * (b->d + b->dv) * sum * (score % 2 ? 0.5 : 1) * (score < 2 ? 1 : 2.5);
}
