/* gpu/fence on the host: see kernels/gpu/fence.cuh for what each function means. */
#ifndef SIM_GPU_FENCE_CUH
#define SIM_GPU_FENCE_CUH

#include "gpu/types.cuh"
#include "sim/ops.h"

namespace gpu
{

GPU_INLINE void fence_async_smem(sim::where at = SIM_HERE)
{
    sim::fence_async(at);
}

GPU_INLINE void fence_async_global(sim::where at = SIM_HERE)
{
    sim::fence_async_global(at);
}

GPU_INLINE void fence_gpu()
{
}

} // namespace gpu

#endif
