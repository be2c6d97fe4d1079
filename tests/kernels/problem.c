/*
 * problem.c: see problem.h. Slow and plain on purpose. Inner loops call ck_abort_msg only on
 * failure, because each ck_assert writes to a pipe.
 */
#include "problem.h"

#include <check.h>
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

enum { GAP_ROWS = 3, CANARY = 4096, POISON = 0xff };

enum side { SIDE_Q, SIDE_K };
enum width { WIDTH_D, WIDTH_DV, WIDTH_STATISTIC };
enum role { FWD_IN = 1, FWD_OUT = 2, BWD_IN = 4, BWD_OUT = 8 };

/* What each tensor of a set is; the order is that of the blocks. */
static const struct tensor_row {
    size_t offset;
    enum side side;
    enum width width;
    int roles;
} tensor_table[TENSOR_COUNT] = {
    {offsetof(struct attn_set, q), SIDE_Q, WIDTH_D, FWD_IN | BWD_IN},
    {offsetof(struct attn_set, k), SIDE_K, WIDTH_D, FWD_IN | BWD_IN},
    {offsetof(struct attn_set, v), SIDE_K, WIDTH_DV, FWD_IN | BWD_IN},
    {offsetof(struct attn_set, o), SIDE_Q, WIDTH_DV, FWD_OUT | BWD_IN},
    {offsetof(struct attn_set, lse), SIDE_Q, WIDTH_STATISTIC, FWD_OUT | BWD_IN},
    {offsetof(struct attn_set, do_), SIDE_Q, WIDTH_DV, BWD_IN},
    {offsetof(struct attn_set, dq), SIDE_Q, WIDTH_D, BWD_OUT},
    {offsetof(struct attn_set, dk), SIDE_K, WIDTH_D, BWD_OUT},
    {offsetof(struct attn_set, dv), SIDE_K, WIDTH_DV, BWD_OUT},
    {offsetof(struct attn_set, dlse), SIDE_Q, WIDTH_STATISTIC, BWD_IN},
    {offsetof(struct attn_set, delta), SIDE_Q, WIDTH_STATISTIC, BWD_IN},
};

static struct attn_tensor *tensor_of(struct attn_set *set, int t)
{
    return (struct attn_tensor *)((char *)set + tensor_table[t].offset);
}

static const struct attn_tensor *tensor_in(const struct attn_set *set, int t)
{
    return (const struct attn_tensor *)((const char *)set + tensor_table[t].offset);
}

/* ---- placing ---- */

struct attn_shape shape_of(enum attn_dtype dtype, int hq, int hkv, int d, int dv)
{
    struct attn_shape shape = {.dtype = dtype, .hq = hq, .hkv = hkv, .d = d, .dv = dv};
    shape.softmax_scale = 1.0f / sqrtf((float)d);
    return shape;
}

static int width_of(const struct attn_shape *shape, int t)
{
    static const int statistic = 1;
    enum width width = tensor_table[t].width;
    return width == WIDTH_D ? shape->d : width == WIDTH_DV ? shape->dv : statistic;
}

static enum attn_dtype dtype_of(const struct attn_shape *shape, int t)
{
    return tensor_table[t].width == WIDTH_STATISTIC ? ATTN_FP32 : shape->dtype;
}

static int heads_of(const struct attn_shape *shape, int t)
{
    return tensor_table[t].side == SIDE_Q ? shape->hq : shape->hkv;
}

static int in_role(const struct attn_shape *shape)
{
    return shape->pass == ATTN_FORWARD ? FWD_IN : BWD_IN;
}

static int out_role(const struct attn_shape *shape)
{
    return shape->pass == ATTN_FORWARD ? FWD_OUT : BWD_OUT;
}

static bool tensor_used(const struct attn_shape *shape, int t)
{
    size_t offset = tensor_table[t].offset;
    if (offset == offsetof(struct attn_set, dlse) && !shape->has_dlse) {
        return false;
    }
    if (offset == offsetof(struct attn_set, delta) && !shape->has_delta) {
        return false;
    }
    if (shape->pass == ATTN_BACKWARD && offset == offsetof(struct attn_set, o) &&
        shape->has_delta) {
        return false;
    }
    return tensor_table[t].roles & (in_role(shape) | out_role(shape));
}

static void block_open(struct block *block, size_t bytes)
{
    block->bytes = bytes;
    size_t all = (bytes + 2 * CANARY + CANARY - 1) / CANARY * CANARY;
    block->memory = aligned_alloc(CANARY, all);
    ck_assert_ptr_nonnull(block->memory);
    memset(block->memory, POISON, all);
}

/* Set 0 is packed (row, head, c), set 1 head-major, set 2 has holes between rows and heads. */
static void tensor_open(struct problem *p, int set, int t, int64_t rows)
{
    int64_t heads = heads_of(&p->shape, t);
    int64_t row_bytes = width_of(&p->shape, t) * (int64_t)attn_dtype_bytes(dtype_of(&p->shape, t));
    struct attn_tensor *tensor = tensor_of(&p->sets[set], t);
    if (tensor_table[t].width == WIDTH_STATISTIC || set % 3 == 1) {
        tensor->row_stride = row_bytes;
        tensor->head_stride = row_bytes * rows;
    } else {
        int64_t hole = set % 3 == 2 ? 48 : 0;
        tensor->head_stride = row_bytes + hole;
        tensor->row_stride = tensor->head_stride * heads + 2 * hole;
    }
    int64_t by_rows = tensor->row_stride * rows;
    int64_t by_heads = tensor->head_stride * heads;
    int64_t bytes = by_rows > by_heads ? by_rows : by_heads;
    block_open(&p->blocks[set][t], (size_t)bytes);
    tensor->data = p->blocks[set][t].memory + CANARY;
}

static void place(struct problem *p, int64_t *rows_q, int64_t *rows_k)
{
    int32_t index[64] = {0};
    for (int i = 0; i < p->count; i++) {
        struct item *item = &p->items[i];
        if (item->q_span < item->q_len) {
            item->q_span = item->q_len;
        }
        if (item->k_span < item->k_len) {
            item->k_span = item->k_len;
        }
        int set = item->set;
        rows_q[set] += GAP_ROWS;
        rows_k[set] += GAP_ROWS;
        p->sequences[i] = (struct attn_sequence){.set = set,
                                                 .index = index[set]++,
                                                 .q_first = rows_q[set],
                                                 .k_first = rows_k[set],
                                                 .q_len = item->q_len,
                                                 .k_len = item->k_len,
                                                 .q_span = item->q_span,
                                                 .k_span = item->k_span};
        rows_q[set] += item->q_span;
        rows_k[set] += item->k_span;
    }
}

/* ---- data ---- */

static double random_unit(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (double)(int64_t)*state * 0x1p-63;
}

static void fill_tensor(struct problem *p, int i, int t)
{
    const struct attn_sequence *s = &p->sequences[i];
    const struct attn_tensor *tensor = tensor_in(&p->sets[s->set], t);
    bool q = tensor_table[t].side == SIDE_Q;
    uint64_t state = p->items[i].seed * 1000003u + (unsigned)t;
    for (int row = 0; row < (q ? s->q_len : s->k_len); row++) {
        for (int head = 0; head < heads_of(&p->shape, t); head++) {
            for (int c = 0; c < width_of(&p->shape, t); c++) {
                set_element(dtype_of(&p->shape, t), tensor, (q ? s->q_first : s->k_first) + row,
                            head, c, 2 * random_unit(&state));
            }
        }
    }
}

/* ---- the answer ---- */

enum { Q, K, V, DO = 5 }; /* rows of tensor_table */

/* One row of one head of one sequence, as attn.h defines it, and the sequence's inputs in fp64:
 * (heads, rows, width), NULL where the pass has none. */
struct answer_row {
    double *in[DO + 1];
    double *score, *slope, *p; /* per key; slope is d score / d (scaled product) */
    double lse, delta;
    double *o;
    double *size; /* sum of |p v|: what roundings of p are relative to */
};

static bool sees(const struct attn_shape *shape, const struct attn_sequence *s, int64_t i,
                 int64_t j)
{
    int64_t diagonal = i + s->k_len - s->q_len;
    return (!shape->mask.has_right || j <= diagonal + shape->mask.right) &&
           (!shape->mask.has_left || j >= diagonal - shape->mask.left);
}

static double dot(const double *a, const double *b, int width)
{
    double sum = 0;
    for (int c = 0; c < width; c++) {
        sum += a[c] * b[c];
    }
    return sum;
}

/* The live rows of a tensor. */
static double *loaded(const struct problem *p, const struct attn_sequence *s, int t)
{
    bool q = tensor_table[t].side == SIDE_Q;
    int64_t first = q ? s->q_first : s->k_first;
    int64_t rows = q ? s->q_len : s->k_len;
    int heads = heads_of(&p->shape, t);
    int width = width_of(&p->shape, t);
    const struct attn_tensor *tensor = tensor_in(&p->sets[s->set], t);
    double *all = calloc((size_t)(rows * heads * width) + 1, sizeof *all);
    for (int head = 0; head < heads; head++) {
        for (int64_t row = 0; row < rows; row++) {
            for (int c = 0; c < width; c++) {
                all[(head * rows + row) * width + c] =
                    element(dtype_of(&p->shape, t), tensor, first + row, head, c);
            }
        }
    }
    return all;
}

/* Row i of a head of an input. */
static const double *input_row(const struct problem *p, const struct attn_sequence *s,
                               const struct answer_row *a, int t, int64_t i, int head)
{
    int64_t rows = tensor_table[t].side == SIDE_Q ? s->q_len : s->k_len;
    return a->in[t] + (head * rows + i) * width_of(&p->shape, t);
}

static void answer_open(const struct problem *p, const struct attn_sequence *s,
                        struct answer_row *a)
{
    size_t keys = (size_t)s->k_len + 1;
    for (int t = 0; t <= DO; t++) {
        a->in[t] = t <= V || (t == DO && tensor_used(&p->shape, t)) ? loaded(p, s, t) : NULL;
    }
    a->score = calloc(keys, sizeof(double));
    a->slope = calloc(keys, sizeof(double));
    a->p = calloc(keys, sizeof(double));
    a->o = calloc((size_t)p->shape.dv, sizeof(double));
    a->size = calloc((size_t)p->shape.dv, sizeof(double));
}

static void answer_close(struct answer_row *a)
{
    for (int t = 0; t <= DO; t++) {
        free(a->in[t]);
    }
    free(a->score);
    free(a->slope);
    free(a->p);
    free(a->o);
    free(a->size);
}

static void answer_row(const struct problem *p, const struct attn_sequence *s, int i, int head,
                       struct answer_row *a)
{
    const struct attn_shape *shape = &p->shape;
    const struct attn_set *set = &p->sets[s->set];
    int kv_head = head / (shape->hq / shape->hkv);
    double sink = shape->has_sink ? (double)set->sink[head] : -INFINITY;
    double m = sink;
    for (int j = 0; j < s->k_len; j++) {
        a->score[j] = -INFINITY;
        if (!sees(shape, s, i, j)) {
            continue;
        }
        double x = shape->softmax_scale *
                   dot(input_row(p, s, a, Q, i, head), input_row(p, s, a, K, j, kv_head), shape->d);
        double t = shape->softcap > 0 ? tanh(x / shape->softcap) : 0;
        a->score[j] = shape->softcap > 0 ? shape->softcap * t : x;
        a->slope[j] = 1 - t * t;
        m = fmax(m, a->score[j]);
    }
    double total = m == -INFINITY ? 0 : exp(sink - m);
    for (int j = 0; j < s->k_len; j++) {
        total += m == -INFINITY ? 0 : exp(a->score[j] - m);
    }
    a->lse = total > 0 ? m + log(total) : -INFINITY;
    memset(a->o, 0, (size_t)shape->dv * sizeof(double));
    memset(a->size, 0, (size_t)shape->dv * sizeof(double));
    for (int j = 0; j < s->k_len; j++) {
        a->p[j] = total > 0 ? exp(a->score[j] - a->lse) : 0;
        const double *v = input_row(p, s, a, V, j, kv_head);
        for (int c = 0; c < shape->dv && sees(shape, s, i, j); c++) {
            double term = a->p[j] * v[c];
            a->o[c] += term;
            a->size[c] += fabs(term);
        }
    }
}

/* Backward's inputs that come from a forward. */
static void fill_from_forward(struct problem *p, int n)
{
    const struct attn_sequence *s = &p->sequences[n];
    const struct attn_set *set = &p->sets[s->set];
    struct answer_row a;
    answer_open(p, s, &a);
    for (int head = 0; head < p->shape.hq; head++) {
        for (int i = 0; i < s->q_len; i++) {
            int64_t row = s->q_first + i;
            double delta = 0;
            answer_row(p, s, i, head, &a);
            set_element(ATTN_FP32, &set->lse, row, head, 0, a.lse);
            for (int c = 0; c < p->shape.dv; c++) {
                delta += a.o[c] * input_row(p, s, &a, DO, i, head)[c];
                if (!p->shape.has_delta) {
                    set_element(p->shape.dtype, &set->o, row, head, c, a.o[c]);
                }
            }
            if (p->shape.has_delta) {
                set_element(ATTN_FP32, &set->delta, row, head, 0, delta);
            }
        }
    }
    answer_close(&a);
}

static void fill(struct problem *p, int n)
{
    for (int t = 0; t < TENSOR_COUNT; t++) {
        if (tensor_used(&p->shape, t) && (tensor_table[t].roles & in_role(&p->shape))) {
            fill_tensor(p, n, t);
        }
    }
    if (p->shape.pass == ATTN_BACKWARD) {
        fill_from_forward(p, n);
    }
}

static void sinks_open(struct problem *p, int set)
{
    size_t bytes = (size_t)p->shape.hq * sizeof(float);
    block_open(&p->sinks[set], bytes);
    block_open(&p->dsinks[set], bytes * (size_t)p->count);
    float *sink = (float *)(p->sinks[set].memory + CANARY);
    for (int head = 0; head < p->shape.hq; head++) {
        sink[head] = (float)(head % 3 - 1) + 0.25f * (float)head;
    }
    p->sets[set].sink = sink;
    p->sets[set].dsink = (float *)(p->dsinks[set].memory + CANARY);
}

static void keep_copy(struct block *block)
{
    size_t all = block->bytes + 2 * CANARY;
    block->before = malloc(all);
    ck_assert_ptr_nonnull(block->before);
    memcpy(block->before, block->memory, all);
}

struct problem *problem_open(const struct attn_shape *shape, const struct item *items, int count)
{
    struct problem *p = calloc(1, sizeof *p);
    p->shape = *shape;
    p->count = count;
    for (int i = 0; i < count; i++) {
        p->set_count = items[i].set >= p->set_count ? items[i].set + 1 : p->set_count;
    }
    size_t sets = (size_t)p->set_count + 1;
    p->sets = calloc(sets, sizeof *p->sets);
    p->sequences = calloc((size_t)count + 1, sizeof *p->sequences);
    p->items = calloc((size_t)count + 1, sizeof *p->items);
    p->blocks = calloc(sets, sizeof *p->blocks);
    p->sinks = calloc(sets, sizeof *p->sinks);
    p->dsinks = calloc(sets, sizeof *p->dsinks);
    if (count) {
        memcpy(p->items, items, (size_t)count * sizeof *items);
    }
    int64_t rows_q[64] = {0};
    int64_t rows_k[64] = {0};
    place(p, rows_q, rows_k);
    for (int set = 0; set < p->set_count; set++) {
        sinks_open(p, set);
        for (int t = 0; t < TENSOR_COUNT; t++) {
            if (tensor_used(shape, t)) {
                tensor_open(p, set, t,
                            (tensor_table[t].side == SIDE_Q ? rows_q : rows_k)[set] + GAP_ROWS);
            }
        }
    }
    for (int i = 0; i < count; i++) {
        fill(p, i);
    }
    return p;
}

void problem_steepen(struct problem *p)
{
    static const double slopes[] = {1, -1, 0.5, 0};
    const double steps[] = {120 / p->shape.softmax_scale, 20 / p->shape.softmax_scale, 0};
    for (int n = 0; n < p->count; n++) {
        const struct attn_sequence *s = &p->sequences[n];
        const struct attn_set *set = &p->sets[s->set];
        for (int i = 0; i < s->q_len * p->shape.hq; i++) {
            set_element(p->shape.dtype, &set->q, s->q_first + i / p->shape.hq, i % p->shape.hq, 0,
                        slopes[i / p->shape.hq % 4]);
        }
        for (int j = 0; j < s->k_len * p->shape.hkv; j++) {
            int key = j / p->shape.hkv;
            set_element(p->shape.dtype, &set->k, s->k_first + key, j % p->shape.hkv, 0,
                        steps[3 * key / s->k_len]);
        }
    }
}

void problem_spoil(struct problem *p, int i)
{
    static const double values[] = {NAN, INFINITY, -INFINITY};
    const struct attn_sequence *s = &p->sequences[i];
    for (int t = 0; t < TENSOR_COUNT; t++) {
        if (!tensor_used(&p->shape, t) || !(tensor_table[t].roles & in_role(&p->shape))) {
            continue;
        }
        bool q = tensor_table[t].side == SIDE_Q;
        for (int row = 0; row < (q ? s->q_span : s->k_span); row++) {
            for (int head = 0; head < heads_of(&p->shape, t); head++) {
                for (int c = 0; c < width_of(&p->shape, t); c++) {
                    set_element(dtype_of(&p->shape, t), tensor_in(&p->sets[s->set], t),
                                (q ? s->q_first : s->k_first) + row, head, c,
                                values[(row + head + c) % 3]);
                }
            }
        }
    }
}

static void block_close(struct block *block)
{
    free(block->memory);
    free(block->before);
}

void problem_close(struct problem *p)
{
    for (int set = 0; set < p->set_count; set++) {
        for (int t = 0; t < TENSOR_COUNT; t++) {
            block_close(&p->blocks[set][t]);
        }
        block_close(&p->sinks[set]);
        block_close(&p->dsinks[set]);
    }
    free(p->blocks);
    free(p->sinks);
    free(p->dsinks);
    free(p->items);
    free(p->sequences);
    free(p->sets);
    free(p);
}

/* ---- running ---- */

/* Sets 1 in `map` for each byte of a span; everything else must still be poison. */
static void check_untouched_outside(const struct problem *p, int set, int t)
{
    const struct block *block = &p->blocks[set][t];
    size_t all = block->bytes + 2 * CANARY;
    const struct attn_tensor *tensor = tensor_in(&p->sets[set], t);
    bool q = tensor_table[t].side == SIDE_Q;
    size_t row_bytes = (size_t)width_of(&p->shape, t) * attn_dtype_bytes(dtype_of(&p->shape, t));
    unsigned char *map = calloc(all, 1);
    for (int i = 0; i < p->count; i++) {
        const struct attn_sequence *s = &p->sequences[i];
        for (int row = 0; s->set == set && row < (q ? s->q_span : s->k_span); row++) {
            for (int head = 0; head < heads_of(&p->shape, t); head++) {
                memset(map + CANARY + ((q ? s->q_first : s->k_first) + row) * tensor->row_stride +
                           head * tensor->head_stride,
                       1, row_bytes);
            }
        }
    }
    for (size_t i = 0; i < all; i++) {
        if (!map[i] && block->memory[i] != POISON) {
            ck_abort_msg("set %d tensor %d: byte %zd was touched", set, t, (ptrdiff_t)i - CANARY);
        }
    }
    free(map);
}

static void check_memory(const struct problem *p)
{
    for (int set = 0; set < p->set_count; set++) {
        for (int t = 0; t < TENSOR_COUNT; t++) {
            const struct block *block = &p->blocks[set][t];
            if (!block->memory) {
                continue;
            }
            if (tensor_table[t].roles & out_role(&p->shape)) {
                check_untouched_outside(p, set, t);
            } else {
                ck_assert_msg(memcmp(block->memory, block->before, block->bytes + 2 * CANARY) == 0,
                              "set %d: input %d was written", set, t);
            }
        }
    }
}

void problem_run_row(struct problem *p, const struct attn_row *row, struct attn_context *context)
{
    for (int set = 0; set < p->set_count; set++) {
        for (int t = 0; t < TENSOR_COUNT; t++) {
            struct block *block = &p->blocks[set][t];
            if (block->memory && !block->before && (tensor_table[t].roles & in_role(&p->shape))) {
                keep_copy(block);
            }
        }
    }
    struct attn_launch launch = {.shape = p->shape,
                                 .sets = p->sets,
                                 .sequences = p->sequences,
                                 .set_count = p->set_count,
                                 .sequence_count = p->count};
    struct block scratch = {0};
    block_open(&scratch, row->scratch_bytes(&launch));
    launch.scratch = scratch.memory + CANARY;
    launch.scratch_bytes = scratch.bytes;
    launch.parts = p->parts;
    do {
        ck_assert_int_eq(row->launch(context, &launch), ATTN_OK);
    } while (++launch.part < launch.parts);
    for (size_t i = 0; i < CANARY; i++) {
        if (scratch.memory[i] != POISON || scratch.memory[CANARY + scratch.bytes + i] != POISON) {
            ck_abort_msg("scratch: written outside");
        }
    }
    block_close(&scratch);
    check_memory(p);
}

void problem_run(struct problem *p, struct attn_context *context)
{
    const char *reason;
    const struct attn_row *row = attn_select(ATTN_CPU, &p->shape, &reason);
    ck_assert_msg(row, "%s", reason);
    problem_run_row(p, row, context);
}

void problem_visit(const struct problem *p,
                   void (*visit)(void *argument, void *memory, size_t bytes, int written),
                   void *argument)
{
    for (int set = 0; set < p->set_count; set++) {
        for (int t = 0; t < TENSOR_COUNT; t++) {
            const struct block *block = &p->blocks[set][t];
            if (block->memory) {
                visit(argument, block->memory + CANARY, block->bytes,
                      tensor_table[t].roles & out_role(&p->shape));
            }
        }
        if (p->sinks && p->sinks[set].memory) {
            visit(argument, p->sinks[set].memory + CANARY, p->sinks[set].bytes, 0);
        }
        if (p->dsinks && p->dsinks[set].memory) {
            visit(argument, p->dsinks[set].memory + CANARY, p->dsinks[set].bytes, 1);
        }
    }
}

/* ---- comparing ---- */

/*
 * The kernels compute in fp32 and round once, so the bound is tighter than the service's rule: one
 * rounding step of the output type, and fp32 sums relative to the largest element. Largest seen:
 * 3.1e-6 for lse, 1.7e-6 for gradients on an AVX2 machine; 7.6e-6 (CPU, clang without vectors) and
 * 8.1e-6 (tensor cores) where dP - delta of a row that sees one key is 0 only up to the order of
 * its sums.
 */
static void check_close(const char *what, enum attn_dtype dtype, double got, double want,
                        double largest, double slack)
{
    static const double step[] = {
        [ATTN_BF16] = 0x1p-8, [ATTN_FP16] = 0x1p-11, [ATTN_FP32] = 0x1p-24};
    if (got == want) {
        return;
    }
    double bound = step[dtype] * fabs(want) + 2e-5 * fmax(largest, 1) + 0x1p-24 + slack;
    if (!(fabs(got - want) <= bound)) {
        ck_abort_msg("%s: got %.9g, want %.9g, off %.3g, bound %.3g", what, got, want,
                     fabs(got - want), bound);
    }
}

static void check_zero_rows(const struct problem *p, const char *what,
                            const struct attn_tensor *tensor, int64_t first, int count, int heads,
                            int width)
{
    for (int row = 0; row < count; row++) {
        for (int head = 0; head < heads; head++) {
            for (int c = 0; c < width; c++) {
                check_close(what, p->shape.dtype,
                            element(p->shape.dtype, tensor, first + row, head, c), 0, 0, 0);
            }
        }
    }
}

static void check_forward(const struct problem *p, const struct attn_sequence *s)
{
    const struct attn_shape *shape = &p->shape;
    const struct attn_set *set = &p->sets[s->set];
    struct answer_row a;
    answer_open(p, s, &a);
    for (int head = 0; head < shape->hq; head++) {
        for (int i = 0; i < s->q_len; i++) {
            answer_row(p, s, i, head, &a);
            int64_t row = s->q_first + i;
            /* Tensor core kernels take the GPU's approximate exp2, log2 and tanh. */
            double slack = p->rounding > 0 ? 1e-4 : 0;
            check_close("lse", ATTN_FP32, element(ATTN_FP32, &set->lse, row, head, 0), a.lse, 1,
                        slack);
            for (int c = 0; c < shape->dv; c++) {
                check_close("o", shape->dtype, element(shape->dtype, &set->o, row, head, c), a.o[c],
                            2, p->rounding * a.size[c]);
            }
        }
    }
    answer_close(&a);
    check_zero_rows(p, "unused o", &set->o, s->q_first + s->q_len, s->q_span - s->q_len, shape->hq,
                    shape->dv);
    for (int row = s->q_len; row < s->q_span; row++) {
        for (int head = 0; head < shape->hq; head++) {
            if (element(ATTN_FP32, &set->lse, s->q_first + row, head, 0) != -INFINITY) {
                ck_abort_msg("unused lse: not -inf");
            }
        }
    }
}

/* delta as the kernel can know it: from the o or delta it is given. */
static double answer_delta(const struct problem *p, const struct attn_sequence *s, int i, int head)
{
    const struct attn_shape *shape = &p->shape;
    const struct attn_set *set = &p->sets[s->set];
    int64_t row = s->q_first + i;
    double delta = shape->has_delta ? element(ATTN_FP32, &set->delta, row, head, 0) : 0;
    for (int c = 0; c < shape->dv && !shape->has_delta; c++) {
        delta += element(shape->dtype, &set->do_, row, head, c) *
                 element(shape->dtype, &set->o, row, head, c);
    }
    return shape->has_dlse ? delta - element(ATTN_FP32, &set->dlse, row, head, 0) : delta;
}

/* Gradients of one sequence, (heads, rows, width) each. */
struct gradients {
    double *dq, *dk, *dv, *dsink;
};

static void gradients_open(const struct problem *p, const struct attn_sequence *s,
                           struct gradients *g)
{
    size_t q_rows = (size_t)s->q_len * (size_t)p->shape.hq + 1;
    size_t k_rows = (size_t)s->k_len * (size_t)p->shape.hkv + 1;
    g->dq = calloc(q_rows * (size_t)p->shape.d, sizeof(double));
    g->dk = calloc(k_rows * (size_t)p->shape.d, sizeof(double));
    g->dv = calloc(k_rows * (size_t)p->shape.dv, sizeof(double));
    g->dsink = calloc((size_t)p->shape.hq, sizeof(double));
}

static void gradients_close(struct gradients *g)
{
    free(g->dq);
    free(g->dk);
    free(g->dv);
    free(g->dsink);
}

/* What one pair of a row and a key adds. */
static void add_pair(const struct problem *p, const struct attn_sequence *s, int i, int head, int j,
                     const struct answer_row *a, struct gradients *g)
{
    const struct attn_shape *shape = &p->shape;
    int kv_head = head / (shape->hq / shape->hkv);
    const double *q = input_row(p, s, a, Q, i, head);
    const double *k = input_row(p, s, a, K, j, kv_head);
    const double *grad = input_row(p, s, a, DO, i, head);
    double dp = dot(grad, input_row(p, s, a, V, j, kv_head), shape->dv);
    double ds = a->p[j] * (dp - a->delta) * a->slope[j] * shape->softmax_scale;
    double *dq = g->dq + ((int64_t)head * s->q_len + i) * shape->d;
    double *dk = g->dk + ((int64_t)kv_head * s->k_len + j) * shape->d;
    double *dv = g->dv + ((int64_t)kv_head * s->k_len + j) * shape->dv;
    for (int c = 0; c < shape->d; c++) {
        dq[c] += ds * k[c];
        dk[c] += ds * q[c];
    }
    for (int c = 0; c < shape->dv; c++) {
        dv[c] += a->p[j] * grad[c];
    }
}

static void answer_gradients(const struct problem *p, const struct attn_sequence *s,
                             struct gradients *g)
{
    struct answer_row a;
    answer_open(p, s, &a);
    for (int head = 0; head < p->shape.hq; head++) {
        for (int i = 0; i < s->q_len; i++) {
            answer_row(p, s, i, head, &a);
            a.delta = answer_delta(p, s, i, head);
            for (int j = 0; j < s->k_len; j++) {
                if (sees(&p->shape, s, i, j)) {
                    add_pair(p, s, i, head, j, &a, g);
                }
            }
            if (p->shape.has_sink) {
                g->dsink[head] -= exp((double)p->sets[s->set].sink[head] - a.lse) * a.delta;
            }
        }
    }
    answer_close(&a);
}

static double largest_of(const double *x, int64_t count)
{
    double largest = 0;
    for (int64_t i = 0; i < count; i++) {
        largest = fmax(largest, fabs(x[i]));
    }
    return largest;
}

/* at_least: what the largest element counts as, if it is smaller. */
static void check_gradient(const struct problem *p, const char *what,
                           const struct attn_tensor *tensor, int64_t first, int rows, int heads,
                           int width, const double *want, double at_least)
{
    double largest = largest_of(want, (int64_t)rows * heads * width);
    double slack = 2 * p->rounding * largest;
    for (int head = 0; head < heads; head++) {
        for (int row = 0; row < rows; row++) {
            for (int c = 0; c < width; c++) {
                check_close(
                    what, p->shape.dtype, element(p->shape.dtype, tensor, first + row, head, c),
                    want[((int64_t)head * rows + row) * width + c], fmax(largest, at_least), slack);
            }
        }
    }
}

static void check_backward(const struct problem *p, const struct attn_sequence *s)
{
    const struct attn_shape *shape = &p->shape;
    const struct attn_set *set = &p->sets[s->set];
    struct gradients g;
    gradients_open(p, s, &g);
    answer_gradients(p, s, &g);
    /* dP - delta is a difference of two sums of dv products, whose rounding grows with dv: 65
     * queries of one key, dv 256, had dk off by 2.6e-5 of 0, and by 8.4e-6 a row two orders of its
     * sums. */
    double sums = shape->dv / 128.0;
    check_gradient(p, "dq", &set->dq, s->q_first, s->q_len, shape->hq, shape->d, g.dq, sums);
    check_gradient(p, "dk", &set->dk, s->k_first, s->k_len, shape->hkv, shape->d, g.dk, sums);
    check_gradient(p, "dv", &set->dv, s->k_first, s->k_len, shape->hkv, shape->dv, g.dv, 0);
    double largest = shape->has_sink ? largest_of(g.dsink, shape->hq) : 0;
    for (int head = 0; head < shape->hq && shape->has_sink; head++) {
        check_close("dsink", ATTN_FP32, (double)set->dsink[s->index * shape->hq + head],
                    g.dsink[head], largest, 0);
    }
    gradients_close(&g);
    check_zero_rows(p, "unused dq", &set->dq, s->q_first + s->q_len, s->q_span - s->q_len,
                    shape->hq, shape->d);
    check_zero_rows(p, "unused dk", &set->dk, s->k_first + s->k_len, s->k_span - s->k_len,
                    shape->hkv, shape->d);
    check_zero_rows(p, "unused dv", &set->dv, s->k_first + s->k_len, s->k_span - s->k_len,
                    shape->hkv, shape->dv);
}

void problem_check(const struct problem *p)
{
    for (int i = 0; i < p->count; i++) {
        if (p->shape.pass == ATTN_FORWARD) {
            check_forward(p, &p->sequences[i]);
        } else {
            check_backward(p, &p->sequences[i]);
        }
    }
}

static void check_same_rows(const struct problem *a, int64_t row_a, int set_a,
                            const struct problem *b, int64_t row_b, int set_b, int t, int rows)
{
    const struct attn_tensor *in_a = tensor_in(&a->sets[set_a], t);
    const struct attn_tensor *in_b = tensor_in(&b->sets[set_b], t);
    size_t bytes = (size_t)width_of(&a->shape, t) * attn_dtype_bytes(dtype_of(&a->shape, t));
    for (int64_t row = 0; row < rows; row++) {
        for (int64_t head = 0; head < heads_of(&a->shape, t); head++) {
            if (memcmp((char *)in_a->data + (row_a + row) * in_a->row_stride +
                           head * in_a->head_stride,
                       (char *)in_b->data + (row_b + row) * in_b->row_stride +
                           head * in_b->head_stride,
                       bytes) != 0) {
                ck_abort_msg("tensor %d row %d head %d: other bits", t, (int)row, (int)head);
            }
        }
    }
}

void problem_check_same(const struct problem *a, int i, const struct problem *b, int j)
{
    const struct attn_sequence *x = &a->sequences[i];
    const struct attn_sequence *y = &b->sequences[j];
    for (int t = 0; t < TENSOR_COUNT; t++) {
        if (tensor_used(&a->shape, t) && (tensor_table[t].roles & out_role(&a->shape))) {
            bool q = tensor_table[t].side == SIDE_Q;
            check_same_rows(a, q ? x->q_first : x->k_first, x->set, b, q ? y->q_first : y->k_first,
                            y->set, t, q ? x->q_len : x->k_len);
        }
    }
    size_t sinks = (size_t)a->shape.hq;
    if (a->shape.has_sink && a->shape.pass == ATTN_BACKWARD) {
        ck_assert(memcmp(a->sets[x->set].dsink + (size_t)x->index * sinks,
                         b->sets[y->set].dsink + (size_t)y->index * sinks,
                         sinks * sizeof(float)) == 0);
    }
}
