/* Forward, head dims up to 256. */
#include "sm90/fwd_launch.cuh"
#include "sm90/rows.h"

enum attn_status sm90_fwd_256(struct attn_context *context, const struct attn_launch *launch)
{
    return sm90::fwd_dispatch<256, 256, 80, 80, 2>(context, launch);
}
