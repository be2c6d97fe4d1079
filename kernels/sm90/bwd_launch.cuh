/*
 * sm90/bwd_launch: host side of the backward pass: which instance, the rest is cuda/backward.
 */
#ifndef SM90_BWD_LAUNCH_CUH
#define SM90_BWD_LAUNCH_CUH

#include "cuda/backward.cuh"
#include "sm90/bwd_post.cuh"

namespace sm90
{

template <class C>
attn_status bwd_launch(attn_context *context, const attn_launch *launch, void (*kernel)(bwd_params))
{
    attn::backward_kernel all = {attn::preprocess_kernel<typename C::T, C::M, C::D, C::DV>,
                                 kernel,
                                 bwd_post_kernel<C>,
                                 C::THREADS,
                                 C::DQ_PIECES * BWD_WARPGROUP,
                                 bwd_smem<C>::BYTES,
                                 C::DQ_PIECES * tile_bytes(BWD_WG_ROWS, PANEL),
                                 gpu::element_of<typename C::T>::value,
                                 SWIZZLE,
                                 C::M,
                                 C::N,
                                 C::D,
                                 BWD_WARP_ROWS};
    all.orders = C::ORDERS;
    return attn::backward_launch(context, launch, all);
}

/*
 * Rows of the kernel table differ in dims; dtype, softcap and order are chosen here.
 * ROW::launch<T, CAPPED, ORDERED> launches the instance.
 */
template <class ROW, typename T, bool CAPPED>
attn_status bwd_launch_order(attn_context *context, const attn_launch *launch)
{
    return launch->shape.deterministic ? ROW::template launch<T, CAPPED, true>(context, launch)
                                       : ROW::template launch<T, CAPPED, false>(context, launch);
}

template <class ROW, bool CAPPED>
attn_status bwd_launch_type(attn_context *context, const attn_launch *launch)
{
    return launch->shape.dtype == ATTN_BF16
               ? bwd_launch_order<ROW, gpu::bf16, CAPPED>(context, launch)
               : bwd_launch_order<ROW, gpu::fp16, CAPPED>(context, launch);
}

} // namespace sm90

#endif
