/*
 * sm100/bwd_pair: the backward pass at head dims of 128 by pairs of CTAs. Roles, tensor memory and
 * the order of products are those of sm100/bwd; here is what a pair shares.
 *
 * A tile is 256 keys: 128 for each CTA, its rows of S^T, dP^T, dV and dK (M 256). Of the other
 * operand each CTA holds half of the columns, so that shared memory is read less: for S^T and dP^T
 * half of the queries (Q, dO), for dV and dK half of the head dim (QT, DOUTT: the same rows once
 * more, as panels). dQ is 128 queries (M 128: 64 for each CTA) over all 256 keys, with half of the
 * head dim of all keys (KT) in each. For it a CTA passes dS^T of the other one's queries on, 16 KiB
 * a step, from shared to shared memory.
 *
 * Who waits for whom, beyond sm100/bwd. The even CTA multiplies and draws for both.
 *   all operands      loads of both CTAs count on the even one's mbarriers; commits give the slot
 *                     back in both
 *   P_FULL, DS_FULL, DQ_EMPTY   the warps of both -> multiplier
 *   S_FULL, DP_FULL, DQ_FULL                commits -> the warps of both
 *   DS_IN             what the other CTA passed on has come; the odd one's fourth helper tells the
 *                     multiplier (DS_RELAYED): a copy can only count on an mbarrier where it goes
 *   tiles             the even CTA's drawer loads the record into both and waits for the readers of
 *                     both
 * A CTA may pass dS on as soon as dQ of the step before is done (DQ_FULL). It stages dV and dK
 * where nobody else writes: its own part of DS, and DS_OUT.
 *
 * Per 256 x 128 step and SM, as 128 x 128 in sm100/bwd: 2560 cycles of the tensor cores, 1024 of
 * exponentials, 2688 of shared memory, the bound (95 %; with a softcap issue, 2802). dQ lies on
 * dP, so the next dP waits until dQ has been read: 64 columns here. Never run on hardware.
 */
#ifndef SM100_BWD_PAIR_CUH
#define SM100_BWD_PAIR_CUH

#include "gpu/cluster.cuh"
#include "gpu/tcgen05_pair.cuh"
#include "sm100/bwd.cuh"

namespace sm100
{

constexpr uint32_t BOTH_CTAS = 3; /* mask of a commit or a multicast */

template <typename TYPE, int DIM, int DIM_V, bool CAPPED, bool ORDERED>
struct bwd_pair_config : bwd_config<TYPE, DIM, DIM_V, CAPPED, ORDERED> {
    static_assert(DIM == 2 * PANEL && DIM_V == 2 * PANEL, "a panel for each CTA");
    using one = bwd_config<TYPE, DIM, DIM_V, CAPPED, ORDERED>;
    static constexpr bool PAIR = true;
    static constexpr int CTAS = 2;
    static constexpr int N = 2 * TILE_ROWS; /* keys of a tile */
    static_assert(N > one::M, "no cyclic order: no tile waits for one that is drawn after it");
    static constexpr int Q_BOX = TILE_ROWS / 2; /* queries of a step that a CTA has for S */
    static constexpr int STATISTICS_STAGES = 2;
    static constexpr uint32_t TILE_READERS = 2 * one::TILE_READERS;
    static constexpr uint32_t SHARE = tile_bytes(TILE_ROWS, PANEL); /* of 128 rows: a panel */
    static constexpr uint32_t DQ_BYTES = WARP_LANES * 32 * 4;
};

template <typename TYPE, int DIM, int DIM_V, bool CAPPED, bool ORDERED>
struct bwd_rings<bwd_pair_config<TYPE, DIM, DIM_V, CAPPED, ORDERED>> {
    using C = bwd_pair_config<TYPE, DIM, DIM_V, CAPPED, ORDERED>;
    static constexpr uint32_t K = 0;
    static constexpr uint32_t V = K + C::K_BYTES;
    static constexpr uint32_t KT = V + C::V_BYTES; /* all keys, a panel */
    static constexpr uint32_t Q = KT + 2 * C::SHARE;
    static constexpr uint32_t QT = Q + C::SHARE;
    static constexpr uint32_t DOUT = QT + C::SHARE;
    static constexpr uint32_t DOUTT = DOUT + C::SHARE;
    static constexpr uint32_t DS = DOUTT + C::SHARE; /* all keys, this CTA's queries */
    static constexpr uint32_t DS_OUT = DS + 2 * C::SHARE;
    static constexpr uint32_t DQ = DS_OUT + C::SHARE;
    static constexpr uint32_t STATISTICS = DQ + C::DQ_READERS * C::DQ_BYTES;
    static constexpr uint32_t TILES = STATISTICS + C::STATISTICS_STAGES * 2 * C::ROW_BYTES;
    static constexpr uint32_t TILE_RING = TILES + C::TILE_SLOTS * attn::TILE_BYTES;
    static constexpr uint32_t STATISTICS_RING = TILE_RING + attn::ring_barriers(C::TILE_SLOTS);
    static constexpr uint32_t K_RING = STATISTICS_RING + attn::ring_barriers(C::STATISTICS_STAGES);
    static constexpr uint32_t V_RING = K_RING + attn::ring_barriers(1);
    static constexpr uint32_t KT_RING = V_RING + attn::ring_barriers(1);
    static constexpr uint32_t Q_RING = KT_RING + attn::ring_barriers(1);
    static constexpr uint32_t QT_RING = Q_RING + attn::ring_barriers(1);
    static constexpr uint32_t DOUT_RING = QT_RING + attn::ring_barriers(1);
    static constexpr uint32_t DOUTT_RING = DOUT_RING + attn::ring_barriers(1);
    static constexpr uint32_t END = DOUTT_RING + attn::ring_barriers(1);

    GPU_INLINE void init(uint32_t smem)
    {
        for (uint32_t slot = 0; slot < C::STATISTICS_STAGES; slot++) {
            gpu::mbarrier_init(attn::ring_full<C::STATISTICS_STAGES>(smem + STATISTICS_RING, slot),
                               1);
        }
        for (uint32_t ring = K_RING; ring < END; ring += attn::ring_barriers(1)) {
            attn::ring_init<1>(smem + ring, 1, 1);
        }
    }
};

/* ---- who draws tiles: one thread of the even CTA ---- */

template <class C>
GPU_INLINE int32_t draw_pair(const bwd_params &p)
{
    return (C::DETERMINISTIC ? 0 : gpu::grid_x() / 2) + gpu::atomic_add(p.counter, 1);
}

/* The record's slot is free in both CTAs. */
template <class C>
GPU_INLINE void await_record(uint32_t smem, uint32_t use)
{
    gpu::mbarrier_wait_cluster(attn::ring_empty<C::TILE_SLOTS>(smem + bwd_smem<C>::TILE_RING, use),
                               use / C::TILE_SLOTS);
}

/* As attn::draw_all. */
template <class C>
GPU_INLINE void draw_pairs(const bwd_params &p, uint32_t smem)
{
    using S = bwd_smem<C>;
    int32_t pairs = gpu::grid_x() / 2;
    int32_t number = C::DETERMINISTIC ? draw_pair<C>(p) : gpu::block_x() / 2;
    for (uint32_t use = 0;; use++) {
        uint32_t full = attn::ring_full<C::TILE_SLOTS>(smem + S::TILE_RING, use);
        await_record<C>(smem, use);
        for (uint32_t rank = 0; rank < 2; rank++) {
            gpu::mbarrier_arrive_expect_cluster(gpu::cluster_map(full, rank), attn::TILE_BYTES);
        }
        gpu::bulk_load_multicast(bwd_tile<C>(smem, use), p.tiles + number, attn::TILE_BYTES, full,
                                 BOTH_CTAS);
        if (number >= p.tile_count) {
            break;
        }
        gpu::mbarrier_wait(smem + S::MAY_DRAW, use + 1);
        await_record<C>(smem, use + 1);
        number = draw_pair<C>(p);
    }
    if (number == p.tile_count + pairs - 1) {
        gpu::global_store(p.counter, 0); /* the last draw of the launch */
    }
}

/* ---- loaders: one thread each in both CTAs ---- */

/* A slot whose bytes count in the even CTA: free here, and what both will load is expected there.
 */
template <int SLOTS = 1>
GPU_INLINE gpu::cluster_address open_slot(uint32_t ring, uint32_t use, uint32_t bytes)
{
    uint32_t full = attn::ring_full<SLOTS>(ring, use);
    attn::ring_wait_empty<SLOTS>(ring, use);
    if (gpu::cluster_rank() == 0) {
        gpu::mbarrier_arrive_expect(full, 2 * bytes);
    }
    return gpu::cluster_map(full, 0);
}

/*
 * `more` rows on. A box of which no row is in the sequence would be an illegal address: that of its
 * first rows once more. Nothing comes of it: keys past the end are masked, and the lse of queries
 * past it is +inf.
 */
GPU_INLINE int32_t rows_on(int32_t row, int32_t more)
{
    return row + more < gpu::RAGGED_ROWS ? row + more : row;
}

GPU_INLINE bwd_rows rows_from(bwd_rows rows, int32_t more)
{
    rows.row = rows_on(rows.row, more);
    return rows;
}

/* BOX rows at a time, ROWS in all, of the panels [first, last). */
template <int BOX, int ROWS>
GPU_INLINE void load_panels(const bwd_rows &rows, uint32_t target, gpu::cluster_address full,
                            int32_t first, int32_t last, gpu::l2 hint)
{
#pragma unroll 1
    for (int32_t panel = first; panel < last; panel++) {
#pragma unroll
        for (int32_t row = 0; row < ROWS; row += BOX, target += tile_bytes(BOX, PANEL)) {
            gpu::tma_load_pair(target, rows.map, full, hint, panel * PANEL, rows_on(rows.row, row),
                               rows.head, rows.shift);
        }
    }
}

/* K of a tile and its panel; then Q of each step. Returns the step after the last. */
template <class C>
GPU_INLINE uint32_t load_tile_pair(const bwd_params &p, uint32_t smem, uint32_t use, uint32_t step)
{
    using S = bwd_smem<C>;
    constexpr int ALL = C::D / PANEL;
    uint32_t tile = bwd_tile<C>(smem, use);
    int32_t rank = static_cast<int32_t>(gpu::cluster_rank());
    const attn::backward_set *set = attn::backward_set_of(p, attn::tile_read_place(tile).set);
    bwd_rows keys = bwd_key_rows(&set->k, tile);
    load_panels<TILE_ROWS, TILE_ROWS>(rows_from(keys, rank * TILE_ROWS), smem + S::K,
                                      open_slot(smem + S::K_RING, use, C::K_BYTES), 0, ALL,
                                      gpu::l2::evict_first);
    gpu::cluster_address kt = open_slot(smem + S::KT_RING, use, 2 * C::SHARE);
    load_panels<TILE_ROWS, C::N>(keys, smem + S::KT, kt, rank, rank + 1, gpu::l2::evict_first);
#pragma unroll 1
    for (backward_tour tour = attn::tour_start<C>(p, tile); attn::tour_lasts(p, tile, tour);
         attn::tour_next(tile, tour), step++) {
        bwd_rows queries = bwd_query_rows(&set->q, tile, tour);
        load_panels<C::Q_BOX, C::Q_BOX>(rows_from(queries, rank * C::Q_BOX), smem + S::Q,
                                        open_slot(smem + S::Q_RING, step, C::SHARE), 0, ALL,
                                        gpu::l2::evict_last);
        /* Their slot is free: QT of the step before was loaded after dK of the one before that. */
        uint32_t full = attn::ring_full<C::STATISTICS_STAGES>(smem + S::STATISTICS_RING, step);
        gpu::mbarrier_arrive_expect(full, 2 * C::ROW_BYTES);
        load_statistics<C>(p, smem, tile, tour, step, full);
        load_panels<C::Q_BOX, C::M>(queries, smem + S::QT,
                                    open_slot(smem + S::QT_RING, step, C::SHARE), rank, rank + 1,
                                    gpu::l2::evict_last);
    }
    return step;
}

template <class C>
GPU_INLINE uint32_t load_tile_douts_pair(const bwd_params &p, uint32_t smem, uint32_t use,
                                         uint32_t step)
{
    using S = bwd_smem<C>;
    constexpr int ALL = C::DV / PANEL;
    uint32_t tile = bwd_tile<C>(smem, use);
    int32_t rank = static_cast<int32_t>(gpu::cluster_rank());
    const attn::backward_set *set = attn::backward_set_of(p, attn::tile_read_place(tile).set);
    load_panels<TILE_ROWS, TILE_ROWS>(rows_from(bwd_key_rows(&set->v, tile), rank * TILE_ROWS),
                                      smem + S::V, open_slot(smem + S::V_RING, use, C::V_BYTES), 0,
                                      ALL, gpu::l2::evict_first);
#pragma unroll 1
    for (backward_tour tour = attn::tour_start<C>(p, tile); attn::tour_lasts(p, tile, tour);
         attn::tour_next(tile, tour), step++) {
        bwd_rows queries = bwd_query_rows(&set->dout, tile, tour);
        load_panels<C::Q_BOX, C::Q_BOX>(rows_from(queries, rank * C::Q_BOX), smem + S::DOUT,
                                        open_slot(smem + S::DOUT_RING, step, C::SHARE), 0, ALL,
                                        gpu::l2::evict_last);
        load_panels<C::Q_BOX, C::M>(queries, smem + S::DOUTT,
                                    open_slot(smem + S::DOUTT_RING, step, C::SHARE), rank, rank + 1,
                                    gpu::l2::evict_last);
    }
    return step;
}

template <class C>
GPU_INLINE void load_all_pair(const bwd_params &p, uint32_t smem)
{
    using S = bwd_smem<C>;
    uint32_t step = 0, use = 0;
    for (; bwd_await_tile<C>(smem, use); use++) {
        step = load_tile_pair<C>(p, smem, use, step);
        if (gpu::cluster_rank() == 0) {
            gpu::mbarrier_arrive(smem + S::MAY_DRAW);
        }
        bwd_release_tile<C>(smem, use);
    }
    attn::ring_drain<1>(smem + S::K_RING, use); /* commits reach no other block */
    attn::ring_drain<1>(smem + S::KT_RING, use);
    attn::ring_drain<1>(smem + S::Q_RING, step);
    attn::ring_drain<1>(smem + S::QT_RING, step);
}

template <class C>
GPU_INLINE void load_all_douts_pair(const bwd_params &p, uint32_t smem)
{
    using S = bwd_smem<C>;
    uint32_t step = 0, use = 0;
    for (; bwd_await_tile<C>(smem, use); use++) {
        step = load_tile_douts_pair<C>(p, smem, use, step);
        bwd_release_tile<C>(smem, use);
    }
    attn::ring_drain<1>(smem + S::V_RING, use); /* commits reach no other block */
    attn::ring_drain<1>(smem + S::DOUT_RING, step);
    attn::ring_drain<1>(smem + S::DOUTT_RING, step);
}

/* ---- multiplier: one thread of the even CTA ---- */

/* Tensor memory of both, and what their threads stored in shared memory. */
GPU_INLINE void await_both(uint32_t barrier, uint32_t rounds)
{
    gpu::mbarrier_wait_cluster(barrier, rounds);
    gpu::tcgen05_fence_after();
}

template <int SLOTS = 1>
GPU_INLINE void give_slot(uint32_t ring, uint32_t use)
{
    gpu::tcgen05_commit_pair(attn::ring_empty<SLOTS>(ring, use), BOTH_CTAS);
}

/* d (256 x 128) = A B^T: 128 rows of A and 64 of B in each CTA. */
template <class C>
GPU_INLINE void pair_scores(uint32_t d, uint64_t a, uint64_t b)
{
#pragma unroll
    for (int k = 0; k < 2 * PANEL / K_STEP; k++) {
        gpu::tcgen05_multiply_pair(d, step_k<TILE_ROWS>(a, k), step_k<C::Q_BOX>(b, k),
                                   bwd_instruction<C, C::M, C::N>(major::k, major::k), k > 0);
    }
}

/* d (256 x 128) (+)= A B: A the pairs of both halves, B 128 queries x a panel in each CTA. */
template <class C>
GPU_INLINE void pair_sums(uint32_t d, uint32_t a, uint64_t b, bool add)
{
    constexpr int STEPS = C::M / K_STEP;
    constexpr uint32_t HOLE = bwd_columns<C>::HALF - bwd_columns<C>::PAIRS;
#pragma unroll
    for (int k = 0; k < STEPS; k++) {
        uint32_t pairs = a + static_cast<uint32_t>(k) * K_STEP_COLUMNS + (k < STEPS / 2 ? 0 : HOLE);
        gpu::tcgen05_multiply_tensor_pair(d, pairs, step_mn(b, k),
                                          bwd_instruction<C, C::D, C::N>(major::k, major::mn),
                                          add || k > 0);
    }
}

template <class C>
GPU_INLINE void pair_s(uint32_t smem, uint32_t tensor, uint32_t step)
{
    using S = bwd_smem<C>;
    smem = gpu::registers_forget(smem);
    tensor = gpu::registers_forget(tensor);
    attn::ring_wait_full<1>(smem + S::Q_RING, step);
    gpu::tcgen05_fence_after();
    pair_scores<C>(tensor + bwd_columns<C>::S, operand_k(smem + S::K), operand_k(smem + S::Q));
    gpu::tcgen05_commit_pair(smem + S::S_FULL, BOTH_CTAS);
    give_slot(smem + S::Q_RING, step);
}

template <class C>
GPU_INLINE void pair_dp(uint32_t smem, uint32_t tensor, uint32_t step)
{
    using S = bwd_smem<C>;
    smem = gpu::registers_forget(smem);
    tensor = gpu::registers_forget(tensor);
    attn::ring_wait_full<1>(smem + S::DOUT_RING, step);
    await_both(smem + S::DQ_EMPTY, step); /* dQ lies on dP */
    pair_scores<C>(tensor + bwd_columns<C>::DP, operand_k(smem + S::V), operand_k(smem + S::DOUT));
    gpu::tcgen05_commit_pair(smem + S::DP_FULL, BOTH_CTAS);
    give_slot(smem + S::DOUT_RING, step);
}

template <class C>
GPU_INLINE void pair_dv(uint32_t smem, uint32_t tensor, uint32_t step, bool first)
{
    using S = bwd_smem<C>;
    smem = gpu::registers_forget(smem);
    tensor = gpu::registers_forget(tensor);
    attn::ring_wait_full<1>(smem + S::DOUTT_RING, step);
    await_both(smem + S::P_FULL, step + 1);
    pair_sums<C>(tensor + bwd_columns<C>::DV, tensor + bwd_columns<C>::S,
                 operand_mn<C::M>(smem + S::DOUTT), !first);
    give_slot(smem + S::DOUTT_RING, step);
}

template <class C>
GPU_INLINE void pair_dk(uint32_t smem, uint32_t tensor, uint32_t step, bool first)
{
    using S = bwd_smem<C>;
    smem = gpu::registers_forget(smem);
    tensor = gpu::registers_forget(tensor);
    attn::ring_wait_full<1>(smem + S::QT_RING, step);
    await_both(smem + S::DS_FULL, step + 1);
    pair_sums<C>(tensor + bwd_columns<C>::DK, tensor + bwd_columns<C>::DP,
                 operand_mn<C::M>(smem + S::QT), !first);
    give_slot(smem + S::QT_RING, step);
}

/* dQ (128 x 128) = dS K over the keys of both. */
template <class C>
GPU_INLINE void pair_dq(uint32_t smem, uint32_t tensor, uint32_t step)
{
    using S = bwd_smem<C>;
    smem = gpu::registers_forget(smem);
    tensor = gpu::registers_forget(tensor);
    gpu::mbarrier_arrive_expect(smem + S::DS_IN, C::SHARE);
    gpu::mbarrier_wait(smem + S::DS_IN, step + 1);
    await_both(smem + S::DS_RELAYED, step + 1);
    uint64_t ds = operand_mn<C::N>(smem + S::DS), keys = operand_mn<C::N>(smem + S::KT);
#pragma unroll
    for (int k = 0; k < C::N / K_STEP; k++) {
        gpu::tcgen05_multiply_pair(tensor + bwd_columns<C>::DQ, step_mn(ds, k), step_mn(keys, k),
                                   bwd_instruction<C, C::D>(major::mn, major::mn), k > 0);
    }
    gpu::tcgen05_commit_pair(smem + S::DQ_FULL, BOTH_CTAS);
}

/* All products of one tile. Returns the step after the last. */
template <class C>
GPU_INLINE uint32_t pair_tile(uint32_t smem, uint32_t tensor, uint32_t use, uint32_t step,
                              int32_t count)
{
    using S = bwd_smem<C>;
    attn::ring_wait_full<1>(smem + S::K_RING, use);
    pair_s<C>(smem, tensor, step);
    attn::ring_wait_full<1>(smem + S::V_RING, use);
    pair_dp<C>(smem, tensor, step);
    pair_dv<C>(smem, tensor, step, true);
    attn::ring_wait_full<1>(smem + S::KT_RING, use);
    bool first = true;
#pragma unroll 1
    for (; count > 1; count--, step++, first = false) {
        pair_s<C>(smem, tensor, step + 1);
        pair_dk<C>(smem, tensor, step, first);
        pair_dq<C>(smem, tensor, step);
        pair_dp<C>(smem, tensor, step + 1);
        pair_dv<C>(smem, tensor, step + 1, false);
    }
    give_slot(smem + S::K_RING, use);
    give_slot(smem + S::V_RING, use);
    pair_dk<C>(smem, tensor, step, first);
    pair_dq<C>(smem, tensor, step);
    give_slot(smem + S::KT_RING, use);
    return step + 1;
}

template <class C>
GPU_INLINE void multiply_all_pair(const bwd_params &p, uint32_t smem, uint32_t tensor)
{
    uint32_t step = 0;
    for (uint32_t use = 0; bwd_await_tile<C>(smem, use); use++) {
        int32_t count = bwd_take_steps<C>(p, smem, use);
        step = pair_tile<C>(smem, tensor, use, step, count);
    }
}

/* ---- compute warps, dQ warps: what they do otherwise than those of one CTA ---- */

/* The warp's rows of the other CTA's half go there; all lanes have written and fenced theirs. */
template <class C>
GPU_INLINE void pair_pass_ds(uint32_t smem, const bwd_lane &me)
{
    using S = bwd_smem<C>;
    constexpr uint32_t ROWS = tile_bytes(WARP_LANES, PANEL);
    uint32_t rank = gpu::cluster_rank(), row = static_cast<uint32_t>(me.warp) * ROWS;
    gpu::warp_sync();
    if (me.leader && static_cast<uint32_t>(me.half) != rank) {
        uint32_t target = smem + S::DS + rank * C::SHARE + row;
        gpu::bulk_copy_cluster(gpu::cluster_map(target, rank ^ 1), smem + S::DS_OUT + row, ROWS,
                               gpu::cluster_map(smem + S::DS_IN, rank ^ 1));
    }
}

GPU_INLINE void put_dq_piece(const float (&x)[32], uint32_t slot, const bwd_lane &me)
{
    wait_staging(me);
    put_32(x, slot + static_cast<uint32_t>(me.lane) * 16);
    gpu::fence_async_smem();
    gpu::warp_sync();
}

/*
 * Of a pair each CTA has 64 queries of the step: lanes 0 to 63 the left half of the columns, 64 to
 * 127 the right one. 16 KiB of slots are left: two pieces of 32 columns, one after the other.
 */
template <class C>
GPU_INLINE void pair_reduce_step(const bwd_params &p, uint32_t smem, uint32_t tile, uint32_t step,
                                 const backward_tour &tour, int32_t base, const bwd_lane &me)
{
    using S = bwd_smem<C>;
    uint32_t slot = smem + S::DQ + static_cast<uint32_t>(me.warp) * C::DQ_BYTES;
    int32_t rows = bwd_keys_before<C>() / 2 + me.warp % 2 * WARP_LANES;
    float *target = p.scratch.dq + int64_t{C::M * C::D} * attn::tour_unit(p, tile, tour) +
                    rows * C::D + me.warp / 2 * (WARP_LANES * C::DQ_COLUMNS);
    bwd_dq_columns dq;
    await_tensor(smem + S::DQ_FULL, step + 1);
    take_dq<C>(dq, 0, me);
    bwd_hand<C>(smem + S::DQ_EMPTY, me);
    if (C::DETERMINISTIC && me.leader) {
        attn::await_turn<C, C::CTAS * C::DQ_READERS>(p, tile, tour, base);
    }
    put_dq_piece(dq.low, slot, me);
    send_dq<C>(target, slot, me);
    put_dq_piece(dq.high, slot, me);
    send_dq<C>(target + C::DQ_BYTES / 4, slot, me);
    if (C::DETERMINISTIC && me.leader) {
        attn::pass_turn(p, tile, tour);
    }
}

/* ---- relay: one thread of the odd CTA ---- */

template <class C>
GPU_INLINE void relay_all(const bwd_params &p, uint32_t smem)
{
    using S = bwd_smem<C>;
    gpu::cluster_address relayed = gpu::cluster_map(smem + S::DS_RELAYED, 0);
    uint32_t step = 0;
    for (uint32_t use = 0; bwd_await_tile<C>(smem, use); use++) {
        int32_t count = bwd_take_steps<C>(p, smem, use);
        for (; count > 0; count--, step++) {
            gpu::mbarrier_arrive_expect(smem + S::DS_IN, C::SHARE);
            gpu::mbarrier_wait(smem + S::DS_IN, step + 1);
            gpu::mbarrier_arrive_cluster(relayed);
        }
    }
}

/* One thread of each CTA. */
template <class C>
GPU_INLINE void draw_or_relay(const bwd_params &p, uint32_t smem)
{
    if (gpu::cluster_rank() == 0) {
        draw_pairs<C>(p, smem);
    } else {
        relay_all<C>(p, smem);
    }
}

/* ---- the kernel ---- */

template <class C>
GPU_INLINE void pair_begin()
{
    uint32_t smem = gpu::smem_base();
    if (gpu::thread_index() == 0) {
        bwd_init_barriers<C>(smem);
    }
    if (gpu::warp_index() == MULTIPLIER) {
        gpu::tmem_take_pair<gpu::TMEM_COLUMNS>(smem + bwd_smem<C>::TENSOR);
        gpu::tmem_take_no_more_pair();
    }
    gpu::cluster_arrive();
    gpu::cluster_wait();
}

template <class C>
GPU_INLINE void pair_end()
{
    gpu::cluster_arrive(); /* the other CTA may still arrive, copy or multiply here */
    gpu::cluster_wait();
    if (gpu::warp_index() == MULTIPLIER) {
        gpu::tmem_give_pair<gpu::TMEM_COLUMNS>(bwd_tensor<C>());
    }
}

template <class C>
GPU_INLINE void pair_serve(const bwd_params &p, uint32_t smem, int warp)
{
    if (warp == LOADER) {
        load_all_pair<C>(p, smem);
    } else if (warp == DOUT_LOADER) {
        load_all_douts_pair<C>(p, smem);
    } else if (warp == DRAWER) {
        draw_or_relay<C>(p, smem);
    } else if (gpu::cluster_rank() == 0) {
        multiply_all_pair<C>(p, smem, bwd_tensor<C>());
    }
}

template <class C>
__global__ void __launch_bounds__(C::THREADS, 1)
    bwd_pair_kernel(const __grid_constant__ bwd_params p)
{
    pair_begin<C>();
    bwd_roles<C, pair_serve<C>>(p);
    pair_end<C>();
}

} // namespace sm100

#endif
