/* Backward, head dims 8 to 128. */
#include "sm90/bwd.cuh"
#include "sm90/bwd_launch.cuh"
#include "sm90/rows.h"

namespace
{

struct row {
    template <typename T, bool CAPPED, bool ORDERED>
    static attn_status launch(attn_context *context, const attn_launch *launch)
    {
        if constexpr (!CAPPED) {
            if (attn::backward_mostly_short(launch)) {
                using C = sm90::bwd_config<T, 128, 128, 64, CAPPED, ORDERED, true>;
                return sm90::bwd_launch<C>(context, launch, sm90::bwd_kernel<C>);
            }
        }
        using C = sm90::bwd_config<T, 128, 128, 64, CAPPED, ORDERED>;
        return sm90::bwd_launch<C>(context, launch, sm90::bwd_kernel<C>);
    }
};

} // namespace

enum attn_status sm90_bwd_128(struct attn_context *context, const struct attn_launch *launch)
{
    return launch->shape.softcap > 0.0f ? sm90::bwd_launch_type<row, true>(context, launch)
                                        : sm90::bwd_launch_type<row, false>(context, launch);
}

size_t sm90_bwd_128_scratch(const struct attn_launch *launch)
{
    return attn::backward_scratch_bytes(launch, 64, 128, 128);
}
