/* gpu/grid on the host: see kernels/gpu/grid.cuh for what each function means. */
#ifndef SIM_GPU_GRID_CUH
#define SIM_GPU_GRID_CUH

#include "gpu/types.cuh"

namespace gpu
{

/* Launches run one after another. */
GPU_INLINE void grid_wait_previous()
{
}

GPU_INLINE void grid_start_next()
{
}

} // namespace gpu

#endif
