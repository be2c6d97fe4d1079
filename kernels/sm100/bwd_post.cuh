/*
 * sm100/bwd_post: the fp32 sums of dQ become dQ.
 *
 * Grid: (loose stripes of the plan, q heads), 128 threads: each reads a row's sums as a lane of a
 * dQ warp of sm100/bwd added them, scales, rounds, and the warp stores its 32 rows through shared
 * memory.
 * Every row of the span is written: sums of rows that nobody added to are 0.
 * Bound: memory: 4 bytes read and 2 written per element.
 */
#ifndef SM100_BWD_POST_CUH
#define SM100_BWD_POST_CUH

#include "sm100/bwd.cuh"

namespace sm100
{

constexpr int BWD_POST_THREADS = TILE_ROWS;

template <class C>
__global__ void __launch_bounds__(BWD_POST_THREADS)
    bwd_post_kernel(const __grid_constant__ bwd_params p)
{
    int32_t number = gpu::global_load_constant<int32_t>(p.loose + gpu::block_x());
    const plan_stripe stripe = p.stripes[number];
    int32_t head = gpu::block_y();
    int32_t first = gpu::warp_index() * WARP_LANES;
    int lane = gpu::lane_index();
    const float *source =
        p.scratch.dq + (int64_t{number} * p.hq + head) * (C::M * C::D) + first * C::D + lane * 4;
    uint32_t stage = gpu::smem_base() + tile_bytes(first, C::D);
#pragma unroll
    for (int c = 0; c < C::D; c += PANEL) {
        float sum[PANEL];
#pragma unroll
        for (int i = 0; i < PANEL; i += 4) {
            gpu::f32x4 x = gpu::global_load<gpu::f32x4>(source + (c + i) * WARP_LANES);
            sum[i] = x.x;
            sum[i + 1] = x.y;
            sum[i + 2] = x.z;
            sum[i + 3] = x.w;
        }
        stage_row<typename C::T>(sum, p.scale, stage + tile_bytes(WARP_LANES, c), lane);
    }
    gpu::fence_async_smem();
    gpu::warp_sync();
    if (gpu::elect_one()) {
#pragma unroll
        for (int c = 0; c < C::D && c < p.d; c += PANEL) {
            gpu::tma_store(&attn::backward_set_of(p, stripe.set)->dq,
                           stage + tile_bytes(WARP_LANES, c), gpu::l2::evict_first, c,
                           gpu::ragged_row(stripe.rows, first), head,
                           gpu::ragged_shift(stripe.row, stripe.rows));
        }
        gpu::bulk_commit();
        gpu::bulk_wait_read<0>();
    }
}

} // namespace sm100

#endif
