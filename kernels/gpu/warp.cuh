/*
 * gpu/warp: exchange inside one warp. Every function here is called by all 32 lanes together.
 */
#ifndef GPU_WARP_CUH
#define GPU_WARP_CUH

#include "gpu/types.cuh"

namespace gpu
{

constexpr uint32_t ALL_LANES = 0xffffffffu;

/* T: float, int32_t or uint32_t. */
template <typename T>
GPU_INLINE T shuffle_xor(T value, int lane_mask)
{
    return __shfl_xor_sync(ALL_LANES, value, lane_mask);
}

template <typename T>
GPU_INLINE T shuffle(T value, int source_lane)
{
    return __shfl_sync(ALL_LANES, value, source_lane);
}

template <typename T>
GPU_INLINE T shuffle_up(T value, int delta)
{
    return __shfl_up_sync(ALL_LANES, value, delta);
}

template <typename T>
GPU_INLINE T shuffle_down(T value, int delta)
{
    return __shfl_down_sync(ALL_LANES, value, delta);
}

GPU_INLINE bool vote_any(bool predicate)
{
    return __any_sync(ALL_LANES, predicate) != 0;
}

GPU_INLINE bool vote_all(bool predicate)
{
    return __all_sync(ALL_LANES, predicate) != 0;
}

GPU_INLINE uint32_t vote_mask(bool predicate)
{
    return __ballot_sync(ALL_LANES, predicate);
}

GPU_INLINE void warp_sync()
{
    __syncwarp(ALL_LANES);
}

/* True in exactly one lane, which one is the hardware's choice. */
GPU_INLINE bool elect_one()
{
    uint32_t elected;
    asm volatile("{\n"
                 ".reg .pred p;\n"
                 "elect.sync _|p, 0xffffffff;\n"
                 "selp.u32 %0, 1, 0, p;\n"
                 "}\n"
                 : "=r"(elected)::"memory");
    return elected != 0;
}

} // namespace gpu

#endif
