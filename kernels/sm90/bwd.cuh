/*
 * sm90/bwd: the backward pass on Hopper: dK and dV, and the shares of dQ.
 *
 * Grid: as many CTAs as SMs (or tiles, if fewer); each draws tiles from the plan's list, the first
 * by its number, the next ones from a counter, until it meets an end mark. A tile is 128 keys of
 * one kv head; for each q head of the group it walks the query blocks that see them. dK and dV stay
 * in registers for the whole group, so their bits need no order between CTAs. dQ is summed over key
 * blocks in fp32 scratch (common/preprocess clears it, sm90/bwd_post turns it into the result), a
 * block of queries at a time, in the order in which threads hold it.
 *
 * Consumers (warpgroups 1 and 2) have 64 keys each and work on transposed scores, keys along the
 * rows: S^T = K Q^T, dP^T = V dO^T. So P^T and dS^T, packed, are register operands of dV += P^T dO
 * and dK += dS^T Q; only dS goes through shared memory, for dQ = dS K.
 *
 * Who waits for whom. One thread each in the warps of warpgroup 0: the loader of K and Q, which
 * draws tiles, the loader of V and dO, and two writers of dQ.
 *   tiles (2 slots)     records; back from all consumer warps, both loaders and both writers
 *   k, v (1 slot)       back when the last product of the tile that reads them has retired
 *   q, dout (2 or 3 stages)  with the rows' statistics; back, warp by warp, after dK, after dV
 *   ds (2 stages)       halves of both consumers, for both; back when dQ is made of it
 *   dq (1 or 2 slots for each consumer)  fp32 share, from consumer to its writer
 * bwd_step says in which order a step does what.
 *
 * Ordered tiles (plan_tile; an instance of their own, for launches of mostly short sequences: it
 * costs long ones 1 to 5 %) are those of short sequences, or all of a deterministic launch. The
 * first key block stores its share of a block of dQ, the others add theirs in turn, the last finds
 * the sum in its slot, adds its own share and writes the result: no zeros, no postprocess, and the
 * sum is not written back to memory. So a writer grants a slot for each use, with word of what is
 * to be done. Such tiles are short: K of the next one comes where V was, as soon as that is free,
 * and its first S is multiplied while dK, dV and the last share of dQ leave.
 *
 * Turns: a block of dQ has a turn counter; a writer waits until the key blocks before its
 * own have added their shares. common/turn.cuh says who comes before whom. The writers then have
 * both consumers' shares of each second step.
 *
 * Per 64 x 128 step at d 128: 10.5 MFLOP, 2560 cycles of the tensor cores; shared memory 2944
 * cycles, which is the bound (87 % of the tensor cores' peak). notes.md has what was measured.
 */
#ifndef SM90_BWD_CUH
#define SM90_BWD_CUH

#include "sm90/bwd_serve.cuh"
#include "sm90/bwd_step.cuh"

namespace sm90
{

template <typename TYPE, int DIM, int DIM_V, int QUERIES, bool CAPPED, bool ORDERED,
          bool ALSO_ORDERS = false>
struct bwd_config {
    using T = TYPE;
    static constexpr int D = DIM, DV = DIM_V; /* tensors may be narrower: maps read zeros, clip */
    static constexpr int M = QUERIES;         /* of a step */
    static constexpr int N = 2 * BWD_WG_ROWS; /* keys of a tile */
    static constexpr bool SOFTCAP = CAPPED;
    static constexpr bool DETERMINISTIC = ORDERED;
    static constexpr int THREADS = 3 * BWD_WARPGROUP;
    static constexpr uint32_t CONSUMER_WARPS = 2 * BWD_WARPS;
    static constexpr int TILE_SLOTS = 2;
    static constexpr bool DQ_BEHIND = !CAPPED; /* see bwd_step */
    /* -delta is what dP's accumulators begin with, and LSE is read before the wait for S: both off
     * the chain of a step. At d 64, where dP is twice as many registers, it is 10 % slower; with a
     * softcap it spills 4 bytes. */
    static constexpr bool DELTA_FIRST = DQ_BEHIND && M == BWD_WG_ROWS;
    /* There, delta is read before the wait for dP: 5 % faster; fp16 spills with it (24 bytes), and
     * deterministic launches are as much slower. */
    static constexpr bool READ_AHEAD =
        !DELTA_FIRST && !ORDERED && gpu::element_of<T>::value == gpu::element::bf16;
    static constexpr bool ORDERS = ALSO_ORDERS; /* tiles that write dQ (plan_tile.ordered) */
    /* Where one slot of dQ does (with it d 64 and a softcap spill), there is room for a third
     * stage: 3 %. Where tiles are ordered, a slot's way to the next share is longer than a step. */
    static constexpr bool ONE_DQ = DQ_BEHIND && M == BWD_WG_ROWS && !ORDERS;
    static constexpr int DQ_SLOTS = ONE_DQ ? 1 : 2;
    /* Where tiles are short: S of a tile's first step is multiplied at the end of the one before,
     * and dK and dV leave ahead of the last share of dQ (see begin_next_tile, keys_stage). Long
     * ones are up to 4 % slower with parts of that, and no faster with all of it. */
    static constexpr bool AHEAD = ORDERS;
    static_assert(!AHEAD || (DQ_BEHIND && N > M && D == DV),
                  "never drawn late; K and V change places");
    static_assert(DQ_SLOTS == BWD_WRITERS || !ORDERS, "each writer has a slot of each consumer");
    static constexpr int DQ_ROUNDS = ORDERED || ORDERS ? BWD_WRITERS : DQ_SLOTS;
    /* P is made, and dV multiplied, in parts of the queries, so that the tensor cores have work
     * under the exponentials: at d 64, where these take as long as the products, 1 to 2 % faster in
     * two parts. */
    static constexpr int P_PARTS = DQ_BEHIND && M > BWD_WG_ROWS ? 2 : 1;
    static constexpr int PART_STEPS = M / K_STEP / P_PARTS;
    static constexpr int Q_STAGES = ONE_DQ ? 3 : 2, DOUT_STAGES = Q_STAGES, DS_STAGES = 2;
    /* dQ of a step: consumers share it by columns, or by rows when each has 64 of them. */
    static constexpr bool DQ_BY_ROWS = M == 2 * BWD_WG_ROWS;
    static constexpr int DQ_COLUMNS = DQ_BY_ROWS ? D : D / 2; /* of one consumer */
    static constexpr int DQ_PIECES = 2;
    static constexpr uint32_t K_BYTES = tile_bytes(N, D), V_BYTES = tile_bytes(N, DV);
    static constexpr uint32_t Q_BYTES = tile_bytes(M, D), DOUT_BYTES = tile_bytes(M, DV);
    static constexpr uint32_t P_BYTES = 0, DS_BYTES = tile_bytes(M, N);
    static constexpr uint32_t ROW_BYTES = M * 4; /* one statistic of a step's rows */
    /* 24 + 2 * 240 = 504 = 3 * 168, what the block is launched with */
    static constexpr int LOADER_REGISTERS = 24, CONSUMER_REGISTERS = 240;
    static_assert(M == BWD_WG_ROWS || DQ_BY_ROWS, "a step has 64 or 128 queries");
    static_assert(DQ_COLUMNS == PANEL, "a consumer's share of dQ is one piece");
    static_assert(tile_bytes(BWD_WG_ROWS, DV) <= DS_BYTES, "a consumer's dV is staged in dS");
    static_assert(AHEAD || tile_bytes(BWD_WG_ROWS, D) <= BWD_PIECE_BYTES, "its dK in dQ");
    static_assert(!AHEAD || M == BWD_WG_ROWS, "or in a stage of Q, whose panels are the same");
};

/* Where a consumer's dK and dV wait to leave, after step `last` of a tile. */
struct bwd_keys_stage {
    uint32_t dk, dv;
};

/* One of them in this consumer's stage of dS; the other in its next slot of dQ or, not to wait for
 * that, in the last stage of Q or dO, which it holds for so long. */
template <class C>
GPU_INLINE bwd_keys_stage keys_stage(uint32_t smem, uint32_t last, const bwd_lane &me)
{
    uint32_t ds = smem + bwd_smem<C>::DS + static_cast<uint32_t>(me.wg) * C::DS_BYTES;
    if constexpr (!C::AHEAD) {
        return {bwd_dq<C>(smem, me.wg, last + 1), ds};
    }
    return me.wg == 0 ? bwd_keys_stage{ds, bwd_dout<C>(smem, last)}
                      : bwd_keys_stage{bwd_q<C>(smem, last), ds};
}

/* dK and dV to memory. last: the tile's last step. */
template <class C>
GPU_INLINE void store_keys(const bwd_registers<C> &r, const bwd_params &p, uint32_t smem,
                           const bwd_step &last, const bwd_lane &me)
{
    using T = typename C::T;
    bwd_keys_stage stage = keys_stage<C>(smem, last.step, me);
    gpu::barrier_sync<STAGING_FREE>(BWD_CONSUMERS); /* no consumer multiplies what lies there */
    stage_rows<T, C::DV>(r.dv, 1.0f, stage.dv, p.dv, me);
    if constexpr (!C::AHEAD) {
        bwd_wait_dq<C>(smem, me.wg, last.step + 1);
    }
    stage_rows<T, C::D>(r.dk, p.scale, stage.dk, p.d, me);
    gpu::fence_async_smem();
    gpu::warp_sync();
    if (me.leader) {
        uint32_t tile = bwd_tile<C>(smem, last.use);
        attn::tile_place place = attn::tile_read_place(tile);
        attn::tile_side k = attn::tile_read_k(tile);
        const bwd_set *set = attn::backward_set_of(p, place.set);
        int32_t row = place.row + me.wg * BWD_WG_ROWS;
        send_rows<C::DV>({&set->dv, p.dv}, stage.dv, row, 0, place, k, me);
        send_rows<C::D>({&set->dk, p.d}, stage.dk, row, 0, place, k, me);
        gpu::bulk_commit();
        attn::ring_release<C::TILE_SLOTS>(smem + bwd_smem<C>::TILE_RING, last.use);
    }
}

/* The step after `at` of the same tile. */
template <class C>
GPU_INLINE bwd_step step_after(const bwd_step &at)
{
    return uniform_step<C>({at.use, at.step + 1, at.next, 0, false, at.ordered});
}

template <class C>
GPU_INLINE bwd_step walk_behind(bwd_registers<C> &r, const bwd_params &p, uint32_t smem,
                                bwd_step at, int32_t count, bwd_lane me)
{
    if (count == 1) {
        step_behind<C, true, false>(r, p, smem, at, me);
        return at;
    }
    step_behind<C, true, true>(r, p, smem, at, me);
    for (int32_t left = count - 2;; left--) {
        at = step_after<C>(at);
        me = uniform_lane(me);
        if (left == 0) {
            break;
        }
        step_behind<C, false, true>(r, p, smem, at, me);
    }
    step_behind<C, false, false>(r, p, smem, at, me);
    return at;
}

template <class C>
GPU_INLINE bwd_step walk_within(bwd_registers<C> &r, const bwd_params &p, uint32_t smem,
                                bwd_step at, int32_t count, bwd_lane me)
{
    for (int32_t left = count - 1; left > 0; left--) {
        step_within<C, true>(r, p, smem, at, me);
        at = step_after<C>(at);
        me = uniform_lane(me);
    }
    step_within<C, false>(r, p, smem, at, me);
    return at;
}

/* Is there a tile? Its record has come. */
template <class C>
GPU_INLINE bool next_tile(uint32_t smem, uint32_t use)
{
    attn::ring_wait_full<C::TILE_SLOTS>(smem + bwd_smem<C>::TILE_RING, use);
    return attn::tile_read_place(bwd_tile<C>(smem, use)).rows != 0;
}

/* S of a tile's first step. */
template <class C>
GPU_INLINE void begin_tile(bwd_registers<C> &r, const bwd_params &p, uint32_t smem, uint32_t use,
                           uint32_t step, const bwd_lane &me)
{
    attn::ring_wait_full<1>(smem + bwd_smem<C>::K_RING, use);
    issue_s<C>(r, p, smem, use, step, me);
}

/*
 * The same, if there is such a tile; returns whether. If not, a product of what lies where nothing
 * is loaded any more: of wgmmas that are only perhaps in flight ptxas makes serialised ones.
 */
template <class C>
GPU_INLINE bool begin_next_tile(bwd_registers<C> &r, const bwd_params &p, uint32_t smem,
                                uint32_t use, uint32_t step, const bwd_lane &me)
{
    bool there = next_tile<C>(smem, use);
    uint32_t keys = bwd_k<C>(p, smem, use - 1), queries = keys;
    if (there) {
        attn::ring_wait_full<1>(smem + bwd_smem<C>::K_RING, use);
        attn::ring_wait_full<C::Q_STAGES>(smem + bwd_smem<C>::Q_RING, step);
        keys = bwd_k<C>(p, smem, use);
        queries = bwd_q<C>(smem, step);
    }
    keys = gpu::shuffle(keys, 0);
    queries = gpu::shuffle(queries, 0);
    gpu::wgmma_fence(r.s);
    multiply_kk<typename C::T, C::M, C::D, C::N, C::M>(r.s, operand_k(keys, me.wg * BWD_WG_ROWS),
                                                       operand_k(queries));
    gpu::wgmma_commit();
    return there;
}

/* All steps of one tile. Returns the last one. */
template <class C>
GPU_INLINE bwd_step do_tile(bwd_registers<C> &r, const bwd_params &p, uint32_t smem, uint32_t use,
                            uint32_t step, const bwd_lane &me)
{
    using S = bwd_smem<C>;
    attn::tile_blocks blocks = attn::tile_read_blocks(bwd_tile<C>(smem, use));
    int32_t count = (blocks.last - blocks.first) * p.group;
    if constexpr (!C::AHEAD) {
        begin_tile<C>(r, p, smem, use, step, me);
    }
    attn::ring_wait_full<1>(smem + S::V_RING, use);
    if constexpr (C::AHEAD) {
        give_back_staging<C>(smem, use, step, me);
    }
    bwd_step at =
        uniform_step<C>({use, step, attn::turn_start<C::N>(p.order, bwd_tile<C>(smem, use)), 0,
                         true, attn::tile_read_ordered(bwd_tile<C>(smem, use))});
    if constexpr (C::DQ_BEHIND) {
        return walk_behind<C>(r, p, smem, at, count, uniform_lane(me));
    } else {
        return walk_within<C>(r, p, smem, at, count, uniform_lane(me));
    }
}

template <class C>
GPU_INLINE void consume_ahead(bwd_registers<C> &r, const bwd_params &p, uint32_t smem,
                              const bwd_lane &me)
{
    uint32_t use = 0, step = 0;
    bool there = next_tile<C>(smem, use);
    if (!there) {
        return;
    }
    begin_tile<C>(r, p, smem, use, step, uniform_lane(me));
    for (; there; use++) {
        bwd_step last = do_tile<C>(r, p, smem, use, step, me);
        use = last.use; /* the same number in the same register */
        step = last.step + 1;
        there = begin_next_tile<C>(r, p, smem, use + 1, step, uniform_lane(me));
        store_keys<C>(r, p, smem, last, forgotten_lane(me));
        store_dq<C>(r, p, smem, last, last.step, forgotten_lane(me));
        show_dq<C>(smem, last.step, me);
    }
    gpu::wgmma_wait<0>(r.s); /* spare: nobody reads it */
}

template <class C>
GPU_INLINE void consume_in_turn(bwd_registers<C> &r, const bwd_params &p, uint32_t smem,
                                const bwd_lane &me)
{
    uint32_t step = 0;
    for (uint32_t use = 0; next_tile<C>(smem, use); use++) {
        bwd_step last = do_tile<C>(r, p, smem, use, step, me);
        use = last.use;
        step = last.step + 1;
        store_keys<C>(r, p, smem, last, forgotten_lane(me));
    }
}

template <class C>
GPU_INLINE void bwd_consume_all(const bwd_params &p, uint32_t smem, const bwd_lane &me)
{
    bwd_registers<C> r;
    if constexpr (C::AHEAD) {
        consume_ahead<C>(r, p, smem, me);
    } else {
        consume_in_turn<C>(r, p, smem, me);
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
        bwd_lane me = {wg - 1, gpu::lane_index(), gpu::warp_index() % BWD_WARPS,
                       gpu::lane_index() == 0}; /* no register of its own */
        bwd_consume_all<C>(p, smem, me);
    }
}

} // namespace sm90

#endif
