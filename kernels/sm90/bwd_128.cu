/*
 * Backward, head dims 72 to 128. A narrower tensor would have a panel wholly outside it, and on an
 * H200 loads of such a panel end in an illegal address.
 */
#include "sm90/bwd_launch.cuh"
#include "sm90/rows.h"

const char *sm90_bwd_128_refuse(const struct attn_shape *shape)
{
    if (shape->d > 64 && shape->dv > 64) {
        return nullptr;
    }
    return shape->d <= 64 && shape->dv <= 64
               ? "softcap: no backward of head_dim 64 and below has it"
               : "dv: the backward wants d and dv on one side of 64";
}

enum attn_status sm90_bwd_128(struct attn_context *context, const struct attn_launch *launch)
{
    return launch->shape.softcap > 0.0f ? sm90::bwd_dispatch<128, 128, 64, true>(context, launch)
                                        : sm90::bwd_dispatch<128, 128, 64, false>(context, launch);
}

size_t sm90_bwd_128_scratch(const struct attn_launch *launch)
{
    return sm90::bwd_scratch_bytes<128, 64>(launch);
}
