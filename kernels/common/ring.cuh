/*
 * common/ring: slots in shared memory that one side fills and the other drains, each with a full
 * and an empty barrier: SLOTS full ones at `barriers`, then SLOTS empty ones. A use is counted from
 * 0 over the life of the block; use u lies in slot u % SLOTS.
 */
#ifndef COMMON_RING_CUH
#define COMMON_RING_CUH

#include "gpu/mbarrier.cuh"
#include "gpu/types.cuh"

namespace attn
{

template <int SLOTS>
GPU_INLINE uint32_t ring_slot(uint32_t use)
{
    return use % SLOTS;
}

template <int SLOTS>
GPU_INLINE uint32_t ring_full(uint32_t barriers, uint32_t use)
{
    return barriers + use % SLOTS * gpu::MBARRIER_BYTES;
}

template <int SLOTS>
GPU_INLINE uint32_t ring_empty(uint32_t barriers, uint32_t use)
{
    return barriers + (SLOTS + use % SLOTS) * gpu::MBARRIER_BYTES;
}

/* One thread. fillers, drainers: arrivals that make a slot full and empty. */
template <int SLOTS>
GPU_INLINE void ring_init(uint32_t barriers, uint32_t fillers, uint32_t drainers)
{
    for (uint32_t slot = 0; slot < SLOTS; slot++) {
        gpu::mbarrier_init(ring_full<SLOTS>(barriers, slot), fillers);
        gpu::mbarrier_init(ring_empty<SLOTS>(barriers, slot), drainers);
    }
}

template <int SLOTS>
GPU_INLINE void ring_wait_full(uint32_t barriers, uint32_t use)
{
    gpu::mbarrier_wait(ring_full<SLOTS>(barriers, use), use / SLOTS + 1);
}

template <int SLOTS>
GPU_INLINE void ring_wait_empty(uint32_t barriers, uint32_t use)
{
    gpu::mbarrier_wait(ring_empty<SLOTS>(barriers, use), use / SLOTS);
}

template <int SLOTS>
GPU_INLINE void ring_release(uint32_t barriers, uint32_t use)
{
    gpu::mbarrier_arrive(ring_empty<SLOTS>(barriers, use));
}

/* All slots are empty, before use `use` of the first. */
template <int SLOTS>
GPU_INLINE void ring_drain(uint32_t barriers, uint32_t use)
{
    for (uint32_t slot = 0; slot < SLOTS; slot++) {
        ring_wait_empty<SLOTS>(barriers, use + slot);
    }
}

GPU_BOTH uint32_t ring_barriers(int slots)
{
    return 2 * static_cast<uint32_t>(slots) * 8;
}

} // namespace attn

#endif
