#include "tests/kernels/element.h"

#include <math.h>
#include <string.h>

static double from_half(uint16_t h)
{
    int exponent = (h >> 10) & 31;
    double mantissa = h & 1023;
    double magnitude = exponent == 31  ? (mantissa ? NAN : INFINITY)
                       : exponent == 0 ? ldexp(mantissa, -24)
                                       : ldexp(1024 + mantissa, exponent - 25);
    return h & 0x8000 ? -magnitude : magnitude;
}

/* Rounds to `bits` of mantissa, ties to even, exponents from `lowest`. */
static double rounded(double x, int bits, int lowest)
{
    if (x == 0 || !isfinite(x)) {
        return x;
    }
    int exponent;
    frexp(x, &exponent);
    int last = exponent - bits < lowest ? lowest : exponent - bits;
    return ldexp(nearbyint(ldexp(x, -last)), last);
}

static uint16_t to_half(double x)
{
    uint16_t sign = signbit(x) ? 0x8000 : 0;
    if (!isfinite(x)) {
        return sign | (isnan(x) ? 0x7e00 : 0x7c00);
    }
    double magnitude = rounded(fabs(x), 11, -24);
    int exponent;
    double fraction = frexp(magnitude, &exponent);
    if (magnitude < 0x1p-14) {
        return sign | (uint16_t)ldexp(magnitude, 24);
    }
    return sign | (uint16_t)((exponent + 14) << 10 | ((int)ldexp(fraction, 11) & 1023));
}

double element(enum attn_dtype dtype, const struct attn_tensor *tensor, int64_t row, int head,
               int c)
{
    const char *at = (const char *)tensor->data + row * tensor->row_stride +
                     head * tensor->head_stride + (int64_t)c * (int64_t)attn_dtype_bytes(dtype);
    uint16_t half = 0;
    float single;
    if (dtype == ATTN_FP32) {
        memcpy(&single, at, sizeof single);
        return single;
    }
    memcpy(&half, at, sizeof half);
    if (dtype == ATTN_FP16) {
        return from_half(half);
    }
    uint32_t bits = (uint32_t)half << 16;
    memcpy(&single, &bits, sizeof single);
    return single;
}

void set_element(enum attn_dtype dtype, const struct attn_tensor *tensor, int64_t row, int head,
                 int c, double value)
{
    char *at = (char *)tensor->data + row * tensor->row_stride + head * tensor->head_stride +
               (int64_t)c * (int64_t)attn_dtype_bytes(dtype);
    float single = (float)(dtype == ATTN_BF16 ? rounded(value, 8, -133) : value);
    if (dtype == ATTN_FP32) {
        memcpy(at, &single, sizeof single);
        return;
    }
    uint32_t bits;
    memcpy(&bits, &single, sizeof bits);
    uint16_t half = dtype == ATTN_BF16 ? (uint16_t)(bits >> 16) : to_half(value);
    memcpy(at, &half, sizeof half);
}
