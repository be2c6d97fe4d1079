/* Backward, head dims to 256. */
#include "sm90/bwd_launch.cuh"
#include "sm90/bwd_wide.cuh"
#include "sm90/rows.h"

namespace
{

struct row {
    template <typename T, bool CAPPED, bool ORDERED>
    static attn_status launch(attn_context *context, const attn_launch *launch)
    {
        using C = sm90::wide_config<T, 256, 256, 1, 1, CAPPED, ORDERED>;
        return sm90::bwd_launch<C>(context, launch, sm90::wide_kernel<C>);
    }
};

} // namespace

enum attn_status sm90_bwd_256(struct attn_context *context, const struct attn_launch *launch)
{
    return launch->shape.softcap > 0.0f ? sm90::bwd_launch_type<row, true>(context, launch)
                                        : sm90::bwd_launch_type<row, false>(context, launch);
}

size_t sm90_bwd_256_scratch(const struct attn_launch *launch)
{
    return attn::backward_scratch_bytes(launch, 64, 64, 256);
}
