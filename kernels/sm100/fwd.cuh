/*
 * sm100/fwd: the forward pass on Blackwell.
 *
 * Grid: as many CTAs as SMs (or tiles, if fewer). Each takes tiles from the plan's list, the first
 * by its number, the next ones from a counter, until it meets an end mark. A tile is one or two
 * halves of 128 query rows of one head; its key blocks of 128 are walked from the last to the
 * first. Scores S, probabilities P (in the upper half of the columns of S) and O live in tensor
 * memory, a row to a lane.
 *
 *   softmax      a warpgroup for each half, a thread for each row: S to P
 *   correction   a warpgroup: O shrinks when a row's reference moves (sm100/row); O to memory
 *   multiplier   one thread: S = Q K^T, O += P V, for both halves in turn, across tiles
 *   loader       one thread: tile records, Q, K, V
 *
 * Who waits for whom:
 *   tiles     (4 slots)  loader -> all; back from each warp that reads it, and the multiplier
 *   q         (1 slot)   loader -> multiplier; back when the tile's last S is done
 *   kv        (ring)     loader -> multiplier: K and V of a block in turn; back by commit
 *   scores    per half   multiplier -> softmax, by commit: S is there, and every product before it
 *   ready     per half   softmax -> multiplier: S is read, P is there; correction -> multiplier: O
 *                        is at the reference of that P, or free for a new tile
 *   message   per warp   softmax -> correction: a factor for each row, at the end the last one.
 *                        Two slots; the way back is the next round of ready and scores
 *   done      per half   multiplier -> correction, by commit: the tile's O is complete
 *
 * While one half is in its softmax the products of the other run. The multiplier issues S(next) of
 * a half right behind its O += P V, also when next is in the next tile; that products of one thread
 * run in the order of issue is what keeps P, which S(next) overwrites, until it is used.
 *
 * Per pair of 128 x 128 blocks at d 128, in cycles of an SM: products 2048 (16.8 MFLOP at 8192 a
 * cycle), exponentials 2048 if all on MUFU (16 a cycle), 1536 with a quarter of them on the FMA
 * units, shared memory 1536 (128 bytes a cycle: Q and K 64 KB, V 32 KB, for each half). Bound: the
 * tensor cores, if each softmax warpgroup keeps its chain (wait, load, maximum, exponentials,
 * store) under 2048 cycles. At d 64 products are 1024, exponentials still 1536: MUFU bound, with
 * FMA. With a softcap MUFU takes 3600 and binds up to d 192. Proven in simulation, never timed: the
 * project has had no such GPU. sm100/report.md has what the machine code says.
 */
#ifndef SM100_FWD_CUH
#define SM100_FWD_CUH

#include "common/forward.cuh"
#include "common/mask.cuh"
#include "common/ring.cuh"
#include "common/tile.cuh"
#include "gpu/barrier.cuh"
#include "gpu/bulk.cuh"
#include "gpu/fence.cuh"
#include "gpu/global.cuh"
#include "gpu/index.cuh"
#include "gpu/registers.cuh"
#include "gpu/smem.cuh"
#include "gpu/tma.cuh"
#include "gpu/warp.cuh"
#include "sm100/row.cuh"
#include "sm100/tiles.cuh"

namespace sm100
{

using fwd_set = attn::forward_set;
using fwd_params = attn::forward_params;

constexpr int WARP = 32;
constexpr int WG_WARPS = 4;
constexpr int WARPGROUP = WG_WARPS * WARP;

template <typename TYPE, int DIM, int DIM_V, int TILE_HALVES, bool CAPPED>
struct fwd_config {
    using T = TYPE;
    static constexpr int D = DIM, DV = DIM_V; /* tensors may be narrower */
    static constexpr int HALVES = TILE_HALVES;
    static constexpr int M = HALVES * TILE_ROWS; /* query rows of a tile */
    static constexpr int N = 128;                /* keys of a block */
    static constexpr bool SOFTCAP = CAPPED;
    /* Warpgroups: one softmax for each half, correction, the single threads. */
    static constexpr int CORRECTION = HALVES, SINGLES = HALVES + 1;
    static constexpr int THREADS = (HALVES + 2) * WARPGROUP;
    /* Sums are what a block is launched with, 4 * 128 or 3 * 168. With a softcap 64 spill 4 bytes.
     */
    static constexpr int SOFTMAX_REGISTERS = HALVES == 1 ? 240 : CAPPED && D <= 128 ? 200 : 192;
    static constexpr int CORRECTION_REGISTERS = HALVES == 1 ? 168 : CAPPED && D <= 128 ? 56 : 64;
    static constexpr int SINGLE_REGISTERS = HALVES == 1 ? 96 : CORRECTION_REGISTERS;
    static_assert(HALVES * SOFTMAX_REGISTERS + CORRECTION_REGISTERS + SINGLE_REGISTERS ==
                      (HALVES == 1 ? 504 : 512),
                  "registers move between warpgroups, none is made");
    static constexpr uint32_t Q_BYTES = tile_bytes(M, D);
    static constexpr uint32_t K_BYTES = tile_bytes(N, D), V_BYTES = tile_bytes(N, DV);
    static constexpr uint32_t KV_BYTES = K_BYTES > V_BYTES ? K_BYTES : V_BYTES;
    /* O leaves panel by panel, each warp its rows. */
    static constexpr int O_SLOTS = 2;
    static constexpr uint32_t O_BYTES = WARP * PANEL_ROW;
    static constexpr uint32_t O_ALL = WG_WARPS * O_SLOTS * O_BYTES;
    static constexpr int TILE_SLOTS = 4;
    static constexpr uint32_t TILE_READERS = HALVES * WG_WARPS + WG_WARPS + 1;
    static constexpr int MESSAGE_SLOTS = 2;
    static constexpr uint32_t MESSAGE_BYTES = WARP * sizeof(float);
    static constexpr uint32_t SMALL_BYTES = 3072; /* everything but Q, K, V and O */
    static constexpr int STAGES =
        static_cast<int>((gpu::SMEM_BYTES - Q_BYTES - O_ALL - SMALL_BYTES) / KV_BYTES);
    static_assert(STAGES >= 2, "S(next) wants K while O wants V");
    static_assert(N == 4 * CHUNK, "a row of scores is four loads");
    static_assert(DV % CHUNK == 0, "and one of O any number");
};

/* Where things lie in shared memory. */
template <class C>
struct fwd_smem {
    static constexpr uint32_t Q = 0;
    static constexpr uint32_t KV = C::Q_BYTES;
    static constexpr uint32_t O = KV + C::STAGES * C::KV_BYTES;
    static constexpr uint32_t MESSAGES = O + C::O_ALL;
    static constexpr uint32_t WARP_MESSAGES = C::MESSAGE_SLOTS * C::MESSAGE_BYTES;
    static constexpr uint32_t TILES = MESSAGES + C::HALVES * WG_WARPS * WARP_MESSAGES;
    static constexpr uint32_t TILE_RING = TILES + C::TILE_SLOTS * attn::TILE_BYTES;
    static constexpr uint32_t Q_RING = TILE_RING + attn::ring_barriers(C::TILE_SLOTS);
    static constexpr uint32_t KV_RING = Q_RING + attn::ring_barriers(1);
    static constexpr uint32_t SCORES = KV_RING + attn::ring_barriers(C::STAGES);
    static constexpr uint32_t READY = SCORES + C::HALVES * gpu::MBARRIER_BYTES;
    static constexpr uint32_t DONE = READY + C::HALVES * gpu::MBARRIER_BYTES;
    static constexpr uint32_t MESSAGE = DONE + C::HALVES * gpu::MBARRIER_BYTES;
    static constexpr uint32_t WARP_MESSAGE = C::MESSAGE_SLOTS * gpu::MBARRIER_BYTES;
    static constexpr uint32_t TENSOR = MESSAGE + C::HALVES * WG_WARPS * WARP_MESSAGE;
    static constexpr uint32_t BYTES = TENSOR + 16;
    static_assert(BYTES - MESSAGES <= C::SMALL_BYTES, "what STAGES left");
    static_assert(BYTES <= gpu::SMEM_BYTES, "one CTA has all of an SM");
};

/* Columns of tensor memory. */
template <class C>
struct fwd_tensor {
    static constexpr uint32_t S = 0;        /* of half 0; each has N */
    static constexpr uint32_t P = C::N / 2; /* in S: pairs of its upper half */
    static constexpr uint32_t O = C::HALVES * C::N;
    static constexpr uint32_t USED = O + C::HALVES * C::DV;
    static constexpr int COLUMNS = USED <= 256 ? 256 : 512;
    static_assert(USED <= gpu::TMEM_COLUMNS, "all there is");
};

template <class C>
GPU_BOTH uint32_t scores_column(int half)
{
    return fwd_tensor<C>::S + static_cast<uint32_t>(half) * C::N;
}

template <class C>
GPU_BOTH uint32_t sums_column(int half)
{
    return fwd_tensor<C>::O + static_cast<uint32_t>(half) * C::DV;
}

/* Barrier of one of the rows per half: SCORES, READY, DONE. */
GPU_BOTH uint32_t half_barrier(uint32_t row, int half)
{
    return row + static_cast<uint32_t>(half) * gpu::MBARRIER_BYTES;
}

template <class C>
GPU_INLINE void fwd_barriers(uint32_t smem)
{
    using S = fwd_smem<C>;
    attn::ring_init<C::TILE_SLOTS>(smem + S::TILE_RING, 1, C::TILE_READERS);
    attn::ring_init<1>(smem + S::Q_RING, 1, 1);
    attn::ring_init<C::STAGES>(smem + S::KV_RING, 1, 1);
    for (int half = 0; half < C::HALVES; half++) {
        gpu::mbarrier_init(half_barrier(smem + S::SCORES, half), 1);
        gpu::mbarrier_init(half_barrier(smem + S::READY, half), 2 * WG_WARPS);
        gpu::mbarrier_init(half_barrier(smem + S::DONE, half), 1);
    }
    for (int i = 0; i < C::HALVES * WG_WARPS * C::MESSAGE_SLOTS; i++) {
        gpu::mbarrier_init(half_barrier(smem + S::MESSAGE, i), 1);
    }
    gpu::mbarrier_init_fence();
}

/* Returns the first column of the block's tensor memory. */
template <class C>
GPU_INLINE uint32_t fwd_init(uint32_t smem)
{
    using S = fwd_smem<C>;
    if (gpu::thread_index() == 0) {
        fwd_barriers<C>(smem);
    }
    if (gpu::warp_index() == C::SINGLES * WG_WARPS) {
        gpu::tmem_take<fwd_tensor<C>::COLUMNS>(smem + S::TENSOR);
        gpu::tmem_take_no_more();
    }
    gpu::block_sync();
    return gpu::smem_load<uint32_t>(smem + S::TENSOR);
}

template <class C>
GPU_INLINE uint32_t fwd_tile(uint32_t smem, uint32_t use)
{
    return smem + fwd_smem<C>::TILES + attn::ring_slot<C::TILE_SLOTS>(use) * attn::TILE_BYTES;
}

template <class C>
GPU_INLINE uint32_t fwd_kv(uint32_t smem, uint32_t use)
{
    return smem + fwd_smem<C>::KV + attn::ring_slot<C::STAGES>(use) * C::KV_BYTES;
}

/* Halves of a tile that have rows; 0: an end mark. */
template <class C>
GPU_INLINE int fwd_halves(uint32_t tile)
{
    int32_t rows = attn::tile_read_place(tile).rows;
    return (rows + TILE_ROWS - 1) / TILE_ROWS;
}

/* ---- loader: one thread ---- */

/* The list, as one CTA draws from it: the record that comes next is known one tile ahead. */
struct fwd_draw {
    int32_t next; /* number in the list; tile_count and up: an end mark, nothing comes after */
};

template <class C>
GPU_INLINE void draw_record(const fwd_params &p, uint32_t smem, uint32_t use, fwd_draw &draw)
{
    using S = fwd_smem<C>;
    uint32_t full = attn::ring_full<C::TILE_SLOTS>(smem + S::TILE_RING, use);
    attn::ring_wait_empty<C::TILE_SLOTS>(smem + S::TILE_RING, use);
    gpu::mbarrier_arrive_expect(full, attn::TILE_BYTES);
    gpu::bulk_load(fwd_tile<C>(smem, use), p.tiles + draw.next, attn::TILE_BYTES, full);
    if (draw.next < p.tile_count) {
        draw.next = gpu::grid_x() + gpu::atomic_add(p.counter, 1);
    } else if (draw.next == p.tile_count + gpu::grid_x() - 1) {
        gpu::global_store(p.counter, 0); /* the last draw of the launch */
    }
}

/* A box but for its panel. */
struct fwd_rows {
    const gpu::tensor_map *map;
    int32_t row, head, shift;
};

/* The panels that hold a tensor of `columns` columns: one that lies wholly beyond is not touched.
 */
template <int ROWS, int COLUMNS>
GPU_INLINE void load_panels(const fwd_rows &rows, int32_t columns, uint32_t target, uint32_t full,
                            gpu::l2 hint)
{
    gpu::mbarrier_arrive_expect(full, tile_bytes(ROWS, columns));
#pragma unroll
    for (int c = 0; c < COLUMNS; c += PANEL) {
        if (c < columns) {
            gpu::tma_load(target + tile_bytes(ROWS, c), rows.map, full, hint, c, rows.row,
                          rows.head, rows.shift);
        }
    }
}

/* COLUMNS: at most; columns: of the tensor. */
template <class C, int COLUMNS>
GPU_INLINE void load_kv(uint32_t smem, uint32_t use, const fwd_rows &rows, int32_t columns)
{
    uint32_t ring = smem + fwd_smem<C>::KV_RING;
    attn::ring_wait_empty<C::STAGES>(ring, use);
    load_panels<C::N, COLUMNS>(rows, columns, fwd_kv<C>(smem, use),
                               attn::ring_full<C::STAGES>(ring, use), gpu::l2::evict_last);
}

template <class C>
GPU_INLINE void load_q(const fwd_params &p, const fwd_set *set, uint32_t smem, uint32_t use)
{
    uint32_t ring = smem + fwd_smem<C>::Q_RING;
    attn::tile_place place = attn::tile_read_place(fwd_tile<C>(smem, use));
    attn::tile_side q = attn::tile_read_q(fwd_tile<C>(smem, use));
    fwd_rows rows = {&set->q, gpu::ragged_row(q.len, place.row), place.head,
                     gpu::ragged_shift(q.first, q.len)};
    attn::ring_wait_empty<1>(ring, use);
    load_panels<C::M, C::D>(rows, p.d, smem + fwd_smem<C>::Q, attn::ring_full<1>(ring, use),
                            gpu::l2::evict_first);
}

/* Blocks in the order of use. K of a tile's first block does not wait for the Q slot. */
template <class C>
GPU_INLINE void load_all(const fwd_params &p, uint32_t smem)
{
    fwd_draw draw = {gpu::block_x()};
    uint32_t kv = 0;
    draw_record<C>(p, smem, 0, draw);
    for (uint32_t use = 0;; use++) {
        attn::ring_wait_full<C::TILE_SLOTS>(smem + fwd_smem<C>::TILE_RING, use);
        attn::tile_place place = attn::tile_read_place(fwd_tile<C>(smem, use));
        if (place.rows == 0) {
            return;
        }
        draw_record<C>(p, smem, use + 1, draw);
        const fwd_set *set = attn::forward_set_of(p, place.set);
        attn::tile_blocks blocks = attn::tile_read_blocks(fwd_tile<C>(smem, use));
        attn::tile_side keys = attn::tile_read_k(fwd_tile<C>(smem, use));
        fwd_rows k = {&set->k, 0, place.head / p.group, gpu::ragged_shift(keys.first, keys.len)};
        fwd_rows v = {&set->v, 0, k.head, k.shift};
        for (int32_t n = blocks.last - 1; n >= blocks.first; n--, kv += 2) {
            k.row = v.row = gpu::ragged_row(keys.len, n * C::N);
            load_kv<C, C::D>(smem, kv, k, p.d);
            if (n == blocks.last - 1) {
                load_q<C>(p, set, smem, use);
            }
            load_kv<C, C::DV>(smem, kv + 1, v, p.dv);
        }
    }
}

/* ---- multiplier: one thread ---- */

/* One tile as the multiplier sees it. */
struct fwd_work {
    uint32_t use;
    int halves; /* 0: the end */
    int32_t blocks;
};

/* What stays the same for a launch. */
struct fwd_products {
    uint32_t smem, tensor;
    uint32_t scores, sums; /* instruction descriptors */
    int steps;             /* of the reduction of Q K^T */
};

template <class C>
GPU_INLINE fwd_products fwd_products_of(const fwd_params &p, uint32_t smem, uint32_t tensor)
{
    constexpr bool bf16 = gpu::element_of<typename C::T>::value == gpu::element::bf16;
    uint32_t columns = static_cast<uint32_t>((p.dv + CHUNK - 1) / CHUNK * CHUNK);
    return {smem, tensor, gpu::tcgen05_instruction(bf16, TILE_ROWS, C::N, major::k, major::k),
            gpu::tcgen05_instruction(bf16, TILE_ROWS, columns, major::k, major::mn), steps_of(p.d)};
}

template <class C>
GPU_INLINE fwd_work take_work(uint32_t smem, uint32_t use)
{
    uint32_t ring = smem + fwd_smem<C>::TILE_RING, tile = fwd_tile<C>(smem, use);
    attn::ring_wait_full<C::TILE_SLOTS>(ring, use);
    attn::tile_blocks blocks = attn::tile_read_blocks(tile);
    fwd_work work = {use, fwd_halves<C>(tile), blocks.last - blocks.first};
    attn::ring_release<C::TILE_SLOTS>(ring, use);
    return work;
}

/* S of one half = Q K^T; use: of K. */
template <class C>
GPU_INLINE void multiply_scores(const fwd_products &m, uint32_t use, int half)
{
    using S = fwd_smem<C>;
    multiply_panels<C::M, C::N>(m.tensor + scores_column<C>(half),
                                operand_k(m.smem + S::Q, half * TILE_ROWS),
                                operand_k(fwd_kv<C>(m.smem, use)), m.scores, m.steps);
    gpu::tcgen05_commit(half_barrier(m.smem + S::SCORES, half));
}

/* O of one half (+)= P V; use: of V. */
template <class C>
GPU_INLINE void multiply_values(const fwd_products &m, uint32_t use, int half, bool add)
{
    multiply_tensor<0, C::N / K_STEP>(m.tensor + sums_column<C>(half),
                                      m.tensor + scores_column<C>(half) + fwd_tensor<C>::P,
                                      operand_mn<C::N>(fwd_kv<C>(m.smem, use)), m.sums, add);
}

/* K of a tile's block is there, before the first block also Q. */
template <class C>
GPU_INLINE void wait_operands(const fwd_products &m, const fwd_work &work, uint32_t use, bool first)
{
    using S = fwd_smem<C>;
    if (first) {
        attn::ring_wait_full<1>(m.smem + S::Q_RING, work.use);
    }
    attn::ring_wait_full<C::STAGES>(m.smem + S::KV_RING, use);
    gpu::tcgen05_fence_after();
}

/* Everything issued so far ends before the loader fills this slot again. */
template <class C>
GPU_INLINE void free_stage(const fwd_products &m, uint32_t use)
{
    gpu::tcgen05_commit(attn::ring_empty<C::STAGES>(m.smem + fwd_smem<C>::KV_RING, use));
}

/*
 * One block of work: O += P V of each half, then the S of that half that comes next, which is
 * block next_block of next. k: use of the K for it; V of the block at hand is the use before.
 */
template <class C>
GPU_INLINE void multiply_block(const fwd_products &m, const fwd_work &work, int32_t block,
                               const fwd_work &next, int32_t next_block, uint32_t k,
                               uint32_t (&ready)[C::HALVES])
{
    using S = fwd_smem<C>;
    if (work.halves > 0) {
        attn::ring_wait_full<C::STAGES>(m.smem + S::KV_RING, k - 1);
    }
#pragma unroll
    for (int half = 0; half < C::HALVES; half++) {
        if (half < work.halves) {
            gpu::mbarrier_wait(half_barrier(m.smem + S::READY, half), ++ready[half]);
            gpu::tcgen05_fence_after();
            multiply_values<C>(m, k - 1, half, block > 0);
            if (block + 1 == work.blocks) {
                gpu::tcgen05_commit(half_barrier(m.smem + S::DONE, half));
            }
        }
        if (half < next.halves) {
            if (half == 0) {
                wait_operands<C>(m, next, k, next_block == 0);
            }
            multiply_scores<C>(m, k, half);
        }
    }
}

template <class C>
GPU_INLINE void multiply_all(const fwd_params &p, uint32_t smem, uint32_t tensor)
{
    fwd_products m = fwd_products_of<C>(p, smem, tensor);
    uint32_t ready[C::HALVES] = {};
    fwd_work work = {~0u, 0, 0}; /* nothing, before the first tile */
    int32_t block = -1;
    for (uint32_t k = 0;; k += 2) {
        bool last = block + 1 == work.blocks;
        fwd_work next = last ? take_work<C>(smem, work.use + 1) : work;
        int32_t next_block = last ? 0 : block + 1;
        multiply_block<C>(m, work, block, next, next_block, k, ready);
        if (next.halves == 0) {
            return; /* the last stage stays taken: nobody would wait for a commit issued here */
        }
        if (work.halves > 0) {
            free_stage<C>(m, k - 1);
        }
        free_stage<C>(m, k);
        if (next_block + 1 == next.blocks) {
            gpu::tcgen05_commit(attn::ring_empty<1>(smem + fwd_smem<C>::Q_RING, next.use));
        }
        work = next;
        block = next_block;
    }
}

/* ---- softmax and correction: a row each ---- */

/* This thread's place. Who leads its warp is asked where it matters (elect_one is one instruction):
 * kept through the softmax it was one register too many with a softcap. */
struct fwd_lane {
    int warp; /* of the warpgroup: rows and lanes of tensor memory from 32 warp on */
    int lane;
};

template <class C>
GPU_INLINE uint32_t message_barrier(uint32_t smem, int half, const fwd_lane &me, uint32_t use)
{
    uint32_t ring = smem + fwd_smem<C>::MESSAGE +
                    static_cast<uint32_t>(half * WG_WARPS + me.warp) * fwd_smem<C>::WARP_MESSAGE;
    return attn::ring_full<C::MESSAGE_SLOTS>(ring, use);
}

template <class C>
GPU_INLINE uint32_t message_address(uint32_t smem, int half, const fwd_lane &me, uint32_t use)
{
    return smem + fwd_smem<C>::MESSAGES +
           static_cast<uint32_t>(half * WG_WARPS + me.warp) * fwd_smem<C>::WARP_MESSAGES +
           attn::ring_slot<C::MESSAGE_SLOTS>(use) * C::MESSAGE_BYTES +
           static_cast<uint32_t>(me.lane) * sizeof(float);
}

/* Each lane's number to the correction's lane of the same row. */
template <class C>
GPU_INLINE void message_send(uint32_t smem, int half, const fwd_lane &me, uint32_t use, float value)
{
    gpu::smem_store(message_address<C>(smem, half, me, use), value);
    gpu::warp_sync();
    if (gpu::elect_one()) {
        gpu::mbarrier_arrive(message_barrier<C>(smem, half, me, use));
    }
}

template <class C>
GPU_INLINE float message_take(uint32_t smem, int half, const fwd_lane &me, uint32_t use)
{
    gpu::mbarrier_wait(message_barrier<C>(smem, half, me, use), use / C::MESSAGE_SLOTS + 1);
    return gpu::smem_load<float>(message_address<C>(smem, half, me, use));
}

/* The warp's accesses to tensor memory are done: one of the arrivals that make a half ready. */
template <class C>
GPU_INLINE void arrive_ready(uint32_t smem, int half)
{
    gpu::tcgen05_fence_before();
    gpu::warp_sync();
    if (gpu::elect_one()) {
        gpu::mbarrier_arrive(half_barrier(smem + fwd_smem<C>::READY, half));
    }
}

template <class C>
GPU_INLINE void release_tile(uint32_t smem, uint32_t use)
{
    gpu::warp_sync(); /* no lane still reads it */
    if (gpu::elect_one()) {
        attn::ring_release<C::TILE_SLOTS>(smem + fwd_smem<C>::TILE_RING, use);
    }
}

/* ---- softmax: one warpgroup for a half ---- */

struct fwd_softmax {
    uint32_t smem, lanes; /* lanes: of S, this warp's */
    int half;
    uint32_t blocks, messages; /* how many so far */
    attn::key_range seen;      /* by this row */
    row_state row;
};

/* Scores of key block n to probabilities. */
template <class C, bool FIRST, bool MASKED>
GPU_INLINE void softmax_block(fwd_softmax &x, const fwd_params &p, int32_t n, const fwd_lane &me)
{
    float s[C::N / CHUNK][CHUNK];
    gpu::mbarrier_wait(half_barrier(x.smem + fwd_smem<C>::SCORES, x.half), ++x.blocks);
    gpu::tcgen05_fence_after();
#pragma unroll
    for (int c = 0; c < C::N / CHUNK; c++) {
        gpu::tmem_load(s[c], x.lanes + static_cast<uint32_t>(c * CHUNK));
    }
    gpu::tmem_load_wait(s[0], s[1], s[2], s[3]);
    if constexpr (C::SOFTCAP) {
        row_softcap(s, p.cap_inner);
    }
    if constexpr (MASKED) {
        row_mask(s, {x.seen.first - n * C::N, x.seen.last - n * C::N});
    }
    row_change change = row_advance<C::N / CHUNK, FIRST, MASKED>(s, x.row, p.scale_log2);
    if constexpr (!FIRST) {
        message_send<C>(x.smem, x.half, me, x.messages++, change.factor);
        gpu::tcgen05_fence_after(); /* the lanes met there */
    }
#pragma unroll
    for (int c = 0; c < C::N / CHUNK; c++) {
        uint32_t pairs[CHUNK / 2];
        row_exponentials<!FIRST && !MASKED>(s[c], p.scale_log2, change.shift);
        row_pack<typename C::T>(pairs, s[c]);
        gpu::tmem_store(x.lanes + fwd_tensor<C>::P + static_cast<uint32_t>(c * CHUNK / 2), pairs);
    }
    gpu::tmem_store_wait();
    arrive_ready<C>(x.smem, x.half);
    float sum = row_sum(s); /* behind the arrival: the multiplier has no use for it */
    x.row.sum = FIRST ? sum : x.row.sum * change.factor + sum;
}

/* LSE goes out from here, the factor that turns the sums of O into the result as the last message.
 * Rows between length and span count as rows that see no key. */
template <class C>
GPU_INLINE void softmax_finish(fwd_softmax &x, const fwd_params &p, uint32_t tile,
                               const fwd_lane &me)
{
    attn::tile_place place = attn::tile_read_place(tile);
    attn::tile_side q = attn::tile_read_q(tile);
    const fwd_set *set = attn::forward_set_of(p, place.set);
    float sink =
        set->sink != nullptr ? gpu::global_load<float>(set->sink + place.head) : -gpu::infinity();
    int32_t row = place.row + x.half * TILE_ROWS + me.warp * WARP + me.lane;
    attn::softmax_result result =
        attn::softmax_finish_row(x.row.top, x.row.sum, p.scale_log2, sink);
    bool unused = row >= q.len;
    message_send<C>(x.smem, x.half, me, x.messages++, unused ? 0.0f : result.scale);
    gpu::global_store_if(row < q.span,
                         set->lse + place.head * set->lse_head_stride +
                             (int64_t{q.first} + row) * set->lse_row_stride,
                         unused ? -gpu::infinity() : result.lse);
}

template <class C>
GPU_INLINE void softmax_tile(fwd_softmax &x, const fwd_params &p, uint32_t tile, const fwd_lane &me)
{
    attn::tile_blocks blocks = attn::tile_read_blocks(tile);
    int32_t row = attn::tile_read_place(tile).row + x.half * TILE_ROWS + me.warp * WARP + me.lane;
    x.seen = attn::mask_row(p.reach, row, attn::tile_read_q(tile).len, attn::tile_read_k(tile).len);
    int32_t n = blocks.last - 1;
    softmax_block<C, true, true>(x, p, n--, me);
    for (; n >= blocks.clear_last; n--) {
        softmax_block<C, false, true>(x, p, n, me);
    }
    for (; n >= blocks.clear_first; n--) {
        softmax_block<C, false, false>(x, p, n, me);
    }
    for (; n >= blocks.first; n--) {
        softmax_block<C, false, true>(x, p, n, me);
    }
    softmax_finish<C>(x, p, tile, me);
}

template <class C>
GPU_INLINE void softmax_all(const fwd_params &p, uint32_t smem, uint32_t tensor, int half,
                            const fwd_lane &me)
{
    uint32_t lanes =
        gpu::tmem_at(tensor, static_cast<uint32_t>(me.warp * WARP), scores_column<C>(half));
    fwd_softmax x = {smem, lanes, half, 0, 0, {}, {}};
    for (uint32_t use = 0;; use++) {
        attn::ring_wait_full<C::TILE_SLOTS>(smem + fwd_smem<C>::TILE_RING, use);
        uint32_t tile = fwd_tile<C>(smem, use);
        int halves = fwd_halves<C>(tile);
        if (halves == 0) {
            return;
        }
        if (half < halves) {
            softmax_tile<C>(x, p, tile, me);
        }
        release_tile<C>(smem, use);
    }
}

/* ---- correction: one warpgroup for all halves ---- */

struct fwd_correction {
    uint32_t smem, lanes; /* lanes: column 0, this warp's */
    int columns;          /* of O that are multiplied */
    uint32_t panels;      /* how many this warp has stored */
};

/* O of a half to the reference of the block at hand. Most blocks change no row of a warp. */
template <class C>
GPU_INLINE void correct_half(const fwd_correction &x, int half, uint32_t message,
                             const fwd_lane &me)
{
    float factor = message_take<C>(x.smem, half, me, message);
    if (gpu::vote_any(factor != 1.0f)) {
        gpu::tcgen05_fence_after();
#pragma unroll
        for (int c = 0; c < C::DV; c += CHUNK) {
            if (c < x.columns) {
                float o[CHUNK];
                uint32_t at = x.lanes + sums_column<C>(half) + static_cast<uint32_t>(c);
                gpu::tmem_load(o, at);
                gpu::tmem_load_wait(o);
#pragma unroll
                for (int i = 0; i < CHUNK; i += 2) {
                    f32x2 scaled = gpu::pair_mul({o[i], o[i + 1]}, gpu::pair_of(factor));
                    o[i] = scaled.x;
                    o[i + 1] = scaled.y;
                }
                gpu::tmem_store(at, o);
            }
        }
        gpu::tmem_store_wait();
    }
    arrive_ready<C>(x.smem, half);
}

/* A chunk of this warp's rows of O, scaled, to shared memory. scale 0: a row without keys. */
template <class C>
GPU_INLINE void stage_chunk(const fwd_correction &x, int half, int c, float scale, uint32_t stage,
                            const fwd_lane &me)
{
    float o[CHUNK] = {};
    if (c < x.columns) {
        gpu::tcgen05_fence_after();
        gpu::tmem_load(o, x.lanes + sums_column<C>(half) + static_cast<uint32_t>(c));
        gpu::tmem_load_wait(o);
    }
#pragma unroll
    for (int i = 0; i < CHUNK; i++) {
        o[i] = scale == 0.0f ? 0.0f : o[i] * scale;
    }
    uint32_t pairs[CHUNK / 2];
    row_pack<typename C::T>(pairs, o);
#pragma unroll
    for (int i = 0; i < CHUNK / 2; i += 4) {
        uint32_t column = static_cast<uint32_t>(c % PANEL * 2 + i * 4);
        gpu::smem_store(
            gpu::tile_address(SWIZZLE, stage, WARP, static_cast<uint32_t>(me.lane), column),
            gpu::u32x4{pairs[i], pairs[i + 1], pairs[i + 2], pairs[i + 3]});
    }
}

/* Panel c of this warp's rows leaves from the stage. One thread. */
template <class C>
GPU_INLINE void store_panel(const fwd_params &p, uint32_t tile, int half, int c, uint32_t stage,
                            const fwd_lane &me)
{
    attn::tile_place place = attn::tile_read_place(tile);
    attn::tile_side q = attn::tile_read_q(tile);
    int32_t row = place.row + half * TILE_ROWS + me.warp * WARP;
    gpu::tma_store(&attn::forward_set_of(p, place.set)->o, stage, gpu::l2::evict_first, c,
                   gpu::ragged_row(q.span, row), place.head, gpu::ragged_shift(q.first, q.span));
    gpu::bulk_commit();
}

/* The finished O of a half goes out; its columns are free when the last of them has been read. */
template <class C>
GPU_INLINE void finish_half(fwd_correction &x, const fwd_params &p, uint32_t tile, int half,
                            uint32_t message, uint32_t rounds, const fwd_lane &me)
{
    uint32_t stages =
        x.smem + fwd_smem<C>::O + static_cast<uint32_t>(me.warp) * C::O_SLOTS * C::O_BYTES;
    float scale = message_take<C>(x.smem, half, me, message);
    gpu::mbarrier_wait(half_barrier(x.smem + fwd_smem<C>::DONE, half), rounds);
#pragma unroll
    for (int c = 0; c < C::DV; c += PANEL) {
        if (c < x.columns) {
            uint32_t stage = stages + x.panels++ % C::O_SLOTS * C::O_BYTES;
            if (gpu::elect_one()) {
                gpu::bulk_wait_read<C::O_SLOTS - 1>();
            }
            gpu::warp_sync();
            stage_chunk<C>(x, half, c, scale, stage, me);
            stage_chunk<C>(x, half, c + CHUNK, scale, stage, me);
            gpu::fence_async_smem();
            gpu::warp_sync();
            if (gpu::elect_one()) {
                store_panel<C>(p, tile, half, c, stage, me);
            }
        }
    }
    arrive_ready<C>(x.smem, half);
}

template <class C>
GPU_INLINE void correct_tile(fwd_correction &x, const fwd_params &p, uint32_t tile,
                             uint32_t (&messages)[C::HALVES], uint32_t (&finished)[C::HALVES],
                             const fwd_lane &me)
{
    attn::tile_blocks blocks = attn::tile_read_blocks(tile);
    int halves = fwd_halves<C>(tile);
    for (int32_t n = blocks.last - 1; n > blocks.first; n--) {
#pragma unroll
        for (int half = 0; half < C::HALVES; half++) {
            if (half < halves) {
                correct_half<C>(x, half, messages[half]++, me);
            }
        }
    }
#pragma unroll
    for (int half = 0; half < C::HALVES; half++) {
        if (half < halves) {
            finish_half<C>(x, p, tile, half, messages[half]++, ++finished[half], me);
        }
    }
}

template <class C>
GPU_INLINE void correct_all(const fwd_params &p, uint32_t smem, uint32_t tensor, const fwd_lane &me)
{
    fwd_correction x = {smem, gpu::tmem_at(tensor, static_cast<uint32_t>(me.warp * WARP), 0), p.dv,
                        0};
    uint32_t messages[C::HALVES] = {}, finished[C::HALVES] = {};
    for (int half = 0; half < C::HALVES; half++) { /* O is free for the first tile */
        arrive_ready<C>(smem, half);
    }
    for (uint32_t use = 0;; use++) {
        attn::ring_wait_full<C::TILE_SLOTS>(smem + fwd_smem<C>::TILE_RING, use);
        uint32_t tile = fwd_tile<C>(smem, use);
        if (fwd_halves<C>(tile) == 0) {
            break;
        }
        correct_tile<C>(x, p, tile, messages, finished, me);
        release_tile<C>(smem, use);
    }
    if (gpu::elect_one()) {
        gpu::bulk_wait<0>();
    }
}

/* ---- the kernel ---- */

/* Warps of the last warpgroup; the other two have nothing to do. */
enum { MULTIPLIER, LOADER };

template <class C>
GPU_INLINE void run_singles(const fwd_params &p, uint32_t smem, uint32_t tensor, int warp)
{
    if (warp == MULTIPLIER && gpu::elect_one()) {
        multiply_all<C>(p, smem, tensor);
    } else if (warp == LOADER && gpu::elect_one()) {
        load_all<C>(p, smem);
    }
    gpu::warp_sync(); /* block_sync wants whole warps */
}

template <class C>
__global__ void __launch_bounds__(C::THREADS, 1) fwd_kernel(const __grid_constant__ fwd_params p)
{
    uint32_t smem = gpu::smem_base();
    uint32_t tensor = fwd_init<C>(smem);
    int wg = gpu::warpgroup_index(), warp = gpu::warp_index() % WG_WARPS;
    fwd_lane me = {warp, gpu::lane_index()};
    if (wg < C::HALVES) {
        gpu::registers_take<C::SOFTMAX_REGISTERS>();
        softmax_all<C>(p, smem, tensor, wg, me);
    } else if (wg == C::CORRECTION) {
        gpu::registers_give<C::CORRECTION_REGISTERS>();
        correct_all<C>(p, smem, tensor, me);
    } else {
        gpu::registers_give<C::SINGLE_REGISTERS>();
        run_singles<C>(p, smem, tensor, warp);
    }
    gpu::block_sync();
    if (gpu::warp_index() == C::SINGLES * WG_WARPS) {
        gpu::tmem_give<fwd_tensor<C>::COLUMNS>(tensor);
    }
}

} // namespace sm100

#endif
