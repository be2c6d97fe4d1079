/*
 * sm90/bwd_queries: dQ on Hopper for head dims past 128; sm90/bwd_keys says why it is a launch of
 * its own.
 *
 * Grid and list as in the forward: a tile is 128 queries of one q head and walks key blocks of 64.
 * Each of the two consumers has 64 rows, dQ of them in registers, and needs nothing of the other:
 *   S = Q K^T, dP = dO V^T, dS = P (dP - delta), dQ += dS K, dS packed as the register operand.
 * S and dP of the next block are issued behind dQ of this one.
 *
 * Who waits for whom. One thread each in warps of warpgroup 0: the loader of Q and K, the loader of
 * dO and V, and one that draws tiles. The rows' statistics are four numbers a thread.
 *   tiles (2 slots)         records; back from all consumer warps and both loaders
 *   q (1 slot)              back when dQ, staged there, has been read by the store
 *   dout (1 slot)           back when the last dP of the tile has retired
 *   k (2 or 3 stages), v (1 or 3)  back, warp by warp, after dQ, after dP
 *
 * Per 128 x 64 step at d 256: 12.6 MFLOP, 3072 cycles of the tensor cores; shared memory 2560
 * cycles of operands and 512 of loads, as much.
 */
#ifndef SM90_BWD_QUERIES_CUH
#define SM90_BWD_QUERIES_CUH

#include "gpu/grid.cuh"
#include "sm90/bwd_data.cuh"

namespace sm90
{

template <typename TYPE, int DIM, int DIM_V, int K_SLOTS, int V_SLOTS, bool CAPPED>
struct queries_config {
    using T = TYPE;
    static constexpr int D = DIM, DV = DIM_V;         /* tensors may be narrower */
    static constexpr int M = 2 * BWD_WG_ROWS, N = 64; /* queries of a tile, keys of a step */
    static constexpr bool SOFTCAP = CAPPED;
    static constexpr bool DETERMINISTIC = false; /* it is, without turns */
    static constexpr bool ORDERS = false;
    static constexpr int THREADS = 3 * BWD_WARPGROUP;
    static constexpr uint32_t CONSUMER_WARPS = 2 * BWD_WARPS;
    static constexpr uint32_t TILE_READERS = 2; /* loaders */
    static constexpr int K_STAGES = K_SLOTS, V_STAGES = V_SLOTS;
    static constexpr int TILE_SLOTS = 2;
    /* dQ of a block runs under both S and dS of the next, where there are registers for that. */
    static constexpr bool AHEAD = D < 256;
    static constexpr uint32_t Q_BYTES = tile_bytes(M, D), DOUT_BYTES = tile_bytes(M, DV);
    static constexpr uint32_t K_BYTES = tile_bytes(N, D), V_BYTES = tile_bytes(N, DV);
    /* 24 + 2 * 240 = 504 = 3 * 168, what the block is launched with */
    static constexpr int LOADER_REGISTERS = 24, CONSUMER_REGISTERS = 240;
    static_assert(D % PANEL == 0 && DV % PANEL == 0, "whole panels");
};

/* Where things lie in shared memory. */
template <class C>
struct queries_smem {
    static constexpr uint32_t Q = 0;
    static constexpr uint32_t DOUT = Q + C::Q_BYTES;
    static constexpr uint32_t K = DOUT + C::DOUT_BYTES;
    static constexpr uint32_t V = K + C::K_STAGES * C::K_BYTES;
    static constexpr uint32_t TILES = V + C::V_STAGES * C::V_BYTES;
    static constexpr uint32_t TILE_RING = TILES + C::TILE_SLOTS * attn::TILE_BYTES;
    static constexpr uint32_t Q_RING = TILE_RING + attn::ring_barriers(C::TILE_SLOTS);
    static constexpr uint32_t DOUT_RING = Q_RING + attn::ring_barriers(1);
    static constexpr uint32_t K_RING = DOUT_RING + attn::ring_barriers(1);
    static constexpr uint32_t V_RING = K_RING + attn::ring_barriers(C::K_STAGES);
    static constexpr uint32_t MAY_DRAW = V_RING + attn::ring_barriers(C::V_STAGES);
    static constexpr uint32_t BYTES = MAY_DRAW + gpu::MBARRIER_BYTES;
    static_assert(BYTES <= gpu::SMEM_BYTES, "one CTA has all of an SM");
};

template <class C>
GPU_INLINE uint32_t queries_k(uint32_t smem, uint32_t step)
{
    return smem + queries_smem<C>::K + attn::ring_slot<C::K_STAGES>(step) * C::K_BYTES;
}

template <class C>
GPU_INLINE uint32_t queries_v(uint32_t smem, uint32_t step)
{
    return smem + queries_smem<C>::V + attn::ring_slot<C::V_STAGES>(step) * C::V_BYTES;
}

template <class C>
GPU_INLINE uint32_t queries_tile(uint32_t smem, uint32_t use)
{
    return bwd_tile<C, queries_smem<C>>(smem, use);
}

template <class C>
GPU_INLINE void queries_init(const bwd_params &p, uint32_t smem)
{
    using S = queries_smem<C>;
    bwd_clear<C, C::M, C::D>(smem + S::Q, p.d);
    bwd_clear<C, C::M, C::DV>(smem + S::DOUT, p.dv);
    for (uint32_t stage = 0; stage < C::K_STAGES; stage++) {
        bwd_clear<C, C::N, C::D>(queries_k<C>(smem, stage), p.d);
    }
    for (uint32_t stage = 0; stage < C::V_STAGES; stage++) {
        bwd_clear<C, C::N, C::DV>(queries_v<C>(smem, stage), p.dv);
    }
    gpu::fence_async_smem(); /* zeros are operands */
    if (gpu::thread_index() == 0) {
        attn::ring_init<C::TILE_SLOTS>(smem + S::TILE_RING, 1, C::CONSUMER_WARPS + C::TILE_READERS);
        attn::ring_init<1>(smem + S::Q_RING, 1, C::CONSUMER_WARPS);
        attn::ring_init<1>(smem + S::DOUT_RING, 1, C::CONSUMER_WARPS);
        attn::ring_init<C::K_STAGES>(smem + S::K_RING, 1, C::CONSUMER_WARPS);
        attn::ring_init<C::V_STAGES>(smem + S::V_RING, 1, C::CONSUMER_WARPS);
        gpu::mbarrier_init(smem + S::MAY_DRAW, 1);
        gpu::mbarrier_init_fence();
    }
    gpu::block_sync();
}

/* ---- loaders: one thread each ---- */

/* Q or dO of a tile: a box of 64 rows for each consumer. One whose rows are all beyond the sequence
 * would be an illegal address; it is the first one again. */
template <class C, int COLUMNS>
GPU_INLINE void load_tile_rows(uint32_t tile, uint32_t use, const gpu::tensor_map *map,
                               int32_t columns, uint32_t ring, uint32_t target)
{
    attn::tile_side q = attn::tile_read_q(tile);
    uint32_t full = attn::ring_full<1>(ring, use);
    attn::ring_wait_empty<1>(ring, use);
    gpu::mbarrier_arrive_expect(full, tile_bytes(C::M, columns));
    for (int box = 0; box < C::M / BWD_WG_ROWS; box++) {
        attn::tile_place place = attn::tile_read_place(tile);
        int32_t row = place.row + box * BWD_WG_ROWS;
        row = row < q.len ? row : place.row;
        uint32_t rows = target + static_cast<uint32_t>(box * BWD_WG_ROWS) * PANEL_ROW;
#pragma unroll
        for (int c = 0; c < COLUMNS; c += PANEL) {
            if (c < columns) {
                gpu::tma_load(rows + tile_bytes(C::M, c), map, full, gpu::l2::evict_first, c,
                              gpu::ragged_row(q.len, row), place.head,
                              gpu::ragged_shift(q.first, q.len));
            }
        }
    }
}

/* K or V of block m of the other side's blocks. */
template <class C, int COLUMNS>
GPU_INLINE void load_block(const bwd_params &p, uint32_t tile, int32_t n,
                           const gpu::tensor_map *map, int32_t columns, uint32_t target,
                           uint32_t full)
{
    attn::tile_side k = attn::tile_read_k(tile);
    bwd_rows rows = {map, gpu::ragged_row(k.len, n * C::N),
                     attn::tile_read_place(tile).head / p.group, gpu::ragged_shift(k.first, k.len),
                     columns};
    bwd_load_rows<C::N, COLUMNS>(rows, target, full, 0, gpu::l2::evict_last);
}

template <class C>
GPU_INLINE void queries_load_k(const bwd_params &p, uint32_t smem)
{
    using S = queries_smem<C>;
    uint32_t step = 0;
    for (uint32_t use = 0;; use++) {
        attn::ring_wait_full<C::TILE_SLOTS>(smem + S::TILE_RING, use);
        uint32_t tile = queries_tile<C>(smem, use);
        if (attn::tile_read_place(tile).rows == 0) {
            break;
        }
        const bwd_set *set = attn::backward_set_of(p, attn::tile_read_place(tile).set);
        load_tile_rows<C, C::D>(tile, use, &set->q, p.d, smem + S::Q_RING, smem + S::Q);
#pragma unroll 1
        for (int32_t n = attn::tile_read_blocks(tile).first; n < attn::tile_read_blocks(tile).last;
             n++, step++) {
            attn::ring_wait_empty<C::K_STAGES>(smem + S::K_RING, step);
            load_block<C, C::D>(p, tile, n, &set->k, p.d, queries_k<C>(smem, step),
                                attn::ring_full<C::K_STAGES>(smem + S::K_RING, step));
        }
        gpu::mbarrier_arrive(smem + S::MAY_DRAW);
        attn::ring_release<C::TILE_SLOTS>(smem + S::TILE_RING, use);
    }
}

template <class C>
GPU_INLINE void queries_load_v(const bwd_params &p, uint32_t smem)
{
    using S = queries_smem<C>;
    uint32_t step = 0;
    for (uint32_t use = 0;; use++) {
        attn::ring_wait_full<C::TILE_SLOTS>(smem + S::TILE_RING, use);
        uint32_t tile = queries_tile<C>(smem, use);
        if (attn::tile_read_place(tile).rows == 0) {
            break;
        }
        const bwd_set *set = attn::backward_set_of(p, attn::tile_read_place(tile).set);
        load_tile_rows<C, C::DV>(tile, use, &set->dout, p.dv, smem + S::DOUT_RING, smem + S::DOUT);
#pragma unroll 1
        for (int32_t n = attn::tile_read_blocks(tile).first; n < attn::tile_read_blocks(tile).last;
             n++, step++) {
            attn::ring_wait_empty<C::V_STAGES>(smem + S::V_RING, step);
            load_block<C, C::DV>(p, tile, n, &set->v, p.dv, queries_v<C>(smem, step),
                                 attn::ring_full<C::V_STAGES>(smem + S::V_RING, step));
        }
        attn::ring_release<C::TILE_SLOTS>(smem + S::TILE_RING, use);
    }
}

/* ---- consumers ---- */

/* Of one step: a new one each time, so that nothing of it lives through dQ. */
template <class C>
struct queries_scores {
    float s[C::N / 2];
    float dp[C::N / 2];
};

template <class C>
struct queries_registers {
    float dq[C::D / 2];
    uint32_t ds[2][C::N / K_STEP][4]; /* dS, the operand of dQ; the second one if AHEAD */
};

/* Statistics of this thread's two rows. */
struct queries_rows {
    float lse[2], delta[2];
};

/* A step as a consumer sees it. */
struct queries_step {
    uint32_t use;  /* of the tile's rings */
    uint32_t step; /* of the k and v rings */
    int32_t left;  /* key blocks after this one */
};

/* Which row of the sequence is this thread's first. */
template <class C>
GPU_INLINE int32_t queries_row(uint32_t tile, const bwd_lane &me)
{
    return attn::tile_read_place(tile).row + me.wg * BWD_WG_ROWS + me.warp * BWD_WARP_ROWS +
           me.lane / 4;
}

/* Statistics lie in units of 64 rows; rows that are in none get probability 0. */
template <class C>
GPU_INLINE queries_rows queries_read_rows(const bwd_params &p, uint32_t tile, const bwd_lane &me)
{
    int32_t row = queries_row<C>(tile, me);
    int32_t stripe = attn::tile_read_k(tile).number + row / BWD_WG_ROWS;
    bool there = row < attn::tile_read_q(tile).span;
    const float *unit =
        p.scratch.statistics +
        int64_t{2 * BWD_WG_ROWS} * (stripe * p.hq + attn::tile_read_place(tile).head) +
        row % BWD_WG_ROWS;
    queries_rows r;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        r.lse[i] = gpu::global_load_if(there, unit + 8 * i, gpu::infinity());
        r.delta[i] = gpu::global_load_if(there, unit + BWD_WG_ROWS + 8 * i, 0.0f);
    }
    return r;
}

template <class C>
GPU_INLINE void queries_issue_s(queries_scores<C> &r, uint32_t smem, uint32_t step,
                                const bwd_lane &me)
{
    using S = queries_smem<C>;
    attn::ring_wait_full<C::K_STAGES>(smem + S::K_RING, step);
    gpu::wgmma_fence(r.s);
    multiply_kk<typename C::T, C::N, C::D, C::M, C::N>(
        r.s, operand_k(smem + S::Q, me.wg * BWD_WG_ROWS), operand_k(queries_k<C>(smem, step)));
    gpu::wgmma_commit();
}

template <class C>
GPU_INLINE void queries_issue_dp(queries_scores<C> &r, uint32_t smem, uint32_t step,
                                 const bwd_lane &me)
{
    using S = queries_smem<C>;
    attn::ring_wait_full<C::V_STAGES>(smem + S::V_RING, step);
    gpu::wgmma_fence(r.dp);
    multiply_kk<typename C::T, C::N, C::DV, C::M, C::N>(
        r.dp, operand_k(smem + S::DOUT, me.wg * BWD_WG_ROWS), operand_k(queries_v<C>(smem, step)));
    gpu::wgmma_commit();
}

template <class C, int ODD>
GPU_INLINE void queries_issue_dq(queries_registers<C> &r, uint32_t smem, uint32_t step)
{
    gpu::wgmma_fence(r.dq, r.ds[ODD]);
    multiply_rn<typename C::T, C::D, C::N>(r.dq, r.ds[ODD],
                                           operand_mn<C::N>(queries_k<C>(smem, step)), true);
    gpu::wgmma_commit();
}

template <class C>
GPU_INLINE void queries_mask(queries_scores<C> &r, const bwd_params &p, uint32_t tile, int32_t n,
                             const bwd_lane &me)
{
    int32_t row = queries_row<C>(tile, me), q_len = attn::tile_read_q(tile).len;
    int32_t k_len = attn::tile_read_k(tile).len;
    attn::key_range low = attn::mask_row(p.reach, row, q_len, k_len);
    attn::key_range high = attn::mask_row(p.reach, row + 8, q_len, k_len);
    attn::mask_fragment<C::N>(r.s, me.lane, {low.first - n * C::N, low.last - n * C::N},
                              {high.first - n * C::N, high.last - n * C::N});
}

/* Scores become what dP - delta is multiplied with. */
template <class C>
GPU_INLINE void queries_make_p(queries_scores<C> &r, const bwd_params &p, uint32_t smem,
                               const queries_step &at, const queries_rows &rows, const bwd_lane &me)
{
    uint32_t tile = queries_tile<C>(smem, at.use);
    attn::tile_blocks blocks = attn::tile_read_blocks(tile);
    int32_t n = blocks.last - 1 - at.left;
    if (n < blocks.clear_first || n >= blocks.clear_last) {
        queries_mask<C>(r, p, tile, n, me);
    }
#pragma unroll
    for (int i = 0; i < C::N / 2; i++) {
        attn::probability<C::SOFTCAP>(r.s[i], p, rows.lse[i / 2 % 2]);
    }
}

template <class C>
GPU_INLINE void queries_make_ds(uint32_t (&ds)[C::N / K_STEP][4], const queries_scores<C> &r,
                                const queries_rows &rows)
{
#pragma unroll
    for (int k = 0; k < C::N / K_STEP; k++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int at = 8 * k + 2 * i;
            ds[k][i] = gpu::pack<typename C::T>(r.s[at] * (r.dp[at] - rows.delta[i % 2]),
                                                r.s[at + 1] * (r.dp[at + 1] - rows.delta[i % 2]));
        }
    }
}

/* From S and dP, issued one after the other, to dS. PENDING: groups issued after them. */
template <class C, int ODD, int PENDING>
GPU_INLINE void queries_finish(queries_registers<C> &r, queries_scores<C> &of, const bwd_params &p,
                               uint32_t smem, const queries_step &at, const queries_rows &rows,
                               const bwd_lane &me)
{
    using S = queries_smem<C>;
    gpu::wgmma_wait<PENDING + 1>(of.s);
    queries_make_p<C>(of, p, smem, at, rows, me);
    /* Known since dP was issued. It is a branch, over which the compiler does not lift the wait for
     * dP: else the exponentials would start when dP is there. */
    attn::ring_wait_full<C::V_STAGES>(smem + S::V_RING, at.step);
    gpu::wgmma_wait<PENDING>(of.dp);
    release_together<C::V_STAGES>(smem + S::V_RING, at.step);
    queries_make_ds<C>(r.ds[ODD], of, rows);
}

/* The first block of a tile. */
template <class C>
GPU_INLINE void queries_begin(queries_registers<C> &r, const bwd_params &p, uint32_t smem,
                              const queries_step &at, const queries_rows &rows, const bwd_lane &me)
{
    using S = queries_smem<C>;
    queries_scores<C> of;
    attn::ring_wait_full<1>(smem + S::Q_RING, at.use);
    queries_issue_s<C>(of, smem, at.step, me);
    attn::ring_wait_full<1>(smem + S::DOUT_RING, at.use);
    queries_issue_dp<C>(of, smem, at.step, me);
    queries_finish<C, 0, 0>(r, of, p, smem, at, rows, me);
}

/* dQ of the block before, of which ds[ODD] was made, and up to dS of this one. */
template <class C, int ODD>
GPU_INLINE void queries_go_on(queries_registers<C> &r, const bwd_params &p, uint32_t smem,
                              const queries_step &at, const queries_rows &rows, const bwd_lane &me)
{
    using S = queries_smem<C>;
    queries_scores<C> of;
    if constexpr (C::AHEAD) {
        queries_issue_s<C>(of, smem, at.step, me);
        queries_issue_dp<C>(of, smem, at.step, me);
        queries_issue_dq<C, ODD>(r, smem, at.step - 1);
        queries_finish<C, !ODD, 1>(r, of, p, smem, at, rows, me);
        attn::ring_wait_full<C::K_STAGES>(smem + S::K_RING, at.step - 1); /* a branch, likewise */
        gpu::wgmma_wait<0>(r.dq, r.ds[ODD]);
        release_together<C::K_STAGES>(smem + S::K_RING, at.step - 1);
    } else {
        queries_issue_dq<C, ODD>(r, smem, at.step - 1);
        queries_issue_s<C>(of, smem, at.step, me);
        gpu::wgmma_wait<1>(r.dq, r.ds[ODD]); /* before dP takes registers */
        release_together<C::K_STAGES>(smem + S::K_RING, at.step - 1);
        queries_issue_dp<C>(of, smem, at.step, me);
        queries_finish<C, ODD, 0>(r, of, p, smem, at, rows, me);
    }
}

/* dQ of the last block of a tile. */
template <class C, int ODD>
GPU_INLINE void queries_end(queries_registers<C> &r, uint32_t smem, const queries_step &at)
{
    using S = queries_smem<C>;
    release_together<1>(smem + S::DOUT_RING, at.use);
    queries_issue_dq<C, ODD>(r, smem, at.step);
    gpu::wgmma_wait<0>(r.dq, r.ds[ODD]);
    release_together<C::K_STAGES>(smem + S::K_RING, at.step);
}

/* On to the next block. */
GPU_INLINE void queries_advance(queries_step &at, bwd_lane &me)
{
    at = {at.use, gpu::shuffle(at.step + 1, 0), at.left - 1};
    me.wg = gpu::shuffle(me.wg, 0);
}

/* All blocks of a tile. Returns the step after the last. */
template <class C>
GPU_INLINE uint32_t queries_walk(queries_registers<C> &r, const bwd_params &p, uint32_t smem,
                                 uint32_t use, uint32_t step, bwd_lane me)
{
    uint32_t tile = queries_tile<C>(smem, use);
    queries_rows rows = queries_read_rows<C>(p, tile, me);
    attn::tile_blocks blocks = attn::tile_read_blocks(tile);
    queries_step at = {use, gpu::shuffle(step, 0), blocks.last - 1 - blocks.first};
    me.wg = gpu::shuffle(me.wg, 0);
    clear_sums(r.dq);
    queries_begin<C>(r, p, smem, at, rows, me);
    while (at.left > 0) {
        queries_advance(at, me);
        queries_go_on<C, 0>(r, p, smem, at, rows, me);
        if constexpr (C::AHEAD) {
            if (at.left == 0) {
                queries_end<C, 1>(r, smem, at);
                return at.step + 1;
            }
            queries_advance(at, me);
            queries_go_on<C, 1>(r, p, smem, at, rows, me);
        }
    }
    queries_end<C, 0>(r, smem, at);
    return at.step + 1;
}

/* dQ leaves through this consumer's rows of Q; panels that the tensor does not have stay zero. */
template <class C>
GPU_INLINE void queries_store(const queries_registers<C> &r, const bwd_params &p, uint32_t smem,
                              uint32_t use, const bwd_lane &me)
{
    using S = queries_smem<C>;
    uint32_t tile = queries_tile<C>(smem, use);
    int32_t first = me.wg * BWD_WG_ROWS;
    uint32_t stage = smem + S::Q + static_cast<uint32_t>(first) * PANEL_ROW;
    if (me.wg == 0) { /* no warp of this consumer multiplies Q any more */
        gpu::barrier_sync<1>(BWD_WARPGROUP);
    } else {
        gpu::barrier_sync<2>(BWD_WARPGROUP);
    }
    stage_rows<typename C::T, C::D, C::M>(r.dq, p.scale, stage, p.d, me);
    gpu::fence_async_smem();
    gpu::warp_sync();
    if (me.leader) {
        attn::tile_place place = attn::tile_read_place(tile);
        const bwd_set *set = attn::backward_set_of(p, place.set);
        send_rows<C::D, C::M>({&set->dq, p.d}, stage, place.row + first, 0, place,
                              attn::tile_read_q(tile), me);
        gpu::bulk_commit();
        attn::ring_release<C::TILE_SLOTS>(smem + S::TILE_RING, use);
        gpu::bulk_wait_read<0>();
        attn::ring_release<1>(smem + S::Q_RING, use);
    }
}

template <class C>
GPU_INLINE void queries_all(const bwd_params &p, uint32_t smem, bwd_lane me)
{
    using S = queries_smem<C>;
    queries_registers<C> r;
    uint32_t step = 0;
    for (uint32_t use = 0;; use++) {
        attn::ring_wait_full<C::TILE_SLOTS>(smem + S::TILE_RING, use);
        if (attn::tile_read_place(queries_tile<C>(smem, use)).rows == 0) {
            break;
        }
        step = queries_walk<C>(r, p, smem, use, step, me);
        queries_store<C>(r, p, smem, use, me);
    }
    if (me.leader) {
        gpu::bulk_wait<0>(); /* spare: see write_all */
    }
}

/* ---- the threads of warpgroup 0 ---- */

template <class C>
GPU_INLINE void queries_serve(const bwd_params &p, uint32_t smem)
{
    gpu::registers_give<C::LOADER_REGISTERS>();
    int warp = gpu::warp_index();
    if (warp == 0 && gpu::elect_one()) {
        queries_load_k<C>(p, smem);
    } else if (warp == 1 && gpu::elect_one()) {
        queries_load_v<C>(p, smem);
    } else if (warp == 3 && gpu::elect_one()) {
        attn::draw_all<C, queries_smem<C>>(p, smem);
    }
}

template <class C>
__global__ void __launch_bounds__(C::THREADS, 1)
    queries_kernel(const __grid_constant__ bwd_params p)
{
    uint32_t smem = gpu::smem_base();
    queries_init<C>(p, smem);
    int wg = gpu::warpgroup_index();
    if (wg == 0) {
        queries_serve<C>(p, smem);
    } else {
        gpu::registers_take<C::CONSUMER_REGISTERS>();
        queries_all<C>(
            p, smem,
            {wg - 1, gpu::lane_index(), gpu::warp_index() % BWD_WARPS, gpu::lane_index() == 0});
    }
    gpu::grid_wait_previous(); /* who waits for this launch waits for that of dK and dV, too */
}

} // namespace sm90

#endif
