/*
 * sm100/bwd_launch: host side of the backward pass: which instance, the rest is cuda/backward.
 */
#ifndef SM100_BWD_LAUNCH_CUH
#define SM100_BWD_LAUNCH_CUH

#include "cuda/backward.cuh"
#include "sm100/bwd.cuh"
#include "sm100/bwd_pair.cuh"
#include "sm100/bwd_post.cuh"
#include "sm100/bwd_wide.cuh"

namespace sm100
{

template <class C>
constexpr auto bwd_start()
{
    if constexpr (C::WIDE) {
        return bwd_wide_kernel<C>;
    } else if constexpr (C::PAIR) {
        return bwd_pair_kernel<C>;
    } else {
        return bwd_kernel<C>;
    }
}

template <class C>
attn_status bwd_launch(attn_context *context, const attn_launch *launch)
{
    constexpr attn::backward_kernel kernel = {
        attn::preprocess_kernel<typename C::T, C::M, C::D, C::DV>,
        bwd_start<C>(),
        bwd_post_kernel<C>,
        C::THREADS,
        BWD_POST_THREADS,
        bwd_smem<C>::BYTES,
        tile_bytes(C::M, C::D),
        gpu::element_of<typename C::T>::value,
        SWIZZLE,
        C::M,
        C::N,
        C::D,
        WARP_LANES,
        C::Q_BOX,
        C::K_BOX,
        C::CTAS,
        C::WIDE ? BLOCK_SWIZZLE : SWIZZLE};
    return attn::backward_launch(context, launch, kernel);
}

template <template <typename, int, int, bool, bool> class CONFIG, typename T, int D, int DV,
          bool CAPPED>
attn_status bwd_launch_order(attn_context *context, const attn_launch *launch)
{
    return launch->shape.deterministic
               ? bwd_launch<CONFIG<T, D, DV, CAPPED, true>>(context, launch)
               : bwd_launch<CONFIG<T, D, DV, CAPPED, false>>(context, launch);
}

template <template <typename, int, int, bool, bool> class CONFIG, typename T, int D, int DV>
attn_status bwd_launch_cap(attn_context *context, const attn_launch *launch)
{
    return launch->shape.softcap > 0.0f
               ? bwd_launch_order<CONFIG, T, D, DV, true>(context, launch)
               : bwd_launch_order<CONFIG, T, D, DV, false>(context, launch);
}

/* Rows of the kernel table differ in dims, and in the CTAs to a tile (CONFIG: bwd_config,
 * bwd_pair_config or bwd_wide_config); dtype, softcap and order are chosen here. */
template <template <typename, int, int, bool, bool> class CONFIG, int D, int DV>
attn_status bwd_dispatch(attn_context *context, const attn_launch *launch)
{
    return launch->shape.dtype == ATTN_BF16
               ? bwd_launch_cap<CONFIG, gpu::bf16, D, DV>(context, launch)
               : bwd_launch_cap<CONFIG, gpu::fp16, D, DV>(context, launch);
}

template <int D>
size_t bwd_scratch_bytes(const attn_launch *launch)
{
    return attn::backward_scratch_bytes(launch, TILE_ROWS, TILE_ROWS, D);
}

} // namespace sm100

#endif
