/*
 * sm90/bwd: the backward pass on Hopper: dK and dV, and the shares of dQ.
 *
 * Grid: as many CTAs as SMs (or tiles, if fewer); each draws tiles from the plan's list, the first
 * by its number, the next ones from a counter, until it meets an end mark. A tile is 128 keys of
 * one kv head; for each q head of the group it walks the query blocks that see them. dK and dV stay
 * in registers for the whole group, so their bits need no order between CTAs. dQ is summed over key
 * blocks in fp32 scratch (common/preprocess clears it, common/postprocess turns it into the
 * result), a block of queries at a time, in the order in which threads hold it.
 *
 * Consumers (warpgroups 1 and 2) have 64 keys each and work on transposed scores, keys along the
 * rows: S^T = K Q^T, dP^T = V dO^T. So P^T and dS^T, packed, are register operands of dV += P^T dO
 * and dK += dS^T Q; only dS goes through shared memory, for dQ = dS K.
 *
 * Who waits for whom. One thread each in the warps of warpgroup 0: the loader of K, V and Q, the
 * loader of dO, the writer of dQ, and one that draws tiles.
 *   tiles (2 slots)     records; back from all consumer warps, both loaders and the writer
 *   k, v (1 slot)       back when the last product of the tile that reads them has retired
 *   q, dout (2 stages)  with the rows' statistics; back, warp by warp, after dK, after dV
 *   dq (2 slots for each consumer)  fp32 share, from consumer to writer
 * Consumers meet once in a step, when both halves of dS are written; dS has two stages, so the next
 * step's may be written while a slower consumer still multiplies this one's.
 *
 * Deterministic: a block of dQ has a turn counter; the writer waits until the key blocks before its
 * own have added their shares. common/turn.cuh says who comes before whom.
 *
 * Per 64 x 128 step at d 128: 10.5 MFLOP, 2560 cycles of the tensor cores; shared memory 2944
 * cycles, which is the bound (87 % of the tensor cores' peak). 4 x 8192, 16 heads, full / causal:
 * 591 / 530 TFLOP/s, deterministic 533 / 512 (2026-11-22, H200, driver 580).
 */
#ifndef SM90_BWD_CUH
#define SM90_BWD_CUH

#include "sm90/bwd_data.cuh"

namespace sm90
{

template <typename TYPE, int DIM, int DIM_V, int QUERIES, bool CAPPED, bool ORDERED>
struct bwd_config {
    using T = TYPE;
    static constexpr int D = DIM, DV = DIM_V; /* tensors may be narrower: maps read zeros, clip */
    static constexpr int M = QUERIES;         /* of a step */
    static constexpr int N = 2 * BWD_WG_ROWS; /* keys of a tile */
    static constexpr bool SOFTCAP = CAPPED;
    static constexpr bool DETERMINISTIC = ORDERED;
    static constexpr int THREADS = 3 * BWD_WARPGROUP;
    static constexpr uint32_t CONSUMER_WARPS = 2 * BWD_WARPS;
    static constexpr uint32_t TILE_READERS = 3; /* loaders and writer */
    static constexpr int Q_STAGES = 2, DOUT_STAGES = 2, DS_STAGES = 2;
    static constexpr int TILE_SLOTS = 2;
    static constexpr int DQ_SLOTS = 2;
    /* dQ of a step: consumers share it by columns, or by rows when each has 64 of them. */
    static constexpr bool DQ_BY_ROWS = M == 2 * BWD_WG_ROWS;
    static constexpr int DQ_COLUMNS = DQ_BY_ROWS ? D : D / 2; /* of one consumer */
    static constexpr int DQ_PIECES = 2;
    static constexpr uint32_t K_BYTES = tile_bytes(N, D), V_BYTES = tile_bytes(N, DV);
    static constexpr uint32_t Q_BYTES = tile_bytes(M, D), DOUT_BYTES = tile_bytes(M, DV);
    static constexpr uint32_t P_BYTES = 0, DS_BYTES = tile_bytes(M, N);
    static constexpr uint32_t ROW_BYTES = M * 4; /* one statistic of a step's rows */
    /* 32 + 2 * 240 = 512 = 65536 registers / 128 */
    static constexpr int LOADER_REGISTERS = 24, CONSUMER_REGISTERS = 240;
    static_assert(M == BWD_WG_ROWS || DQ_BY_ROWS, "a step has 64 or 128 queries");
    static_assert(DQ_COLUMNS == PANEL, "a consumer's share of dQ is one piece");
    static_assert(tile_bytes(BWD_WG_ROWS, DV) <= DS_BYTES, "a consumer's dV is staged in dS");
    static_assert(tile_bytes(BWD_WG_ROWS, D) <= BWD_PIECE_BYTES, "a consumer's dK is staged in dQ");
};

/* ---- consumers: one warpgroup of 64 keys ---- */

template <class C>
struct bwd_registers {
    float s[C::M / 2];  /* S^T, then P^T (see probability) */
    float dp[C::M / 2]; /* dP^T, then dS^T */
    float dq[C::DQ_COLUMNS / 2];
    float dk[C::D / 2];
    float dv[C::DV / 2];
    uint32_t p[C::M / K_STEP][4]; /* operands of dV and dK */
    uint32_t ds[C::M / K_STEP][4];
};

/* One step as a consumer sees it. What only masked blocks need is read again from the record. */
struct bwd_step {
    uint32_t use;  /* of the tile's rings */
    uint32_t step; /* of the q, dout and dq rings */
    int32_t m;     /* query block */
    bool first;    /* of the tile */
};

/* S^T = K Q^T, as one group. */
template <class C>
GPU_INLINE void issue_s(bwd_registers<C> &r, uint32_t smem, uint32_t step, const bwd_lane &me)
{
    using S = bwd_smem<C>;
    attn::ring_wait_full<C::Q_STAGES>(smem + S::Q_RING, step);
    gpu::wgmma_fence(r.s);
    multiply_kk<typename C::T, C::M, C::D, C::N, C::M>(
        r.s, operand_k(smem + S::K, me.wg * BWD_WG_ROWS), operand_k(bwd_q<C>(smem, step)));
    gpu::wgmma_commit();
}

/* dP^T = V dO^T, as one group. */
template <class C>
GPU_INLINE void issue_dp(bwd_registers<C> &r, uint32_t smem, uint32_t step, const bwd_lane &me)
{
    using S = bwd_smem<C>;
    attn::ring_wait_full<C::DOUT_STAGES>(smem + S::DOUT_RING, step);
    gpu::wgmma_fence(r.dp);
    multiply_kk<typename C::T, C::M, C::DV, C::N, C::M>(
        r.dp, operand_k(smem + S::V, me.wg * BWD_WG_ROWS), operand_k(bwd_dout<C>(smem, step)));
    gpu::wgmma_commit();
}

template <class C>
GPU_INLINE void mask_step(bwd_registers<C> &r, const bwd_params &p, uint32_t smem,
                          const bwd_step &at, const bwd_lane &me)
{
    uint32_t tile = bwd_tile<C>(smem, at.use);
    int32_t key = attn::tile_read_place(tile).row + me.wg * BWD_WG_ROWS + me.warp * BWD_WARP_ROWS +
                  me.lane / 4;
    attn::mask_fragment<C::M>(r.s, me.lane, attn::queries_of<C::M>(p, tile, key, at.m),
                              attn::queries_of<C::M>(p, tile, key + 8, at.m));
}

/* Scores in s become probabilities, packed in p. */
template <class C>
GPU_INLINE void make_p(bwd_registers<C> &r, const bwd_params &p, uint32_t smem, const bwd_step &at,
                       const bwd_lane &me)
{
    attn::tile_blocks blocks = attn::tile_read_blocks(bwd_tile<C>(smem, at.use));
    if (at.m < blocks.clear_first || at.m >= blocks.clear_last) {
        mask_step<C>(r, p, smem, at, me);
    }
    uint32_t lse = bwd_lse<C>(smem, at.step) + static_cast<uint32_t>(me.lane % 4) * 8;
#pragma unroll
    for (int j = 0; j < C::M / 8; j++) {
        gpu::f32x2 shift = gpu::smem_load<gpu::f32x2>(lse + static_cast<uint32_t>(j) * 32);
#pragma unroll
        for (int row = 0; row < 2; row++) {
            float *x = &r.s[4 * j + 2 * row];
            float low = attn::probability<C::SOFTCAP>(x[0], p, shift.x);
            float high = attn::probability<C::SOFTCAP>(x[1], p, shift.y);
            r.p[j / 2][j % 2 * 2 + row] = gpu::pack<typename C::T>(low, high);
        }
    }
}

/* dS = P (dP - delta), packed in ds. */
template <class C>
GPU_INLINE void make_ds(bwd_registers<C> &r, uint32_t smem, const bwd_step &at, const bwd_lane &me)
{
    uint32_t delta = bwd_delta<C>(smem, at.step) + static_cast<uint32_t>(me.lane % 4) * 8;
#pragma unroll
    for (int j = 0; j < C::M / 8; j++) {
        gpu::f32x2 d = gpu::smem_load<gpu::f32x2>(delta + static_cast<uint32_t>(j) * 32);
#pragma unroll
        for (int e = 0; e < 4; e++) {
            float &x = r.dp[4 * j + e];
            x = r.s[4 * j + e] * (x - (e % 2 == 0 ? d.x : d.y));
        }
    }
    pack_fragment<typename C::T, C::M>(r.ds, r.dp);
}

/* Operand fragments of dS^T to dS in shared memory: queries along the rows, this consumer's 64 keys
 * are panel wg. */
template <class C>
GPU_INLINE void store_ds(const bwd_registers<C> &r, uint32_t smem, const bwd_step &at,
                         const bwd_lane &me)
{
    uint32_t row = static_cast<uint32_t>(me.lane / 16 * 8 + me.lane % 8);
    uint32_t key =
        static_cast<uint32_t>(me.wg * BWD_WG_ROWS + me.warp * BWD_WARP_ROWS + me.lane / 8 % 2 * 8);
    uint32_t target = gpu::tile_address(SWIZZLE, bwd_ds<C>(smem, at.step), C::M, row, 2 * key);
#pragma unroll
    for (int k = 0; k < C::M / K_STEP; k++) {
        gpu::stmatrix_transposed(target + static_cast<uint32_t>(k) * K_STEP * PANEL_ROW, r.ds[k]);
    }
}

/* dq = dS K over the tile's keys: this consumer's columns, or rows, of it. */
template <class C>
GPU_INLINE void issue_dq(bwd_registers<C> &r, uint32_t smem, const bwd_step &at, const bwd_lane &me)
{
    uint32_t keys = smem + bwd_smem<C>::K;
    int row = C::DQ_BY_ROWS ? me.wg * BWD_WG_ROWS : 0;
    if constexpr (!C::DQ_BY_ROWS) {
        keys += tile_bytes(C::N, C::DQ_COLUMNS) * static_cast<uint32_t>(me.wg);
    }
    uint64_t a = operand_k(bwd_ds<C>(smem, at.step), row);
    uint64_t b = operand_mn<C::N>(keys);
#pragma unroll
    for (int k = 0; k < C::N / K_STEP; k++) {
        gpu::wgmma<C::DQ_COLUMNS, typename C::T, major::k, major::mn>(r.dq, step_k<C::M>(a, k),
                                                                      step_mn(b, k), k > 0);
    }
    gpu::wgmma_commit();
}

/* This consumer's share of dQ to the writer, in the order of the fragment: 16 bytes a thread. */
template <class C>
GPU_INLINE void hand_over_dq(const bwd_registers<C> &r, uint32_t smem, const bwd_step &at,
                             const bwd_lane &me)
{
    uint32_t ring = bwd_dq_ring<C>(smem, me.wg);
    uint32_t target =
        bwd_dq<C>(smem, me.wg, at.step) + static_cast<uint32_t>(me.warp * 32 + me.lane) * 16;
    attn::ring_wait_empty<C::DQ_SLOTS>(ring, at.step);
#pragma unroll
    for (int i = 0; i < C::DQ_COLUMNS / 8; i++) {
        gpu::smem_store(target + static_cast<uint32_t>(i) * BWD_WARPGROUP * 16,
                        gpu::f32x4{r.dq[4 * i], r.dq[4 * i + 1], r.dq[4 * i + 2], r.dq[4 * i + 3]});
    }
    gpu::fence_async_smem();
    gpu::warp_sync();
    if (me.leader) {
        gpu::mbarrier_arrive(attn::ring_full<C::DQ_SLOTS>(ring, at.step));
    }
}

/* The last tile's dK and dV, staged where dQ and dS go, have left. */
template <class C>
GPU_INLINE void wait_staging(const bwd_lane &me)
{
    if (me.leader) {
        gpu::bulk_wait_read<0>();
    }
    gpu::barrier_sync<STAGING_FREE>(BWD_CONSUMERS);
}

/* dV += P^T dO, as one group. */
template <class C>
GPU_INLINE void issue_dv(bwd_registers<C> &r, uint32_t smem, const bwd_step &at)
{
    gpu::wgmma_fence(r.dv, r.p);
    multiply_rn<typename C::T, C::DV, C::M>(r.dv, r.p, operand_mn<C::M>(bwd_dout<C>(smem, at.step)),
                                            !at.first);
    gpu::wgmma_commit();
}

/* dK += dS^T Q, as one group. */
template <class C>
GPU_INLINE void issue_dk(bwd_registers<C> &r, uint32_t smem, const bwd_step &at)
{
    gpu::wgmma_fence(r.dk, r.ds);
    multiply_rn<typename C::T, C::D, C::M>(r.dk, r.ds, operand_mn<C::M>(bwd_q<C>(smem, at.step)),
                                           !at.first);
    gpu::wgmma_commit();
}

/*
 * One step. On entry S^T and dP^T of it are issued, as two groups, the last ones. MORE: the next
 * step's are issued here, each as soon as its registers are free, so that the tensor cores have
 * work while dQ is handed over.
 */
template <class C, bool MORE>
GPU_INLINE void do_step(bwd_registers<C> &r, const bwd_params &p, uint32_t smem, const bwd_step &at,
                        const bwd_lane &me)
{
    using S = bwd_smem<C>;
    gpu::wgmma_wait<0>(r.s);
    issue_dp<C>(r, smem, at.step, me);
    make_p<C>(r, p, smem, at, me);
    /* Known since dP was issued. It is a branch, over which the compiler does not lift the wait for
     * dP: else the exponentials would start when dP is there. */
    attn::ring_wait_full<C::DOUT_STAGES>(smem + S::DOUT_RING, at.step);
    gpu::wgmma_wait<0>(r.dp);
    if (!MORE) {
        bwd_release<1>(smem + S::V_RING, at.use, me);
    }
    make_ds<C>(r, smem, at, me);
    if (at.first) {
        wait_staging<C>(me);
    }
    store_ds<C>(r, smem, at, me);
    gpu::fence_async_smem();
    issue_dv<C>(r, smem, at);
    gpu::barrier_sync<DS_WRITTEN>(BWD_CONSUMERS);
    gpu::wgmma_fence(r.dq);
    issue_dq<C>(r, smem, at, me);
    gpu::wgmma_wait<1>(r.dv, r.p);
    bwd_release<C::DOUT_STAGES>(smem + S::DOUT_RING, at.step, me);
    issue_dk<C>(r, smem, at);
    if constexpr (MORE) {
        issue_s<C>(r, smem, at.step + 1, me);
        gpu::wgmma_wait<2>(r.dq);
    } else {
        gpu::wgmma_wait<1>(r.dq);
    }
    if (!MORE) {
        bwd_release<1>(smem + S::K_RING, at.use, me);
    }
    hand_over_dq<C>(r, smem, at, me);
    if constexpr (MORE) {
        gpu::wgmma_wait<1>(r.dk, r.ds);
    } else {
        gpu::wgmma_wait<0>(r.dk, r.ds);
    }
    bwd_release<C::Q_STAGES>(smem + S::Q_RING, at.step, me);
}

/* dV goes out through this consumer's stage of dS, dK through its slot of dQ. step: the next one.
 */
template <class C>
GPU_INLINE void store_keys(const bwd_registers<C> &r, const bwd_params &p, uint32_t smem,
                           uint32_t use, uint32_t step, const bwd_lane &me)
{
    using S = bwd_smem<C>;
    using T = typename C::T;
    uint32_t wg = static_cast<uint32_t>(me.wg);
    uint32_t dv_stage = smem + S::DS + wg * C::DS_BYTES;
    uint32_t dk_stage = bwd_dq<C>(smem, me.wg, step);
    gpu::barrier_sync<STAGING_FREE>(BWD_CONSUMERS); /* no consumer multiplies dS any more */
    stage_rows<T, C::DV>(r.dv, 1.0f, dv_stage, p.dv, me);
    attn::ring_wait_empty<C::DQ_SLOTS>(bwd_dq_ring<C>(smem, me.wg), step);
    stage_rows<T, C::D>(r.dk, p.scale, dk_stage, p.d, me);
    gpu::fence_async_smem();
    gpu::warp_sync();
    if (me.leader) {
        attn::tile_place place = attn::tile_read_place(bwd_tile<C>(smem, use));
        attn::tile_side k = attn::tile_read_k(bwd_tile<C>(smem, use));
        const bwd_set *set = attn::backward_set_of(p, place.set);
        int32_t row = place.row + me.wg * BWD_WG_ROWS;
        send_rows<C::DV>({&set->dv, p.dv}, dv_stage, row, 0, place, k, me);
        send_rows<C::D>({&set->dk, p.d}, dk_stage, row, 0, place, k, me);
        gpu::bulk_commit();
        attn::ring_release<C::TILE_SLOTS>(smem + S::TILE_RING, use);
    }
}

/* All steps of one tile. Returns how many. */
template <class C>
GPU_INLINE uint32_t do_tile(bwd_registers<C> &r, const bwd_params &p, uint32_t smem, uint32_t use,
                            uint32_t step, const bwd_lane &me)
{
    using S = bwd_smem<C>;
    attn::tile_blocks blocks = attn::tile_read_blocks(bwd_tile<C>(smem, use));
    int32_t count = (blocks.last - blocks.first) * p.group;
    attn::ring_wait_full<1>(smem + S::K_RING, use);
    issue_s<C>(r, smem, step, me);
    attn::ring_wait_full<1>(smem + S::V_RING, use);
    bwd_step at = {use, step, attn::turn_start<C::N>(p.order, bwd_tile<C>(smem, use)), true};
    for (int32_t left = count - 1; left > 0; left--) {
        do_step<C, true>(r, p, smem, at, me);
        at = {use, at.step + 1, attn::turn_after(blocks, at.m), false};
    }
    do_step<C, false>(r, p, smem, at, me);
    return static_cast<uint32_t>(count);
}

template <class C>
GPU_INLINE void bwd_consume_all(const bwd_params &p, uint32_t smem, const bwd_lane &me)
{
    bwd_registers<C> r;
    uint32_t step = 0;
    for (uint32_t use = 0;; use++) {
        attn::ring_wait_full<C::TILE_SLOTS>(smem + bwd_smem<C>::TILE_RING, use);
        if (attn::tile_read_place(bwd_tile<C>(smem, use)).rows == 0) {
            break;
        }
        step += do_tile<C>(r, p, smem, use, step, me);
        store_keys<C>(r, p, smem, use, step, me);
    }
    if (me.leader) {
        gpu::bulk_wait<0>();
    }
}

template <class C>
__global__ void __launch_bounds__(C::THREADS, 1) bwd_kernel(const __grid_constant__ bwd_params p)
{
    uint32_t smem = gpu::smem_base();
    bwd_init<C>(p, smem);
    int wg = gpu::warpgroup_index();
    if (wg == 0) {
        bwd_serve<C>(p, smem);
    } else {
        gpu::registers_take<C::CONSUMER_REGISTERS>();
        bwd_lane me = {wg - 1, gpu::lane_index(), gpu::warp_index() % BWD_WARPS, gpu::elect_one()};
        bwd_consume_all<C>(p, smem, me);
    }
}

} // namespace sm90

#endif
