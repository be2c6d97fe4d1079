/*
 * forward.c: o and lse of attn.h, for every sequence of a launch.
 *
 * An item is a tile of query rows of one head of one sequence. It walks the keys that some row of
 * the tile sees, FORWARD_KEYS at a time, and keeps per row the softmax of what it has seen so far
 * (Milakov and Gimelshein, arXiv 1805.02867):
 *   m      largest score
 *   total  sum of exp(score - m)
 *   o      sum of exp(score - m) v
 * A sink is a score that was there before the first key, without a value: m = sink, total = 1.
 * In the end o / total is the output and m + ln(total) the lse.
 *
 * Items share nothing, and what an item computes depends on its sequence and its tile alone.
 */
#include <math.h>
#include <string.h>

#include "kernels/cpu/agenda.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/tile.h"

struct forward {
    struct attn_context *context;
    const struct attn_launch *launch;
    struct agenda agenda;
    struct agenda_part part;
};

/* One item. Row i of the tile is row i of these. */
struct tile {
    const struct attn_context *context;
    const struct attn_shape *shape;
    const struct attn_set *set;
    const struct attn_sequence *sequence;
    struct worker *worker;
    int32_t head, kv_head;
    struct range rows; /* live ones */
    struct matrix q, o;
    float *m, *total;
};

/*
 * Scores of row i become weights exp(score - m), and the row's sums are brought to the new m.
 * A row whose scores are all -inf has m = -inf, which must not meet another -inf.
 */
static void row_step(struct tile *t, int32_t i, float *scores, struct range seen)
{
    const struct vector *vector = t->context->vector;
    float *live = scores + seen.first;
    int32_t count = range_length(seen);
    if (t->shape->softcap > 0) {
        vector->softcap(live, t->shape->softcap, count);
    }
    float m = fmaxf(t->m[i], vector->max(live, count));
    float shift = m == -INFINITY ? 0.0f : m;
    float rescale = expf(t->m[i] - shift);
    float sum = vector->exp_shifted(live, shift, count);
    if (rescale != 1.0f) {
        vector->scale(matrix_row(t->o, i), rescale, t->shape->dv);
    }
    t->total[i] = t->total[i] * rescale + sum;
    t->m[i] = m;
}

static void tile_step(struct tile *t, struct range keys)
{
    const struct attn_shape *shape = t->shape;
    const struct box box = {shape, t->sequence, t->rows, keys};
    int32_t rows = range_length(t->rows);
    int32_t count = range_length(keys);
    int64_t first_key_row = t->sequence->k_first + keys.first;
    float factor = shape->softmax_scale / (shape->softcap > 0 ? shape->softcap : 1.0f);
    struct matrix k = tile_load(t->context, shape->dtype, &t->set->k, first_key_row, count,
                                t->kv_head, shape->d, t->worker->keys[0]);
    struct matrix v = tile_load(t->context, shape->dtype, &t->set->v, first_key_row, count,
                                t->kv_head, shape->dv, t->worker->keys[1]);
    struct matrix p = {t->worker->scores[0], FORWARD_KEYS};
    blas_multiply_nt(rows, count, shape->d, factor, t->q, k, p);
    for (int32_t i = 0; i < rows; i++) {
        struct range seen = box_seen(&box, i);
        if (!range_empty(seen)) {
            row_step(t, i, matrix_row(p, i), seen);
        }
        clear_outside(matrix_row(p, i), seen, count);
    }
    box_add_over_keys(t->context, &box, p, v, shape->dv, t->o);
}

static void tile_begin(struct tile *t)
{
    const struct attn_shape *shape = t->shape;
    int32_t rows = range_length(t->rows);
    t->q = tile_load(t->context, shape->dtype, &t->set->q, t->sequence->q_first + t->rows.first,
                     rows, t->head, shape->d, t->worker->rows[0]);
    t->o = (struct matrix){t->worker->rows[1], shape->dv};
    memset(t->o.data, 0, (size_t)rows * shape->dv * sizeof(float));
    for (int32_t i = 0; i < rows; i++) {
        t->m[i] = shape->has_sink ? t->set->sink[t->head] : -INFINITY;
        t->total[i] = shape->has_sink ? 1.0f : 0.0f;
    }
}

/* total is 0 only where nothing was seen (or only scores of -inf): o = 0, lse = -inf. */
static void tile_end(struct tile *t)
{
    const struct attn_shape *shape = t->shape;
    int64_t first = t->sequence->q_first + t->rows.first;
    int32_t rows = range_length(t->rows);
    for (int32_t i = 0; i < rows; i++) {
        float total = t->total[i];
        if (total != 0) {
            t->context->vector->scale(matrix_row(t->o, i), 1.0f / total, shape->dv);
        }
        *statistic_at(&t->set->lse, first + i, t->head) =
            total != 0 ? t->m[i] + logf(total) : -INFINITY;
    }
    tile_store(t->context, shape->dtype, &t->set->o, first, rows, t->head, shape->dv, t->o);
}

static void tile_compute(struct tile *t)
{
    tile_begin(t);
    struct range seen = keys_seen(&t->shape->mask, t->sequence, t->rows);
    for (int32_t first = seen.first, end; first < seen.end; first = end) {
        end = seen.end - first < FORWARD_KEYS ? seen.end : first + FORWARD_KEYS;
        struct range keys = {first, end};
        tile_step(t, keys);
    }
    tile_end(t);
}

/* Of all heads. */
static void write_unused(const struct attn_shape *shape, const struct attn_set *set, int64_t first,
                         int32_t count)
{
    tile_store_zero(shape->dtype, &set->o, first, count, shape->hq, shape->dv);
    for (int32_t head = 0; head < shape->hq; head++) {
        for (int32_t i = 0; i < count; i++) {
            *statistic_at(&set->lse, first + i, head) = -INFINITY;
        }
    }
}

/*
 * Rows of this sequence's tiles. Tall ones pack K and V half as often (9 % faster), but compute
 * more of what a mask hides along its edge: a loss below 2048 rows of a causal one, and in every
 * window.
 */
static int32_t height_of(const struct attn_shape *shape, const struct attn_sequence *sequence)
{
    int32_t long_enough = shape->mask.has_right ? 2048 : 1024;
    bool tall = sequence->q_len >= long_enough && !shape->mask.has_left;
    return tall ? TILE_ROWS_MAX : TILE_ROWS;
}

static int64_t items_of(const struct attn_shape *shape, const struct attn_sequence *sequence)
{
    return (int64_t)tiles_of(sequence->q_span, height_of(shape, sequence)) * shape->hq;
}

/* An item's tile: which rows of the span, and which of them are live. */
struct place {
    const struct attn_sequence *sequence;
    int32_t head;
    struct range rows, live;
};

/* The last tile first: with a causal mask it has the most keys. */
static struct place place_of(const struct agenda *agenda, int64_t item)
{
    const struct attn_shape *shape = &agenda->launch->shape;
    const struct agenda_entry *entry = agenda_find(agenda, item);
    const struct attn_sequence *s = &agenda->launch->sequences[entry->sequence];
    int64_t number = item - entry->first_item;
    int32_t from_end = (int32_t)(number / shape->hq);
    int32_t height = height_of(shape, s);
    int32_t index = tiles_of(s->q_span, height) - 1 - from_end;
    struct range rows = tile_range(index, height, s->q_span);
    struct range live = {rows.first, rows.end < s->q_len ? rows.end : s->q_len};
    return (struct place){s, (int32_t)(number % shape->hq), rows, live};
}

/* Scores it computes, and a little for being there. */
static int64_t work_of(const struct agenda *agenda, int64_t item)
{
    struct place at = place_of(agenda, item);
    if (range_empty(at.live)) {
        return 1;
    }
    struct range seen = keys_seen(&agenda->launch->shape.mask, at.sequence, at.live);
    return 1 + (range_empty(seen) ? 0 : (int64_t)range_length(at.live) * range_length(seen));
}

static void run_item(void *job, int worker, int64_t item)
{
    const struct forward *f = job;
    const struct attn_shape *shape = &f->launch->shape;
    struct place at = place_of(&f->agenda, f->part.first + item);
    const struct attn_sequence *s = at.sequence;
    const struct attn_set *set = &f->launch->sets[s->set];
    int32_t head = at.head;
    struct range rows = at.rows, live = at.live;
    struct range unused = {rows.first > s->q_len ? rows.first : s->q_len, rows.end};
    if (!range_empty(live)) {
        struct worker *w = &f->context->workers[worker];
        struct tile t = {.context = f->context,
                         .shape = shape,
                         .set = set,
                         .sequence = s,
                         .worker = w,
                         .head = head,
                         .kv_head = head / (shape->hq / shape->hkv),
                         .rows = live,
                         .m = w->row[0],
                         .total = w->row[1]};
        tile_compute(&t);
    }
    if (head == 0 && !range_empty(unused)) {
        write_unused(shape, set, s->q_first + unused.first, range_length(unused));
    }
}

size_t attn_cpu_forward_scratch(const struct attn_launch *launch)
{
    return agenda_bytes(launch);
}

enum attn_status attn_cpu_forward(struct attn_context *context, const struct attn_launch *launch)
{
    if (attn_shape_check(&launch->shape) || launch->shape.pass != ATTN_FORWARD ||
        launch->scratch_bytes < attn_cpu_forward_scratch(launch)) {
        return ATTN_INVALID;
    }
    struct forward f = {.context = context,
                        .launch = launch,
                        .agenda = agenda_make(launch, launch->scratch, items_of)};
    f.part = agenda_part(&f.agenda, work_of);
    pool_run(context->pool, run_item, &f, f.part.end - f.part.first, launch_helpers(launch));
    return ATTN_OK;
}
