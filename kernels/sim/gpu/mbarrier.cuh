/* gpu/mbarrier on the host: see kernels/gpu/mbarrier.cuh for what each function means. */
#ifndef SIM_GPU_MBARRIER_CUH
#define SIM_GPU_MBARRIER_CUH

#include "gpu/types.cuh"
#include "sim/ops.h"

namespace gpu
{

constexpr uint32_t MBARRIER_BYTES = 8;

GPU_INLINE void mbarrier_init(uint32_t barrier, uint32_t arrivals, sim::where at = SIM_HERE)
{
    sim::mbarrier_open(barrier, arrivals, at);
}

GPU_INLINE void mbarrier_init_fence(sim::where at = SIM_HERE)
{
    sim::mbarrier_fence(at);
}

GPU_INLINE void mbarrier_arrive(uint32_t barrier, sim::where at = SIM_HERE)
{
    sim::mbarrier_arrive(barrier, 0, at);
}

GPU_INLINE void mbarrier_arrive_expect(uint32_t barrier, uint32_t bytes, sim::where at = SIM_HERE)
{
    sim::mbarrier_arrive(barrier, bytes, at);
}

GPU_INLINE void mbarrier_arrive_cluster(cluster_address barrier, sim::where at = SIM_HERE)
{
    sim::mbarrier_arrive_cluster(barrier, 0, at);
}

GPU_INLINE void mbarrier_arrive_expect_cluster(cluster_address barrier, uint32_t bytes,
                                               sim::where at = SIM_HERE)
{
    sim::mbarrier_arrive_cluster(barrier, bytes, at);
}

GPU_INLINE bool mbarrier_test(uint32_t barrier, uint32_t rounds, sim::where at = SIM_HERE)
{
    return sim::mbarrier_try(barrier, rounds, at);
}

GPU_INLINE void mbarrier_wait(uint32_t barrier, uint32_t rounds, sim::where at = SIM_HERE)
{
    sim::mbarrier_wait(barrier, rounds, at);
}

GPU_INLINE void mbarrier_wait_cluster(uint32_t barrier, uint32_t rounds, sim::where at = SIM_HERE)
{
    sim::mbarrier_wait_cluster(barrier, rounds, at);
}

} // namespace gpu

#endif
