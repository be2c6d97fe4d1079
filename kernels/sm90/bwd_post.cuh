/*
 * sm90/bwd_post: the fp32 sums of dQ become dQ.
 *
 * Grid: (loose stripes of the plan, q heads), a warpgroup for each piece of the sums
 * (sm90/bwd_data): each thread reads the fragments it would have held in the main kernel, scales,
 * rounds, and the warp stores its 16 rows through shared memory. Every row of the span is written:
 * sums of rows that nobody added to are 0. Bound: memory: 4 bytes read and 2 written per element.
 */
#ifndef SM90_BWD_POST_CUH
#define SM90_BWD_POST_CUH

#include "sm90/bwd_data.cuh"

namespace sm90
{

template <class C>
__global__ void __launch_bounds__(C::DQ_PIECES *BWD_WARPGROUP)
    bwd_post_kernel(const __grid_constant__ bwd_params p)
{
    int32_t number = gpu::global_load_constant<int32_t>(p.loose + gpu::block_x());
    const plan_stripe stripe = p.stripes[number];
    int32_t head = gpu::block_y();
    int64_t unit = int64_t{number} * p.hq + head;
    bwd_lane me = {gpu::warpgroup_index(), gpu::lane_index(), gpu::warp_index() % BWD_WARPS,
                   gpu::elect_one()};
    const float *source =
        p.scratch.dq + (unit * C::DQ_PIECES + me.wg) * BWD_PIECE + bwd_place(me) / 4;
    float dq[PANEL / 2];
#pragma unroll
    for (int i = 0; i < PANEL / 8; i++) {
        gpu::f32x4 x = gpu::global_load<gpu::f32x4>(source + i * BWD_FRAGMENT / 4);
        dq[4 * i] = x.x;
        dq[4 * i + 1] = x.y;
        dq[4 * i + 2] = x.z;
        dq[4 * i + 3] = x.w;
    }
    uint32_t stage =
        gpu::smem_base() + static_cast<uint32_t>(me.wg) * tile_bytes(BWD_WG_ROWS, PANEL);
    stage_rows<typename C::T, PANEL>(dq, p.scale, stage, PANEL, me);
    gpu::fence_async_smem();
    gpu::warp_sync();
    if (me.leader) {
        attn::tile_place place = {stripe.set, head, 0, stripe.rows};
        attn::tile_side q = {stripe.row, stripe.used, stripe.rows, 0};
        int32_t row = C::DQ_BY_ROWS ? me.wg * BWD_WG_ROWS : 0;
        int32_t column = C::DQ_BY_ROWS ? 0 : me.wg * PANEL;
        send_rows<PANEL>({&attn::backward_set_of(p, stripe.set)->dq, p.d}, stage, row, column,
                         place, q, me);
        gpu::bulk_commit();
        gpu::bulk_wait_read<0>();
    }
}

} // namespace sm90

#endif
