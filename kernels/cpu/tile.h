/*
 * tile.h: what the two passes share: tiles of tensors as fp32 matrices, the scores of a box of
 * rows and keys, and where the work of a launch is.
 */
#ifndef ATTN_CPU_TILE_H
#define ATTN_CPU_TILE_H

#include <stddef.h>

#include "kernels/attn.h"
#include "kernels/cpu/blas.h"
#include "kernels/cpu/mask.h"
#include "kernels/cpu/pool.h"
#include "kernels/cpu/turn.h"
#include "kernels/cpu/vector.h"

/*
 * Tile sizes are fixed numbers: they decide bits. A worker's matrices (tile by head_dim, and
 * rows by keys scores) should stay in a core's L2.
 */
enum {
    TILE_ROWS = 128,
    TILE_ROWS_MAX = 256,
    FORWARD_KEYS = 512,
    BACKWARD_KEYS = 512,
    TILE_KEYS_MAX = 512,
};

/* One thread's own memory. */
struct worker {
    float *rows[2];   /* TILE_ROWS_MAX x ATTN_HEAD_DIM_MAX each */
    float *keys[4];   /* TILE_KEYS_MAX x ATTN_HEAD_DIM_MAX each */
    float *scores[3]; /* TILE_ROWS_MAX x TILE_KEYS_MAX each */
    float row[2][TILE_ROWS_MAX];
    void *memory;
};

struct attn_context {
    struct pool *pool;
    struct turn_room turns;
    const struct vector *vector;
    int worker_count;
    struct worker workers[];
};

/* The part of one sequence's score matrix that a step works on. */
struct box {
    const struct attn_shape *shape;
    const struct attn_sequence *sequence;
    struct range rows, keys; /* non-empty */
};

static inline int32_t range_length(struct range r)
{
    return r.end - r.first;
}

static inline int32_t tiles_of(int32_t length, int32_t tile)
{
    return (int32_t)(((int64_t)length + tile - 1) / tile);
}

/* Tile t of `length` rows or keys. */
static inline struct range tile_range(int32_t t, int32_t tile, int32_t length)
{
    int64_t end = ((int64_t)t + 1) * tile;
    struct range range = {t * tile, end < length ? (int32_t)end : length};
    return range;
}

static inline float *matrix_row(struct matrix m, int32_t i)
{
    return m.data + (int64_t)i * m.ld;
}

/* The matrix without its first i rows. */
static inline struct matrix matrix_from_row(struct matrix m, int32_t i)
{
    return (struct matrix){matrix_row(m, i), m.ld};
}

/* The keys that row i of the box (0 is its first) sees, counted from the box's first key. */
struct range box_seen(const struct box *box, int32_t i);

/* Sets the elements of a row of `count` that are not in `kept`, which may be empty, to 0. */
void clear_outside(float *row, struct range kept, int32_t count);

/* Element (row, head, 0); row counts from the start of the tensor. */
void *tensor_at(const struct attn_tensor *tensor, int64_t row, int32_t head);

/* fp32 statistics: lse, dlse, delta. */
float *statistic_at(const struct attn_tensor *tensor, int64_t row, int32_t head);

/*
 * Rows [first, first + count) of a head as an fp32 matrix of `width` columns: in place where the
 * tensor allows it, else converted into `room`.
 */
struct matrix tile_load(const struct attn_context *context, enum attn_dtype dtype,
                        const struct attn_tensor *tensor, int64_t first, int32_t count,
                        int32_t head, int32_t width, float *room);

void tile_store(const struct attn_context *context, enum attn_dtype dtype,
                const struct attn_tensor *tensor, int64_t first, int32_t count, int32_t head,
                int32_t width, struct matrix from);

/* Rows of all heads: in one go where they are packed. */
void tile_store_zero(enum attn_dtype dtype, const struct attn_tensor *tensor, int64_t first,
                     int32_t count, int32_t heads, int32_t width);

/*
 * out_i += sum over the keys j that row i sees of weight_ij value_j; weights are 0 elsewhere, yet
 * an unseen value that is inf or NaN does not count either.
 */
void box_add_over_keys(const struct attn_context *context, const struct box *box,
                       struct matrix weights, struct matrix values, int32_t width,
                       struct matrix out);

/* out_j += sum over the rows i that see key j of weight_ij value_i; likewise. */
void box_add_over_rows(const struct attn_context *context, const struct box *box,
                       struct matrix weights, struct matrix values, int32_t width,
                       struct matrix out);

/* How many helpers are worth waking for the launch. */
int launch_helpers(const struct attn_launch *launch);

#endif
