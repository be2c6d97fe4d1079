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
attn_status fwd_launch(attn_context *context, const attn_launch *launch,
                       const attn::forward_share &share)
{
    const attn::forward_kernel kernel = {fwd_kernel<C>,
                                         C::THREADS,
                                         fwd_smem<C>::BYTES,
                                         gpu::element_of<typename C::T>::value,
                                         SWIZZLE,
                                         C::M,
                                         C::N,
                                         WARP_ROWS,
                                         TILE_HEADS,
                                         share};
    return attn::forward_launch(context, launch, kernel);
}

template <int D, int DV, int N, int WGS, bool CAPPED>
attn_status fwd_typed(attn_context *context, const attn_launch *launch,
                      const attn::forward_share &share = {})
{
    return launch->shape.dtype == ATTN_BF16
               ? fwd_launch<fwd_config<gpu::bf16, D, DV, N, WGS, CAPPED>>(context, launch, share)
               : fwd_launch<fwd_config<gpu::fp16, D, DV, N, WGS, CAPPED>>(context, launch, share);
}

/* Rows of the kernel table differ in dims; dtype and softcap are chosen here. The softcap takes
 * registers, hence fewer keys a block where three consumers share them. */
template <int D, int DV, int N, int N_CAPPED, int WGS>
attn_status fwd_dispatch(attn_context *context, const attn_launch *launch)
{
    return launch->shape.softcap > 0.0f ? fwd_typed<D, DV, N_CAPPED, WGS, true>(context, launch)
                                        : fwd_typed<D, DV, N, WGS, false>(context, launch);
}

static inline bool fwd_masked(const attn_shape &shape)
{
    return shape.mask.has_left || shape.mask.has_right;
}

/*
 * Three consumers share a tile, also at the head dims where two do else, if no mask cuts its blocks
 * or if it is of TALL_HEADS or more, hence of few queries: keys are read a third less often, and
 * few of a taller tile's blocks are half in vain. Their instances are files of their own: beside
 * one of two consumers in the same file the compiler knows less of the number of threads, and
 * spills.
 */
constexpr int TALL_HEADS = 4, TALL_ROWS = 192, TALL_KEYS = 80, SMALL_BLOCK = 128;

static inline bool fwd_tall(const attn_shape &shape)
{
    int32_t heads = 1 << attn::forward_heads_log2(TILE_HEADS, shape);
    return (!fwd_masked(shape) || heads >= TALL_HEADS) && !(shape.softcap > 0.0f);
}

/*
 * A tall launch. Without a mask it is one of up to two kernels: sequences that 192 rows do not suit
 * are in tiles of 128 x 128.
 */
template <int D, int DV>
attn_status fwd_tall_first(attn_context *context, const attn_launch *launch)
{
    attn::forward_share share = {};
    if (!fwd_masked(launch->shape)) {
        share = {SMALL_BLOCK, SMALL_BLOCK, false};
    }
    return fwd_typed<D, DV, TALL_KEYS, TALL_ROWS / WG_ROWS, false>(context, launch, share);
}

template <int D, int DV>
attn_status fwd_tall_second(attn_context *context, const attn_launch *launch)
{
    const attn::forward_share share = {TALL_ROWS, TALL_KEYS, true};
    return fwd_masked(launch->shape) ? ATTN_OK
                                     : fwd_typed<D, DV, SMALL_BLOCK, SMALL_BLOCK / WG_ROWS, false>(
                                           context, launch, share);
}

} // namespace sm90

#endif
