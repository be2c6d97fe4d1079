/*
 * common/turn: in which order a backward tile walks its query blocks, and, in a deterministic
 * backward, in which order key blocks add their shares to a block of dQ. Both are functions of the
 * sequence's own lengths and the mask.
 *
 *   right edge (causal)  the last key block first. Tiles start together at the first query block
 *                        that sees their keys, so one that comes earlier in the order is already
 *                        ahead by N / M steps.
 *   left edge only, or   the first key block first.
 *   no mask, N > M, or a cluster to a tile
 *   no mask, N <= M      groups of PLAN_GROUP key blocks, in turn. The L tiles of a group start at
 *                        L evenly spaced query blocks and go round; a block is visited by one of
 *                        them after the other, and that is the order: first who needs fewest steps
 *                        to get there.
 *
 * No mask: in ascending order a tile follows the one before it at the distance that a turn needs to
 * be passed on, some 1.5 steps of 64 queries, and all run at full speed once the first have fallen
 * behind that much. Where a step has as many queries as a tile keys, the cyclic order is faster
 * (4 x 8192, d 64: 502 against 470 TFLOP/s; d 128, steps of 64: 507 against 531, and 1 x 32768 475
 * against 546).
 *
 * A tile waits only for tiles that stand before it in the plan's list or in its own group.
 */
#ifndef COMMON_TURN_CUH
#define COMMON_TURN_CUH

#include "common/mask.cuh"
#include "common/tile.cuh"
#include "gpu/types.cuh"

namespace attn
{

enum class turn_order { descending, ascending, cyclic };

/* Tiles of the group that key block `block` belongs to. */
GPU_INLINE int32_t turn_group_size(int32_t block, int32_t keys, int32_t k_len)
{
    int32_t left = (k_len + keys - 1) / keys - block / PLAN_GROUP * PLAN_GROUP;
    return left < PLAN_GROUP ? left : PLAN_GROUP;
}

/* The query block that the tile begins with, for each head; it walks on to the last and goes round.
 */
template <int N>
GPU_INLINE int32_t turn_start(turn_order order, uint32_t tile)
{
    tile_blocks blocks = tile_read_blocks(tile);
    if (order != turn_order::cyclic) {
        return blocks.first;
    }
    int32_t block = tile_read_place(tile).row / N;
    int32_t size = turn_group_size(block, N, tile_read_k(tile).len);
    return blocks.first + block % PLAN_GROUP * (blocks.last - blocks.first) / size;
}

/* The block after m. */
GPU_INLINE int32_t turn_after(const tile_blocks &blocks, int32_t m)
{
    return m + 1 == blocks.last ? blocks.first : m + 1;
}

/* How many of the `size` tiles of a group start at query block x or before. */
GPU_INLINE int32_t turn_started(int32_t size, int32_t count, int32_t x)
{
    int32_t started = ((x + 1) * size + count - 1) / count;
    return started < size ? started : size;
}

/* The first and the last key block that query block m sees. */
template <int M, int N>
GPU_INLINE int32_t turn_lowest(mask_reach reach, uint32_t tile, int32_t m)
{
    int32_t key = m * M + tile_read_k(tile).len - tile_read_q(tile).len - reach.left;
    return (key > 0 ? key : 0) / N;
}

template <int M, int N>
GPU_INLINE int32_t turn_highest(mask_reach reach, uint32_t tile, int32_t m)
{
    int32_t q_len = tile_read_q(tile).len, k_len = tile_read_k(tile).len;
    int32_t row = (m + 1) * M < q_len ? (m + 1) * M - 1 : q_len - 1;
    int32_t key = row + k_len - q_len + reach.right;
    return (key < k_len ? key : k_len - 1) / N;
}

/*
 * How many key blocks add to query block m before this tile does. Registers are few where this is
 * asked, so each order reads what it needs from the record.
 */
template <int M, int N>
GPU_INLINE int32_t turn_descending(mask_reach reach, uint32_t tile, int32_t m)
{
    return turn_highest<M, N>(reach, tile, m) - tile_read_place(tile).row / N;
}

template <int M, int N>
GPU_INLINE int32_t turn_ascending(mask_reach reach, uint32_t tile, int32_t m)
{
    return tile_read_place(tile).row / N - turn_lowest<M, N>(reach, tile, m);
}

/* Is an ordered tile the first, or the last, of those that add to query block m? */
struct turn_ends {
    bool first, last;
};

template <int M, int N>
GPU_INLINE turn_ends turn_end(turn_order order, mask_reach reach, uint32_t tile, int32_t m)
{
    int32_t block = tile_read_place(tile).row / N;
    bool lowest = block == turn_lowest<M, N>(reach, tile, m);
    bool highest = block == turn_highest<M, N>(reach, tile, m);
    return order == turn_order::descending ? turn_ends{highest, lowest}
                                           : turn_ends{lowest, highest};
}

/*
 * Those of the groups before, and those of the own group that get to m in fewer steps. The part
 * that is the same for all m is computed once for a tile. start: what turn_start said.
 */
template <int N>
GPU_INLINE int32_t turn_cyclic_base(int32_t start, uint32_t tile)
{
    tile_blocks blocks = tile_read_blocks(tile);
    int32_t block = tile_read_place(tile).row / N;
    int32_t size = turn_group_size(block, N, tile_read_k(tile).len);
    int32_t count = blocks.last - blocks.first, x = start - blocks.first;
    return block - turn_started(size, count, x - 1) - turn_started(size, count, x);
}

template <int N>
GPU_INLINE int32_t turn_cyclic(int32_t base, int32_t start, uint32_t tile, int32_t m)
{
    tile_blocks blocks = tile_read_blocks(tile);
    int32_t size = turn_group_size(tile_read_place(tile).row / N, N, tile_read_k(tile).len);
    return base + turn_started(size, blocks.last - blocks.first, m - blocks.first) +
           (m >= start ? 0 : size);
}

/* What turn_place needs to know beforehand. */
template <int N>
GPU_INLINE int32_t turn_base(turn_order order, int32_t start, uint32_t tile)
{
    return order == turn_order::cyclic ? turn_cyclic_base<N>(start, tile) : 0;
}

template <int M, int N>
GPU_INLINE int32_t turn_place(turn_order order, mask_reach reach, int32_t base, int32_t start,
                              uint32_t tile, int32_t m)
{
    switch (order) {
    case turn_order::descending:
        return turn_descending<M, N>(reach, tile, m);
    case turn_order::ascending:
        return turn_ascending<M, N>(reach, tile, m);
    default:
        return turn_cyclic<N>(base, start, tile, m);
    }
}

} // namespace attn

#endif
