/*
 * sm90/fwd_launch: host side of the forward pass: tensors become maps, the launch becomes a plan,
 * the plan a grid.
 */
#ifndef SM90_FWD_LAUNCH_CUH
#define SM90_FWD_LAUNCH_CUH

#include "common/fill.cuh"
#include "cuda/context.cuh"
#include "gpu/launch.cuh"
#include "gpu/tensor_map.cuh"
#include "sm90/fwd.cuh"

namespace sm90
{

/* A map of heads x rows x columns with boxes of box_rows x one panel. */
inline bool rows_map(gpu::tensor_map *map, gpu::element type, const attn_tensor &tensor,
                     int32_t heads, int32_t columns, int32_t box_rows)
{
    /* With one head its stride is never used, and may be anything, also what TMA refuses. */
    int64_t head_stride = heads > 1 ? tensor.head_stride : tensor.row_stride;
    gpu::tensor_shape shape = gpu::tensor_rows(type, SWIZZLE, tensor.data, tensor.row_stride,
                                               head_stride, 1, heads, columns, box_rows);
    return gpu::tensor_map_encode(map, gpu::tensor_ragged(shape));
}

template <class C>
bool fwd_set_make(fwd_set *out, const attn_shape &shape, const attn_set &in)
{
    constexpr gpu::element type = gpu::element_of<typename C::T>::value;
    out->lse = static_cast<uint8_t *>(in.lse.data);
    out->lse_row_stride = in.lse.row_stride;
    out->lse_head_stride = in.lse.head_stride;
    out->sink = shape.has_sink ? in.sink : nullptr;
    return rows_map(&out->q, type, in.q, shape.hq, shape.d, C::M) &&
           rows_map(&out->k, type, in.k, shape.hkv, shape.d, C::N) &&
           rows_map(&out->v, type, in.v, shape.hkv, shape.dv, C::N) &&
           rows_map(&out->o, type, in.o, shape.hq, shape.dv, WARP_ROWS);
}

inline int32_t clamp_reach(bool bounded, int32_t reach)
{
    return bounded && reach < attn::MASK_ENDLESS ? reach : attn::MASK_ENDLESS;
}

inline void fwd_scales(fwd_params *p, const attn_shape &shape)
{
    bool capped = shape.softcap > 0.0f;
    p->scale_log2 = (capped ? shape.softcap : shape.softmax_scale) * attn::LOG2E;
    p->cap_inner = capped ? shape.softmax_scale / shape.softcap : 0.0f;
    p->reach = {clamp_reach(shape.mask.has_left, shape.mask.left),
                clamp_reach(shape.mask.has_right, shape.mask.right)};
}

/* Rows that no tile writes. */
inline bool fwd_fill(attn_context *context, const attn_launch *launch, const cuda_plan &plan,
                     const cuda_piece &piece)
{
    const attn_shape &shape = launch->shape;
    attn::fill_set *sets = reinterpret_cast<attn::fill_set *>(piece.host);
    for (int32_t i = 0; i < launch->set_count; i++) {
        const attn_set &in = launch->sets[i];
        sets[i] = {{static_cast<uint8_t *>(in.o.data), nullptr},
                   {in.o.row_stride, 0},
                   {in.o.head_stride, 0},
                   {shape.dv * 2, 0},
                   static_cast<uint8_t *>(in.lse.data),
                   in.lse.row_stride,
                   in.lse.head_stride,
                   shape.has_sink ? in.sink : nullptr};
    }
    gpu::launch_config config = {plan.fill_count, shape.hq,       1, attn::FILL_THREADS, 0, 0,
                                 false,           context->stream};
    return cuda_piece_send(context, &piece) &&
           gpu::launch(config, attn::fill_kernel,
                       reinterpret_cast<const attn::fill_set *>(piece.device),
                       plan.fills) == nullptr;
}

template <class C>
bool fwd_sets_make(attn_context *context, const attn_launch *launch, fwd_params *p)
{
    if (!fwd_set_make<C>(&p->first, launch->shape, launch->sets[0])) {
        return false;
    }
    if (launch->set_count == 1) {
        return true;
    }
    cuda_piece piece =
        cuda_piece_take(context, static_cast<size_t>(launch->set_count - 1) * sizeof(fwd_set));
    fwd_set *more = reinterpret_cast<fwd_set *>(piece.host);
    for (int32_t i = 1; more != nullptr && i < launch->set_count; i++) {
        if (!fwd_set_make<C>(&more[i - 1], launch->shape, launch->sets[i])) {
            return false;
        }
    }
    p->more = reinterpret_cast<const fwd_set *>(piece.device);
    return more != nullptr && cuda_piece_send(context, &piece);
}

template <class C>
bool fwd_run(attn_context *context, const attn_launch *launch, const cuda_plan &plan, fwd_params *p)
{
    fwd_scales(p, launch->shape);
    p->tiles = plan.tiles;
    p->tile_count = plan.tile_count;
    p->counter = context->counters;
    p->group = launch->shape.hq / launch->shape.hkv;
    gpu::launch_config config = {cuda_ctas(context, plan.tile_count),
                                 1,
                                 1,
                                 C::THREADS,
                                 fwd_smem<C>::BYTES,
                                 0,
                                 false,
                                 context->stream};
    return gpu::launch(config, fwd_kernel<C>, *p) == nullptr;
}

template <class C>
attn_status fwd_launch(attn_context *context, const attn_launch *launch)
{
    const attn_shape &shape = launch->shape;
    plan_shape wanted = {
        ATTN_FORWARD, shape.mask, shape.hq, shape.hkv, C::M, C::N, 2 * (shape.d + shape.dv), false};
    cuda_plan plan = {};
    fwd_params p = {};
    if (launch->sequence_count == 0 || launch->set_count == 0) {
        return ATTN_OK;
    }
    if (!cuda_launch_fits(launch)) {
        return ATTN_INVALID;
    }
    /* Pieces before the plan: a piece taken later could overwrite its lists. */
    cuda_piece fill_sets =
        cuda_piece_take(context, static_cast<size_t>(launch->set_count) * sizeof(attn::fill_set));
    bool done = fill_sets.host != nullptr && fwd_sets_make<C>(context, launch, &p) &&
                cuda_plan_take(context, &wanted, launch, &plan) &&
                (plan.tile_count == 0 || fwd_run<C>(context, launch, plan, &p)) &&
                (plan.fill_count == 0 || fwd_fill(context, launch, plan, fill_sets));
    return done ? ATTN_OK : ATTN_LAUNCH_FAILED;
}

/* Rows of the kernel table differ in dims; dtype and softcap are chosen here. */
template <int D, int DV, int N, int WGS>
attn_status fwd_dispatch(attn_context *context, const attn_launch *launch)
{
    bool bf16 = launch->shape.dtype == ATTN_BF16;
    if (launch->shape.softcap > 0.0f) {
        return bf16 ? fwd_launch<fwd_config<gpu::bf16, D, DV, N, WGS, true>>(context, launch)
                    : fwd_launch<fwd_config<gpu::fp16, D, DV, N, WGS, true>>(context, launch);
    }
    return bf16 ? fwd_launch<fwd_config<gpu::bf16, D, DV, N, WGS, false>>(context, launch)
                : fwd_launch<fwd_config<gpu::fp16, D, DV, N, WGS, false>>(context, launch);
}

} // namespace sm90

#endif
