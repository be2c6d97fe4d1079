/*
 * common/preprocess: what the backward needs of each row before it starts, and a clean sum of dQ.
 *
 * Grid: (stripes of the plan, q heads). A block of 128 threads has one stripe, the M rows of a
 * query block, of one head: a unit. It writes lse * log2(e) and delta = <dO, O> - dlse, sets the
 * unit's turn to zero and, unless its tiles are ordered (plan.h), its sum of dQ, and adds up its
 * part of dsink. Rows that are not there, or see nothing, get lse = +inf, which makes every
 * probability 0 without a mask. Bound: memory: O and dO read once, the fp32 sum of dQ written once
 * (16 bytes per 2 x 2 read).
 */
#ifndef COMMON_PREPROCESS_CUH
#define COMMON_PREPROCESS_CUH

#include "common/softmax.cuh"
#include "gpu/barrier.cuh"
#include "gpu/global.cuh"
#include "gpu/index.cuh"
#include "gpu/math.cuh"
#include "gpu/smem.cuh"
#include "gpu/warp.cuh"
#include "kernels/plan.h"

namespace attn
{

constexpr int PREPROCESS_THREADS = 128;

/* Tensors of one set; o is read unless delta is there, dlse may be NULL. */
struct preprocess_set {
    attn_tensor o, dout, lse, dlse, delta;
    const float *sink;
};

struct preprocess_params {
    preprocess_set first;       /* set 0 */
    const preprocess_set *more; /* sets 1 and up */
    const plan_stripe *stripes;
    float *statistics, *dq, *dsink; /* see bwd_scratch */
    int32_t *turns;
    int32_t hq, dv;
};

GPU_INLINE const uint8_t *row_at(const attn_tensor &tensor, int64_t row, int64_t head)
{
    return static_cast<const uint8_t *>(tensor.data) + row * tensor.row_stride +
           head * tensor.head_stride;
}

/* The dot product of 8 elements of two rows. */
template <typename T>
GPU_INLINE float dot_8(gpu::u32x4 a, gpu::u32x4 b)
{
    const uint32_t left[4] = {a.x, a.y, a.z, a.w}, right[4] = {b.x, b.y, b.z, b.w};
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        gpu::f32x2 x = gpu::unpack<T>(left[i]), y = gpu::unpack<T>(right[i]);
        sum = gpu::fma_f32(x.x, y.x, gpu::fma_f32(x.y, y.y, sum));
    }
    return sum;
}

/* <dO, O> of a row, in all of the LANES lanes that share it. */
template <typename T, int LANES>
GPU_INLINE float row_dot(const preprocess_set &set, int64_t row, int64_t head, int lane, bool there,
                         int32_t dv)
{
    gpu::u32x4 zero = {0, 0, 0, 0};
    bool wanted = there && 8 * lane < dv;
    gpu::u32x4 o = gpu::global_load_if(wanted, row_at(set.o, row, head) + 16 * lane, zero);
    gpu::u32x4 d = gpu::global_load_if(wanted, row_at(set.dout, row, head) + 16 * lane, zero);
    float sum = dot_8<T>(o, d);
#pragma unroll
    for (int mask = LANES / 2; mask > 0; mask /= 2) {
        sum += gpu::shuffle_xor(sum, mask);
    }
    return sum;
}

/* delta of a row and its part of dsink. */
struct row_result {
    float lse2, delta, dsink;
};

template <typename T, int LANES>
GPU_INLINE row_result preprocess_row(const preprocess_set &set, int64_t row, int64_t head, int lane,
                                     bool there, int32_t dv)
{
    bool given = set.delta.data != nullptr;
    float delta = given ? gpu::global_load_if(there, row_at(set.delta, row, head), 0.0f)
                        : row_dot<T, LANES>(set, row, head, lane, there, dv);
    float lse = gpu::global_load_if(there, row_at(set.lse, row, head), -gpu::infinity());
    if (set.dlse.data != nullptr) {
        delta -= gpu::global_load_if(there, row_at(set.dlse, row, head), 0.0f);
    }
    if (lse == -gpu::infinity()) {
        return {gpu::infinity(), 0.0f, 0.0f};
    }
    float dsink = 0.0f;
    if (set.sink != nullptr) {
        dsink = -gpu::exp2_approx((gpu::global_load<float>(set.sink + head) - lse) * LOG2E) * delta;
    }
    return {lse * LOG2E, delta, dsink};
}

/* Sum over the block, in an order that is always the same, in thread 0. */
GPU_INLINE float block_sum(float x)
{
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) {
        x += gpu::shuffle_xor(x, mask);
    }
    uint32_t slots = gpu::smem_base();
    if (gpu::lane_index() == 0) {
        gpu::smem_store(slots + static_cast<uint32_t>(gpu::thread_index() / 32) * 4, x);
    }
    gpu::block_sync();
    float sum = 0.0f;
    for (uint32_t warp = 0; warp < PREPROCESS_THREADS / 32; warp++) {
        sum += gpu::smem_load<float>(slots + warp * 4);
    }
    return sum;
}

constexpr uint32_t PREPROCESS_SMEM = PREPROCESS_THREADS / 32 * 4;

template <typename T, int M, int D, int DV>
__global__ void __launch_bounds__(PREPROCESS_THREADS)
    preprocess_kernel(const __grid_constant__ preprocess_params p)
{
    constexpr int LANES = DV / 8; /* of a row: 16 bytes each */
    const plan_stripe stripe = p.stripes[gpu::block_x()];
    const preprocess_set &set = stripe.set == 0 ? p.first : p.more[stripe.set - 1];
    int64_t head = gpu::block_y();
    int64_t unit = int64_t{gpu::block_x()} * p.hq + head;
    float *lse2 = p.statistics + unit * (2 * M);
    int lane = gpu::thread_index() % LANES;
    float dsink = 0.0f;
#pragma unroll 4
    for (int r = gpu::thread_index() / LANES; r < M; r += PREPROCESS_THREADS / LANES) {
        row_result row = preprocess_row<T, LANES>(set, int64_t{stripe.row} + r, head, lane,
                                                  r < stripe.used, p.dv);
        if (lane == 0) {
            gpu::global_store(lse2 + r, row.lse2);
            gpu::global_store(lse2 + M + r, row.delta);
            dsink += row.dsink;
        }
    }
    gpu::f32x4 *dq = reinterpret_cast<gpu::f32x4 *>(p.dq + unit * (M * D));
    for (int i = gpu::thread_index(); i < M * D / 4 && !stripe.ordered; i += PREPROCESS_THREADS) {
        gpu::global_store(dq + i, gpu::f32x4{0.0f, 0.0f, 0.0f, 0.0f});
    }
    if (set.sink != nullptr) {
        dsink = block_sum(dsink);
    }
    if (gpu::thread_index() == 0) {
        gpu::global_store(p.turns + unit, 0);
        gpu::global_store(p.dsink + unit, dsink);
    }
}

/* dsink of a sequence: its units in order. Grid: (sequences, heads / 32 rounded up), 32 threads. */
struct dsink_sequence {
    float *target;        /* the sequence's row of set.dsink */
    int32_t first, count; /* stripes */
};

static __global__ void dsink_kernel(const dsink_sequence *sequences, const float *units, int32_t hq)
{
    const dsink_sequence sequence = sequences[gpu::block_x()];
    int32_t head = gpu::block_y() * 32 + gpu::thread_index();
    if (head >= hq) {
        return;
    }
    float sum = 0.0f;
    for (int32_t i = 0; i < sequence.count; i++) {
        sum += gpu::global_load<float>(units + (int64_t{sequence.first} + i) * hq + head);
    }
    gpu::global_store(sequence.target + head, sum);
}

} // namespace attn

#endif
