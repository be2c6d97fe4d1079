/*
 * sm100/bwd_plan: what sm100/bwd is made of: an instance's sizes, its roles, and where things lie
 * in shared and tensor memory. Who uses them stands above bwd.cuh.
 */
#ifndef SM100_BWD_PLAN_CUH
#define SM100_BWD_PLAN_CUH

#include "common/ring.cuh"
#include "common/tile.cuh"
#include "gpu/mbarrier.cuh"
#include "gpu/smem.cuh"
#include "gpu/tcgen05.cuh"
#include "sm100/tiles.cuh"

namespace sm100
{

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
    static constexpr bool SOFTCAP = CAPPED;
    static constexpr bool DETERMINISTIC = ORDERED;
    static constexpr bool SMALL = D == PANEL && DV == PANEL;
    static constexpr int THREADS = ALL_WARPS * WARP_LANES;
    static constexpr uint32_t COMPUTERS = MULTIPLIER - COMPUTE_WARPS;
    static constexpr uint32_t DQ_READERS = COMPUTE_WARPS - DQ_WARPS;
    static constexpr uint32_t TILE_READERS = COMPUTERS + DQ_READERS + 3; /* loaders, multiplier */
    static constexpr int TILE_SLOTS = 2;
    static constexpr int KEY_SLOTS = SMALL ? 2 : 1;
    static constexpr int Q_STAGES = 2;
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

/* Where things lie in shared memory. */
template <class C>
struct bwd_smem {
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
    static constexpr uint32_t DOUT_RING = Q_RING + attn::ring_barriers(C::Q_STAGES);
    static constexpr uint32_t S_FULL = DOUT_RING + attn::ring_barriers(C::DOUT_STAGES);
    static constexpr uint32_t P_FULL = S_FULL + gpu::MBARRIER_BYTES;
    static constexpr uint32_t DP_FULL = P_FULL + gpu::MBARRIER_BYTES;
    static constexpr uint32_t DS_FULL = DP_FULL + gpu::MBARRIER_BYTES;
    static constexpr uint32_t DQ_FULL = DS_FULL + gpu::MBARRIER_BYTES;
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
    static_assert(DK + C::D <= gpu::TMEM_COLUMNS && DQ + C::D <= gpu::TMEM_COLUMNS, "all there is");
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
    return smem + bwd_smem<C>::STATISTICS + attn::ring_slot<C::Q_STAGES>(step) * (2 * C::ROW_BYTES);
}

} // namespace sm100

#endif
