/*
 * cuda/forward: host side of a forward pass: tensors become maps, the launch becomes a plan, the
 * plan a grid.
 */
#ifndef CUDA_FORWARD_CUH
#define CUDA_FORWARD_CUH

#include "common/fill.cuh"
#include "common/forward.cuh"
#include "common/softmax.cuh"
#include "cuda/context.cuh"
#include "gpu/launch.cuh"
#include "gpu/tensor_map.cuh"

namespace attn
{

/*
 * Of a kernel that shares launches with another (plan.h): that one's blocks, 0: there is none. The
 * second of both begins as SMs become free, and ends after the first. Without the first it waits
 * like any kernel: ahead of it is another launch, whose results it may need and whose counter it
 * may share.
 */
struct forward_share {
    int32_t q_block, k_block;
    bool second;
};

/* A kernel, and what the host must know of it. */
struct forward_kernel {
    void (*start)(forward_params);
    int threads;
    uint32_t smem_bytes;
    gpu::element type;
    gpu::swizzle pattern;
    int32_t q_block, k_block; /* rows of a tile and of a key block, and of their boxes */
    int32_t o_rows;           /* rows of O's boxes */
    int32_t heads_max;        /* of a tile; 0: heads are no part of boxes */
    forward_share share;
};

/* A map of heads x rows x columns with boxes of box_rows x one panel. tile_heads > 0: the rows are
 * of so many heads, and heads come before rows. */
static inline bool forward_map(gpu::tensor_map *map, const forward_kernel &kernel,
                               const attn_tensor &tensor, int32_t heads, int32_t columns,
                               int32_t box_rows, int32_t tile_heads)
{
    /* With one head its stride is never used, and may be anything, also what TMA refuses. */
    int64_t head_stride = heads > 1 ? tensor.head_stride : tensor.row_stride;
    gpu::tensor_shape shape = gpu::tensor_ragged(
        gpu::tensor_rows(kernel.type, kernel.pattern, tensor.data, tensor.row_stride, head_stride,
                         1, heads, columns, box_rows));
    return gpu::tensor_map_encode(map,
                                  tile_heads > 0 ? gpu::tensor_packed(shape, tile_heads) : shape);
}

/*
 * Heads of a tile: the largest power of two that divides the group. Rows are dear in short
 * sequences, and with a right edge neighbouring queries see the same keys: 32 queries of four heads
 * have fewer of both in vain than 128 of one.
 */
static inline int32_t forward_heads_log2(int32_t heads_max, const attn_shape &shape)
{
    int32_t group = shape.hq / shape.hkv, log2 = 0;
    while (2 << log2 <= heads_max && group % (2 << log2) == 0) {
        log2++;
    }
    return log2;
}

static inline bool forward_set_make(forward_set *out, const forward_kernel &kernel,
                                    const attn_shape &shape, const attn_set &in)
{
    out->keys = static_cast<const uint8_t *>(in.k.data);
    out->keys_row_stride = in.k.row_stride;
    out->keys_head_stride = in.k.head_stride;
    out->out = static_cast<uint8_t *>(in.o.data);
    out->out_row_stride = in.o.row_stride;
    out->out_head_stride = in.o.head_stride;
    out->lse = static_cast<uint8_t *>(in.lse.data);
    out->lse_row_stride = in.lse.row_stride;
    out->lse_head_stride = in.lse.head_stride;
    out->sink = shape.has_sink ? in.sink : nullptr;
    int32_t heads = kernel.heads_max > 0 ? 1 << forward_heads_log2(kernel.heads_max, shape) : 0;
    return forward_map(&out->q, kernel, in.q, shape.hq, shape.d, kernel.q_block, heads) &&
           forward_map(&out->k, kernel, in.k, shape.hkv, shape.d, kernel.k_block, 0) &&
           forward_map(&out->v, kernel, in.v, shape.hkv, shape.dv, kernel.k_block, 0) &&
           forward_map(&out->o, kernel, in.o, shape.hq, shape.dv, kernel.o_rows, heads);
}

static inline int32_t clamp_reach(bool bounded, int32_t reach)
{
    return bounded && reach < MASK_ENDLESS ? reach : MASK_ENDLESS;
}

static inline void forward_scales(forward_params *p, const attn_shape &shape)
{
    bool capped = shape.softcap > 0.0f;
    p->scale_log2 = (capped ? shape.softcap : shape.softmax_scale) * LOG2E;
    p->cap_inner = capped ? shape.softmax_scale / shape.softcap : 0.0f;
    p->reach = {clamp_reach(shape.mask.has_left, shape.mask.left),
                clamp_reach(shape.mask.has_right, shape.mask.right)};
}

/* What a launch brings along, one piece of the context's ring: sets 1 and up, then fill sets. */
static inline size_t forward_more_bytes(const attn_launch *launch)
{
    constexpr size_t ALIGNMENT = 256;
    size_t bytes = static_cast<size_t>(launch->set_count - 1) * sizeof(forward_set);
    return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

static inline size_t forward_luggage_bytes(const attn_launch *launch)
{
    return forward_more_bytes(launch) + static_cast<size_t>(launch->set_count) * sizeof(fill_set);
}

static inline fill_set forward_fill_set(const attn_shape &shape, const attn_set &in)
{
    return {{static_cast<uint8_t *>(in.o.data), nullptr},
            {in.o.row_stride, 0},
            {in.o.head_stride, 0},
            {shape.dv * 2, 0},
            static_cast<uint8_t *>(in.lse.data),
            in.lse.row_stride,
            in.lse.head_stride,
            shape.has_sink ? in.sink : nullptr};
}

/* Sent only if a kernel will look at it: one set alone is a parameter. */
static inline bool forward_luggage_pack(attn_context *context, const attn_launch *launch,
                                        const forward_kernel &kernel, const cuda_plan &plan,
                                        const cuda_piece &luggage, forward_params *p)
{
    forward_set *more = reinterpret_cast<forward_set *>(luggage.host);
    fill_set *fills = reinterpret_cast<fill_set *>(luggage.host + forward_more_bytes(launch));
    for (int32_t i = 0; i < launch->set_count; i++) {
        const attn_set &in = launch->sets[i];
        if (!forward_set_make(i == 0 ? &p->first : &more[i - 1], kernel, launch->shape, in)) {
            return false;
        }
        fills[i] = forward_fill_set(launch->shape, in);
    }
    p->more = reinterpret_cast<const forward_set *>(luggage.device);
    bool read = launch->set_count > 1 || plan.fill_count > 0;
    return !read || cuda_piece_send(context, &luggage);
}

/* Rows that no tile writes. */
static inline bool forward_fill(attn_context *context, const attn_launch *launch,
                                const cuda_plan &plan, const cuda_piece &luggage)
{
    const uint8_t *sets = luggage.device + forward_more_bytes(launch);
    gpu::launch_config config = {plan.fill_count, launch->shape.hq, 1, FILL_THREADS, 0, 0,
                                 false,           context->stream};
    return gpu::launch(config, fill_kernel, reinterpret_cast<const fill_set *>(sets), plan.fills) ==
           nullptr;
}

static inline bool forward_run(attn_context *context, const attn_launch *launch,
                               const cuda_plan &plan, const forward_kernel &kernel,
                               forward_params *p)
{
    forward_scales(p, launch->shape);
    p->tiles = plan.tiles;
    p->tile_count = plan.tile_count;
    p->counter = context->counters + (kernel.share.second ? 1 : 0);
    p->group = launch->shape.hq / launch->shape.hkv;
    p->heads_log2 = forward_heads_log2(kernel.heads_max, launch->shape);
    p->d = launch->shape.d;
    p->dv = launch->shape.dv;
    int ctas = cuda_ctas(context, plan.tile_count);
    bool overlaps = kernel.share.second && context->first_runs && context->cta_limit == 0;
    gpu::launch_config config = {
        ctas, 1, 1, kernel.threads, kernel.smem_bytes, 0, overlaps, context->stream};
    context->first_runs = !kernel.share.second;
    return gpu::launch(config, kernel.start, *p) == nullptr;
}

/* Is there anything to do? Of many sequences the plan says so, which is made once: a launch should
 * not look at each of them. */
static inline bool forward_any(const plan_shape *wanted, const attn_launch *launch)
{
    constexpr int32_t FEW = 64;
    return launch->sequence_count > FEW ||
           plan_has_any(wanted, launch->sequences, launch->sequence_count);
}

static inline attn_status forward_launch(attn_context *context, const attn_launch *launch,
                                         const forward_kernel &kernel)
{
    const attn_shape &shape = launch->shape;
    int32_t tile_heads = 1 << forward_heads_log2(kernel.heads_max, shape);
    plan_shape wanted = {ATTN_FORWARD,
                         shape.mask,
                         shape.hq,
                         shape.hkv,
                         kernel.q_block / tile_heads,
                         kernel.k_block,
                         2 * (shape.d + shape.dv),
                         false,
                         tile_heads,
                         0,
                         0,
                         kernel.share.q_block / tile_heads,
                         kernel.share.k_block};
    cuda_plan plan = {};
    forward_params p = {};
    context->first_runs = kernel.share.second && context->first_runs;
    if (launch->sequence_count == 0 || launch->set_count == 0 || !forward_any(&wanted, launch)) {
        return ATTN_OK;
    }
    if (!cuda_launch_fits(launch)) {
        return ATTN_INVALID;
    }
    cuda_piece luggage = {};
    bool done =
        cuda_take_together(context, forward_luggage_bytes(launch), &luggage,
                           [&] { return cuda_plan_take(context, &wanted, launch, &plan); }) &&
        forward_luggage_pack(context, launch, kernel, plan, luggage, &p) &&
        (plan.tile_count == 0 || forward_run(context, launch, plan, kernel, &p)) &&
        (plan.fill_count == 0 || forward_fill(context, launch, plan, luggage));
    return done ? ATTN_OK : ATTN_LAUNCH_FAILED;
}

} // namespace attn

#endif
