/*
 * gpu/cluster: blocks of one cluster, and each other's shared memory.
 *
 * A block may be reached once it is known to run (cluster_arrive, cluster_wait at the start: they
 * order what all threads of the cluster did before) and until it ends: it must not end before it
 * knows that what others do in its memory is done (the same at the end, or an mbarrier).
 */
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

GPU_INLINE uint32_t cluster_blocks()
{
    uint32_t count;
    asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(count));
    return count;
}

/* All threads of the cluster, once, before each cluster_wait. */
GPU_INLINE void cluster_arrive()
{
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}

GPU_INLINE void cluster_wait()
{
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

/* The same place as `address` in the block of this rank. */
GPU_INLINE cluster_address cluster_map(uint32_t address, uint32_t rank)
{
    cluster_address a;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(a.bits) : "r"(address), "r"(rank));
    return a;
}

/* T: float, f32x4, uint32_t, u32x4. */
template <typename T>
GPU_INLINE T smem_load_cluster(cluster_address from);

template <>
__device__ __forceinline__ float smem_load_cluster<float>(cluster_address from)
{
    float v;
    asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(v) : "r"(from.bits) : "memory");
    return v;
}

template <>
__device__ __forceinline__ uint32_t smem_load_cluster<uint32_t>(cluster_address from)
{
    uint32_t v;
    asm volatile("ld.shared::cluster.u32 %0, [%1];" : "=r"(v) : "r"(from.bits) : "memory");
    return v;
}

template <>
__device__ __forceinline__ f32x4 smem_load_cluster<f32x4>(cluster_address from)
{
    f32x4 v;
    asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
                 : "r"(from.bits)
                 : "memory");
    return v;
}

template <>
__device__ __forceinline__ u32x4 smem_load_cluster<u32x4>(cluster_address from)
{
    u32x4 v;
    asm volatile("ld.shared::cluster.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "r"(from.bits)
                 : "memory");
    return v;
}

GPU_INLINE void smem_store_cluster(cluster_address to, float v)
{
    asm volatile("st.shared::cluster.f32 [%0], %1;" ::"r"(to.bits), "f"(v) : "memory");
}

GPU_INLINE void smem_store_cluster(cluster_address to, uint32_t v)
{
    asm volatile("st.shared::cluster.u32 [%0], %1;" ::"r"(to.bits), "r"(v) : "memory");
}

GPU_INLINE void smem_store_cluster(cluster_address to, f32x4 v)
{
    asm volatile("st.shared::cluster.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(to.bits), "f"(v.x),
                 "f"(v.y), "f"(v.z), "f"(v.w)
                 : "memory");
}

GPU_INLINE void smem_store_cluster(cluster_address to, u32x4 v)
{
    asm volatile("st.shared::cluster.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(to.bits), "r"(v.x),
                 "r"(v.y), "r"(v.z), "r"(v.w)
                 : "memory");
}

/*
 * Copy from this block's shared memory to another's; its bytes count on an mbarrier there. The
 * source may change when that round is known to be complete. Multiples of 16.
 */
GPU_INLINE void bulk_copy_cluster(cluster_address target, uint32_t source, uint32_t bytes,
                                  cluster_address barrier)
{
    asm volatile("cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes"
                 " [%0], [%1], %2, [%3];" ::"r"(target.bits),
                 "r"(source), "r"(bytes), "r"(barrier.bits)
                 : "memory");
}

} // namespace gpu

#endif
