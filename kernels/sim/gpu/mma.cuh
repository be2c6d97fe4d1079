/* gpu/mma on the host: see kernels/gpu/mma.cuh for what each function means. */
#ifndef SIM_GPU_MMA_CUH
#define SIM_GPU_MMA_CUH

#include "gpu/types.cuh"
#include "gpu/wgmma.cuh"
#include "sim/ops.h"

namespace gpu
{

template <typename T>
GPU_INLINE void mma_16x8x16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                            sim::where at = SIM_HERE)
{
    sim::warp_multiply(d, a, b, wgmma_is_bf16<T>::value, at);
}

} // namespace gpu

#endif
