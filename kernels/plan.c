/*
 * plan.c: a counting sort. The first walk over all blocks counts tiles per bucket, the second
 * writes each tile at its bucket's cursor. A bucket holds the sequences of one length, to an eighth
 * of an octave; inside it tiles keep the order of the walk. O(blocks * heads), nothing allocated.
 */
#include "kernels/plan.h"

#include <assert.h>
#include <string.h>

/* Lengths up to 2^31 blocks: 32 octaves of 8. */
enum { OCTAVE_BUCKETS = 8, BUCKETS = 32 * OCTAVE_BUCKETS };

/* What tiles walk at the same time: half of an H200's 60 MB of L2. */
enum { L2_BYTES = 32 << 20, FORWARD_HEADS = 8 };

/* Ordered sequences whose tiles are listed together, at most: see walk_together. */
enum { TOGETHER = 2 };

/* A range of rows or blocks, empty when last <= first. */
struct range {
    int64_t first, last;
};

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t most(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

/*
 * Query i sees key j iff  i + shift - left <= j <= i + shift + right. Seen from the rows of a tile,
 * forward or backward, the other side is an interval around row + shift; before and after are how
 * far it reaches down and up, or endless.
 */
struct side {
    int64_t len, span;     /* of the tile's side */
    int64_t other_len;     /* of the side it walks */
    int64_t shift;         /* other row = row + shift on the mask's diagonal */
    bool has_down, has_up; /* is the reach bounded? */
    int64_t down, up;
    int64_t block, other_block;
};

static struct side side_of(const struct plan_shape *shape, const struct attn_sequence *sequence)
{
    const struct attn_mask *mask = &shape->mask;
    int64_t shift = (int64_t)sequence->k_len - sequence->q_len;
    if (shape->pass == ATTN_FORWARD) {
        return (struct side){sequence->q_len, sequence->q_span, sequence->k_len, shift,
                             mask->has_left,  mask->has_right,  mask->left,      mask->right,
                             shape->q_block,  shape->k_block};
    }
    return (struct side){sequence->k_len, sequence->k_span, sequence->q_len, -shift,
                         mask->has_right, mask->has_left,   mask->right,     mask->left,
                         shape->k_block,  shape->q_block};
}

/* Other rows that at least one of the rows [row, end) sees. */
static struct range seen_by_any(const struct side *side, int64_t row, int64_t end)
{
    struct range seen = {0, side->other_len};
    if (side->has_down) {
        seen.first = most(seen.first, row + side->shift - side->down);
    }
    if (side->has_up) {
        seen.last = least(seen.last, end - 1 + side->shift + side->up + 1);
    }
    return seen;
}

/* Other rows that all of the rows [row, end) see. */
static struct range seen_by_all(const struct side *side, int64_t row, int64_t end)
{
    struct range seen = {0, side->other_len};
    if (side->has_down) {
        seen.first = most(seen.first, end - 1 + side->shift - side->down);
    }
    if (side->has_up) {
        seen.last = least(seen.last, row + side->shift + side->up + 1);
    }
    return seen;
}

/* Block bounds of the tile at row; false if its rows see nothing. */
static bool tile_at(const struct plan_shape *shape, const struct side *side, int64_t row,
                    struct plan_tile *tile)
{
    int64_t end = least(row + side->block, side->len);
    struct range any = seen_by_any(side, row, end);
    if (row >= end || any.last <= any.first) {
        return false;
    }
    int64_t b = side->other_block;
    struct range walk = {any.first / b, ceil_div(any.last, b)};
    struct range all = seen_by_all(side, row, end);
    struct range clear = {ceil_div(most(all.first, 0), b), most(all.last, 0) / b};
    if (shape->pass == ATTN_BACKWARD) {
        /* Queries past the end have lse = +inf and need no mask; keys past the end do. */
        clear.last = all.last == side->other_len ? ceil_div(all.last, b) : clear.last;
        clear.last = row + side->block <= side->len ? clear.last : clear.first;
    }
    clear.first = most(clear.first, walk.first);
    clear.last = least(clear.last, walk.last);
    if (clear.last <= clear.first) {
        clear.first = clear.last = walk.first;
    }
    *tile = (struct plan_tile){
        .row = (int32_t)row,
        .rows = (int16_t)(least(row + side->block, side->span) - row),
        .first = (int32_t)walk.first,
        .last = (int32_t)walk.last,
        .clear_first = (int32_t)clear.first,
        .clear_last = (int32_t)clear.last,
    };
    return true;
}

/* Bucket 0 holds the most blocks. */
static int bucket_of(int64_t blocks)
{
    int octave = 0;
    while (blocks >> (octave + 1) != 0) {
        octave++;
    }
    int64_t part = (blocks - ((int64_t)1 << octave)) * OCTAVE_BUCKETS >> octave;
    return BUCKETS - 1 - (octave * OCTAVE_BUCKETS + (int)part);
}

/* Of a sequence, and of the first stripe of its queries; and whether its tiles are ordered. */
struct numbers {
    int32_t sequence, stripe;
    bool ordered;
};

/* Sequences of one bucket that wait to be listed together. */
struct together {
    struct numbers of[TOGETHER];
    int count;
};

/*
 * The walk both passes of the sort share. Rows without a tile go to fills (NULL: only counted), in
 * runs of one block. Tiles are counted per bucket, or written at the bucket's cursor.
 */
struct walk {
    const struct plan_shape *shape;
    const struct attn_sequence *sequences;
    int64_t *bucket; /* BUCKETS counters or cursors */
    struct plan_tile *tiles;
    struct plan_fill *fills;
    int64_t fill_count;
    struct together together[BUCKETS];
};

static void put_tile(struct walk *walk, const struct plan_tile *tile, int32_t head, int bucket)
{
    int64_t at = walk->bucket[bucket]++;
    if (walk->tiles != NULL) {
        walk->tiles[at] = *tile;
        walk->tiles[at].head = head;
    }
}

static void put_fill(struct walk *walk, int32_t set, struct range rows, int64_t used)
{
    if (walk->fills != NULL) {
        walk->fills[walk->fill_count] =
            (struct plan_fill){set, (int32_t)rows.first, (int32_t)(rows.last - rows.first),
                               (int32_t)most(0, least(used, rows.last - rows.first))};
    }
    walk->fill_count++;
}

static void set_sequence(const struct plan_shape *shape, struct plan_tile *tile,
                         const struct attn_sequence *sequence, struct numbers numbers)
{
    tile->set = sequence->set;
    tile->sequence = numbers.sequence;
    tile->ordered = numbers.ordered;
    if (shape->pass == ATTN_BACKWARD || shape->stripe_rows > 0) {
        tile->stripe = numbers.stripe;
    }
    tile->q_first = (int32_t)sequence->q_first;
    tile->q_len = sequence->q_len;
    tile->q_span = sequence->q_span;
    tile->k_first = (int32_t)sequence->k_first;
    tile->k_len = sequence->k_len;
    tile->k_span = sequence->k_span;
}

/* kv heads [first, last) of a sequence. */
struct heads {
    int32_t first, last;
};

/*
 * Long tiles sit at high rows when the reach up is bounded (causal). Tiles that add to dQ in turns
 * begin, with a right edge, which there bounds the reach down, with the last keys.
 */
static int64_t block_row(const struct plan_shape *shape, const struct side *side, int64_t i,
                         bool ordered)
{
    int64_t blocks = ceil_div(side->len, side->block);
    bool descend = shape->deterministic || ordered ? side->has_down : side->has_up;
    return (descend ? blocks - 1 - i : i) * side->block;
}

static int side_bucket(const struct side *side)
{
    return bucket_of(most(1, ceil_div(side->other_len, side->other_block)));
}

static int32_t tile_heads(const struct plan_shape *shape)
{
    return shape->tile_heads > 1 ? shape->tile_heads : 1;
}

static void walk_group(struct walk *walk, const struct side *side, struct heads heads,
                       struct range blocks, struct numbers numbers)
{
    const struct plan_shape *shape = walk->shape;
    const struct attn_sequence *sequence = &walk->sequences[numbers.sequence];
    int32_t q_heads = shape->pass == ATTN_FORWARD ? shape->hq / shape->hkv : 1;
    int32_t step = tile_heads(shape);
    int bucket = side_bucket(side);
    for (int64_t i = blocks.first; i < blocks.last; i++) {
        struct plan_tile tile;
        if (!tile_at(shape, side, block_row(shape, side, i, numbers.ordered), &tile)) {
            continue;
        }
        set_sequence(shape, &tile, sequence, numbers);
        for (int32_t head = heads.first * q_heads; head < heads.last * q_heads; head += step) {
            put_tile(walk, &tile, head, bucket);
        }
    }
}

/*
 * Blocks that are listed for all heads before the next ones are. Where a deterministic backward
 * without mask has a cyclic order (common/turn says where), it adds to dQ group after group, so
 * that a second group of a head would only wait for the first.
 */
static bool cyclic(const struct plan_shape *shape)
{
    return shape->deterministic && !shape->mask.has_left && !shape->mask.has_right &&
           shape->k_block <= shape->q_block;
}

/*
 * How many kv heads are worked on at the same time: as many as fit L2 when tiles are unequal (the
 * long ones of all of them first) or add to dQ in turn, one behind the other, where neighbours of
 * one head that begin together would wait; else one: its tiles run in step through the same rows.
 * Fewer than eight heads are many tiles of one head, each at another place of its keys. A forward
 * then rather takes eight, if twice as much will do: at d 192 and d 256, 4 x 8192 causal, 3 %.
 */
static int32_t group_heads(const struct plan_shape *shape, const struct side *side, bool ordered)
{
    bool unequal = side->has_up != side->has_down;
    bool together = ordered || (shape->deterministic ? !cyclic(shape) : unequal);
    int64_t walked = shape->pass == ATTN_FORWARD ? 1 : shape->hq / shape->hkv;
    int64_t bytes = most(side->other_len * walked * shape->walked_bytes, 1);
    bool more = shape->pass == ATTN_FORWARD && FORWARD_HEADS * bytes <= 2 * L2_BYTES;
    return together ? (int32_t)most(more ? FORWARD_HEADS : 1, L2_BYTES / bytes) : 1;
}

static int64_t stripe_rows(const struct plan_shape *shape)
{
    return shape->stripe_rows > 0 ? shape->stripe_rows : shape->q_block;
}

static int64_t stripes_of(const struct plan_shape *shape, const struct attn_sequence *sequence)
{
    return ceil_div(sequence->q_span, stripe_rows(shape));
}

/* Each block of the queries' span must be walked by some tile, and those that walk it have an order
 * that a tile knows its place in without asking. */
static bool ordered(const struct plan_shape *shape, const struct attn_sequence *sequence)
{
    if (sequence->k_len > shape->ordered_keys || cyclic(shape)) {
        return false;
    }
    struct side side = side_of(shape, sequence);
    int64_t walked = 0;
    for (int64_t row = 0; row < side.len; row += side.block) {
        struct plan_tile tile;
        if (tile_at(shape, &side, row, &tile) && tile.first <= walked) {
            walked = most(walked, tile.last);
        }
    }
    return side.len > 0 && walked == stripes_of(shape, sequence);
}

static int64_t run_blocks(const struct plan_shape *shape, int64_t blocks)
{
    return cyclic(shape) ? PLAN_GROUP : most(blocks, 1);
}

static void walk_heads(struct walk *walk, const struct side *side, struct numbers numbers)
{
    int32_t hkv = walk->shape->hkv;
    int32_t step = group_heads(walk->shape, side, numbers.ordered);
    int64_t blocks = ceil_div(side->len, side->block);
    int64_t run = run_blocks(walk->shape, blocks);
    for (int64_t first = 0; first < blocks; first += run) {
        for (int32_t head = 0; head < hkv; head += step) {
            struct heads heads = {head, step < hkv - head ? head + step : hkv};
            walk_group(walk, side, heads, (struct range){first, least(first + run, blocks)},
                       numbers);
        }
    }
}

/*
 * The first block of each of these sequences, for all heads, then their second ones. The next tile
 * of a head, which takes its turns behind this one, begins later by as much: 132 CTAs draw 16 heads
 * of short documents in 1.7 us, and a turn comes 2 us after that of the tile before (of two
 * sequences 3 % faster, of four no more than that, and slower where memory binds).
 */
static void walk_together(struct walk *walk, struct together *together)
{
    struct heads all = {0, walk->shape->hkv};
    bool more = together->count > 0;
    for (int64_t i = 0; more; i++) {
        more = false;
        for (int s = 0; s < together->count; s++) {
            struct numbers numbers = together->of[s];
            struct side side = side_of(walk->shape, &walk->sequences[numbers.sequence]);
            int64_t last = least(i + 1, ceil_div(side.len, side.block));
            walk_group(walk, &side, all, (struct range){i, last}, numbers);
            more = more || last > i;
        }
    }
    together->count = 0;
}

/* The tiles of a sequence; those of an ordered one when as many wait with it as fit L2. */
static void walk_sequence(struct walk *walk, const struct side *side, struct numbers numbers)
{
    int64_t fit = numbers.ordered ? group_heads(walk->shape, side, true) / walk->shape->hkv : 1;
    if (fit <= 1) {
        walk_heads(walk, side, numbers);
        return;
    }
    struct together *together = &walk->together[side_bucket(side)];
    together->of[together->count++] = numbers;
    if (together->count >= least(fit, TOGETHER)) {
        walk_together(walk, together);
    }
}

static void walk_fills(struct walk *walk, const struct side *side,
                       const struct attn_sequence *sequence)
{
    int64_t first = walk->shape->pass == ATTN_FORWARD ? sequence->q_first : sequence->k_first;
    for (int64_t row = 0; row < side->span; row += side->block) {
        struct plan_tile tile;
        if (!tile_at(walk->shape, side, row, &tile)) {
            int64_t end = least(row + side->block, side->span);
            put_fill(walk, sequence->set, (struct range){first + row, first + end},
                     side->len - row);
        }
    }
}

/*
 * The time of a sequence without mask in these tiles, in scores: a tile takes that of TILE_SCORES
 * besides its blocks; of the last one's blocks, the idle consumers' half is gained. Fitted to
 * batches of 256 to 2048 tokens a sequence in tiles of 128 x 128 and 192 x 80, within 5 %.
 */
static int64_t cost_of(const struct plan_shape *shape, int64_t q_block, int64_t k_block,
                       const struct attn_sequence *sequence)
{
    enum { TILE_SCORES = 27 << 10, CONSUMER_ROWS = 64 };
    int64_t heads = tile_heads(shape), tiles = ceil_div(sequence->q_len, q_block);
    int64_t rows = ceil_div(sequence->q_len * heads, CONSUMER_ROWS) * CONSUMER_ROWS;
    int64_t keys = ceil_div(sequence->k_len, k_block) * k_block;
    return tiles * TILE_SCORES + keys * (tiles * q_block * heads + rows) / 2;
}

static bool suits(const struct plan_shape *shape, const struct attn_sequence *sequence)
{
    if (shape->other_q_block == 0) {
        return true;
    }
    int64_t here = cost_of(shape, shape->q_block, shape->k_block, sequence);
    int64_t there = cost_of(shape, shape->other_q_block, shape->other_k_block, sequence);
    return here < there || (here == there && shape->q_block > shape->other_q_block);
}

bool plan_has_any(const struct plan_shape *shape, const struct attn_sequence *sequences,
                  int32_t count)
{
    for (int32_t s = 0; s < count; s++) {
        if (suits(shape, &sequences[s])) {
            return true;
        }
    }
    return false;
}

static void walk_all(struct walk *walk, int32_t count)
{
    const struct attn_sequence *sequences = walk->sequences;
    int64_t stripe = 0;
    for (int32_t s = 0; s < count; s++) {
        struct side side = side_of(walk->shape, &sequences[s]);
        struct numbers numbers = {s, (int32_t)stripe,
                                  walk->shape->pass == ATTN_BACKWARD &&
                                      ordered(walk->shape, &sequences[s])};
        if (suits(walk->shape, &sequences[s])) {
            walk_sequence(walk, &side, numbers);
            walk_fills(walk, &side, &sequences[s]);
        }
        stripe += stripes_of(walk->shape, &sequences[s]);
    }
    for (int i = 0; i < BUCKETS; i++) {
        walk_together(walk, &walk->together[i]);
    }
}

static int64_t tile_count(const int64_t bucket[BUCKETS])
{
    int64_t tiles = 0;
    for (int i = 0; i < BUCKETS; i++) {
        tiles += bucket[i];
    }
    return tiles;
}

struct plan_size plan_measure(const struct plan_shape *shape, const struct attn_sequence *sequences,
                              int32_t count)
{
    int64_t bucket[BUCKETS] = {0};
    struct walk walk = {.shape = shape, .sequences = sequences, .bucket = bucket};
    walk_all(&walk, count);
    return (struct plan_size){tile_count(bucket), walk.fill_count};
}

struct plan_size plan_bound(const struct plan_shape *shape, const struct attn_sequence *sequences,
                            int32_t count)
{
    struct plan_size bound = {0, 0};
    int64_t heads = shape->pass == ATTN_FORWARD ? shape->hq / tile_heads(shape) : shape->hkv;
    for (int32_t s = 0; s < count; s++) {
        struct side side = side_of(shape, &sequences[s]);
        bound.tiles += ceil_div(side.len, side.block) * heads;
        bound.fills += ceil_div(side.span, side.block);
    }
    return bound;
}

int64_t plan_stripe_count(const struct plan_shape *shape, const struct attn_sequence *sequences,
                          int32_t count)
{
    int64_t stripes = 0;
    for (int32_t s = 0; s < count; s++) {
        stripes += stripes_of(shape, &sequences[s]);
    }
    return stripes;
}

int64_t plan_stripes(const struct plan_shape *shape, const struct attn_sequence *sequences,
                     int32_t count, struct plan_stripe *stripes, int32_t *loose)
{
    int64_t at = 0, loose_count = 0;
    for (int32_t s = 0; s < count; s++) {
        const struct attn_sequence *sequence = &sequences[s];
        bool in_order = ordered(shape, sequence);
        for (int64_t row = 0; row < sequence->q_span; row += stripe_rows(shape)) {
            int64_t rows = least(stripe_rows(shape), sequence->q_span - row);
            int64_t used = most(0, least(rows, sequence->q_len - row));
            if (!in_order) {
                loose[loose_count++] = (int32_t)at;
            }
            stripes[at++] = (struct plan_stripe){sequence->set, (int32_t)(sequence->q_first + row),
                                                 (int16_t)rows, (int16_t)used, in_order};
        }
    }
    return loose_count;
}

void plan_make(const struct plan_shape *shape, const struct attn_sequence *sequences, int32_t count,
               struct plan_tile *tiles, struct plan_fill *fills)
{
    int64_t bucket[BUCKETS] = {0};
    struct walk counting = {.shape = shape, .sequences = sequences, .bucket = bucket};
    walk_all(&counting, count);
    int64_t cursor = 0;
    for (int i = 0; i < BUCKETS; i++) {
        int64_t here = bucket[i];
        bucket[i] = cursor;
        cursor += here;
    }
    struct walk writing = {
        .shape = shape, .sequences = sequences, .bucket = bucket, .tiles = tiles, .fills = fills};
    walk_all(&writing, count);
    assert(writing.fill_count == counting.fill_count);
}

static int64_t work_of(const struct plan_tile *tile)
{
    return 1 + tile->last - tile->first;
}

/* The place of a cut near tile `at`, which is where the work says, and not before `least_at`. */
static int64_t settle_cut(const struct plan_shape *shape, const struct plan_tile *tiles,
                          int64_t count, int64_t round, int64_t at, int64_t least_at)
{
    if (cyclic(shape)) {
        while (at < count && tiles[at].row / shape->k_block % PLAN_GROUP != 0) {
            at++;
        }
    } else if (count >= 8 * round) { /* moved by half of that: a sixteenth of the list at most */
        at = (at + round / 2) / round * round;
    }
    return most(least_at, least(at, count));
}

void plan_cut(const struct plan_shape *shape, const struct plan_tile *tiles, int64_t count,
              int32_t parts, int64_t round, int64_t *cuts)
{
    int64_t total = 0;
    for (int64_t t = 0; t < count; t++) {
        total += work_of(&tiles[t]);
    }
    int64_t before = 0, at = 0;
    cuts[0] = 0;
    for (int32_t p = 1; p < parts; p++) {
        int64_t share = (int64_t)((double)total * p / parts);
        while (at < count && before < share) {
            before += work_of(&tiles[at++]);
        }
        cuts[p] = settle_cut(shape, tiles, count, round, at, cuts[p - 1]);
    }
    cuts[parts] = count;
}
