/* Forward, head dims up to 256. */
#include "sm100/fwd_launch.cuh"
#include "sm100/rows.h"

enum attn_status sm100_fwd_256(struct attn_context *context, const struct attn_launch *launch)
{
    return sm100::fwd_dispatch<256, 256, 1>(context, launch);
}
