/*
 * sm90/bwd_roles: dK and dV of 64 keys (see sm90/bwd_keys) where a consumer can hold one of them.
 *
 * The two consumers do different things, so that each has one accumulator of 64 keys and all
 * columns, whose products read little of shared memory:
 *   the first   S^T = K Q^T, P^T from it, dV += P^T dO
 *   the second  dP^T = V dO^T, dS^T = P^T (dP^T - delta), dK += dS^T Q
 * P^T goes from thread to thread: both hold the same fragment. It is rounded, as in sm90/bwd.
 *
 * Half of K's columns and half of V's are operands in registers. They come to shared memory like
 * the others; when both consumers have them, P goes where they lay. That makes room for a third
 * stage of Q, whose loads a step would wait for (4 x 8192, 8 heads: 470 to 492 TFLOP/s).
 *
 * dK leaves through K's slot and dV through V's, whose zero panels are the same; that the other
 * consumer's last product has read the slot before, and that nobody reads P, the ring of P says.
 *
 * Per 64 x 64 step at d 256: 8.4 MFLOP, 2048 cycles of the tensor cores, the bound; shared memory
 * 1280 cycles of operands, 128 of P, 512 of loads, which are 32 bytes a cycle from L2.
 */
#ifndef SM90_BWD_ROLES_CUH
#define SM90_BWD_ROLES_CUH

#include "sm90/bwd_keys.cuh"

namespace sm90
{

template <typename TYPE, int DIM, int DIM_V, int Q_SLOTS, int DOUT_SLOTS, int HOLD, bool CAPPED>
struct roles_config {
    using T = TYPE;
    static constexpr int D = DIM, DV = DIM_V; /* tensors may be narrower */
    static constexpr int M = 64, N = 64;      /* queries of a step, keys of a tile */
    static constexpr bool SOFTCAP = CAPPED;
    static constexpr bool DETERMINISTIC = false; /* it is, without turns */
    static constexpr bool ORDERS = false;
    static constexpr int THREADS = 3 * BWD_WARPGROUP;
    static constexpr uint32_t CONSUMER_WARPS = 2 * BWD_WARPS;
    static constexpr uint32_t KEY_WARPS = BWD_WARPS; /* that store K's, or V's, gradient */
    static constexpr uint32_t TILE_READERS = 2;      /* loaders */
    static constexpr int Q_STAGES = Q_SLOTS, DOUT_STAGES = DOUT_SLOTS;
    static constexpr int HELD = HOLD; /* columns of K, and of V, in registers */
    static constexpr int TILE_SLOTS = 2, P_SLOTS = 3;
    static constexpr uint32_t K_BYTES = tile_bytes(N, D), V_BYTES = tile_bytes(N, DV);
    static constexpr uint32_t Q_BYTES = tile_bytes(M, D), DOUT_BYTES = tile_bytes(M, DV);
    static constexpr uint32_t P_BYTES = N * M * 2;
    static constexpr uint32_t ROW_BYTES = M * 4; /* one statistic of a step's rows */
    /* 24 + 2 * 240 = 504 = 3 * 168, what the block is launched with */
    static constexpr int LOADER_REGISTERS = 24, CONSUMER_REGISTERS = 240;
    static_assert(D % PANEL == 0 && DV % PANEL == 0, "whole panels");
};

/* Columns of this consumer's keys that are an operand in registers. */
template <class C>
using held_keys = uint32_t[C::HELD / K_STEP][4];

/* Columns FIRST and on of K or V, as they have come to shared memory. */
template <class C, int FIRST>
GPU_INLINE void hold_keys(held_keys<C> &held, uint32_t keys, int32_t columns, const bwd_lane &me)
{
    uint32_t row = static_cast<uint32_t>(me.warp * BWD_WARP_ROWS + me.lane % 16);
#pragma unroll
    for (int k = 0; k < C::HELD / K_STEP; k++) {
        int first = FIRST + k * K_STEP;
        held[k][0] = held[k][1] = held[k][2] = held[k][3] = 0;
        if (first / PANEL * PANEL < columns) { /* else never loaded */
            uint32_t byte = static_cast<uint32_t>(2 * first + me.lane / 16 * 16);
            gpu::ldmatrix(gpu::tile_address(SWIZZLE, keys, C::N, row, byte), held[k]);
        }
    }
}

/* Steps FIRST up to END of s += A B^T: 64 keys of the tile by the step's queries. */
template <class C, int FIRST, int END>
GPU_INLINE void add_scores(float (&s)[C::M / 2], uint32_t keys, uint32_t queries)
{
#pragma unroll
    for (int k = FIRST; k < END; k++) {
        gpu::wgmma<C::M, typename C::T>(s, step_k<C::N>(operand_k(keys), k),
                                        step_k<C::M>(operand_k(queries), k), k > 0);
    }
}

template <class C, int FIRST>
GPU_INLINE void add_held_scores(float (&s)[C::M / 2], const held_keys<C> &held, uint32_t queries)
{
#pragma unroll
    for (int k = 0; k < C::HELD / K_STEP; k++) {
        gpu::wgmma<C::M, typename C::T>(s, held[k], step_k<C::M>(operand_k(queries), FIRST + k),
                                        FIRST + k > 0);
    }
}

/* ---- the first consumer: dV ---- */

template <class C>
struct dv_registers {
    float s[C::M / 2]; /* S^T */
    float dv[C::DV / 2];
    uint32_t p[C::M / K_STEP][4]; /* P^T, the operand of dV */
    held_keys<C> k;               /* the last columns of K */
};

template <class C>
GPU_INLINE void dv_issue_s(dv_registers<C> &r, uint32_t smem, uint32_t step)
{
    using S = keys_smem<C>;
    constexpr int SHARED = C::D - C::HELD;
    uint32_t q = bwd_q<C, S>(smem, step);
    attn::ring_wait_full<C::Q_STAGES>(smem + S::Q_RING, step);
    gpu::wgmma_fence(r.s, r.k);
    add_scores<C, 0, SHARED / K_STEP>(r.s, smem + S::K, q);
    add_held_scores<C, SHARED / K_STEP>(r.s, r.k, q);
    gpu::wgmma_commit();
}

/* P^T, in p and for the second consumer. */
template <class C>
GPU_INLINE void dv_make_p(dv_registers<C> &r, const bwd_params &p, uint32_t smem,
                          const keys_step &at, const bwd_lane &me)
{
    using S = keys_smem<C>;
    uint32_t tile = bwd_tile<C, S>(smem, at.use);
    keys_mask<C>(r.s, p, tile, attn::tile_read_place(tile).row, at.m);
    attn::ring_wait_empty<C::P_SLOTS>(smem + S::P_RING, at.step);
    keys_make_p<C, true>(
        r.s, r.p, p, bwd_lse<C, S>(smem, at.step),
        keys_p<C>(smem, attn::ring_slot<C::P_SLOTS>(at.step), me.warp * 32 + me.lane));
    gpu::warp_sync();
    if (gpu::elect_one()) {
        gpu::mbarrier_arrive(attn::ring_full<C::P_SLOTS>(smem + S::P_RING, at.step));
    }
}

/* On entry S^T is issued. MORE: so it is on return, for the next step, of which the third stage of
 * Q has come: behind dV, so that the tensor cores go on with it. */
template <class C, bool MORE>
GPU_INLINE void dv_step(dv_registers<C> &r, const bwd_params &p, uint32_t smem, const keys_step &at,
                        const bwd_lane &me)
{
    using S = keys_smem<C>;
    gpu::wgmma_wait<0>(r.s, r.k);
    dv_make_p<C>(r, p, smem, at, me);
    release_together<C::Q_STAGES>(smem + S::Q_RING, at.step);
    attn::ring_wait_full<C::DOUT_STAGES>(smem + S::DOUT_RING, at.step);
    keys_add<C, C::DV>(r.dv, r.p, bwd_dout<C, S>(smem, at.step), !at.first);
    if constexpr (MORE) {
        dv_issue_s<C>(r, smem, at.step + 1);
    }
    gpu::wgmma_wait<MORE ? 1 : 0>(r.dv, r.p);
    release_together<C::DOUT_STAGES>(smem + S::DOUT_RING, at.step);
}

/* ---- the second consumer: dK ---- */

template <class C>
struct dk_registers {
    float dp[C::M / 2]; /* dP^T */
    float dk[C::D / 2];
    uint32_t ds[C::M / K_STEP][4]; /* dS^T, the operand of dK */
    held_keys<C> v;                /* the first columns of V */
};

template <class C>
GPU_INLINE void dk_issue_dp(dk_registers<C> &r, uint32_t smem, uint32_t step)
{
    using S = keys_smem<C>;
    uint32_t dout = bwd_dout<C, S>(smem, step);
    attn::ring_wait_full<C::DOUT_STAGES>(smem + S::DOUT_RING, step);
    gpu::wgmma_fence(r.dp, r.v);
    add_held_scores<C, 0>(r.dp, r.v, dout);
    add_scores<C, C::HELD / K_STEP, C::DV / K_STEP>(r.dp, smem + S::V, dout);
    gpu::wgmma_commit();
}

/* On entry dP^T is issued. MORE: so it is on return, for the next step. */
template <class C, bool MORE>
GPU_INLINE void dk_step(dk_registers<C> &r, uint32_t smem, const keys_step &at, const bwd_lane &me)
{
    using S = keys_smem<C>;
    gpu::wgmma_wait<0>(r.dp, r.v);
    attn::ring_wait_full<C::P_SLOTS>(smem + S::P_RING, at.step);
    keys_make_ds<C, true>(
        r.dp, r.ds, {}, bwd_delta<C, S>(smem, at.step),
        keys_p<C>(smem, attn::ring_slot<C::P_SLOTS>(at.step), me.warp * 32 + me.lane));
    release_together<C::P_SLOTS>(smem + S::P_RING, at.step);
    release_together<C::DOUT_STAGES>(smem + S::DOUT_RING, at.step);
    attn::ring_wait_full<C::Q_STAGES>(smem + S::Q_RING, at.step);
    keys_add<C, C::D>(r.dk, r.ds, bwd_q<C, S>(smem, at.step), !at.first);
    gpu::wgmma_wait<0>(r.dk, r.ds);
    release_together<C::Q_STAGES>(smem + S::Q_RING, at.step);
    if constexpr (MORE) {
        dk_issue_dp<C>(r, smem, at.step + 1);
    }
}

/* ---- both ---- */

/* Both consumers hold what they need of K and V where P goes. */
GPU_INLINE void roles_hold()
{
    gpu::barrier_sync<1>(2 * BWD_WARPGROUP);
}

/* 64 keys of dK or dV, staged in the slot of K or V, to memory; the slot is free when they have
 * been read. Panels that the tensor does not have stay as they are, zero; of one that it has part
 * of, all is staged, since P may have been there. */
template <class C, int COLUMNS>
GPU_INLINE void roles_store(const float (&d)[COLUMNS / 2], float scale, const bwd_out &out,
                            uint32_t stage, uint32_t ring, uint32_t smem, uint32_t use,
                            const bwd_lane &me)
{
    using S = keys_smem<C>;
    int32_t panels = (out.columns + PANEL - 1) / PANEL;
    stage_rows<typename C::T, COLUMNS>(d, scale, stage, panels * PANEL, me);
    gpu::fence_async_smem();
    gpu::warp_sync();
    if (me.leader) {
        attn::tile_place place = attn::tile_read_place(bwd_tile<C, S>(smem, use));
        attn::tile_side k = attn::tile_read_k(bwd_tile<C, S>(smem, use));
        send_rows<COLUMNS>(out, stage, place.row, 0, place, k, me);
        gpu::bulk_commit();
        attn::ring_release<C::TILE_SLOTS>(smem + S::TILE_RING, use);
        gpu::bulk_wait_read<0>();
        attn::ring_release<1>(ring, use);
    }
}

template <class C>
GPU_INLINE void dv_all(const bwd_params &p, uint32_t smem, const bwd_lane &me)
{
    using S = keys_smem<C>;
    dv_registers<C> r;
    uint32_t step = 0;
    for (uint32_t use = 0; keys_next<C>(smem, use); use++) {
        keys_step at = keys_start<C>(p, smem, use, step);
        attn::ring_wait_full<1>(smem + S::K_RING, use);
        hold_keys<C, C::D - C::HELD>(r.k, smem + S::K, p.d, me);
        dv_issue_s<C>(r, smem, at.step);
        roles_hold();
        for (int32_t left = keys_count<C>(p, smem, use) - 1; left > 0; left--) {
            dv_step<C, true>(r, p, smem, at, me);
            at = keys_after<C>(smem, at);
        }
        dv_step<C, false>(r, p, smem, at, me);
        step = at.step + 1;
        /* The last P is taken: V has been multiplied for the last time. */
        attn::ring_wait_empty<C::P_SLOTS>(smem + S::P_RING, at.step + C::P_SLOTS);
        const bwd_set *set =
            attn::backward_set_of(p, attn::tile_read_place(bwd_tile<C, S>(smem, use)).set);
        roles_store<C, C::DV>(r.dv, 1.0f, {&set->dv, p.dv}, smem + S::V, smem + S::V_RING, smem,
                              use, me);
    }
}

template <class C>
GPU_INLINE void dk_all(const bwd_params &p, uint32_t smem, const bwd_lane &me)
{
    using S = keys_smem<C>;
    dk_registers<C> r;
    uint32_t step = 0;
    for (uint32_t use = 0; keys_next<C>(smem, use); use++) {
        keys_step at = keys_start<C>(p, smem, use, step);
        attn::ring_wait_full<1>(smem + S::V_RING, use);
        hold_keys<C, 0>(r.v, smem + S::V, p.dv, me);
        dk_issue_dp<C>(r, smem, at.step);
        roles_hold();
        for (int32_t left = keys_count<C>(p, smem, use) - 1; left > 0; left--) {
            dk_step<C, true>(r, smem, at, me);
            at = keys_after<C>(smem, at);
        }
        dk_step<C, false>(r, smem, at, me);
        step = at.step + 1;
        /* The last P is taken: K has been multiplied for the last time, and P's slots are free. */
        attn::ring_wait_empty<C::P_SLOTS>(smem + S::P_RING, at.step + C::P_SLOTS);
        const bwd_set *set =
            attn::backward_set_of(p, attn::tile_read_place(bwd_tile<C, S>(smem, use)).set);
        roles_store<C, C::D>(r.dk, p.scale, {&set->dk, p.d}, smem + S::K, smem + S::K_RING, smem,
                             use, me);
    }
}

template <class C>
__global__ void __launch_bounds__(C::THREADS, 1) roles_kernel(const __grid_constant__ bwd_params p)
{
    uint32_t smem = gpu::smem_base();
    keys_init<C>(p, smem);
    gpu::grid_start_next(); /* dQ needs nothing of this launch but its SMs */
    int wg = gpu::warpgroup_index();
    if (wg == 0) {
        keys_serve<C>(p, smem);
        return;
    }
    gpu::registers_take<C::CONSUMER_REGISTERS>();
    bwd_lane me = {wg - 1, gpu::lane_index(), gpu::warp_index() % BWD_WARPS,
                   gpu::lane_index() == 0};
    if (wg == 1) {
        dv_all<C>(p, smem, me);
    } else {
        dk_all<C>(p, smem, me);
    }
    if (me.leader) {
        gpu::bulk_wait<0>(); /* spare: see write_all */
    }
}

} // namespace sm90

#endif
