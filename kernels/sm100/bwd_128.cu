/* Backward, head dims 72 to 128; where only one of the two is over 64, see bwd_mixed.cu. */
#include "sm100/bwd_launch.cuh"
#include "sm100/bwd_rows.h"

enum attn_status sm100_bwd_128(struct attn_context *context, const struct attn_launch *launch)
{
    if (launch->shape.d > 64 && launch->shape.dv > 64) {
        return sm100::bwd_dispatch<sm100::bwd_config, 128, 128>(context, launch);
    }
    return sm100_bwd_mixed(context, launch);
}

size_t sm100_bwd_128_scratch(const struct attn_launch *launch)
{
    return launch->shape.d > 64 ? sm100::bwd_scratch_bytes<128>(launch)
                                : sm100::bwd_scratch_bytes<64>(launch);
}
