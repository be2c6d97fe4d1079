/* Forward, head dims up to 128. */
#include "sm100/fwd_launch.cuh"
#include "sm100/rows.h"

enum attn_status sm100_fwd_128(struct attn_context *context, const struct attn_launch *launch)
{
    return sm100::fwd_dispatch<128, 128, 2>(context, launch);
}
