/*
 * sm90/bwd_post: the fp32 sums of dQ become dQ.
 *
 * Grid: (stripes of the plan, q heads), 256 threads: each reads the accumulator fragments it would
 * have held in sm90/bwd, scales, rounds, and the warp stores its 16 rows through shared memory.
 * Every row of the span is written: sums of rows that nobody added to are 0.
 * Bound: memory: 4 bytes read and 2 written per element.
 */
#ifndef SM90_BWD_POST_CUH
#define SM90_BWD_POST_CUH

#include "sm90/bwd.cuh"

namespace sm90
{

template <class C>
__global__ void __launch_bounds__(C::CONSUMERS)
    bwd_post_kernel(const __grid_constant__ bwd_params p)
{
    const plan_fill stripe = p.stripes[gpu::block_x()];
    int32_t head = gpu::block_y();
    int64_t unit = int64_t{gpu::block_x()} * p.hq + head;
    bwd_lane me = {gpu::warpgroup_index(), gpu::lane_index(), gpu::warp_index() % BWD_WARPS,
                   gpu::elect_one()};
    const float *source = p.scratch.dq + unit * (C::M * C::D) + me.wg * (C::DQ_BYTES / 4) +
                          (me.warp * 32 + me.lane) * 4;
    float dq[C::DQ_COLUMNS / 2];
#pragma unroll
    for (int i = 0; i < C::DQ_COLUMNS / 8; i++) {
        gpu::f32x4 x = gpu::global_load<gpu::f32x4>(source + i * BWD_WARPGROUP * 4);
        dq[4 * i] = x.x;
        dq[4 * i + 1] = x.y;
        dq[4 * i + 2] = x.z;
        dq[4 * i + 3] = x.w;
    }
    uint32_t stage =
        gpu::smem_base() + static_cast<uint32_t>(me.wg) * tile_bytes(BWD_WG_ROWS, C::DQ_COLUMNS);
    stage_rows<typename C::T, C::DQ_COLUMNS>(dq, p.scale, stage, me);
    gpu::fence_async_smem();
    gpu::warp_sync();
    if (me.leader) {
        int32_t first = me.warp * BWD_WARP_ROWS;
        int32_t row = first + (C::DQ_BY_ROWS ? me.wg * BWD_WG_ROWS : 0);
        int32_t column = C::DQ_BY_ROWS ? 0 : me.wg * C::DQ_COLUMNS;
#pragma unroll
        for (int c = 0; c < C::DQ_COLUMNS; c += PANEL) {
            gpu::tma_store(&attn::backward_set_of(p, stripe.set)->dq,
                           stage + tile_bytes(BWD_WG_ROWS, c) +
                               static_cast<uint32_t>(first) * PANEL_ROW,
                           gpu::l2::evict_first, column + c, gpu::ragged_row(stripe.rows, row),
                           head, gpu::ragged_shift(stripe.row, stripe.rows));
        }
        gpu::bulk_commit();
        gpu::bulk_wait_read<0>();
    }
}

} // namespace sm90

#endif
