/* Backward, head dims 8 to 64. */
#include "sm100/bwd_launch.cuh"
#include "sm100/bwd_rows.h"

enum attn_status sm100_bwd_64(struct attn_context *context, const struct attn_launch *launch)
{
    return sm100::bwd_dispatch<sm100::bwd_config, 64, 64>(context, launch);
}

size_t sm100_bwd_64_scratch(const struct attn_launch *launch)
{
    return sm100::bwd_scratch_bytes<64>(launch);
}
