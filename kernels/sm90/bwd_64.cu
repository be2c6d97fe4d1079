/*
 * Backward, head dims 8 to 64. With a softcap 128 queries a step leave too few registers (12 bytes
 * spilled), so the row refuses it, and the one of 128 serves.
 */
#include "sm90/bwd.cuh"
#include "sm90/bwd_launch.cuh"
#include "sm90/rows.h"

namespace
{

struct row {
    template <typename T, bool CAPPED, bool ORDERED>
    static attn_status launch(attn_context *context, const attn_launch *launch)
    {
        using C = sm90::bwd_config<T, 64, 64, 128, CAPPED, ORDERED>;
        return sm90::bwd_launch<C>(context, launch, sm90::bwd_kernel<C>);
    }
};

} // namespace

const char *sm90_bwd_64_refuse(const struct attn_shape *shape)
{
    return shape->softcap > 0.0f ? "softcap: no backward of head_dim 64 and below has it" : nullptr;
}

enum attn_status sm90_bwd_64(struct attn_context *context, const struct attn_launch *launch)
{
    return sm90::bwd_launch_type<row, false>(context, launch);
}

size_t sm90_bwd_64_scratch(const struct attn_launch *launch)
{
    return attn::backward_scratch_bytes(launch, 128, 128, 64);
}
