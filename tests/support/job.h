/*
 * job.h: a random request with the answer that the kernel gives in this process. The daemon's
 * answer must be the same bits: what a request is batched with, and how it is cut, changes none.
 */
#ifndef TESTS_JOB_H
#define TESTS_JOB_H

#include "client/faserve.h"
#include "tests/support/random.h"

struct job {
    struct fas_request request;
    int32_t *cu_q, *cu_k;
    void *tensors[FAS_TENSOR_COUNT], *expected[FAS_TENSOR_COUNT];
    uint32_t placed; /* bit set: those that lie in memory of the test's */
};

struct job_shape {
    enum fas_dtype dtype;
    int32_t hq, hkv, d, dv;
    int32_t sequences, len_max;
    bool causal, sink;
};

/* A forward: inputs, lengths of 0 to len_max, the answer. Outputs are poisoned. */
void job_forward(struct job *job, const struct job_shape *shape, struct random *random);

/* The backward of a forward that has its answer. */
void job_backward(struct job *job, const struct job *forward, struct random *random);

/* Moves a bit set of its tensors (all, but for those it has not) to `memory`, at multiples of 64
 * bytes; returns the end. */
uint8_t *job_place(struct job *job, uint32_t tensors, uint8_t *memory);

/* Every output is the answer, bit for bit. */
bool job_right(const struct job *job);

/* Poisons the outputs again. */
void job_reset(struct job *job);
void job_close(struct job *job);

#endif
