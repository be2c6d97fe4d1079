/*
 * gpu/registers: move registers between warpgroups. All four warps of a warpgroup call it; over the
 * block the counts must sum to at most 512 per thread column (65536 registers / 128 threads).
 */
#ifndef GPU_REGISTERS_CUH
#define GPU_REGISTERS_CUH

#include "gpu/types.cuh"

namespace gpu
{

template <int COUNT>
GPU_INLINE void registers_take()
{
    static_assert(COUNT % 8 == 0 && COUNT >= 24 && COUNT <= 256, "setmaxnreg: 24..256 by 8");
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT) : "memory");
}

template <int COUNT>
GPU_INLINE void registers_give()
{
    static_assert(COUNT % 8 == 0 && COUNT >= 24 && COUNT <= 256, "setmaxnreg: 24..256 by 8");
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT) : "memory");
}

} // namespace gpu

#endif
