/*
 * sm90/bwd_serve: warpgroup 0 of sm90/bwd: who loads, and the two writers of dQ.
 */
#ifndef SM90_BWD_SERVE_CUH
#define SM90_BWD_SERVE_CUH

#include "sm90/bwd_data.cuh"

namespace sm90
{

/* ---- writers of dQ: two threads ---- */

/* One consumer's piece of a step to memory. */
template <class C>
GPU_INLINE void write_piece(float *target, uint32_t smem, uint32_t use, int wg, int piece)
{
    attn::ring_wait_full<C::DQ_ROUNDS>(bwd_dq_ring<C>(smem, wg), use);
    gpu::bulk_reduce_add(target + (wg * bwd_pieces<C>(0) + piece) * BWD_PIECE,
                         bwd_dq<C>(smem, wg, use), BWD_PIECE_BYTES, gpu::l2::evict_last);
    gpu::bulk_commit();
}

/* The share of one consumer. A writer for each, so that neither waits for the other. */
template <class C>
GPU_INLINE void write_share(float *target, uint32_t smem, uint32_t step, int wg)
{
    uint32_t use = step * static_cast<uint32_t>(bwd_pieces<C>(wg));
#pragma unroll 1
    for (int piece = 0; piece < bwd_pieces<C>(wg); piece++, use++) {
        write_piece<C>(target, smem, use, wg, piece);
        gpu::bulk_wait_read<0>();
        attn::ring_release<C::DQ_ROUNDS>(bwd_dq_ring<C>(smem, wg), use);
    }
}

/* The shares of both. */
template <class C>
GPU_INLINE void write_shares(float *target, uint32_t smem, uint32_t step)
{
    uint32_t first = step * static_cast<uint32_t>(bwd_pieces<C>(0));
    uint32_t second = step * static_cast<uint32_t>(bwd_pieces<C>(1));
#pragma unroll
    for (int piece = 0; piece < bwd_pieces<C>(0); piece++, first++, second++) {
        write_piece<C>(target, smem, first, 0, piece);
        if (piece < bwd_pieces<C>(1)) {
            write_piece<C>(target, smem, second, 1, piece);
            gpu::bulk_wait_read<1>();
        } else {
            gpu::bulk_wait_read<0>();
        }
        attn::ring_release<C::DQ_ROUNDS>(bwd_dq_ring<C>(smem, 0), first);
        if (piece < bwd_pieces<C>(1)) {
            gpu::bulk_wait_read<0>();
            attn::ring_release<C::DQ_ROUNDS>(bwd_dq_ring<C>(smem, 1), second);
        }
    }
}

/* Writer `writer` of one tile. In a deterministic launch one has the even steps, one the odd ones:
 * to see a turn come, to add and to pass it on are three journeys to L2, longer than a step. */
template <class C>
GPU_INLINE uint32_t write_tile(const bwd_params &p, uint32_t smem, uint32_t tile, uint32_t step,
                               int writer)
{
    bwd_tour tour = tour_start<C>(p, tile);
    int32_t base = 0;
    if constexpr (C::DETERMINISTIC) {
        base = attn::turn_base<C::N>(p.order, tour.start, tile);
    }
#pragma unroll 1
    for (; tour_lasts(p, tile, tour); tour_next(tile, tour), step++) {
        float *target = p.scratch.dq + int64_t{C::M * C::D} * tour_unit(p, tile, tour);
        if constexpr (!C::DETERMINISTIC) {
            write_share<C>(target, smem, step, writer);
        } else if (step % BWD_WRITERS == static_cast<uint32_t>(writer)) {
            attn::await_turn<C, 1>(p, tile, tour, base);
            write_shares<C>(target, smem, step);
            attn::pass_turn(p, tile, tour);
        }
    }
    return step;
}

/* ---- writers where tiles can be ordered: one has the even steps, one the odd ones, and each its
 * own slot of each consumer ---- */

template <class C>
GPU_INLINE uint32_t way_of(const bwd_params &p, uint32_t tile, const bwd_tour &tour)
{
    if (!attn::tile_read_ordered(tile)) {
        return 0;
    }
    attn::turn_ends end = attn::turn_end<C::M, C::N>(p.order, p.reach, tile, tour.m);
    return end.last ? (end.first ? WAY_WRITE : WAY_WRITE | WAY_SUM) : end.first ? WAY_STORE : 0u;
}

template <class C>
GPU_INLINE float *sums_of(const bwd_params &p, uint32_t tile, const bwd_tour &tour, int wg)
{
    return bwd_sums<C>(p, tour_unit(p, tile, tour), wg);
}

/* The slot is consumer wg's for a step. */
template <class C>
GPU_INLINE void grant(const bwd_params &p, uint32_t smem, uint32_t tile, const bwd_tour &tour,
                      uint32_t use, uint32_t way, int wg)
{
    uint32_t empty = attn::ring_empty<C::DQ_ROUNDS>(bwd_dq_ring<C>(smem, wg), use);
    uint32_t unit = static_cast<uint32_t>(tour_unit(p, tile, tour));
    gpu::smem_store(bwd_way<C>(smem, wg, use), way | unit << WAY_UNIT);
    if ((way & WAY_SUM) != 0) {
        gpu::mbarrier_arrive_expect(empty, BWD_PIECE_BYTES);
        gpu::bulk_load(bwd_dq<C>(smem, wg, use), sums_of<C>(p, tile, tour, wg), BWD_PIECE_BYTES,
                       empty, gpu::l2::evict_first);
    } else {
        gpu::mbarrier_arrive(empty);
    }
}

/* The result of one consumer's piece: each warp's rows lie in its quarter. */
template <class C>
GPU_INLINE void write_result(const bwd_params &p, uint32_t smem, uint32_t tile,
                             const bwd_tour &tour, uint32_t use, int wg)
{
    attn::tile_side q = attn::tile_read_q(tile);
    const bwd_set *set = attn::backward_set_of(p, attn::tile_read_place(tile).set);
    int32_t row = tour.m * C::M, column = wg * PANEL;
    uint32_t source = bwd_dq<C>(smem, wg, use);
#pragma unroll 1
    for (int32_t end = row + BWD_WG_ROWS; row < end && row < q.span && column < p.d;
         row += BWD_WARP_ROWS) {
        gpu::tma_store(&set->dq, source, gpu::l2::evict_first, column, gpu::ragged_row(q.span, row),
                       tour.head, gpu::ragged_shift(q.first, q.span));
        source += BWD_PIECE_BYTES / BWD_WARPS;
    }
}

template <class C>
GPU_INLINE void write_part(const bwd_params &p, uint32_t smem, uint32_t tile, const bwd_tour &tour,
                           uint32_t use, uint32_t way, int wg)
{
    uint32_t source = bwd_dq<C>(smem, wg, use);
    attn::ring_wait_full<C::DQ_ROUNDS>(bwd_dq_ring<C>(smem, wg), use);
    if ((way & WAY_WRITE) != 0) {
        write_result<C>(p, smem, tile, tour, use, wg);
    } else if (way == WAY_STORE) {
        gpu::bulk_store(sums_of<C>(p, tile, tour, wg), source, BWD_PIECE_BYTES,
                        gpu::l2::evict_last);
    } else {
        gpu::bulk_reduce_add(sums_of<C>(p, tile, tour, wg), source, BWD_PIECE_BYTES,
                             gpu::l2::evict_last);
    }
    gpu::bulk_commit();
}

/* A writer's slots for a step of its own: their last shares have been read. With a sum, they are
 * granted when it is complete. */
template <class C>
GPU_INLINE void grant_both(const bwd_params &p, uint32_t smem, uint32_t tile, const bwd_tour &tour,
                           uint32_t step, uint32_t way)
{
    if ((way & WAY_SUM) != 0) {
        attn::await_turn<C, 1>(p, tile, tour, 0);
    }
    gpu::bulk_wait_read<0>();
    grant<C>(p, smem, tile, tour, step, way, 0);
    grant<C>(p, smem, tile, tour, step, way, 1);
}

/* Both shares of a step, in turn. */
template <class C>
GPU_INLINE void write_both(const bwd_params &p, uint32_t smem, uint32_t tile, const bwd_tour &tour,
                           uint32_t step, uint32_t way)
{
    bool turns = C::DETERMINISTIC || attn::tile_read_ordered(tile);
    if (turns && way == 0) {
        attn::await_turn<C, 1>(p, tile, tour, 0);
    }
    write_part<C>(p, smem, tile, tour, step, way, 0);
    write_part<C>(p, smem, tile, tour, step, way, 1);
    if (turns && (way & WAY_WRITE) == 0) {
        attn::pass_turn(p, tile, tour);
    }
}

/* The steps of one writer. Returns the first step of the next tile. */
template <class C>
GPU_INLINE uint32_t write_by_turns(const bwd_params &p, uint32_t smem, uint32_t tile, uint32_t step,
                                   uint32_t writer)
{
    bwd_tour tour = tour_start<C>(p, tile);
#pragma unroll 1
    for (; tour_lasts(p, tile, tour); tour_next(tile, tour), step++) {
        if (step % BWD_WRITERS == writer) {
            uint32_t way = way_of<C>(p, tile, tour);
            grant_both<C>(p, smem, tile, tour, step, way);
            write_both<C>(p, smem, tile, tour, step, way);
        }
    }
    return step;
}

template <class C>
GPU_INLINE void write_all(const bwd_params &p, uint32_t smem, int writer)
{
    using S = bwd_smem<C>;
    uint32_t step = 0;
    for (uint32_t use = 0;; use++) {
        attn::ring_wait_full<C::TILE_SLOTS>(smem + S::TILE_RING, use);
        uint32_t tile = bwd_tile<C>(smem, use);
        if (attn::tile_read_place(tile).rows == 0) {
            break;
        }
        if constexpr (C::ORDERS) {
            step = write_by_turns<C>(p, smem, tile, step, static_cast<uint32_t>(writer));
        } else {
            step = write_tile<C>(p, smem, tile, step, writer);
        }
        attn::ring_release<C::TILE_SLOTS>(smem + S::TILE_RING, use);
        if (attn::draws_late<C>(p)) {
            gpu::mbarrier_arrive(smem + S::MAY_DRAW);
        }
    }
    gpu::bulk_wait<0>(); /* spare while the next kernel starts behind this one's end */
}

/* ---- the threads of warpgroup 0 ---- */

template <class C>
GPU_INLINE void bwd_serve(const bwd_params &p, uint32_t smem)
{
    gpu::registers_give<C::LOADER_REGISTERS>();
    int warp = gpu::warp_index();
    if (warp == 0 && gpu::elect_one()) {
        bwd_load_all<C>(p, smem);
    } else if (warp == 1 && gpu::elect_one()) {
        bwd_load_all_douts<C>(p, smem);
    } else if (warp >= 2 && gpu::elect_one()) {
        write_all<C>(p, smem, warp - 2);
    }
}

} // namespace sm90

#endif
