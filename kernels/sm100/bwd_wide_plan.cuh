/*
 * sm100/bwd_wide_plan: where the backward pass at head dims over 128 (bwd_wide) has what in shared
 * and tensor memory.
 */
#ifndef SM100_BWD_WIDE_PLAN_CUH
#define SM100_BWD_WIDE_PLAN_CUH

#include "sm100/bwd_pair.cuh"

namespace sm100
{

/*
 * P^T and dS^T as operands: blocks of 32 keys x 32 queries, a row per key, just what a compute warp
 * makes of a step. Blocks of the same queries lie one after the other: a panel.
 */
constexpr gpu::swizzle BLOCK_SWIZZLE = gpu::swizzle::b64;
constexpr int BLOCK = 32;
constexpr uint32_t BLOCK_ROW = 2 * BLOCK, BLOCK_BYTES = BLOCK * BLOCK_ROW;

template <typename TYPE, int DIM, int DIM_V, bool CAPPED, bool ORDERED>
struct bwd_wide_config : bwd_config<TYPE, DIM, DIM_V, CAPPED, ORDERED> {
    using one = bwd_config<TYPE, DIM, DIM_V, CAPPED, ORDERED>;
    static constexpr bool PAIR = true, WIDE = true;
    static constexpr int CTAS = 2;
    static constexpr int N = TILE_ROWS; /* keys of a tile */
    static constexpr int ROWS = N / 2;  /* keys, and queries of a step, that are a CTA's */
    static constexpr int Q_BOX = ROWS, K_BOX = ROWS;
    static constexpr int D_SHARE = DIM / 2; /* columns of dK and dQ that a CTA has operands for */
    static constexpr int DV_SHARE = DIM_V / 2;
    static constexpr int STATISTICS_STAGES = 2;
    static constexpr uint32_t TILE_READERS = 2 * one::TILE_READERS;
    static constexpr uint32_t K_BYTES = tile_bytes(ROWS, DIM), V_BYTES = tile_bytes(ROWS, DIM_V);
    static constexpr uint32_t KT_BYTES = tile_bytes(N, D_SHARE);
    static constexpr uint32_t BOX_BYTES = tile_bytes(ROWS, PANEL), PIECE_BYTES = 2 * BOX_BYTES;
    static constexpr int PIECES = DIM + DIM_V > 3 * TILE_ROWS ? 4 : 5; /* in shared memory */
    static constexpr uint32_t PAIR_BYTES = ROWS * TILE_ROWS * 2;       /* P^T of a step, or dS^T */
    static constexpr uint32_t SHARE = ROWS * ROWS * 2; /* of dS^T, that is passed on */
    static constexpr int DQ_COLUMNS = 16;              /* of a dQ warp's slot */
    static constexpr int DQ_SLOTS = DIM > 192 ? 2 : 3;
    static constexpr uint32_t DQ_BYTES = WARP_LANES * DQ_COLUMNS * 4;
    static_assert(D_SHARE / DQ_COLUMNS % DQ_SLOTS == 0, "a step begins at the first slot");
};

template <typename TYPE, int DIM, int DIM_V, bool CAPPED, bool ORDERED>
struct bwd_rings<bwd_wide_config<TYPE, DIM, DIM_V, CAPPED, ORDERED>> {
    using C = bwd_wide_config<TYPE, DIM, DIM_V, CAPPED, ORDERED>;
    static constexpr uint32_t K = 0; /* this CTA's keys */
    static constexpr uint32_t V = K + C::K_BYTES;
    static constexpr uint32_t KT = V + C::V_BYTES; /* all keys, this CTA's columns */
    static constexpr uint32_t STREAM = KT + C::KT_BYTES;
    static constexpr uint32_t P = STREAM + C::PIECES * C::PIECE_BYTES; /* this CTA's keys */
    static constexpr uint32_t DS = P + C::PAIR_BYTES;                  /* the same */
    static constexpr uint32_t DS_ALL = DS + C::PAIR_BYTES; /* all keys, this CTA's queries */
    static constexpr uint32_t DQ = DS_ALL + C::PAIR_BYTES;
    static constexpr uint32_t STATISTICS = DQ + C::DQ_READERS * C::DQ_SLOTS * C::DQ_BYTES;
    static constexpr uint32_t TILES = STATISTICS + C::STATISTICS_STAGES * 2 * C::ROW_BYTES;
    static constexpr uint32_t TILE_RING = TILES + C::TILE_SLOTS * attn::TILE_BYTES;
    static constexpr uint32_t STATISTICS_RING = TILE_RING + attn::ring_barriers(C::TILE_SLOTS);
    static constexpr uint32_t STREAM_RING =
        STATISTICS_RING + attn::ring_barriers(C::STATISTICS_STAGES);
    static constexpr uint32_t K_RING = STREAM_RING + attn::ring_barriers(C::PIECES);
    static constexpr uint32_t V_RING = K_RING + attn::ring_barriers(1);
    static constexpr uint32_t KT_RING = V_RING + attn::ring_barriers(1);
    static constexpr uint32_t END = KT_RING + attn::ring_barriers(1);

    GPU_INLINE void init(uint32_t smem)
    {
        attn::ring_init<C::STATISTICS_STAGES>(smem + STATISTICS_RING, 1, 1);
        attn::ring_init<C::PIECES>(smem + STREAM_RING, 1, 1);
        attn::ring_init<1>(smem + K_RING, 1, 1);
        attn::ring_init<1>(smem + V_RING, 1, 1);
        attn::ring_init<1>(smem + KT_RING, 1, 1);
    }
};

/* Nothing lies on anything. Lanes 64 and up have the right half of each product's columns. */
template <typename TYPE, int DIM, int DIM_V, bool CAPPED, bool ORDERED>
struct bwd_columns<bwd_wide_config<TYPE, DIM, DIM_V, CAPPED, ORDERED>> {
    using C = bwd_wide_config<TYPE, DIM, DIM_V, CAPPED, ORDERED>;
    static constexpr uint32_t S = 0;
    static constexpr uint32_t DP = S + C::M / 2;
    static constexpr uint32_t DV = DP + C::M / 2;
    static constexpr uint32_t DK = DV + C::DV_SHARE;
    static constexpr uint32_t DQ = DK + C::D_SHARE;
    static constexpr uint32_t USED = DQ + C::D_SHARE;
    static_assert(USED <= gpu::TMEM_COLUMNS, "all there is");
};

/* ---- where a piece of the stream, and a warp's block, lie ---- */

template <class C>
GPU_INLINE uint32_t wide_piece(uint32_t smem, uint32_t piece)
{
    return smem + bwd_smem<C>::STREAM + attn::ring_slot<C::PIECES>(piece) * C::PIECE_BYTES;
}

/* A compute warp's queries: lanes 64 and up have the other CTA's half of a product's columns, and
 * each of the two warps of a quarter half of those. */
GPU_INLINE int wide_query(const bwd_lane &me)
{
    return me.warp / 2 * (TILE_ROWS / 2) + me.half * BLOCK;
}

/* Its block of P^T or dS^T of this CTA's keys. */
template <class C>
GPU_INLINE uint32_t wide_block(uint32_t panels, const bwd_lane &me)
{
    uint32_t panel = static_cast<uint32_t>(wide_query(me) / BLOCK);
    return panels + panel * (C::ROWS * BLOCK_ROW) +
           static_cast<uint32_t>(me.warp % 2) * BLOCK_BYTES;
}

/* Where the CTA whose queries they are has its block of dS^T. */
template <class C>
GPU_INLINE uint32_t wide_block_all(uint32_t smem, const bwd_lane &me)
{
    return smem + bwd_smem<C>::DS_ALL + static_cast<uint32_t>(me.half) * (C::N * BLOCK_ROW) +
           static_cast<uint32_t>(bwd_first_key<C>(me)) * BLOCK_ROW;
}

/* Pairs from `column` of a block on, in the lane's row. */
template <int COUNT>
GPU_INLINE void put_pairs(uint32_t block, int column, const uint32_t (&pairs)[COUNT],
                          const bwd_lane &me)
{
    uint32_t row = gpu::tile_address(BLOCK_SWIZZLE, block, BLOCK, static_cast<uint32_t>(me.lane),
                                     static_cast<uint32_t>(column) * 2);
#pragma unroll
    for (uint32_t i = 0; i < COUNT / 4; i++) {
        const uint32_t *x = &pairs[4 * i];
        gpu::smem_store(in_panel(row, i), gpu::u32x4{x[0], x[1], x[2], x[3]});
    }
}

} // namespace sm100

#endif
