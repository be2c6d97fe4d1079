/* Forward, head dims up to 192, of V up to 128, in tiles of 192 rows. */
#include "sm90/fwd_launch.cuh"
#include "sm90/rows.h"

enum attn_status sm90_fwd_192_tall(struct attn_context *context, const struct attn_launch *launch)
{
    return sm90::fwd_tall_first<192, 128>(context, launch);
}
