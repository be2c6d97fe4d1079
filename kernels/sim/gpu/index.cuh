/* gpu/index on the host: see kernels/gpu/index.cuh for what each function means. */
#ifndef SIM_GPU_INDEX_CUH
#define SIM_GPU_INDEX_CUH

#include "gpu/types.cuh"
#include "sim/machine.h"

namespace gpu
{

GPU_INLINE int thread_index()
{
    return sim::self().index;
}

GPU_INLINE int lane_index()
{
    return sim::self().lane;
}

GPU_INLINE int warp_index()
{
    return sim::self().of->index;
}

GPU_INLINE int warpgroup_index()
{
    return sim::self().of->index / 4;
}

GPU_INLINE int block_threads()
{
    return sim::the_machine().shape.threads;
}

GPU_INLINE int block_x()
{
    return sim::self().owner->at[0];
}

GPU_INLINE int block_y()
{
    return sim::self().owner->at[1];
}

GPU_INLINE int block_z()
{
    return sim::self().owner->at[2];
}

GPU_INLINE int grid_x()
{
    return sim::the_machine().shape.grid[0];
}

GPU_INLINE int grid_y()
{
    return sim::the_machine().shape.grid[1];
}

GPU_INLINE int grid_z()
{
    return sim::the_machine().shape.grid[2];
}

} // namespace gpu

#endif
