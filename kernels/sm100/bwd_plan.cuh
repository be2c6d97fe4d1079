/*
 * sm100/bwd_plan: where the backward pass has what in shared and tensor memory, and what its roles
 * share, also between the kernel of one CTA (bwd) and those of pairs (bwd_pair, bwd_wide).
 */
#ifndef SM100_BWD_PLAN_CUH
#define SM100_BWD_PLAN_CUH

#include "common/backward.cuh"
#include "common/ring.cuh"
#include "gpu/barrier.cuh"
#include "gpu/cluster.cuh"
#include "gpu/math.cuh"
#include "gpu/registers.cuh"
#include "gpu/smem.cuh"
#include "gpu/tma.cuh"
#include "gpu/warp.cuh"
#include "sm100/tiles.cuh"

namespace sm100
{

using bwd_params = attn::backward_params;
using attn::backward_tour;

constexpr int WARP_LANES = 32;

/* Warps by role. Four in a row reach all lanes of tensor memory. */
enum bwd_role {
    DQ_WARPS = 0,
    COMPUTE_WARPS = 4,
    MULTIPLIER = 12,
    LOADER = 13,      /* K and Q */
    DOUT_LOADER = 14, /* V and dO */
    DRAWER = 15,
    ALL_WARPS = 16
};

template <typename TYPE, int DIM, int DIM_V, bool CAPPED, bool ORDERED>
struct bwd_config {
    using T = TYPE;
    static constexpr int D = DIM, DV = DIM_V; /* tensors may be narrower: maps read zeros, clip */
    static constexpr int M = TILE_ROWS;       /* queries of a step */
    static constexpr int N = TILE_ROWS;       /* keys of a tile */
    static constexpr int Q_BOX = TILE_ROWS;   /* rows of a box of Q and dO, and */
    static constexpr int K_BOX = TILE_ROWS;   /* of K and V */
    static constexpr bool SOFTCAP = CAPPED;
    static constexpr bool DETERMINISTIC = ORDERED;
    static constexpr bool ORDERS = false; /* tiles that write dQ (plan_tile.ordered) */
    static constexpr bool PAIR = false;   /* of CTAs that work on a tile together: bwd_pair, */
    static constexpr bool WIDE = false;   /* with half of the head dim each: bwd_wide */
    static constexpr int CTAS = 1;        /* so many of them */
    static constexpr bool SMALL = D == PANEL && DV == PANEL;
    static constexpr int THREADS = ALL_WARPS * WARP_LANES;
    static constexpr uint32_t COMPUTERS = MULTIPLIER - COMPUTE_WARPS;
    static constexpr uint32_t DQ_READERS = COMPUTE_WARPS - DQ_WARPS;
    static constexpr uint32_t TILE_READERS = COMPUTERS + DQ_READERS + 3; /* loaders, multiplier */
    static constexpr int TILE_SLOTS = 2;
    static constexpr int KEY_SLOTS = SMALL ? 2 : 1;
    static constexpr int Q_STAGES = 2, STATISTICS_STAGES = Q_STAGES;
    static constexpr int DOUT_STAGES = D + DV == 4 * PANEL ? 1 : 2;
    static constexpr int CHUNK =
        CAPPED ? 16 : 32;                 /* queries that a compute warp works on at a time */
    static constexpr int DQ_COLUMNS = 64; /* that a dQ warp has in registers at a time */
    static constexpr uint32_t K_BYTES = tile_bytes(N, D), V_BYTES = tile_bytes(N, DV);
    static constexpr uint32_t Q_BYTES = tile_bytes(M, D), DOUT_BYTES = tile_bytes(M, DV);
    static constexpr uint32_t DS_BYTES = tile_bytes(N, M);
    static constexpr uint32_t DQ_BYTES = WARP_LANES * DQ_COLUMNS * 4;
    static constexpr uint32_t ROW_BYTES = M * 4; /* one statistic of a step's rows */
    /* dQ + 2 * compute + other = 512 = 65536 registers / 128 */
    static constexpr int DQ_REGISTERS = 104;
    static constexpr int COMPUTE_REGISTERS = CAPPED ? 176 : 160;
    static constexpr int OTHER_REGISTERS = 512 - DQ_REGISTERS - 2 * COMPUTE_REGISTERS;
};

/* Where things lie in shared memory: operands and rings, which each kernel has of its own. */
template <class C>
struct bwd_rings {
    static constexpr uint32_t K = 0;
    static constexpr uint32_t V = K + C::KEY_SLOTS * C::K_BYTES;
    static constexpr uint32_t Q = V + C::KEY_SLOTS * C::V_BYTES;
    static constexpr uint32_t DOUT = Q + C::Q_STAGES * C::Q_BYTES;
    static constexpr uint32_t DS = DOUT + C::DOUT_STAGES * C::DOUT_BYTES;
    static constexpr uint32_t DQ = DS + C::DS_BYTES;
    static constexpr uint32_t STATISTICS = DQ + C::DQ_READERS * C::DQ_BYTES;
    static constexpr uint32_t TILES = STATISTICS + C::Q_STAGES * 2 * C::ROW_BYTES;
    static constexpr uint32_t TILE_RING = TILES + C::TILE_SLOTS * attn::TILE_BYTES;
    static constexpr uint32_t K_RING = TILE_RING + attn::ring_barriers(C::TILE_SLOTS);
    static constexpr uint32_t V_RING = K_RING + attn::ring_barriers(C::KEY_SLOTS);
    static constexpr uint32_t Q_RING = V_RING + attn::ring_barriers(C::KEY_SLOTS);
    static constexpr uint32_t STATISTICS_RING = Q_RING; /* they come with Q */
    static constexpr uint32_t DOUT_RING = Q_RING + attn::ring_barriers(C::Q_STAGES);
    static constexpr uint32_t END = DOUT_RING + attn::ring_barriers(C::DOUT_STAGES);

    /* One thread: the rings but for the tiles'. */
    GPU_INLINE void init(uint32_t smem)
    {
        attn::ring_init<C::KEY_SLOTS>(smem + K_RING, 1, 1);
        attn::ring_init<C::KEY_SLOTS>(smem + V_RING, 1, 1);
        attn::ring_init<C::Q_STAGES>(smem + Q_RING, 1, 1);
        attn::ring_init<C::DOUT_STAGES>(smem + DOUT_RING, 1, 1);
    }
};

/* Behind them, what all kernels have. */
template <class C>
struct bwd_smem : bwd_rings<C> {
    static constexpr uint32_t S_FULL = bwd_rings<C>::END;
    static constexpr uint32_t P_FULL = S_FULL + gpu::MBARRIER_BYTES;
    static constexpr uint32_t DP_FULL = P_FULL + gpu::MBARRIER_BYTES;
    static constexpr uint32_t DS_FULL = DP_FULL + gpu::MBARRIER_BYTES;
    static constexpr uint32_t OF_PAIR = C::PAIR ? gpu::MBARRIER_BYTES : 0;
    static constexpr uint32_t DS_IN = DS_FULL + gpu::MBARRIER_BYTES;
    static constexpr uint32_t DS_RELAYED = DS_IN + OF_PAIR;
    static constexpr uint32_t DQ_FULL = DS_RELAYED + OF_PAIR;
    static constexpr uint32_t DQ_EMPTY = DQ_FULL + gpu::MBARRIER_BYTES;
    static constexpr uint32_t MAY_DRAW = DQ_EMPTY + gpu::MBARRIER_BYTES;
    static constexpr uint32_t TENSOR = MAY_DRAW + gpu::MBARRIER_BYTES; /* address taken */
    static constexpr uint32_t BYTES = TENSOR + 16;
    static_assert(BYTES <= gpu::SMEM_BYTES, "one CTA has all of an SM");
};

/* Columns of tensor memory. */
template <class C>
struct bwd_columns {
    static constexpr uint32_t S = 0;
    static constexpr uint32_t DP = S + C::M;
    static constexpr uint32_t DV = DP + C::M;
    static constexpr uint32_t DK = DV + C::DV;
    static constexpr bool DQ_ON_DP = DK + 2 * C::D > gpu::TMEM_COLUMNS;
    static constexpr uint32_t DQ = DQ_ON_DP ? DP : DK + C::D;
    static constexpr uint32_t USED = DQ_ON_DP ? DK + C::D : DQ + C::D;
    static_assert(USED <= gpu::TMEM_COLUMNS, "all there is");
    static_assert(C::D <= C::M, "dQ on dP");
    static constexpr int HALF = C::M / 2;       /* of a compute warp */
    static constexpr uint32_t PAIRS = C::M / 4; /* that replace the scores of a half */
};

template <class C>
GPU_INLINE uint32_t bwd_tile(uint32_t smem, uint32_t use)
{
    return smem + bwd_smem<C>::TILES + attn::ring_slot<C::TILE_SLOTS>(use) * attn::TILE_BYTES;
}

template <class C>
GPU_INLINE uint32_t bwd_k(uint32_t smem, uint32_t use)
{
    return smem + bwd_smem<C>::K + attn::ring_slot<C::KEY_SLOTS>(use) * C::K_BYTES;
}

template <class C>
GPU_INLINE uint32_t bwd_v(uint32_t smem, uint32_t use)
{
    return smem + bwd_smem<C>::V + attn::ring_slot<C::KEY_SLOTS>(use) * C::V_BYTES;
}

template <class C>
GPU_INLINE uint32_t bwd_q(uint32_t smem, uint32_t step)
{
    return smem + bwd_smem<C>::Q + attn::ring_slot<C::Q_STAGES>(step) * C::Q_BYTES;
}

template <class C>
GPU_INLINE uint32_t bwd_dout(uint32_t smem, uint32_t step)
{
    return smem + bwd_smem<C>::DOUT + attn::ring_slot<C::DOUT_STAGES>(step) * C::DOUT_BYTES;
}

/* lse of a step's rows, then their delta. */
template <class C>
GPU_INLINE uint32_t bwd_statistics(uint32_t smem, uint32_t step)
{
    return smem + bwd_smem<C>::STATISTICS +
           attn::ring_slot<C::STATISTICS_STAGES>(step) * (2 * C::ROW_BYTES);
}

/* One thread. Of a pair the warps of both tell the multiplier. */
template <class C>
GPU_INLINE void bwd_init_barriers(uint32_t smem)
{
    using S = bwd_smem<C>;
    attn::ring_init<C::TILE_SLOTS>(smem + S::TILE_RING, 1, C::TILE_READERS);
    S::init(smem);
    gpu::mbarrier_init(smem + S::S_FULL, 1);
    gpu::mbarrier_init(smem + S::P_FULL, C::CTAS * C::COMPUTERS);
    gpu::mbarrier_init(smem + S::DP_FULL, 1);
    gpu::mbarrier_init(smem + S::DS_FULL, C::CTAS * C::COMPUTERS);
    if constexpr (C::PAIR) {
        gpu::mbarrier_init(smem + S::DS_IN, 1);
        gpu::mbarrier_init(smem + S::DS_RELAYED, 1);
    }
    gpu::mbarrier_init(smem + S::DQ_FULL, 1);
    gpu::mbarrier_init(smem + S::DQ_EMPTY, C::CTAS * C::DQ_READERS);
    gpu::mbarrier_init(smem + S::MAY_DRAW, 1);
    gpu::mbarrier_init_fence();
}

/* This thread's place among the compute or the dQ warps. */
struct bwd_lane {
    int warp, half; /* quarter of the lanes; compute: half of the columns */
    int lane;
    bool leader;     /* of its warp */
    uint32_t tensor; /* column 0 of the quarter */
};

GPU_INLINE bwd_lane bwd_lane_of(uint32_t tensor, int first_warp)
{
    int warp = gpu::warp_index() % 4;
    return {warp, (gpu::warp_index() - first_warp) / 4, gpu::lane_index(), gpu::elect_one(),
            gpu::tmem_at(tensor, static_cast<uint32_t>(warp * WARP_LANES), 0)};
}

/* One step as a warp sees it. What only masked blocks need is read again from the record. */
struct bwd_step {
    uint32_t use;  /* of the tile's rings */
    uint32_t step; /* of all others */
    int32_t m;     /* query block */
    bool first;    /* of the tile */
};

GPU_INLINE int32_t bwd_steps(const bwd_params &p, uint32_t tile)
{
    attn::tile_blocks blocks = attn::tile_read_blocks(tile);
    return (blocks.last - blocks.first) * p.group;
}

/* Tensor memory may be used once the barrier has completed so many rounds. */
GPU_INLINE void await_tensor(uint32_t barrier, uint32_t rounds)
{
    gpu::mbarrier_wait(barrier, rounds);
    gpu::tcgen05_fence_after();
}

/* ---- what loaders share ---- */

/* The rest of the boxes' coordinates is the panel. */
struct bwd_rows {
    const gpu::tensor_map *map;
    int32_t row, head, shift;
};

GPU_INLINE bwd_rows bwd_key_rows(const gpu::tensor_map *map, uint32_t tile)
{
    attn::tile_place place = attn::tile_read_place(tile);
    attn::tile_side k = attn::tile_read_k(tile);
    return {map, gpu::ragged_row(k.len, place.row), place.head, gpu::ragged_shift(k.first, k.len)};
}

GPU_INLINE bwd_rows bwd_query_rows(const gpu::tensor_map *map, uint32_t tile,
                                   const backward_tour &tour)
{
    attn::tile_side q = attn::tile_read_q(tile);
    return {map, gpu::ragged_row(q.len, tour.m * TILE_ROWS), tour.head,
            gpu::ragged_shift(q.first, q.len)};
}

/* Of a step; `full` expects their bytes. */
template <class C>
GPU_INLINE void load_statistics(const bwd_params &p, uint32_t smem, uint32_t tile,
                                const backward_tour &tour, uint32_t step, uint32_t full)
{
    gpu::bulk_load(bwd_statistics<C>(smem, step),
                   p.scratch.statistics + int64_t{2 * C::M} * attn::tour_unit(p, tile, tour),
                   2 * C::ROW_BYTES, full);
}

/* ---- what is different where a pair of CTAs works on a tile (bwd_pair, bwd_wide) ---- */

/* Keys of the tile that are the other CTA's, before this one's. */
template <class C>
GPU_INLINE int32_t bwd_keys_before()
{
    if constexpr (C::PAIR) {
        return static_cast<int32_t>(gpu::cluster_rank()) * (C::N / 2);
    } else {
        return 0;
    }
}

/* The first of a compute warp's keys in the tile. Wide: lanes 64 and up have the keys of lanes 0 to
 * 63, and other queries. */
template <class C>
GPU_INLINE int32_t bwd_first_key(const bwd_lane &me)
{
    return bwd_keys_before<C>() + (C::WIDE ? me.warp % 2 : me.warp) * WARP_LANES;
}

/* To the multiplier, of a pair in the even CTA: what all lanes of the warp have loaded, or stored,
 * in tensor memory is done. */
template <class C>
GPU_INLINE void bwd_hand(uint32_t barrier, const bwd_lane &me)
{
    gpu::tcgen05_fence_before();
    gpu::warp_sync();
    if (!me.leader) {
        return;
    }
    if constexpr (C::PAIR) {
        gpu::mbarrier_arrive_cluster(gpu::cluster_map(barrier, 0));
    } else {
        gpu::mbarrier_arrive(barrier);
    }
}

/* One thread: this warp is done with the tile's record; of a pair the even CTA draws. */
template <class C>
GPU_INLINE void bwd_release_tile(uint32_t smem, uint32_t use)
{
    uint32_t ring = smem + bwd_smem<C>::TILE_RING;
    if constexpr (C::PAIR) {
        gpu::mbarrier_arrive_cluster(
            gpu::cluster_map(attn::ring_empty<C::TILE_SLOTS>(ring, use), 0));
    } else {
        attn::ring_release<C::TILE_SLOTS>(ring, use);
    }
}

/* Is tile `use` one, not the end mark? Its record has come. */
template <class C>
GPU_INLINE bool bwd_await_tile(uint32_t smem, uint32_t use)
{
    attn::ring_wait_full<C::TILE_SLOTS>(smem + bwd_smem<C>::TILE_RING, use);
    return attn::tile_read_place(bwd_tile<C>(smem, use)).rows != 0;
}

/* One thread that needs no more of the record than how many steps there are. */
template <class C>
GPU_INLINE int32_t bwd_take_steps(const bwd_params &p, uint32_t smem, uint32_t use)
{
    int32_t count = bwd_steps(p, bwd_tile<C>(smem, use));
    bwd_release_tile<C>(smem, use);
    return count;
}

/*
 * Where the warps of a half put dS^T, a row of 64 queries per key. Of a pair each CTA sums dQ of
 * one half of the queries, over the keys of both; the other half is passed on from where it lies.
 */
template <class C>
GPU_INLINE uint32_t bwd_ds_panel(uint32_t smem, int half)
{
    using S = bwd_smem<C>;
    constexpr uint32_t SHARE = tile_bytes(TILE_ROWS, PANEL);
    if constexpr (C::PAIR) {
        uint32_t rank = gpu::cluster_rank();
        return smem + (static_cast<uint32_t>(half) == rank ? S::DS + rank * SHARE : S::DS_OUT);
    } else {
        return smem + S::DS + static_cast<uint32_t>(half) * SHARE;
    }
}

template <class C>
GPU_INLINE void pair_pass_ds(uint32_t smem, const bwd_lane &me);
template <class C>
GPU_INLINE void pair_reduce_step(const bwd_params &p, uint32_t smem, uint32_t tile, uint32_t step,
                                 const backward_tour &tour, int32_t base, const bwd_lane &me);
template <class C>
GPU_INLINE void wide_reduce_step(const bwd_params &p, uint32_t smem, uint32_t tile, uint32_t step,
                                 const backward_tour &tour, int32_t base, const bwd_lane &me);
template <class C>
GPU_INLINE void wide_step(const bwd_params &p, uint32_t smem, const bwd_step &at,
                          const bwd_lane &me);
template <class C>
GPU_INLINE void wide_store_keys(const bwd_params &p, uint32_t smem, uint32_t use, uint32_t steps,
                                const bwd_lane &me);

/* What the warp has sent from shared memory has left: its source may be written again. */
GPU_INLINE void wait_staging(const bwd_lane &me)
{
    if (me.leader) {
        gpu::bulk_wait_read<0>();
    }
    gpu::warp_sync();
}

} // namespace sm100

#endif
