/*
 * Backward, head dims of q, k and of v on either side of 64. A narrower tensor would have a panel
 * wholly outside it, which costs shared memory and products for nothing.
 */
#include "sm100/bwd_launch.cuh"
#include "sm100/bwd_rows.h"

enum attn_status sm100_bwd_mixed(struct attn_context *context, const struct attn_launch *launch)
{
    return launch->shape.d > 64 ? sm100::bwd_dispatch<sm100::bwd_config, 128, 64>(context, launch)
                                : sm100::bwd_dispatch<sm100::bwd_config, 64, 128>(context, launch);
}
