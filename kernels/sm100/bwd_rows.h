/* sm100/bwd_rows.h: the backward rows of sm_100 in the table in attn.c. */
#ifndef SM100_BWD_ROWS_H
#define SM100_BWD_ROWS_H

#include "kernels/attn.h"

#ifdef __cplusplus
extern "C" {
#endif

enum attn_status sm100_bwd_64(struct attn_context *context, const struct attn_launch *launch);
enum attn_status sm100_bwd_128(struct attn_context *context, const struct attn_launch *launch);
enum attn_status sm100_bwd_pair(struct attn_context *context, const struct attn_launch *launch);
enum attn_status sm100_bwd_mixed(struct attn_context *context, const struct attn_launch *launch);
enum attn_status sm100_bwd_192(struct attn_context *context, const struct attn_launch *launch);
enum attn_status sm100_bwd_256(struct attn_context *context, const struct attn_launch *launch);
size_t sm100_bwd_64_scratch(const struct attn_launch *launch);
size_t sm100_bwd_128_scratch(const struct attn_launch *launch);
size_t sm100_bwd_192_scratch(const struct attn_launch *launch);
size_t sm100_bwd_256_scratch(const struct attn_launch *launch);

#ifdef __cplusplus
}
#endif

#define SM100_BACKWARD_DTYPES (1u << ATTN_BF16 | 1u << ATTN_FP16)

#define SM100_BACKWARD(name, d, dv, scratch, launch)                                               \
    {                                                                                              \
        name, ATTN_SM100, ATTN_BACKWARD, SM100_BACKWARD_DTYPES, 8, d, 8, dv, NULL, scratch, launch \
    }

/*
 * Preferred where both head dims are over 64, as in FlashAttention 4: shared memory binds a CTA on
 * its own (3328 cycles a step against 2688).
 */
#define SM100_BACKWARD_PAIR_ROW                                                                    \
    {                                                                                              \
        "sm100_bwd_pair_128", ATTN_SM100, ATTN_BACKWARD, SM100_BACKWARD_DTYPES, 72, 128, 72, 128,  \
            NULL, sm100_bwd_128_scratch, sm100_bwd_pair                                            \
    }

#define SM100_BACKWARD_ROWS                                                                        \
    SM100_BACKWARD("sm100_bwd_64", 64, 64, sm100_bwd_64_scratch, sm100_bwd_64),                    \
        SM100_BACKWARD("sm100_bwd_128", 128, 128, sm100_bwd_128_scratch, sm100_bwd_128),

/* For what those leave: pairs of CTAs with half of the head dim each. */
#define SM100_BACKWARD_WIDE_ROWS                                                                   \
    SM100_BACKWARD("sm100_bwd_192", 192, 128, sm100_bwd_192_scratch, sm100_bwd_192),               \
        SM100_BACKWARD("sm100_bwd_256", 256, 256, sm100_bwd_256_scratch, sm100_bwd_256),

#endif
