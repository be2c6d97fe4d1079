/* gpu/math on the host: see kernels/gpu/math.cuh for what each function means. */
#ifndef SIM_GPU_MATH_CUH
#define SIM_GPU_MATH_CUH

#include <math.h>

#include "gpu/types.cuh"
#include "sim/half.h"

namespace gpu
{

/*
 * libm's exp2f costs a call per score and scores are most of a run: 2^x by its integer part and a
 * polynomial of the rest, within 2 ulp.
 */
GPU_INLINE float exp2_approx(float x)
{
    if (!(x > -126.0f)) {
        return x != x ? x : 0.0f; /* flushed, as the hardware's .ftz does */
    }
    if (x >= 128.0f) {
        return __builtin_huge_valf();
    }
    float whole = x + 0x1.8p23f; /* rounds to an integer */
    int32_t n = static_cast<int32_t>(sim::float_to_bits(whole)) - 0x4b400000;
    float f = x - (whole - 0x1.8p23f);
    float p = 0.00015403530393381606f;
    p = p * f + 0.0013333558146428443f;
    p = p * f + 0.009618129107628477f;
    p = p * f + 0.05550410866482158f;
    p = p * f + 0.2402265069591007f;
    p = p * f + 0.6931471805599453f;
    p = p * f + 1.0f;
    return sim::bits_to_float(sim::float_to_bits(p) + (static_cast<uint32_t>(n) << 23));
}

GPU_INLINE float log2_approx(float x)
{
    return log2f(x);
}

GPU_INLINE float rcp_approx(float x)
{
    return 1.0f / x;
}

GPU_INLINE float tanh_approx(float x)
{
    return tanhf(x);
}

GPU_INLINE float max_f32(float a, float b)
{
    return a != a ? b : b != b ? a : a > b ? a : b;
}

GPU_INLINE float min_f32(float a, float b)
{
    return a != a ? b : b != b ? a : a < b ? a : b;
}

GPU_INLINE float fma_f32(float a, float b, float c)
{
    return a * b + c; /* kernels are compared under a tolerance, never bit by bit */
}

GPU_INLINE uint32_t float_bits(float x)
{
    return sim::float_to_bits(x);
}

GPU_INLINE float bits_float(uint32_t x)
{
    return sim::bits_to_float(x);
}

GPU_INLINE constexpr float infinity()
{
    return __builtin_huge_valf();
}

template <typename T>
inline uint32_t pack(float low, float high);

template <>
inline uint32_t pack<bf16>(float low, float high)
{
    return static_cast<uint32_t>(sim::float_to_bf16(high)) << 16 | sim::float_to_bf16(low);
}

template <>
inline uint32_t pack<fp16>(float low, float high)
{
    return static_cast<uint32_t>(sim::float_to_fp16(high)) << 16 | sim::float_to_fp16(low);
}

template <typename T>
inline f32x2 unpack(uint32_t pair);

template <>
inline f32x2 unpack<bf16>(uint32_t pair)
{
    return {sim::bf16_to_float(static_cast<uint16_t>(pair)),
            sim::bf16_to_float(static_cast<uint16_t>(pair >> 16))};
}

template <>
inline f32x2 unpack<fp16>(uint32_t pair)
{
    return {sim::fp16_to_float(static_cast<uint16_t>(pair)),
            sim::fp16_to_float(static_cast<uint16_t>(pair >> 16))};
}

} // namespace gpu

#endif
