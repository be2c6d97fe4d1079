/* sm100/rows.h: the sm_100 rows of the table in attn.c. */
#ifndef SM100_ROWS_H
#define SM100_ROWS_H

#include "kernels/sm100/bwd_rows.h"

#ifdef __cplusplus
extern "C" {
#endif

enum attn_status sm100_fwd_64(struct attn_context *context, const struct attn_launch *launch);
enum attn_status sm100_fwd_128(struct attn_context *context, const struct attn_launch *launch);
enum attn_status sm100_fwd_192(struct attn_context *context, const struct attn_launch *launch);
enum attn_status sm100_fwd_256(struct attn_context *context, const struct attn_launch *launch);
/* The forward keeps all it needs on chip; tile lists belong to the context. */
size_t sm100_fwd_scratch(const struct attn_launch *launch);

#ifdef __cplusplus
}
#endif

#define SM100_DTYPES (1u << ATTN_BF16 | 1u << ATTN_FP16)

/* Any multiple of 8 up to d, dv: a kernel multiplies as many columns as there are. */
#define SM100_FORWARD(name, d, dv, launch)                                                         \
    {                                                                                              \
        name, ATTN_SM100, ATTN_FORWARD, SM100_DTYPES, 8, d, 8, dv, NULL, sm100_fwd_scratch, launch \
    }

#define ATTN_SM100_ROWS                                                                            \
    SM100_FORWARD("sm100_fwd_64", 64, 64, sm100_fwd_64),                                           \
        SM100_FORWARD("sm100_fwd_128", 128, 128, sm100_fwd_128),                                   \
        SM100_FORWARD("sm100_fwd_192", 192, 128, sm100_fwd_192),                                   \
        SM100_FORWARD("sm100_fwd_256", 256, 256, sm100_fwd_256), SM100_BACKWARD_PAIR_ROW,          \
        SM100_BACKWARD_ROWS SM100_BACKWARD_WIDE_ROWS

#endif
