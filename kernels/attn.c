/*
 * attn.c: what all kernels share: the table of rows, how one is chosen, and the arithmetic of a
 * shape (check, equality, FLOPs). Pure; any thread.
 */
#include "kernels/attn.h"

#include <math.h>

#include "kernels/cpu/cpu.h"

#ifdef ATTN_HAVE_SM90
#include "kernels/sm90/rows.h"
#else
#define ATTN_SM90_ROWS
#endif
#ifdef ATTN_HAVE_SM100
#include "kernels/sm100/rows.h"
#else
#define ATTN_SM100_ROWS
#endif

static const struct attn_row rows[] = {
    ATTN_SM90_ROWS ATTN_SM100_ROWS
    /* name, arch, pass, dtypes, d, dv, refuse, scratch_bytes, launch */
    {"cpu_fwd", ATTN_CPU, ATTN_FORWARD, ATTN_CPU_DTYPES, ATTN_HEAD_DIM_STEP, ATTN_HEAD_DIM_MAX,
     ATTN_HEAD_DIM_STEP, ATTN_HEAD_DIM_MAX, NULL, attn_cpu_forward_scratch, attn_cpu_forward},
    {"cpu_bwd", ATTN_CPU, ATTN_BACKWARD, ATTN_CPU_DTYPES, ATTN_HEAD_DIM_STEP, ATTN_HEAD_DIM_MAX,
     ATTN_HEAD_DIM_STEP, ATTN_HEAD_DIM_MAX, NULL, attn_cpu_backward_scratch, attn_cpu_backward},
};

const struct attn_row *attn_rows(size_t *count)
{
    *count = sizeof rows / sizeof rows[0];
    return rows;
}

/* NULL when the row serves the shape, else the reason. */
static const char *row_refuses(const struct attn_row *row, const struct attn_shape *shape)
{
    if (!(row->dtypes & (1u << shape->dtype))) {
        return "dtype: no kernel of this device computes it";
    }
    if (shape->d < row->d_min || shape->d > row->d_max) {
        return "d: no kernel of this device has this head_dim";
    }
    if (shape->dv < row->dv_min || shape->dv > row->dv_max) {
        return "dv: no kernel of this device has this head_dim";
    }
    return row->refuse ? row->refuse(shape) : NULL;
}

const struct attn_row *attn_select(enum attn_arch arch, const struct attn_shape *shape,
                                   const char **reason)
{
    *reason = attn_shape_check(shape);
    if (*reason) {
        return NULL;
    }
    *reason = "pass: no kernel of this device computes it";
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        if (rows[i].arch != arch || rows[i].pass != shape->pass) {
            continue;
        }
        *reason = row_refuses(&rows[i], shape);
        if (!*reason) {
            return &rows[i];
        }
    }
    return NULL;
}

static bool head_dim_ok(int32_t d)
{
    return d >= ATTN_HEAD_DIM_STEP && d <= ATTN_HEAD_DIM_MAX && d % ATTN_HEAD_DIM_STEP == 0;
}

const char *attn_shape_check(const struct attn_shape *s)
{
    if (s->pass != ATTN_FORWARD && s->pass != ATTN_BACKWARD) {
        return "pass: neither forward nor backward";
    }
    if (s->dtype != ATTN_BF16 && s->dtype != ATTN_FP16 && s->dtype != ATTN_FP32) {
        return "dtype: not bf16, fp16 or fp32";
    }
    if (s->hq < 1) {
        return "hq: less than 1";
    }
    if (s->hkv < 1) {
        return "hkv: less than 1";
    }
    if (s->hq % s->hkv != 0) {
        return "hq: not a multiple of hkv";
    }
    if (!head_dim_ok(s->d)) {
        return "d: not a multiple of 8 in 8..256";
    }
    if (!head_dim_ok(s->dv)) {
        return "dv: not a multiple of 8 in 8..256";
    }
    if (s->mask.has_left && s->mask.left < 0) {
        return "mask.left: negative";
    }
    if (s->mask.has_right && s->mask.right < 0) {
        return "mask.right: negative";
    }
    if (!(s->softmax_scale > 0) || isinf(s->softmax_scale)) {
        return "softmax_scale: not a positive finite number";
    }
    if (!(s->softcap >= 0) || isinf(s->softcap)) {
        return "softcap: not a finite number >= 0";
    }
    return NULL;
}

static bool mask_equal(const struct attn_mask *a, const struct attn_mask *b)
{
    return a->has_left == b->has_left && (!a->has_left || a->left == b->left) &&
           a->has_right == b->has_right && (!a->has_right || a->right == b->right);
}

bool attn_shape_equal(const struct attn_shape *a, const struct attn_shape *b)
{
    bool forward_equal = a->pass == b->pass && a->dtype == b->dtype && a->hq == b->hq &&
                         a->hkv == b->hkv && a->d == b->d && a->dv == b->dv &&
                         mask_equal(&a->mask, &b->mask) && a->softmax_scale == b->softmax_scale &&
                         a->softcap == b->softcap && a->has_sink == b->has_sink;
    if (!forward_equal || a->pass == ATTN_FORWARD) {
        return forward_equal;
    }
    return a->has_dlse == b->has_dlse && a->has_delta == b->has_delta &&
           a->deterministic == b->deterministic;
}

size_t attn_dtype_bytes(enum attn_dtype dtype)
{
    return dtype == ATTN_FP32 ? 4 : 2;
}

/* Sum over i in [0, n) of i + first clamped to [0, limit]: a ramp, then a plateau. */
static double sum_clamped(double n, double first, double limit)
{
    double zeros = fmin(fmax(-first, 0), n);
    double ramp_end = fmin(fmax(limit - first, zeros), n);
    double ramp = ramp_end - zeros;
    double ramp_first = fmax(first, 0);
    return ramp * ramp_first + ramp * (ramp - 1) / 2 + (n - ramp_end) * limit;
}

double attn_flops(const struct attn_shape *shape, int32_t q_len, int32_t k_len)
{
    double diagonal = (double)k_len - q_len;
    double below_end = (double)q_len * k_len;
    double before_first = 0;
    if (shape->mask.has_right) {
        below_end = sum_clamped(q_len, diagonal + shape->mask.right + 1, k_len);
    }
    if (shape->mask.has_left) {
        before_first = sum_clamped(q_len, diagonal - shape->mask.left, k_len);
    }
    double forward = 2.0 * (shape->d + shape->dv) * shape->hq * (below_end - before_first);
    return shape->pass == ATTN_FORWARD ? forward : 2.5 * forward;
}

void attn_sum_dsink(const float *per_sequence, int64_t sequences, int32_t hq, float *out)
{
    for (int32_t h = 0; h < hq; h++) {
        double sum = 0;
        for (int64_t s = 0; s < sequences; s++) {
            sum += per_sequence[s * hq + h];
        }
        out[h] = (float)sum;
    }
}
