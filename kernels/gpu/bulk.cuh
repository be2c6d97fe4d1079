/*
 * gpu/bulk: one-dimensional asynchronous copies between global and shared memory. Addresses and
 * sizes are multiples of 16 bytes. Loads report to an mbarrier; stores and reductions belong to the
 * issuing thread's bulk groups (commit, then wait), as do the tensor stores of gpu/tma.
 */
#ifndef GPU_BULK_CUH
#define GPU_BULK_CUH

#include "gpu/types.cuh"

namespace gpu
{

GPU_INLINE void bulk_load(uint32_t target, const void *source, uint32_t bytes, uint32_t barrier,
                          l2 hint = l2::normal)
{
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes"
                 ".L2::cache_hint [%0], [%1], %2, [%3], %4;" ::"r"(target),
                 "l"(source), "r"(bytes), "r"(barrier), "l"(static_cast<uint64_t>(hint))
                 : "memory");
}

/* To the same place, and the same mbarrier, in each block of the cluster that has its bit in the
 * mask. */
GPU_INLINE void bulk_load_multicast(uint32_t target, const void *source, uint32_t bytes,
                                    uint32_t barrier, uint32_t mask, l2 hint = l2::normal)
{
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes"
                 ".multicast::cluster.L2::cache_hint [%0], [%1], %2, [%3], %4, %5;" ::"r"(target),
                 "l"(source), "r"(bytes), "r"(barrier), "h"(static_cast<uint16_t>(mask)),
                 "l"(static_cast<uint64_t>(hint))
                 : "memory");
}

GPU_INLINE void bulk_store(void *target, uint32_t source, uint32_t bytes, l2 hint = l2::normal)
{
    asm volatile(
        "cp.async.bulk.global.shared::cta.bulk_group.L2::cache_hint [%0], [%1], %2, %3;" ::"l"(
            target),
        "r"(source), "r"(bytes), "l"(static_cast<uint64_t>(hint))
        : "memory");
}

/* target[i] += source[i] in fp32, atomically per element, in an order nobody fixes. */
GPU_INLINE void bulk_reduce_add(float *target, uint32_t source, uint32_t bytes,
                                l2 hint = l2::normal)
{
    asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group.L2::cache_hint.add.f32"
                 " [%0], [%1], %2, %3;" ::"l"(target),
                 "r"(source), "r"(bytes), "l"(static_cast<uint64_t>(hint))
                 : "memory");
}

GPU_INLINE void bulk_commit()
{
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

/* At most PENDING groups of this thread still read shared memory: the others' source may change. */
template <int PENDING>
GPU_INLINE void bulk_wait_read()
{
    asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(PENDING) : "memory");
}

/* At most PENDING groups of this thread are unfinished: the others' writes are done. */
template <int PENDING>
GPU_INLINE void bulk_wait()
{
    asm volatile("cp.async.bulk.wait_group %0;" ::"n"(PENDING) : "memory");
}

} // namespace gpu

#endif
