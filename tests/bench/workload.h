/*
 * workload: the batches that kernels are timed on, with data on the GPU, and the clock.
 *
 * Protocol: bf16, N(0,1)-like inputs, scale 1/sqrt(d), CUDA events, 5 warm-ups, a median. FLOPs by
 * the field's rule, half for causal. All functions end the program when CUDA fails.
 */
#ifndef BENCH_WORKLOAD_H
#define BENCH_WORKLOAD_H

#include <stdbool.h>

#include "kernels/attn.h"

enum { WORKLOAD_SEQUENCES_MAX = 1024, WORKLOAD_RUNS_MAX = 100 };

/* What is timed of each batch: forward full, causal; backward the same; deterministic the same. */
enum { SCORES = 6 };
extern const char *const workload_score_names[SCORES];

/* flash-attention 3's best recorded TFLOP/s of each score; 0: none. */
struct batch {
    const char *name;
    int copies, length; /* 0 copies: lengths from the file of that name */
    int hq, hkv, d, dv;
    int fa3[SCORES];
};

const struct batch *workload_batches(int *count);

struct work {
    struct attn_sequence sequences[WORKLOAD_SEQUENCES_MAX];
    int count;
    int64_t tokens;
};

/* False: there is no file of lengths. */
bool workload_read(struct work *work, const struct batch *batch, const char *folder);

/* elements of bf16 on the GPU, by seed. */
void *workload_random(size_t elements, unsigned seed);

/* All tensors of both passes, packed; results hold random numbers, too. */
struct attn_set workload_open_set(const struct batch *batch, int64_t tokens);
void workload_close_set(struct attn_set *set);

struct attn_shape workload_shape(const struct batch *batch, int score);

/* By the records' rule: 2 h (d + dv) sum(s^2), half of it if causal, 2.5 times it backward. */
double workload_flops(const struct batch *batch, const struct work *work, int score);

/* Median milliseconds of one of `runs` calls, on the default stream. */
double workload_time(void (*call)(void *argument), void *argument, int runs);

void workload_rest(int ms);

#endif
