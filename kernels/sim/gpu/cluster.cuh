/* gpu/cluster on the host: see kernels/gpu/cluster.cuh for what each function means. */
#ifndef SIM_GPU_CLUSTER_CUH
#define SIM_GPU_CLUSTER_CUH

#include "gpu/types.cuh"
#include "sim/ops.h"

namespace gpu
{

GPU_INLINE uint32_t cluster_rank()
{
    return sim::cluster_rank();
}

GPU_INLINE void cluster_arrive(sim::where at = SIM_HERE)
{
    sim::cluster_arrive(at);
}

GPU_INLINE void cluster_wait(sim::where at = SIM_HERE)
{
    sim::cluster_wait(at);
}

} // namespace gpu

#endif
