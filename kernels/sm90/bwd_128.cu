/* Backward, head dims 65 to 128, and smaller ones with a softcap. */
#include "sm90/bwd_launch.cuh"
#include "sm90/rows.h"

enum attn_status sm90_bwd_128(struct attn_context *context, const struct attn_launch *launch)
{
    return launch->shape.softcap > 0.0f ? sm90::bwd_dispatch<128, 128, 64, true>(context, launch)
                                        : sm90::bwd_dispatch<128, 128, 64, false>(context, launch);
}

size_t sm90_bwd_128_scratch(const struct attn_launch *launch)
{
    return sm90::bwd_scratch_bytes<128, 64>(launch);
}
