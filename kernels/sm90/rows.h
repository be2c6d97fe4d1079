/* sm90/rows.h: the sm_90a rows of the table in attn.c. */
#ifndef SM90_ROWS_H
#define SM90_ROWS_H

#include "kernels/attn.h"

#ifdef __cplusplus
extern "C" {
#endif

enum attn_status sm90_fwd_64(struct attn_context *context, const struct attn_launch *launch);
enum attn_status sm90_fwd_128(struct attn_context *context, const struct attn_launch *launch);

enum attn_status sm90_bwd_64(struct attn_context *context, const struct attn_launch *launch);
enum attn_status sm90_bwd_128(struct attn_context *context, const struct attn_launch *launch);
const char *sm90_bwd_64_refuse(const struct attn_shape *shape);
size_t sm90_bwd_64_scratch(const struct attn_launch *launch);
size_t sm90_bwd_128_scratch(const struct attn_launch *launch);
/* The forward keeps all it needs on chip; tile lists belong to the context. */
size_t sm90_fwd_scratch(const struct attn_launch *launch);

#ifdef __cplusplus
}
#endif

#define SM90_DTYPES (1u << ATTN_BF16 | 1u << ATTN_FP16)

/* Head dims below an instance's are read as if filled up with zeros. */
#define ATTN_SM90_ROWS                                                                             \
    {"sm90_fwd_64", ATTN_SM90,        ATTN_FORWARD, SM90_DTYPES, 8, 64, 8, 64,                     \
     NULL,          sm90_fwd_scratch, sm90_fwd_64},                                                \
        {"sm90_fwd_128", ATTN_SM90,        ATTN_FORWARD, SM90_DTYPES, 8, 128, 8, 128,              \
         NULL,           sm90_fwd_scratch, sm90_fwd_128},                                          \
        {"sm90_bwd_64",      ATTN_SM90,           ATTN_BACKWARD, SM90_DTYPES, 8, 64, 8, 64,        \
         sm90_bwd_64_refuse, sm90_bwd_64_scratch, sm90_bwd_64},                                    \
        {"sm90_bwd_128",       ATTN_SM90,   ATTN_BACKWARD, SM90_DTYPES, 8, 128, 8, 128, NULL,      \
         sm90_bwd_128_scratch, sm90_bwd_128},

#endif
