/*
 * sm90/bwd_launch: host side of the backward pass: preprocess, main kernel, postprocess, and fills
 * of key rows that no tile writes.
 */
#ifndef SM90_BWD_LAUNCH_CUH
#define SM90_BWD_LAUNCH_CUH

#include "common/fill.cuh"
#include "common/preprocess.cuh"
#include "cuda/context.cuh"
#include "gpu/launch.cuh"
#include "gpu/tensor_map.cuh"
#include "sm90/bwd.cuh"
#include "sm90/bwd_post.cuh"

namespace sm90
{

/* A map of heads x rows x columns with boxes of box_rows x one panel. */
inline bool bwd_map(gpu::tensor_map *map, gpu::element type, const attn_tensor &tensor,
                    int32_t heads, int32_t columns, int32_t box_rows)
{
    /* With one head its stride is never used, and may be anything, also what TMA refuses. */
    int64_t head_stride = heads > 1 ? tensor.head_stride : tensor.row_stride;
    gpu::tensor_shape shape = gpu::tensor_rows(type, SWIZZLE, tensor.data, tensor.row_stride,
                                               head_stride, 1, heads, columns, box_rows);
    return gpu::tensor_map_encode(map, gpu::tensor_ragged(shape));
}

template <class C>
bool bwd_set_make(bwd_set *out, const attn_shape &shape, const attn_set &in)
{
    constexpr gpu::element type = gpu::element_of<typename C::T>::value;
    return bwd_map(&out->q, type, in.q, shape.hq, shape.d, C::M) &&
           bwd_map(&out->k, type, in.k, shape.hkv, shape.d, C::N) &&
           bwd_map(&out->v, type, in.v, shape.hkv, shape.dv, C::N) &&
           bwd_map(&out->dout, type, in.do_, shape.hq, shape.dv, C::M) &&
           bwd_map(&out->dq, type, in.dq, shape.hq, shape.d, BWD_WARP_ROWS) &&
           bwd_map(&out->dk, type, in.dk, shape.hkv, shape.d, BWD_WARP_ROWS) &&
           bwd_map(&out->dv, type, in.dv, shape.hkv, shape.dv, BWD_WARP_ROWS);
}

inline attn::preprocess_set bwd_preprocess_set(const attn_shape &shape, const attn_set &in)
{
    attn::preprocess_set set = {};
    set.o = in.o;
    set.dout = in.do_;
    set.lse = in.lse;
    if (shape.has_dlse) {
        set.dlse = in.dlse;
    }
    if (shape.has_delta) {
        set.delta = in.delta;
    }
    set.sink = shape.has_sink ? in.sink : nullptr;
    return set;
}

inline attn::fill_set bwd_fill_set(const attn_shape &shape, const attn_set &in)
{
    attn::fill_set set = {};
    set.rows[0] = static_cast<uint8_t *>(in.dk.data);
    set.row_stride[0] = in.dk.row_stride;
    set.head_stride[0] = in.dk.head_stride;
    set.row_bytes[0] = shape.d * 2;
    set.rows[1] = static_cast<uint8_t *>(in.dv.data);
    set.row_stride[1] = in.dv.row_stride;
    set.head_stride[1] = in.dv.head_stride;
    set.row_bytes[1] = shape.dv * 2;
    return set;
}

constexpr size_t BWD_ALIGNMENT = 256;

constexpr size_t bwd_round(size_t bytes)
{
    return (bytes + BWD_ALIGNMENT - 1) / BWD_ALIGNMENT * BWD_ALIGNMENT;
}

/* Where the parts of bwd_scratch begin, for units of M rows of D columns. */
struct bwd_layout {
    size_t dq, statistics, dsink, turns, bytes;
};

inline bwd_layout bwd_layout_of(int64_t stripes, int32_t hq, int32_t m, int32_t d)
{
    size_t units = static_cast<size_t>(stripes) * static_cast<size_t>(hq);
    bwd_layout at = {};
    at.statistics = bwd_round(units * static_cast<size_t>(m) * static_cast<size_t>(d) * 4);
    at.dsink = at.statistics + bwd_round(units * static_cast<size_t>(m) * 8);
    at.turns = at.dsink + bwd_round(units * 4);
    at.bytes = at.turns + bwd_round(units * 4);
    return at;
}

inline plan_shape bwd_plan_shape(const attn_shape &shape, int32_t m, int32_t n)
{
    int32_t walked_bytes = 2 * (shape.d + shape.dv) + 4 * shape.d;
    return {ATTN_BACKWARD, shape.mask,         shape.hq, shape.hkv, m, n,
            walked_bytes,  shape.deterministic};
}

/* What a launch brings along, in one piece of the context's ring. */
struct bwd_luggage {
    cuda_piece piece;
    bwd_set *more;                    /* set_count - 1 */
    attn::preprocess_set *preprocess; /* set_count */
    attn::fill_set *fill;             /* set_count */
    attn::dsink_sequence *dsink;      /* sequence_count, with a sink */

    template <typename P>
    const P *on_device(const P *host) const
    {
        return reinterpret_cast<const P *>(piece.device +
                                           (reinterpret_cast<const uint8_t *>(host) - piece.host));
    }
};

inline bool bwd_luggage_take(attn_context *context, const attn_launch *launch, bwd_luggage *out)
{
    size_t sets = static_cast<size_t>(launch->set_count);
    size_t sequences = launch->shape.has_sink ? static_cast<size_t>(launch->sequence_count) : 0;
    size_t preprocess = bwd_round((sets - 1) * sizeof(bwd_set));
    size_t fill = preprocess + bwd_round(sets * sizeof(attn::preprocess_set));
    size_t dsink = fill + bwd_round(sets * sizeof(attn::fill_set));
    out->piece = cuda_piece_take(context, dsink + sequences * sizeof(attn::dsink_sequence));
    uint8_t *host = out->piece.host;
    if (host == nullptr) {
        return false;
    }
    out->more = reinterpret_cast<bwd_set *>(host);
    out->preprocess = reinterpret_cast<attn::preprocess_set *>(host + preprocess);
    out->fill = reinterpret_cast<attn::fill_set *>(host + fill);
    out->dsink = reinterpret_cast<attn::dsink_sequence *>(host + dsink);
    return true;
}

template <class C>
bool bwd_luggage_pack(attn_context *context, const attn_launch *launch, const bwd_luggage &luggage,
                      bwd_params *p)
{
    const attn_shape &shape = launch->shape;
    for (int32_t i = 0; i < launch->set_count; i++) {
        const attn_set &in = launch->sets[i];
        if (!bwd_set_make<C>(i == 0 ? &p->first : &luggage.more[i - 1], shape, in)) {
            return false;
        }
        luggage.preprocess[i] = bwd_preprocess_set(shape, in);
        luggage.fill[i] = bwd_fill_set(shape, in);
    }
    int32_t stripe = 0;
    for (int32_t s = 0; shape.has_sink && s < launch->sequence_count; s++) {
        const attn_sequence &sequence = launch->sequences[s];
        int32_t stripes = (sequence.q_span + C::M - 1) / C::M;
        luggage.dsink[s] = {launch->sets[sequence.set].dsink + int64_t{sequence.index} * shape.hq,
                            stripe, stripes};
        stripe += stripes;
    }
    p->more = luggage.on_device(luggage.more);
    return cuda_piece_send(context, &luggage.piece);
}

inline int32_t bwd_clamp_reach(bool bounded, int32_t reach)
{
    return bounded && reach < attn::MASK_ENDLESS ? reach : attn::MASK_ENDLESS;
}

/* Tiles that wait for nobody all start at their first block: in step, they share it in L2. */
inline attn::turn_order bwd_order(const attn_shape &shape)
{
    bool cyclic = shape.deterministic && !shape.mask.has_left;
    return shape.mask.has_right ? attn::turn_order::descending
           : cyclic             ? attn::turn_order::cyclic
                                : attn::turn_order::ascending;
}

template <class C>
void bwd_params_fill(bwd_params *p, attn_context *context, const attn_launch *launch,
                     const cuda_plan &plan)
{
    const attn_shape &shape = launch->shape;
    bwd_layout at = bwd_layout_of(plan.stripe_count, shape.hq, C::M, C::D);
    uint8_t *scratch = static_cast<uint8_t *>(launch->scratch);
    bool capped = shape.softcap > 0.0f;
    p->scratch = {reinterpret_cast<float *>(scratch + at.statistics),
                  reinterpret_cast<float *>(scratch + at.dq),
                  reinterpret_cast<float *>(scratch + at.dsink),
                  reinterpret_cast<int32_t *>(scratch + at.turns)};
    p->tiles = plan.tiles;
    p->stripes = plan.stripes;
    p->counter = context->counters;
    p->tile_count = plan.tile_count;
    p->hq = shape.hq;
    p->group = shape.hq / shape.hkv;
    p->reach = {bwd_clamp_reach(shape.mask.has_left, shape.mask.left),
                bwd_clamp_reach(shape.mask.has_right, shape.mask.right)};
    p->order = bwd_order(shape);
    p->scale_log2 = (capped ? shape.softcap : shape.softmax_scale) * attn::LOG2E;
    p->cap_inner = capped ? shape.softmax_scale / shape.softcap : 0.0f;
    p->scale = shape.softmax_scale;
}

template <class C>
bool bwd_preprocess_run(attn_context *context, const attn_launch *launch, const cuda_plan &plan,
                        const bwd_luggage &luggage, const bwd_params &p)
{
    attn::preprocess_params pre = {};
    pre.first = luggage.preprocess[0];
    pre.more = luggage.on_device(luggage.preprocess + 1);
    pre.stripes = plan.stripes;
    pre.statistics = p.scratch.statistics;
    pre.dq = p.scratch.dq;
    pre.dsink = p.scratch.dsink;
    pre.turns = p.scratch.turns;
    pre.hq = p.hq;
    pre.dv = launch->shape.dv;
    gpu::launch_config config = {plan.stripe_count,     p.hq, 1,     attn::PREPROCESS_THREADS,
                                 attn::PREPROCESS_SMEM, 0,    false, context->stream};
    return gpu::launch(config, attn::preprocess_kernel<typename C::T, C::M, C::D, C::DV>, pre) ==
           nullptr;
}

template <class C>
bool bwd_main_run(attn_context *context, const cuda_plan &plan, const bwd_params &p)
{
    gpu::launch_config config = {cuda_ctas(context, plan.tile_count),
                                 1,
                                 1,
                                 C::THREADS,
                                 bwd_smem<C>::BYTES,
                                 0,
                                 false,
                                 context->stream};
    return gpu::launch(config, bwd_kernel<C>, p) == nullptr;
}

template <class C>
bool bwd_post_run(attn_context *context, const cuda_plan &plan, const bwd_params &p)
{
    gpu::launch_config config = {plan.stripe_count,
                                 p.hq,
                                 1,
                                 C::CONSUMERS,
                                 2 * tile_bytes(BWD_WG_ROWS, C::DQ_COLUMNS),
                                 0,
                                 false,
                                 context->stream};
    return gpu::launch(config, bwd_post_kernel<C>, p) == nullptr;
}

inline bool bwd_fill_run(attn_context *context, const attn_launch *launch, const cuda_plan &plan,
                         const bwd_luggage &luggage)
{
    gpu::launch_config config = {plan.fill_count, launch->shape.hkv, 1, attn::FILL_THREADS, 0, 0,
                                 false,           context->stream};
    return gpu::launch(config, attn::fill_kernel,
                       static_cast<const attn::fill_set *>(luggage.on_device(luggage.fill)),
                       plan.fills) == nullptr;
}

inline bool bwd_dsink_run(attn_context *context, const attn_launch *launch,
                          const bwd_luggage &luggage, const bwd_params &p)
{
    gpu::launch_config config = {launch->sequence_count, (p.hq + 31) / 32, 1, 32, 0, 0, false,
                                 context->stream};
    return gpu::launch(config, attn::dsink_kernel,
                       static_cast<const attn::dsink_sequence *>(luggage.on_device(luggage.dsink)),
                       static_cast<const float *>(p.scratch.dsink), p.hq) == nullptr;
}

template <class C>
attn_status bwd_launch(attn_context *context, const attn_launch *launch)
{
    plan_shape wanted = bwd_plan_shape(launch->shape, C::M, C::N);
    bwd_luggage luggage = {};
    cuda_plan plan = {};
    bwd_params p = {};
    if (launch->sequence_count == 0 || launch->set_count == 0) {
        return ATTN_OK;
    }
    if (!cuda_launch_fits(launch)) {
        return ATTN_INVALID;
    }
    /* Pieces before the plan: a piece taken later could overwrite its lists. */
    if (!bwd_luggage_take(context, launch, &luggage) ||
        !bwd_luggage_pack<C>(context, launch, luggage, &p) ||
        !cuda_plan_take(context, &wanted, launch, &plan)) {
        return ATTN_LAUNCH_FAILED;
    }
    bwd_params_fill<C>(&p, context, launch, plan);
    bool rows = plan.stripe_count > 0;
    bool done = (!rows || bwd_preprocess_run<C>(context, launch, plan, luggage, p)) &&
                (plan.tile_count == 0 || bwd_main_run<C>(context, plan, p)) &&
                (!rows || bwd_post_run<C>(context, plan, p)) &&
                (plan.fill_count == 0 || bwd_fill_run(context, launch, plan, luggage)) &&
                (!launch->shape.has_sink || bwd_dsink_run(context, launch, luggage, p));
    return done ? ATTN_OK : ATTN_LAUNCH_FAILED;
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

/* Scratch of a launch; a sum over sequences of whole units, so monotone. */
template <int D, int M>
size_t bwd_scratch_bytes(const attn_launch *launch)
{
    plan_shape shape = bwd_plan_shape(launch->shape, M, 2 * BWD_WG_ROWS);
    int64_t stripes = plan_stripe_count(&shape, launch->sequences, launch->sequence_count);
    return bwd_layout_of(stripes, launch->shape.hq, M, D).bytes;
}

} // namespace sm90

#endif
