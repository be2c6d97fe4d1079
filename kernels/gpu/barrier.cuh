/*
 * gpu/barrier: barriers of warps of one block. The hardware has 16; 0 is block_sync's own. The id
 * is a template parameter because a register id makes ptxas reserve all 16 and slows the
 * instruction. threads counts those that sync plus those that arrive: a multiple of 32, the same in
 * every call.
 */
#ifndef GPU_BARRIER_CUH
#define GPU_BARRIER_CUH

#include "gpu/types.cuh"

namespace gpu
{

constexpr int NAMED_BARRIERS = 16;

GPU_INLINE void block_sync()
{
    __syncthreads();
}

template <int ID>
GPU_INLINE void barrier_sync(int threads)
{
    static_assert(ID > 0 && ID < NAMED_BARRIERS, "barrier ids are 1 to 15; 0 is block_sync");
    asm volatile("barrier.cta.sync.aligned %0, %1;" ::"n"(ID), "r"(threads) : "memory");
}

template <int ID>
GPU_INLINE void barrier_arrive(int threads)
{
    static_assert(ID > 0 && ID < NAMED_BARRIERS, "barrier ids are 1 to 15; 0 is block_sync");
    asm volatile("barrier.cta.arrive.aligned %0, %1;" ::"n"(ID), "r"(threads) : "memory");
}

} // namespace gpu

#endif
