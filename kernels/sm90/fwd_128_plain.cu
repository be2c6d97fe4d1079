/* Forward, head dims up to 128, without mask or softcap. */
#include "sm90/fwd_launch.cuh"
#include "sm90/rows.h"

enum attn_status sm90_fwd_128_plain(struct attn_context *context, const struct attn_launch *launch)
{
    return sm90::fwd_typed<128, 128, 80, 3, false>(context, launch);
}
