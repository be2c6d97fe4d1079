/*
 * gpu/registers: move registers between warpgroups. All four warps of a warpgroup call it. Over the
 * block's warpgroups the counts must sum to at most what it was launched with: warpgroups * (65536
 * / threads, rounded down to 8), which is 504 for three and 512 for two or four. Asking for more
 * waits forever (32 + 240 + 240 hung an H200).
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
