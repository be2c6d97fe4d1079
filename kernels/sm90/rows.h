/* sm90/rows.h: the sm_90a rows of the table in attn.c. */
#ifndef SM90_ROWS_H
#define SM90_ROWS_H

#include "kernels/attn.h"

#ifdef __cplusplus
extern "C" {
#endif

enum attn_status sm90_fwd_64(struct attn_context *context, const struct attn_launch *launch);
enum attn_status sm90_fwd_96(struct attn_context *context, const struct attn_launch *launch);
enum attn_status sm90_fwd_128(struct attn_context *context, const struct attn_launch *launch);
enum attn_status sm90_fwd_192(struct attn_context *context, const struct attn_launch *launch);
enum attn_status sm90_fwd_256(struct attn_context *context, const struct attn_launch *launch);

/* Likewise, in tiles of 192 rows. */
enum attn_status sm90_fwd_128_tall(struct attn_context *context, const struct attn_launch *launch);
enum attn_status sm90_fwd_192_tall(struct attn_context *context, const struct attn_launch *launch);

enum attn_status sm90_bwd_64(struct attn_context *context, const struct attn_launch *launch);
enum attn_status sm90_bwd_128(struct attn_context *context, const struct attn_launch *launch);
enum attn_status sm90_bwd_192(struct attn_context *context, const struct attn_launch *launch);
enum attn_status sm90_bwd_256(struct attn_context *context, const struct attn_launch *launch);
const char *sm90_bwd_64_refuse(const struct attn_shape *shape);
size_t sm90_bwd_64_scratch(const struct attn_launch *launch);
size_t sm90_bwd_128_scratch(const struct attn_launch *launch);
size_t sm90_bwd_192_scratch(const struct attn_launch *launch);
size_t sm90_bwd_256_scratch(const struct attn_launch *launch);
/* The forward keeps all it needs on chip; tile lists belong to the context. */
size_t sm90_fwd_scratch(const struct attn_launch *launch);

#ifdef __cplusplus
}
#endif

#define SM90_DTYPES (1u << ATTN_BF16 | 1u << ATTN_FP16)

/* Head dims below an instance's are read as if filled up with zeros. */
#define SM90_FORWARD(name, d, dv, launch)                                                          \
    {                                                                                              \
        name, ATTN_SM90, ATTN_FORWARD, SM90_DTYPES, 8, d, 8, dv, NULL, sm90_fwd_scratch, launch    \
    }

#define SM90_BACKWARD(name, d, dv, refuse, scratch, launch)                                        \
    {                                                                                              \
        name, ATTN_SM90, ATTN_BACKWARD, SM90_DTYPES, 8, d, 8, dv, refuse, scratch, launch          \
    }

#define ATTN_SM90_ROWS                                                                             \
    SM90_FORWARD("sm90_fwd_64", 64, 64, sm90_fwd_64),                                              \
        SM90_FORWARD("sm90_fwd_96", 96, 96, sm90_fwd_96),                                          \
        SM90_FORWARD("sm90_fwd_128", 128, 128, sm90_fwd_128),                                      \
        SM90_FORWARD("sm90_fwd_192", 192, 128, sm90_fwd_192),                                      \
        SM90_FORWARD("sm90_fwd_256", 256, 256, sm90_fwd_256),                                      \
        SM90_BACKWARD("sm90_bwd_64", 64, 64, sm90_bwd_64_refuse, sm90_bwd_64_scratch,              \
                      sm90_bwd_64),                                                                \
        SM90_BACKWARD("sm90_bwd_128", 128, 128, NULL, sm90_bwd_128_scratch, sm90_bwd_128),         \
        SM90_BACKWARD("sm90_bwd_192", 192, 128, NULL, sm90_bwd_192_scratch, sm90_bwd_192),         \
        SM90_BACKWARD("sm90_bwd_256", 256, 256, NULL, sm90_bwd_256_scratch, sm90_bwd_256),

#endif
