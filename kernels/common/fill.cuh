/*
 * common/fill: rows that no tile computes get their defined values.
 *
 * Grid: (fills of the plan, heads). A warp writes a row at a time, 16 bytes a lane. Bound: memory,
 * and rare: rows that see no key, and rows between length and span.
 */
#ifndef COMMON_FILL_CUH
#define COMMON_FILL_CUH

#include "gpu/global.cuh"
#include "gpu/index.cuh"
#include "gpu/math.cuh"
#include "kernels/plan.h"

namespace attn
{

constexpr int FILL_THREADS = 128;

/* Tensors of one set that are filled, heads of them; NULL ones are skipped. */
struct fill_set {
    uint8_t *rows[2]; /* zeros: o; dk and dv */
    int64_t row_stride[2], head_stride[2];
    int32_t row_bytes[2];
    uint8_t *lse; /* -inf; the sink in rows below the length */
    int64_t lse_row_stride, lse_head_stride;
    const float *sink;
};

GPU_INLINE void fill_zeros(uint8_t *row, int32_t bytes, int lane)
{
    for (int32_t at = 16 * lane; at < bytes; at += 16 * 32) {
        gpu::global_store(row + at, gpu::u32x4{0, 0, 0, 0});
    }
}

static __global__ void fill_kernel(const fill_set *sets, const plan_fill *fills)
{
    const plan_fill fill = fills[gpu::block_x()];
    const fill_set &set = sets[fill.set];
    int64_t head = gpu::block_y();
    int lane = gpu::lane_index();
    for (int32_t r = gpu::thread_index() / 32; r < fill.rows; r += FILL_THREADS / 32) {
        int64_t row = int64_t{fill.row} + r;
        for (int t = 0; t < 2; t++) {
            if (set.rows[t] != nullptr) {
                fill_zeros(set.rows[t] + head * set.head_stride[t] + row * set.row_stride[t],
                           set.row_bytes[t], lane);
            }
        }
        if (set.lse != nullptr && lane == 0) {
            bool sunk = r < fill.used && set.sink != nullptr;
            gpu::global_store(set.lse + head * set.lse_head_stride + row * set.lse_row_stride,
                              sunk ? gpu::global_load<float>(set.sink + head) : -gpu::infinity());
        }
    }
}

} // namespace attn

#endif
