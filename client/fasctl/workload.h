/*
 * workload.h: a request to repeat: its shape from a few words, and buffers full of seeded numbers.
 */
#ifndef FASCTL_WORKLOAD_H
#define FASCTL_WORKLOAD_H

#include <stdbool.h>

#include "client/faserve.h"

struct shape {
    enum fas_pass pass;
    enum fas_dtype dtype;
    int32_t hq, hkv, d, dv, batch;
    bool causal;
    const int32_t *lengths; /* tokens of each sequence, on both sides */
    /* Bulk: rows that travel but are not used, so that moving bytes is all there is to do. */
    int32_t idle_q_rows, idle_k_rows;
};

struct workload {
    struct fas_request request;
    uint64_t bytes_in, bytes_out; /* tensors, as they travel */
    int64_t tokens;
    int32_t *cu_seqlens;
    int32_t used[2]; /* seqused of a bulk request */
    struct fas_client *client;
    void *memory; /* of all tensors: fas_alloc's */
};

/* "512,512,2048" or "64x512" (64 sequences of 512) -> lengths; false: not understood. */
bool lengths_parse(const char *text, int32_t **lengths, int32_t *batch);

/* Tensors in memory of that place, to be closed before the client is. Not FAS_OK: error says why. A
 * backward's o and lse are not those of its q, k, v: timing only. */
enum fas_status workload_open(struct workload *workload, const struct shape *shape,
                              struct fas_client *client, enum fas_place place,
                              struct fas_error *error);
void workload_close(struct workload *workload);

#endif
