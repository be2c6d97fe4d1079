/* gpu/grid on the host: see kernels/gpu/grid.cuh for what each function means. */
#ifndef SIM_GPU_GRID_CUH
#define SIM_GPU_GRID_CUH

#include "gpu/types.cuh"
#include "sim/ops.h"

namespace gpu
{

/* Launches run one after another, but what one that overlaps touches before this is watched. */
GPU_INLINE void grid_wait_previous(sim::where at = SIM_HERE)
{
    sim::grid_wait_previous(at);
}

GPU_INLINE void grid_start_next()
{
}

} // namespace gpu

#endif
