/* gpu/tma on the host: see kernels/gpu/tma.cuh for what each function means. */
#ifndef SIM_GPU_TMA_CUH
#define SIM_GPU_TMA_CUH

#include "gpu/tensor_map.cuh"
#include "gpu/types.cuh"
#include "sim/ops.h"

namespace gpu
{

GPU_INLINE void tensor_map_prefetch(const tensor_map *)
{
}

GPU_INLINE void tensor_map_acquire(const tensor_map *)
{
}

GPU_INLINE void tma_load(uint32_t target, const tensor_map *map, uint32_t barrier, l2, int32_t c0,
                         int32_t c1, sim::where at = SIM_HERE)
{
    const int32_t c[] = {c0, c1};
    sim::tensor_load(target, map->shape, barrier, c, 2, at);
}

GPU_INLINE void tma_load(uint32_t target, const tensor_map *map, uint32_t barrier, l2, int32_t c0,
                         int32_t c1, int32_t c2, sim::where at = SIM_HERE)
{
    const int32_t c[] = {c0, c1, c2};
    sim::tensor_load(target, map->shape, barrier, c, 3, at);
}

GPU_INLINE void tma_load(uint32_t target, const tensor_map *map, uint32_t barrier, l2, int32_t c0,
                         int32_t c1, int32_t c2, int32_t c3, sim::where at = SIM_HERE)
{
    const int32_t c[] = {c0, c1, c2, c3};
    sim::tensor_load(target, map->shape, barrier, c, 4, at);
}

GPU_INLINE void tma_load(uint32_t target, const tensor_map *map, uint32_t barrier, l2, int32_t c0,
                         int32_t c1, int32_t c2, int32_t c3, int32_t c4, sim::where at = SIM_HERE)
{
    const int32_t c[] = {c0, c1, c2, c3, c4};
    sim::tensor_load(target, map->shape, barrier, c, 5, at);
}

GPU_INLINE void tma_load_multicast(uint32_t target, const tensor_map *map, uint32_t barrier,
                                   uint32_t mask, l2, int32_t c0, int32_t c1, int32_t c2,
                                   sim::where at = SIM_HERE)
{
    const int32_t c[] = {c0, c1, c2};
    sim::tensor_load_multicast(target, map->shape, barrier, mask, c, 3, at);
}

GPU_INLINE void tma_load_multicast(uint32_t target, const tensor_map *map, uint32_t barrier,
                                   uint32_t mask, l2, int32_t c0, int32_t c1, int32_t c2,
                                   int32_t c3, sim::where at = SIM_HERE)
{
    const int32_t c[] = {c0, c1, c2, c3};
    sim::tensor_load_multicast(target, map->shape, barrier, mask, c, 4, at);
}

GPU_INLINE void tma_store(const tensor_map *map, uint32_t source, l2, int32_t c0, int32_t c1,
                          sim::where at = SIM_HERE)
{
    const int32_t c[] = {c0, c1};
    sim::tensor_store(map->shape, source, c, 2, false, at);
}

GPU_INLINE void tma_store(const tensor_map *map, uint32_t source, l2, int32_t c0, int32_t c1,
                          int32_t c2, sim::where at = SIM_HERE)
{
    const int32_t c[] = {c0, c1, c2};
    sim::tensor_store(map->shape, source, c, 3, false, at);
}

GPU_INLINE void tma_store(const tensor_map *map, uint32_t source, l2, int32_t c0, int32_t c1,
                          int32_t c2, int32_t c3, sim::where at = SIM_HERE)
{
    const int32_t c[] = {c0, c1, c2, c3};
    sim::tensor_store(map->shape, source, c, 4, false, at);
}

GPU_INLINE void tma_store(const tensor_map *map, uint32_t source, l2, int32_t c0, int32_t c1,
                          int32_t c2, int32_t c3, int32_t c4, sim::where at = SIM_HERE)
{
    const int32_t c[] = {c0, c1, c2, c3, c4};
    sim::tensor_store(map->shape, source, c, 5, false, at);
}

GPU_INLINE void tma_reduce_add(const tensor_map *map, uint32_t source, l2, int32_t c0, int32_t c1,
                               sim::where at = SIM_HERE)
{
    const int32_t c[] = {c0, c1};
    sim::tensor_store(map->shape, source, c, 2, true, at);
}

GPU_INLINE void tma_reduce_add(const tensor_map *map, uint32_t source, l2, int32_t c0, int32_t c1,
                               int32_t c2, sim::where at = SIM_HERE)
{
    const int32_t c[] = {c0, c1, c2};
    sim::tensor_store(map->shape, source, c, 3, true, at);
}

GPU_INLINE void tma_reduce_add(const tensor_map *map, uint32_t source, l2, int32_t c0, int32_t c1,
                               int32_t c2, int32_t c3, sim::where at = SIM_HERE)
{
    const int32_t c[] = {c0, c1, c2, c3};
    sim::tensor_store(map->shape, source, c, 4, true, at);
}

GPU_INLINE void tma_reduce_add(const tensor_map *map, uint32_t source, l2, int32_t c0, int32_t c1,
                               int32_t c2, int32_t c3, int32_t c4, sim::where at = SIM_HERE)
{
    const int32_t c[] = {c0, c1, c2, c3, c4};
    sim::tensor_store(map->shape, source, c, 5, true, at);
}

} // namespace gpu

#endif
