/*
 * common/backward: what a backward kernel is given, on every arch (cuda/backward fills it in), and
 * how its roles go through the tiles of a list and the steps of a tile.
 */
#ifndef COMMON_BACKWARD_CUH
#define COMMON_BACKWARD_CUH

#include "common/mask.cuh"
#include "common/ring.cuh"
#include "common/tile.cuh"
#include "common/turn.cuh"
#include "gpu/bulk.cuh"
#include "gpu/fence.cuh"
#include "gpu/global.cuh"
#include "gpu/index.cuh"
#include "gpu/math.cuh"
#include "gpu/tensor_map.cuh"

namespace attn
{

/* Tensors of one request. Maps are ragged (gpu/tensor_shape); their boxes are one panel wide. */
struct backward_set {
    gpu::tensor_map q, k, v, dout, dq, dk, dv;
};

/* Scratch of a launch. A unit is one block of queries of one q head: (stripe * hq + head). */
struct backward_scratch {
    float *statistics; /* per unit: M of lse * log2(e), then M of delta */
    float *dq;         /* per unit: M x D sums */
    float *dsink;      /* per unit */
    int32_t *turns;    /* per unit: how often a share has been added (see await_turn) */
};

struct backward_params {
    backward_set first;       /* set 0 */
    const backward_set *more; /* sets 1 and up */
    const plan_tile *tiles;   /* tile_count of them, then an end mark for each CTA */
    const plan_stripe *stripes;
    const int32_t *loose; /* stripes whose sums the postprocess makes the result of */
    int32_t *counter;     /* 0 before and after a launch */
    int32_t tile_count;
    int32_t hq, group; /* q heads in all, and per kv head */
    int32_t d, dv;     /* columns that the tensors have */
    mask_reach reach;
    turn_order order;
    backward_scratch scratch;
    float scale_log2; /* of the scores, after the softcap if there is one */
    float cap_inner;  /* softmax scale / softcap */
    float scale;      /* of dQ and dK */
};

GPU_INLINE const backward_set *backward_set_of(const backward_params &p, int32_t set)
{
    return set == 0 ? &p.first : p.more + (set - 1);
}

/* Queries that key `key` of the sequence sees, relative to block m of M queries. */
template <int M>
GPU_INLINE key_range queries_of(const backward_params &p, uint32_t tile, int32_t key, int32_t m)
{
    int32_t k_len = tile_read_k(tile).len;
    int32_t diagonal = key + tile_read_q(tile).len - k_len - m * M;
    if (key >= k_len) {
        return {0, 0};
    }
    return {diagonal - p.reach.right, diagonal + p.reach.left + 1};
}

/*
 * One score to its probability. On return x is what dP - delta is multiplied with: the probability,
 * with a softcap times the slope of the cap.
 */
template <bool SOFTCAP>
GPU_INLINE float probability(float &x, const backward_params &p, float lse)
{
    if constexpr (SOFTCAP) {
        float capped = gpu::tanh_approx(x * p.cap_inner);
        float y = gpu::exp2_approx(gpu::fma_f32(capped, p.scale_log2, -lse));
        y = x == -gpu::infinity() ? 0.0f : y; /* masked: the cap would make it finite */
        x = y * gpu::fma_f32(-capped, capped, 1.0f);
        return y;
    } else {
        x = gpu::exp2_approx(gpu::fma_f32(x, p.scale_log2, -lse));
        return x;
    }
}

/* ---- who draws tiles: one thread ---- */

/*
 * When the next tile is drawn. Too early, and it waits behind this one while tiles after it wait
 * for its shares of dQ: when the last loads of this tile are issued, two steps before its end. In
 * the cyclic order a tile may even wait for neighbours that are drawn after it, so none of them may
 * be held back at all: when all turns of this one have come.
 */
template <class C>
GPU_INLINE bool draws_late(const backward_params &p)
{
    return C::DETERMINISTIC && p.order == turn_order::cyclic;
}

/* Does the kernel have tiles that wait for other CTAs' shares of dQ? */
template <class C>
GPU_BOTH bool waits_for_others()
{
    return C::DETERMINISTIC || C::ORDERS;
}

/*
 * The next number of the list. Where tiles wait for others it counts from 0: there a CTA that runs
 * before others are resident must not pass over the tiles that they would begin with, which its own
 * wait for. Otherwise the first round is by CTA number, and the counter goes on from there.
 */
template <class C>
GPU_INLINE int32_t draw(const backward_params &p)
{
    return (waits_for_others<C>() ? 0 : gpu::grid_x()) + gpu::atomic_add(p.counter, 1);
}

template <class C>
GPU_INLINE int32_t first_draw(const backward_params &p)
{
    return waits_for_others<C>() ? draw<C>(p) : gpu::block_x();
}

/* Whoever draws last in a launch leaves the counter as it was. */
template <class C>
GPU_INLINE void end_draws(const backward_params &p, int32_t number)
{
    if (number == p.tile_count + gpu::grid_x() - 1) {
        gpu::global_store(p.counter, 0);
    }
}

/* The record of a tile, or an end mark, to its slot, which is free. S: where the kernel has TILES
 * and TILE_RING in shared memory. */
template <class C, class S>
GPU_INLINE void fetch_record(const backward_params &p, uint32_t smem, uint32_t use, int32_t number)
{
    uint32_t full = ring_full<C::TILE_SLOTS>(smem + S::TILE_RING, use);
    gpu::mbarrier_arrive_expect(full, TILE_BYTES);
    gpu::bulk_load(smem + S::TILES + ring_slot<C::TILE_SLOTS>(use) * TILE_BYTES, p.tiles + number,
                   TILE_BYTES, full);
}

/* A thread that does nothing else. S has MAY_DRAW, too. */
template <class C, class S>
GPU_INLINE void draw_all(const backward_params &p, uint32_t smem)
{
    int32_t number = first_draw<C>(p);
    for (uint32_t use = 0;; use++) {
        ring_wait_empty<C::TILE_SLOTS>(smem + S::TILE_RING, use);
        fetch_record<C, S>(p, smem, use, number);
        if (number >= p.tile_count) {
            break;
        }
        gpu::mbarrier_wait(smem + S::MAY_DRAW, use + 1);
        ring_wait_empty<C::TILE_SLOTS>(smem + S::TILE_RING, use + 1);
        number = draw<C>(p);
    }
    end_draws<C>(p, number);
}

/* ---- steps of a tile: blocks of each head in turn ---- */

/* Registers are few where this is kept, so all else is read from the record in each step. */
struct backward_tour {
    int32_t start, m; /* first query block of each head, and the one at hand */
    int32_t head;
};

template <class C>
GPU_INLINE backward_tour tour_start(const backward_params &p, uint32_t tile)
{
    int32_t start = turn_start<C::N>(p.order, tile);
    return {start, start, tile_read_place(tile).head * p.group};
}

GPU_INLINE bool tour_lasts(const backward_params &p, uint32_t tile, const backward_tour &tour)
{
    return tour.head < (tile_read_place(tile).head + 1) * p.group;
}

GPU_INLINE void tour_next(uint32_t tile, backward_tour &tour)
{
    tour.m = turn_after(tile_read_blocks(tile), tour.m);
    tour.head += tour.m == tour.start;
}

/* The unit (see backward_scratch) of the step at hand. */
GPU_INLINE int32_t tour_unit(const backward_params &p, uint32_t tile, const backward_tour &tour)
{
    return (tile_read_k(tile).number + tour.m) * p.hq + tour.head;
}

/*
 * Wait until all key blocks that come before this one have added to the query block at hand.
 * PARTS: how many threads of a CTA add a part of its share each, and pass the turn each. base: what
 * turn_base said.
 */
template <class C, int PARTS>
GPU_INLINE void await_turn(const backward_params &p, uint32_t tile, const backward_tour &tour,
                           int32_t base)
{
    int32_t place = turn_place<C::M, C::N>(p.order, p.reach, base, tour.start, tile, tour.m);
    gpu::flag_wait(p.scratch.turns + tour_unit(p, tile, tour), place * PARTS);
    gpu::fence_async_global();
}

GPU_INLINE void pass_turn(const backward_params &p, int32_t unit)
{
    gpu::bulk_wait<0>();
    gpu::fence_async_global();
    gpu::flag_add(p.scratch.turns + unit, 1);
}

GPU_INLINE void pass_turn(const backward_params &p, uint32_t tile, const backward_tour &tour)
{
    pass_turn(p, tour_unit(p, tile, tour));
}

} // namespace attn

#endif
