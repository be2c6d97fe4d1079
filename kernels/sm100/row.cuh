/*
 * sm100/row: the online softmax of one query row, which one thread holds whole: no exchange between
 * lanes. Everything is in log2 units: p = 2^(s * scale - top * scale).
 *
 * top is what probabilities are relative to, at least the row's maximum less SLACK / scale: it
 * follows the maximum only when that has grown by more, because each change costs a pass over O.
 * Probabilities are then at most 2^SLACK, exact in both 16-bit types, and O, sum and LSE are
 * relative to the same top. Which block changes it depends on the row's own scores only.
 */
#ifndef SM100_ROW_CUH
#define SM100_ROW_CUH

#include "common/mask.cuh"
#include "common/softmax.cuh"
#include "gpu/math.cuh"
#include "gpu/pair.cuh"
#include "gpu/tcgen05.cuh"
#include "gpu/types.cuh"

namespace sm100
{

using gpu::f32x2;

constexpr int CHUNK = 32; /* columns of one load from tensor memory, and of a mask word */
constexpr float SLACK = 8.0f;

struct row_state {
    float top; /* -inf before the first key */
    float sum;
};

/* What a block did to the row. */
struct row_change {
    float factor; /* what was accumulated before shrinks by it; 1: nothing to do */
    float shift;  /* top * scale, 0 if no key was seen */
};

/* s = tanh(s * inner): the softcap; the outer factor is part of the softmax scale. */
template <int CHUNKS>
GPU_INLINE void row_softcap(float (&s)[CHUNKS][CHUNK], float inner)
{
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) {
        attn::softcap(s[c], inner);
    }
}

/* Bits i of [0, CHUNK) with first <= i < last. */
GPU_BOTH uint32_t mask_bits(int32_t first, int32_t last)
{
    uint32_t below = last <= 0 ? 0 : last >= CHUNK ? ~0u : (1u << last) - 1;
    uint32_t before = first <= 0 ? 0 : first >= CHUNK ? ~0u : (1u << first) - 1;
    return below & ~before;
}

/* Scores outside the range, which is relative to the row's first column, become -inf. */
template <int CHUNKS>
GPU_INLINE void row_mask(float (&s)[CHUNKS][CHUNK], attn::key_range range)
{
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) {
        uint32_t seen = mask_bits(range.first - c * CHUNK, range.last - c * CHUNK);
#pragma unroll
        for (int i = 0; i < CHUNK; i++) {
            s[c][i] = (seen & 1u << i) != 0 ? s[c][i] : -gpu::infinity();
        }
    }
}

/* NaN if a score is. Four chains: a single one would wait for each of its maxima. */
template <int CHUNKS>
GPU_INLINE float row_top(const float (&s)[CHUNKS][CHUNK])
{
    float top[4] = {s[0][0], s[0][1], s[0][2], s[0][3]};
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) {
#pragma unroll
        for (int i = 0; i < CHUNK; i += 8) {
#pragma unroll
            for (int chain = 0; chain < 4; chain++) {
                top[chain] = gpu::max3_nan_f32(top[chain], s[c][i + chain], s[c][i + chain + 4]);
            }
        }
    }
    return gpu::max3_nan_f32(top[0], gpu::max3_nan_f32(top[1], top[2], top[2]), top[3]);
}

/*
 * FIRST: nothing was accumulated. MASKED: the row may have seen no key yet, top is then -inf.
 * A score that is NaN becomes the top, and the factor NaN: with it the sum, O and LSE, for good. So
 * one row is lost, all of it, as on the CPU; its polynomial probabilities need not be NaN.
 */
template <int CHUNKS, bool FIRST, bool MASKED>
GPU_INLINE row_change row_advance(const float (&s)[CHUNKS][CHUNK], row_state &state, float scale)
{
    float before = state.top, top = row_top(s), factor = 1.0f;
    if (FIRST) {
        state.top = top;
    } else if (!((top - before) * scale <= SLACK) && top != -gpu::infinity()) {
        state.top = top;
        factor = gpu::exp2_approx((before - top) * scale);
    }
    float shift = state.top * scale;
    return {factor, MASKED && state.top == -gpu::infinity() ? 0.0f : shift};
}

/*
 * 2^x on the units that multiply and add: x is rounded to an integer, which goes into the exponent,
 * and 2^f of the rest, |f| <= 1/2, is the polynomial of degree 3 with the least largest relative
 * error, found by Remez' exchange of |p(f) / 2^f - 1|: 7.5e-5, a sixteenth of bf16's half step and
 * a third of fp16's. x below -126 counts as -126: 2^-126 is nothing beside the row's other terms.
 * NaN becomes some number: row_advance has seen it.
 */
GPU_INLINE f32x2 exp2_polynomial(f32x2 x)
{
    constexpr float ROUND = 0x1.8p23f; /* a float this large has no fraction bits */
    x = {gpu::max_f32(x.x, -126.0f), gpu::max_f32(x.y, -126.0f)};
    f32x2 shifted = gpu::pair_add(x, gpu::pair_of(ROUND));
    f32x2 whole = gpu::pair_add(shifted, gpu::pair_of(-ROUND));
    f32x2 f = gpu::pair_fma(whole, gpu::pair_of(-1.0f), x);
    f32x2 p = gpu::pair_fma(f, gpu::pair_of(0.0551716685f), gpu::pair_of(0.242611125f));
    p = gpu::pair_fma(p, f, gpu::pair_of(0.693260968f));
    p = gpu::pair_fma(p, f, gpu::pair_of(0.999928057f));
    return {gpu::bits_float(gpu::float_bits(p.x) + (gpu::float_bits(shifted.x) << 23)),
            gpu::bits_float(gpu::float_bits(p.y) + (gpu::float_bits(shifted.y) << 23))};
}

/*
 * Does pair i of a chunk go to the polynomial? 2 of 8, spread out so that both units always have
 * work: MUFU then has 96 of 128 exponentials of a row. A function of the column: bits do not change
 * with who computes it. Blocks that need a mask do not use it: there 2^-inf must be 0.
 */
GPU_BOTH bool pair_on_fma(int pair)
{
    return pair % 4 == 3;
}

/* Scores of one chunk become probabilities. */
template <bool SPLIT>
GPU_INLINE void row_exponentials(float (&s)[CHUNK], float scale, float shift)
{
#pragma unroll
    for (int pair = 0; pair < CHUNK / 2; pair++) {
        f32x2 x = gpu::pair_fma({s[2 * pair], s[2 * pair + 1]}, gpu::pair_of(scale),
                                gpu::pair_of(-shift));
        f32x2 p = SPLIT && pair_on_fma(pair) ? exp2_polynomial(x)
                                             : f32x2{gpu::exp2_approx(x.x), gpu::exp2_approx(x.y)};
        s[2 * pair] = p.x;
        s[2 * pair + 1] = p.y;
    }
}

/* Probabilities as pairs of the operand's type. */
template <typename T>
GPU_INLINE void row_pack(uint32_t (&p)[CHUNK / 2], const float (&s)[CHUNK])
{
#pragma unroll
    for (int i = 0; i < CHUNK / 2; i++) {
        p[i] = gpu::pack<T>(s[2 * i], s[2 * i + 1]);
    }
}

template <int CHUNKS>
GPU_INLINE float row_sum(const float (&s)[CHUNKS][CHUNK])
{
    f32x2 sum[2] = {{s[0][0], s[0][1]}, {s[0][2], s[0][3]}};
#pragma unroll
    for (int i = 4; i < CHUNKS * CHUNK; i += 4) {
        const float *at = &s[i / CHUNK][i % CHUNK];
        sum[0] = gpu::pair_add(sum[0], {at[0], at[1]});
        sum[1] = gpu::pair_add(sum[1], {at[2], at[3]});
    }
    sum[0] = gpu::pair_add(sum[0], sum[1]);
    return sum[0].x + sum[0].y;
}

} // namespace sm100

#endif
