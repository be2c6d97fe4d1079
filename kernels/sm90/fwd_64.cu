/* Forward, head dims up to 64. */
#include "sm90/fwd_launch.cuh"
#include "sm90/rows.h"

enum attn_status sm90_fwd_64(struct attn_context *context, const struct attn_launch *launch)
{
    return sm90::fwd_dispatch<64, 64, 128, 96, 3>(context, launch);
}

size_t sm90_fwd_scratch(const struct attn_launch *launch)
{
    (void)launch;
    return 0;
}
