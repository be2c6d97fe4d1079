/*
 * attn_cuda.h: contexts on an NVIDIA GPU, for the rows of ATTN_SM90 and ATTN_SM100.
 *
 * A context wraps one stream of the device that is current when it is opened. A launch writes its
 * tile lists into the context's own memory and returns before the work is done; lists are kept, so
 * that the layers of a model, which share lengths and mask, pay for a plan once. Launches of one
 * context run one after the other.
 */
#ifndef ATTN_CUDA_H
#define ATTN_CUDA_H

#include "kernels/attn.h"

#ifdef __cplusplus
extern "C" {
#endif

/*
 * SMs that a device must have. Tiles of a deterministic backward without right edge may wait for
 * their neighbours in a group of 64 (PLAN_GROUP of plan.h), a CTA each: with fewer at once they
 * might wait for ever. A MIG slice of three sevenths of an H200 has 60.
 */
#define ATTN_CUDA_SMS_MIN 64

/*
 * stream: a cudaStream_t (NULL: the default stream), not owned. plan_bytes: device memory and
 * pinned host memory for tile lists, 64 bytes per tile of 128 rows and head: a launch whose lists
 * need more fails. NULL without a usable device or memory. Whether it has SMs enough
 * (ATTN_CUDA_SMS_MIN) is the caller's to ask: the simulator has three, and lists for these.
 */
struct attn_context *attn_cuda_open(void *stream, size_t plan_bytes);

/* Waits for the stream. */
void attn_cuda_close(struct attn_context *context);

/* How many CTAs launches use at most, of a backward ATTN_CUDA_SMS_MIN or more; 0: one for each SM.
 * For tests and for sharing a GPU. */
void attn_cuda_limit(struct attn_context *context, int32_t ctas);

/* attn_sum_dsink for each of `count` requests, behind the launches before it; sums is read at once.
 */
enum attn_status attn_cuda_sum_dsink(struct attn_context *context,
                                     const struct attn_dsink_sum *sums, int32_t count);

/* The arch whose rows the current device runs; ATTN_CPU if none does. */
enum attn_arch attn_cuda_arch(void);

#ifdef __cplusplus
}
#endif

#endif
