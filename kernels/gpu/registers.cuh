/*
 * gpu/registers: who has registers, and what is not worth one.
 *
 * registers_take, registers_give: move registers between warpgroups. All four warps of a warpgroup
 * call it. Over the block's warpgroups the counts must sum to at most what it was launched with:
 * warpgroups * (65536 / threads, rounded down to 8), which is 504 for three and 512 for two or
 * four. Asking for more waits forever (32 + 240 + 240 hung an H200).
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

/*
 * The same number, but for the compiler a new one: what is derived from it is derived again rather
 * than kept in a register from before, or through a loop. (The products of a backward step have 80
 * operand descriptors, each one addition away from the start of shared memory.)
 */
GPU_INLINE uint32_t registers_forget(uint32_t x)
{
    asm volatile("" : "+r"(x));
    return x;
}

} // namespace gpu

#endif
