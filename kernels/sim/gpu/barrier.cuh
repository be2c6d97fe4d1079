/* gpu/barrier on the host: see kernels/gpu/barrier.cuh for what each function means. */
#ifndef SIM_GPU_BARRIER_CUH
#define SIM_GPU_BARRIER_CUH

#include "gpu/types.cuh"
#include "sim/machine.h"
#include "sim/ops.h"

namespace gpu
{

constexpr int NAMED_BARRIERS = 16;

GPU_INLINE void block_sync(sim::where at = SIM_HERE)
{
    sim::named_sync(0, sim::the_machine().shape.threads, at);
}

template <int ID>
GPU_INLINE void barrier_sync(int threads, sim::where at = SIM_HERE)
{
    static_assert(ID > 0 && ID < NAMED_BARRIERS, "barrier ids are 1 to 15; 0 is block_sync");
    sim::named_sync(ID, threads, at);
}

template <int ID>
GPU_INLINE void barrier_arrive(int threads, sim::where at = SIM_HERE)
{
    static_assert(ID > 0 && ID < NAMED_BARRIERS, "barrier ids are 1 to 15; 0 is block_sync");
    sim::named_arrive(ID, threads, at);
}

} // namespace gpu

#endif
