/*
 * sm90/bwd_keys: what the kernels for dK and dV of head dims past 128 share (sm90/bwd_roles,
 * sm90/bwd_halves); dQ is a launch of its own (sm90/bwd_queries).
 *
 * Why two launches. With dQ in the same one (4 x 8192, d 256, 2026-11-28, H200) it came to 412
 * TFLOP/s: 476 when shares of dQ were not added in memory, 673 when it was not computed at all. A
 * tile is 64 keys, since dK and dV of more do not fit the registers, and its share of dQ are 64 KB
 * of fp32 in each step of 64 queries, written to shared memory, read again and added in L2.
 * Scores twice are 7 products in place of 5, but two kernels with all registers and shared memory
 * for what they do; and no sum depends on an order: the bits are the same in each launch.
 *
 * Grid and lists as in sm90/bwd. Who waits for whom: one thread each in warps of warpgroup 0, the
 * loader of K and Q, the loader of V and dO, and one that draws tiles.
 *   tiles (2 slots)  records; back from all consumer warps and both loaders
 *   k, v (1 slot)    back when dK, or dV, staged there, has been read by the store
 *   q, dout          with the rows' statistics; back, warp by warp, after the last product of both
 *                    consumers that reads them
 *   p                fragments of P^T from one consumer to the other (roles)
 */
#ifndef SM90_BWD_KEYS_CUH
#define SM90_BWD_KEYS_CUH

#include "gpu/grid.cuh"
#include "sm90/bwd_data.cuh"

namespace sm90
{

/* Where things lie in shared memory. P has the place of what consumers hold of K and V in
 * registers: K's last panels and V's first ones. */
template <class C>
struct keys_smem {
    static constexpr uint32_t K = 0;
    static constexpr uint32_t V = K + C::K_BYTES;
    static constexpr uint32_t Q = V + C::V_BYTES;
    static constexpr uint32_t DOUT = Q + C::Q_STAGES * C::Q_BYTES;
    static constexpr uint32_t DOUT_END = DOUT + C::DOUT_STAGES * C::DOUT_BYTES;
    static constexpr uint32_t HELD_BYTES = tile_bytes(C::N, C::HELD); /* of K, of V as many */
    static constexpr uint32_t P = C::HELD > 0 ? V - HELD_BYTES : DOUT_END;
    static constexpr uint32_t P_END = P + C::P_SLOTS * C::P_BYTES;
    static constexpr uint32_t LSE = C::HELD > 0 ? DOUT_END : P_END;
    static constexpr uint32_t DELTA = LSE + C::Q_STAGES * C::ROW_BYTES;
    static constexpr uint32_t TILES = DELTA + C::DOUT_STAGES * C::ROW_BYTES;
    static constexpr uint32_t TILE_RING = TILES + C::TILE_SLOTS * attn::TILE_BYTES;
    static constexpr uint32_t K_RING = TILE_RING + attn::ring_barriers(C::TILE_SLOTS);
    static constexpr uint32_t V_RING = K_RING + attn::ring_barriers(1);
    static constexpr uint32_t Q_RING = V_RING + attn::ring_barriers(1);
    static constexpr uint32_t DOUT_RING = Q_RING + attn::ring_barriers(C::Q_STAGES);
    static constexpr uint32_t P_RING = DOUT_RING + attn::ring_barriers(C::DOUT_STAGES);
    static constexpr uint32_t MAY_DRAW = P_RING + attn::ring_barriers(C::P_SLOTS);
    static constexpr uint32_t BYTES = MAY_DRAW + gpu::MBARRIER_BYTES;
    static_assert(BYTES <= gpu::SMEM_BYTES, "one CTA has all of an SM");
    static_assert(C::HELD == 0 || C::P_SLOTS * C::P_BYTES <= 2 * HELD_BYTES, "P fits there");
};

template <class C>
GPU_INLINE void keys_init(const bwd_params &p, uint32_t smem)
{
    using S = keys_smem<C>;
    bwd_clear_all<C, S>(p, smem);
    if (gpu::thread_index() == 0) {
        attn::ring_init<C::TILE_SLOTS>(smem + S::TILE_RING, 1, C::CONSUMER_WARPS + C::TILE_READERS);
        attn::ring_init<1>(smem + S::K_RING, 1, C::KEY_WARPS);
        attn::ring_init<1>(smem + S::V_RING, 1, C::KEY_WARPS);
        attn::ring_init<C::Q_STAGES>(smem + S::Q_RING, 1, C::CONSUMER_WARPS);
        attn::ring_init<C::DOUT_STAGES>(smem + S::DOUT_RING, 1, C::CONSUMER_WARPS);
        if constexpr (C::P_SLOTS > 0) {
            attn::ring_init<C::P_SLOTS>(smem + S::P_RING, BWD_WARPS, BWD_WARPS);
        }
        gpu::mbarrier_init(smem + S::MAY_DRAW, 1);
        gpu::mbarrier_init_fence();
    }
    gpu::block_sync();
}

/* One step as a consumer sees it. */
struct keys_step {
    uint32_t use;  /* of the tile's rings */
    uint32_t step; /* of the others */
    int32_t m;     /* query block */
    bool first;    /* of the tile */
};

/* What ptxas must know to be the same in all lanes: see uniform_tile. */
GPU_INLINE keys_step uniform_step(const keys_step &at)
{
    return {gpu::shuffle(at.use, 0), gpu::shuffle(at.step, 0), gpu::shuffle(at.m, 0), at.first};
}

/* d (+)= A B; A: 64 keys by the step's queries, in registers. One group. */
template <class C, int COLUMNS>
GPU_INLINE void keys_add(float (&d)[COLUMNS / 2], uint32_t (&a)[C::M / K_STEP][4], uint32_t queries,
                         bool add)
{
    gpu::wgmma_fence(d, a);
    multiply_rn<typename C::T, COLUMNS, C::M>(d, a, operand_mn<C::M>(queries), add);
    gpu::wgmma_commit();
}

/* Where a thread leaves, or finds, four pieces of 16 bytes. */
struct keys_pieces {
    uint32_t first, stride;
};

/* A slot of P; thread: of those that have pieces in it. */
template <class C>
GPU_INLINE keys_pieces keys_p(uint32_t smem, uint32_t slot, int thread)
{
    return {smem + keys_smem<C>::P + slot * C::P_BYTES + static_cast<uint32_t>(thread) * 16,
            C::P_BYTES / (C::M / K_STEP)};
}

/* Scores to probabilities, packed as an operand. lse: of the step's rows. LEAVE: what dP - delta is
 * to be multiplied with (with a softcap another number) goes to shared memory. */
template <class C, bool LEAVE>
GPU_INLINE void keys_make_p(float (&s)[C::M / 2], uint32_t (&packed)[C::M / K_STEP][4],
                            const bwd_params &p, uint32_t lse, keys_pieces target)
{
    lse += static_cast<uint32_t>(gpu::lane_index() % 4) * 8;
#pragma unroll
    for (int k = 0; k < C::M / K_STEP; k++) {
        uint32_t factor[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int j = 2 * k + i / 2;
            gpu::f32x2 shift = gpu::smem_load<gpu::f32x2>(lse + static_cast<uint32_t>(j) * 32);
            float *x = &s[4 * j + i % 2 * 2];
            float low = attn::probability<C::SOFTCAP>(x[0], p, shift.x);
            float high = attn::probability<C::SOFTCAP>(x[1], p, shift.y);
            packed[k][i] = gpu::pack<typename C::T>(low, high);
            factor[i] = C::SOFTCAP ? gpu::pack<typename C::T>(x[0], x[1]) : packed[k][i];
        }
        if constexpr (LEAVE) {
            gpu::smem_store(target.first + static_cast<uint32_t>(k) * target.stride,
                            gpu::u32x4{factor[0], factor[1], factor[2], factor[3]});
        }
    }
}

/* dS^T = factor (dP^T - delta), packed as an operand. FOUND: factors are in shared memory, else
 * they are P^T. delta: of the step's rows. */
template <class C, bool FOUND>
GPU_INLINE void keys_make_ds(const float (&dp)[C::M / 2], uint32_t (&ds)[C::M / K_STEP][4],
                             const uint32_t (&p)[C::M / K_STEP][4], uint32_t delta,
                             keys_pieces source)
{
    delta += static_cast<uint32_t>(gpu::lane_index() % 4) * 8;
#pragma unroll
    for (int k = 0; k < C::M / K_STEP; k++) {
        gpu::u32x4 word = {p[k][0], p[k][1], p[k][2], p[k][3]};
        if constexpr (FOUND) {
            word =
                gpu::smem_load<gpu::u32x4>(source.first + static_cast<uint32_t>(k) * source.stride);
        }
        const uint32_t factor[4] = {word.x, word.y, word.z, word.w};
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int j = 2 * k + i / 2;
            gpu::f32x2 d = gpu::smem_load<gpu::f32x2>(delta + static_cast<uint32_t>(j) * 32);
            gpu::f32x2 f = gpu::unpack<typename C::T>(factor[i]);
            const float *x = &dp[4 * j + i % 2 * 2];
            ds[k][i] = gpu::pack<typename C::T>(f.x * (x[0] - d.x), f.y * (x[1] - d.y));
        }
    }
}

/* Masked scores of 64 keys, this thread's first being `key`. */
template <class C>
GPU_INLINE void keys_mask(float (&s)[C::M / 2], const bwd_params &p, uint32_t tile,
                          int32_t first_key, int32_t m)
{
    attn::tile_blocks blocks = attn::tile_read_blocks(tile);
    if (m < blocks.clear_first || m >= blocks.clear_last) {
        int lane = gpu::lane_index();
        int32_t key = first_key + gpu::warp_index() % BWD_WARPS * BWD_WARP_ROWS + lane / 4;
        attn::mask_fragment<C::M>(s, lane, attn::queries_of<C::M>(p, tile, key, m),
                                  attn::queries_of<C::M>(p, tile, key + 8, m));
    }
}

template <class C>
GPU_INLINE keys_step keys_start(const bwd_params &p, uint32_t smem, uint32_t use, uint32_t step)
{
    uint32_t tile = bwd_tile<C, keys_smem<C>>(smem, use);
    return uniform_step({use, step, attn::turn_start<C::N>(p.order, tile), true});
}

template <class C>
GPU_INLINE keys_step keys_after(uint32_t smem, const keys_step &at)
{
    uint32_t tile = bwd_tile<C, keys_smem<C>>(smem, at.use);
    return uniform_step(
        {at.use, at.step + 1, attn::turn_after(attn::tile_read_blocks(tile), at.m), false});
}

template <class C>
GPU_INLINE int32_t keys_count(const bwd_params &p, uint32_t smem, uint32_t use)
{
    attn::tile_blocks blocks = attn::tile_read_blocks(bwd_tile<C, keys_smem<C>>(smem, use));
    return (blocks.last - blocks.first) * p.group;
}

/* Waits for a record; false: it is the end mark. */
template <class C>
GPU_INLINE bool keys_next(uint32_t smem, uint32_t use)
{
    using S = keys_smem<C>;
    attn::ring_wait_full<C::TILE_SLOTS>(smem + S::TILE_RING, use);
    return attn::tile_read_place(bwd_tile<C, S>(smem, use)).rows != 0;
}

/* ---- the threads of warpgroup 0 ---- */

/* K of a tile, or V, in boxes of 64 keys, as those who make dQ load them. A box that would begin
 * beyond the sequence, an illegal address, is the first one again: keys that are not there are
 * masked. */
template <class C, int COLUMNS>
GPU_INLINE void keys_load(uint32_t tile, uint32_t use, const gpu::tensor_map *map, int32_t columns,
                          uint32_t ring, uint32_t target)
{
    attn::tile_place place = attn::tile_read_place(tile);
    attn::tile_side k = attn::tile_read_k(tile);
    uint32_t full = attn::ring_full<1>(ring, use);
    attn::ring_wait_empty<1>(ring, use);
    gpu::mbarrier_arrive_expect(full, tile_bytes(C::N, columns));
#pragma unroll
    for (int box = 0; box < C::N; box += BWD_WG_ROWS) {
        int32_t row = place.row + box < k.len ? place.row + box : place.row;
        uint32_t rows = target + static_cast<uint32_t>(box) * PANEL_ROW;
#pragma unroll
        for (int c = 0; c < COLUMNS; c += PANEL) {
            if (c < columns) {
                gpu::tma_load(rows + tile_bytes(C::N, c), map, full, gpu::l2::evict_first, c,
                              gpu::ragged_row(k.len, row), place.head,
                              gpu::ragged_shift(k.first, k.len));
            }
        }
    }
}

template <class C>
GPU_INLINE void keys_load_q(const bwd_params &p, uint32_t smem)
{
    using S = keys_smem<C>;
    uint32_t step = 0;
    for (uint32_t use = 0; keys_next<C>(smem, use); use++) {
        uint32_t tile = bwd_tile<C, S>(smem, use);
        const bwd_set *set = attn::backward_set_of(p, attn::tile_read_place(tile).set);
        keys_load<C, C::D>(tile, use, &set->k, p.d, smem + S::K_RING, smem + S::K);
        step = load_queries<C, S>(p, smem, tile, tour_start<C>(p, tile), step);
        gpu::mbarrier_arrive(smem + S::MAY_DRAW);
        attn::ring_release<C::TILE_SLOTS>(smem + S::TILE_RING, use);
    }
}

template <class C>
GPU_INLINE void keys_load_dout(const bwd_params &p, uint32_t smem)
{
    using S = keys_smem<C>;
    uint32_t step = 0;
    for (uint32_t use = 0; keys_next<C>(smem, use); use++) {
        uint32_t tile = bwd_tile<C, S>(smem, use);
        const bwd_set *set = attn::backward_set_of(p, attn::tile_read_place(tile).set);
        keys_load<C, C::DV>(tile, use, &set->v, p.dv, smem + S::V_RING, smem + S::V);
        step = load_douts<C, S>(p, smem, tile, tour_start<C>(p, tile), step);
        attn::ring_release<C::TILE_SLOTS>(smem + S::TILE_RING, use);
    }
}

template <class C>
GPU_INLINE void keys_serve(const bwd_params &p, uint32_t smem)
{
    gpu::registers_give<C::LOADER_REGISTERS>();
    int warp = gpu::warp_index();
    if (warp == 0 && gpu::elect_one()) {
        keys_load_q<C>(p, smem);
    } else if (warp == 1 && gpu::elect_one()) {
        keys_load_dout<C>(p, smem);
    } else if (warp == 3 && gpu::elect_one()) {
        attn::draw_all<C, keys_smem<C>>(p, smem);
    }
}

} // namespace sm90

#endif
