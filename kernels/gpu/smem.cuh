/*
 * gpu/smem: shared memory by 32-bit address. No pointer into it exists in a kernel, so every access
 * goes through a function that the simulator checks.
 */
#ifndef GPU_SMEM_CUH
#define GPU_SMEM_CUH

#include "gpu/types.cuh"

namespace gpu
{

constexpr uint32_t SMEM_ALIGNMENT = 1024;   /* one 128-byte-swizzled atom: 8 rows */
constexpr uint32_t SMEM_BYTES = 227 * 1024; /* most dynamic shared memory of a block */

/* First byte of the block's dynamic shared memory, a multiple of SMEM_ALIGNMENT, not zero. */
GPU_INLINE uint32_t smem_base()
{
    extern __shared__ __align__(1024) uint8_t gpu_smem[];
    return static_cast<uint32_t>(__cvta_generic_to_shared(gpu_smem));
}

/* T: float, f32x2, f32x4, uint32_t, u32x2, u32x4, int32_t, s32x4; address aligned to its size. */
template <typename T>
GPU_INLINE T smem_load(uint32_t address);

template <>
__device__ __forceinline__ float smem_load<float>(uint32_t address)
{
    float v;
    asm volatile("ld.shared::cta.f32 %0, [%1];" : "=f"(v) : "r"(address) : "memory");
    return v;
}

template <>
__device__ __forceinline__ f32x2 smem_load<f32x2>(uint32_t address)
{
    f32x2 v;
    asm volatile("ld.shared::cta.v2.f32 {%0, %1}, [%2];"
                 : "=f"(v.x), "=f"(v.y)
                 : "r"(address)
                 : "memory");
    return v;
}

template <>
__device__ __forceinline__ f32x4 smem_load<f32x4>(uint32_t address)
{
    f32x4 v;
    asm volatile("ld.shared::cta.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
                 : "r"(address)
                 : "memory");
    return v;
}

template <>
__device__ __forceinline__ uint32_t smem_load<uint32_t>(uint32_t address)
{
    uint32_t v;
    asm volatile("ld.shared::cta.u32 %0, [%1];" : "=r"(v) : "r"(address) : "memory");
    return v;
}

template <>
__device__ __forceinline__ int32_t smem_load<int32_t>(uint32_t address)
{
    return static_cast<int32_t>(smem_load<uint32_t>(address));
}

template <>
__device__ __forceinline__ u32x2 smem_load<u32x2>(uint32_t address)
{
    u32x2 v;
    asm volatile("ld.shared::cta.v2.u32 {%0, %1}, [%2];"
                 : "=r"(v.x), "=r"(v.y)
                 : "r"(address)
                 : "memory");
    return v;
}

template <>
__device__ __forceinline__ u32x4 smem_load<u32x4>(uint32_t address)
{
    u32x4 v;
    asm volatile("ld.shared::cta.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "r"(address)
                 : "memory");
    return v;
}

template <>
__device__ __forceinline__ s32x4 smem_load<s32x4>(uint32_t address)
{
    u32x4 v = smem_load<u32x4>(address);
    return {static_cast<int32_t>(v.x), static_cast<int32_t>(v.y), static_cast<int32_t>(v.z),
            static_cast<int32_t>(v.w)};
}

GPU_INLINE void smem_store(uint32_t address, float v)
{
    asm volatile("st.shared::cta.f32 [%0], %1;" ::"r"(address), "f"(v) : "memory");
}

GPU_INLINE void smem_store(uint32_t address, f32x2 v)
{
    asm volatile("st.shared::cta.v2.f32 [%0], {%1, %2};" ::"r"(address), "f"(v.x), "f"(v.y)
                 : "memory");
}

GPU_INLINE void smem_store(uint32_t address, f32x4 v)
{
    asm volatile("st.shared::cta.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(address), "f"(v.x), "f"(v.y),
                 "f"(v.z), "f"(v.w)
                 : "memory");
}

GPU_INLINE void smem_store(uint32_t address, uint32_t v)
{
    asm volatile("st.shared::cta.u32 [%0], %1;" ::"r"(address), "r"(v) : "memory");
}

GPU_INLINE void smem_store(uint32_t address, int32_t v)
{
    asm volatile("st.shared::cta.u32 [%0], %1;" ::"r"(address), "r"(v) : "memory");
}

GPU_INLINE void smem_store(uint32_t address, u32x2 v)
{
    asm volatile("st.shared::cta.v2.u32 [%0], {%1, %2};" ::"r"(address), "r"(v.x), "r"(v.y)
                 : "memory");
}

GPU_INLINE void smem_store(uint32_t address, u32x4 v)
{
    asm volatile("st.shared::cta.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(v.x), "r"(v.y),
                 "r"(v.z), "r"(v.w)
                 : "memory");
}

GPU_INLINE void smem_store(uint32_t address, s32x4 v)
{
    asm volatile("st.shared::cta.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(v.x), "r"(v.y),
                 "r"(v.z), "r"(v.w)
                 : "memory");
}

/*
 * One warp moves N 8x8 matrices of 16-bit elements. Lane l gives the address of row l % 8 of matrix
 * l / 8 (lanes past 8 N are ignored); register i holds matrix i: lane t has row t / 4, columns
 * 2 (t % 4) and + 1. _transposed exchanges rows and columns of each matrix.
 */
GPU_INLINE void stmatrix(uint32_t row_address, const uint32_t (&r)[4])
{
    asm volatile(
        "stmatrix.sync.aligned.m8n8.x4.shared::cta.b16 [%0], {%1, %2, %3, %4};" ::"r"(row_address),
        "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
        : "memory");
}

GPU_INLINE void stmatrix(uint32_t row_address, const uint32_t (&r)[2])
{
    asm volatile("stmatrix.sync.aligned.m8n8.x2.shared::cta.b16 [%0], {%1, %2};" ::"r"(row_address),
                 "r"(r[0]), "r"(r[1])
                 : "memory");
}

GPU_INLINE void stmatrix_transposed(uint32_t row_address, const uint32_t (&r)[4])
{
    asm volatile(
        "stmatrix.sync.aligned.m8n8.x4.trans.shared::cta.b16 [%0], {%1, %2, %3, %4};" ::"r"(
            row_address),
        "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
        : "memory");
}

GPU_INLINE void stmatrix_transposed(uint32_t row_address, const uint32_t (&r)[2])
{
    asm volatile(
        "stmatrix.sync.aligned.m8n8.x2.trans.shared::cta.b16 [%0], {%1, %2};" ::"r"(row_address),
        "r"(r[0]), "r"(r[1])
        : "memory");
}

GPU_INLINE void ldmatrix(uint32_t row_address, uint32_t (&r)[4])
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared::cta.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(row_address)
                 : "memory");
}

GPU_INLINE void ldmatrix_transposed(uint32_t row_address, uint32_t (&r)[4])
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared::cta.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(row_address)
                 : "memory");
}

} // namespace gpu

#endif
