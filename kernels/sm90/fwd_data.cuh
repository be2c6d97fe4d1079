/*
 * sm90/fwd_data: the forward's configs, its plan of shared memory, and the one thread of warpgroup
 * 0 that fills it: tile records, Q, K and V. What consumers do with them is in sm90/fwd.
 */
#ifndef SM90_FWD_DATA_CUH
#define SM90_FWD_DATA_CUH

#include "common/forward.cuh"
#include "common/ring.cuh"
#include "common/softmax.cuh"
#include "common/tile.cuh"
#include "gpu/bulk.cuh"
#include "gpu/fence.cuh"
#include "gpu/global.cuh"
#include "gpu/grid.cuh"
#include "gpu/index.cuh"
#include "gpu/smem.cuh"
#include "gpu/tma.cuh"
#include "sm90/operand.cuh"

namespace sm90
{

using fwd_set = attn::forward_set;
using fwd_params = attn::forward_params;

constexpr int WARPGROUP = 128;
constexpr int WG_WARPS = 4;
constexpr int WG_ROWS = 64;   /* of an accumulator */
constexpr int WARP_ROWS = 16; /* of an accumulator that one warp holds */
constexpr int TILE_HEADS = 8; /* at most: a thread's two rows, eight apart, are of one head */

template <typename TYPE, int DIM, int DIM_V, int KEYS, int WARPGROUPS, bool CAPPED>
struct fwd_config {
    using T = TYPE;
    static constexpr int D = DIM, DV = DIM_V; /* tensors may be narrower: maps read zeros, clip */
    static constexpr int N = KEYS;            /* keys of a block */
    static constexpr bool SOFTCAP = CAPPED;
    /* A probability may be as large as fp32 holds, or only as fp16. */
    static constexpr bool WIDE = gpu::element_of<T>::value == gpu::element::bf16;
    static constexpr float SUM_MAX = WIDE ? attn::SUM_HELD : attn::SUM_FP16;
    /* Are a block's sums looked at before PV is waited for? At d 64 the compiler puts exponentials
     * off behind that wait otherwise (5 % of a launch); elsewhere it does not, and K's stage is
     * given back a little later for nothing (0.6 %). */
    static constexpr bool ASKS_EARLY = D == 64;
    static constexpr int WGS = WARPGROUPS;  /* consumers */
    static constexpr int M = WGS * WG_ROWS; /* query rows of a tile */
    static constexpr int THREADS = (WGS + 1) * WARPGROUP;
    static constexpr uint32_t CONSUMER_WARPS = WGS * WG_WARPS;
    static constexpr int STAGES = 2;
    static constexpr int TILE_SLOTS = 4;
    static constexpr uint32_t Q_BYTES = tile_bytes(M, D);
    static constexpr uint32_t K_BYTES = tile_bytes(N, D), V_BYTES = tile_bytes(N, DV);
    static constexpr uint32_t RINGS = STAGES * (K_BYTES + V_BYTES);
    /* One is worked on, the next one arrives, and from a third the last O leaves: with two, a Q is
     * asked for only when O before it is out, and in short documents its way from HBM is waited for
     * at each tile. */
    static constexpr int Q_FIT = static_cast<int>((gpu::SMEM_BYTES - 1024 - RINGS) / Q_BYTES);
    static constexpr int Q_SLOTS = Q_FIT > 3 ? 4 : Q_FIT; /* 3 of 4 spill at d 64 */
    /* Sums are what a block is launched with: 24 + 2 * 240 = 3 * 168, 32 + 3 * 160 = 4 * 128. */
    static constexpr int LOADER_REGISTERS = WGS == 2 ? 24 : 32;
    static constexpr int CONSUMER_REGISTERS = WGS == 2 ? 240 : 160;
    static_assert(WGS == 2 || WGS == 3, "the named barriers below");
    /* Scores, O and probabilities leave less than 40 for all else. */
    static constexpr bool TIGHT = N / 2 + DV / 2 + N / 4 > CONSUMER_REGISTERS - 40;
    static constexpr bool FUSED = Q_SLOTS > 1; /* may a step span two tiles? */
    static_assert(!FUSED || DV <= D, "O is staged in Q's slot");
};

/* Where things lie in shared memory. */
template <class C>
struct fwd_smem {
    static constexpr uint32_t Q = 0;
    static constexpr uint32_t K = C::Q_SLOTS * C::Q_BYTES;
    static constexpr uint32_t V = K + C::STAGES * C::K_BYTES;
    static constexpr uint32_t TILES = V + C::STAGES * C::V_BYTES;
    static constexpr uint32_t TILE_RING = TILES + C::TILE_SLOTS * attn::TILE_BYTES;
    static constexpr uint32_t Q_RING = TILE_RING + attn::ring_barriers(C::TILE_SLOTS);
    static constexpr uint32_t K_RING = Q_RING + attn::ring_barriers(C::Q_SLOTS);
    static constexpr uint32_t V_RING = K_RING + attn::ring_barriers(C::STAGES);
    static constexpr uint32_t BYTES = V_RING + attn::ring_barriers(C::STAGES);
    static_assert(BYTES <= gpu::SMEM_BYTES, "one CTA has all of an SM");
};

/* Panels that lie wholly beyond the tensor's columns are not loaded: such a load is an illegal
 * address on an H200. In K and V they are zeros from here on, and nothing else is written there. */
template <class C, int COLUMNS>
GPU_INLINE void clear_stages(uint32_t stages, int32_t columns)
{
    constexpr uint32_t BYTES = tile_bytes(C::N, COLUMNS);
    if (tile_bytes(C::N, columns) == BYTES) {
        return;
    }
    uint32_t mine = tile_bytes(C::N, columns) + 16 * static_cast<uint32_t>(gpu::thread_index());
    for (uint32_t at = mine; at < BYTES; at += 16 * C::THREADS) {
#pragma unroll
        for (uint32_t stage = 0; stage < C::STAGES; stage++) {
            gpu::smem_store(stages + stage * BYTES + at, gpu::u32x4{0, 0, 0, 0});
        }
    }
    gpu::fence_async_smem();
}

template <class C>
GPU_INLINE void fwd_init(const fwd_params &p, uint32_t smem)
{
    using S = fwd_smem<C>;
    clear_stages<C, C::D>(smem + S::K, p.d);
    clear_stages<C, C::DV>(smem + S::V, p.dv);
    if (gpu::thread_index() == 0) {
        attn::ring_init<C::TILE_SLOTS>(smem + S::TILE_RING, 1, C::CONSUMER_WARPS);
        attn::ring_init<C::Q_SLOTS>(smem + S::Q_RING, 1, C::CONSUMER_WARPS);
        attn::ring_init<C::STAGES>(smem + S::K_RING, 1, C::CONSUMER_WARPS);
        attn::ring_init<C::STAGES>(smem + S::V_RING, 1, C::CONSUMER_WARPS);
        gpu::mbarrier_init_fence();
    }
    gpu::block_sync();
}

template <class C>
GPU_INLINE uint32_t fwd_tile(uint32_t smem, uint32_t use)
{
    return smem + fwd_smem<C>::TILES + attn::ring_slot<C::TILE_SLOTS>(use) * attn::TILE_BYTES;
}

template <class C>
GPU_INLINE uint32_t fwd_q(uint32_t smem, uint32_t use)
{
    return smem + fwd_smem<C>::Q + attn::ring_slot<C::Q_SLOTS>(use) * C::Q_BYTES;
}

template <class C>
GPU_INLINE uint32_t fwd_k(uint32_t smem, uint32_t use)
{
    return smem + fwd_smem<C>::K + attn::ring_slot<C::STAGES>(use) * C::K_BYTES;
}

template <class C>
GPU_INLINE uint32_t fwd_v(uint32_t smem, uint32_t use)
{
    return smem + fwd_smem<C>::V + attn::ring_slot<C::STAGES>(use) * C::V_BYTES;
}

/* ---- loader: one thread ---- */

/* The list, as one CTA draws from it: the record that comes next is known one tile ahead. */
struct fwd_draw {
    int32_t next; /* number in the list; tile_count and up: an end mark, nothing comes after */
};

template <class C>
GPU_INLINE void draw_record(const fwd_params &p, uint32_t smem, uint32_t use, fwd_draw &draw)
{
    using S = fwd_smem<C>;
    uint32_t full = attn::ring_full<C::TILE_SLOTS>(smem + S::TILE_RING, use);
    attn::ring_wait_empty<C::TILE_SLOTS>(smem + S::TILE_RING, use);
    gpu::mbarrier_arrive_expect(full, attn::TILE_BYTES);
    gpu::bulk_load(fwd_tile<C>(smem, use), p.tiles + draw.next, attn::TILE_BYTES, full);
    if (draw.next < p.tile_count) {
        draw.next = gpu::grid_x() + gpu::atomic_add(p.counter, 1);
    } else if (draw.next == p.tile_count + gpu::grid_x() - 1) {
        gpu::global_store(p.counter, 0); /* the last draw of the launch */
    }
}

/* A box but for its panel. */
struct fwd_rows {
    const gpu::tensor_map *map;
    int32_t row, head, shift;
};

/* Fill the next slot of a ring with the panels that the tensor has. */
template <int SLOTS, int ROWS, int COLUMNS>
GPU_INLINE void load_slot(const fwd_rows &rows, int32_t columns, uint32_t ring, uint32_t use,
                          uint32_t target)
{
    uint32_t full = attn::ring_full<SLOTS>(ring, use);
    attn::ring_wait_empty<SLOTS>(ring, use);
    gpu::mbarrier_arrive_expect(full, tile_bytes(ROWS, columns));
#pragma unroll
    for (int c = 0; c < COLUMNS; c += PANEL) {
        if (c < columns) {
            gpu::tma_load(target + tile_bytes(ROWS, c), rows.map, full, gpu::l2::evict_last, c,
                          rows.row, rows.head, rows.shift);
        }
    }
}

template <class C>
GPU_INLINE void load_v(const fwd_params &p, uint32_t smem, uint32_t use, const fwd_rows &rows)
{
    load_slot<C::STAGES, C::N, C::DV>(rows, p.dv, smem + fwd_smem<C>::V_RING, use,
                                      fwd_v<C>(smem, use));
}

template <class C>
GPU_INLINE void load_k(const fwd_params &p, uint32_t smem, uint32_t use, const fwd_rows &rows)
{
    load_slot<C::STAGES, C::N, C::D>(rows, p.d, smem + fwd_smem<C>::K_RING, use,
                                     fwd_k<C>(smem, use));
}

/* A panel that the tensor has not is the first one again: K's zeros meet it, and what O left in the
 * slot might not be finite. */
template <class C>
GPU_INLINE void load_q(const fwd_params &p, const fwd_set *set, uint32_t smem, uint32_t use)
{
    uint32_t tile = fwd_tile<C>(smem, use);
    attn::tile_place place = attn::tile_read_place(tile);
    attn::tile_side q = attn::tile_read_q(tile);
    uint32_t ring = smem + fwd_smem<C>::Q_RING;
    uint32_t full = attn::ring_full<C::Q_SLOTS>(ring, use);
    attn::ring_wait_empty<C::Q_SLOTS>(ring, use);
    gpu::mbarrier_arrive_expect(full, C::Q_BYTES);
#pragma unroll
    for (int c = 0; c < C::D; c += PANEL) {
        gpu::tma_load(fwd_q<C>(smem, use) + tile_bytes(C::M, c), &set->q, full,
                      gpu::l2::evict_first, c < p.d ? c : 0, place.head,
                      gpu::ragged_row(q.len, place.row), gpu::ragged_shift(q.first, q.len));
    }
}

/* Blocks in the order in which they are used: K one block ahead of V, also across tiles. */
template <class C>
GPU_INLINE void load_all(const fwd_params &p, uint32_t smem)
{
    using S = fwd_smem<C>;
    fwd_draw draw = {gpu::block_x()};
    fwd_rows v = {};
    uint32_t block_use = 0; /* of K; V is one behind */
    draw_record<C>(p, smem, 0, draw);
    for (uint32_t use = 0;; use++) {
        attn::ring_wait_full<C::TILE_SLOTS>(smem + S::TILE_RING, use);
        attn::tile_place place = attn::tile_read_place(fwd_tile<C>(smem, use));
        if (place.rows == 0) {
            break;
        }
        draw_record<C>(p, smem, use + 1, draw);
        const fwd_set *set = attn::forward_set_of(p, place.set);
        if (C::FUSED) {
            load_q<C>(p, set, smem, use);
        } else if (block_use > 0) { /* the only slot is free when the tile before has had its V */
            load_v<C>(p, smem, block_use - 1, v);
        }
        attn::tile_blocks blocks = attn::tile_read_blocks(fwd_tile<C>(smem, use));
        attn::tile_side keys = attn::tile_read_k(fwd_tile<C>(smem, use));
        fwd_rows k = {&set->k, 0, place.head / p.group, gpu::ragged_shift(keys.first, keys.len)};
        for (int32_t n = blocks.last - 1; n >= blocks.first; n--) {
            k.row = gpu::ragged_row(keys.len, n * C::N);
            load_k<C>(p, smem, block_use, k);
            if (!C::FUSED && n == blocks.last - 1) {
                load_q<C>(p, set, smem, use);
            }
            if (C::FUSED ? block_use > 0 : n < blocks.last - 1) {
                load_v<C>(p, smem, block_use - 1, v);
            }
            v = {&set->v, k.row, k.head, k.shift};
            block_use++;
        }
    }
    load_v<C>(p, smem, block_use - 1, v);
}

} // namespace sm90

#endif
