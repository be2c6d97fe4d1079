/* Forward, head dims up to 128. */
#include "sm90/fwd_launch.cuh"
#include "sm90/rows.h"

enum attn_status sm90_fwd_128(struct attn_context *context, const struct attn_launch *launch)
{
    return sm90::fwd_tall(launch->shape)
               ? sm90_fwd_128_tall(context, launch)
               : sm90::fwd_dispatch<128, 128, 128, 128, 2>(context, launch);
}
