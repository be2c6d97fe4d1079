/*
 * gpu/mma: products of one warp, operands in registers: for what is too rare or too small for a
 * warpgroup's.
 */
#ifndef GPU_MMA_CUH
#define GPU_MMA_CUH

#include "gpu/types.cuh"

namespace gpu
{

/*
 * d += A B^T, A 16 x 16, B 8 x 16, 16-bit. Lane l, g = l / 4, c = 2 (l % 4): a[0] A[g][c..c+1],
 * a[1] A[g + 8][c..], a[2] A[g][c + 8..], a[3] A[g + 8][c + 8..]; b[0] B[g][c..], b[1] B[g][c
 * + 8..]; d[0..1] D[g][c..c+1], d[2..3] D[g + 8][c..]: as four registers of a wgmma's accumulator.
 */
template <typename T>
GPU_INLINE void mma_16x8x16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);

template <>
__device__ __forceinline__ void mma_16x8x16<bf16>(float (&d)[4], const uint32_t (&a)[4],
                                                  const uint32_t (&b)[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

template <>
__device__ __forceinline__ void mma_16x8x16<fp16>(float (&d)[4], const uint32_t (&a)[4],
                                                  const uint32_t (&b)[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

} // namespace gpu

#endif
