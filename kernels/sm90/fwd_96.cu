/* Forward, head dims up to 96. */
#include "sm90/fwd_launch.cuh"
#include "sm90/rows.h"

enum attn_status sm90_fwd_96(struct attn_context *context, const struct attn_launch *launch)
{
    return sm90::fwd_dispatch<96, 96, 96, 80, 3>(context, launch);
}
