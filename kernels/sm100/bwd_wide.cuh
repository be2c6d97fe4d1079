/*
 * sm100/bwd_wide: the backward pass at head dims over 128, by pairs of CTAs. Roles and the order of
 * products are those of sm100/bwd, what a pair shares is as in sm100/bwd_pair; here is what is
 * different where dK and dV of 128 keys do not fit one CTA's tensor memory with the rest.
 *
 * A tile is 128 keys, 64 for each CTA. All products are of M 128 over the pair: a CTA has 64 rows
 * of each result, lanes 0 to 63 the left half of its columns, 64 to 127 the right one, so each
 * takes half as many columns of tensor memory as it has: S^T 64, dP^T 64, dV dv / 2, dK d / 2, dQ
 * d / 2; at d 256 just 512, and nothing lies on anything. With M 128 an A operand can not be in
 * tensor memory (a lane would need the pairs that lanes of other warps make), so P^T and dS^T go
 * through shared memory.
 *
 * S^T and dP^T need Q and dO of this CTA's 64 queries, all columns; dV and dK need dO and Q of all
 * 128 queries, half of the columns. Each of the four is used once in a step, by one product, so all
 * of them go through one ring of pieces of 16 KiB (two boxes of 64 x 64) in the order of products:
 * the stream. K, V and K of all keys by half of the columns (KT, for dQ) stay for the tile.
 *
 * Who waits for whom, beyond sm100/bwd_pair:
 *   stream            loads of both CTAs -> multiplier; commits after the products of a piece
 *   statistics        back by a commit after dK: before it, compute warps have read them
 *   P                 written again when S of the next step is there: dV was issued before it
 *   dS                written again, and passed on, when dQ of the step before is done
 *
 * A tensor may have fewer columns than the kernel. Scores are multiplied over as many as there are;
 * sums are computed for all, from some columns that are there (a load may not begin beyond the last
 * one), and what is too much is not stored.
 *
 * Per 128 x 128 step and SM, at d 256 (in brackets d 192, dv 128): 2560 cycles of the tensor cores
 * (1664), 512 of exponentials, and of shared memory 3648 (2752), which is the bound: 70 % of the
 * tensor cores' peak (60 %). In L2 128 KiB (88) are read and 64 (48) added to, 54 bytes a cycle
 * (51) at that pace. Never run on hardware. notes.md has what else was weighed.
 */
#ifndef SM100_BWD_WIDE_CUH
#define SM100_BWD_WIDE_CUH

#include "sm100/bwd_wide_plan.cuh"

namespace sm100
{

/* ---- loaders: one thread each in both CTAs ---- */

/* Boxes of 64 rows x 64 columns: of the columns [first, last) that the tensor has. */
template <class C>
GPU_INLINE void load_columns(const bwd_rows &rows, uint32_t target, gpu::cluster_address full,
                             int32_t first, int32_t last, gpu::l2 hint)
{
#pragma unroll 1
    for (int32_t c = first; c < last; c += PANEL, target += C::BOX_BYTES) {
        gpu::tma_load_pair(target, rows.map, full, hint, c, rows.row, rows.head, rows.shift);
    }
}

/* How many bytes that is. */
template <class C>
GPU_INLINE uint32_t column_bytes(int32_t count)
{
    return static_cast<uint32_t>((count + PANEL - 1) / PANEL) * C::BOX_BYTES;
}

/* This CTA's SHARE of `columns`, ROWS rows: panel by panel. */
template <class C, int SHARE, int ROWS>
GPU_INLINE void load_share(const bwd_rows &rows, uint32_t target, gpu::cluster_address full,
                           int32_t columns, gpu::l2 hint)
{
    int32_t first = static_cast<int32_t>(gpu::cluster_rank()) * SHARE;
#pragma unroll
    for (int32_t panel = 0; panel < SHARE; panel += PANEL) {
        int32_t c = first + panel < columns ? first + panel : 0;
#pragma unroll
        for (int32_t row = 0; row < ROWS; row += C::ROWS, target += C::BOX_BYTES) {
            gpu::tma_load_pair(target, rows.map, full, hint, c, rows_on(rows.row, row), rows.head,
                               rows.shift);
        }
    }
}

/* The stream, as its loader goes on. */
template <class C>
GPU_INLINE gpu::cluster_address open_piece(uint32_t smem, uint32_t piece, uint32_t bytes)
{
    return open_slot<C::PIECES>(smem + bwd_smem<C>::STREAM_RING, piece, bytes);
}

/* Operand of S or dP: this CTA's queries. Returns the piece after. */
template <class C>
GPU_INLINE uint32_t stream_scores(uint32_t smem, const bwd_rows &queries, int32_t columns,
                                  uint32_t piece)
{
    bwd_rows mine = rows_from(queries, static_cast<int32_t>(gpu::cluster_rank()) * C::ROWS);
#pragma unroll 1
    for (int32_t c = 0; c < columns; c += 2 * PANEL, piece++) {
        int32_t last = c + 2 * PANEL < columns ? c + 2 * PANEL : columns;
        load_columns<C>(mine, wide_piece<C>(smem, piece),
                        open_piece<C>(smem, piece, column_bytes<C>(last - c)), c, last,
                        gpu::l2::evict_last);
    }
    return piece;
}

/* Rows of a piece of an operand of dK or dV: pieces are full. */
template <int SHARE>
GPU_BOTH int piece_rows()
{
    return SHARE > PANEL ? TILE_ROWS / 2 : TILE_ROWS;
}

/* Operand of dK or dV: all queries. Returns the piece after. */
template <class C, int SHARE>
GPU_INLINE uint32_t stream_sums(uint32_t smem, const bwd_rows &queries, int32_t columns,
                                uint32_t piece)
{
    constexpr int ROWS = piece_rows<SHARE>();
#pragma unroll 1
    for (int32_t row = 0; row < C::M; row += ROWS, piece++) {
        load_share<C, SHARE, ROWS>(rows_from(queries, row), wide_piece<C>(smem, piece),
                                   open_piece<C>(smem, piece, C::PIECE_BYTES), columns,
                                   gpu::l2::evict_last);
    }
    return piece;
}

/* The pieces of a tile, in the order of products. Returns the piece after the last. */
template <class C>
GPU_INLINE uint32_t stream_tile(const bwd_params &p, uint32_t smem, uint32_t use, uint32_t piece)
{
    uint32_t tile = bwd_tile<C>(smem, use);
    const attn::backward_set *set = attn::backward_set_of(p, attn::tile_read_place(tile).set);
    backward_tour tour = attn::tour_start<C>(p, tile);
    bwd_rows queries = bwd_query_rows(&set->q, tile, tour);
    piece = stream_scores<C>(smem, queries, p.d, piece);
#pragma unroll 1
    for (bool first = true; attn::tour_lasts(p, tile, tour); first = false) {
        bwd_rows douts = bwd_query_rows(&set->dout, tile, tour);
        if (!first) {
            bwd_rows next = bwd_query_rows(&set->q, tile, tour);
            piece = stream_scores<C>(smem, next, p.d, piece);
            piece = stream_sums<C, C::D_SHARE>(smem, queries, p.d, piece);
            queries = next;
        }
        piece = stream_scores<C>(smem, douts, p.dv, piece);
        piece = stream_sums<C, C::DV_SHARE>(smem, douts, p.dv, piece);
        attn::tour_next(tile, tour);
    }
    return stream_sums<C, C::D_SHARE>(smem, queries, p.d, piece);
}

template <class C>
GPU_INLINE void stream_all(const bwd_params &p, uint32_t smem)
{
    using S = bwd_smem<C>;
    uint32_t piece = 0, use = 0;
    for (; bwd_await_tile<C>(smem, use); use++) {
        piece = stream_tile<C>(p, smem, use, piece);
        if (gpu::cluster_rank() == 0) {
            gpu::mbarrier_arrive(smem + S::MAY_DRAW);
        }
        bwd_release_tile<C>(smem, use);
    }
    attn::ring_drain<C::PIECES>(smem + S::STREAM_RING, piece); /* commits reach no other block */
}

/* K and V of a tile, this CTA's keys, and KT; the statistics of each step. Returns the step after
 * the last. */
template <class C>
GPU_INLINE uint32_t load_tile_keys(const bwd_params &p, uint32_t smem, uint32_t use, uint32_t step)
{
    using S = bwd_smem<C>;
    uint32_t tile = bwd_tile<C>(smem, use);
    int32_t before = bwd_keys_before<C>();
    const attn::backward_set *set = attn::backward_set_of(p, attn::tile_read_place(tile).set);
    bwd_rows keys = bwd_key_rows(&set->k, tile);
    load_columns<C>(rows_from(keys, before), smem + S::K,
                    open_slot(smem + S::K_RING, use, column_bytes<C>(p.d)), 0, p.d,
                    gpu::l2::evict_first);
    load_columns<C>(rows_from(bwd_key_rows(&set->v, tile), before), smem + S::V,
                    open_slot(smem + S::V_RING, use, column_bytes<C>(p.dv)), 0, p.dv,
                    gpu::l2::evict_first);
    load_share<C, C::D_SHARE, C::N>(keys, smem + S::KT,
                                    open_slot(smem + S::KT_RING, use, C::KT_BYTES), p.d,
                                    gpu::l2::evict_first);
#pragma unroll 1
    for (backward_tour tour = attn::tour_start<C>(p, tile); attn::tour_lasts(p, tile, tour);
         attn::tour_next(tile, tour), step++) {
        uint32_t full = attn::ring_full<C::STATISTICS_STAGES>(smem + S::STATISTICS_RING, step);
        attn::ring_wait_empty<C::STATISTICS_STAGES>(smem + S::STATISTICS_RING, step);
        gpu::mbarrier_arrive_expect(full, 2 * C::ROW_BYTES);
        load_statistics<C>(p, smem, tile, tour, step, full);
    }
    return step;
}

template <class C>
GPU_INLINE void load_all_keys(const bwd_params &p, uint32_t smem)
{
    using S = bwd_smem<C>;
    uint32_t step = 0, use = 0;
    for (; bwd_await_tile<C>(smem, use); use++) {
        step = load_tile_keys<C>(p, smem, use, step);
        bwd_release_tile<C>(smem, use);
    }
    attn::ring_drain<1>(smem + S::K_RING, use); /* commits reach no other block */
    attn::ring_drain<1>(smem + S::V_RING, use);
    attn::ring_drain<1>(smem + S::KT_RING, use);
    attn::ring_drain<C::STATISTICS_STAGES>(smem + S::STATISTICS_RING, step);
}

/* ---- multiplier: one thread of the even CTA ---- */

/* The loads of both CTAs have come. Where the piece lies, as a descriptor means it. */
template <class C>
GPU_INLINE uint32_t take_piece(uint32_t smem, uint32_t piece)
{
    attn::ring_wait_full<C::PIECES>(smem + bwd_smem<C>::STREAM_RING, piece);
    gpu::tcgen05_fence_after();
    return wide_piece<C>(smem, piece);
}

template <class C>
GPU_INLINE void give_piece(uint32_t smem, uint32_t piece)
{
    give_slot<C::PIECES>(smem + bwd_smem<C>::STREAM_RING, piece);
}

/* d (128 keys x 128 queries) = A B^T, A: K or V, B: the stream. Returns the piece after. */
template <class C>
GPU_INLINE uint32_t wide_scores(uint32_t smem, uint32_t d, uint32_t keys, int steps, uint32_t piece)
{
    constexpr int PIECE_STEPS = 2 * PANEL / K_STEP;
    uint64_t a = operand_k(keys);
#pragma unroll 1
    for (int done = 0; done < steps; done += PIECE_STEPS, piece++) {
        uint64_t b = operand_k(take_piece<C>(smem, piece));
#pragma unroll
        for (int k = 0; k < PIECE_STEPS; k++) {
            if (done + k < steps) {
                gpu::tcgen05_multiply_pair(d, step_k<C::ROWS>(a, k), step_k<C::ROWS>(b, k),
                                           bwd_instruction<C, C::M>(major::k, major::k),
                                           done + k > 0);
            }
        }
        give_piece<C>(smem, piece);
        a = step_k<C::ROWS>(a, PIECE_STEPS);
    }
    return piece;
}

/* d (128 keys x 2 SHARE) (+)= A B, A: P^T or dS^T, B: the stream. Returns the piece after. */
template <class C, int SHARE>
GPU_INLINE uint32_t wide_sums(uint32_t smem, uint32_t d, uint32_t pairs, bool add, uint32_t piece)
{
    constexpr int ROWS = piece_rows<SHARE>();
    constexpr uint32_t PANEL_STEP = C::ROWS * BLOCK_ROW; /* of A, by 32 queries */
    uint64_t a = gpu::tcgen05_descriptor_k(BLOCK_SWIZZLE, pairs);
#pragma unroll 1
    for (int row = 0; row < C::M; row += ROWS, piece++, add = true) {
        uint64_t b = operand_mn<ROWS>(take_piece<C>(smem, piece));
#pragma unroll
        for (int k = 0; k < ROWS / K_STEP; k++) {
            gpu::tcgen05_multiply_pair(
                d, advance(a, gpu::step_bytes_k(BLOCK_SWIZZLE, C::ROWS, static_cast<uint32_t>(k))),
                step_mn(b, k), bwd_instruction<C, 2 * SHARE>(major::k, major::mn), add || k > 0);
        }
        give_piece<C>(smem, piece);
        a = advance(a, ROWS / BLOCK * PANEL_STEP);
    }
    return piece;
}

template <class C>
GPU_INLINE uint32_t wide_s(const bwd_params &p, uint32_t smem, uint32_t tensor, uint32_t piece)
{
    using S = bwd_smem<C>;
    smem = gpu::registers_forget(smem);
    tensor = gpu::registers_forget(tensor);
    piece = wide_scores<C>(smem, tensor + bwd_columns<C>::S, smem + S::K, steps_of(p.d), piece);
    gpu::tcgen05_commit_pair(smem + S::S_FULL, BOTH_CTAS);
    return piece;
}

template <class C>
GPU_INLINE uint32_t wide_dp(const bwd_params &p, uint32_t smem, uint32_t tensor, uint32_t piece)
{
    using S = bwd_smem<C>;
    smem = gpu::registers_forget(smem);
    tensor = gpu::registers_forget(tensor);
    piece = wide_scores<C>(smem, tensor + bwd_columns<C>::DP, smem + S::V, steps_of(p.dv), piece);
    gpu::tcgen05_commit_pair(smem + S::DP_FULL, BOTH_CTAS);
    return piece;
}

template <class C>
GPU_INLINE uint32_t wide_dv(uint32_t smem, uint32_t tensor, uint32_t step, bool first,
                            uint32_t piece)
{
    using S = bwd_smem<C>;
    smem = gpu::registers_forget(smem);
    tensor = gpu::registers_forget(tensor);
    await_both(smem + S::P_FULL, step + 1);
    return wide_sums<C, C::DV_SHARE>(smem, tensor + bwd_columns<C>::DV, smem + S::P, !first, piece);
}

template <class C>
GPU_INLINE uint32_t wide_dk(uint32_t smem, uint32_t tensor, uint32_t step, bool first,
                            uint32_t piece)
{
    using S = bwd_smem<C>;
    smem = gpu::registers_forget(smem);
    tensor = gpu::registers_forget(tensor);
    await_both(smem + S::DS_FULL, step + 1);
    piece =
        wide_sums<C, C::D_SHARE>(smem, tensor + bwd_columns<C>::DK, smem + S::DS, !first, piece);
    give_slot<C::STATISTICS_STAGES>(smem + S::STATISTICS_RING, step);
    return piece;
}

/* dQ (128 x d) = dS K over the keys of both. */
template <class C>
GPU_INLINE void wide_dq(uint32_t smem, uint32_t tensor, uint32_t step)
{
    using S = bwd_smem<C>;
    smem = gpu::registers_forget(smem);
    tensor = gpu::registers_forget(tensor);
    gpu::mbarrier_arrive_expect(smem + S::DS_IN, C::SHARE);
    gpu::mbarrier_wait(smem + S::DS_IN, step + 1);
    gpu::mbarrier_wait_cluster(smem + S::DS_RELAYED, step + 1);
    await_both(smem + S::DQ_EMPTY, step);
    uint64_t ds = gpu::tcgen05_descriptor_mn(BLOCK_SWIZZLE, smem + S::DS_ALL, C::N);
    uint64_t keys = operand_mn<C::N>(smem + S::KT);
#pragma unroll
    for (int k = 0; k < C::N / K_STEP; k++) {
        gpu::tcgen05_multiply_pair(
            tensor + bwd_columns<C>::DQ,
            advance(ds, gpu::step_bytes_mn(BLOCK_SWIZZLE, static_cast<uint32_t>(k))),
            step_mn(keys, k), bwd_instruction<C, C::D>(major::mn, major::mn), k > 0);
    }
    gpu::tcgen05_commit_pair(smem + S::DQ_FULL, BOTH_CTAS);
}

/* What of the stream has been used, and the step. */
struct wide_place {
    uint32_t piece, step;
};

/* All products of one tile. Returns the place after the last. */
template <class C>
GPU_INLINE wide_place wide_tile(const bwd_params &p, uint32_t smem, uint32_t tensor, uint32_t use,
                                wide_place at, int32_t count)
{
    using S = bwd_smem<C>;
    uint32_t piece = at.piece, step = at.step;
    attn::ring_wait_full<1>(smem + S::K_RING, use);
    piece = wide_s<C>(p, smem, tensor, piece);
    attn::ring_wait_full<1>(smem + S::V_RING, use);
    piece = wide_dp<C>(p, smem, tensor, piece);
    piece = wide_dv<C>(smem, tensor, step, true, piece);
    attn::ring_wait_full<1>(smem + S::KT_RING, use);
    bool first = true;
#pragma unroll 1
    for (; count > 1; count--, step++, first = false) {
        piece = wide_s<C>(p, smem, tensor, piece);
        piece = wide_dk<C>(smem, tensor, step, first, piece);
        piece = wide_dp<C>(p, smem, tensor, piece);
        wide_dq<C>(smem, tensor, step);
        piece = wide_dv<C>(smem, tensor, step + 1, false, piece);
    }
    give_slot(smem + S::K_RING, use);
    give_slot(smem + S::V_RING, use);
    piece = wide_dk<C>(smem, tensor, step, first, piece);
    wide_dq<C>(smem, tensor, step);
    give_slot(smem + S::KT_RING, use);
    return {piece, step + 1};
}

template <class C>
GPU_INLINE void multiply_all_wide(const bwd_params &p, uint32_t smem, uint32_t tensor)
{
    wide_place at = {0, 0};
    for (uint32_t use = 0; bwd_await_tile<C>(smem, use); use++) {
        int32_t count = bwd_take_steps<C>(p, smem, use);
        at = wide_tile<C>(p, smem, tensor, use, at, count);
    }
}

/* ---- compute warps: 32 keys, 32 queries of each step ---- */

/* The warp's block of dS^T goes to the CTA whose queries it has; all lanes have written theirs. */
template <class C>
GPU_INLINE void pass_block(uint32_t smem, const bwd_lane &me)
{
    using S = bwd_smem<C>;
    uint32_t other = gpu::cluster_rank() ^ 1;
    if (static_cast<uint32_t>(me.warp / 2) != other) {
        return;
    }
    gpu::warp_sync();
    if (me.leader) {
        gpu::bulk_copy_cluster(gpu::cluster_map(wide_block_all<C>(smem, me), other),
                               wide_block<C>(smem + S::DS, me), BLOCK_BYTES,
                               gpu::cluster_map(smem + S::DS_IN, other));
    }
}

template <class C>
GPU_INLINE void wide_step(const bwd_params &p, uint32_t smem, const bwd_step &at,
                          const bwd_lane &me)
{
    using S = bwd_smem<C>;
    constexpr int CHUNKS = BLOCK / C::CHUNK;
    int query = wide_query(me);
    bool own = static_cast<uint32_t>(me.warp / 2) == gpu::cluster_rank();
    uint32_t column = me.tensor + static_cast<uint32_t>(me.half * BLOCK);
    float s[CHUNKS][C::CHUNK];
    attn::ring_wait_full<C::STATISTICS_STAGES>(smem + S::STATISTICS_RING, at.step);
    await_tensor(smem + S::S_FULL, at.step + 1);
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) {
        uint32_t pairs[C::CHUNK / 2];
        gpu::tmem_load(s[c], column + bwd_columns<C>::S + static_cast<uint32_t>(c * C::CHUNK));
        gpu::tmem_load_wait(s[c]);
        make_p<C>(pairs, s[c], query + c * C::CHUNK, p, smem, at, me);
        put_pairs(wide_block<C>(smem + S::P, me), c * C::CHUNK, pairs, me);
    }
    gpu::fence_async_smem();
    bwd_hand<C>(smem + S::P_FULL, me);
    if (at.first) {
        wait_staging(me); /* the last tile's dK and dV */
    }
    gpu::mbarrier_wait(smem + S::DQ_FULL, at.step);
    await_tensor(smem + S::DP_FULL, at.step + 1);
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) {
        uint32_t pairs[C::CHUNK / 2];
        make_ds<C>(pairs, s[c], query + c * C::CHUNK,
                   column + bwd_columns<C>::DP + static_cast<uint32_t>(c * C::CHUNK), smem, at);
        put_pairs(wide_block<C>(smem + S::DS, me), c * C::CHUNK, pairs, me);
        if (own) {
            put_pairs(wide_block_all<C>(smem, me), c * C::CHUNK, pairs, me);
        }
    }
    gpu::fence_async_smem();
    pass_block<C>(smem, me);
    bwd_hand<C>(smem + S::DS_FULL, me);
}

/* 32 columns of the warp's keys from tensor memory to global, staged where its block of dS goes. */
template <class C>
GPU_INLINE void store_block(const bwd_params &p, uint32_t smem, uint32_t tile, bool is_dv,
                            uint32_t from, int column, const bwd_lane &me)
{
    uint32_t stage = wide_block<C>(smem + bwd_smem<C>::DS, me), pairs[BLOCK / 2];
    float sum[BLOCK], scale = is_dv ? 1.0f : p.scale;
    gpu::tcgen05_fence_after(); /* the lanes met for the block before */
    gpu::tmem_load(sum, from);
    gpu::tmem_load_wait(sum);
#pragma unroll
    for (int i = 0; i < BLOCK / 2; i++) {
        pairs[i] = gpu::pack<typename C::T>(sum[2 * i] * scale, sum[2 * i + 1] * scale);
    }
    wait_staging(me);
    put_pairs(stage, 0, pairs, me);
    gpu::fence_async_smem();
    gpu::warp_sync();
    send_keys<C>(p, tile, is_dv, column, stage, me);
}

/* SHARE columns of dV or dK, shared out between the two warps of a quarter. */
template <class C, int SHARE>
GPU_INLINE void store_share(const bwd_params &p, uint32_t smem, uint32_t tile, bool is_dv,
                            uint32_t from, const bwd_lane &me)
{
    int first = me.warp / 2 * SHARE, last = is_dv ? p.dv : p.d;
#pragma unroll 1
    for (int c = me.half * BLOCK; c < SHARE && first + c < last; c += 2 * BLOCK) {
        store_block<C>(p, smem, tile, is_dv, me.tensor + from + static_cast<uint32_t>(c), first + c,
                       me);
    }
}

/* steps: of all tiles so far. */
template <class C>
GPU_INLINE void wide_store_keys(const bwd_params &p, uint32_t smem, uint32_t use, uint32_t steps,
                                const bwd_lane &me)
{
    using S = bwd_smem<C>;
    uint32_t tile = bwd_tile<C>(smem, use);
    await_tensor(smem + S::DQ_FULL, steps);
    store_share<C, C::DV_SHARE>(p, smem, tile, true, bwd_columns<C>::DV, me);
    store_share<C, C::D_SHARE>(p, smem, tile, false, bwd_columns<C>::DK, me);
    if (me.leader) {
        bwd_release_tile<C>(smem, use);
    }
}

/* ---- dQ warps ---- */

/* 16 columns of the warp's rows into a slot that the piece before the last has left. */
template <class C>
GPU_INLINE void put_dq_columns(const float (&x)[C::DQ_COLUMNS], uint32_t slot, const bwd_lane &me)
{
    if (me.leader) {
        gpu::bulk_wait_read<C::DQ_SLOTS - 1>();
    }
    gpu::warp_sync();
#pragma unroll
    for (int i = 0; i < C::DQ_COLUMNS; i += 4) {
        gpu::smem_store(slot + static_cast<uint32_t>(i / 4 * WARP_LANES + me.lane) * 16,
                        gpu::f32x4{x[i], x[i + 1], x[i + 2], x[i + 3]});
    }
    gpu::fence_async_smem();
    gpu::warp_sync();
}

/* 32 queries, half of the columns. */
template <class C>
GPU_INLINE void wide_reduce_step(const bwd_params &p, uint32_t smem, uint32_t tile, uint32_t step,
                                 const backward_tour &tour, int32_t base, const bwd_lane &me)
{
    using S = bwd_smem<C>;
    uint32_t slots = smem + S::DQ + static_cast<uint32_t>(me.warp) * (C::DQ_SLOTS * C::DQ_BYTES);
    int32_t rows = bwd_first_key<C>(me); /* a CTA's queries are as many as its keys */
    float *target = p.scratch.dq + int64_t{C::M * C::D} * attn::tour_unit(p, tile, tour) +
                    rows * C::D + me.warp / 2 * (WARP_LANES * C::D_SHARE);
    await_tensor(smem + S::DQ_FULL, step + 1);
#pragma unroll
    for (int c = 0; c < C::D_SHARE; c += C::DQ_COLUMNS) {
        uint32_t slot =
            slots + static_cast<uint32_t>(c / C::DQ_COLUMNS % C::DQ_SLOTS) * C::DQ_BYTES;
        float x[C::DQ_COLUMNS];
        if (c > 0) {
            gpu::tcgen05_fence_after(); /* the lanes met for the piece before */
        }
        gpu::tmem_load(x, me.tensor + bwd_columns<C>::DQ + static_cast<uint32_t>(c));
        gpu::tmem_load_wait(x);
        if (c + C::DQ_COLUMNS >= C::D_SHARE) {
            bwd_hand<C>(smem + S::DQ_EMPTY, me);
        }
        put_dq_columns<C>(x, slot, me);
        if (C::DETERMINISTIC && c == 0 && me.leader) {
            attn::await_turn<C, C::CTAS * C::DQ_READERS>(p, tile, tour, base);
        }
        send_dq<C>(target + c * WARP_LANES, slot, me);
    }
    if (C::DETERMINISTIC && me.leader) {
        attn::pass_turn(p, tile, tour);
    }
}

/* ---- the kernel ---- */

template <class C>
GPU_INLINE void wide_serve(const bwd_params &p, uint32_t smem, int warp)
{
    if (warp == LOADER) {
        stream_all<C>(p, smem);
    } else if (warp == DOUT_LOADER) {
        load_all_keys<C>(p, smem);
    } else if (warp == DRAWER) {
        draw_or_relay<C>(p, smem);
    } else if (gpu::cluster_rank() == 0) {
        multiply_all_wide<C>(p, smem, bwd_tensor<C>());
    }
}

template <class C>
__global__ void __launch_bounds__(C::THREADS, 1)
    bwd_wide_kernel(const __grid_constant__ bwd_params p)
{
    pair_begin<C>();
    bwd_roles<C, wide_serve<C>>(p);
    pair_end<C>();
}

} // namespace sm100

#endif
