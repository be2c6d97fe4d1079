/*
 * sm90/fwd: the forward pass on Hopper.
 *
 * Grid: as many CTAs as SMs (or tiles, if fewer). Each takes tiles from the plan's list, the first
 * by its number, the next ones from a counter, until it meets an end mark. A tile is 128 or 192
 * rows, which are queries of one head, or of up to eight heads with the same keys; its key blocks
 * are walked from the last to the first.
 *
 * Who waits for whom. One thread of warpgroup 0, the loader, brings tile records, Q, K and V:
 *   tiles (4 slots)   64-byte records by bulk copy; back when every consumer warp is done with it
 *   q     (3 slots)   back when O, staged in the same slot, has been read by the store; where one
 *                     slot is all that fits, when the tile has no more scores to come: there O goes
 *                     out from registers
 *   k, v  (2 stages)  back, warp by warp, when the products that read them have retired
 * The other two or three warpgroups, the consumers, have 64 rows each and keep scores,
 * probabilities and O in registers. They drift apart by themselves, so that the softmax of one runs
 * under the products of the others. S(next) = Q K^T and O += P V of a step are issued together. At
 * a tile's end its last PV goes first, so that the next record is read under it, then the first QK
 * of the next tile, under which O is finished and stored. Consumers without rows only return
 * stages.
 *
 * Per 128 x 128 block at d 128: 8.4 MFLOP, 2048 cycles of the tensor cores; shared memory 160 KB
 * read and 64 KB written, 1792 cycles; 16384 exponentials, 1024 cycles. Bound: tensor cores, and in
 * launches of many milliseconds the power cap (1665 of 1980 MHz).
 * Measured on an H200, 2026-11-29, bf16, 16 heads, TFLOP/s full / causal, in brackets
 * flash-attention 3 on such a card that day: 4 x 8192 d 128 817 / 755 [730 / 680], mixed64 755 /
 * 719 [619 / 630], short1024 437 / 263 [302 / 197], with 32 heads, 8 of keys, 526 / 353 [307 /
 * 206], d 64 624 / 574 [567 / 529], d 192 and 128 819 / 768; 8 heads: d 256 815 / 736 [788 / 724].
 * notes.md has the rest.
 */
#ifndef SM90_FWD_CUH
#define SM90_FWD_CUH

#include "common/mask.cuh"
#include "common/softmax.cuh"
#include "gpu/barrier.cuh"
#include "gpu/mma.cuh"
#include "gpu/registers.cuh"
#include "sm90/fwd_data.cuh"

namespace sm90
{

/* One tile as a consumer sees it. */
struct fwd_work {
    uint32_t use;   /* of the tile and q rings */
    uint32_t block; /* use of the k and v rings of the block at hand */
    uint32_t tile;  /* address of the record; 0: the end */
};

template <class C>
struct fwd_registers {
    float s[C::N / 2];
    float o[C::DV / 2];
    uint32_t p[C::N / K_STEP][4];
};

/*
 * Rows of a tile are pairs of a query and one of 2^heads_log2 neighbouring heads, those of a query
 * next to each other. What this consumer has: its first query, and whether there is such.
 */
struct fwd_part {
    int32_t query;
    bool any;
};

GPU_INLINE fwd_part part_of(const fwd_params &p, uint32_t tile, int wg)
{
    attn::tile_place place = attn::tile_read_place(tile);
    int32_t before = wg * WG_ROWS >> p.heads_log2;
    return {place.row + before, place.rows > before};
}

/* This thread's place. */
struct fwd_lane {
    int wg; /* which consumer */
    int lane, warp;
    bool leader; /* of its warp */
};

/* Of this thread's first row; the second one is FAR_ROWS rows on and of the same head. */
struct fwd_row {
    int32_t query, head;
};

constexpr int FAR_ROWS = 8;

GPU_INLINE fwd_row row_of(const fwd_params &p, uint32_t tile, const fwd_lane &me)
{
    int32_t row = me.warp * WARP_ROWS + me.lane / 4;
    int32_t head = row & ((1 << p.heads_log2) - 1);
    return {part_of(p, tile, me.wg).query + (row >> p.heads_log2),
            attn::tile_read_place(tile).head + head};
}

/* All warps of one consumer. The named barriers' ids are immediates, hence the branches. */
GPU_INLINE void wg_sync(int wg)
{
    if (wg == 0) {
        gpu::barrier_sync<1>(WARPGROUP);
    } else if (wg == 1) {
        gpu::barrier_sync<2>(WARPGROUP);
    } else {
        gpu::barrier_sync<3>(WARPGROUP);
    }
}

template <class C>
GPU_INLINE void release_stage(uint32_t ring, uint32_t use, const fwd_lane &me)
{
    if (me.leader) {
        attn::ring_release<C::STAGES>(ring, use);
    }
}

/* This consumer has no rows in this tile: take and return what the loader brings, so that the
 * rings' rounds stay in step with this consumer's count. */
template <class C>
GPU_INLINE void skip_tile(uint32_t smem, uint32_t use, uint32_t block, uint32_t end,
                          const fwd_lane &me)
{
    using S = fwd_smem<C>;
    attn::ring_wait_full<C::Q_SLOTS>(smem + S::Q_RING, use);
    for (; block < end; block++) {
        attn::ring_wait_full<C::STAGES>(smem + S::K_RING, block);
        gpu::warp_sync(); /* no lane still waits for this round when the leader lets it be reused */
        release_stage<C>(smem + S::K_RING, block, me);
        attn::ring_wait_full<C::STAGES>(smem + S::V_RING, block);
        gpu::warp_sync(); /* likewise */
        release_stage<C>(smem + S::V_RING, block, me);
    }
    if (me.leader) { /* the other consumer holds both to its end, so nobody waits for these */
        attn::ring_release<C::Q_SLOTS>(smem + S::Q_RING, use);
        attn::ring_release<C::TILE_SLOTS>(smem + S::TILE_RING, use);
    }
}

/* The consumer's first tile at or after use; block: use of its first block. */
template <class C>
GPU_INLINE fwd_work take_tile(const fwd_params &p, uint32_t smem, const fwd_lane &me, uint32_t use,
                              uint32_t block)
{
    using S = fwd_smem<C>;
    for (;; use++) {
        attn::ring_wait_full<C::TILE_SLOTS>(smem + S::TILE_RING, use);
        uint32_t tile = fwd_tile<C>(smem, use);
        if (attn::tile_read_place(tile).rows == 0) {
            return {use, block, 0};
        }
        if (part_of(p, tile, me.wg).any) {
            return {use, block, tile};
        }
        attn::tile_blocks blocks = attn::tile_read_blocks(tile);
        uint32_t end = block + static_cast<uint32_t>(blocks.last - blocks.first);
        skip_tile<C>(smem, use, block, end, me);
        block = end;
    }
}

/* s = Q K^T, issued as one group. */
template <class C>
GPU_INLINE void issue_scores(fwd_registers<C> &r, uint32_t q, uint32_t k, int wg)
{
    multiply_kk<typename C::T, C::N, C::D, C::M, C::N>(r.s, operand_k(q, wg * WG_ROWS),
                                                       operand_k(k));
    gpu::wgmma_commit();
}

/* o (+)= P V, issued as one group. */
template <class C>
GPU_INLINE void issue_values(fwd_registers<C> &r, uint32_t v, bool add)
{
    multiply_rn<typename C::T, C::DV, C::N>(r.o, r.p, operand_mn<C::N>(v), add);
    gpu::wgmma_commit();
}

/* The scores of a tile's first block, when no step of a tile before could take them along. */
template <class C>
GPU_INLINE void issue_first(fwd_registers<C> &r, uint32_t smem, const fwd_work &work,
                            const fwd_lane &me)
{
    using S = fwd_smem<C>;
    uint32_t q = uniform_tile(fwd_q<C>(smem, work.use));
    uint32_t k = uniform_tile(fwd_k<C>(smem, work.block));
    attn::ring_wait_full<C::Q_SLOTS>(smem + S::Q_RING, work.use);
    attn::ring_wait_full<C::STAGES>(smem + S::K_RING, work.block);
    gpu::wgmma_fence(r.s);
    issue_scores<C>(r, q, k, me.wg);
}

/* The values of the block at hand. */
template <class C>
GPU_INLINE void issue_last(fwd_registers<C> &r, uint32_t smem, const fwd_work &work, bool add)
{
    uint32_t v = uniform_tile(fwd_v<C>(smem, work.block));
    gpu::wgmma_fence(r.o, r.p);
    issue_values<C>(r, v, add);
}

/* The scores of a tile's next block, then the values of the one at hand. */
template <class C>
GPU_INLINE void issue_both(fwd_registers<C> &r, uint32_t smem, const fwd_work &work, bool add,
                           const fwd_lane &me)
{
    using S = fwd_smem<C>;
    uint32_t q = uniform_tile(fwd_q<C>(smem, work.use));
    uint32_t k = uniform_tile(fwd_k<C>(smem, work.block + 1));
    uint32_t v = uniform_tile(fwd_v<C>(smem, work.block));
    attn::ring_wait_full<C::STAGES>(smem + S::K_RING, work.block + 1);
    gpu::wgmma_fence(r.s);
    issue_scores<C>(r, q, k, me.wg);
    gpu::wgmma_fence(r.o, r.p);
    issue_values<C>(r, v, add);
}

/* At most PENDING younger groups still run. */
template <int PENDING, class C>
GPU_INLINE void finish_scores(fwd_registers<C> &r, uint32_t smem, uint32_t block,
                              const fwd_lane &me)
{
    gpu::wgmma_wait<PENDING>(r.s);
    release_stage<C>(smem + fwd_smem<C>::K_RING, block, me);
}

template <int PENDING, class C>
GPU_INLINE void finish_values(fwd_registers<C> &r, uint32_t smem, const fwd_work &work,
                              const fwd_lane &me)
{
    gpu::wgmma_wait<PENDING>(r.o, r.p);
    release_stage<C>(smem + fwd_smem<C>::V_RING, work.block, me);
}

/* What the mask needs of a tile, for this thread's two rows. */
struct fwd_view {
    attn::key_range low, high;
};

GPU_INLINE fwd_view view_rows(const fwd_params &p, const fwd_work &work, const fwd_lane &me)
{
    int32_t query = row_of(p, work.tile, me).query;
    int32_t q_len = attn::tile_read_q(work.tile).len, k_len = attn::tile_read_k(work.tile).len;
    return {attn::mask_row(p.reach, query, q_len, k_len),
            attn::mask_row(p.reach, query + (FAR_ROWS >> p.heads_log2), q_len, k_len)};
}

/* Raw scores of key block n as the softmax takes them. */
template <class C, bool MASKED>
GPU_INLINE void prepare_scores(fwd_registers<C> &r, const fwd_params &p, const fwd_work &work,
                               int32_t n, const fwd_lane &me)
{
    if constexpr (C::SOFTCAP) {
        attn::softcap(r.s, p.cap_inner);
    }
    if constexpr (MASKED) {
        fwd_view view = view_rows(p, work, me);
        attn::key_range low = {view.low.first - n * C::N, view.low.last - n * C::N};
        attn::key_range high = {view.high.first - n * C::N, view.high.last - n * C::N};
        attn::mask_fragment<C::N>(r.s, me.lane, low, high);
    }
}

template <int COUNT>
GPU_INLINE void scale_rows(float (&o)[COUNT], gpu::f32x2 factor)
{
#pragma unroll
    for (int i = 0; i < COUNT; i += 4) {
        o[i] *= factor.x;
        o[i + 1] *= factor.x;
        o[i + 2] *= factor.y;
        o[i + 3] *= factor.y;
    }
}

/* The first key block n: on return p holds it. */
template <class C>
GPU_INLINE void first_block(fwd_registers<C> &r, attn::softmax_state &state, const fwd_params &p,
                            const fwd_work &work, int32_t n, bool masked, const fwd_lane &me)
{
    if (masked) {
        prepare_scores<C, true>(r, p, work, n, me);
    } else {
        prepare_scores<C, false>(r, p, work, n, me);
    }
    attn::softmax_raise<C::N, true, true>(r.s, state, p.scale_log2);
    attn::softmax_add(state, attn::softmax_exponentials<C::N, true>(r.s, state, p.scale_log2));
    pack_fragment<typename C::T, C::N>(r.p, r.s);
}

/*
 * The scores of this warp's rows against block n, which no mask cuts, once more. Its stage may hold
 * other keys by now, so they come from memory, which may take some 20 us (reckoned, not timed): for
 * jumps that exp of fp32 does not hold. A sum over columns may take them in any order: a lane
 * brings eight neighbouring ones, enough for two products.
 */
template <class C>
GPU_INLINE void scores_again(fwd_registers<C> &r, const fwd_params &p, uint32_t smem,
                             const fwd_work &work, int32_t n, const fwd_lane &me)
{
    const fwd_set *set = attn::forward_set_of(p, attn::tile_read_place(work.tile).set);
    uint32_t q = uniform_tile(fwd_q<C>(smem, work.use));
    uint32_t row = static_cast<uint32_t>(me.wg * WG_ROWS + me.warp * WARP_ROWS + me.lane / 4);
    int64_t key = int64_t{attn::tile_read_k(work.tile).first} + n * C::N + me.lane / 4;
    const uint8_t *keys = set->keys + key * set->keys_row_stride +
                          attn::tile_read_place(work.tile).head / p.group * set->keys_head_stride;
#pragma unroll
    for (int i = 0; i < C::N / 2; i += 4, keys += 8 * set->keys_row_stride) {
        float s[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll 1 /* rare, and in a hurry for registers */
        for (int32_t c = me.lane % 4 * 8; c < C::D; c += 32) {
            gpu::u32x4 k = gpu::global_load_if(c < p.d, keys + 2 * c, gpu::u32x4{0, 0, 0, 0});
            uint32_t column = 2 * static_cast<uint32_t>(c);
            gpu::u32x4 low =
                gpu::smem_load<gpu::u32x4>(gpu::tile_address(SWIZZLE, q, C::M, row, column));
            gpu::u32x4 high =
                gpu::smem_load<gpu::u32x4>(gpu::tile_address(SWIZZLE, q, C::M, row + 8, column));
            gpu::mma_16x8x16<typename C::T>(s, {low.x, high.x, low.y, high.y}, {k.x, k.y});
            gpu::mma_16x8x16<typename C::T>(s, {low.z, high.z, low.w, high.w}, {k.z, k.w});
        }
#pragma unroll
        for (int j = 0; j < 4; j++) {
            r.s[i + j] = s[j];
        }
    }
}

/* Block n outgrew the maxima before it: these rise, and it and O become relative to them. In and
 * out: what the block adds to the sums. */
template <class C>
GPU_INLINE gpu::f32x2 grow(fwd_registers<C> &r, attn::softmax_state &state, const fwd_params &p,
                           uint32_t smem, const fwd_work &work, int32_t n, gpu::f32x2 sums,
                           const fwd_lane &me)
{
    if (C::WIDE || gpu::vote_any(attn::sums_past(sums, attn::SUM_HELD))) {
        scores_again<C>(r, p, smem, work, n, me);
        prepare_scores<C, false>(r, p, work, n, me);
        scale_rows(r.o, attn::softmax_raise<C::N, false, true>(r.s, state, p.scale_log2));
        return attn::softmax_exponentials<C::N, true>(r.s, state, p.scale_log2);
    }
    gpu::f32x2 factor = attn::softmax_shrink(state, sums, p.scale_log2);
    scale_rows(r.o, factor);
    scale_rows(r.s, factor);
    return {sums.x * factor.x, sums.y * factor.y};
}

/*
 * One more key block n: on entry p holds block n + 1, on return block n. Where no mask cuts it the
 * exponentials do not wait for the block's maxima: they are taken relative to those of the blocks
 * before, and only where their sums say that these were outgrown by far are they taken again, or
 * in fp16 shrunk. So a third of the instructions of a step is gone, and the others run under
 * products.
 */
template <class C, bool MASKED>
GPU_INLINE void step_block(fwd_registers<C> &r, attn::softmax_state &state, const fwd_params &p,
                           uint32_t smem, fwd_work &work, int32_t n, bool add, const fwd_lane &me)
{
    issue_both<C>(r, smem, work, add, me);
    finish_scores<1>(r, smem, work.block + 1, me);
    prepare_scores<C, MASKED>(r, p, work, n, me);
    gpu::f32x2 factor = {1.0f, 1.0f};
    if constexpr (MASKED) { /* a row may see its first keys here */
        factor = attn::softmax_raise<C::N, false, true>(r.s, state, p.scale_log2);
    }
    gpu::f32x2 sums = attn::softmax_exponentials<C::N, MASKED>(r.s, state, p.scale_log2);
    bool past = false;
    if (!MASKED && C::ASKS_EARLY) {
        past = gpu::vote_any(attn::sums_past(sums, C::SUM_MAX));
    }
    /* V is needed by the next step only. Here it is also a branch, over which the compiler does not
     * lift the wait of finish_values, so that the exponentials run under the products. */
    attn::ring_wait_full<C::STAGES>(smem + fwd_smem<C>::V_RING, work.block + 1);
    finish_values<0, C>(r, smem, work, me);
    if (MASKED && gpu::vote_any(factor.x != 1.0f || factor.y != 1.0f)) {
        scale_rows(r.o, factor);
    }
    if (!MASKED && !C::ASKS_EARLY) {
        past = gpu::vote_any(attn::sums_past(sums, C::SUM_MAX));
    }
    if (past) {
        sums = grow<C>(r, state, p, smem, work, n, sums, me);
    }
    attn::softmax_add(state, sums);
    pack_fragment<typename C::T, C::N>(r.p, r.s);
    work.block++;
}

/* All blocks of a tile after the first. On return the values of the last are still to be issued. */
template <class C>
GPU_INLINE bool walk_blocks(fwd_registers<C> &r, attn::softmax_state &state, const fwd_params &p,
                            uint32_t smem, fwd_work &work, int32_t last, const fwd_lane &me)
{
    bool add = false;
    int32_t n = last - 2, stop = attn::tile_read_blocks(work.tile).clear_last;
    for (;;) { /* masked blocks lie before and behind the clear ones: one copy of their step */
        for (; n >= stop; n--, add = true) {
            step_block<C, true>(r, state, p, smem, work, n, add, me);
        }
        attn::tile_blocks blocks = attn::tile_read_blocks(work.tile);
        if (n < blocks.first) {
            return add;
        }
        for (; n >= blocks.clear_first; n--, add = true) {
            step_block<C, false>(r, state, p, smem, work, n, add, me);
        }
        stop = attn::tile_read_blocks(work.tile).first;
    }
}

/* The tile after work, if this consumer goes on with it: only then may a step span both. Asks for
 * no record beyond the next: the loader may need what this consumer still holds to get there. */
template <class C>
GPU_INLINE fwd_work next_tile(const fwd_params &p, uint32_t smem, const fwd_work &work,
                              const fwd_lane &me)
{
    uint32_t use = work.use + 1;
    if constexpr (!C::FUSED) {
        return {};
    }
    attn::ring_wait_full<C::TILE_SLOTS>(smem + fwd_smem<C>::TILE_RING, use);
    uint32_t tile = fwd_tile<C>(smem, use);
    bool mine = attn::tile_read_place(tile).rows > 0 && part_of(p, tile, me.wg).any;
    return {use, work.block + 1, mine ? tile : 0};
}

/*
 * Statistics of this thread's two rows become LSE, and the factors that turn the sums in o into the
 * result, 0 where that is 0 whatever o holds. Rows between length and span count as rows that see
 * no key; what becomes of rows beyond is not stored.
 */
template <class C>
GPU_INLINE gpu::f32x2 finish_rows(const attn::softmax_state &state, const fwd_params &p,
                                  const fwd_work &work, const fwd_lane &me)
{
    fwd_row row = row_of(p, work.tile, me);
    const fwd_set *set = attn::forward_set_of(p, attn::tile_read_place(work.tile).set);
    float sink =
        set->sink != nullptr ? gpu::global_load<float>(set->sink + row.head) : -gpu::infinity();
    attn::softmax_result result[2];
#pragma unroll
    for (int half = 0; half < 2; half++) { /* both before the stores, so that they overlap */
        result[half] = attn::softmax_finish(state.top[half], state.sum[half], p.scale_log2, sink);
    }
    attn::tile_side q = attn::tile_read_q(work.tile);
    uint8_t *lse = set->lse + row.head * set->lse_head_stride +
                   (int64_t{q.first} + row.query) * set->lse_row_stride;
    int32_t far = FAR_ROWS >> p.heads_log2;
    int64_t step = far * set->lse_row_stride;
#pragma unroll
    for (int half = 0; half < 2; half++, row.query += far, lse += step) {
        if (row.query >= q.len && row.query < q.span) {
            result[half] = {0.0f, -gpu::infinity()};
        }
        gpu::global_store_if(me.lane % 4 == 0 && row.query < q.span, lse, result[half].lse);
    }
    return {result[0].scale, result[1].scale};
}

template <int COUNT>
GPU_INLINE void clear_rows(float (&o)[COUNT], bool low, bool high)
{
#pragma unroll
    for (int i = 0; i < COUNT; i += 4) {
        o[i] = low ? 0.0f : o[i];
        o[i + 1] = low ? 0.0f : o[i + 1];
        o[i + 2] = high ? 0.0f : o[i + 2];
        o[i + 3] = high ? 0.0f : o[i + 3];
    }
}

/* O goes out through the tile's Q slot, each warp its 16 rows. */
template <class C>
GPU_INLINE void stage_rows(const fwd_registers<C> &r, const fwd_params &p, uint32_t smem,
                           const fwd_work &work, const fwd_lane &me)
{
    uint32_t stage = fwd_q<C>(smem, work.use);
    uint32_t first = static_cast<uint32_t>(me.wg * WG_ROWS + me.warp * WARP_ROWS);
    uint32_t row = first + static_cast<uint32_t>(me.lane % 16);
    wg_sync(me.wg); /* the other warps' QK of this slot has retired, too */
#pragma unroll
    for (int j = 0; j < C::DV / 16; j++) {
        const uint32_t matrices[4] = {gpu::pack<typename C::T>(r.o[8 * j], r.o[8 * j + 1]),
                                      gpu::pack<typename C::T>(r.o[8 * j + 2], r.o[8 * j + 3]),
                                      gpu::pack<typename C::T>(r.o[8 * j + 4], r.o[8 * j + 5]),
                                      gpu::pack<typename C::T>(r.o[8 * j + 6], r.o[8 * j + 7])};
        uint32_t column = static_cast<uint32_t>(32 * j + me.lane / 16 * 16);
        gpu::stmatrix(gpu::tile_address(SWIZZLE, stage, C::M, row, column), matrices);
    }
    gpu::fence_async_smem();
    gpu::warp_sync();
    if (me.leader) {
        attn::tile_place place = attn::tile_read_place(work.tile);
        attn::tile_side q = attn::tile_read_q(work.tile);
        const fwd_set *set = attn::forward_set_of(p, place.set);
        int32_t query = place.row + (static_cast<int32_t>(first) >> p.heads_log2);
#pragma unroll
        for (int c = 0; c < C::DV; c += PANEL) {
            if (c >= p.dv) {
                break;
            }
            gpu::tma_store(&set->o, stage + tile_bytes(C::M, c) + first * PANEL_ROW,
                           gpu::l2::evict_first, c, place.head, gpu::ragged_row(q.span, query),
                           gpu::ragged_shift(q.first, q.span));
        }
        gpu::bulk_commit();
    }
}

/* O goes out from where it is, 64 neighbouring bytes of a row at a time: the only Q slot has been
 * given back. */
template <class C>
GPU_INLINE void write_rows(const fwd_registers<C> &r, const fwd_params &p, const fwd_work &work,
                           const fwd_lane &me)
{
    fwd_row row = row_of(p, work.tile, me);
    attn::tile_side q = attn::tile_read_q(work.tile);
    const fwd_set *set = attn::forward_set_of(p, attn::tile_read_place(work.tile).set);
    int32_t column = me.lane % 4 * 8;
    uint8_t *out = set->out + row.head * set->out_head_stride +
                   (int64_t{q.first} + row.query) * set->out_row_stride + 2 * column;
    int32_t far = FAR_ROWS >> p.heads_log2;
    int64_t step = far * set->out_row_stride;
#pragma unroll
    for (int c = 0; c < C::DV; c += 32) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            uint32_t words[4];
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const float *o = &r.o[c / 2 + 4 * j + 2 * half];
                words[j] = gpu::pack<typename C::T>(o[0], o[1]);
            }
            quad_transpose(words, me.lane);
            bool any = row.query + half * far < q.span && c + column < p.dv;
            gpu::global_store_if(any, out + half * step + 2 * c,
                                 gpu::u32x4{words[0], words[1], words[2], words[3]});
        }
    }
}

/* The sums in o, times factor, are the tile's result. */
template <class C>
GPU_INLINE void store_rows(fwd_registers<C> &r, gpu::f32x2 factor, const fwd_params &p,
                           uint32_t smem, const fwd_work &work, const fwd_lane &me)
{
    scale_rows(r.o, factor);
    if (gpu::vote_any(factor.x == 0.0f || factor.y == 0.0f)) {
        clear_rows(r.o, factor.x == 0.0f, factor.y == 0.0f);
    }
    if constexpr (C::FUSED) {
        stage_rows<C>(r, p, smem, work, me);
    } else {
        write_rows<C>(r, p, work, me);
    }
    if (me.leader) {
        attn::ring_release<C::TILE_SLOTS>(smem + fwd_smem<C>::TILE_RING, work.use);
    }
}

/* The last PV of a tile has been issued, and PENDING groups after it: its results go out. */
template <int PENDING, class C>
GPU_INLINE void finish_tile(fwd_registers<C> &r, const attn::softmax_state &state,
                            const fwd_params &p, uint32_t smem, const fwd_work &work,
                            const fwd_lane &me)
{
    gpu::f32x2 factor;
    if (!C::TIGHT) { /* in the shadow of that product, with p still in use */
        factor = finish_rows<C>(state, p, work, me);
    }
    finish_values<PENDING, C>(r, smem, work, me);
    if (C::TIGHT) {
        factor = finish_rows<C>(state, p, work, me);
    }
    store_rows<C>(r, factor, p, smem, work, me);
}

/* The loader may fill the Q slot of this use again, as soon as O in it, if it is staged there, has
 * been read. */
template <class C>
GPU_INLINE void release_q(uint32_t smem, uint32_t use, const fwd_lane &me)
{
    if (!C::FUSED) {
        gpu::warp_sync(); /* no lane is still in scores_again */
    }
    if (me.leader) {
        if (C::FUSED) {
            gpu::bulk_wait_read<0>();
        }
        attn::ring_release<C::Q_SLOTS>(smem + fwd_smem<C>::Q_RING, use);
    }
}

/*
 * The end of a tile: its last PV, then the first QK of the next one if there is such, under which O
 * is finished and stored. On return those scores are there.
 */
template <class C>
GPU_INLINE fwd_work leave_tile(fwd_registers<C> &r, const attn::softmax_state &state,
                               const fwd_params &p, uint32_t smem, const fwd_work &work, bool add,
                               const fwd_lane &me)
{
    if (!C::FUSED) {
        release_q<C>(smem, work.use, me);
    }
    issue_last<C>(r, smem, work, add);
    fwd_work next = next_tile<C>(p, smem, work, me);
    if (C::FUSED && next.tile != 0) {
        issue_first<C>(r, smem, next, me);
        finish_tile<1, C>(r, state, p, smem, work, me);
        finish_scores<0>(r, smem, next.block, me);
    } else {
        finish_tile<0, C>(r, state, p, smem, work, me);
    }
    return next;
}

template <class C>
GPU_INLINE void consume_all(const fwd_params &p, uint32_t smem, const fwd_lane &me)
{
    fwd_registers<C> r;
    fwd_work work = take_tile<C>(p, smem, me, 0, 0);
    bool fused = false; /* the scores of work's first block came with the tile before */
    while (work.tile != 0) {
        attn::softmax_state state;
        attn::tile_blocks blocks = attn::tile_read_blocks(work.tile);
        if (!fused) {
            issue_first<C>(r, smem, work, me);
            finish_scores<0>(r, smem, work.block, me);
        }
        first_block<C>(r, state, p, work, blocks.last - 1, blocks.last > blocks.clear_last, me);
        if (fused) { /* by now the store has read it; before waiting, the loader may need it */
            release_q<C>(smem, work.use - 1, me);
        }
        attn::ring_wait_full<C::STAGES>(smem + fwd_smem<C>::V_RING, work.block);
        bool add = walk_blocks<C>(r, state, p, smem, work, blocks.last, me);
        fwd_work next = leave_tile<C>(r, state, p, smem, work, add, me);
        fused = C::FUSED && next.tile != 0;
        if (!fused) {
            if (C::FUSED) {
                release_q<C>(smem, work.use, me);
            }
            next = take_tile<C>(p, smem, me, work.use + 1, work.block + 1);
        }
        work = next;
    }
    if (C::FUSED && me.leader) {
        gpu::bulk_wait<0>();
    }
}

template <class C>
__global__ void __launch_bounds__(C::THREADS, 1) fwd_kernel(const __grid_constant__ fwd_params p)
{
    uint32_t smem = gpu::smem_base();
    fwd_init<C>(p, smem);
    int wg = gpu::warpgroup_index();
    if (wg == 0) {
        gpu::registers_give<C::LOADER_REGISTERS>();
        if (gpu::warp_index() == 0 && gpu::elect_one()) {
            gpu::grid_start_next(); /* if that shares the launch: as CTAs of this kernel end */
            load_all<C>(p, smem);
            gpu::grid_wait_previous(); /* likewise; what comes after both waits for this one only */
        }
    } else {
        gpu::registers_take<C::CONSUMER_REGISTERS>();
        fwd_lane me = {wg - 1, gpu::lane_index(), gpu::warp_index() % WG_WARPS, gpu::elect_one()};
        consume_all<C>(p, smem, me);
    }
}

} // namespace sm90

#endif
