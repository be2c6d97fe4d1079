/* Forward, head dims up to 192 for keys, 128 for values. */
#include "sm100/fwd_launch.cuh"
#include "sm100/rows.h"

enum attn_status sm100_fwd_192(struct attn_context *context, const struct attn_launch *launch)
{
    return sm100::fwd_dispatch<192, 128, 2>(context, launch);
}
