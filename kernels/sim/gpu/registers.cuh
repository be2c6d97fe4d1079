/* gpu/registers on the host: see kernels/gpu/registers.cuh for what each function means. */
#ifndef SIM_GPU_REGISTERS_CUH
#define SIM_GPU_REGISTERS_CUH

#include "gpu/types.cuh"
#include "sim/ops.h"

namespace gpu
{

template <int COUNT>
GPU_INLINE void registers_take(sim::where at = SIM_HERE)
{
    static_assert(COUNT % 8 == 0 && COUNT >= 24 && COUNT <= 256, "setmaxnreg: 24..256 by 8");
    sim::registers_change(COUNT, true, at);
}

template <int COUNT>
GPU_INLINE void registers_give(sim::where at = SIM_HERE)
{
    static_assert(COUNT % 8 == 0 && COUNT >= 24 && COUNT <= 256, "setmaxnreg: 24..256 by 8");
    sim::registers_change(COUNT, false, at);
}

GPU_INLINE uint32_t registers_forget(uint32_t x)
{
    return x;
}

} // namespace gpu

#endif
