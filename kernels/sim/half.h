/* sim/half: 16-bit floating point on the host, rounded to nearest even like the hardware's cvt. */
#ifndef SIM_HALF_H
#define SIM_HALF_H

#include <stdint.h>
#include <string.h>

namespace sim
{

inline float bits_to_float(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

inline uint32_t float_to_bits(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, 4);
    return bits;
}

inline float bf16_to_float(uint16_t h)
{
    return bits_to_float(static_cast<uint32_t>(h) << 16);
}

inline uint16_t float_to_bf16(float f)
{
    uint32_t b = float_to_bits(f);
    if ((b & 0x7fffffffu) > 0x7f800000u) {
        return 0x7fff; /* the hardware's one NaN */
    }
    return static_cast<uint16_t>((b + 0x7fffu + (b >> 16 & 1)) >> 16);
}

inline float fp16_to_float(uint16_t h)
{
    uint32_t sign = static_cast<uint32_t>(h & 0x8000) << 16;
    uint32_t rest = static_cast<uint32_t>(h & 0x7fff) << 13;
    if (rest >= 0x0f800000u) {
        return bits_to_float(sign | (rest + 0x70000000u)); /* infinity, NaN */
    }
    /* Scaling by 2^112 rebiases the exponent and makes subnormals normal. */
    return bits_to_float(sign | float_to_bits(bits_to_float(rest) * 0x1p112f));
}

inline uint16_t float_to_fp16(float f)
{
    uint32_t b = float_to_bits(f);
    uint16_t sign = static_cast<uint16_t>(b >> 16 & 0x8000);
    uint32_t rest = b & 0x7fffffffu;
    if (rest > 0x7f800000u) {
        return 0x7fff;
    }
    if (rest >= 0x477ff000u) {
        return static_cast<uint16_t>(sign | 0x7c00); /* 65520 and more round to infinity */
    }
    if (rest < 0x38800000u) { /* subnormal: let an addition at the right exponent round */
        float shifted = bits_to_float(rest) + 0.5f;
        return static_cast<uint16_t>(sign | (float_to_bits(shifted) - 0x3f000000u));
    }
    rest += 0xfffu + (rest >> 13 & 1);
    return static_cast<uint16_t>(sign | ((rest - 0x38000000u) >> 13));
}

inline float half_to_float(uint16_t h, bool bf16)
{
    return bf16 ? bf16_to_float(h) : fp16_to_float(h);
}

} // namespace sim

#endif
