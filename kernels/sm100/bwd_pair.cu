/* Backward, head dims of q, k and of v both 72 to 128, by pairs of CTAs. */
#include "sm100/bwd_launch.cuh"
#include "sm100/bwd_rows.h"

enum attn_status sm100_bwd_pair(struct attn_context *context, const struct attn_launch *launch)
{
    return sm100::bwd_dispatch<sm100::bwd_pair_config, 128, 128>(context, launch);
}
