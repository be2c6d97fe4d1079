/* Forward, head dims up to 192, of V up to 128. */
#include "sm90/fwd_launch.cuh"
#include "sm90/rows.h"

enum attn_status sm90_fwd_192(struct attn_context *context, const struct attn_launch *launch)
{
    if (!sm90::fwd_tall(launch->shape)) {
        return sm90::fwd_dispatch<192, 128, 128, 128, 2>(context, launch);
    }
    attn_status status = sm90_fwd_192_tall(context, launch);
    return status == ATTN_OK ? sm90::fwd_tall_second<192, 128>(context, launch) : status;
}
