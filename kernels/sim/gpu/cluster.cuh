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

GPU_INLINE uint32_t cluster_blocks()
{
    return sim::cluster_blocks();
}

GPU_INLINE void cluster_arrive(sim::where at = SIM_HERE)
{
    sim::cluster_arrive(at);
}

GPU_INLINE void cluster_wait(sim::where at = SIM_HERE)
{
    sim::cluster_wait(at);
}

GPU_INLINE cluster_address cluster_map(uint32_t address, uint32_t rank)
{
    return sim::cluster_map(address, rank);
}

template <typename T>
GPU_INLINE T smem_load_cluster(cluster_address from, sim::where at = SIM_HERE)
{
    T value;
    sim::smem_read_cluster(from, &value, sizeof value, at);
    return value;
}

GPU_INLINE void smem_store_cluster(cluster_address to, float value, sim::where at = SIM_HERE)
{
    sim::smem_write_cluster(to, &value, sizeof value, at);
}

GPU_INLINE void smem_store_cluster(cluster_address to, uint32_t value, sim::where at = SIM_HERE)
{
    sim::smem_write_cluster(to, &value, sizeof value, at);
}

GPU_INLINE void smem_store_cluster(cluster_address to, f32x4 value, sim::where at = SIM_HERE)
{
    sim::smem_write_cluster(to, &value, sizeof value, at);
}

GPU_INLINE void smem_store_cluster(cluster_address to, u32x4 value, sim::where at = SIM_HERE)
{
    sim::smem_write_cluster(to, &value, sizeof value, at);
}

GPU_INLINE void bulk_copy_cluster(cluster_address target, uint32_t source, uint32_t bytes,
                                  cluster_address barrier, sim::where at = SIM_HERE)
{
    sim::bulk_copy_cluster(target, source, bytes, barrier, at);
}

} // namespace gpu

#endif
