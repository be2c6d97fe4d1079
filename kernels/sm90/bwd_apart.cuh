/*
 * sm90/bwd_apart: host side of a backward pass in two launches, sm90/bwd_keys and sm90/bwd_queries.
 */
#ifndef SM90_BWD_APART_CUH
#define SM90_BWD_APART_CUH

#include "sm90/bwd_keys.cuh"
#include "sm90/bwd_launch.cuh"
#include "sm90/bwd_queries.cuh"

namespace sm90
{

/* K, Q: keys_config and queries_config. */
template <class K, class Q>
attn_status bwd_apart_launch(attn_context *context, const attn_launch *launch,
                             void (*keys)(bwd_params))
{
    static_assert(K::THREADS == Q::THREADS, "one number says both");
    static_assert(K::M == BWD_WG_ROWS, "boxes of Q and dO, and units of statistics");
    attn::backward_kernel all = {attn::preprocess_kernel<typename K::T, K::M, 0, K::DV>,
                                 keys,
                                 nullptr,
                                 K::THREADS,
                                 0,
                                 keys_smem<K>::BYTES,
                                 0,
                                 gpu::element_of<typename K::T>::value,
                                 SWIZZLE,
                                 K::M,
                                 K::N,
                                 0,
                                 BWD_WARP_ROWS};
    all.queries = queries_kernel<Q>;
    all.query_rows = Q::M;
    all.queries_smem_bytes = queries_smem<Q>::BYTES;
    all.k_box = Q::N;
    return attn::backward_launch(context, launch, all);
}

/* As bwd_launch_type, without an order to choose. */
template <class ROW, bool CAPPED>
attn_status bwd_apart_type(attn_context *context, const attn_launch *launch)
{
    return launch->shape.dtype == ATTN_BF16
               ? ROW::template launch<gpu::bf16, CAPPED>(context, launch)
               : ROW::template launch<gpu::fp16, CAPPED>(context, launch);
}

} // namespace sm90

#endif
