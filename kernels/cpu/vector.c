/*
 * vector.c: element-wise arithmetic, written so that gcc and clang vectorise every loop.
 *
 * Compiled once per instruction set (CMakeLists.txt) into the table VECTOR_TABLE. Loops have no
 * calls and no branches, only selects; sums are allowed to be reordered (omp simd), which is what
 * makes them vectors. exp and tanh are the classic Cephes polynomials, about 1 ulp.
 */
#include "kernels/cpu/vector.h"

#include <math.h>
#include <string.h>

static inline uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static inline float float_of(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/*
 * exp(x) = 2^n exp(r), n = round(x / ln 2). Adding 1.5 * 2^23 rounds to an integer and leaves n in
 * the low bits. Below -88 the result is 0, above 89 it is inf, NaN stays NaN.
 */
static inline float exp_one(float x)
{
    const float round = 12582912.0f;
    x = x < -88.0f ? -88.0f : x;
    x = x > 89.0f ? 89.0f : x;
    float shifted = x * 1.44269504f + round;
    float n = shifted - round;
    float r = x - n * 0.693359375f;
    r = r - n * -2.12194440e-4f;
    float y = 1.9875691500e-4f;
    y = y * r + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    y = y * r * r + r + 1.0f;
    return y * float_of((bits_of(shifted) + 127u) << 23);
}

/* A polynomial near 0, where 1 - 2 / (exp(2x) + 1) would cancel. */
static inline float tanh_one(float x)
{
    float a = fabsf(x);
    float z = x * x;
    float near = -5.70498872745e-3f;
    near = near * z + 2.06390887954e-2f;
    near = near * z - 5.37397155531e-2f;
    near = near * z + 1.33314422036e-1f;
    near = near * z - 3.33332819422e-1f;
    near = near * z * x + x;
    float far = 1.0f - 2.0f / (exp_one(2.0f * a) + 1.0f);
    far = x < 0 ? -far : far;
    return a < 0.625f ? near : far;
}

static void from_bf16(float *restrict out, const uint16_t *restrict in, int n)
{
    for (int i = 0; i < n; i++) {
        out[i] = float_of((uint32_t)in[i] << 16);
    }
}

static void to_bf16(uint16_t *restrict out, const float *restrict in, int n)
{
    for (int i = 0; i < n; i++) {
        uint32_t bits = bits_of(in[i]);
        uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
        uint32_t quiet = (bits >> 16) | 0x40u;
        out[i] = (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded);
    }
}

/* The exponent is rebased by a multiplication, which is exact and handles subnormals too. */
static void from_fp16(float *restrict out, const uint16_t *restrict in, int n)
{
    const float rebase = 0x1p112f;
    for (int i = 0; i < n; i++) {
        uint32_t magnitude = (uint32_t)(in[i] & 0x7fffu) << 13;
        uint32_t sign = (uint32_t)(in[i] & 0x8000u) << 16;
        uint32_t finite = bits_of(float_of(magnitude) * rebase);
        uint32_t special = magnitude | 0x7f800000u;
        out[i] = float_of((magnitude >= 0x0f800000u ? special : finite) | sign);
    }
}

/*
 * Subnormal results are rounded by adding 0.5, whose last bit weighs 2^-24, the smallest fp16;
 * normal ones by adding half a unit (ties to even) to the bits. From 65520 on the result is inf.
 */
static void to_fp16(uint16_t *restrict out, const float *restrict in, int n)
{
    for (int i = 0; i < n; i++) {
        uint32_t bits = bits_of(in[i]);
        uint32_t sign = (bits >> 16) & 0x8000u;
        uint32_t magnitude = bits & 0x7fffffffu;
        uint32_t small = bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f);
        uint32_t normal = (magnitude - 0x38000000u + 0x0fffu + ((magnitude >> 13) & 1u)) >> 13;
        uint32_t large = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
        uint32_t half = magnitude < 0x38800000u ? small : normal;
        out[i] = (uint16_t)((magnitude >= 0x477ff000u ? large : half) | sign);
    }
}

static float max(const float *x, int n)
{
    float m = -INFINITY;
#pragma omp simd reduction(max : m)
    for (int i = 0; i < n; i++) {
        m = x[i] > m ? x[i] : m;
    }
    return m;
}

static float dot(const float *restrict x, const float *restrict y, int n)
{
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < n; i++) {
        sum += x[i] * y[i];
    }
    return sum;
}

static void scale(float *x, float factor, int n)
{
    for (int i = 0; i < n; i++) {
        x[i] *= factor;
    }
}

static void add_scaled(float *restrict x, float factor, const float *restrict y, int n)
{
    for (int i = 0; i < n; i++) {
        x[i] += factor * y[i];
    }
}

static float exp_shifted(float *x, float shift, int n)
{
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < n; i++) {
        x[i] = exp_one(x[i] - shift);
        sum += x[i];
    }
    return sum;
}

static void softcap(float *x, float c, int n)
{
    for (int i = 0; i < n; i++) {
        x[i] = c * tanh_one(x[i]);
    }
}

static void softcap_slope(float *restrict x, float *restrict slope, float c, int n)
{
    for (int i = 0; i < n; i++) {
        float t = tanh_one(x[i]);
        x[i] = c * t;
        slope[i] = 1.0f - t * t;
    }
}

static void ds(float *restrict dp, const float *restrict p, float delta, int n)
{
    for (int i = 0; i < n; i++) {
        dp[i] = p[i] * (dp[i] - delta);
    }
}

static void multiply(float *restrict x, const float *restrict y, int n)
{
    for (int i = 0; i < n; i++) {
        x[i] *= y[i];
    }
}

/* inf - inf and NaN are NaN; their sum with anything is, too. */
static int all_finite(const float *x, int n)
{
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < n; i++) {
        sum += x[i] - x[i];
    }
    return sum == 0;
}

#define STRING_OF(x) #x
#define NAME_OF(x) STRING_OF(x)

extern const struct vector VECTOR_TABLE;
const struct vector VECTOR_TABLE = {
    .name = NAME_OF(VECTOR_TABLE),
    .from_bf16 = from_bf16,
    .from_fp16 = from_fp16,
    .to_bf16 = to_bf16,
    .to_fp16 = to_fp16,
    .max = max,
    .dot = dot,
    .scale = scale,
    .add_scaled = add_scaled,
    .exp_shifted = exp_shifted,
    .softcap = softcap,
    .softcap_slope = softcap_slope,
    .ds = ds,
    .multiply = multiply,
    .all_finite = all_finite,
};
