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
attn_status bwd_launch(attn_context *context, const attn_launch *launch)
{
    constexpr attn::backward_kernel kernel = {
        attn::preprocess_kernel<typename C::T, C::M, C::D, C::DV>,
        bwd_kernel<C>,
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
        WARP_LANES};
    return attn::backward_launch(context, launch, kernel);
}

/* By pairs of CTAs; boxes of Q and dO have half a step's rows, those of K and V a CTA's. */
template <class C>
attn_status bwd_pair_launch(attn_context *context, const attn_launch *launch)
{
    constexpr attn::backward_kernel kernel = {
        attn::preprocess_kernel<typename C::T, C::M, C::D, C::DV>,
        bwd_pair_kernel<C>,
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
        C::Q_ROWS,
        TILE_ROWS,
        2};
    return attn::backward_launch(context, launch, kernel);
}

template <typename T, bool CAPPED>
attn_status bwd_pair_launch_order(attn_context *context, const attn_launch *launch)
{
    return launch->shape.deterministic
               ? bwd_pair_launch<bwd_pair_config<T, CAPPED, true>>(context, launch)
               : bwd_pair_launch<bwd_pair_config<T, CAPPED, false>>(context, launch);
}

template <typename T>
attn_status bwd_pair_launch_cap(attn_context *context, const attn_launch *launch)
{
    return launch->shape.softcap > 0.0f ? bwd_pair_launch_order<T, true>(context, launch)
                                        : bwd_pair_launch_order<T, false>(context, launch);
}

/* By pairs of CTAs with half of the head dim each; all loads are boxes of a CTA's rows. */
template <class C>
attn_status bwd_wide_launch(attn_context *context, const attn_launch *launch)
{
    constexpr attn::backward_kernel kernel = {
        attn::preprocess_kernel<typename C::T, C::M, C::D, C::DV>,
        bwd_wide_kernel<C>,
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
        C::ROWS,
        C::ROWS,
        2,
        BLOCK_SWIZZLE};
    return attn::backward_launch(context, launch, kernel);
}

template <typename T, int D, int DV, bool CAPPED>
attn_status bwd_wide_launch_order(attn_context *context, const attn_launch *launch)
{
    return launch->shape.deterministic
               ? bwd_wide_launch<bwd_wide_config<T, D, DV, CAPPED, true>>(context, launch)
               : bwd_wide_launch<bwd_wide_config<T, D, DV, CAPPED, false>>(context, launch);
}

template <typename T, int D, int DV>
attn_status bwd_wide_launch_cap(attn_context *context, const attn_launch *launch)
{
    return launch->shape.softcap > 0.0f ? bwd_wide_launch_order<T, D, DV, true>(context, launch)
                                        : bwd_wide_launch_order<T, D, DV, false>(context, launch);
}

template <int D, int DV>
attn_status bwd_wide_dispatch(attn_context *context, const attn_launch *launch)
{
    return launch->shape.dtype == ATTN_BF16
               ? bwd_wide_launch_cap<gpu::bf16, D, DV>(context, launch)
               : bwd_wide_launch_cap<gpu::fp16, D, DV>(context, launch);
}

template <typename T, int D, int DV, bool CAPPED>
attn_status bwd_launch_order(attn_context *context, const attn_launch *launch)
{
    return launch->shape.deterministic
               ? bwd_launch<bwd_config<T, D, DV, CAPPED, true>>(context, launch)
               : bwd_launch<bwd_config<T, D, DV, CAPPED, false>>(context, launch);
}

template <typename T, int D, int DV>
attn_status bwd_launch_cap(attn_context *context, const attn_launch *launch)
{
    return launch->shape.softcap > 0.0f ? bwd_launch_order<T, D, DV, true>(context, launch)
                                        : bwd_launch_order<T, D, DV, false>(context, launch);
}

/* Rows of the kernel table differ in dims; dtype, softcap and order are chosen here. */
template <int D, int DV>
attn_status bwd_dispatch(attn_context *context, const attn_launch *launch)
{
    return launch->shape.dtype == ATTN_BF16 ? bwd_launch_cap<gpu::bf16, D, DV>(context, launch)
                                            : bwd_launch_cap<gpu::fp16, D, DV>(context, launch);
}

template <int D>
size_t bwd_scratch_bytes(const attn_launch *launch)
{
    return attn::backward_scratch_bytes(launch, TILE_ROWS, TILE_ROWS, D);
}

} // namespace sm100

#endif
