/*
 * sm100/bwd: the backward pass on Blackwell: dK and dV, and the shares of dQ.
 *
 * Grid: as many CTAs as SMs (or tiles, if fewer); each draws tiles from the plan's list, the first
 * by its number, the next ones from a counter, until it meets an end mark. A tile is 128 keys of
 * one kv head; for each q head of the group it walks the blocks of 128 queries that see them. dK
 * and dV stay in tensor memory for the whole group, so their bits need no order between CTAs. dQ is
 * summed over key blocks in fp32 scratch (common/preprocess clears it, sm100/bwd_post turns it into
 * the result), in the order in which threads hold it.
 *
 * Scores are transposed, keys along the lanes: S^T = K Q^T, dP^T = V dO^T. So P^T and dS^T are, as
 * pairs in tensor memory, A operands of dV += P^T dO and dK += dS^T Q; dS^T goes through shared
 * memory as well, for dQ = dS K. A compute warp has 32 keys (a quarter of the lanes) and 64
 * queries (a half of the columns). Pairs replace the scores they come from in the warp's own half
 * of the columns, so that no warp ever writes what another one reads; no barrier of all compute
 * warps is needed.
 *
 * Tensor memory: S, then P | dP, then dS | dV | dK | dQ. Where that is more than 512 columns (d
 * 128) dQ lies on dP and dS: the next dP waits until dQ has been read.
 *
 * Who waits for whom. One thread multiplies; commits tell the others.
 *   tiles (2 slots)   records; back from all compute and dQ warps, both loaders and the multiplier
 *   k, v              back by the commit after the last dQ, the last dP of the tile
 *   q (2 stages)      with the rows' statistics; back after dK, before which compute warps
 *                     have read these
 *   dout              back after dV
 *   S_FULL, DP_FULL   commits -> compute warps;  P_FULL, DS_FULL  compute warps -> multiplier:
 *                     scores are read, pairs are there; the first P_FULL of a tile: so are the last
 *                     tile's dV and dK
 *   DQ_FULL           commit -> dQ warps, and compute warps: dS in shared memory has been read; the
 *                     last one of a tile: dV and dK are complete
 *   DQ_EMPTY          dQ warps -> multiplier
 *
 * Order of products, so that the tensor cores work while exponentials are made: S of the next step,
 * dK, (dQ, dP of the next step | the other way round where dQ has its own columns), dV of the next
 * step. Products issued by one thread run in order: P is read by dV before the next S replaces it.
 *
 * Deterministic: a block of dQ has a turn counter, passed by each of the four dQ warps; they wait
 * until the key blocks before their own have added their shares. common/turn.cuh says who comes
 * before whom.
 *
 * Per 128 x 128 step at d 128: 21 MFLOP, 2560 cycles of the tensor cores (8192 FLOP a cycle); 1024
 * of exponentials; shared memory 3328 cycles (operands 2048, dS 256, dQ 512 + 512), which is the
 * bound (77 % of peak). At d 64 1280, 1024, 1920; with a softcap issue, 2600. Never on hardware.
 */
#ifndef SM100_BWD_CUH
#define SM100_BWD_CUH

#include "sm100/bwd_plan.cuh"

namespace sm100
{

/* ---- loaders: one thread each ---- */

/* more_bytes: what other copies will add to the same barrier. */
template <int COLUMNS>
GPU_INLINE void bwd_load_rows(const bwd_rows &rows, uint32_t target, uint32_t full,
                              uint32_t more_bytes, gpu::l2 hint)
{
    gpu::mbarrier_arrive_expect(full, tile_bytes(TILE_ROWS, COLUMNS) + more_bytes);
#pragma unroll
    for (int c = 0; c < COLUMNS; c += PANEL) {
        gpu::tma_load(target + tile_bytes(TILE_ROWS, c), rows.map, full, hint, c, rows.row,
                      rows.head, rows.shift);
    }
}

/* K of a tile, then Q of each step. Returns the step after the last. */
template <class C>
GPU_INLINE uint32_t load_tile(const bwd_params &p, uint32_t smem, uint32_t use, uint32_t step)
{
    using S = bwd_smem<C>;
    uint32_t tile = bwd_tile<C>(smem, use);
    const attn::backward_set *set = attn::backward_set_of(p, attn::tile_read_place(tile).set);
    attn::ring_wait_empty<C::KEY_SLOTS>(smem + S::K_RING, use);
    bwd_load_rows<C::D>(bwd_key_rows(&set->k, tile), bwd_k<C>(smem, use),
                        attn::ring_full<C::KEY_SLOTS>(smem + S::K_RING, use), 0,
                        gpu::l2::evict_first);
#pragma unroll 1
    for (backward_tour tour = attn::tour_start<C>(p, tile); attn::tour_lasts(p, tile, tour);
         attn::tour_next(tile, tour), step++) {
        uint32_t full = attn::ring_full<C::Q_STAGES>(smem + S::Q_RING, step);
        attn::ring_wait_empty<C::Q_STAGES>(smem + S::Q_RING, step);
        bwd_load_rows<C::D>(bwd_query_rows(&set->q, tile, tour), bwd_q<C>(smem, step), full,
                            2 * C::ROW_BYTES, gpu::l2::evict_last);
        load_statistics<C>(p, smem, tile, tour, step, full);
    }
    return step;
}

/* V of a tile, then dO of each step. */
template <class C>
GPU_INLINE uint32_t load_tile_douts(const bwd_params &p, uint32_t smem, uint32_t use, uint32_t step)
{
    using S = bwd_smem<C>;
    uint32_t tile = bwd_tile<C>(smem, use);
    const attn::backward_set *set = attn::backward_set_of(p, attn::tile_read_place(tile).set);
    attn::ring_wait_empty<C::KEY_SLOTS>(smem + S::V_RING, use);
    bwd_load_rows<C::DV>(bwd_key_rows(&set->v, tile), bwd_v<C>(smem, use),
                         attn::ring_full<C::KEY_SLOTS>(smem + S::V_RING, use), 0,
                         gpu::l2::evict_first);
#pragma unroll 1
    for (backward_tour tour = attn::tour_start<C>(p, tile); attn::tour_lasts(p, tile, tour);
         attn::tour_next(tile, tour), step++) {
        attn::ring_wait_empty<C::DOUT_STAGES>(smem + S::DOUT_RING, step);
        bwd_load_rows<C::DV>(bwd_query_rows(&set->dout, tile, tour), bwd_dout<C>(smem, step),
                             attn::ring_full<C::DOUT_STAGES>(smem + S::DOUT_RING, step), 0,
                             gpu::l2::evict_last);
    }
    return step;
}

template <class C>
GPU_INLINE void load_all(const bwd_params &p, uint32_t smem)
{
    using S = bwd_smem<C>;
    uint32_t step = 0, use = 0;
    for (; bwd_await_tile<C>(smem, use); use++) {
        step = load_tile<C>(p, smem, use, step);
        if (!attn::draws_late<C>(p)) {
            gpu::mbarrier_arrive(smem + S::MAY_DRAW);
        }
        attn::ring_release<C::TILE_SLOTS>(smem + S::TILE_RING, use);
    }
    attn::ring_drain<C::KEY_SLOTS>(smem + S::K_RING, use); /* commits reach no other block */
    attn::ring_drain<C::Q_STAGES>(smem + S::Q_RING, step);
}

template <class C>
GPU_INLINE void load_all_douts(const bwd_params &p, uint32_t smem)
{
    using S = bwd_smem<C>;
    uint32_t step = 0, use = 0;
    for (; bwd_await_tile<C>(smem, use); use++) {
        step = load_tile_douts<C>(p, smem, use, step);
        attn::ring_release<C::TILE_SLOTS>(smem + S::TILE_RING, use);
    }
    attn::ring_drain<C::KEY_SLOTS>(smem + S::V_RING, use); /* commits reach no other block */
    attn::ring_drain<C::DOUT_STAGES>(smem + S::DOUT_RING, step);
}

/* ---- multiplier: one thread ---- */

/*
 * Each product forgets where memories begin: its operands' descriptors, all constant for a tile,
 * would otherwise be kept in registers, and 100f spilled them (232 bytes at d 128, 916 with a
 * softcap; ptxas did not for 100a).
 */

template <class C, int COLUMNS, int ROWS = TILE_ROWS>
GPU_BOTH uint32_t bwd_instruction(major a, major b)
{
    return gpu::tcgen05_instruction(gpu::element_of<typename C::T>::value == gpu::element::bf16,
                                    ROWS, COLUMNS, a, b);
}

template <class C>
GPU_INLINE void multiply_s(uint32_t smem, uint32_t tensor, uint32_t use, uint32_t step)
{
    using S = bwd_smem<C>;
    smem = gpu::registers_forget(smem);
    tensor = gpu::registers_forget(tensor);
    attn::ring_wait_full<C::Q_STAGES>(smem + S::Q_RING, step);
    gpu::tcgen05_fence_after();
    multiply_kk<C::D / K_STEP, C::N, C::M>(
        tensor + bwd_columns<C>::S, operand_k(bwd_k<C>(smem, use)), operand_k(bwd_q<C>(smem, step)),
        bwd_instruction<C, C::M>(major::k, major::k), C::D / K_STEP);
    gpu::tcgen05_commit(smem + S::S_FULL);
}

template <class C>
GPU_INLINE void multiply_dp(uint32_t smem, uint32_t tensor, uint32_t use, uint32_t step)
{
    using S = bwd_smem<C>;
    smem = gpu::registers_forget(smem);
    tensor = gpu::registers_forget(tensor);
    attn::ring_wait_full<C::DOUT_STAGES>(smem + S::DOUT_RING, step);
    if (bwd_columns<C>::DQ_ON_DP) {
        gpu::mbarrier_wait(smem + S::DQ_EMPTY, step);
    }
    gpu::tcgen05_fence_after();
    multiply_kk<C::DV / K_STEP, C::N, C::M>(
        tensor + bwd_columns<C>::DP, operand_k(bwd_v<C>(smem, use)),
        operand_k(bwd_dout<C>(smem, step)), bwd_instruction<C, C::M>(major::k, major::k),
        C::DV / K_STEP);
    gpu::tcgen05_commit(smem + S::DP_FULL);
}

/* d (+)= A B with the pairs of both halves as A. */
template <class C>
GPU_INLINE void multiply_pairs(uint32_t d, uint32_t a, uint64_t b, uint32_t instruction, bool add)
{
    constexpr int STEPS = C::M / K_STEP;
    constexpr uint32_t HOLE = bwd_columns<C>::HALF - bwd_columns<C>::PAIRS;
    multiply_tensor<0, STEPS / 2>(d, a, b, instruction, add);
    multiply_tensor<STEPS / 2, STEPS>(d, a + HOLE, b, instruction, true);
}

template <class C>
GPU_INLINE void multiply_dv(uint32_t smem, uint32_t tensor, uint32_t step, bool first)
{
    using S = bwd_smem<C>;
    smem = gpu::registers_forget(smem);
    tensor = gpu::registers_forget(tensor);
    await_tensor(smem + S::P_FULL, step + 1);
    multiply_pairs<C>(tensor + bwd_columns<C>::DV, tensor + bwd_columns<C>::S,
                      operand_mn<C::M>(bwd_dout<C>(smem, step)),
                      bwd_instruction<C, C::DV>(major::k, major::mn), !first);
    gpu::tcgen05_commit(attn::ring_empty<C::DOUT_STAGES>(smem + S::DOUT_RING, step));
}

template <class C>
GPU_INLINE void multiply_dk(uint32_t smem, uint32_t tensor, uint32_t step, bool first)
{
    using S = bwd_smem<C>;
    smem = gpu::registers_forget(smem);
    tensor = gpu::registers_forget(tensor);
    await_tensor(smem + S::DS_FULL, step + 1);
    multiply_pairs<C>(tensor + bwd_columns<C>::DK, tensor + bwd_columns<C>::DP,
                      operand_mn<C::M>(bwd_q<C>(smem, step)),
                      bwd_instruction<C, C::D>(major::k, major::mn), !first);
    gpu::tcgen05_commit(attn::ring_empty<C::Q_STAGES>(smem + S::Q_RING, step));
}

template <class C>
GPU_INLINE void multiply_dq(uint32_t smem, uint32_t tensor, uint32_t use, uint32_t step)
{
    using S = bwd_smem<C>;
    smem = gpu::registers_forget(smem);
    tensor = gpu::registers_forget(tensor);
    if (!bwd_columns<C>::DQ_ON_DP) {
        await_tensor(smem + S::DQ_EMPTY, step);
    }
    multiply_mm<C::N / K_STEP>(tensor + bwd_columns<C>::DQ, operand_mn<C::N>(smem + S::DS),
                               operand_mn<C::N>(bwd_k<C>(smem, use)),
                               bwd_instruction<C, C::D>(major::mn, major::mn));
    gpu::tcgen05_commit(smem + S::DQ_FULL);
}

/* dK and dQ of a step and dP of the next one; dS of the step is replaced by the second of these. */
template <class C>
GPU_INLINE void multiply_middle(uint32_t smem, uint32_t tensor, uint32_t use, uint32_t step,
                                bool first)
{
    multiply_dk<C>(smem, tensor, step, first);
    if (bwd_columns<C>::DQ_ON_DP) {
        multiply_dq<C>(smem, tensor, use, step);
        multiply_dp<C>(smem, tensor, use, step + 1);
    } else {
        multiply_dp<C>(smem, tensor, use, step + 1);
        multiply_dq<C>(smem, tensor, use, step);
    }
}

/* All products of one tile. Returns the step after the last. */
template <class C>
GPU_INLINE uint32_t multiply_tile(uint32_t smem, uint32_t tensor, uint32_t use, uint32_t step,
                                  int32_t count)
{
    using S = bwd_smem<C>;
    attn::ring_wait_full<C::KEY_SLOTS>(smem + S::K_RING, use);
    multiply_s<C>(smem, tensor, use, step);
    attn::ring_wait_full<C::KEY_SLOTS>(smem + S::V_RING, use);
    multiply_dp<C>(smem, tensor, use, step);
    multiply_dv<C>(smem, tensor, step, true);
    bool first = true;
#pragma unroll 1
    for (; count > 1; count--, step++, first = false) {
        multiply_s<C>(smem, tensor, use, step + 1);
        multiply_middle<C>(smem, tensor, use, step, first);
        multiply_dv<C>(smem, tensor, step + 1, false);
    }
    gpu::tcgen05_commit(attn::ring_empty<C::KEY_SLOTS>(smem + S::V_RING, use));
    multiply_dk<C>(smem, tensor, step, first);
    multiply_dq<C>(smem, tensor, use, step);
    gpu::tcgen05_commit(attn::ring_empty<C::KEY_SLOTS>(smem + S::K_RING, use));
    return step + 1;
}

template <class C>
GPU_INLINE void multiply_all(const bwd_params &p, uint32_t smem, uint32_t tensor)
{
    uint32_t step = 0;
    for (uint32_t use = 0; bwd_await_tile<C>(smem, use); use++) {
        int32_t count = bwd_take_steps<C>(p, smem, use);
        step = multiply_tile<C>(smem, tensor, use, step, count);
    }
}

/* ---- dQ warps ---- */

/* A query per lane; in arrays of 32 because one load of 64 wants its registers side by side. */
struct bwd_dq_columns {
    float low[32], high[32];
};

/* Piece `piece` of a step's dQ from tensor memory. */
template <class C>
GPU_INLINE void take_dq(bwd_dq_columns &dq, int piece, const bwd_lane &me)
{
    uint32_t from = me.tensor + bwd_columns<C>::DQ + static_cast<uint32_t>(piece * C::DQ_COLUMNS);
    gpu::tmem_load(dq.low, from);
    gpu::tmem_load(dq.high, from + C::DQ_COLUMNS / 2);
    gpu::tmem_load_wait(dq.low, dq.high);
}

GPU_INLINE void put_32(const float (&x)[32], uint32_t target)
{
#pragma unroll
    for (int i = 0; i < 32; i += 4) {
        gpu::smem_store(target + static_cast<uint32_t>(i / 4 * WARP_LANES) * 16,
                        gpu::f32x4{x[i], x[i + 1], x[i + 2], x[i + 3]});
    }
}

/* To the warp's slot in shared memory, the lanes' next 16 bytes side by side. */
template <class C>
GPU_INLINE void put_dq(const bwd_dq_columns &dq, uint32_t slot, const bwd_lane &me)
{
    wait_staging(me);
    uint32_t target = slot + static_cast<uint32_t>(me.lane) * 16;
    put_32(dq.low, target);
    put_32(dq.high, target + C::DQ_BYTES / 2);
    gpu::fence_async_smem();
    gpu::warp_sync();
}

template <class C>
GPU_INLINE void send_dq(float *target, uint32_t slot, const bwd_lane &me)
{
    if (me.leader) {
        gpu::bulk_reduce_add(target, slot, C::DQ_BYTES, gpu::l2::evict_last);
        gpu::bulk_commit();
    }
}

/* The warp's 32 rows of a step. Tensor memory is given back before anything is waited for, a turn
 * or a slot: the next dP may need the columns. */
template <class C>
GPU_INLINE void reduce_step(const bwd_params &p, uint32_t smem, uint32_t tile, uint32_t step,
                            const backward_tour &tour, int32_t base, const bwd_lane &me)
{
    using S = bwd_smem<C>;
    constexpr int PIECES = C::D / C::DQ_COLUMNS;
    static_assert(PIECES <= 2, "two pieces are taken before the turn");
    uint32_t slot = smem + S::DQ + static_cast<uint32_t>(me.warp) * C::DQ_BYTES;
    float *target = p.scratch.dq + int64_t{C::M * C::D} * attn::tour_unit(p, tile, tour) +
                    me.warp * (WARP_LANES * C::D);
    bwd_dq_columns dq;
    await_tensor(smem + S::DQ_FULL, step + 1);
    take_dq<C>(dq, 0, me);
    if constexpr (PIECES == 2) {
        put_dq<C>(dq, slot, me);
        gpu::tcgen05_fence_after();
        take_dq<C>(dq, 1, me);
    }
    bwd_hand<C>(smem + S::DQ_EMPTY, me);
    if constexpr (PIECES == 1) {
        put_dq<C>(dq, slot, me);
    }
    if (C::DETERMINISTIC && me.leader) {
        attn::await_turn<C, C::DQ_READERS>(p, tile, tour, base);
    }
    send_dq<C>(target, slot, me);
    if constexpr (PIECES == 2) {
        put_dq<C>(dq, slot, me);
        send_dq<C>(target + C::DQ_BYTES / 4, slot, me);
    }
    if (C::DETERMINISTIC && me.leader) {
        attn::pass_turn(p, tile, tour);
    }
}

template <class C>
GPU_INLINE uint32_t reduce_tile(const bwd_params &p, uint32_t smem, uint32_t tile, uint32_t step,
                                const bwd_lane &me)
{
    backward_tour tour = attn::tour_start<C>(p, tile);
    int32_t base = 0;
    if constexpr (C::DETERMINISTIC) {
        base = attn::turn_base<C::N>(p.order, tour.start, tile);
    }
#pragma unroll 1
    for (; attn::tour_lasts(p, tile, tour); attn::tour_next(tile, tour), step++) {
        if constexpr (C::WIDE) {
            wide_reduce_step<C>(p, smem, tile, step, tour, base, me);
        } else if constexpr (C::PAIR) {
            pair_reduce_step<C>(p, smem, tile, step, tour, base, me);
        } else {
            reduce_step<C>(p, smem, tile, step, tour, base, me);
        }
    }
    return step;
}

template <class C>
GPU_INLINE void reduce_all(const bwd_params &p, uint32_t smem, const bwd_lane &me)
{
    using S = bwd_smem<C>;
    uint32_t step = 0;
    for (uint32_t use = 0; bwd_await_tile<C>(smem, use); use++) {
        step = reduce_tile<C>(p, smem, bwd_tile<C>(smem, use), step, me);
        gpu::warp_sync(); /* all lanes have read the record */
        if (me.leader) {
            bwd_release_tile<C>(smem, use);
            if (!C::PAIR && me.warp == 0 && attn::draws_late<C>(p)) {
                gpu::mbarrier_arrive(smem + S::MAY_DRAW);
            }
        }
    }
    if (!C::DETERMINISTIC && me.leader) { /* else pass_turn has waited */
        gpu::bulk_wait<0>();
    }
}

/* ---- compute warps: 32 keys, 64 queries of each step ---- */

template <class C>
GPU_INLINE void mask_chunk(float (&s)[C::CHUNK], int column, const bwd_params &p, uint32_t smem,
                           const bwd_step &at, const bwd_lane &me)
{
    uint32_t tile = bwd_tile<C>(smem, at.use);
    int32_t key = attn::tile_read_place(tile).row + bwd_first_key<C>(me) + me.lane;
    attn::key_range seen = attn::queries_of<C::M>(p, tile, key, at.m);
    int32_t first = seen.first - column, last = seen.last - column;
#pragma unroll
    for (int i = 0; i < C::CHUNK; i++) {
        s[i] = i >= first && i < last ? s[i] : -gpu::infinity();
    }
}

/* Scores from `column` of the step on become probabilities: as pairs, and in s what
 * attn::probability says. */
template <class C>
GPU_INLINE void make_p(uint32_t (&pairs)[C::CHUNK / 2], float (&s)[C::CHUNK], int column,
                       const bwd_params &p, uint32_t smem, const bwd_step &at, const bwd_lane &me)
{
    attn::tile_blocks blocks = attn::tile_read_blocks(bwd_tile<C>(smem, at.use));
    if (at.m < blocks.clear_first || at.m >= blocks.clear_last) {
        mask_chunk<C>(s, column, p, smem, at, me);
    }
    uint32_t lse = bwd_statistics<C>(smem, at.step) + static_cast<uint32_t>(column) * 4;
#pragma unroll
    for (int i = 0; i < C::CHUNK; i += 4) {
        gpu::f32x4 shift = gpu::smem_load<gpu::f32x4>(lse + static_cast<uint32_t>(i) * 4);
        float a = attn::probability<C::SOFTCAP>(s[i], p, shift.x);
        float b = attn::probability<C::SOFTCAP>(s[i + 1], p, shift.y);
        float c = attn::probability<C::SOFTCAP>(s[i + 2], p, shift.z);
        float d = attn::probability<C::SOFTCAP>(s[i + 3], p, shift.w);
        pairs[i / 2] = gpu::pack<typename C::T>(a, b);
        pairs[i / 2 + 1] = gpu::pack<typename C::T>(c, d);
    }
}

/* dS^T = P^T (dP^T - delta) of the chunk at `column`, as pairs. source: where dP^T is. */
template <class C>
GPU_INLINE void make_ds(uint32_t (&pairs)[C::CHUNK / 2], const float (&s)[C::CHUNK], int column,
                        uint32_t source, uint32_t smem, const bwd_step &at)
{
    float dp[C::CHUNK];
    gpu::tmem_load(dp, source);
    gpu::tmem_load_wait(dp);
    uint32_t delta =
        bwd_statistics<C>(smem, at.step) + C::ROW_BYTES + static_cast<uint32_t>(column) * 4;
#pragma unroll
    for (int i = 0; i < C::CHUNK; i += 4) {
        gpu::f32x4 d = gpu::smem_load<gpu::f32x4>(delta + static_cast<uint32_t>(i) * 4);
        pairs[i / 2] = gpu::pack<typename C::T>(s[i] * (dp[i] - d.x), s[i + 1] * (dp[i + 1] - d.y));
        pairs[i / 2 + 1] =
            gpu::pack<typename C::T>(s[i + 2] * (dp[i + 2] - d.z), s[i + 3] * (dp[i + 3] - d.w));
    }
}

/* The chunk's pairs of dS^T in shared memory, keys along the rows. */
template <class C>
GPU_INLINE void put_ds(const uint32_t (&pairs)[C::CHUNK / 2], int column, uint32_t smem,
                       const bwd_lane &me)
{
    uint32_t row = gpu::tile_address(SWIZZLE, bwd_ds_panel<C>(smem, me.half), TILE_ROWS,
                                     static_cast<uint32_t>(me.warp * WARP_LANES + me.lane),
                                     static_cast<uint32_t>(column % PANEL) * 2);
#pragma unroll
    for (uint32_t i = 0; i < C::CHUNK / 8; i++) {
        const uint32_t *x = &pairs[4 * i];
        gpu::smem_store(in_panel(row, i), gpu::u32x4{x[0], x[1], x[2], x[3]});
    }
}

/* The scores of a chunk arrive while the exponentials of the one before are made. */
template <class C>
GPU_INLINE void do_step(const bwd_params &p, uint32_t smem, const bwd_step &at, const bwd_lane &me)
{
    using S = bwd_smem<C>;
    constexpr int CHUNKS = bwd_columns<C>::HALF / C::CHUNK;
    int column = me.half * bwd_columns<C>::HALF;
    uint32_t scores = me.tensor + bwd_columns<C>::S + static_cast<uint32_t>(column);
    uint32_t ds = me.tensor + bwd_columns<C>::DP + static_cast<uint32_t>(column);
    float s[CHUNKS][C::CHUNK];
    attn::ring_wait_full<C::STATISTICS_STAGES>(smem + S::STATISTICS_RING, at.step);
    await_tensor(smem + S::S_FULL, at.step + 1);
    gpu::tmem_load(s[0], scores);
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) {
        gpu::tmem_load_wait(s[c]);
        if (c + 1 < CHUNKS) {
            gpu::tmem_load(s[c + 1], scores + static_cast<uint32_t>((c + 1) * C::CHUNK));
        }
        uint32_t pairs[C::CHUNK / 2];
        make_p<C>(pairs, s[c], column + c * C::CHUNK, p, smem, at, me);
        gpu::tmem_store(scores + static_cast<uint32_t>(c * C::CHUNK / 2), pairs);
    }
    gpu::tmem_store_wait();
    bwd_hand<C>(smem + S::P_FULL, me);
    if (at.first) {
        wait_staging(me); /* the last tile's dK and dV */
    }
    if (!bwd_columns<C>::DQ_ON_DP) { /* there dP waited until the last dQ was read */
        gpu::mbarrier_wait(smem + S::DQ_FULL, at.step);
    }
    await_tensor(smem + S::DP_FULL, at.step + 1);
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) {
        uint32_t pairs[C::CHUNK / 2];
        make_ds<C>(pairs, s[c], column + c * C::CHUNK, ds + static_cast<uint32_t>(c * C::CHUNK),
                   smem, at);
        gpu::tmem_store(ds + static_cast<uint32_t>(c * C::CHUNK / 2), pairs);
        put_ds<C>(pairs, column + c * C::CHUNK, smem, me);
    }
    gpu::tmem_store_wait();
    gpu::fence_async_smem();
    if constexpr (C::PAIR) {
        pair_pass_ds<C>(smem, me);
    }
    bwd_hand<C>(smem + S::DS_FULL, me);
}

/* Columns of the warp's rows of dV or dK; all lanes have staged theirs. */
template <class C>
GPU_INLINE void send_keys(const bwd_params &p, uint32_t tile, bool is_dv, int column,
                          uint32_t stage, const bwd_lane &me)
{
    if (me.leader) {
        attn::tile_place place = attn::tile_read_place(tile);
        attn::tile_side k = attn::tile_read_k(tile);
        const attn::backward_set *set = attn::backward_set_of(p, place.set);
        gpu::tma_store(is_dv ? &set->dv : &set->dk, stage, gpu::l2::evict_first, column,
                       gpu::ragged_row(k.span, place.row + bwd_first_key<C>(me)), place.head,
                       gpu::ragged_shift(k.first, k.span));
        gpu::bulk_commit();
    }
}

/* Panel j of dV and dK, in that order: 32 rows, staged where this warp's part of dS goes. */
template <class C>
GPU_INLINE void store_panel(const bwd_params &p, uint32_t smem, uint32_t tile, int j,
                            const bwd_lane &me)
{
    constexpr int DV_PANELS = C::DV / PANEL;
    bool is_dv = j < DV_PANELS;
    int column = (is_dv ? j : j - DV_PANELS) * PANEL;
    uint32_t stage =
        bwd_ds_panel<C>(smem, me.half) + static_cast<uint32_t>(me.warp * WARP_LANES) * PANEL_ROW;
    float sum[PANEL];
    if (j >= 2) {
        gpu::tcgen05_fence_after(); /* the lanes met for the panel before */
    }
    gpu::tmem_load(sum, me.tensor + (is_dv ? bwd_columns<C>::DV : bwd_columns<C>::DK) +
                            static_cast<uint32_t>(column));
    gpu::tmem_load_wait(sum);
    wait_staging(me);
    stage_row<typename C::T>(sum, is_dv ? 1.0f : p.scale, stage, me.lane);
    gpu::fence_async_smem();
    gpu::warp_sync();
    send_keys<C>(p, tile, is_dv, column, stage, me);
}

/* Panels are shared out between the two halves of the warps. steps: of all tiles so far. */
template <class C>
GPU_INLINE void store_keys(const bwd_params &p, uint32_t smem, uint32_t use, uint32_t steps,
                           const bwd_lane &me)
{
    using S = bwd_smem<C>;
    await_tensor(smem + S::DQ_FULL, steps);
#pragma unroll 1
    for (int j = me.half; j < (C::DV + C::D) / PANEL; j += 2) {
        store_panel<C>(p, smem, bwd_tile<C>(smem, use), j, me);
    }
    if (me.leader) {
        bwd_release_tile<C>(smem, use);
    }
}

template <class C>
GPU_INLINE void compute_all(const bwd_params &p, uint32_t smem, const bwd_lane &me)
{
    uint32_t step = 0;
    for (uint32_t use = 0; bwd_await_tile<C>(smem, use); use++) {
        uint32_t tile = bwd_tile<C>(smem, use);
        attn::tile_blocks blocks = attn::tile_read_blocks(tile);
        bwd_step at = {use, step, attn::turn_start<C::N>(p.order, tile), true};
#pragma unroll 1
        for (int32_t left = bwd_steps(p, tile); left > 0; left--) {
            if constexpr (C::WIDE) {
                wide_step<C>(p, smem, at, me);
            } else {
                do_step<C>(p, smem, at, me);
            }
            at = {use, at.step + 1, attn::turn_after(blocks, at.m), false};
        }
        step = at.step;
        if constexpr (C::WIDE) {
            wide_store_keys<C>(p, smem, use, step, me);
        } else {
            store_keys<C>(p, smem, use, step, me);
        }
    }
    gpu::tcgen05_fence_before(); /* the last sums were read, block_sync may say */
    if (me.leader) {
        gpu::bulk_wait<0>();
    }
}

/* ---- the kernel ---- */

/* Roles keep nothing of each other in registers: each reads for itself where its memories begin. */
template <class C>
GPU_INLINE uint32_t bwd_tensor()
{
    return gpu::smem_load<uint32_t>(gpu::smem_base() + bwd_smem<C>::TENSOR);
}

/* What is done between a kernel's beginning and its end. SERVE: by one thread of each of the last
 * four warps. */
template <class C, void (*SERVE)(const bwd_params &p, uint32_t smem, int warp)>
GPU_INLINE void bwd_roles(const bwd_params &p)
{
    int warp = gpu::warp_index();
    if (warp >= MULTIPLIER) {
        gpu::registers_give<C::OTHER_REGISTERS>();
        if (gpu::elect_one()) {
            SERVE(p, gpu::smem_base(), warp);
        }
        gpu::warp_sync(); /* the end wants whole warps */
    } else if (warp >= COMPUTE_WARPS) {
        gpu::registers_take<C::COMPUTE_REGISTERS>();
        compute_all<C>(p, gpu::smem_base(), bwd_lane_of(bwd_tensor<C>(), COMPUTE_WARPS));
    } else {
        gpu::registers_give<C::DQ_REGISTERS>();
        reduce_all<C>(p, gpu::smem_base(), bwd_lane_of(bwd_tensor<C>(), DQ_WARPS));
    }
}

template <class C>
GPU_INLINE void bwd_begin()
{
    uint32_t smem = gpu::smem_base();
    if (gpu::thread_index() == 0) {
        bwd_init_barriers<C>(smem);
    }
    if (gpu::warp_index() == MULTIPLIER) {
        gpu::tmem_take<gpu::TMEM_COLUMNS>(smem + bwd_smem<C>::TENSOR);
        gpu::tmem_take_no_more();
    }
    gpu::block_sync();
}

template <class C>
GPU_INLINE void bwd_end()
{
    gpu::block_sync();
    if (gpu::warp_index() == MULTIPLIER) {
        gpu::tmem_give<gpu::TMEM_COLUMNS>(bwd_tensor<C>());
    }
}

template <class C>
GPU_INLINE void bwd_serve(const bwd_params &p, uint32_t smem, int warp)
{
    if (warp == MULTIPLIER) {
        multiply_all<C>(p, smem, bwd_tensor<C>());
    } else if (warp == LOADER) {
        load_all<C>(p, smem);
    } else if (warp == DOUT_LOADER) {
        load_all_douts<C>(p, smem);
    } else {
        attn::draw_all<C, bwd_smem<C>>(p, smem);
    }
}

template <class C>
__global__ void __launch_bounds__(C::THREADS, 1) bwd_kernel(const __grid_constant__ bwd_params p)
{
    bwd_begin<C>();
    bwd_roles<C, bwd_serve<C>>(p);
    bwd_end<C>();
}

} // namespace sm100

#endif
