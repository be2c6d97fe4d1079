/*
 * cuda/context: what launches on one stream share: the tile lists they use again, memory for what a
 * launch must bring along, and the tile counter. Owner: the thread that launches.
 *
 * Lists live in a ring of device memory with a pinned twin of the same size on the host, from which
 * they are copied; the newest allocation overwrites the oldest lists. Copies go through a stream of
 * their own, so that what the next launch brings along arrives under the kernel before it (in one
 * stream a copy stands between two kernels: 5 to 10 us without work); the launch waits for its
 * copies alone. Overwriting is safe because the stream of kernels is drained each time the ring
 * wraps, when the ring comes to lists that were used since, and when such lists, still ahead of it,
 * are forgotten for newer ones. From one such time to the next is a round.
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
    int64_t round;      /* when it was last used */
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
    int64_t round;
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

/*
 * A piece, and the lists that take_lists() takes, all there at once. Lists may be taken where the
 * piece or other lists lie, when the ring wraps or comes to lists that were found ahead of it: a
 * round ends then, and all is taken again. Two lists that fit the ring with the piece are there
 * with the third try at the latest.
 */
template <typename TAKE>
bool cuda_take_together(attn_context *context, size_t bytes, cuda_piece *piece,
                        const TAKE &take_lists)
{
    constexpr int TRIES = 3;
    for (int tries = 0; tries < TRIES; tries++) {
        *piece = cuda_piece_take(context, bytes);
        int64_t round = context->round;
        if (piece->host == nullptr || !take_lists()) {
            return false;
        }
        if (context->round == round) {
            return true;
        }
    }
    return false;
}

/* Can ragged maps and 32-bit rows address the launch? */
bool cuda_launch_fits(const attn_launch *launch);

/* CTAs of a persistent launch over this many tiles. */
int32_t cuda_ctas(const attn_context *context, int32_t tiles);

#endif
