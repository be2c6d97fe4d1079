/* Backward, head dims to 192 of q and k, 128 of v, beyond what bwd_128 has. */
#include "sm100/bwd_launch.cuh"
#include "sm100/bwd_rows.h"

enum attn_status sm100_bwd_192(struct attn_context *context, const struct attn_launch *launch)
{
    return sm100::bwd_dispatch<sm100::bwd_wide_config, 192, 128>(context, launch);
}

size_t sm100_bwd_192_scratch(const struct attn_launch *launch)
{
    return sm100::bwd_scratch_bytes<192>(launch);
}
