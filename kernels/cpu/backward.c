/*
 * backward.c: dq, dk, dv and dsink of attn.h, for every sequence of a launch. Three rounds:
 *
 *   prepare   per q head of a sequence: delta_i = <do_i, o_i> - dlse_i, dsink, dq sums set to 0
 *   products  per tile of keys of a kv head: walks the heads of the group and the query rows that
 *             see the tile, recomputes p_ij = exp(s_ij - lse_i), and adds
 *                 dv_j += sum_i p_ij do_i       ds_ij = p_ij (<do_i, v_j> - delta_i) slope_ij
 *                 dk_j += sum_i ds_ij q_i       dq_i += sum_j ds_ij k_j
 *             slope_ij is 1 - tanh^2 with a softcap, else 1. The scale is applied at the end.
 *   finish    per q head of a sequence: dq sums are scaled and written
 *
 * dk and dv belong to one item. A row of dq gets a part from each tile of keys, in the tiles' order
 * (turn.h), so its bits do not depend on who came first. Items of one sequence and head are handed
 * out in that order too, which is longest first with a causal mask. A launch in parts (attn.h)
 * prepares in the first and finishes in the last; what is between lives in the scratch.
 */
#include <math.h>
#include <string.h>

#include "kernels/cpu/agenda.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/tile.h"
#include "kernels/cpu/turn.h"

enum { KEYS = BACKWARD_KEYS };

/* Prepare and finish touch each row of q a few times, products a few times per key: some hundredth
 * of the work, and worth waking that many fewer threads. */
enum { SIDE_SHARE = 64 };

struct backward {
    struct attn_context *context;
    const struct attn_launch *launch;
    struct agenda by_head;   /* prepare and finish */
    struct agenda by_keys;   /* products */
    struct agenda_part part; /* of those */
    float *delta;            /* (hq, q_len) per sequence, in the agenda's order */
    float *dq;               /* (hq, q_len, d) per sequence, likewise */
    turn *turns;             /* (hq, tiles of q_len) per sequence, likewise */
};

/* The parts of a backward's scratch, and its size in all. */
struct layout {
    size_t by_head, by_keys, delta, dq, turns, bytes;
};

static struct layout layout_of(const struct attn_launch *launch)
{
    size_t rows = 0;
    size_t tiles = 0;
    for (int32_t s = 0; s < launch->sequence_count; s++) {
        rows += (size_t)launch->sequences[s].q_len;
        tiles += (size_t)tiles_of(launch->sequences[s].q_len, TILE_ROWS);
    }
    size_t hq = (size_t)launch->shape.hq;
    struct layout at = {0};
    at.by_keys = at.by_head + agenda_bytes(launch);
    at.delta = at.by_keys + agenda_bytes(launch);
    at.dq = at.delta + rows * hq * sizeof(float);
    at.turns = at.dq + rows * hq * (size_t)launch->shape.d * sizeof(float);
    at.bytes = at.turns + tiles * hq * sizeof(turn);
    return at;
}

/* One q head of one sequence. */
struct strip {
    const struct attn_context *context;
    const struct attn_shape *shape;
    const struct attn_set *set;
    const struct attn_sequence *sequence;
    struct worker *worker;
    int32_t head;
    float *delta; /* q_len */
    float *dq;    /* q_len x d */
    turn *turns;  /* per tile of rows */
};

static struct strip strip_of(const struct backward *b, const struct agenda_entry *entry,
                             int32_t head, int worker)
{
    const struct attn_shape *shape = &b->launch->shape;
    const struct attn_sequence *s = &b->launch->sequences[entry->sequence];
    int64_t row = entry->first_row * shape->hq + (int64_t)head * s->q_len;
    int64_t tile = entry->first_tile * shape->hq + (int64_t)head * tiles_of(s->q_len, TILE_ROWS);
    return (struct strip){.context = b->context,
                          .shape = shape,
                          .set = &b->launch->sets[s->set],
                          .sequence = s,
                          .worker = &b->context->workers[worker],
                          .head = head,
                          .delta = b->delta + row,
                          .dq = b->dq + row * shape->d,
                          .turns = b->turns + tile};
}

/* ---- prepare ---- */

static void prepare_delta(const struct strip *t, struct range rows)
{
    const struct attn_shape *shape = t->shape;
    int64_t first = t->sequence->q_first + rows.first;
    int32_t count = range_length(rows);
    struct matrix grad = tile_load(t->context, shape->dtype, &t->set->do_, first, count, t->head,
                                   shape->dv, t->worker->rows[0]);
    struct matrix out = tile_load(t->context, shape->dtype, &t->set->o, first, count, t->head,
                                  shape->dv, t->worker->rows[1]);
    for (int32_t i = 0; i < count; i++) {
        t->delta[rows.first + i] =
            t->context->vector->dot(matrix_row(grad, i), matrix_row(out, i), shape->dv);
    }
}

static void copy_delta(const struct strip *t)
{
    for (int32_t i = 0; i < t->sequence->q_len; i++) {
        t->delta[i] = *statistic_at(&t->set->delta, t->sequence->q_first + i, t->head);
    }
}

static void subtract_dlse(const struct strip *t)
{
    for (int32_t i = 0; i < t->sequence->q_len; i++) {
        t->delta[i] -= *statistic_at(&t->set->dlse, t->sequence->q_first + i, t->head);
    }
}

static void write_dsink(const struct strip *t)
{
    double sum = 0;
    for (int32_t i = 0; i < t->sequence->q_len; i++) {
        float lse = *statistic_at(&t->set->lse, t->sequence->q_first + i, t->head);
        if (lse != -INFINITY) {
            sum -= (double)expf(t->set->sink[t->head] - lse) * t->delta[i];
        }
    }
    t->set->dsink[(int64_t)t->sequence->index * t->shape->hq + t->head] = (float)sum;
}

static void run_prepare(void *job, int worker, int64_t item)
{
    const struct backward *b = job;
    const struct agenda_entry *entry = agenda_find(&b->by_head, item);
    struct strip t = strip_of(b, entry, (int32_t)(item - entry->first_item), worker);
    int32_t tiles = tiles_of(t.sequence->q_len, TILE_ROWS);
    for (int32_t i = 0; i < tiles; i++) {
        atomic_init(&t.turns[i], 0);
        if (!t.shape->has_delta) {
            prepare_delta(&t, tile_range(i, TILE_ROWS, t.sequence->q_len));
        }
    }
    if (t.shape->has_delta) {
        copy_delta(&t);
    }
    if (t.shape->has_dlse) {
        subtract_dlse(&t);
    }
    if (t.shape->has_sink) {
        write_dsink(&t);
    }
    memset(t.dq, 0, (size_t)t.sequence->q_len * t.shape->d * sizeof(float));
}

/* ---- products ---- */

/* A tile of keys of a kv head: its inputs and its sums. */
struct column {
    struct range keys;
    int32_t index; /* of the tile */
    struct matrix k, v, dk, dv;
};

/* Scores and <do, v> of one row become p and ds. */
static void row_step(const struct strip *t, const struct box *box, int32_t i, float *p, float *ds,
                     float *slope)
{
    const struct vector *vector = t->context->vector;
    int32_t row = box->rows.first + i;
    float lse = *statistic_at(&t->set->lse, t->sequence->q_first + row, t->head);
    float shift =
        lse == -INFINITY ? 0.0f : lse; /* all scores are -inf: no p is NaN, as in forward.c */
    struct range seen = box_seen(box, i);
    if (!range_empty(seen)) {
        int32_t first = seen.first;
        int32_t count = range_length(seen);
        if (t->shape->softcap > 0) {
            vector->softcap_slope(p + first, slope + first, t->shape->softcap, count);
        }
        vector->exp_shifted(p + first, shift, count);
        vector->ds(ds + first, p + first, t->delta[row], count);
        if (t->shape->softcap > 0) {
            vector->multiply(ds + first, slope + first, count);
        }
    }
    clear_outside(p, seen, range_length(box->keys));
    clear_outside(ds, seen, range_length(box->keys));
}

/* dq gets this tile's part after those of all tiles of keys before it. */
static void add_dq(const struct strip *t, struct turn_room *room, const struct box *box,
                   const struct column *c, int32_t tile, struct matrix ds, struct matrix k)
{
    struct range rows = tile_range(tile, TILE_ROWS, t->sequence->q_len);
    struct range seen = keys_seen(&t->shape->mask, t->sequence, rows);
    struct matrix dq = {t->dq + (int64_t)box->rows.first * t->shape->d, t->shape->d};
    turn_wait(room, &t->turns[tile], c->index - seen.first / KEYS);
    box_add_over_keys(t->context, box, ds, k, t->shape->d, dq);
    turn_pass(room, &t->turns[tile]);
}

/* The part of a tile of rows that sees part of a tile of keys; `box` is exactly these parts. */
static void box_step(const struct strip *t, struct turn_room *room, const struct box *box,
                     const struct column *c, int32_t tile)
{
    const struct attn_shape *shape = t->shape;
    struct worker *w = t->worker;
    int64_t first = t->sequence->q_first + box->rows.first;
    int32_t rows = range_length(box->rows);
    int32_t keys = range_length(box->keys);
    int32_t skipped = box->keys.first - c->keys.first;
    float factor = shape->softmax_scale / (shape->softcap > 0 ? shape->softcap : 1.0f);
    struct matrix q =
        tile_load(t->context, shape->dtype, &t->set->q, first, rows, t->head, shape->d, w->rows[0]);
    struct matrix grad = tile_load(t->context, shape->dtype, &t->set->do_, first, rows, t->head,
                                   shape->dv, w->rows[1]);
    struct matrix p = {w->scores[0], KEYS};
    struct matrix ds = {w->scores[1], KEYS};
    struct matrix slope = {w->scores[2], KEYS};
    struct matrix k = matrix_from_row(c->k, skipped);
    struct matrix v = matrix_from_row(c->v, skipped);
    blas_multiply_nt(rows, keys, shape->d, factor, q, k, p);
    blas_multiply_nt(rows, keys, shape->dv, 1, grad, v, ds);
    for (int32_t i = 0; i < rows; i++) {
        row_step(t, box, i, matrix_row(p, i), matrix_row(ds, i), matrix_row(slope, i));
    }
    box_add_over_rows(t->context, box, p, grad, shape->dv, matrix_from_row(c->dv, skipped));
    box_add_over_rows(t->context, box, ds, q, shape->d, matrix_from_row(c->dk, skipped));
    add_dq(t, room, box, c, tile, ds, k);
}

/* All rows of one q head that see the keys. */
static void strip_step(const struct strip *t, struct turn_room *room, const struct column *c)
{
    const struct attn_mask *mask = &t->shape->mask;
    struct range rows = rows_seeing(mask, t->sequence, c->keys);
    if (range_empty(rows)) {
        return;
    }
    for (int32_t tile = rows.first / TILE_ROWS; tile <= (rows.end - 1) / TILE_ROWS; tile++) {
        struct box box = {t->shape, t->sequence, {0, 0}, {0, 0}};
        box.rows = intersection(rows, tile_range(tile, TILE_ROWS, t->sequence->q_len));
        box.keys = intersection(c->keys, keys_seen(mask, t->sequence, box.rows));
        box_step(t, room, &box, c, tile);
    }
}

static void column_begin(const struct backward *b, const struct attn_sequence *s, int32_t kv_head,
                         struct worker *w, struct column *c)
{
    const struct attn_shape *shape = &b->launch->shape;
    const struct attn_set *set = &b->launch->sets[s->set];
    int64_t first = s->k_first + c->keys.first;
    int32_t count = range_length(c->keys);
    c->k =
        tile_load(b->context, shape->dtype, &set->k, first, count, kv_head, shape->d, w->keys[0]);
    c->v =
        tile_load(b->context, shape->dtype, &set->v, first, count, kv_head, shape->dv, w->keys[1]);
    c->dk = (struct matrix){w->keys[2], shape->d};
    c->dv = (struct matrix){w->keys[3], shape->dv};
    memset(c->dk.data, 0, (size_t)count * shape->d * sizeof(float));
    memset(c->dv.data, 0, (size_t)count * shape->dv * sizeof(float));
}

static void column_end(const struct backward *b, const struct attn_sequence *s, int32_t kv_head,
                       const struct column *c)
{
    const struct attn_shape *shape = &b->launch->shape;
    const struct attn_set *set = &b->launch->sets[s->set];
    int64_t first = s->k_first + c->keys.first;
    int32_t count = range_length(c->keys);
    b->context->vector->scale(c->dk.data, shape->softmax_scale, count * shape->d);
    tile_store(b->context, shape->dtype, &set->dk, first, count, kv_head, shape->d, c->dk);
    tile_store(b->context, shape->dtype, &set->dv, first, count, kv_head, shape->dv, c->dv);
}

/* Of all heads. */
static void write_unused_keys(const struct attn_shape *shape, const struct attn_set *set,
                              int64_t first, int32_t count)
{
    tile_store_zero(shape->dtype, &set->dk, first, count, shape->hkv, shape->d);
    tile_store_zero(shape->dtype, &set->dv, first, count, shape->hkv, shape->dv);
}

static struct range live_keys(const struct attn_sequence *s, struct range span)
{
    return (struct range){span.first, span.end < s->k_len ? span.end : s->k_len};
}

/* Scores an item of products computes, and a little for being there. */
static int64_t work_of(const struct agenda *agenda, int64_t item)
{
    const struct attn_shape *shape = &agenda->launch->shape;
    const struct agenda_entry *entry = agenda_find(agenda, item);
    const struct attn_sequence *s = &agenda->launch->sequences[entry->sequence];
    int32_t index = (int32_t)((item - entry->first_item) / shape->hkv);
    struct range keys = live_keys(s, tile_range(index, KEYS, s->k_span));
    if (range_empty(keys)) {
        return 1;
    }
    struct range rows = rows_seeing(&shape->mask, s, keys);
    return 1 + (range_empty(rows) ? 0 : (int64_t)range_length(rows) * range_length(keys));
}

static void run_products(void *job, int worker, int64_t item)
{
    const struct backward *b = job;
    const struct attn_shape *shape = &b->launch->shape;
    const struct agenda_entry *entry = agenda_find(&b->by_keys, b->part.first + item);
    const struct attn_sequence *s = &b->launch->sequences[entry->sequence];
    int64_t number = b->part.first + item - entry->first_item;
    int32_t kv_head = (int32_t)(number % shape->hkv);
    int32_t group = shape->hq / shape->hkv;
    struct column c = {.index = (int32_t)(number / shape->hkv)};
    struct range span = tile_range(c.index, KEYS, s->k_span);
    struct range unused = {span.first > s->k_len ? span.first : s->k_len, span.end};
    c.keys = live_keys(s, span);
    if (!range_empty(c.keys)) {
        column_begin(b, s, kv_head, &b->context->workers[worker], &c);
        for (int32_t head = kv_head * group; head < (kv_head + 1) * group; head++) {
            struct strip t = strip_of(b, entry, head, worker);
            strip_step(&t, &b->context->turns, &c);
        }
        column_end(b, s, kv_head, &c);
    }
    if (kv_head == 0 && !range_empty(unused)) {
        write_unused_keys(shape, &b->launch->sets[s->set], s->k_first + unused.first,
                          range_length(unused));
    }
}

/* ---- finish ---- */

static void run_finish(void *job, int worker, int64_t item)
{
    const struct backward *b = job;
    const struct agenda_entry *entry = agenda_find(&b->by_head, item);
    struct strip t = strip_of(b, entry, (int32_t)(item - entry->first_item), worker);
    const struct attn_sequence *s = t.sequence;
    for (int32_t i = 0; i < s->q_len; i++) {
        struct matrix row = {t.dq + (int64_t)i * t.shape->d, t.shape->d};
        t.context->vector->scale(row.data, t.shape->softmax_scale, t.shape->d);
        tile_store(t.context, t.shape->dtype, &t.set->dq, s->q_first + i, 1, t.head, t.shape->d,
                   row);
    }
    if (t.head == 0) {
        tile_store_zero(t.shape->dtype, &t.set->dq, s->q_first + s->q_len, s->q_span - s->q_len,
                        t.shape->hq, t.shape->d);
    }
}

/* ---- the launch ---- */

static int64_t heads_of(const struct attn_shape *shape, const struct attn_sequence *sequence)
{
    (void)sequence;
    return shape->hq;
}

static int64_t key_tiles_of(const struct attn_shape *shape, const struct attn_sequence *sequence)
{
    return (int64_t)tiles_of(sequence->k_span, KEYS) * shape->hkv;
}

size_t attn_cpu_backward_scratch(const struct attn_launch *launch)
{
    return layout_of(launch).bytes;
}

enum attn_status attn_cpu_backward(struct attn_context *context, const struct attn_launch *launch)
{
    struct layout at = layout_of(launch);
    if (attn_shape_check(&launch->shape) || launch->shape.pass != ATTN_BACKWARD ||
        launch->scratch_bytes < at.bytes) {
        return ATTN_INVALID;
    }
    char *scratch = launch->scratch;
    struct backward b = {.context = context,
                         .launch = launch,
                         .by_head = agenda_make(launch, scratch + at.by_head, heads_of),
                         .by_keys = agenda_make(launch, scratch + at.by_keys, key_tiles_of),
                         .delta = (float *)(scratch + at.delta),
                         .dq = (float *)(scratch + at.dq),
                         .turns = (turn *)(scratch + at.turns)};
    int helpers = launch_helpers(launch);
    b.part = agenda_part(&b.by_keys, work_of);
    if (launch->part == 0) {
        pool_run(context->pool, run_prepare, &b, b.by_head.items, helpers / SIDE_SHARE);
    }
    pool_run(context->pool, run_products, &b, b.part.end - b.part.first, helpers);
    if (launch->part + 1 >= launch->parts) {
        pool_run(context->pool, run_finish, &b, b.by_head.items, helpers / SIDE_SHARE);
    }
    return ATTN_OK;
}
