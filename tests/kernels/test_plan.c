/*
 * The plan's promises, on random batches: every row that sees a key is in exactly one tile per
 * head, its tile walks every block it sees, blocks called clear are seen whole, every other row of
 * a span is filled exactly once; and tiles do not depend on what else is in the batch.
 */
#include <check.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/plan.h"

enum { BATCHES = 100000, SEQUENCES_MAX = 4, SPAN_MAX = 400, TILES_MAX = 4096 };

/* ck_assert writes to a pipe each time; here are a hundred million checks. */
static void must(bool ok)
{
    if (!ok) {
        ck_abort_msg("a promise of plan.h is broken");
    }
}

static uint32_t draw_state;

static int32_t draw(int32_t limit)
{
    draw_state = draw_state * 1664525u + 1013904223u;
    return limit < 1 ? 0 : (int32_t)((draw_state >> 8) % (uint32_t)limit);
}

struct batch {
    struct plan_shape shape;
    struct attn_sequence sequences[SEQUENCES_MAX];
    int32_t count;
    struct plan_tile tiles[TILES_MAX];
    struct plan_fill fills[TILES_MAX];
    struct plan_size size;
};

static struct plan_shape draw_shape(void)
{
    static const int32_t q_blocks[] = {64, 128}, k_blocks[] = {64, 80, 128};
    struct plan_shape shape = {
        .pass = draw(2) ? ATTN_FORWARD : ATTN_BACKWARD,
        .mask = {.has_left = draw(3) == 0,
                 .has_right = draw(2),
                 .left = draw(200),
                 .right = draw(3) ? 0 : draw(200)},
        .hkv = 1 + draw(2),
        .q_block = q_blocks[draw(2)],
        .k_block = k_blocks[draw(3)],
        .walked_bytes = 512,
        .deterministic = draw(2),
    };
    shape.hq = shape.hkv * (1 + draw(4));
    shape.stripe_rows = draw(3) ? 0 : 64;
    shape.tile_heads = shape.pass == ATTN_FORWARD && shape.stripe_rows == 0 ? 1 << draw(3) : 0;
    if (shape.tile_heads > 0 && shape.hq / shape.hkv % shape.tile_heads != 0) {
        shape.tile_heads = 1;
    }
    shape.ordered_keys = shape.pass == ATTN_BACKWARD && shape.stripe_rows == 0 ? draw(3) * 150 : 0;
    return shape;
}

static void draw_batch(struct batch *b)
{
    b->shape = draw_shape();
    b->count = draw(SEQUENCES_MAX + 1);
    int32_t q = draw(9), k = draw(9);
    for (int32_t i = 0; i < b->count; i++) {
        struct attn_sequence *s = &b->sequences[i];
        *s = (struct attn_sequence){.set = i % 2, .index = i, .q_first = q, .k_first = k};
        s->q_span = draw(4) ? draw(SPAN_MAX) : draw(3);
        s->k_span = draw(4) ? draw(SPAN_MAX) : draw(3);
        s->q_len = draw(3) ? s->q_span : draw(s->q_span + 1);
        s->k_len = draw(3) ? s->k_span : draw(s->k_span + 1);
        q += s->q_span + draw(3);
        k += s->k_span + draw(3);
    }
    b->size = plan_measure(&b->shape, b->sequences, b->count);
    must(b->size.tiles <= TILES_MAX);
    must(b->size.fills <= TILES_MAX);
    plan_make(&b->shape, b->sequences, b->count, b->tiles, b->fills);
}

/* Other rows that row i of the tile's side sees, straight from the contract in attn.h. */
static bool sees(const struct batch *b, const struct attn_sequence *s, int32_t i, int32_t j)
{
    const struct attn_mask *mask = &b->shape.mask;
    int32_t query = b->shape.pass == ATTN_FORWARD ? i : j;
    int32_t key = b->shape.pass == ATTN_FORWARD ? j : i;
    int32_t diagonal = query + s->k_len - s->q_len;
    return (!mask->has_right || key <= diagonal + mask->right) &&
           (!mask->has_left || key >= diagonal - mask->left);
}

struct side {
    int32_t len, span, other_len, block, other_block, heads;
};

static struct side side_of(const struct batch *b, const struct attn_sequence *s)
{
    const struct plan_shape *p = &b->shape;
    return p->pass == ATTN_FORWARD
               ? (struct side){s->q_len, s->q_span, s->k_len, p->q_block, p->k_block, p->hq}
               : (struct side){s->k_len, s->k_span, s->q_len, p->k_block, p->q_block, p->hkv};
}

/* First and last other row seen by row i; a mask's rows are intervals. */
static bool seen(const struct batch *b, const struct attn_sequence *s, int32_t i, int32_t *first,
                 int32_t *last)
{
    bool any = false;
    for (int32_t j = 0; j < side_of(b, s).other_len; j++) {
        if (sees(b, s, i, j)) {
            *first = any ? *first : j;
            *last = j;
            any = true;
        }
    }
    return any;
}

/* Do tiles know the first stripe of their sequence? */
static bool has_stripes(const struct plan_shape *shape)
{
    return shape->pass == ATTN_BACKWARD || shape->stripe_rows > 0;
}

/* q heads, or backward kv heads, of a tile. */
static int32_t heads_of(const struct batch *b)
{
    return b->shape.tile_heads > 0 ? b->shape.tile_heads : 1;
}

/* The heads of a tile have the same keys. */
static void check_heads(const struct batch *b, const struct plan_tile *t)
{
    int32_t group = b->shape.pass == ATTN_FORWARD ? b->shape.hq / b->shape.hkv : 1;
    must(t->head / group == (t->head + heads_of(b) - 1) / group);
}

static void check_tile(const struct batch *b, const struct plan_tile *t, uint8_t covered[SPAN_MAX],
                       uint8_t rows_seen[SPAN_MAX])
{
    const struct attn_sequence *s = &b->sequences[t->sequence];
    struct side side = side_of(b, s);
    must(t->set == s->set);
    must(t->row % side.block == 0);
    must(t->rows <= side.block);
    must(t->row + t->rows <= side.span);
    must(t->first < t->last);
    check_heads(b, t);
    must(t->first <= t->clear_first && t->clear_first <= t->clear_last && t->clear_last <= t->last);
    int32_t clear_first = t->clear_first * side.other_block;
    int32_t clear_last = t->clear_last * side.other_block;
    bool clear = clear_first < clear_last;
    for (int32_t i = t->row; i < t->row + t->rows; i++) {
        int32_t first = 0, last = -1;
        covered[i]++;
        if (i >= side.len || !seen(b, s, i, &first, &last)) {
            must(!clear || i >= side.len);
            continue;
        }
        rows_seen[i]++;
        must(t->first * side.other_block <= first);
        must(t->last * side.other_block > last);
        int32_t end = clear_last < side.other_len ? clear_last : side.other_len;
        bool past_end_matters = b->shape.pass == ATTN_FORWARD;
        must(!clear || !past_end_matters || clear_last <= side.other_len);
        must(!clear || (first <= clear_first && end - 1 <= last));
    }
}

static void check_sequence(const struct batch *b, int32_t number)
{
    const struct attn_sequence *s = &b->sequences[number];
    struct side side = side_of(b, s);
    int64_t first = b->shape.pass == ATTN_FORWARD ? s->q_first : s->k_first;
    uint8_t filled[SPAN_MAX] = {0};
    for (int64_t f = 0; f < b->size.fills; f++) {
        int64_t row = b->fills[f].row - first;
        if (b->fills[f].set != s->set || row < 0 || row >= side.span) {
            continue;
        }
        for (int32_t i = 0; i < b->fills[f].rows; i++) {
            must(row + i < side.span);
            filled[row + i]++;
            must((i < b->fills[f].used) == (row + i < side.len));
        }
    }
    for (int32_t head = 0; head < side.heads; head++) {
        uint8_t covered[SPAN_MAX] = {0}, rows_seen[SPAN_MAX] = {0};
        for (int64_t t = 0; t < b->size.tiles; t++) {
            int32_t ahead = head - b->tiles[t].head;
            if (b->tiles[t].sequence == number && ahead >= 0 && ahead < heads_of(b)) {
                check_tile(b, &b->tiles[t], covered, rows_seen);
            }
        }
        for (int32_t i = 0; i < side.span; i++) {
            int32_t a = 0, z = 0;
            bool sees_any = i < side.len && seen(b, s, i, &a, &z);
            must(rows_seen[i] == sees_any);
            must(covered[i] + filled[i] == 1);
        }
    }
}

START_TEST(every_row_once)
{
    static struct batch b;
    draw_state = 1;
    for (int i = 0; i < BATCHES / 10; i++) {
        draw_batch(&b);
        for (int32_t s = 0; s < b.count; s++) {
            check_sequence(&b, s);
        }
    }
}
END_TEST

/* Work as a number: heads and visible pairs, cheap enough for every batch. */
START_TEST(every_pair_once)
{
    static struct batch b;
    draw_state = 2;
    for (int i = 0; i < BATCHES; i++) {
        draw_batch(&b);
        struct plan_size bound = plan_bound(&b.shape, b.sequences, b.count);
        must(b.size.tiles <= bound.tiles && b.size.fills <= bound.fills);
        int64_t rows = 0, spans = 0;
        for (int64_t t = 0; t < b.size.tiles; t++) {
            rows += (int64_t)b.tiles[t].rows * heads_of(&b);
        }
        for (int64_t f = 0; f < b.size.fills; f++) {
            rows += (int64_t)b.fills[f].rows *
                    (b.shape.pass == ATTN_FORWARD ? b.shape.hq : b.shape.hkv);
        }
        for (int32_t s = 0; s < b.count; s++) {
            struct side side = side_of(&b, &b.sequences[s]);
            spans += (int64_t)side.span * side.heads;
        }
        must(rows == spans);
    }
}
END_TEST

static int compare_tiles(const void *a, const void *b)
{
    return memcmp(a, b, sizeof(struct plan_tile));
}

/* A sequence's tiles alone and in a batch are the same tiles, whatever stands around it. */
START_TEST(tiles_are_the_sequences_own)
{
    static struct batch b, alone;
    draw_state = 3;
    for (int i = 0; i < 2000; i++) {
        draw_batch(&b);
        for (int32_t s = 0; s < b.count; s++) {
            alone.shape = b.shape;
            alone.size = plan_measure(&b.shape, &b.sequences[s], 1);
            plan_make(&b.shape, &b.sequences[s], 1, alone.tiles, alone.fills);
            static struct plan_tile mine[TILES_MAX];
            int64_t count = 0;
            for (int64_t t = 0; t < b.size.tiles; t++) {
                if (b.tiles[t].sequence == s) {
                    mine[count] = b.tiles[t];
                    if (has_stripes(&b.shape)) {
                        mine[count].stripe = 0;
                    }
                    mine[count++].sequence = 0;
                }
            }
            ck_assert_int_eq(count, alone.size.tiles);
            qsort(mine, (size_t)count, sizeof mine[0], compare_tiles);
            qsort(alone.tiles, (size_t)count, sizeof mine[0], compare_tiles);
            ck_assert_mem_eq(mine, alone.tiles, (size_t)count * sizeof mine[0]);
        }
    }
}
END_TEST

/* How a sequence, or a batch, is listed in one of two plans that share a launch. */
static struct plan_size share(struct plan_shape shape, const struct plan_shape *other,
                              const struct attn_sequence *sequences, int32_t count)
{
    shape.other_q_block = other->q_block;
    shape.other_k_block = other->k_block;
    struct plan_size size = plan_measure(&shape, sequences, count);
    bool any = plan_has_any(&shape, sequences, count);
    must(any || (size.tiles == 0 && size.fills == 0));
    return any ? size : (struct plan_size){-1, -1};
}

/* Each sequence is in one of both plans, as it would be without the other, whatever is beside it.
 */
START_TEST(shared_launches_divide_the_sequences)
{
    static struct batch b;
    int32_t in[2] = {0, 0};
    draw_state = 8;
    for (int i = 0; i < 2000; i++) {
        draw_batch(&b);
        struct plan_shape shapes[2] = {b.shape, b.shape};
        shapes[0].pass = shapes[1].pass = ATTN_FORWARD;
        shapes[0].q_block = 128;
        shapes[1].q_block = 192;
        shapes[0].k_block = 128;
        shapes[1].k_block = 80;
        int64_t tiles[2] = {0, 0};
        for (int32_t s = 0; s < b.count; s++) {
            struct plan_size of[2] = {share(shapes[0], &shapes[1], &b.sequences[s], 1),
                                      share(shapes[1], &shapes[0], &b.sequences[s], 1)};
            int mine = of[1].tiles >= 0;
            must(of[mine].tiles >= 0 && of[1 - mine].tiles < 0);
            must(of[mine].tiles == plan_measure(&shapes[mine], &b.sequences[s], 1).tiles);
            must(of[mine].fills == plan_measure(&shapes[mine], &b.sequences[s], 1).fills);
            tiles[mine] += of[mine].tiles;
            in[mine]++;
        }
        for (int p = 0; p < 2; p++) {
            int64_t all = share(shapes[p], &shapes[1 - p], b.sequences, b.count).tiles;
            must(tiles[p] == (all < 0 ? 0 : all));
        }
    }
    must(in[0] > 100 && in[1] > 100);
}
END_TEST

/* Each query row of each span lies in one stripe, and a tile knows the first of its sequence. */
START_TEST(stripes_cover_the_spans)
{
    static struct batch b;
    static struct plan_stripe stripes[TILES_MAX];
    static int32_t loose[TILES_MAX];
    draw_state = 4;
    for (int i = 0; i < 2000; i++) {
        draw_batch(&b);
        int64_t loose_count = plan_stripes(&b.shape, b.sequences, b.count, stripes, loose);
        int32_t most = b.shape.stripe_rows ? b.shape.stripe_rows : b.shape.q_block;
        int64_t at = 0, loose_at = 0;
        for (int32_t s = 0; s < b.count; s++) {
            const struct attn_sequence *sequence = &b.sequences[s];
            for (int64_t t = 0; t < b.size.tiles; t++) {
                must(!has_stripes(&b.shape) || b.tiles[t].sequence != s || b.tiles[t].stripe == at);
            }
            for (int32_t row = 0; row < sequence->q_span; row += stripes[at++].rows) {
                must(stripes[at].set == sequence->set && stripes[at].rows > 0);
                must(stripes[at].row == sequence->q_first + row);
                must(stripes[at].rows == most || row + stripes[at].rows == sequence->q_span);
                int32_t used = sequence->q_len - row;
                used = used < 0 ? 0 : used < stripes[at].rows ? used : stripes[at].rows;
                must(stripes[at].used == used);
                bool is_loose = loose_at < loose_count && loose[loose_at] == at;
                must(stripes[at].ordered != is_loose);
                loose_at += is_loose;
            }
        }
        must(loose_at == loose_count);
        must(at == plan_stripe_count(&b.shape, b.sequences, b.count));
    }
}
END_TEST

static bool walked(const struct batch *b, int32_t sequence, int32_t stripe)
{
    for (int64_t t = 0; t < b->size.tiles; t++) {
        const struct plan_tile *tile = &b->tiles[t];
        if (tile->sequence == sequence && tile->first <= stripe && stripe < tile->last) {
            return true;
        }
    }
    return false;
}

/* Ordered are all tiles of a sequence and all its stripes, or none; and each stripe has a tile,
 * which writes it. Returns whether. */
static bool check_ordered(const struct batch *b, int32_t sequence,
                          const struct plan_stripe *stripes, int32_t count)
{
    bool ordered = count > 0 && stripes[0].ordered;
    for (int32_t i = 0; i < count; i++) {
        must(stripes[i].ordered == ordered);
        must(!ordered || walked(b, sequence, i));
    }
    for (int64_t t = 0; t < b->size.tiles; t++) {
        must(b->tiles[t].sequence != sequence || (b->tiles[t].ordered != 0) == ordered);
    }
    return ordered;
}

START_TEST(ordered_tiles_write_all_of_a_sequence)
{
    static struct batch b;
    static struct plan_stripe stripes[TILES_MAX];
    static int32_t loose[TILES_MAX];
    int64_t ordered = 0, walked_in_vain = 0;
    draw_state = 6;
    for (int i = 0; i < 5000; i++) {
        draw_batch(&b);
        if (b.shape.pass == ATTN_FORWARD) {
            continue;
        }
        plan_stripes(&b.shape, b.sequences, b.count, stripes, loose);
        const struct plan_stripe *at = stripes;
        for (int32_t s = 0; s < b.count; s++) {
            int32_t count = (b.sequences[s].q_span + b.shape.q_block - 1) / b.shape.q_block;
            bool is = check_ordered(&b, s, at, count);
            must(!is || b.sequences[s].k_len <= b.shape.ordered_keys);
            bool all = count > 0;
            for (int32_t stripe = 0; stripe < count; stripe++) {
                all = all && walked(&b, s, stripe);
            }
            ordered += is;
            walked_in_vain += all && !is && b.sequences[s].k_len <= b.shape.ordered_keys;
            must(!all || is || b.sequences[s].k_len > b.shape.ordered_keys ||
                 b.shape.deterministic);
            at += count;
        }
    }
    must(ordered > 500 && walked_in_vain < ordered);
}
END_TEST

/*
 * A deterministic launch, and any with ordered tiles, ends with any number of resident CTAs from
 * PLAN_GROUP up, because a tile waits only for tiles that stand before it, or in its own group of
 * neighbours: with a right edge for later keys, with only a left one, or tiles of more keys than a
 * step has queries, or where nobody goes round, for earlier keys, else for the groups before its
 * own and for members of its own, which lie within PLAN_GROUP entries of the list. entries of the
 * list.
 */
static bool waits_in_order(const struct batch *b, const struct plan_tile *tile,
                           const struct plan_tile *other)
{
    const struct attn_mask *mask = &b->shape.mask;
    int32_t group = tile->row / b->shape.k_block / PLAN_GROUP;
    int32_t other_group = other->row / b->shape.k_block / PLAN_GROUP;
    if (mask->has_right) {
        return other->row < tile->row || other <= tile;
    }
    if (mask->has_left || b->shape.k_block > b->shape.q_block || !b->shape.deterministic) {
        return other->row > tile->row || other <= tile;
    }
    if (group == other_group) {
        return other - tile < PLAN_GROUP && tile - other < PLAN_GROUP;
    }
    return other_group > group || other < tile;
}

static void check_waits(const struct batch *b)
{
    for (int64_t t = 0; t < b->size.tiles; t++) {
        for (int64_t u = 0; u < b->size.tiles; u++) {
            const struct plan_tile *tile = &b->tiles[t], *other = &b->tiles[u];
            bool related = tile->sequence == other->sequence && tile->head == other->head &&
                           (tile->ordered || b->shape.deterministic);
            must(!related || waits_in_order(b, tile, other));
        }
    }
}

START_TEST(a_tile_waits_only_for_tiles_before_it_or_in_its_group)
{
    static struct batch b;
    draw_state = 5;
    for (int i = 0; i < 2000; i++) {
        draw_batch(&b);
        if (b.shape.pass == ATTN_BACKWARD) {
            check_waits(&b);
        }
    }
    /* Two and a half groups of each head. */
    for (int mask = 0; mask < 3; mask++) {
        int32_t len = 64 * PLAN_GROUP * 5 / 2;
        b.shape = (struct plan_shape){.pass = ATTN_BACKWARD,
                                      .mask = {.has_left = mask == 2, .has_right = mask == 1},
                                      .hq = 6,
                                      .hkv = 3,
                                      .q_block = 64,
                                      .k_block = 64,
                                      .walked_bytes = 1024,
                                      .deterministic = true};
        b.sequences[0] =
            (struct attn_sequence){.q_len = len, .k_len = len, .q_span = len, .k_span = len};
        b.size = plan_measure(&b.shape, b.sequences, 1);
        must(b.size.tiles == 3 * PLAN_GROUP * 5 / 2);
        plan_make(&b.shape, b.sequences, 1, b.tiles, b.fills);
        check_waits(&b);
    }
}
END_TEST

/*
 * Where tiles of a head add to dQ one behind the other, neighbours of the list are of different
 * heads, as many as fit L2: here 4 of 8 MB.
 */
START_TEST(tiles_in_turn_do_not_begin_together)
{
    enum { HEADS = 8, TOGETHER = 4, LENGTH = 8192 };
    static struct batch b;
    for (int causal = 0; causal < 2; causal++) {
        b.shape = (struct plan_shape){.pass = ATTN_BACKWARD,
                                      .mask = {.has_right = causal},
                                      .hq = HEADS,
                                      .hkv = HEADS,
                                      .q_block = 64,
                                      .k_block = 128,
                                      .walked_bytes = 1024,
                                      .deterministic = true};
        b.sequences[0] = (struct attn_sequence){
            .q_len = LENGTH, .k_len = LENGTH, .q_span = LENGTH, .k_span = LENGTH};
        b.size = plan_measure(&b.shape, b.sequences, 1);
        must(b.size.tiles == HEADS * LENGTH / 128);
        plan_make(&b.shape, b.sequences, 1, b.tiles, b.fills);
        for (int64_t t = 0; t < b.size.tiles; t++) {
            int64_t group = t / (TOGETHER * LENGTH / 128);
            must(b.tiles[t].head == group * TOGETHER + t % TOGETHER);
        }
    }
}
END_TEST

/*
 * Nor do those of short ordered sequences: before the second tile of a head come the first ones of
 * as many heads as fit L2, of up to two sequences. Here 32 MB are 128 heads of 256 rows: all of two
 * sequences with 16 heads or 64, of one with 128, half of one with 256.
 */
START_TEST(ordered_sequences_are_listed_together)
{
    enum { SEQUENCES = 4, LENGTH = 256 };
    static const int32_t heads[] = {16, 64, 128, 256}, distances[] = {32, 128, 128, 128};
    static struct batch b;
    for (int i = 0; i < 8; i++) {
        int32_t distance = distances[i / 2];
        b.shape = (struct plan_shape){.pass = ATTN_BACKWARD,
                                      .mask = {.has_right = i % 2},
                                      .hq = heads[i / 2],
                                      .hkv = heads[i / 2],
                                      .q_block = 64,
                                      .k_block = 128,
                                      .walked_bytes = 1024,
                                      .ordered_keys = 1024};
        b.count = SEQUENCES;
        for (int32_t s = 0; s < SEQUENCES; s++) {
            b.sequences[s] = (struct attn_sequence){.q_first = s * LENGTH,
                                                    .k_first = s * LENGTH,
                                                    .q_len = LENGTH,
                                                    .k_len = LENGTH,
                                                    .q_span = LENGTH,
                                                    .k_span = LENGTH};
        }
        b.size = plan_measure(&b.shape, b.sequences, SEQUENCES);
        must(b.size.tiles == 2 * SEQUENCES * heads[i / 2]);
        plan_make(&b.shape, b.sequences, SEQUENCES, b.tiles, b.fills);
        for (int64_t t = 0; t < b.size.tiles; t++) {
            const struct plan_tile *tile = &b.tiles[t];
            bool first = (tile->row == 0) == !b.shape.mask.has_right;
            const struct plan_tile *other = first ? tile + distance : tile - distance;
            must(other->head == tile->head && other->sequence == tile->sequence &&
                 other->row != tile->row);
        }
    }
}
END_TEST

/* The last tiles of a causal launch are its shortest: no SM works alone at the end. */
START_TEST(long_tiles_start_first)
{
    struct plan_shape shape = {.pass = ATTN_FORWARD,
                               .mask = {.has_right = true},
                               .hq = 4,
                               .hkv = 4,
                               .q_block = 128,
                               .k_block = 128,
                               .walked_bytes = 512};
    struct attn_sequence sequences[2] = {{.q_len = 500, .k_len = 500, .q_span = 500, .k_span = 500},
                                         {.index = 1,
                                          .q_first = 500,
                                          .k_first = 500,
                                          .q_len = 4096,
                                          .k_len = 4096,
                                          .q_span = 4096,
                                          .k_span = 4096}};
    static struct plan_tile tiles[TILES_MAX];
    static struct plan_fill fills[TILES_MAX];
    struct plan_size size = plan_measure(&shape, sequences, 2);
    plan_make(&shape, sequences, 2, tiles, fills);
    ck_assert_int_eq(size.tiles, (4 + 32) * 4);
    ck_assert_int_eq(tiles[0].sequence, 1);
    for (int64_t t = 1; t < size.tiles; t++) {
        bool same = tiles[t].sequence == tiles[t - 1].sequence;
        ck_assert(!same || tiles[t].last <= tiles[t - 1].last);
    }
    ck_assert_int_eq(tiles[size.tiles - 1].sequence, 0);
}
END_TEST

/* A causal forward lists the tiles at one place of all heads that it takes together, then the next
 * ones: as many heads as fit L2, or eight that do not by much. Here one has 2, 8 or 16 MB. */
START_TEST(a_forward_takes_heads_together)
{
    enum { HEADS = 32, LENGTH = 8192, BLOCKS = LENGTH / 128 };
    const int32_t walked_bytes[] = {256, 1024, 2048}, together[] = {16, 8, 2};
    static struct batch b;
    for (int i = 0; i < 3; i++) {
        b.shape = (struct plan_shape){.pass = ATTN_FORWARD,
                                      .mask = {.has_right = true},
                                      .hq = HEADS,
                                      .hkv = HEADS,
                                      .q_block = 128,
                                      .k_block = 128,
                                      .walked_bytes = walked_bytes[i]};
        b.sequences[0] = (struct attn_sequence){
            .q_len = LENGTH, .k_len = LENGTH, .q_span = LENGTH, .k_span = LENGTH};
        b.size = plan_measure(&b.shape, b.sequences, 1);
        must(b.size.tiles == HEADS * BLOCKS);
        plan_make(&b.shape, b.sequences, 1, b.tiles, b.fills);
        for (int64_t t = 0; t < b.size.tiles; t++) {
            int64_t group = t / (together[i] * BLOCKS);
            must(b.tiles[t].head == group * together[i] + t % together[i]);
            must(b.tiles[t].row == 128 * (BLOCKS - 1 - t / together[i] % BLOCKS));
        }
    }
}
END_TEST

static int64_t work(const struct plan_tile *tile)
{
    return 1 + tile->last - tile->first;
}

/* Whole lists of one long sequence, cut: nothing is lost, no part is much more than its share, and
 * tiles that wait for one another stay together. */
START_TEST(parts_are_even_and_leave_groups_whole)
{
    enum { CTAS = 12, PARTS_MAX = 9, ROWS = 30000 };
    static struct plan_tile tiles[TILES_MAX];
    static struct plan_fill fills[TILES_MAX];
    int64_t cuts[PARTS_MAX + 1];
    for (int form = 0; form < 8; form++) {
        struct plan_shape shape = {.pass = form & 1 ? ATTN_BACKWARD : ATTN_FORWARD,
                                   .mask = {.has_right = form >> 1 & 1},
                                   .hq = 4,
                                   .hkv = 2,
                                   .q_block = 128,
                                   .k_block = 128,
                                   .walked_bytes = 512,
                                   .deterministic = form == 5 || form == 7};
        const struct attn_sequence one = {
            .q_len = ROWS, .k_len = ROWS, .q_span = ROWS, .k_span = ROWS};
        int64_t count = plan_measure(&shape, &one, 1).tiles, total = 0;
        ck_assert_int_le(count, TILES_MAX);
        plan_make(&shape, &one, 1, tiles, fills);
        for (int64_t t = 0; t < count; t++) {
            total += work(&tiles[t]);
        }
        bool groups = shape.deterministic && !shape.mask.has_right;
        for (int32_t parts = 1; parts <= PARTS_MAX; parts++) {
            plan_cut(&shape, tiles, count, parts, CTAS, cuts);
            must(cuts[0] == 0 && cuts[parts] == count);
            for (int32_t p = 0; p < parts; p++) {
                int64_t sum = 0;
                must(cuts[p] <= cuts[p + 1]);
                for (int64_t t = cuts[p]; t < cuts[p + 1]; t++) {
                    sum += work(&tiles[t]);
                }
                int64_t slack = (1 + (groups ? PLAN_GROUP : CTAS)) * (int64_t)(2 + ROWS / 128);
                must(sum <= total / parts + slack);
                must(groups || cuts[p] == count || cuts[p] % CTAS == 0);
                must(!groups || cuts[p] == count || tiles[cuts[p]].row / 128 % PLAN_GROUP == 0);
            }
        }
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("plan");
    TCase *all = tcase_create("all");
    tcase_set_timeout(all, 60);
    tcase_add_test(all, every_row_once);
    tcase_add_test(all, every_pair_once);
    tcase_add_test(all, tiles_are_the_sequences_own);
    tcase_add_test(all, shared_launches_divide_the_sequences);
    tcase_add_test(all, stripes_cover_the_spans);
    tcase_add_test(all, ordered_tiles_write_all_of_a_sequence);
    tcase_add_test(all, a_tile_waits_only_for_tiles_before_it_or_in_its_group);
    tcase_add_test(all, tiles_in_turn_do_not_begin_together);
    tcase_add_test(all, ordered_sequences_are_listed_together);
    tcase_add_test(all, long_tiles_start_first);
    tcase_add_test(all, a_forward_takes_heads_together);
    tcase_add_test(all, parts_are_even_and_leave_groups_whole);
    suite_add_tcase(suite, all);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
