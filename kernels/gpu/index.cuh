/* gpu/index: who am I. */
#ifndef GPU_INDEX_CUH
#define GPU_INDEX_CUH

#include "gpu/types.cuh"

namespace gpu
{

/* Index in the block; kernels are launched with one-dimensional blocks. */
GPU_INLINE int thread_index()
{
    return static_cast<int>(threadIdx.x);
}

GPU_INLINE int lane_index()
{
    return static_cast<int>(threadIdx.x & 31);
}

/*
 * Through a shuffle, so that the compiler knows that the value is the same in all lanes: role
 * branches become uniform and descriptors live in uniform registers (without it a backward kernel
 * spilled 96 to 204 bytes, with it none).
 */
GPU_INLINE int warp_index()
{
    return __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x / 32), 0);
}

GPU_INLINE int warpgroup_index()
{
    return __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x / 128), 0);
}

GPU_INLINE int block_threads()
{
    return static_cast<int>(blockDim.x);
}

GPU_INLINE int block_x()
{
    return static_cast<int>(blockIdx.x);
}

GPU_INLINE int block_y()
{
    return static_cast<int>(blockIdx.y);
}

GPU_INLINE int block_z()
{
    return static_cast<int>(blockIdx.z);
}

GPU_INLINE int grid_x()
{
    return static_cast<int>(gridDim.x);
}

GPU_INLINE int grid_y()
{
    return static_cast<int>(gridDim.y);
}

GPU_INLINE int grid_z()
{
    return static_cast<int>(gridDim.z);
}

} // namespace gpu

#endif
