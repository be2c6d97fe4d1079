/*
 * sm90/bwd_data: of sm90/bwd, and in parts of the other backward kernels: the plan of shared
 * memory, the threads of warpgroup 0, which move data, and the way of results out of registers. C
 * is the kernel's config, S its plan of shared memory. Tensors may be narrower than the kernel:
 * panels that lie wholly outside them are neither loaded nor stored (on an H200 such a load is an
 * illegal address) and hold zeros.
 */
#ifndef SM90_BWD_DATA_CUH
#define SM90_BWD_DATA_CUH

#include "common/backward.cuh"
#include "common/mask.cuh"
#include "common/ring.cuh"
#include "common/softmax.cuh"
#include "common/tile.cuh"
#include "common/turn.cuh"
#include "gpu/barrier.cuh"
#include "gpu/bulk.cuh"
#include "gpu/fence.cuh"
#include "gpu/global.cuh"
#include "gpu/index.cuh"
#include "gpu/registers.cuh"
#include "gpu/smem.cuh"
#include "gpu/tma.cuh"
#include "sm90/operand.cuh"

namespace sm90
{

using bwd_set = attn::backward_set;
using bwd_params = attn::backward_params;
using attn::tour_lasts;
using attn::tour_next;
using attn::tour_start;
using attn::tour_unit;
using bwd_tour = attn::backward_tour;

constexpr int BWD_WARPGROUP = 128;
constexpr int BWD_CONSUMERS = 2 * BWD_WARPGROUP;
constexpr int BWD_WARPS = 4;      /* of a warpgroup */
constexpr int BWD_WG_ROWS = 64;   /* of an accumulator */
constexpr int BWD_WARP_ROWS = 16; /* of an accumulator that one warp holds */
constexpr uint32_t BWD_WRITERS = 2;
constexpr uint32_t BWD_TILE_READERS = 2 + BWD_WRITERS; /* besides consumers: loaders and writers */

/* A share of dQ travels, and lies in scratch, in pieces of 64 rows x 64 columns of fp32 sums, in
 * the order in which the threads of a warpgroup hold them: 16 bytes of each in turn. The first
 * consumer has the first half of a step's C::DQ_PIECES, rounded up. */
constexpr int BWD_PIECE = BWD_WG_ROWS * PANEL;
constexpr uint32_t BWD_PIECE_BYTES = BWD_PIECE * 4;

/* Consumer wg's piece of a unit's sums, where each has one. */
template <class C>
GPU_INLINE float *bwd_sums(const bwd_params &p, int32_t unit, int wg)
{
    return p.scratch.dq + int64_t{C::M * C::D} * unit + wg * BWD_PIECE;
}

template <class C>
GPU_BOTH int bwd_pieces(int wg)
{
    return C::DQ_PIECES % 2 == 0 ? C::DQ_PIECES / 2 : (C::DQ_PIECES + 1 - wg) / 2;
}

/* This thread's place. */
struct bwd_lane {
    int wg; /* 0 or 1 */
    int lane, warp;
    bool leader; /* of its warp */
};

/* Where in a piece this thread's fragments begin, and how far the next one lies: each warp has a
 * quarter, so that it may put something else in its place. */
constexpr int BWD_FRAGMENT = 32 * 16;

GPU_INLINE uint32_t bwd_place(const bwd_lane &me)
{
    return static_cast<uint32_t>(me.warp) * (BWD_PIECE_BYTES / BWD_WARPS) +
           static_cast<uint32_t>(me.lane) * 16;
}

/* Named barriers. */
enum { DS_WRITTEN = 1, STAGING_FREE = 2 };

template <int SLOTS>
GPU_INLINE void bwd_release(uint32_t ring, uint32_t use, const bwd_lane &me)
{
    if (me.leader) {
        attn::ring_release<SLOTS>(ring, use);
    }
}

/* A warp gives a slot back; no lane is still looking at the round that ends with that. */
template <int SLOTS>
GPU_INLINE void release_together(uint32_t ring, uint32_t use)
{
    gpu::warp_sync();
    if (gpu::elect_one()) {
        attn::ring_release<SLOTS>(ring, use);
    }
}

/* Where things lie in shared memory. */
template <class C>
struct bwd_smem {
    static constexpr uint32_t K = 0;
    static constexpr uint32_t V = K + C::K_BYTES;
    static constexpr uint32_t Q = V + C::V_BYTES;
    static constexpr uint32_t DOUT = Q + C::Q_STAGES * C::Q_BYTES;
    static constexpr uint32_t P = DOUT + C::DOUT_STAGES * C::DOUT_BYTES;
    static constexpr uint32_t DS = P + C::DS_STAGES * C::P_BYTES;
    static constexpr uint32_t DQ = DS + C::DS_STAGES * C::DS_BYTES;
    static constexpr uint32_t LSE = DQ + 2 * C::DQ_SLOTS * BWD_PIECE_BYTES;
    static constexpr uint32_t DELTA = LSE + C::Q_STAGES * C::ROW_BYTES;
    static constexpr uint32_t WAYS = DELTA + C::DOUT_STAGES * C::ROW_BYTES;
    static constexpr uint32_t TILES = WAYS + (C::ORDERS ? 2 * C::DQ_SLOTS * 16 : 0);
    static constexpr uint32_t TILE_RING = TILES + C::TILE_SLOTS * attn::TILE_BYTES;
    static constexpr uint32_t K_RING = TILE_RING + attn::ring_barriers(C::TILE_SLOTS);
    static constexpr uint32_t V_RING = K_RING + attn::ring_barriers(1);
    static constexpr uint32_t Q_RING = V_RING + attn::ring_barriers(1);
    static constexpr uint32_t DOUT_RING = Q_RING + attn::ring_barriers(C::Q_STAGES);
    static constexpr uint32_t DQ_RINGS = DOUT_RING + attn::ring_barriers(C::DOUT_STAGES);
    static constexpr uint32_t DS_RING = DQ_RINGS + 2 * attn::ring_barriers(C::DQ_ROUNDS);
    static constexpr uint32_t MAY_DRAW = DS_RING + attn::ring_barriers(C::DS_STAGES);
    static constexpr uint32_t BYTES = MAY_DRAW + gpu::MBARRIER_BYTES;
    static_assert(BYTES <= gpu::SMEM_BYTES, "one CTA has all of an SM");
};

template <class C, class S = bwd_smem<C>>
GPU_INLINE uint32_t bwd_tile(uint32_t smem, uint32_t use)
{
    return smem + S::TILES + attn::ring_slot<C::TILE_SLOTS>(use) * attn::TILE_BYTES;
}

/*
 * K of a tile may lie where V of the one before did, which is free a step's end before that one's
 * K, and V in the place of that. Not where they have zeros in different panels.
 */
template <class C>
GPU_INLINE bool bwd_swaps(const bwd_params &p)
{
    return C::AHEAD && (p.d + PANEL - 1) / PANEL == (p.dv + PANEL - 1) / PANEL;
}

template <class C>
GPU_INLINE uint32_t bwd_k(const bwd_params &p, uint32_t smem, uint32_t use)
{
    using S = bwd_smem<C>;
    return smem + (bwd_swaps<C>(p) && use % 2 != 0 ? S::V : S::K);
}

template <class C>
GPU_INLINE uint32_t bwd_v(const bwd_params &p, uint32_t smem, uint32_t use)
{
    using S = bwd_smem<C>;
    return smem + (bwd_swaps<C>(p) && use % 2 != 0 ? S::K : S::V);
}

template <class C, class S = bwd_smem<C>>
GPU_INLINE uint32_t bwd_q(uint32_t smem, uint32_t step)
{
    return smem + S::Q + attn::ring_slot<C::Q_STAGES>(step) * C::Q_BYTES;
}

template <class C, class S = bwd_smem<C>>
GPU_INLINE uint32_t bwd_dout(uint32_t smem, uint32_t step)
{
    return smem + S::DOUT + attn::ring_slot<C::DOUT_STAGES>(step) * C::DOUT_BYTES;
}

template <class C>
GPU_INLINE uint32_t bwd_ds(uint32_t smem, uint32_t step)
{
    return smem + bwd_smem<C>::DS + attn::ring_slot<C::DS_STAGES>(step) * C::DS_BYTES;
}

template <class C, class S = bwd_smem<C>>
GPU_INLINE uint32_t bwd_lse(uint32_t smem, uint32_t step)
{
    return smem + S::LSE + attn::ring_slot<C::Q_STAGES>(step) * C::ROW_BYTES;
}

template <class C, class S = bwd_smem<C>>
GPU_INLINE uint32_t bwd_delta(uint32_t smem, uint32_t step)
{
    return smem + S::DELTA + attn::ring_slot<C::DOUT_STAGES>(step) * C::ROW_BYTES;
}

template <class C>
GPU_INLINE uint32_t bwd_dq_ring(uint32_t smem, int wg)
{
    return smem + bwd_smem<C>::DQ_RINGS +
           static_cast<uint32_t>(wg) * attn::ring_barriers(C::DQ_ROUNDS);
}

/* The slot of a use is free: what lay there DQ_SLOTS uses before has left. Where tiles can be
 * ordered a slot is granted for each use. */
template <class C>
GPU_INLINE void bwd_wait_dq(uint32_t smem, int wg, uint32_t use)
{
    attn::ring_wait_empty<C::DQ_ROUNDS>(bwd_dq_ring<C>(smem, wg),
                                        use + C::DQ_ROUNDS - (C::ORDERS ? 0 : C::DQ_SLOTS));
}

constexpr uint32_t WAY_SUM = 1;   /* the slot holds what the tiles before have added up */
constexpr uint32_t WAY_WRITE = 2; /* the last tile: the sum is rounded, and is the result */
constexpr uint32_t WAY_STORE = 4; /* the first tile: nothing is there to add to */
constexpr uint32_t WAY_UNIT = 3;  /* bits below the unit: there is no room for 2^29 of them */

/* What is to be done with this consumer's share in the slot that it was granted; above, its unit.
 */
template <class C>
GPU_INLINE uint32_t bwd_way(uint32_t smem, int wg, uint32_t use)
{
    uint32_t slot = static_cast<uint32_t>(wg * C::DQ_SLOTS) + attn::ring_slot<C::DQ_SLOTS>(use);
    return smem + bwd_smem<C>::WAYS + slot * 16;
}

/* A piece of a consumer's dQ; use: of its ring. A ring has DQ_ROUNDS pairs of barriers, which can
 * be more than it has slots: each writer looks at its own. */
template <class C>
GPU_INLINE uint32_t bwd_dq(uint32_t smem, int wg, uint32_t use)
{
    uint32_t slot = static_cast<uint32_t>(wg * C::DQ_SLOTS) + attn::ring_slot<C::DQ_SLOTS>(use);
    return smem + bwd_smem<C>::DQ + slot * BWD_PIECE_BYTES;
}

/* Zeros where panels of a tile will never be loaded. */
template <class C, int ROWS, int COLUMNS>
GPU_INLINE void bwd_clear(uint32_t tile, int32_t columns)
{
    uint32_t end = tile + tile_bytes(ROWS, COLUMNS);
    uint32_t at =
        tile + tile_bytes(ROWS, columns) + static_cast<uint32_t>(gpu::thread_index()) * 16;
    for (; at < end; at += C::THREADS * 16) {
        gpu::smem_store(at, gpu::u32x4{0, 0, 0, 0});
    }
}

template <class C, class S = bwd_smem<C>>
GPU_INLINE void bwd_clear_all(const bwd_params &p, uint32_t smem)
{
    bwd_clear<C, C::N, C::D>(smem + S::K, p.d);
    bwd_clear<C, C::N, C::DV>(smem + S::V, p.dv);
    for (uint32_t stage = 0; stage < C::Q_STAGES; stage++) {
        bwd_clear<C, C::M, C::D>(bwd_q<C, S>(smem, stage), p.d);
    }
    for (uint32_t stage = 0; stage < C::DOUT_STAGES; stage++) {
        bwd_clear<C, C::M, C::DV>(bwd_dout<C, S>(smem, stage), p.dv);
    }
    gpu::fence_async_smem(); /* zeros that products read */
}

template <class C>
GPU_INLINE void bwd_init(const bwd_params &p, uint32_t smem)
{
    using S = bwd_smem<C>;
    bwd_clear_all<C>(p, smem);
    if (gpu::thread_index() == 0) {
        attn::ring_init<C::TILE_SLOTS>(smem + S::TILE_RING, 1,
                                       C::CONSUMER_WARPS + BWD_TILE_READERS);
        attn::ring_init<1>(smem + S::K_RING, 1, C::CONSUMER_WARPS);
        attn::ring_init<1>(smem + S::V_RING, 1, C::CONSUMER_WARPS);
        attn::ring_init<C::Q_STAGES>(smem + S::Q_RING, 1, C::CONSUMER_WARPS);
        attn::ring_init<C::DOUT_STAGES>(smem + S::DOUT_RING, 1, C::CONSUMER_WARPS);
        attn::ring_init<C::DQ_ROUNDS>(bwd_dq_ring<C>(smem, 0), BWD_WARPS, 1);
        attn::ring_init<C::DQ_ROUNDS>(bwd_dq_ring<C>(smem, 1), BWD_WARPS, 1);
        attn::ring_init<C::DS_STAGES>(smem + S::DS_RING, C::CONSUMER_WARPS, C::CONSUMER_WARPS);
        gpu::mbarrier_init(smem + S::MAY_DRAW, BWD_WRITERS);
        gpu::mbarrier_init_fence();
    }
    gpu::block_sync();
}

/* ---- loaders: one thread each ---- */

/* The rest of the boxes' coordinates is the panel. columns: of the tensor. */
struct bwd_rows {
    const gpu::tensor_map *map;
    int32_t row, head, shift, columns;
};

/* more_bytes: what other copies will add to the same barrier. */
template <int ROWS, int COLUMNS>
GPU_INLINE void bwd_load_rows(const bwd_rows &rows, uint32_t target, uint32_t full,
                              uint32_t more_bytes, gpu::l2 hint)
{
    gpu::mbarrier_arrive_expect(full, tile_bytes(ROWS, rows.columns) + more_bytes);
#pragma unroll
    for (int c = 0; c < COLUMNS; c += PANEL) {
        if (c < rows.columns) {
            gpu::tma_load(target + tile_bytes(ROWS, c), rows.map, full, hint, c, rows.row,
                          rows.head, rows.shift);
        }
    }
}

/* K of a tile, or V, when the place has been left: by what gave `left` back. */
template <class C, int COLUMNS>
GPU_INLINE void load_keys(uint32_t smem, uint32_t use, const gpu::tensor_map *map, int32_t columns,
                          uint32_t ring, uint32_t left, uint32_t target)
{
    attn::tile_place place = attn::tile_read_place(bwd_tile<C>(smem, use));
    attn::tile_side k = attn::tile_read_k(bwd_tile<C>(smem, use));
    bwd_rows rows = {map, gpu::ragged_row(k.len, place.row), place.head,
                     gpu::ragged_shift(k.first, k.len), columns};
    attn::ring_wait_empty<1>(left, use);
    bwd_load_rows<C::N, COLUMNS>(rows, target, attn::ring_full<1>(ring, use), 0,
                                 gpu::l2::evict_first);
}

/* Q or dO of one step, with a statistic: ROWS x COLUMNS from a map and ROWS floats. */
template <int ROWS, int COLUMNS>
GPU_INLINE void load_step(int32_t columns, const gpu::tensor_map *map, const attn::tile_side &q,
                          int32_t row, int32_t head, uint32_t target, const float *statistic,
                          uint32_t statistic_target, uint32_t full)
{
    bwd_rows rows = {map, gpu::ragged_row(q.len, row), head, gpu::ragged_shift(q.first, q.len),
                     columns};
    bwd_load_rows<ROWS, COLUMNS>(rows, target, full, ROWS * 4, gpu::l2::evict_last);
    gpu::bulk_load(statistic_target, statistic, ROWS * 4, full);
}

template <class C, class S = bwd_smem<C>>
GPU_INLINE void load_query(const bwd_params &p, uint32_t smem, uint32_t tile, const bwd_tour &tour,
                           uint32_t step)
{
    uint32_t ring = smem + S::Q_RING;
    attn::ring_wait_empty<C::Q_STAGES>(ring, step);
    load_step<C::M, C::D>(p.d, &attn::backward_set_of(p, attn::tile_read_place(tile).set)->q,
                          attn::tile_read_q(tile), tour.m * C::M, tour.head,
                          bwd_q<C, S>(smem, step),
                          p.scratch.statistics + int64_t{2 * C::M} * tour_unit(p, tile, tour),
                          bwd_lse<C, S>(smem, step), attn::ring_full<C::Q_STAGES>(ring, step));
}

template <class C, class S = bwd_smem<C>>
GPU_INLINE void load_dout(const bwd_params &p, uint32_t smem, uint32_t tile, const bwd_tour &tour,
                          uint32_t step)
{
    uint32_t ring = smem + S::DOUT_RING;
    attn::ring_wait_empty<C::DOUT_STAGES>(ring, step);
    load_step<C::M, C::DV>(
        p.dv, &attn::backward_set_of(p, attn::tile_read_place(tile).set)->dout,
        attn::tile_read_q(tile), tour.m * C::M, tour.head, bwd_dout<C, S>(smem, step),
        p.scratch.statistics + int64_t{2 * C::M} * tour_unit(p, tile, tour) + C::M,
        bwd_delta<C, S>(smem, step), attn::ring_full<C::DOUT_STAGES>(ring, step));
}

/* The rest of a tour. Returns the first step of the next tile. */
template <class C, class S = bwd_smem<C>>
GPU_INLINE uint32_t load_queries(const bwd_params &p, uint32_t smem, uint32_t tile, bwd_tour tour,
                                 uint32_t step)
{
#pragma unroll 1
    for (; tour_lasts(p, tile, tour); tour_next(tile, tour)) {
        load_query<C, S>(p, smem, tile, tour, step++);
    }
    return step;
}

template <class C, class S = bwd_smem<C>>
GPU_INLINE uint32_t load_douts(const bwd_params &p, uint32_t smem, uint32_t tile, bwd_tour tour,
                               uint32_t step)
{
#pragma unroll 1
    for (; tour_lasts(p, tile, tour); tour_next(tile, tour)) {
        load_dout<C, S>(p, smem, tile, tour, step++);
    }
    return step;
}

/* K and Q of a tile. AHEAD: a Q before it waits for K's place. */
template <class C>
GPU_INLINE uint32_t load_k_tile(const bwd_params &p, uint32_t smem, uint32_t use, uint32_t step)
{
    using S = bwd_smem<C>;
    uint32_t tile = bwd_tile<C>(smem, use);
    uint32_t left = bwd_swaps<C>(p) ? S::V_RING : S::K_RING;
    bwd_tour tour = tour_start<C>(p, tile);
    if constexpr (C::AHEAD) {
        load_query<C>(p, smem, tile, tour, step++);
        tour_next(tile, tour);
    }
    load_keys<C, C::D>(smem, use, &attn::backward_set_of(p, attn::tile_read_place(tile).set)->k,
                       p.d, smem + S::K_RING, smem + left, bwd_k<C>(p, smem, use));
    return load_queries<C>(p, smem, tile, tour, step);
}

template <class C>
GPU_INLINE uint32_t load_v_tile(const bwd_params &p, uint32_t smem, uint32_t use, uint32_t step)
{
    using S = bwd_smem<C>;
    uint32_t tile = bwd_tile<C>(smem, use);
    uint32_t left = bwd_swaps<C>(p) ? S::K_RING : S::V_RING;
    bwd_tour tour = tour_start<C>(p, tile);
    if constexpr (C::AHEAD) {
        load_dout<C>(p, smem, tile, tour, step++);
        tour_next(tile, tour);
    }
    load_keys<C, C::DV>(smem, use, &attn::backward_set_of(p, attn::tile_read_place(tile).set)->v,
                        p.dv, smem + S::V_RING, smem + left, bwd_v<C>(p, smem, use));
    return load_douts<C>(p, smem, tile, tour, step);
}

/* K and Q; and the next tile, once the last loads of this one are issued. */
template <class C>
GPU_INLINE void bwd_load_all(const bwd_params &p, uint32_t smem)
{
    using S = bwd_smem<C>;
    int32_t number = attn::first_draw<C>(p);
    uint32_t step = 0;
    for (uint32_t use = 0;; use++) {
        attn::fetch_record<C, S>(p, smem, use, number);
        if (number >= p.tile_count) {
            break;
        }
        attn::ring_wait_full<C::TILE_SLOTS>(smem + S::TILE_RING, use);
        step = load_k_tile<C>(p, smem, use, step);
        attn::ring_release<C::TILE_SLOTS>(smem + S::TILE_RING, use);
        if (attn::draws_late<C>(p)) {
            gpu::mbarrier_wait(smem + S::MAY_DRAW, use + 1);
        }
        attn::ring_wait_empty<C::TILE_SLOTS>(smem + S::TILE_RING, use + 1);
        number = attn::draw<C>(p);
    }
    attn::end_draws<C>(p, number);
}

template <class C>
GPU_INLINE void bwd_load_all_douts(const bwd_params &p, uint32_t smem)
{
    using S = bwd_smem<C>;
    uint32_t step = 0;
    for (uint32_t use = 0;; use++) {
        attn::ring_wait_full<C::TILE_SLOTS>(smem + S::TILE_RING, use);
        if (attn::tile_read_place(bwd_tile<C>(smem, use)).rows == 0) {
            break;
        }
        step = load_v_tile<C>(p, smem, use, step);
        attn::ring_release<C::TILE_SLOTS>(smem + S::TILE_RING, use);
    }
}

/* An accumulator that every product is added to, also the first: a flag would be a register. */
template <int COUNT>
GPU_INLINE void clear_sums(float (&d)[COUNT])
{
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
        d[i] = 0.0f;
    }
}

/* 64 rows of an accumulator, scaled, into a staging tile of ROWS rows, or its rows from `stage` on;
 * each warp its 16 rows. Columns from `columns` on, which the tensor does not have, are left alone.
 */
template <typename T, int COLUMNS, int ROWS = BWD_WG_ROWS>
GPU_INLINE void stage_rows(const float (&d)[COLUMNS / 2], float scale, uint32_t stage,
                           int32_t columns, const bwd_lane &me)
{
    uint32_t row = static_cast<uint32_t>(me.warp * BWD_WARP_ROWS + me.lane % 16);
#pragma unroll
    for (int j = 0; j < COLUMNS / 16; j++) {
        const float *f = &d[8 * j];
        const uint32_t matrices[4] = {
            gpu::pack<T>(f[0] * scale, f[1] * scale), gpu::pack<T>(f[2] * scale, f[3] * scale),
            gpu::pack<T>(f[4] * scale, f[5] * scale), gpu::pack<T>(f[6] * scale, f[7] * scale)};
        uint32_t column = static_cast<uint32_t>(32 * j + me.lane / 16 * 16);
        if (16 * j < columns) {
            gpu::stmatrix(gpu::tile_address(SWIZZLE, stage, ROWS, row, column), matrices);
        }
    }
}

/* A tensor to store to, and how many columns it has. */
struct bwd_out {
    const gpu::tensor_map *map;
    int32_t columns;
};

/*
 * A warp's 16 staged rows to memory; the map clips them at the span. row: of the stage's first row
 * in the sequence; column: of its first column.
 */
template <int COLUMNS, int ROWS = BWD_WG_ROWS>
GPU_INLINE void send_rows(const bwd_out &out, uint32_t stage, int32_t row, int32_t column,
                          const attn::tile_place &place, const attn::tile_side &k,
                          const bwd_lane &me)
{
    int32_t first = me.warp * BWD_WARP_ROWS;
#pragma unroll
    for (int c = 0; c < COLUMNS; c += PANEL) {
        if (column + c < out.columns) {
            gpu::tma_store(out.map,
                           stage + tile_bytes(ROWS, c) + static_cast<uint32_t>(first) * PANEL_ROW,
                           gpu::l2::evict_first, column + c, gpu::ragged_row(k.span, row + first),
                           place.head, gpu::ragged_shift(k.first, k.span));
        }
    }
}

} // namespace sm90

#endif
