/*
 * sm90/fwd_launch: host side of the forward pass: which instance, the rest is cuda/forward.
 */
#ifndef SM90_FWD_LAUNCH_CUH
#define SM90_FWD_LAUNCH_CUH

#include "cuda/forward.cuh"
#include "sm90/fwd.cuh"

namespace sm90
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
                                             C::M / C::Q_BOXES,
                                             WARP_ROWS,
                                             C::PAIRS};
    return attn::forward_launch(context, launch, kernel);
}

/* Rows of the kernel table differ in dims; dtype and softcap are chosen here. The softcap takes
 * registers, hence fewer keys a block where three consumers share them. */
template <int D, int DV, int N, int N_CAPPED, int WGS>
attn_status fwd_dispatch(attn_context *context, const attn_launch *launch)
{
    bool bf16 = launch->shape.dtype == ATTN_BF16;
    if (launch->shape.softcap > 0.0f) {
        return bf16
                   ? fwd_launch<fwd_config<gpu::bf16, D, DV, N_CAPPED, WGS, true>>(context, launch)
                   : fwd_launch<fwd_config<gpu::fp16, D, DV, N_CAPPED, WGS, true>>(context, launch);
    }
    return bf16 ? fwd_launch<fwd_config<gpu::bf16, D, DV, N, WGS, false>>(context, launch)
                : fwd_launch<fwd_config<gpu::fp16, D, DV, N, WGS, false>>(context, launch);
}

} // namespace sm90

#endif
