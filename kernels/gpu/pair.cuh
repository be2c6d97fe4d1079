/*
 * gpu/pair: two floats in one instruction, and maxima of three (sm_100). Each half is rounded as
 * the scalar instruction rounds.
 */
#ifndef GPU_PAIR_CUH
#define GPU_PAIR_CUH

#include "gpu/types.cuh"

namespace gpu
{

GPU_INLINE f32x2 pair_of(float x)
{
    return {x, x};
}

/* a b + c */
GPU_INLINE f32x2 pair_fma(f32x2 a, f32x2 b, f32x2 c)
{
    f32x2 d;
    asm("{\n"
        ".reg .b64 a, b, c, d;\n"
        "mov.b64 a, {%2, %3};\n"
        "mov.b64 b, {%4, %5};\n"
        "mov.b64 c, {%6, %7};\n"
        "fma.rn.ftz.f32x2 d, a, b, c;\n"
        "mov.b64 {%0, %1}, d;\n"
        "}\n"
        : "=f"(d.x), "=f"(d.y)
        : "f"(a.x), "f"(a.y), "f"(b.x), "f"(b.y), "f"(c.x), "f"(c.y));
    return d;
}

GPU_INLINE f32x2 pair_add(f32x2 a, f32x2 b)
{
    f32x2 d;
    asm("{\n"
        ".reg .b64 a, b, d;\n"
        "mov.b64 a, {%2, %3};\n"
        "mov.b64 b, {%4, %5};\n"
        "add.rn.ftz.f32x2 d, a, b;\n"
        "mov.b64 {%0, %1}, d;\n"
        "}\n"
        : "=f"(d.x), "=f"(d.y)
        : "f"(a.x), "f"(a.y), "f"(b.x), "f"(b.y));
    return d;
}

GPU_INLINE f32x2 pair_mul(f32x2 a, f32x2 b)
{
    f32x2 d;
    asm("{\n"
        ".reg .b64 a, b, d;\n"
        "mov.b64 a, {%2, %3};\n"
        "mov.b64 b, {%4, %5};\n"
        "mul.rn.ftz.f32x2 d, a, b;\n"
        "mov.b64 {%0, %1}, d;\n"
        "}\n"
        : "=f"(d.x), "=f"(d.y)
        : "f"(a.x), "f"(a.y), "f"(b.x), "f"(b.y));
    return d;
}

/* NaN if any of them is. */
GPU_INLINE float max3_nan_f32(float a, float b, float c)
{
    float y;
    asm("max.NaN.f32 %0, %1, %2, %3;" : "=f"(y) : "f"(a), "f"(b), "f"(c));
    return y;
}

} // namespace gpu

#endif
