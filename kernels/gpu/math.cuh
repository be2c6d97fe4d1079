/* gpu/math: approximate functions, conversions and bit casts on registers. */
#ifndef GPU_MATH_CUH
#define GPU_MATH_CUH

#include "gpu/types.cuh"

namespace gpu
{

/* 2^x, to 2 ulp; -inf gives 0. */
GPU_INLINE float exp2_approx(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* log2(x); 0 gives -inf. */
GPU_INLINE float log2_approx(float x)
{
    float y;
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

GPU_INLINE float rcp_approx(float x)
{
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

GPU_INLINE float tanh_approx(float x)
{
    float y;
    asm("tanh.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* NaN loses against a number. */
GPU_INLINE float max_f32(float a, float b)
{
    float y;
    asm("max.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
    return y;
}

GPU_INLINE float min_f32(float a, float b)
{
    float y;
    asm("min.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
    return y;
}

GPU_INLINE float fma_f32(float a, float b, float c)
{
    float y;
    asm("fma.rn.ftz.f32 %0, %1, %2, %3;" : "=f"(y) : "f"(a), "f"(b), "f"(c));
    return y;
}

GPU_INLINE uint32_t float_bits(float x)
{
    return __float_as_uint(x);
}

GPU_INLINE float bits_float(uint32_t x)
{
    return __uint_as_float(x);
}

GPU_INLINE constexpr float infinity()
{
    return __builtin_huge_valf();
}

/* Two floats rounded to nearest even, low in the low half: the order of an A fragment. */
template <typename T>
GPU_INLINE uint32_t pack(float low, float high);

template <>
__device__ __forceinline__ uint32_t pack<bf16>(float low, float high)
{
    uint32_t y;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
    return y;
}

template <>
__device__ __forceinline__ uint32_t pack<fp16>(float low, float high)
{
    uint32_t y;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
    return y;
}

template <typename T>
GPU_INLINE f32x2 unpack(uint32_t pair);

template <>
__device__ __forceinline__ f32x2 unpack<bf16>(uint32_t pair)
{
    return {__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u)};
}

template <>
__device__ __forceinline__ f32x2 unpack<fp16>(uint32_t pair)
{
    f32x2 y;
    asm("{\n"
        ".reg .f16 low, high;\n"
        "mov.b32 {low, high}, %2;\n"
        "cvt.f32.f16 %0, low;\n"
        "cvt.f32.f16 %1, high;\n"
        "}\n"
        : "=f"(y.x), "=f"(y.y)
        : "r"(pair));
    return y;
}

} // namespace gpu

#endif
