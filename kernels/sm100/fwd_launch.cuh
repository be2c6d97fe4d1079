/*
 * sm100/fwd_launch: host side of the forward pass: which instance, the rest is cuda/forward.
 */
#ifndef SM100_FWD_LAUNCH_CUH
#define SM100_FWD_LAUNCH_CUH

#include "cuda/forward.cuh"
#include "sm100/fwd.cuh"

namespace sm100
{

template <class C>
attn_status fwd_launch(attn_context *context, const attn_launch *launch)
{
    constexpr attn::forward_kernel kernel = {fwd_kernel<C>,
                                             C::THREADS,
                                             fwd_smem<C>::BYTES,
                                             gpu::element_of<typename C::T>::value,
                                             SWIZZLE,
                                             C::M,
                                             C::N,
                                             WARP,
                                             0,
                                             {}};
    return attn::forward_launch(context, launch, kernel);
}

/* Rows of the kernel table differ in dims; dtype and softcap are chosen here. */
template <int D, int DV, int HALVES>
attn_status fwd_dispatch(attn_context *context, const attn_launch *launch)
{
    bool bf16 = launch->shape.dtype == ATTN_BF16;
    if (launch->shape.softcap > 0.0f) {
        return bf16 ? fwd_launch<fwd_config<gpu::bf16, D, DV, HALVES, true>>(context, launch)
                    : fwd_launch<fwd_config<gpu::fp16, D, DV, HALVES, true>>(context, launch);
    }
    return bf16 ? fwd_launch<fwd_config<gpu::bf16, D, DV, HALVES, false>>(context, launch)
                : fwd_launch<fwd_config<gpu::fp16, D, DV, HALVES, false>>(context, launch);
}

} // namespace sm100

#endif
