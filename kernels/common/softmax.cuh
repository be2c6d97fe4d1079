/*
 * common/softmax: the online softmax of one thread's two rows of a wgmma accumulator fragment.
 *
 * Row r is spread over the four lanes of a quad. Maxima are exchanged when they are taken, sums
 * only at the end. Everything is in log2 units: p = 2^(s * scale - max * scale).
 */
#ifndef COMMON_SOFTMAX_CUH
#define COMMON_SOFTMAX_CUH

#include "gpu/math.cuh"
#include "gpu/types.cuh"
#include "gpu/warp.cuh"

namespace attn
{

constexpr float LN2 = 0.6931471805599453f;
constexpr float LOG2E = 1.4426950408889634f;

/* Index 0: row r of the fragment, 1: row r + 8. */
struct softmax_state {
    float top[2]; /* row maximum of the raw scores, -inf before the first key */
    float sum[2]; /* this lane's part of the row sum */
};

GPU_INLINE float quad_max(float x)
{
    x = gpu::max_f32(x, gpu::shuffle_xor(x, 1));
    return gpu::max_f32(x, gpu::shuffle_xor(x, 2));
}

GPU_INLINE float quad_sum(float x)
{
    x += gpu::shuffle_xor(x, 1);
    return x + gpu::shuffle_xor(x, 2);
}

/* s = tanh(s * inner): the softcap; the outer factor is part of the softmax scale. */
template <int COUNT>
GPU_INLINE void softcap(float (&s)[COUNT], float inner)
{
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
        s[i] = gpu::tanh_approx(s[i] * inner);
    }
}

template <int N>
GPU_INLINE float row_top(const float (&s)[N / 2], int row, float start)
{
    /* Four chains: a single one would wait 4 cycles for each of its N / 4 maxima. */
    float a = start, b = s[2 * row + 1], c = s[4 + 2 * row], d = s[5 + 2 * row];
    a = gpu::max_f32(a, s[2 * row]);
#pragma unroll
    for (int j = 2; j < N / 8; j += 2) {
        a = gpu::max_f32(a, s[4 * j + 2 * row]);
        b = gpu::max_f32(b, s[4 * j + 2 * row + 1]);
        c = gpu::max_f32(c, s[4 * j + 4 + 2 * row]);
        d = gpu::max_f32(d, s[4 * j + 5 + 2 * row]);
    }
    return quad_max(gpu::max_f32(gpu::max_f32(a, b), gpu::max_f32(c, d)));
}

/*
 * What the scores of a row are relative to stays until they outgrow it by 2^SLACK: the factor is
 * then exactly 1, and O need not be touched. Sums and P grow by no more than that, far inside fp16.
 * A row decides for itself, so its bits do not depend on its neighbours.
 */
constexpr float SLACK = 8.0f;

/* The shift of a row; one that saw no key yet (only where MASKED) has 0. */
template <bool MASKED>
GPU_INLINE float softmax_shift(float top, float scale)
{
    return MASKED && top == -gpu::infinity() ? 0.0f : top * scale;
}

/*
 * Maxima take in a block of scores; returned are the factors by which what was accumulated before
 * shrinks; the sums already have. FIRST: nothing was. MASKED: a row may have seen no key yet, its
 * maximum is -inf and everything relative to it is 0.
 */
template <int N, bool FIRST, bool MASKED>
GPU_INLINE gpu::f32x2 softmax_raise(const float (&s)[N / 2], softmax_state &state, float scale)
{
    static_assert(N % 16 == 0, "row_top takes pairs of column groups");
    float factor[2];
#pragma unroll
    for (int row = 0; row < 2; row++) {
        float before = state.top[row];
        float top = row_top<N>(s, row, FIRST ? -gpu::infinity() : before);
        bool stays = !FIRST && (top - before) * scale <= SLACK; /* not so for NaN: both -inf */
        top = stays ? before : top;
        float shift = softmax_shift<MASKED>(top, scale);
        factor[row] = FIRST || stays ? 1.0f : gpu::exp2_approx(gpu::fma_f32(before, scale, -shift));
        state.sum[row] = FIRST ? 0.0f : state.sum[row] * factor[row];
        state.top[row] = top;
    }
    return {factor[0], factor[1]};
}

/* Scores become probabilities relative to the maxima. Returned is what they add to the sums. */
template <int N, bool MASKED>
GPU_INLINE gpu::f32x2 softmax_exponentials(float (&s)[N / 2], const softmax_state &state,
                                           float scale)
{
    float shift[2] = {softmax_shift<MASKED>(state.top[0], scale),
                      softmax_shift<MASKED>(state.top[1], scale)};
    float sum[2] = {0.0f, 0.0f};
#pragma unroll
    for (int i = 0; i < N / 2; i += 2) {
        int row = i / 2 % 2;
        s[i] = gpu::exp2_approx(gpu::fma_f32(s[i], scale, -shift[row]));
        s[i + 1] = gpu::exp2_approx(gpu::fma_f32(s[i + 1], scale, -shift[row]));
        sum[row] += s[i];
        sum[row] += s[i + 1];
    }
    return {sum[0], sum[1]};
}

/*
 * Exponentials can also be taken before maxima are looked at, relative to those of the blocks
 * before: they are as exact as any, but for their scale. A lane's sum of a block says how large
 * they can be. SUM_HELD: sums, and O of values up to 2^60, stay in fp32, and probabilities in bf16,
 * which has its range; past it, or where a row had seen no key, they may be infinite. SUM_FP16: no
 * probability is too large for fp16; the N / 4 (at most 44) of a lane that are within 2^SLACK stay
 * below.
 */
constexpr float SUM_HELD = 0x1p60f, SUM_FP16 = 0x1p15f;

/* One of both rows is more than that. Not so a NaN, which no other maximum would mend: a launch of
 * nothing else must not take all of its exponentials again. */
GPU_INLINE bool sums_past(gpu::f32x2 sums, float most)
{
    return sums.x > most || sums.y > most;
}

/*
 * Rows whose sum of a block is past SUM_FP16 in one of the four lanes: their maxima rise by a whole
 * number of powers of two, which makes the largest sum one of 1 to 2. Returned are the factors, 1
 * for other rows, by which the block's probabilities and sums, and all that was accumulated before,
 * shrink without rounding; the sums before already have.
 */
GPU_INLINE gpu::f32x2 softmax_shrink(softmax_state &state, gpu::f32x2 sums, float scale)
{
    const float lane_sum[2] = {sums.x, sums.y};
    float factor[2];
#pragma unroll
    for (int row = 0; row < 2; row++) {
        constexpr int32_t BIAS = 127;
        float largest = quad_max(lane_sum[row]);
        int32_t power = static_cast<int32_t>(gpu::float_bits(largest) >> 23) - BIAS;
        power = largest > SUM_FP16 ? power : 0;
        factor[row] = gpu::bits_float(static_cast<uint32_t>(BIAS - power) << 23);
        state.sum[row] *= factor[row];
        state.top[row] += static_cast<float>(power) * gpu::rcp_approx(scale);
    }
    return {factor[0], factor[1]};
}

GPU_INLINE void softmax_add(softmax_state &state, gpu::f32x2 sums)
{
    state.sum[0] += sums.x;
    state.sum[1] += sums.y;
}

/* What becomes of a finished row: o is multiplied by scale; a row without keys has scale 0. */
struct softmax_result {
    float scale, lse;
};

/* sum: of the whole row. sink: -inf for none. */
GPU_INLINE softmax_result softmax_finish_row(float top, float sum, float scale, float sink)
{
    float sink2 = sink * LOG2E;
    if (sum == 0.0f && top == -gpu::infinity()) { /* with NaN scores alone the sum is NaN */
        return {0.0f, sink};
    }
    float shift = top * scale;
    float high = gpu::max_f32(shift, sink2);
    float shrink = gpu::exp2_approx(shift - high);
    float total = sum * shrink + gpu::exp2_approx(sink2 - high);
    return {shrink * gpu::rcp_approx(total), (high + gpu::log2_approx(total)) * LN2};
}

GPU_INLINE softmax_result softmax_finish(float top, float lane_sum, float scale, float sink)
{
    return softmax_finish_row(top, quad_sum(lane_sum), scale, sink);
}

} // namespace attn

#endif
