/* Forward, head dims up to 128, in tiles of 192 rows. */
#include "sm90/fwd_launch.cuh"
#include "sm90/rows.h"

enum attn_status sm90_fwd_128_tall(struct attn_context *context, const struct attn_launch *launch)
{
    return sm90::fwd_tall_first<128, 128>(context, launch);
}
