/*
 * gpu/mbarrier: barriers in shared memory that count arrivals and bytes.
 *
 * Waits name the number of rounds that must be complete, not a parity: mbarrier_wait(b, 0) passes
 * at once, mbarrier_wait(b, 1) waits for the first round. The hardware sees the low bit only, so a
 * waiter is never more than one round behind; the simulator checks that from the full number.
 * Ring of S stages, use number i (0, 1, ..): a consumer waits full[i % S] for round i / S + 1, the
 * producer waits empty[i % S] for round i / S.
 */
#ifndef GPU_MBARRIER_CUH
#define GPU_MBARRIER_CUH

#include "gpu/types.cuh"

namespace gpu
{

constexpr uint32_t MBARRIER_BYTES = 8;

/* One thread; arrivals: how many arrives complete a round. */
GPU_INLINE void mbarrier_init(uint32_t barrier, uint32_t arrivals)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals)
                 : "memory");
}

/* After the inits and before the block_sync: makes them visible to TMA and to the cluster. */
GPU_INLINE void mbarrier_init_fence()
{
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

GPU_INLINE void mbarrier_arrive(uint32_t barrier)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

/* Arrive, and let the round also wait for this many bytes of TMA writes. */
GPU_INLINE void mbarrier_arrive_expect(uint32_t barrier, uint32_t bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
                 : "memory");
}

/* The same on a barrier of any block of the cluster (gpu/cluster). */
GPU_INLINE void mbarrier_arrive_cluster(cluster_address barrier)
{
    asm volatile("mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%0];" ::"r"(barrier.bits)
                 : "memory");
}

GPU_INLINE void mbarrier_arrive_expect_cluster(cluster_address barrier, uint32_t bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.release.cluster.shared::cluster.b64 _, [%0], %1;" ::"r"(
                     barrier.bits),
                 "r"(bytes)
                 : "memory");
}

/* Has the round completed? Only a hint when false: ask again or wait. */
GPU_INLINE bool mbarrier_test(uint32_t barrier, uint32_t rounds)
{
    uint32_t done;
    asm volatile("{\n"
                 ".reg .pred p;\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
                 "selp.u32 %0, 1, 0, p;\n"
                 "}\n"
                 : "=r"(done)
                 : "r"(barrier), "r"((rounds + 1) & 1)
                 : "memory");
    return done != 0;
}

GPU_INLINE void mbarrier_wait(uint32_t barrier, uint32_t rounds)
{
    asm volatile("{\n"
                 ".reg .pred p;\n"
                 "again:\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n"
                 "@p bra done;\n"
                 "bra again;\n"
                 "done:\n"
                 "}\n" ::"r"(barrier),
                 "r"((rounds + 1) & 1)
                 : "memory");
}

/* For what threads of other blocks did before they arrived; bytes of copies need no more than
 * mbarrier_wait. */
GPU_INLINE void mbarrier_wait_cluster(uint32_t barrier, uint32_t rounds)
{
    asm volatile("{\n"
                 ".reg .pred p;\n"
                 "again:\n"
                 "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%0], %1;\n"
                 "@p bra done;\n"
                 "bra again;\n"
                 "done:\n"
                 "}\n" ::"r"(barrier),
                 "r"((rounds + 1) & 1)
                 : "memory");
}

} // namespace gpu

#endif
