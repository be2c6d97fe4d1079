/*
 * common/tile: a tile of the plan as a kernel reads it: four 16-byte words in shared memory, where
 * a bulk copy put them. The fields are those of struct plan_tile.
 */
#ifndef COMMON_TILE_CUH
#define COMMON_TILE_CUH

#include "gpu/smem.cuh"
#include "gpu/types.cuh"
#include "kernels/plan.h"

namespace attn
{

using gpu::s32x4;

constexpr uint32_t TILE_BYTES = 64;
static_assert(sizeof(plan_tile) == TILE_BYTES, "four words of a bulk copy");

/* Which rows of which tensors. */
struct tile_place {
    int32_t set, head, row, rows;
};

/* Which blocks of the other side. */
struct tile_blocks {
    int32_t first, last, clear_first, clear_last;
};

/* One side of the sequence. */
struct tile_side {
    int32_t first, len, span, number; /* number: q: of the sequence, k: of its first stripe */
};

GPU_INLINE tile_place tile_read_place(uint32_t tile)
{
    s32x4 w = gpu::smem_load<s32x4>(tile);
    return {w.x, w.y, w.z, w.w};
}

/* Of a backward tile, whose rows say no more than whether it is an end mark. */
GPU_INLINE bool tile_read_ordered(uint32_t tile)
{
    return gpu::smem_load<int32_t>(tile + 12) >> 16 != 0;
}

GPU_INLINE tile_blocks tile_read_blocks(uint32_t tile)
{
    s32x4 w = gpu::smem_load<s32x4>(tile + 16);
    return {w.x, w.y, w.z, w.w};
}

GPU_INLINE tile_side tile_read_q(uint32_t tile)
{
    s32x4 w = gpu::smem_load<s32x4>(tile + 32);
    return {w.x, w.y, w.z, w.w};
}

GPU_INLINE tile_side tile_read_k(uint32_t tile)
{
    s32x4 w = gpu::smem_load<s32x4>(tile + 48);
    return {w.x, w.y, w.z, w.w};
}

} // namespace attn

#endif
