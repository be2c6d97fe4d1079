/*
 * gpu/tcgen05_pair: multiplications of a pair of blocks (cta_group::2): ranks 2 i and 2 i + 1 of a
 * cluster. Loads, stores, waits and fences are those of gpu/tcgen05; the rest of a kernel that uses
 * these is of this kind, too.
 *
 * The even block issues. A descriptor means the same place in both blocks' shared memory, an
 * address the same columns of both tensor memories. Each block has half of A's rows (M) and half of
 * B's (N), whichever way they are stored. M 256   block r has rows 128 r .. of D, a row per lane,
 * all N columns; A in tensor memory alike M 128   block r has rows 64 r ..; lanes 0 to 63 the left
 * half of the columns, 64 to 127 the right one: N / 2 columns of tensor memory. A in shared memory
 * only. Neither block ends, or gives its tensor memory back, before it knows of the last commit.
 */
#ifndef GPU_TCGEN05_PAIR_CUH
#define GPU_TCGEN05_PAIR_CUH

#include "gpu/tcgen05.cuh"
#include "gpu/tensor_map.cuh"

namespace gpu
{

/* One warp of each block: both take the same columns, and the first waits for the second. */
template <int COLUMNS>
GPU_INLINE void tmem_take_pair(uint32_t smem_target)
{
    static_assert(COLUMNS >= 32 && COLUMNS <= 512 && (COLUMNS & (COLUMNS - 1)) == 0,
                  "32..512, 2^n");
    asm volatile(
        "tcgen05.alloc.cta_group::2.sync.aligned.shared::cta.b32 [%0], %1;" ::"r"(smem_target),
        "n"(COLUMNS)
        : "memory");
}

/* One warp of each block, after every other use by both. */
template <int COLUMNS>
GPU_INLINE void tmem_give_pair(uint32_t base)
{
    asm volatile("tcgen05.dealloc.cta_group::2.sync.aligned.b32 %0, %1;" ::"r"(base), "n"(COLUMNS)
                 : "memory");
}

GPU_INLINE void tmem_take_no_more_pair()
{
    asm volatile("tcgen05.relinquish_alloc_permit.cta_group::2.sync.aligned;" ::: "memory");
}

GPU_INLINE void tcgen05_multiply_pair(uint32_t d, uint64_t a, uint64_t b, uint32_t instruction,
                                      bool add)
{
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %4, 0;\ntcgen05.mma.cta_group::2.kind::f16 "
                 "[%0], %1, %2, %3, p;\n}\n" ::"r"(d),
                 "l"(a), "l"(b), "r"(instruction), "r"(static_cast<uint32_t>(add))
                 : "memory");
}

GPU_INLINE void tcgen05_multiply_tensor_pair(uint32_t d, uint32_t a, uint64_t b,
                                             uint32_t instruction, bool add)
{
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %4, 0;\ntcgen05.mma.cta_group::2.kind::f16 "
                 "[%0], [%1], %2, %3, p;\n}\n" ::"r"(d),
                 "r"(a), "l"(b), "r"(instruction), "r"(static_cast<uint32_t>(add))
                 : "memory");
}

/* One arrival on the mbarrier at this place in each block of the cluster that has its bit in the
 * mask. */
GPU_INLINE void tcgen05_commit_pair(uint32_t barrier, uint32_t mask)
{
    asm volatile("tcgen05.commit.cta_group::2.mbarrier::arrive::one.shared::cluster"
                 ".multicast::cluster.b64 [%0], %1;" ::"r"(barrier),
                 "h"(static_cast<uint16_t>(mask))
                 : "memory");
}

/* To this block's own shared memory; the bytes count on an mbarrier of either block of the pair. */
GPU_INLINE void tma_load_pair(uint32_t target, const tensor_map *map, cluster_address barrier,
                              l2 hint, int32_t c0, int32_t c1, int32_t c2, int32_t c3)
{
    asm volatile("cp.async.bulk.tensor.4d.cta_group::2.shared::cluster.global"
                 ".mbarrier::complete_tx::bytes.L2::cache_hint"
                 " [%0], [%1, {%3, %4, %5, %6}], [%2], %7;" ::"r"(target),
                 "l"(map), "r"(barrier.bits), "r"(c0), "r"(c1), "r"(c2), "r"(c3),
                 "l"(static_cast<uint64_t>(hint))
                 : "memory");
}

} // namespace gpu

#endif
