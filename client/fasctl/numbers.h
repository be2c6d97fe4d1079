/*
 * numbers.h: bf16 and fp16 as bits <-> float, rounding to nearest even.
 */
#ifndef FASCTL_NUMBERS_H
#define FASCTL_NUMBERS_H

#include <stdint.h>
#include <string.h>

static inline float number_from_bf16(uint16_t bits)
{
    uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, sizeof(value));
    return value;
}

static inline uint16_t number_to_bf16(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof(bits));
    if ((bits & 0x7fffffffu) > 0x7f800000u) {
        return (uint16_t)((bits >> 16) | 0x40u); /* NaN stays NaN */
    }
    bits += 0x7fffu + ((bits >> 16) & 1u);
    return (uint16_t)(bits >> 16);
}

static inline float number_round_bf16(float value)
{
    return number_from_bf16(number_to_bf16(value));
}

/* A seeded stream of numbers (splitmix64): the same on every machine. */
static inline uint64_t number_next(uint64_t *state)
{
    uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/* Uniform in [-1, 1). */
static inline float number_uniform(uint64_t *state)
{
    return (float)(int32_t)(number_next(state) >> 32) * (1.0f / 2147483648.0f);
}

#endif
