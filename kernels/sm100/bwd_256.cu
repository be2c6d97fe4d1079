/* Backward, head dims to 256, beyond what bwd_192 has. */
#include "sm100/bwd_launch.cuh"
#include "sm100/bwd_rows.h"

enum attn_status sm100_bwd_256(struct attn_context *context, const struct attn_launch *launch)
{
    return sm100::bwd_dispatch<sm100::bwd_wide_config, 256, 256>(context, launch);
}

size_t sm100_bwd_256_scratch(const struct attn_launch *launch)
{
    return sm100::bwd_scratch_bytes<256>(launch);
}
