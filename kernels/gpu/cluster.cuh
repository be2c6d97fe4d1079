/* gpu/cluster: blocks of one cluster. */
#ifndef GPU_CLUSTER_CUH
#define GPU_CLUSTER_CUH

#include "gpu/types.cuh"

namespace gpu
{

GPU_INLINE uint32_t cluster_rank()
{
    uint32_t rank;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}

GPU_INLINE void cluster_arrive()
{
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}

GPU_INLINE void cluster_wait()
{
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

} // namespace gpu

#endif
