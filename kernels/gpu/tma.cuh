/*
 * gpu/tma: tensor copies between global and shared memory. One thread issues; a load reports its
 * bytes (tensor_box_bytes, out-of-bounds part included) to an mbarrier, stores and reductions join
 * the thread's bulk group (gpu/bulk). Shared addresses are multiples of 128, of the swizzle atom
 * for swizzled boxes. Coordinates count elements, innermost first, and may lie outside the tensor:
 * there loads give zeros and stores write nothing. Not so a load that begins beyond the last
 * column or row: through a ragged map an H200 answered it with an illegal address.
 */
#ifndef GPU_TMA_CUH
#define GPU_TMA_CUH

#include "gpu/tensor_map.cuh"
#include "gpu/types.cuh"

namespace gpu
{

/* Fetch the map itself ahead of its first use. */
GPU_INLINE void tensor_map_prefetch(const tensor_map *map)
{
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

/* Before the first use of a map in global memory that other device work wrote. */
GPU_INLINE void tensor_map_acquire(const tensor_map *map)
{
    asm volatile("fence.proxy.tensormap::generic.acquire.gpu [%0], 128;" ::"l"(map) : "memory");
}

GPU_INLINE void tma_load(uint32_t target, const tensor_map *map, uint32_t barrier, l2 hint,
                         int32_t c0, int32_t c1)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
                 ".L2::cache_hint [%0], [%1, {%3, %4}], [%2], %5;" ::"r"(target),
                 "l"(map), "r"(barrier), "r"(c0), "r"(c1), "l"(static_cast<uint64_t>(hint))
                 : "memory");
}

GPU_INLINE void tma_load(uint32_t target, const tensor_map *map, uint32_t barrier, l2 hint,
                         int32_t c0, int32_t c1, int32_t c2)
{
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes"
                 ".L2::cache_hint [%0], [%1, {%3, %4, %5}], [%2], %6;" ::"r"(target),
                 "l"(map), "r"(barrier), "r"(c0), "r"(c1), "r"(c2), "l"(static_cast<uint64_t>(hint))
                 : "memory");
}

GPU_INLINE void tma_load(uint32_t target, const tensor_map *map, uint32_t barrier, l2 hint,
                         int32_t c0, int32_t c1, int32_t c2, int32_t c3)
{
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes"
                 ".L2::cache_hint [%0], [%1, {%3, %4, %5, %6}], [%2], %7;" ::"r"(target),
                 "l"(map), "r"(barrier), "r"(c0), "r"(c1), "r"(c2), "r"(c3),
                 "l"(static_cast<uint64_t>(hint))
                 : "memory");
}

GPU_INLINE void tma_load(uint32_t target, const tensor_map *map, uint32_t barrier, l2 hint,
                         int32_t c0, int32_t c1, int32_t c2, int32_t c3, int32_t c4)
{
    asm volatile("cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes"
                 ".L2::cache_hint [%0], [%1, {%3, %4, %5, %6, %7}], [%2], %8;" ::"r"(target),
                 "l"(map), "r"(barrier), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(c4),
                 "l"(static_cast<uint64_t>(hint))
                 : "memory");
}

/*
 * To the same place in each block of the cluster that has its bit in the mask; each gets the bytes
 * on its own mbarrier at the same place.
 */
GPU_INLINE void tma_load_multicast(uint32_t target, const tensor_map *map, uint32_t barrier,
                                   uint32_t mask, l2 hint, int32_t c0, int32_t c1, int32_t c2)
{
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes"
                 ".multicast::cluster.L2::cache_hint"
                 " [%0], [%1, {%4, %5, %6}], [%2], %3, %7;" ::"r"(target),
                 "l"(map), "r"(barrier), "h"(static_cast<uint16_t>(mask)), "r"(c0), "r"(c1),
                 "r"(c2), "l"(static_cast<uint64_t>(hint))
                 : "memory");
}

GPU_INLINE void tma_load_multicast(uint32_t target, const tensor_map *map, uint32_t barrier,
                                   uint32_t mask, l2 hint, int32_t c0, int32_t c1, int32_t c2,
                                   int32_t c3)
{
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes"
                 ".multicast::cluster.L2::cache_hint"
                 " [%0], [%1, {%4, %5, %6, %7}], [%2], %3, %8;" ::"r"(target),
                 "l"(map), "r"(barrier), "h"(static_cast<uint16_t>(mask)), "r"(c0), "r"(c1),
                 "r"(c2), "r"(c3), "l"(static_cast<uint64_t>(hint))
                 : "memory");
}

GPU_INLINE void tma_store(const tensor_map *map, uint32_t source, l2 hint, int32_t c0, int32_t c1)
{
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group.L2::cache_hint"
                 " [%0, {%2, %3}], [%1], %4;" ::"l"(map),
                 "r"(source), "r"(c0), "r"(c1), "l"(static_cast<uint64_t>(hint))
                 : "memory");
}

GPU_INLINE void tma_store(const tensor_map *map, uint32_t source, l2 hint, int32_t c0, int32_t c1,
                          int32_t c2)
{
    asm volatile("cp.async.bulk.tensor.3d.global.shared::cta.tile.bulk_group.L2::cache_hint"
                 " [%0, {%2, %3, %4}], [%1], %5;" ::"l"(map),
                 "r"(source), "r"(c0), "r"(c1), "r"(c2), "l"(static_cast<uint64_t>(hint))
                 : "memory");
}

GPU_INLINE void tma_store(const tensor_map *map, uint32_t source, l2 hint, int32_t c0, int32_t c1,
                          int32_t c2, int32_t c3)
{
    asm volatile("cp.async.bulk.tensor.4d.global.shared::cta.tile.bulk_group.L2::cache_hint"
                 " [%0, {%2, %3, %4, %5}], [%1], %6;" ::"l"(map),
                 "r"(source), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "l"(static_cast<uint64_t>(hint))
                 : "memory");
}

GPU_INLINE void tma_store(const tensor_map *map, uint32_t source, l2 hint, int32_t c0, int32_t c1,
                          int32_t c2, int32_t c3, int32_t c4)
{
    asm volatile("cp.async.bulk.tensor.5d.global.shared::cta.tile.bulk_group.L2::cache_hint"
                 " [%0, {%2, %3, %4, %5, %6}], [%1], %7;" ::"l"(map),
                 "r"(source), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(c4),
                 "l"(static_cast<uint64_t>(hint))
                 : "memory");
}

/* target += source, in the tensor's element type, atomic per element. */
GPU_INLINE void tma_reduce_add(const tensor_map *map, uint32_t source, l2 hint, int32_t c0,
                               int32_t c1)
{
    asm volatile(
        "cp.reduce.async.bulk.tensor.2d.global.shared::cta.add.tile.bulk_group.L2::cache_hint"
        " [%0, {%2, %3}], [%1], %4;" ::"l"(map),
        "r"(source), "r"(c0), "r"(c1), "l"(static_cast<uint64_t>(hint))
        : "memory");
}

GPU_INLINE void tma_reduce_add(const tensor_map *map, uint32_t source, l2 hint, int32_t c0,
                               int32_t c1, int32_t c2)
{
    asm volatile(
        "cp.reduce.async.bulk.tensor.3d.global.shared::cta.add.tile.bulk_group.L2::cache_hint"
        " [%0, {%2, %3, %4}], [%1], %5;" ::"l"(map),
        "r"(source), "r"(c0), "r"(c1), "r"(c2), "l"(static_cast<uint64_t>(hint))
        : "memory");
}

GPU_INLINE void tma_reduce_add(const tensor_map *map, uint32_t source, l2 hint, int32_t c0,
                               int32_t c1, int32_t c2, int32_t c3)
{
    asm volatile(
        "cp.reduce.async.bulk.tensor.4d.global.shared::cta.add.tile.bulk_group.L2::cache_hint"
        " [%0, {%2, %3, %4, %5}], [%1], %6;" ::"l"(map),
        "r"(source), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "l"(static_cast<uint64_t>(hint))
        : "memory");
}

GPU_INLINE void tma_reduce_add(const tensor_map *map, uint32_t source, l2 hint, int32_t c0,
                               int32_t c1, int32_t c2, int32_t c3, int32_t c4)
{
    asm volatile(
        "cp.reduce.async.bulk.tensor.5d.global.shared::cta.add.tile.bulk_group.L2::cache_hint"
        " [%0, {%2, %3, %4, %5, %6}], [%1], %7;" ::"l"(map),
        "r"(source), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(c4), "l"(static_cast<uint64_t>(hint))
        : "memory");
}

} // namespace gpu

#endif
