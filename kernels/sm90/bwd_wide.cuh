/*
 * sm90/bwd_wide: the backward pass on Hopper for head dims past 128.
 *
 * As sm90/bwd, of which it shares the loaders, the writer and the lists (sm90/bwd_data), but dK and
 * dV of 128 keys would not fit the registers: a tile is 64 keys, and both consumers (warpgroups 1
 * and 2) work on all of them. Of a step, 64 queries x 64 keys, a consumer
 *   computes scores for half of the queries: S^T = K Q^T and dP^T = V dO^T, 64 x 32 each;
 *   writes its half of P^T and dS^T, keys along the rows, to shared memory;
 *   has a share of the columns of dV += P^T dO, dK += dS^T Q and dQ = dS K: whole panels of 64,
 *   the first consumer one more if their number is odd.
 * So all three products read P and dS from shared memory, dQ the latter across its rows.
 *
 * Who waits for whom: as in sm90/bwd. Consumers meet once in a step, when P and dS are written;
 * these have two stages. A consumer's dQ goes to the writer panel by panel. dK and dV are staged
 * where K and V were, which come back when the stores have read them.
 *
 * Per 64 x 64 step at d 256: 10.5 MFLOP, 2560 cycles of the tensor cores; shared memory about 3900
 * cycles (products of 32 columns read 48 bytes for each 32 multiplied), which is the bound: 65 % of
 * the tensor cores' peak. 4 x 8192, full / causal / deterministic full / causal: d 256, 8 heads,
 * 417 / 418 / 386 / 377 TFLOP/s; 192/128, 16 heads, 427 / 422 / 308 / 304 (2026-11-22, H200, driver
 * 580).
 */
#ifndef SM90_BWD_WIDE_CUH
#define SM90_BWD_WIDE_CUH

#include "sm90/bwd_data.cuh"

namespace sm90
{

/* DOUTS, SLOTS: stages of dO, and of each consumer's dQ; as many as fit. */
template <typename TYPE, int DIM, int DIM_V, int DOUTS, int SLOTS, bool CAPPED, bool ORDERED>
struct wide_config {
    using T = TYPE;
    static constexpr int D = DIM, DV = DIM_V; /* tensors may be narrower */
    static constexpr int M = 64, N = 64;      /* queries of a step, keys of a tile */
    static constexpr bool SOFTCAP = CAPPED;
    static constexpr bool DETERMINISTIC = ORDERED;
    static constexpr int THREADS = 3 * BWD_WARPGROUP;
    static constexpr uint32_t CONSUMER_WARPS = 2 * BWD_WARPS;
    static constexpr int Q_STAGES = 2, DOUT_STAGES = DOUTS, DS_STAGES = 2;
    static constexpr int TILE_SLOTS = 2;
    static constexpr int DQ_PIECES = D / PANEL; /* by columns */
    static constexpr int DQ_SLOTS = SLOTS;
    static constexpr int DQ_ROUNDS = ORDERED ? BWD_WRITERS * ((DQ_PIECES + 1) / 2) : SLOTS;
    static constexpr bool DQ_BY_ROWS = false;
    static constexpr uint32_t K_BYTES = tile_bytes(N, D), V_BYTES = tile_bytes(N, DV);
    static constexpr uint32_t Q_BYTES = tile_bytes(M, D), DOUT_BYTES = tile_bytes(M, DV);
    static constexpr uint32_t P_BYTES = tile_bytes(N, M), DS_BYTES = tile_bytes(N, M);
    static constexpr uint32_t ROW_BYTES = M * 4; /* one statistic of a step's rows */
    /* 24 + 2 * 240 = 504 = 3 * 168, what the block is launched with */
    static constexpr int LOADER_REGISTERS = 24, CONSUMER_REGISTERS = 240;
    static_assert(D % PANEL == 0 && DV % PANEL == 0, "consumers share whole panels");
};

/* What consumer WG has of COLUMNS. */
template <int WG, int COLUMNS>
struct wide_share {
    static constexpr int HALF = (COLUMNS / PANEL + 1) / 2;
    static constexpr int FIRST = WG == 0 ? 0 : HALF * PANEL;
    static constexpr int COUNT = WG == 0 ? HALF * PANEL : COLUMNS - HALF * PANEL;
};

template <class C, int WG>
struct wide_registers {
    using d_share = wide_share<WG, C::D>;
    using v_share = wide_share<WG, C::DV>;
    float s[C::M / 4];  /* S^T, 64 keys x 32 queries, then P^T (see probability) */
    float dp[C::M / 4]; /* dP^T, then dS^T */
    float dq[d_share::COUNT / 2];
    float dk[d_share::COUNT / 2];
    float dv[v_share::COUNT / 2];
};

constexpr int WIDE_QUERIES = 32; /* whose scores one consumer computes */

/* One step as a consumer sees it. */
struct wide_step {
    uint32_t use;  /* of the tile's rings */
    uint32_t step; /* of the q, dout and dq rings */
    int32_t m;     /* query block */
    bool first;    /* of the tile */
};

template <class C>
GPU_INLINE uint32_t wide_p(uint32_t smem, uint32_t step)
{
    return smem + bwd_smem<C>::P + attn::ring_slot<C::DS_STAGES>(step) * C::P_BYTES;
}

/* S^T = K Q^T for this consumer's queries, as one group. */
template <class C, int WG>
GPU_INLINE void wide_issue_s(wide_registers<C, WG> &r, uint32_t smem, uint32_t step)
{
    using S = bwd_smem<C>;
    attn::ring_wait_full<C::Q_STAGES>(smem + S::Q_RING, step);
    gpu::wgmma_fence(r.s);
    multiply_kk<typename C::T, WIDE_QUERIES, C::D, C::N, C::M>(
        r.s, operand_k(smem + S::K), operand_k(bwd_q<C>(smem, step), WG * WIDE_QUERIES));
    gpu::wgmma_commit();
}

/* dP^T = V dO^T, as one group. */
template <class C, int WG>
GPU_INLINE void wide_issue_dp(wide_registers<C, WG> &r, uint32_t smem, uint32_t step)
{
    using S = bwd_smem<C>;
    attn::ring_wait_full<C::DOUT_STAGES>(smem + S::DOUT_RING, step);
    gpu::wgmma_fence(r.dp);
    multiply_kk<typename C::T, WIDE_QUERIES, C::DV, C::N, C::M>(
        r.dp, operand_k(smem + S::V), operand_k(bwd_dout<C>(smem, step), WG * WIDE_QUERIES));
    gpu::wgmma_commit();
}

/* Queries that a key sees, relative to this consumer's first. */
template <class C, int WG>
GPU_INLINE attn::key_range wide_queries_of(const bwd_params &p, uint32_t tile, int32_t key,
                                           int32_t m)
{
    attn::key_range range = attn::queries_of<C::M>(p, tile, key, m);
    return {range.first - WG * WIDE_QUERIES, range.last - WG * WIDE_QUERIES};
}

template <class C, int WG>
GPU_INLINE void wide_mask(wide_registers<C, WG> &r, const bwd_params &p, uint32_t smem,
                          const wide_step &at, const bwd_lane &me)
{
    uint32_t tile = bwd_tile<C>(smem, at.use);
    int32_t key = attn::tile_read_place(tile).row + me.warp * BWD_WARP_ROWS + me.lane / 4;
    attn::mask_fragment<WIDE_QUERIES>(r.s, me.lane, wide_queries_of<C, WG>(p, tile, key, at.m),
                                      wide_queries_of<C, WG>(p, tile, key + 8, at.m));
}

/* A half of P^T or dS^T, packed, to its 32 columns of a 64 x 64 tile: each warp its 16 rows. */
template <int WG>
GPU_INLINE void wide_store(const uint32_t (&half)[WIDE_QUERIES / K_STEP][4], uint32_t tile,
                           const bwd_lane &me)
{
    uint32_t row = static_cast<uint32_t>(me.warp * BWD_WARP_ROWS + me.lane % 16);
#pragma unroll
    for (int k = 0; k < WIDE_QUERIES / K_STEP; k++) {
        uint32_t column =
            static_cast<uint32_t>(2 * (WG * WIDE_QUERIES + k * K_STEP) + me.lane / 16 * 16);
        gpu::stmatrix(gpu::tile_address(SWIZZLE, tile, BWD_WG_ROWS, row, column), half[k]);
    }
}

/* Scores in s become probabilities, and go to shared memory. */
template <class C, int WG>
GPU_INLINE void wide_make_p(wide_registers<C, WG> &r, const bwd_params &p, uint32_t smem,
                            const wide_step &at, const bwd_lane &me)
{
    attn::tile_blocks blocks = attn::tile_read_blocks(bwd_tile<C>(smem, at.use));
    if (at.m < blocks.clear_first || at.m >= blocks.clear_last) {
        wide_mask<C, WG>(r, p, smem, at, me);
    }
    uint32_t lse =
        bwd_lse<C>(smem, at.step) + WG * WIDE_QUERIES * 4 + static_cast<uint32_t>(me.lane % 4) * 8;
    uint32_t packed[WIDE_QUERIES / K_STEP][4];
#pragma unroll
    for (int j = 0; j < WIDE_QUERIES / 8; j++) {
        gpu::f32x2 shift = gpu::smem_load<gpu::f32x2>(lse + static_cast<uint32_t>(j) * 32);
#pragma unroll
        for (int row = 0; row < 2; row++) {
            float *x = &r.s[4 * j + 2 * row];
            float low = attn::probability<C::SOFTCAP>(x[0], p, shift.x);
            float high = attn::probability<C::SOFTCAP>(x[1], p, shift.y);
            packed[j / 2][j % 2 * 2 + row] = gpu::pack<typename C::T>(low, high);
        }
    }
    wide_store<WG>(packed, wide_p<C>(smem, at.step), me);
}

/* dS = P (dP - delta), to shared memory. */
template <class C, int WG>
GPU_INLINE void wide_make_ds(wide_registers<C, WG> &r, uint32_t smem, const wide_step &at,
                             const bwd_lane &me)
{
    uint32_t delta = bwd_delta<C>(smem, at.step) + WG * WIDE_QUERIES * 4 +
                     static_cast<uint32_t>(me.lane % 4) * 8;
#pragma unroll
    for (int j = 0; j < WIDE_QUERIES / 8; j++) {
        gpu::f32x2 d = gpu::smem_load<gpu::f32x2>(delta + static_cast<uint32_t>(j) * 32);
#pragma unroll
        for (int e = 0; e < 4; e++) {
            float &x = r.dp[4 * j + e];
            x = r.s[4 * j + e] * (x - (e % 2 == 0 ? d.x : d.y));
        }
    }
    uint32_t packed[WIDE_QUERIES / K_STEP][4];
    pack_fragment<typename C::T, WIDE_QUERIES>(packed, r.dp);
    wide_store<WG>(packed, bwd_ds<C>(smem, at.step), me);
}

/* d (+)= A B over 64 rows of B, a tile of 64 rows whose columns from FIRST on are this consumer's;
 * A: a 64 x 64 tile, read across if A_MAJOR is mn. One group. */
template <class C, class SHARE, major A_MAJOR>
GPU_INLINE void wide_multiply(float (&d)[SHARE::COUNT / 2], uint32_t a_tile, uint32_t b_tile,
                              bool add)
{
    uint64_t a = A_MAJOR == major::k ? operand_k(a_tile) : operand_mn<BWD_WG_ROWS>(a_tile);
    uint64_t b = operand_mn<BWD_WG_ROWS>(b_tile + tile_bytes(BWD_WG_ROWS, SHARE::FIRST));
#pragma unroll
    for (int k = 0; k < BWD_WG_ROWS / K_STEP; k++) {
        uint64_t a_step = A_MAJOR == major::k ? step_k<BWD_WG_ROWS>(a, k) : step_mn(a, k);
        gpu::wgmma<SHARE::COUNT, typename C::T, A_MAJOR, major::mn>(d, a_step, step_mn(b, k),
                                                                    add || k > 0);
    }
    gpu::wgmma_commit();
}

/* This consumer's share of dQ to the writer, panel by panel, in the order of the fragment. */
template <class C, int WG>
GPU_INLINE void wide_hand_over_dq(const wide_registers<C, WG> &r, uint32_t smem,
                                  const wide_step &at, const bwd_lane &me)
{
    constexpr int PANELS = wide_registers<C, WG>::d_share::COUNT / PANEL;
#pragma unroll
    for (int panel = 0; panel < PANELS; panel++) {
        uint32_t use = at.step * PANELS + static_cast<uint32_t>(panel);
        uint32_t target =
            bwd_dq<C>(smem, WG, use) + static_cast<uint32_t>(me.warp * 32 + me.lane) * 16;
        bwd_wait_dq<C>(smem, WG, use);
#pragma unroll
        for (int i = 0; i < PANEL / 8; i++) {
            const float *x = &r.dq[panel * (PANEL / 2) + 4 * i];
            gpu::smem_store(target + static_cast<uint32_t>(i) * BWD_WARPGROUP * 16,
                            gpu::f32x4{x[0], x[1], x[2], x[3]});
        }
        gpu::fence_async_smem();
        gpu::warp_sync();
        if (me.leader) {
            gpu::mbarrier_arrive(attn::ring_full<C::DQ_ROUNDS>(bwd_dq_ring<C>(smem, WG), use));
        }
    }
}

/* One step. S of the next one is not issued here, as in sm90/bwd: at d 256 that spills. */
template <class C, int WG>
GPU_INLINE void wide_do_step(wide_registers<C, WG> &r, const bwd_params &p, uint32_t smem,
                             const wide_step &at, const bwd_lane &me)
{
    using S = bwd_smem<C>;
    using R = wide_registers<C, WG>;
    wide_issue_s<C, WG>(r, smem, at.step);
    gpu::wgmma_wait<0>(r.s);
    wide_issue_dp<C, WG>(r, smem, at.step);
    wide_make_p<C, WG>(r, p, smem, at, me);
    /* A branch, over which the compiler does not lift the wait for dP: see sm90/bwd. */
    attn::ring_wait_full<C::DOUT_STAGES>(smem + S::DOUT_RING, at.step);
    gpu::wgmma_wait<0>(r.dp);
    wide_make_ds<C, WG>(r, smem, at, me);
    gpu::fence_async_smem();
    gpu::barrier_sync<DS_WRITTEN>(BWD_CONSUMERS);
    gpu::wgmma_fence(r.dv, r.dk, r.dq);
    wide_multiply<C, typename R::v_share, major::k>(r.dv, wide_p<C>(smem, at.step),
                                                    bwd_dout<C>(smem, at.step), !at.first);
    wide_multiply<C, typename R::d_share, major::mn>(r.dq, bwd_ds<C>(smem, at.step), smem + S::K,
                                                     false);
    wide_multiply<C, typename R::d_share, major::k>(r.dk, bwd_ds<C>(smem, at.step),
                                                    bwd_q<C>(smem, at.step), !at.first);
    gpu::wgmma_wait<2>(r.dv);
    bwd_release<C::DOUT_STAGES>(smem + S::DOUT_RING, at.step, me);
    gpu::wgmma_wait<1>(r.dq);
    wide_hand_over_dq<C, WG>(r, smem, at, me);
    gpu::wgmma_wait<0>(r.dk);
    bwd_release<C::Q_STAGES>(smem + S::Q_RING, at.step, me);
}

/* dK and dV leave through the slots of K and V, which nobody multiplies any more; panels that the
 * tensors do not have stay as they are, zero. */
template <class C, int WG>
GPU_INLINE void wide_store_keys(const wide_registers<C, WG> &r, const bwd_params &p, uint32_t smem,
                                uint32_t use, const bwd_lane &me)
{
    using S = bwd_smem<C>;
    using R = wide_registers<C, WG>;
    using T = typename C::T;
    constexpr int DK = R::d_share::FIRST, DV = R::v_share::FIRST;
    uint32_t dk_stage = smem + S::K + tile_bytes(C::N, DK);
    uint32_t dv_stage = smem + S::V + tile_bytes(C::N, DV);
    gpu::barrier_sync<STAGING_FREE>(BWD_CONSUMERS);
    stage_rows<T, R::v_share::COUNT>(r.dv, 1.0f, dv_stage, p.dv - DV, me);
    stage_rows<T, R::d_share::COUNT>(r.dk, p.scale, dk_stage, p.d - DK, me);
    gpu::fence_async_smem();
    gpu::warp_sync();
    if (me.leader) {
        attn::tile_place place = attn::tile_read_place(bwd_tile<C>(smem, use));
        attn::tile_side k = attn::tile_read_k(bwd_tile<C>(smem, use));
        const bwd_set *set = attn::backward_set_of(p, place.set);
        send_rows<R::v_share::COUNT>({&set->dv, p.dv}, dv_stage, place.row, DV, place, k, me);
        send_rows<R::d_share::COUNT>({&set->dk, p.d}, dk_stage, place.row, DK, place, k, me);
        gpu::bulk_commit();
        attn::ring_release<C::TILE_SLOTS>(smem + S::TILE_RING, use);
        gpu::bulk_wait_read<0>();
        attn::ring_release<1>(smem + S::K_RING, use);
        attn::ring_release<1>(smem + S::V_RING, use);
    }
}

/* All steps of one tile. Returns how many. */
template <class C, int WG>
GPU_INLINE uint32_t wide_do_tile(wide_registers<C, WG> &r, const bwd_params &p, uint32_t smem,
                                 uint32_t use, uint32_t step, const bwd_lane &me)
{
    using S = bwd_smem<C>;
    attn::tile_blocks blocks = attn::tile_read_blocks(bwd_tile<C>(smem, use));
    int32_t count = (blocks.last - blocks.first) * p.group;
    attn::ring_wait_full<1>(smem + S::K_RING, use);
    attn::ring_wait_full<1>(smem + S::V_RING, use);
    wide_step at = {use, step, attn::turn_start<C::N>(p.order, bwd_tile<C>(smem, use)), true};
    for (int32_t left = count; left > 0; left--) {
        wide_do_step<C, WG>(r, p, smem, at, me);
        at = {use, at.step + 1, attn::turn_after(blocks, at.m), false};
    }
    return static_cast<uint32_t>(count);
}

template <class C, int WG>
GPU_INLINE void wide_consume_all(const bwd_params &p, uint32_t smem)
{
    bwd_lane me = {WG, gpu::lane_index(), gpu::warp_index() % BWD_WARPS, gpu::elect_one()};
    wide_registers<C, WG> r;
    uint32_t step = 0;
    for (uint32_t use = 0;; use++) {
        attn::ring_wait_full<C::TILE_SLOTS>(smem + bwd_smem<C>::TILE_RING, use);
        if (attn::tile_read_place(bwd_tile<C>(smem, use)).rows == 0) {
            break;
        }
        step += wide_do_tile<C, WG>(r, p, smem, use, step, me);
        wide_store_keys<C, WG>(r, p, smem, use, me);
    }
    if (me.leader) {
        gpu::bulk_wait<0>(); /* spare while the next kernel starts behind this one's end */
    }
}

template <class C>
__global__ void __launch_bounds__(C::THREADS, 1) wide_kernel(const __grid_constant__ bwd_params p)
{
    uint32_t smem = gpu::smem_base();
    bwd_init<C>(p, smem);
    int wg = gpu::warpgroup_index();
    if (wg == 0) {
        bwd_serve<C>(p, smem);
    } else {
        gpu::registers_take<C::CONSUMER_REGISTERS>();
        if (wg == 1) {
            wide_consume_all<C, 0>(p, smem);
        } else {
            wide_consume_all<C, 1>(p, smem);
        }
    }
}

} // namespace sm90

#endif
