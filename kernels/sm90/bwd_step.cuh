/*
 * sm90/bwd_step: one step of sm90/bwd as a consumer does it, in either of two orders.
 *
 * step_behind multiplies dQ = dS K of a step under the next one: under its dS, while dV is also on
 * its way. The consumers then meet through a ring of mbarriers, not all at once: half a step lies
 * between the one's dS and the other's need of it, they drift apart by that much, and the
 * exponentials of one run under the products of the other.
 * step_within multiplies dQ in its own step: what a softcap needs besides leaves too few registers
 * (76 bytes spilled) for the other.
 *
 * In both, dV is multiplied while dS is made. That takes P in fp32 out of the registers: dS is made
 * from P as it was rounded for dV. dS is rounded itself, so its error grows by half, at most.
 *
 * Block, step and warpgroup come out of a shuffle at the top of each step: else ptxas takes them
 * for different in each lane, and builds each descriptor in vector registers (see uniform_tile).
 */
#ifndef SM90_BWD_STEP_CUH
#define SM90_BWD_STEP_CUH

#include "sm90/bwd_data.cuh"

namespace sm90
{

template <class C>
struct bwd_registers {
    float s[C::M / 2]; /* S^T, then P^T */
    float dp[C::M / 2];
    float dq[C::DQ_COLUMNS / 2];
    float dk[C::D / 2];
    float dv[C::DV / 2];
    uint32_t p[C::P_PARTS][C::PART_STEPS][4]; /* P^T, the operand of dV */
    uint32_t ds[C::M / K_STEP][4];            /* dS^T, the operand of dK; before: see make_p */
};

/* One step as a consumer sees it. What only masked blocks need is read again from the record. */
struct bwd_step {
    uint32_t use;  /* of the tile's rings */
    uint32_t step; /* of the q, dout and dq rings */
    int32_t m;     /* query block */
    int32_t next;  /* that of the next step */
    bool first;    /* of the tile */
    bool ordered;  /* see plan_tile */
};

/* S^T = K Q^T of a step of tile `use`, as one group. */
template <class C>
GPU_INLINE void issue_s(bwd_registers<C> &r, const bwd_params &p, uint32_t smem, uint32_t use,
                        uint32_t step, const bwd_lane &me)
{
    using S = bwd_smem<C>;
    attn::ring_wait_full<C::Q_STAGES>(smem + S::Q_RING, step);
    gpu::wgmma_fence(r.s);
    multiply_kk<typename C::T, C::M, C::D, C::N, C::M>(
        r.s, operand_k(bwd_k<C>(p, smem, use), me.wg * BWD_WG_ROWS),
        operand_k(bwd_q<C>(smem, step)));
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

/* A statistic of the step's queries: this thread's two of each eight. */
template <class C>
struct bwd_row_values {
    gpu::f32x2 x[C::M / 8];
};

template <class C>
GPU_INLINE bwd_row_values<C> read_rows(uint32_t rows, const bwd_lane &me)
{
    bwd_row_values<C> r;
    uint32_t mine = rows + static_cast<uint32_t>(me.lane % 4) * 8;
#pragma unroll
    for (int j = 0; j < C::M / 8; j++) {
        r.x[j] = gpu::smem_load<gpu::f32x2>(mine + static_cast<uint32_t>(j) * 32);
    }
    return r;
}

/* dP^T = V dO^T, as one group. BEGUN: the accumulators have their first addend, dO is there. */
template <class C, bool BEGUN>
GPU_INLINE void issue_dp(bwd_registers<C> &r, const bwd_params &p, uint32_t smem,
                         const bwd_step &at, const bwd_lane &me)
{
    if constexpr (!BEGUN) {
        attn::ring_wait_full<C::DOUT_STAGES>(smem + bwd_smem<C>::DOUT_RING, at.step);
    }
    gpu::wgmma_fence(r.dp);
    multiply_kk<typename C::T, C::M, C::DV, C::N, C::M>(
        r.dp, operand_k(bwd_v<C>(p, smem, at.use), me.wg * BWD_WG_ROWS),
        operand_k(bwd_dout<C>(smem, at.step)), BEGUN);
    gpu::wgmma_commit();
}

/* dP^T begins with -delta. */
template <class C>
GPU_INLINE void begin_dp(bwd_registers<C> &r, uint32_t smem, uint32_t step, const bwd_lane &me)
{
    attn::ring_wait_full<C::DOUT_STAGES>(smem + bwd_smem<C>::DOUT_RING, step);
    bwd_row_values<C> delta = read_rows<C>(bwd_delta<C>(smem, step), me);
#pragma unroll
    for (int j = 0; j < C::M / 8; j++) {
        r.dp[4 * j] = r.dp[4 * j + 2] = -delta.x[j].x;
        r.dp[4 * j + 1] = r.dp[4 * j + 3] = -delta.x[j].y;
    }
}

/* Scores in s, of a part of the queries, become probabilities, packed in p. With a softcap, what
 * dP - delta is to be multiplied with is another number, and goes to ds, which is free until dS is
 * made. */
template <class C>
GPU_INLINE void make_p(bwd_registers<C> &r, const bwd_params &p, const bwd_row_values<C> &lse,
                       int part)
{
#pragma unroll
    for (int i = 0; i < 2 * C::PART_STEPS; i++) {
        int j = 2 * C::PART_STEPS * part + i;
#pragma unroll
        for (int row = 0; row < 2; row++) {
            float *x = &r.s[4 * j + 2 * row];
            float low = attn::probability<C::SOFTCAP>(x[0], p, lse.x[j].x);
            float high = attn::probability<C::SOFTCAP>(x[1], p, lse.x[j].y);
            r.p[part][i / 2][i % 2 * 2 + row] = gpu::pack<typename C::T>(low, high);
            if constexpr (C::SOFTCAP) {
                r.ds[j / 2][j % 2 * 2 + row] = gpu::pack<typename C::T>(x[0], x[1]);
            }
        }
    }
}

/* dS = P (dP - delta), packed in ds; delta: zeros if dP began with it. */
template <class C>
GPU_INLINE void make_ds(bwd_registers<C> &r, const bwd_row_values<C> &delta)
{
#pragma unroll
    for (int j = 0; j < C::M / 8; j++) {
        const auto &p = r.p[j / 2 / C::PART_STEPS][j / 2 % C::PART_STEPS];
#pragma unroll
        for (int row = 0; row < 2; row++) {
            int i = j % 2 * 2 + row;
            gpu::f32x2 factor = gpu::unpack<typename C::T>(C::SOFTCAP ? r.ds[j / 2][i] : p[i]);
            const float *x = &r.dp[4 * j + 2 * row];
            float low = C::DELTA_FIRST ? x[0] : x[0] - delta.x[j].x;
            float high = C::DELTA_FIRST ? x[1] : x[1] - delta.x[j].y;
            r.ds[j / 2][i] = gpu::pack<typename C::T>(factor.x * low, factor.y * high);
        }
    }
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

/* dq = dS K over the tile's keys: this consumer's columns, or rows, of it. As one group. */
template <class C>
GPU_INLINE void issue_dq(bwd_registers<C> &r, uint32_t smem, uint32_t keys, uint32_t step,
                         const bwd_lane &me)
{
    int row = C::DQ_BY_ROWS ? me.wg * BWD_WG_ROWS : 0;
    if constexpr (!C::DQ_BY_ROWS) {
        keys += tile_bytes(C::N, C::DQ_COLUMNS) * static_cast<uint32_t>(me.wg);
    }
    uint64_t a = operand_k(bwd_ds<C>(smem, step), row);
    uint64_t b = operand_mn<C::N>(keys);
    gpu::wgmma_fence(r.dq);
#pragma unroll
    for (int k = 0; k < C::N / K_STEP; k++) {
        gpu::wgmma<C::DQ_COLUMNS, typename C::T, major::k, major::mn>(r.dq, step_k<C::M>(a, k),
                                                                      step_mn(b, k), k > 0);
    }
    gpu::wgmma_commit();
}

/* With what the tiles before have summed (more), this consumer's share is the result. Zeros are as
 * those of sums that begin with zero: not negative. The sums in memory are dead then: not written
 * back, they are 0.75 of 2.6 GB that short1024 moves. */
template <class C>
GPU_INLINE void round_dq(const bwd_registers<C> &r, const bwd_params &p, uint32_t slot,
                         uint32_t unit, bool more, const bwd_lane &me)
{
    if (more) {
        gpu::global_discard(bwd_sums<C>(p, static_cast<int32_t>(unit), me.wg) +
                            (me.warp * 32 + me.lane) * (BWD_PIECE / BWD_WARPGROUP));
    }
    float dq[PANEL / 2];
#pragma unroll
    for (int i = 0; i < PANEL / 8; i++) {
        gpu::f32x4 x = {0.0f, 0.0f, 0.0f, 0.0f};
        if (more) {
            x = gpu::smem_load<gpu::f32x4>(slot + bwd_place(me) +
                                           static_cast<uint32_t>(i) * BWD_FRAGMENT);
        }
        dq[4 * i] = r.dq[4 * i] + x.x + 0.0f;
        dq[4 * i + 1] = r.dq[4 * i + 1] + x.y + 0.0f;
        dq[4 * i + 2] = r.dq[4 * i + 2] + x.z + 0.0f;
        dq[4 * i + 3] = r.dq[4 * i + 3] + x.w + 0.0f;
    }
    gpu::warp_sync();
    uint32_t quarter = static_cast<uint32_t>(me.warp) * (BWD_PIECE_BYTES / BWD_WARPS);
    stage_rows<typename C::T, PANEL>(
        dq, p.scale, slot + quarter - tile_bytes(me.warp * BWD_WARP_ROWS, PANEL), PANEL, me);
}

/* This consumer's share of dQ to its slot, in the order of the fragment: 16 bytes a thread; or, in
 * the last tile of an ordered sequence, the rows that it makes of it. */
template <class C>
GPU_INLINE void store_dq(const bwd_registers<C> &r, const bwd_params &p, uint32_t smem,
                         const bwd_step &at, uint32_t step, const bwd_lane &me)
{
    uint32_t slot = bwd_dq<C>(smem, me.wg, step), way = 0;
    bwd_wait_dq<C>(smem, me.wg, step);
    if (C::ORDERS && at.ordered) {
        way = gpu::smem_load<uint32_t>(bwd_way<C>(smem, me.wg, step));
    }
    if (C::ORDERS && (way & WAY_WRITE) != 0) {
        round_dq<C>(r, p, slot, way >> WAY_UNIT, (way & WAY_SUM) != 0, me);
        return;
    }
    uint32_t target = slot + bwd_place(me);
#pragma unroll
    for (int i = 0; i < C::DQ_COLUMNS / 8; i++) {
        gpu::smem_store(target + static_cast<uint32_t>(i) * BWD_FRAGMENT,
                        gpu::f32x4{r.dq[4 * i], r.dq[4 * i + 1], r.dq[4 * i + 2], r.dq[4 * i + 3]});
    }
}

/* What this warp has stored is there for those who wait for the barrier. The fence takes some 200
 * cycles: it stands behind a product, where the step has one to issue. */
GPU_INLINE void show_stored(uint32_t full)
{
    gpu::fence_async_smem();
    gpu::warp_sync();
    if (gpu::elect_one()) {
        gpu::mbarrier_arrive(full);
    }
}

/* dQ to the writer. */
template <class C>
GPU_INLINE void show_dq(uint32_t smem, uint32_t step, const bwd_lane &me)
{
    show_stored(attn::ring_full<C::DQ_ROUNDS>(bwd_dq_ring<C>(smem, me.wg), step));
}

/* Is a stage of a tile's last step where this consumer's dV, or dK, leaves? */
template <class C>
GPU_INLINE bool holds_dout(const bwd_lane &me)
{
    return C::AHEAD && me.wg == 0;
}

template <class C>
GPU_INLINE bool holds_q(const bwd_lane &me)
{
    return C::AHEAD && me.wg == 1;
}

/* What this warp has staged of the last tile's dK and dV has left, and the stage that it held may
 * be filled. step: the first one of a tile. */
template <class C>
GPU_INLINE void give_back_staging(uint32_t smem, uint32_t use, uint32_t step, const bwd_lane &me)
{
    using S = bwd_smem<C>;
    if (me.leader) {
        gpu::bulk_wait_read<0>();
        if (use > 0 && holds_dout<C>(me)) {
            attn::ring_release<C::DOUT_STAGES>(smem + S::DOUT_RING, step - 1);
        }
        if (use > 0 && holds_q<C>(me)) {
            attn::ring_release<C::Q_STAGES>(smem + S::Q_RING, step - 1);
        }
    }
}

/* Both consumers have. at: the first step of a tile. */
template <class C>
GPU_INLINE void wait_staging(uint32_t smem, const bwd_step &at, const bwd_lane &me)
{
    if constexpr (!C::AHEAD) {
        give_back_staging<C>(smem, at.use, at.step, me);
    }
    gpu::barrier_sync<STAGING_FREE>(BWD_CONSUMERS);
}

/* dV += P^T dO over a part of the queries. */
template <class C>
GPU_INLINE void add_dv(bwd_registers<C> &r, uint32_t smem, const bwd_step &at, int part)
{
    uint64_t dout = operand_mn<C::M>(bwd_dout<C>(smem, at.step));
    gpu::wgmma_fence(r.dv, r.p[part]);
    multiply_rn<typename C::T, C::DV, C::M / C::P_PARTS>(
        r.dv, r.p[part], step_mn(dout, part * C::PART_STEPS), !at.first || part > 0);
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

/* A leader need not be remembered where any lane will do. */
template <int SLOTS>
GPU_INLINE void release_elected(uint32_t ring, uint32_t use)
{
    if (gpu::elect_one()) {
        attn::ring_release<SLOTS>(ring, use);
    }
}

template <class C>
GPU_INLINE bwd_step uniform_step(const bwd_step &at)
{
    return {gpu::shuffle(at.use, 0),
            gpu::shuffle(at.step, 0),
            gpu::shuffle(at.m, 0),
            at.next,
            at.first,
            at.ordered};
}

GPU_INLINE bwd_lane uniform_lane(const bwd_lane &me)
{
    return {gpu::shuffle(me.wg, 0), me.lane, me.warp, me.leader};
}

/* So that no address made of it is kept, in a register, from tile to tile. */
GPU_INLINE bwd_lane forgotten_lane(const bwd_lane &me)
{
    return {gpu::shuffle(me.wg, 0), me.lane, gpu::shuffle(me.warp, 0), me.leader};
}

/* From S^T, issued as the only group, to P^T and dV, which is a group of its own; dP^T runs. What
 * can be is read before the wait: shared memory is busy, an answer takes some 200 cycles. */
template <class C>
GPU_INLINE void begin_step(bwd_registers<C> &r, const bwd_params &p, uint32_t smem, bwd_step &at,
                           const bwd_lane &me)
{
    attn::tile_blocks blocks = attn::tile_read_blocks(bwd_tile<C>(smem, at.use));
    int32_t next = attn::turn_after(blocks, at.m);
    at.next = C::SOFTCAP ? next : gpu::shuffle(next, 0); /* each spills 4 bytes the other way */
    bwd_row_values<C> lse;
    if constexpr (C::DELTA_FIRST) {
        lse = read_rows<C>(bwd_lse<C>(smem, at.step), me);
        begin_dp<C>(r, smem, at.step, me);
    }
    gpu::wgmma_wait<0>(r.s);
    issue_dp<C, C::DELTA_FIRST>(r, p, smem, at, me);
    if constexpr (!C::DELTA_FIRST) {
        lse = read_rows<C>(bwd_lse<C>(smem, at.step), me);
    }
    if (at.m < blocks.clear_first || at.m >= blocks.clear_last) {
        mask_step<C>(r, p, smem, at, me);
    }
#pragma unroll
    for (int part = 0; part < C::P_PARTS; part++) {
        make_p<C>(r, p, lse, part);
        add_dv<C>(r, smem, at, part);
    }
    gpu::wgmma_commit();
}

/*
 * On entry S^T is issued, as the last group. MORE: the next step's is issued here, behind dK, so
 * that the tensor cores have work while dQ is handed over.
 */
template <class C, bool MORE>
GPU_INLINE void step_within(bwd_registers<C> &r, const bwd_params &p, uint32_t smem, bwd_step &at,
                            const bwd_lane &me)
{
    using S = bwd_smem<C>;
    begin_step<C>(r, p, smem, at, me);
    /* Known since dP was issued. It is a branch, over which the compiler does not lift the wait for
     * dP: else the exponentials would start when dP is there. */
    attn::ring_wait_full<C::DOUT_STAGES>(smem + S::DOUT_RING, at.step);
    gpu::wgmma_wait<1>(r.dp);
    bwd_row_values<C> delta = {};
    if constexpr (!C::DELTA_FIRST) {
        delta = read_rows<C>(bwd_delta<C>(smem, at.step), me);
    }
    if (!MORE) {
        release_elected<1>(smem + S::V_RING, at.use);
    }
    make_ds<C>(r, delta);
    if (at.first) {
        wait_staging<C>(smem, at, me);
    }
    store_ds<C>(r, smem, at, me);
    gpu::fence_async_smem();
    gpu::barrier_sync<DS_WRITTEN>(BWD_CONSUMERS);
    issue_dq<C>(r, smem, bwd_k<C>(p, smem, at.use), at.step, me);
    gpu::wgmma_wait<1>(r.dv, r.p);
    release_elected<C::DOUT_STAGES>(smem + S::DOUT_RING, at.step);
    issue_dk<C>(r, smem, at);
    if constexpr (MORE) {
        issue_s<C>(r, p, smem, at.use, at.step + 1, me);
        gpu::wgmma_wait<2>(r.dq);
        store_dq<C>(r, p, smem, at, at.step, me);
        show_dq<C>(smem, at.step, me);
        gpu::wgmma_wait<1>(r.dk, r.ds);
    } else {
        gpu::wgmma_wait<1>(r.dq);
        release_elected<1>(smem + S::K_RING, at.use);
        store_dq<C>(r, p, smem, at, at.step, me);
        show_dq<C>(smem, at.step, me);
        gpu::wgmma_wait<0>(r.dk, r.ds);
    }
    release_elected<C::Q_STAGES>(smem + S::Q_RING, at.step);
}

/* dQ of a step of tile `use` once both consumers' halves of dS are there. */
template <class C>
GPU_INLINE void meet_dq(bwd_registers<C> &r, const bwd_params &p, uint32_t smem, uint32_t use,
                        uint32_t step, const bwd_lane &me)
{
    attn::ring_wait_full<C::DS_STAGES>(smem + bwd_smem<C>::DS_RING, step);
    issue_dq<C>(r, smem, bwd_k<C>(p, smem, use), step, me);
}

/* dQ of a step, finished, leaves the registers; the stage of dS that it was made from is free. */
template <class C>
GPU_INLINE void leave_dq(const bwd_registers<C> &r, const bwd_params &p, uint32_t smem,
                         const bwd_step &at, uint32_t step, const bwd_lane &me)
{
    release_elected<C::DS_STAGES>(smem + bwd_smem<C>::DS_RING, step);
    store_dq<C>(r, p, smem, at, step, me);
}

/* The end of a tile's last step: no S to issue, and no next step to take dQ along. AHEAD: it stays
 * in registers until dK and dV are on their way. */
template <class C>
GPU_INLINE void finish_dq(bwd_registers<C> &r, const bwd_params &p, uint32_t smem,
                          const bwd_step &at, const bwd_lane &me)
{
    using S = bwd_smem<C>;
    meet_dq<C>(r, p, smem, at.use, at.step, me);
    gpu::wgmma_wait<1>(r.dk, r.ds);
    if (!holds_q<C>(me)) {
        release_elected<C::Q_STAGES>(smem + S::Q_RING, at.step);
    }
    gpu::wgmma_wait<0>(r.dq);
    release_elected<1>(smem + S::K_RING, at.use);
    if constexpr (C::AHEAD) {
        release_elected<C::DS_STAGES>(smem + S::DS_RING, at.step);
    } else {
        leave_dq<C>(r, p, smem, at, at.step, me);
        show_dq<C>(smem, at.step, me);
    }
}

/* On entry S^T is issued, as the only group. FIRST: of the tile, no dQ is behind. */
template <class C, bool FIRST, bool MORE>
GPU_INLINE void step_behind(bwd_registers<C> &r, const bwd_params &p, uint32_t smem, bwd_step &at,
                            const bwd_lane &me)
{
    using S = bwd_smem<C>;
    begin_step<C>(r, p, smem, at, me);
    bwd_row_values<C> delta = {};
    if constexpr (C::READ_AHEAD) { /* behind meet_dq it would stand between dQ's products: 2 % */
        delta = read_rows<C>(bwd_delta<C>(smem, at.step), me);
    }
    if constexpr (!FIRST) {
        meet_dq<C>(r, p, smem, at.use, at.step - 1, me);
    }
    /* The stage is needed after dS is made. Here it is also a branch, over which the compiler does
     * not lift the wait for dP: else the exponentials would start when dP is there. */
    attn::ring_wait_empty<C::DS_STAGES>(smem + S::DS_RING, at.step);
    /* Said only where it is used, ptxas may find it between the last two products of dK: dS is
     * shown so much later that d 64 is 3 % slower. */
    uint32_t shown = attn::ring_full<C::DS_STAGES>(smem + S::DS_RING, at.step);
    gpu::wgmma_wait<FIRST ? 1 : 2>(r.dp);
    if constexpr (!C::DELTA_FIRST && !C::READ_AHEAD) {
        delta = read_rows<C>(bwd_delta<C>(smem, at.step), me);
    }
    if (!MORE) {
        release_elected<1>(smem + S::V_RING, at.use);
    }
    make_ds<C>(r, delta);
    if (FIRST) {
        wait_staging<C>(smem, at, me);
    }
    store_ds<C>(r, smem, at, me);
    issue_dk<C>(r, smem, at);
    show_stored(shown);
    gpu::wgmma_wait<FIRST ? 1 : 2>(r.dv, r.p);
    if (MORE || !holds_dout<C>(me)) {
        release_elected<C::DOUT_STAGES>(smem + S::DOUT_RING, at.step);
    }
    if constexpr (!FIRST) {
        gpu::wgmma_wait<1>(r.dq);
        leave_dq<C>(r, p, smem, at, at.step - 1, me);
    }
    if constexpr (MORE) {
        issue_s<C>(r, p, smem, at.use, at.step + 1, me);
    }
    if constexpr (!FIRST) {
        show_dq<C>(smem, at.step - 1, me);
    }
    if constexpr (MORE) {
        gpu::wgmma_wait<1>(r.dk, r.ds);
        release_elected<C::Q_STAGES>(smem + S::Q_RING, at.step);
    } else {
        finish_dq<C>(r, p, smem, at, me);
    }
}

} // namespace sm90

#endif
