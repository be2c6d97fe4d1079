/*
 * tile.c: tiles of tensors in and out, and the two products that must not let an unseen key or row
 * through.
 */
#include "kernels/cpu/tile.h"

#include <limits.h>
#include <string.h>

#include "kernels/cpu/zero.h"

struct range box_seen(const struct box *box, int32_t i)
{
    int32_t row = box->rows.first + i;
    struct range seen = {first_key(&box->shape->mask, box->sequence, row),
                         end_key(&box->shape->mask, box->sequence, row)};
    seen = intersection(seen, box->keys);
    seen.first -= box->keys.first;
    seen.end -= box->keys.first;
    return seen;
}

void clear_outside(float *row, struct range kept, int32_t count)
{
    int32_t first = range_empty(kept) ? count : kept.first;
    int32_t end = range_empty(kept) ? count : kept.end;
    memset(row, 0, (size_t)first * sizeof *row);
    memset(row + end, 0, (size_t)(count - end) * sizeof *row);
}

void *tensor_at(const struct attn_tensor *tensor, int64_t row, int32_t head)
{
    return (char *)tensor->data + row * tensor->row_stride + head * tensor->head_stride;
}

float *statistic_at(const struct attn_tensor *tensor, int64_t row, int32_t head)
{
    return tensor_at(tensor, row, head);
}

/* BLAS counts strides in int elements and wants them at least as wide as the matrix. */
static bool in_place(enum attn_dtype dtype, const struct attn_tensor *tensor, int32_t width)
{
    int64_t ld = tensor->row_stride / (int64_t)sizeof(float);
    return dtype == ATTN_FP32 && ld >= width && ld <= INT_MAX;
}

static void load_row(const struct vector *vector, enum attn_dtype dtype, const void *from,
                     int32_t width, float *to)
{
    if (dtype == ATTN_BF16) {
        vector->from_bf16(to, from, width);
    } else if (dtype == ATTN_FP16) {
        vector->from_fp16(to, from, width);
    } else {
        memcpy(to, from, (size_t)width * sizeof *to);
    }
}

struct matrix tile_load(const struct attn_context *context, enum attn_dtype dtype,
                        const struct attn_tensor *tensor, int64_t first, int32_t count,
                        int32_t head, int32_t width, float *room)
{
    if (in_place(dtype, tensor, width)) {
        return (struct matrix){tensor_at(tensor, first, head),
                               (int)(tensor->row_stride / (int64_t)sizeof(float))};
    }
    for (int32_t i = 0; i < count; i++) {
        load_row(context->vector, dtype, tensor_at(tensor, first + i, head), width,
                 room + (size_t)i * width);
    }
    return (struct matrix){room, width};
}

static void store_row(const struct vector *vector, enum attn_dtype dtype, const float *from,
                      int32_t width, void *to)
{
    if (dtype == ATTN_BF16) {
        vector->to_bf16(to, from, width);
    } else if (dtype == ATTN_FP16) {
        vector->to_fp16(to, from, width);
    } else {
        memcpy(to, from, (size_t)width * sizeof *from);
    }
}

void tile_store(const struct attn_context *context, enum attn_dtype dtype,
                const struct attn_tensor *tensor, int64_t first, int32_t count, int32_t head,
                int32_t width, struct matrix from)
{
    for (int32_t i = 0; i < count; i++) {
        store_row(context->vector, dtype, matrix_row(from, i), width,
                  tensor_at(tensor, first + i, head));
    }
}

void tile_store_zero(enum attn_dtype dtype, const struct attn_tensor *tensor, int64_t first,
                     int32_t count, int32_t heads, int32_t width)
{
    int64_t bytes = (int64_t)width * attn_dtype_bytes(dtype), row = heads * bytes;
    bool rows_whole = heads == 1 || tensor->head_stride == bytes;
    if (rows_whole && tensor->row_stride == row) {
        zero(tensor_at(tensor, first, 0), (size_t)(count * row));
        return;
    }
    for (int64_t i = first; i < first + count; i++) {
        for (int32_t head = 0; head < (rows_whole ? 1 : heads); head++) {
            zero(tensor_at(tensor, i, head), (size_t)(rows_whole ? row : bytes));
        }
    }
}

static bool rows_finite(const struct attn_context *context, struct matrix m, int32_t first,
                        int32_t end, int32_t width)
{
    for (int32_t i = first; i < end; i++) {
        if (!context->vector->all_finite(matrix_row(m, i), width)) {
            return false;
        }
    }
    return true;
}

/*
 * A product may take weights of 0 at their word only if no value is inf or NaN that some of the
 * others do not see. The values are those of `range`; `common` are the ones that all see.
 */
static bool product_safe(const struct attn_context *context, struct range range,
                         struct range common, struct matrix values, int32_t width)
{
    int32_t count = range_length(range);
    int32_t first = clamped((int64_t)common.first - range.first, 0, count);
    int32_t end = clamped((int64_t)common.end - range.first, 0, count);
    return rows_finite(context, values, 0, first, width) &&
           rows_finite(context, values, end, count, width);
}

void box_add_over_keys(const struct attn_context *context, const struct box *box,
                       struct matrix weights, struct matrix values, int32_t width,
                       struct matrix out)
{
    int32_t rows = range_length(box->rows);
    int32_t keys = range_length(box->keys);
    struct range common = keys_seen_by_all(&box->shape->mask, box->sequence, box->rows);
    if (product_safe(context, box->keys, common, values, width)) {
        blas_add_nn(rows, width, keys, weights, values, out);
        return;
    }
    for (int32_t i = 0; i < rows; i++) {
        struct range seen = box_seen(box, i);
        for (int32_t j = seen.first; j < seen.end; j++) {
            context->vector->add_scaled(matrix_row(out, i), matrix_row(weights, i)[j],
                                        matrix_row(values, j), width);
        }
    }
}

void box_add_over_rows(const struct attn_context *context, const struct box *box,
                       struct matrix weights, struct matrix values, int32_t width,
                       struct matrix out)
{
    int32_t rows = range_length(box->rows);
    int32_t keys = range_length(box->keys);
    struct range common = rows_seeing_all(&box->shape->mask, box->sequence, box->keys);
    if (product_safe(context, box->rows, common, values, width)) {
        blas_add_tn(keys, width, rows, weights, values, out);
        return;
    }
    for (int32_t i = 0; i < rows; i++) {
        struct range seen = box_seen(box, i);
        for (int32_t j = seen.first; j < seen.end; j++) {
            context->vector->add_scaled(matrix_row(out, j), matrix_row(weights, i)[j],
                                        matrix_row(values, i), width);
        }
    }
}

/* Bytes of o, or of dk and dv, in rows that no query or key is in: they are written, too. */
static double unused_bytes(const struct attn_shape *shape, const struct attn_sequence *s)
{
    double q_rows = s->q_span - s->q_len, k_rows = s->k_span - s->k_len;
    double elements = shape->pass == ATTN_FORWARD ? q_rows * shape->hq * shape->dv
                                                  : k_rows * shape->hkv * (shape->d + shape->dv);
    return elements * attn_dtype_bytes(shape->dtype);
}

/*
 * Waking a thread costs some 50 us of latency; 2^23 FLOPs of a short sequence are some 200 us of
 * one core's work (35 to 60 GFLOPS at 128 tokens: half of a tile on the diagonal is hidden). With
 * 2^25 a forward of 128 tokens, 8 heads and head_dim 64 stayed on the caller: 0.56 to 0.69 ms where
 * two threads take 0.29 to 0.36 (a Xeon, 2026-11-23; 2^22, 2^23 and 2^24 are alike). Writing 2 MiB
 * of zeros takes as long (2.5 ms for 16 MiB by one thread).
 */
int launch_helpers(const struct attn_launch *launch)
{
    const double flops_per_helper = 1 << 23, bytes_per_helper = 1 << 21;
    double helpers = 0;
    for (int32_t i = 0; i < launch->sequence_count; i++) {
        const struct attn_sequence *s = &launch->sequences[i];
        helpers += attn_flops(&launch->shape, s->q_len, s->k_len) / flops_per_helper;
        helpers += unused_bytes(&launch->shape, s) / bytes_per_helper;
    }
    return helpers < INT_MAX ? (int)helpers : INT_MAX;
}
