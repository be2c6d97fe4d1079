/*
 * Backward, head dims 8 to 64. With a softcap 128 queries a step leave too few registers (12 bytes
 * spilled), so the row refuses it.
 */
#include "sm90/bwd_launch.cuh"
#include "sm90/rows.h"

const char *sm90_bwd_64_refuse(const struct attn_shape *shape)
{
    return shape->softcap > 0.0f ? "softcap: no kernel of this head_dim has one" : nullptr;
}

enum attn_status sm90_bwd_64(struct attn_context *context, const struct attn_launch *launch)
{
    return sm90::bwd_dispatch<64, 64, 128, false>(context, launch);
}

size_t sm90_bwd_64_scratch(const struct attn_launch *launch)
{
    return sm90::bwd_scratch_bytes<64, 128>(launch);
}
