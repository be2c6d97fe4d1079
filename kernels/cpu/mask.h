/*
 * mask.h: who sees whom, as intervals. Pure.
 *
 * Query i sees the keys [first_key(i), end_key(i)); both ends grow by at most one per row, so the
 * keys seen by a run of rows, and the rows that see a run of keys, are intervals too.
 */
#ifndef ATTN_CPU_MASK_H
#define ATTN_CPU_MASK_H

#include "kernels/attn.h"

/* [first, end) */
struct range {
    int32_t first, end;
};

static inline int32_t clamped(int64_t x, int32_t low, int32_t high)
{
    return x < low ? low : x > high ? high : (int32_t)x;
}

static inline struct range intersection(struct range a, struct range b)
{
    struct range both = {a.first > b.first ? a.first : b.first, a.end < b.end ? a.end : b.end};
    return both;
}

static inline bool range_empty(struct range r)
{
    return r.first >= r.end;
}

static inline int32_t first_key(const struct attn_mask *mask, const struct attn_sequence *s,
                                int32_t row)
{
    int64_t diagonal = (int64_t)row + s->k_len - s->q_len;
    return mask->has_left ? clamped(diagonal - mask->left, 0, s->k_len) : 0;
}

static inline int32_t end_key(const struct attn_mask *mask, const struct attn_sequence *s,
                              int32_t row)
{
    int64_t diagonal = (int64_t)row + s->k_len - s->q_len;
    return mask->has_right ? clamped(diagonal + mask->right + 1, 0, s->k_len) : s->k_len;
}

/* The keys that some row of a non-empty range sees. */
static inline struct range keys_seen(const struct attn_mask *mask, const struct attn_sequence *s,
                                     struct range rows)
{
    struct range keys = {first_key(mask, s, rows.first), end_key(mask, s, rows.end - 1)};
    return keys;
}

/* The rows that see some key of a non-empty range. */
static inline struct range rows_seeing(const struct attn_mask *mask, const struct attn_sequence *s,
                                       struct range keys)
{
    int64_t shift = (int64_t)s->q_len - s->k_len;
    struct range rows = {0, s->q_len};
    if (mask->has_right) {
        rows.first = clamped(keys.first + shift - mask->right, 0, s->q_len);
    }
    if (mask->has_left) {
        rows.end = clamped(keys.end + shift + mask->left, 0, s->q_len);
    }
    return rows;
}

/* The keys that every row of a non-empty range sees. */
static inline struct range keys_seen_by_all(const struct attn_mask *mask,
                                            const struct attn_sequence *s, struct range rows)
{
    struct range keys = {first_key(mask, s, rows.end - 1), end_key(mask, s, rows.first)};
    return keys;
}

/* The rows that see every key of a non-empty range. */
static inline struct range rows_seeing_all(const struct attn_mask *mask,
                                           const struct attn_sequence *s, struct range keys)
{
    struct range first = {keys.first, keys.first + 1};
    struct range last = {keys.end - 1, keys.end};
    return intersection(rows_seeing(mask, s, first), rows_seeing(mask, s, last));
}

#endif
