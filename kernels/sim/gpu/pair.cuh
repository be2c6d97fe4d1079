/* gpu/pair on the host: see kernels/gpu/pair.cuh for what each function means. */
#ifndef SIM_GPU_PAIR_CUH
#define SIM_GPU_PAIR_CUH

#include "gpu/math.cuh"
#include "gpu/types.cuh"

namespace gpu
{

GPU_INLINE f32x2 pair_of(float x)
{
    return {x, x};
}

GPU_INLINE f32x2 pair_fma(f32x2 a, f32x2 b, f32x2 c)
{
    return {fma_f32(a.x, b.x, c.x), fma_f32(a.y, b.y, c.y)};
}

GPU_INLINE f32x2 pair_add(f32x2 a, f32x2 b)
{
    return {a.x + b.x, a.y + b.y};
}

GPU_INLINE f32x2 pair_mul(f32x2 a, f32x2 b)
{
    return {a.x * b.x, a.y * b.y};
}

GPU_INLINE float max3_nan_f32(float a, float b, float c)
{
    float nan = a != a ? a : b != b ? b : c;
    return nan != nan ? nan : max_f32(max_f32(a, b), c);
}

} // namespace gpu

#endif
