#include "sim/vector.h"

#include <string.h>

#include "sim/clock.h"

namespace sim
{

namespace
{

thread_local int parts = 1; /* of a clock */

#define SIM_AVX2 __attribute__((target("avx2,fma")))
#define SIM_BODY static inline __attribute__((always_inline))

bool has_avx2()
{
    static const bool has = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    return has;
}

typedef float v8 __attribute__((vector_size(32), aligned(4), may_alias));

/* Eight columns by four rows at a time: eight accumulators of 32 bytes stay in registers. */
SIM_BODY void multiply_body(float *d, const float *a, const float *b, int n, int stride)
{
    for (int j = 0; j < n; j += 8) {
        for (int i = 0; i < MULTIPLY_ROWS; i += 8) {
            v8 s[8];
            for (int r = 0; r < 8; r++) {
                s[r] = *reinterpret_cast<v8 *>(d + (i + r) * stride + j);
            }
            for (int k = 0; k < MULTIPLY_STEP; k++) {
                v8 x = *reinterpret_cast<const v8 *>(b + k * stride + j);
                for (int r = 0; r < 8; r++) {
                    s[r] += x * a[(i + r) * MULTIPLY_STEP + k];
                }
            }
            for (int r = 0; r < 8; r++) {
                *reinterpret_cast<v8 *>(d + (i + r) * stride + j) = s[r];
            }
        }
    }
}

SIM_AVX2 void multiply_avx2(float *d, const float *a, const float *b, int n, int stride)
{
    multiply_body(d, a, b, n, stride);
}

void multiply_plain(float *d, const float *a, const float *b, int n, int stride)
{
    multiply_body(d, a, b, n, stride);
}

SIM_BODY bool equal_body(const uint64_t *values, size_t count, uint64_t value)
{
    uint64_t different = 0;
    for (size_t i = 0; i < count; i++) {
        different |= values[i] ^ value;
    }
    return different == 0;
}

SIM_AVX2 bool equal_avx2(const uint64_t *values, size_t count, uint64_t value)
{
    return equal_body(values, count, value);
}

bool equal_plain(const uint64_t *values, size_t count, uint64_t value)
{
    return equal_body(values, count, value);
}

SIM_BODY void max_body(uint32_t *into, const uint32_t *from, int count)
{
    for (int i = 0; i < count; i++) {
        into[i] = into[i] > from[i] ? into[i] : from[i];
    }
}

/*
 * Lanes known only in part are kept if the other side does not know their stamp in full; together
 * they count as known up to the newer part. (That forgives an access between two arrivals of
 * different lanes of one warp; the opposite choice would accuse correct programs.)
 */
SIM_BODY void knowledge_body(knowledge *into, const knowledge &from)
{
    for (int w = 0; w < WARPS_MAX; w++) {
        uint32_t full = into->full[w] > from.full[w] ? into->full[w] : from.full[w];
        uint32_t a = into->part[w] > full ? into->lanes[w] : 0;
        uint32_t b = from.part[w] > full ? from.lanes[w] : 0;
        uint32_t part = into->part[w] > from.part[w] ? into->part[w] : from.part[w];
        into->lanes[w] = a | b;
        into->part[w] = part;
        into->full[w] = (a | b) == 0xffffffffu ? part : full;
    }
}

SIM_BODY void join_body(clock_part *into, const clock_part &from)
{
    knowledge_body(&into->generic, from.generic);
    knowledge_body(&into->fenced, from.fenced);
    max_body(into->multiply, from.multiply, WARPS_MAX);
    max_body(into->bulk, from.bulk, WARPS_MAX);
    max_body(into->bulk_done, from.bulk_done, WARPS_MAX);
    max_body(into->tensor, from.tensor, WARPS_MAX);
    max_body(into->tensor_load, from.tensor_load, WARPS_MAX);
    max_body(into->tensor_store, from.tensor_store, WARPS_MAX);
    max_body(into->barrier, from.barrier, BARRIERS_MAX);
}

SIM_AVX2 void join_avx2(clock_part *into, const clock_part &from)
{
    join_body(into, from);
}

void join_plain(clock_part *into, const clock_part &from)
{
    join_body(into, from);
}

} // namespace

void multiply_add(float *d, const float *a, const float *b, int n, int stride)
{
    (has_avx2() ? multiply_avx2 : multiply_plain)(d, a, b, n, stride);
}

bool all_equal(const uint64_t *values, size_t count, uint64_t value)
{
    return (has_avx2() ? equal_avx2 : equal_plain)(values, count, value);
}

void clock_use(int blocks)
{
    parts = blocks;
}

clock::clock()
{
    memset(of, 0, static_cast<size_t>(parts) * sizeof of[0]);
}

clock::clock(const clock &other)
{
    memcpy(of, other.of, static_cast<size_t>(parts) * sizeof of[0]);
}

clock &clock::operator=(const clock &other)
{
    memmove(of, other.of, static_cast<size_t>(parts) * sizeof of[0]);
    return *this;
}

void clock_join(clock *into, const clock &from)
{
    for (int i = 0; i < parts; i++) {
        (has_avx2() ? join_avx2 : join_plain)(&into->of[i], from.of[i]);
    }
}

} // namespace sim
