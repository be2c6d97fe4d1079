/*
 * cuda/context: what launches on one stream share: the tile lists they use again, memory for what a
 * launch must bring along, and the tile counter. Owner: the thread that launches.
 *
 * Lists live in a ring of device memory with a pinned twin of the same size on the host, from which
 * they are copied; the newest allocation overwrites the oldest lists. Copies go through a stream of
 * their own, so that what the next launch brings along arrives under the kernel before it (in one
 * stream a copy stands between two kernels: 5 to 10 us without work); the launch waits for its
 * copies alone. Overwriting is safe because the stream of kernels is drained each time the ring
 * wraps, and when the ring comes to lists that were used since.
 */
#ifndef CUDA_CONTEXT_CUH
#define CUDA_CONTEXT_CUH

#include <cuda_runtime_api.h>

#include "kernels/attn_cuda.h"
#include "kernels/plan.h"

/* One plan on the device, or of a launch in parts one part of it: its tiles; fills come with the
 * first, stripes with all. */
struct cuda_plan {
    const plan_tile *tiles; /* tile_count, then end marks: records of rows == 0 */
    const plan_fill *fills;
    const plan_stripe *stripes; /* backward */
    const int32_t *loose;       /* see plan_stripes */
    int32_t tile_count, fill_count, stripe_count, loose_count;
};

/* A piece of the ring. */
struct cuda_piece {
    uint8_t *host, *device;
    size_t bytes;
};

struct cuda_plan_entry {
    plan_shape shape;
    attn_sequence *sequences; /* a copy, owned */
    int32_t sequence_count;
    uint64_t hash;
    size_t first, last; /* bytes of the ring */
    int64_t round;      /* of the ring: when it was last used */
    int32_t parts;
    int64_t *cuts; /* parts + 1, owned; end marks follow each part */
    cuda_plan plan;
};

/* A model has a handful of masks and passes per batch; more only cost the search. */
enum { CUDA_PLANS = 32 };

struct attn_context {
    cudaStream_t stream, copies;
    cudaEvent_t copied;
    int32_t sms, cta_limit;
    int32_t *counters; /* device, 0 between launches */
    bool first_runs;   /* of two kernels that share this launch the first was started */
    cuda_piece ring;
    size_t ring_head;
    int64_t round; /* how often it wrapped */
    cuda_plan_entry plans[CUDA_PLANS];
    int32_t next_plan; /* the entry that is overwritten next */
};

/* The lists for this launch, made or found. False: they do not fit, or a copy failed. */
bool cuda_plan_take(attn_context *context, const plan_shape *shape, const attn_launch *launch,
                    cuda_plan *plan);

/* Bytes of the ring for this launch only; valid until the next take. host NULL: too large. */
cuda_piece cuda_piece_take(attn_context *context, size_t bytes);

/* Copy a piece to the device: kernels launched after this see it. */
bool cuda_piece_send(attn_context *context, const cuda_piece *piece);

/* Can ragged maps and 32-bit rows address the launch? */
bool cuda_launch_fits(const attn_launch *launch);

/* CTAs of a persistent launch over this many tiles. */
int32_t cuda_ctas(const attn_context *context, int32_t tiles);

#endif
