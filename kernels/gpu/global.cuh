/*
 * gpu/global: global memory, atomics and flags. Kernels read and write tensors through these (or by
 * TMA), so that the simulator sees gaps, double writes and races.
 */
#ifndef GPU_GLOBAL_CUH
#define GPU_GLOBAL_CUH

#include "gpu/types.cuh"

namespace gpu
{

/* T: any 4, 8 or 16-byte type of gpu/types, float, uint32_t or int32_t; aligned to its size. */
template <typename T>
GPU_INLINE T global_load(const void *source)
{
    return *static_cast<const T *>(source);
}

/* Data that no one writes while the kernel runs: through the read-only path. */
template <typename T>
GPU_INLINE T global_load_constant(const void *source)
{
    static_assert(sizeof(T) % 4 == 0 && sizeof(T) <= 16, "4, 8 or 16 bytes");
    T value;
    if constexpr (sizeof(T) == 16) {
        uint4 v = __ldg(static_cast<const uint4 *>(source));
        __builtin_memcpy(&value, &v, 16);
    } else if constexpr (sizeof(T) == 8) {
        uint2 v = __ldg(static_cast<const uint2 *>(source));
        __builtin_memcpy(&value, &v, 8);
    } else {
        uint32_t v = __ldg(static_cast<const unsigned int *>(source));
        __builtin_memcpy(&value, &v, 4);
    }
    return value;
}

template <typename T>
GPU_INLINE T global_load_if(bool wanted, const void *source, T otherwise)
{
    return wanted ? global_load<T>(source) : otherwise;
}

template <typename T>
GPU_INLINE void global_store(void *target, T value)
{
    *static_cast<T *>(target) = value;
}

template <typename T>
GPU_INLINE void global_store_if(bool wanted, void *target, T value)
{
    if (wanted) {
        *static_cast<T *>(target) = value;
    }
}

/* Nobody wants these 128 bytes any more, at a multiple of as many: what L2 has of them need not go
 * to memory. Until they are written again they may hold anything. */
GPU_INLINE void global_discard(void *line)
{
    asm volatile("discard.global.L2 [%0], 128;" ::"l"(line) : "memory");
}

/* Returns the value before. Relaxed: orders nothing else. */
GPU_INLINE int32_t atomic_add(int32_t *target, int32_t value)
{
    int32_t before;
    asm volatile("atom.relaxed.gpu.global.add.s32 %0, [%1], %2;"
                 : "=r"(before)
                 : "l"(target), "r"(value)
                 : "memory");
    return before;
}

/* Adds without an answer; four neighbours are one 16-byte request, aligned to 16. */
GPU_INLINE void red_add(float *target, float value)
{
    asm volatile("red.relaxed.gpu.global.add.f32 [%0], %1;" ::"l"(target), "f"(value) : "memory");
}

GPU_INLINE void red_add(float *target, f32x4 value)
{
    asm volatile("red.relaxed.gpu.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(target),
                 "f"(value.x), "f"(value.y), "f"(value.z), "f"(value.w)
                 : "memory");
}

/*
 * Flags between blocks. A release makes this thread's earlier writes (and those it knows of through
 * barriers) visible to whoever acquires the value; bulk writes must have been waited for first
 * (bulk_wait, not bulk_wait_read) and fenced (fence_async_global).
 */
GPU_INLINE int32_t flag_load(const int32_t *flag)
{
    int32_t value;
    asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(value) : "l"(flag) : "memory");
    return value;
}

GPU_INLINE void flag_store(int32_t *flag, int32_t value)
{
    asm volatile("st.release.gpu.global.s32 [%0], %1;" ::"l"(flag), "r"(value) : "memory");
}

GPU_INLINE void flag_add(int32_t *flag, int32_t value)
{
    asm volatile("red.release.gpu.global.add.s32 [%0], %1;" ::"l"(flag), "r"(value) : "memory");
}

/* Returns the value before; acquire and release: the last of N arrivals sees all of them. */
GPU_INLINE int32_t flag_fetch_add(int32_t *flag, int32_t value)
{
    int32_t before;
    asm volatile("atom.acq_rel.gpu.global.add.s32 %0, [%1], %2;"
                 : "=r"(before)
                 : "l"(flag), "r"(value)
                 : "memory");
    return before;
}

/* Spins until the flag has reached the value. */
GPU_INLINE void flag_wait(const int32_t *flag, int32_t value)
{
#pragma unroll 1 /* a peeled first turn costs registers that a loader of 24 has not */
    while (flag_load(flag) < value) {
    }
}

} // namespace gpu

#endif
