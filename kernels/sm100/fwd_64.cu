/* Forward, head dims up to 64. */
#include "sm100/fwd_launch.cuh"
#include "sm100/rows.h"

enum attn_status sm100_fwd_64(struct attn_context *context, const struct attn_launch *launch)
{
    return sm100::fwd_dispatch<64, 64, 2>(context, launch);
}

size_t sm100_fwd_scratch(const struct attn_launch *launch)
{
    (void)launch;
    return 0;
}
