/* Backward, head dims to 256. */
#include "sm90/bwd_apart.cuh"
#include "sm90/bwd_roles.cuh"
#include "sm90/rows.h"

namespace
{

struct row {
    template <typename T, bool CAPPED>
    static attn_status launch(attn_context *context, const attn_launch *launch)
    {
        using K = sm90::roles_config<T, 256, 256, 3, 2, 128, CAPPED>;
        using Q = sm90::queries_config<T, 256, 256, 2, 1, CAPPED>;
        return sm90::bwd_apart_launch<K, Q>(context, launch, sm90::roles_kernel<K>);
    }
};

} // namespace

enum attn_status sm90_bwd_256(struct attn_context *context, const struct attn_launch *launch)
{
    return launch->shape.softcap > 0.0f ? sm90::bwd_apart_type<row, true>(context, launch)
                                        : sm90::bwd_apart_type<row, false>(context, launch);
}

size_t sm90_bwd_256_scratch(const struct attn_launch *launch)
{
    return attn::backward_scratch_bytes(launch, 64, 64, 0);
}
