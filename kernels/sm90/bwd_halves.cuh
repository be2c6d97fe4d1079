/*
 * sm90/bwd_halves: dK and dV of 128 keys (see sm90/bwd_keys) where a consumer can hold both for
 * half of them: at d 192 and dv 128 they are 160 registers. Each consumer has 64 keys and needs
 * nothing of the other: S^T = K Q^T, dP^T = V dO^T, dV += P^T dO, dK += dS^T Q, with P^T and dS^T
 * as register operands. dK of a step runs under P of the next, dV under dS.
 *
 * Per 64 x 128 step at d 192, dv 128: 10.5 MFLOP, 2560 cycles of the tensor cores; shared memory
 * 1920 cycles of operands and 320 of loads.
 */
#ifndef SM90_BWD_HALVES_CUH
#define SM90_BWD_HALVES_CUH

#include "sm90/bwd_keys.cuh"

namespace sm90
{

template <typename TYPE, int DIM, int DIM_V, int STAGES, bool CAPPED>
struct halves_config {
    using T = TYPE;
    static constexpr int D = DIM, DV = DIM_V; /* tensors may be narrower */
    static constexpr int M = 64, N = 2 * BWD_WG_ROWS;
    static constexpr bool SOFTCAP = CAPPED;
    static constexpr bool DETERMINISTIC = false; /* it is, without turns */
    static constexpr bool ORDERS = false;
    static constexpr int THREADS = 3 * BWD_WARPGROUP;
    static constexpr uint32_t CONSUMER_WARPS = 2 * BWD_WARPS, KEY_WARPS = CONSUMER_WARPS;
    static constexpr uint32_t TILE_READERS = 2; /* loaders */
    static constexpr int Q_STAGES = STAGES, DOUT_STAGES = STAGES;
    static constexpr int TILE_SLOTS = 2, P_SLOTS = CAPPED; /* for a thread's own factors */
    static constexpr int HELD = 0;                         /* columns of K and V in registers */
    static constexpr uint32_t K_BYTES = tile_bytes(N, D), V_BYTES = tile_bytes(N, DV);
    static constexpr uint32_t Q_BYTES = tile_bytes(M, D), DOUT_BYTES = tile_bytes(M, DV);
    static constexpr uint32_t P_BYTES = N * M * 2;
    static constexpr uint32_t ROW_BYTES = M * 4; /* one statistic of a step's rows */
    static constexpr int LOADER_REGISTERS = 24, CONSUMER_REGISTERS = 240;
    static_assert(D % PANEL == 0 && DV % PANEL == 0, "whole panels");
};

template <class C>
struct halves_registers {
    float s[C::M / 2]; /* S^T, then dP^T: both at once leave too few registers for the rest */
    float dk[C::D / 2];
    float dv[C::DV / 2];
    uint32_t p[C::M / K_STEP][4];  /* P^T, the operand of dV */
    uint32_t ds[C::M / K_STEP][4]; /* dS^T, the operand of dK */
};

template <class C>
GPU_INLINE void halves_issue_s(halves_registers<C> &r, uint32_t smem, uint32_t step,
                               const bwd_lane &me)
{
    using S = keys_smem<C>;
    attn::ring_wait_full<C::Q_STAGES>(smem + S::Q_RING, step);
    gpu::wgmma_fence(r.s);
    multiply_kk<typename C::T, C::M, C::D, C::N, C::M>(
        r.s, operand_k(smem + S::K, me.wg * BWD_WG_ROWS), operand_k(bwd_q<C, S>(smem, step)));
    gpu::wgmma_commit();
}

template <class C>
GPU_INLINE void halves_issue_dp(halves_registers<C> &r, uint32_t smem, uint32_t step,
                                const bwd_lane &me)
{
    using S = keys_smem<C>;
    attn::ring_wait_full<C::DOUT_STAGES>(smem + S::DOUT_RING, step);
    gpu::wgmma_fence(r.s);
    multiply_kk<typename C::T, C::M, C::DV, C::N, C::M>(
        r.s, operand_k(smem + S::V, me.wg * BWD_WG_ROWS), operand_k(bwd_dout<C, S>(smem, step)));
    gpu::wgmma_commit();
}

/* Where this thread keeps what dP - delta is multiplied with if that is not P: with a softcap. */
template <class C>
GPU_INLINE keys_pieces halves_factors(uint32_t smem, const bwd_lane &me)
{
    return keys_p<C>(smem, 0, me.wg * BWD_WARPGROUP + me.warp * 32 + me.lane);
}

/* From S^T, that no other group follows but dK of the step before, to P^T. */
template <class C>
GPU_INLINE void halves_make_p(halves_registers<C> &r, const bwd_params &p, uint32_t smem,
                              const keys_step &at, const bwd_lane &me)
{
    using S = keys_smem<C>;
    uint32_t tile = bwd_tile<C, S>(smem, at.use);
    keys_mask<C>(r.s, p, tile, attn::tile_read_place(tile).row + me.wg * BWD_WG_ROWS, at.m);
    keys_make_p<C, C::SOFTCAP>(r.s, r.p, p, bwd_lse<C, S>(smem, at.step),
                               halves_factors<C>(smem, me));
}

/* From P^T to dS^T, dV on the way. BEHIND: dK of the step before still runs. */
template <class C, bool BEHIND>
GPU_INLINE void halves_finish(halves_registers<C> &r, uint32_t smem, const keys_step &at,
                              const bwd_lane &me)
{
    using S = keys_smem<C>;
    if constexpr (BEHIND) {
        /* Known for long. It is a branch, over which the compiler does not lift the wait for dK. */
        attn::ring_wait_full<C::Q_STAGES>(smem + S::Q_RING, at.step - 1);
        gpu::wgmma_wait<0>(r.dk, r.ds);
        release_together<C::Q_STAGES>(smem + S::Q_RING, at.step - 1);
    }
    halves_issue_dp<C>(r, smem, at.step, me);
    keys_add<C, C::DV>(r.dv, r.p, bwd_dout<C, S>(smem, at.step), true);
    gpu::wgmma_wait<1>(r.s);
    keys_make_ds<C, C::SOFTCAP>(r.s, r.ds, r.p, bwd_delta<C, S>(smem, at.step),
                                halves_factors<C>(smem, me));
    gpu::wgmma_wait<0>(r.dv, r.p);
    release_together<C::DOUT_STAGES>(smem + S::DOUT_RING, at.step);
}

template <class C>
GPU_INLINE void halves_go_on(halves_registers<C> &r, const bwd_params &p, uint32_t smem,
                             const keys_step &at, const bwd_lane &me)
{
    using S = keys_smem<C>;
    halves_issue_s<C>(r, smem, at.step, me);
    keys_add<C, C::D>(r.dk, r.ds, bwd_q<C, S>(smem, at.step - 1), true);
    gpu::wgmma_wait<1>(r.s);
    halves_make_p<C>(r, p, smem, at, me);
    halves_finish<C, true>(r, smem, at, me);
}

/* dK and dV leave through this consumer's rows of K and V; panels that the tensors do not have stay
 * zero. */
template <class C>
GPU_INLINE void halves_store(const halves_registers<C> &r, const bwd_params &p, uint32_t smem,
                             uint32_t use, const bwd_lane &me)
{
    using S = keys_smem<C>;
    uint32_t tile = bwd_tile<C, S>(smem, use);
    int32_t first = me.wg * BWD_WG_ROWS;
    uint32_t offset = static_cast<uint32_t>(first) * PANEL_ROW;
    if (me.wg == 0) { /* no warp of this consumer multiplies K and V any more */
        gpu::barrier_sync<1>(BWD_WARPGROUP);
    } else {
        gpu::barrier_sync<2>(BWD_WARPGROUP);
    }
    stage_rows<typename C::T, C::DV, C::N>(r.dv, 1.0f, smem + S::V + offset, p.dv, me);
    stage_rows<typename C::T, C::D, C::N>(r.dk, p.scale, smem + S::K + offset, p.d, me);
    gpu::fence_async_smem();
    gpu::warp_sync();
    if (me.leader) {
        attn::tile_place place = attn::tile_read_place(tile);
        attn::tile_side k = attn::tile_read_k(tile);
        const bwd_set *set = attn::backward_set_of(p, place.set);
        int32_t row = place.row + first;
        send_rows<C::DV, C::N>({&set->dv, p.dv}, smem + S::V + offset, row, 0, place, k, me);
        send_rows<C::D, C::N>({&set->dk, p.d}, smem + S::K + offset, row, 0, place, k, me);
        gpu::bulk_commit();
        attn::ring_release<C::TILE_SLOTS>(smem + S::TILE_RING, use);
        gpu::bulk_wait_read<0>();
        attn::ring_release<1>(smem + S::K_RING, use);
        attn::ring_release<1>(smem + S::V_RING, use);
    }
}

template <class C>
GPU_INLINE void halves_all(const bwd_params &p, uint32_t smem, bwd_lane me)
{
    using S = keys_smem<C>;
    halves_registers<C> r;
    uint32_t step = 0;
    for (uint32_t use = 0; keys_next<C>(smem, use); use++) {
        keys_step at = keys_start<C>(p, smem, use, step);
        me.wg = gpu::shuffle(me.wg, 0);
        clear_sums(r.dk);
        clear_sums(r.dv);
        attn::ring_wait_full<1>(smem + S::K_RING, use);
        halves_issue_s<C>(r, smem, at.step, me);
        attn::ring_wait_full<1>(smem + S::V_RING, use);
        gpu::wgmma_wait<0>(r.s);
        halves_make_p<C>(r, p, smem, at, me);
        halves_finish<C, false>(r, smem, at, me);
        for (int32_t left = keys_count<C>(p, smem, use) - 1; left > 0; left--) {
            at = keys_after<C>(smem, at);
            me.wg = gpu::shuffle(me.wg, 0);
            halves_go_on<C>(r, p, smem, at, me);
        }
        keys_add<C, C::D>(r.dk, r.ds, bwd_q<C, S>(smem, at.step), true);
        gpu::wgmma_wait<0>(r.dk, r.ds);
        release_together<C::Q_STAGES>(smem + S::Q_RING, at.step);
        step = at.step + 1;
        halves_store<C>(r, p, smem, use, me);
    }
}

template <class C>
__global__ void __launch_bounds__(C::THREADS, 1) halves_kernel(const __grid_constant__ bwd_params p)
{
    uint32_t smem = gpu::smem_base();
    keys_init<C>(p, smem);
    gpu::grid_start_next(); /* as keys_kernel */
    int wg = gpu::warpgroup_index();
    if (wg == 0) {
        keys_serve<C>(p, smem);
        return;
    }
    gpu::registers_take<C::CONSUMER_REGISTERS>();
    bwd_lane me = {wg - 1, gpu::lane_index(), gpu::warp_index() % BWD_WARPS,
                   gpu::lane_index() == 0};
    halves_all<C>(p, smem, me);
    if (me.leader) {
        gpu::bulk_wait<0>(); /* spare: see write_all */
    }
}

} // namespace sm90

#endif
