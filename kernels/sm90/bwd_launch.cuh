/*
 * sm90/bwd_launch: host side of the backward pass: which instance, the rest is cuda/backward.
 */
#ifndef SM90_BWD_LAUNCH_CUH
#define SM90_BWD_LAUNCH_CUH

#include "cuda/backward.cuh"
#include "sm90/bwd.cuh"
#include "sm90/bwd_post.cuh"

namespace sm90
{

template <class C>
attn_status bwd_launch(attn_context *context, const attn_launch *launch)
{
    constexpr attn::backward_kernel kernel = {
        attn::preprocess_kernel<typename C::T, C::M, C::D, C::DV>,
        bwd_kernel<C>,
        bwd_post_kernel<C>,
        C::THREADS,
        C::CONSUMERS,
        bwd_smem<C>::BYTES,
        2 * tile_bytes(BWD_WG_ROWS, C::DQ_COLUMNS),
        gpu::element_of<typename C::T>::value,
        SWIZZLE,
        C::M,
        C::N,
        C::D,
        BWD_WARP_ROWS};
    return attn::backward_launch(context, launch, kernel);
}

template <typename T, int D, int DV, int M, bool CAPPED>
attn_status bwd_launch_order(attn_context *context, const attn_launch *launch)
{
    return launch->shape.deterministic
               ? bwd_launch<bwd_config<T, D, DV, M, CAPPED, true>>(context, launch)
               : bwd_launch<bwd_config<T, D, DV, M, CAPPED, false>>(context, launch);
}

/* Rows of the kernel table differ in dims and softcap; dtype and order are chosen here. */
template <int D, int DV, int M, bool CAPPED>
attn_status bwd_dispatch(attn_context *context, const attn_launch *launch)
{
    return launch->shape.dtype == ATTN_BF16
               ? bwd_launch_order<gpu::bf16, D, DV, M, CAPPED>(context, launch)
               : bwd_launch_order<gpu::fp16, D, DV, M, CAPPED>(context, launch);
}

template <int D, int M>
size_t bwd_scratch_bytes(const attn_launch *launch)
{
    return attn::backward_scratch_bytes(launch, M, 2 * BWD_WG_ROWS, D);
}

} // namespace sm90

#endif
