/*
 * plan: sequence lengths in, tile lists out.
 *
 * A GPU kernel of a pass takes tiles from a list: one tile is what one CTA computes at a time. The
 * list is made here, on the host, because the host knows every length: no prepare kernel, no search
 * on the device, no work proportional to the number of sequences there. Pure functions; the caller
 * owns the memory and caches the list (all layers of a model reuse it).
 *
 *   forward   a tile is up to q_block query rows of one q head, or of each of some neighbours with
 *             the same keys; it walks key blocks
 *   backward  a tile is up to k_block keys of one kv head; it walks query blocks, once for each q
 *             head of the group
 *
 * Two kernels may share a forward launch, each with a plan of its own: a sequence suits the tiles
 * of one of them, by its lengths alone.
 *
 * Bits: which rows meet which blocks is a function of the sequence's own lengths and the mask. The
 * order of the list, which the launch as a whole decides, only says who computes a tile and when.
 *
 * Order: long sequences first, and within one (when a mask makes tiles unequal) long tiles first,
 * so that the last tiles to start are short ones. The heads of a sequence are cut into groups for
 * which what tiles walk (keys and values; backward: queries and their sums) fits L2, one group
 * after the other: tiles that run at the same time walk the same rows. A deterministic backward is
 * ordered otherwise; see plan_make.
 *
 * Ordered are backward tiles of which each knows its place among those that add to a block of dQ:
 * the first begins the sum, the last makes the result of it. All tiles of a sequence are, or none:
 * its length says so, and each block of its queries must be walked by some tile.
 *
 * Rows that no tile computes, because they see nothing or lie between length and span, are listed
 * as fills: the fill kernel writes o = 0 and lse = -inf (forward), dk = dv = 0 (backward).
 */
#ifndef ATTN_PLAN_H
#define ATTN_PLAN_H

#include "kernels/attn.h"

#ifdef __cplusplus
extern "C" {
#endif

struct plan_shape {
    enum attn_pass pass;
    struct attn_mask mask;
    int32_t hq, hkv;
    int32_t q_block, k_block; /* rows of a query block, keys of a key block */
    int32_t walked_bytes;     /* of what tiles walk, per row and head: K and V, or Q, dO and dQ */
    bool deterministic;       /* backward */
    int32_t tile_heads;       /* forward: a tile is of so many q heads of one kv head; 0: of one */
    int32_t stripe_rows;  /* rows of a stripe; 0: backward q_block, forward tiles know of none */
    int32_t ordered_keys; /* backward: of sequences with up to so many keys tiles are ordered */
    /* Forward: the tiles of another kernel, that takes the sequences which these do not suit, in a
     * launch of its own; 0: there is none. */
    int32_t other_q_block, other_k_block;
};

/*
 * Everything a kernel must know of a tile, in one 64-byte copy: four 16-byte words, named in
 * kernels/common/tile.cuh. Rows and first rows are of the set's tensors and below 2^31.
 */
struct plan_tile {
    int32_t set;
    int32_t head;    /* forward: (first) q head, backward: kv head */
    int32_t row;     /* first row in the sequence, of q (forward) or k (backward) */
    int16_t rows;    /* rows of the span that the tile writes; 0 in an end mark */
    int16_t ordered; /* backward: see above */
    /* Blocks of the other side: [first, last) are walked, [clear_first, clear_last) need no mask.
     */
    int32_t first, last;
    int32_t clear_first, clear_last;
    int32_t q_first, q_len, q_span, sequence;
    int32_t k_first, k_len, k_span;
    int32_t stripe; /* of the sequence's first query: backward, or with stripe_rows */
};

/* Rows of one set, from row on, for all heads. */
struct plan_fill {
    int32_t set, row, rows;
    int32_t used; /* of the rows, how many are below the length */
};

/* Backward: one query block of a span. */
struct plan_stripe {
    int32_t set, row;
    int16_t rows, used; /* used: how many of the rows are below the length */
    int32_t ordered;    /* as in its tiles */
};

/*
 * The query blocks of all spans, sequence by sequence. A block's number in this list, its stripe,
 * says where its rows' statistics and sums lie in scratch. stripes and loose hold
 * plan_stripe_count; loose gets the numbers of those that are not ordered. Returns how many.
 */
int64_t plan_stripe_count(const struct plan_shape *shape, const struct attn_sequence *sequences,
                          int32_t count);
int64_t plan_stripes(const struct plan_shape *shape, const struct attn_sequence *sequences,
                     int32_t count, struct plan_stripe *stripes, int32_t *loose);

struct plan_size {
    int64_t tiles, fills;
};

/* Do some of the sequences suit these tiles? O(sequences). */
bool plan_has_any(const struct plan_shape *shape, const struct attn_sequence *sequences,
                  int32_t count);

/* How long the two lists are, exactly. O(blocks). */
struct plan_size plan_measure(const struct plan_shape *shape, const struct attn_sequence *sequences,
                              int32_t count);

/* Upper bounds of plan_measure, monotone in the sequences; O(sequences). For scratch sizes. */
struct plan_size plan_bound(const struct plan_shape *shape, const struct attn_sequence *sequences,
                            int32_t count);

/*
 * Write the lists. tiles and fills hold what plan_measure said.
 *
 * Deterministic backward: key block n adds its share to a block of dQ when all blocks that come
 * before it in that block's order have added theirs. The order is a function of the sequence: with
 * a right edge (causal) the last key block first, so that each tile meets its first query block
 * when its predecessors have just left it; otherwise as common/turn.cuh says. A tile waits only for
 * tiles that stand before it in the list or in its own group of PLAN_GROUP neighbours, so a launch
 * ends with any number of resident CTAs from PLAN_GROUP up.
 */
void plan_make(const struct plan_shape *shape, const struct attn_sequence *sequences, int32_t count,
               struct plan_tile *tiles, struct plan_fill *fills);

/*
 * Cuts a list into parts of about equal work, to be launched one after another: part p is
 * [cuts[p], cuts[p + 1]). A cut lies at a multiple of `round` tiles where that makes no great
 * difference (with as many CTAs, all of them end a part together), and never inside a group of a
 * cyclic order, whose tiles wait for one another. cuts: parts + 1.
 */
void plan_cut(const struct plan_shape *shape, const struct plan_tile *tiles, int64_t count,
              int32_t parts, int64_t round, int64_t *cuts);

/* Neighbouring key blocks that share a cyclic order in a deterministic backward without right edge.
 */
enum { PLAN_GROUP = 64 };

#ifdef __cplusplus
}
#endif

#endif
