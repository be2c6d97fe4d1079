/*
 * cuda/backward: host side of a backward pass: preprocess, main kernel, postprocess, and fills of
 * key rows that no tile writes. Or, where the main kernel has dK and dV only: preprocess, it, a
 * kernel for dQ with a list of its own, and fills for both.
 */
#ifndef CUDA_BACKWARD_CUH
#define CUDA_BACKWARD_CUH

#include "common/backward.cuh"
#include "common/fill.cuh"
#include "common/preprocess.cuh"
#include "cuda/context.cuh"
#include "gpu/launch.cuh"
#include "gpu/tensor_map.cuh"

namespace attn
{

/* The kernels of an instance, and what the host must know of them. */
struct backward_kernel {
    void (*preprocess)(preprocess_params);
    void (*start)(backward_params);
    void (*post)(backward_params);
    int threads, post_threads;
    uint32_t smem_bytes, post_smem_bytes;
    gpu::element type;
    gpu::swizzle pattern;
    int32_t q_block, k_block;                      /* rows of a step and of a tile */
    int32_t d;                                     /* columns of the sums of dQ */
    int32_t out_rows;                              /* rows of a box of dQ, dK and dV */
    int32_t q_box = 0;                             /* rows of a box of Q and dO; 0: of a step */
    int32_t k_box = 0;                             /* of K and V; 0: of a tile */
    int32_t cluster = 1;                           /* CTAs that work on a tile together */
    gpu::swizzle key_pattern = gpu::swizzle::none; /* of boxes of dK and dV; none: `pattern` */
    /* Has dQ instead of the postprocess and the sums (d is 0): tiles of query_rows queries. */
    void (*queries)(backward_params) = nullptr;
    int32_t query_rows = 0;
    uint32_t queries_smem_bytes = 0;
    bool orders = false; /* the kernel knows ordered tiles */
};

/* A map of heads x rows x columns with boxes of box_rows x one panel. */
static inline bool backward_map(gpu::tensor_map *map, const backward_kernel &kernel,
                                gpu::swizzle pattern, const attn_tensor &tensor, int32_t heads,
                                int32_t columns, int32_t box_rows)
{
    /* With one head its stride is never used, and may be anything, also what TMA refuses. */
    int64_t head_stride = heads > 1 ? tensor.head_stride : tensor.row_stride;
    gpu::tensor_shape shape = gpu::tensor_rows(kernel.type, pattern, tensor.data, tensor.row_stride,
                                               head_stride, 1, heads, columns, box_rows);
    return gpu::tensor_map_encode(map, gpu::tensor_ragged(shape));
}

static inline bool backward_set_make(backward_set *out, const backward_kernel &kernel,
                                     const attn_shape &shape, const attn_set &in)
{
    int32_t q_box = kernel.q_box > 0 ? kernel.q_box : kernel.q_block;
    int32_t k_box = kernel.k_box > 0 ? kernel.k_box : kernel.k_block;
    gpu::swizzle all = kernel.pattern;
    gpu::swizzle keys = kernel.key_pattern != gpu::swizzle::none ? kernel.key_pattern : all;
    return backward_map(&out->q, kernel, all, in.q, shape.hq, shape.d, q_box) &&
           backward_map(&out->k, kernel, all, in.k, shape.hkv, shape.d, k_box) &&
           backward_map(&out->v, kernel, all, in.v, shape.hkv, shape.dv, k_box) &&
           backward_map(&out->dout, kernel, all, in.do_, shape.hq, shape.dv, q_box) &&
           backward_map(&out->dq, kernel, all, in.dq, shape.hq, shape.d, kernel.out_rows) &&
           backward_map(&out->dk, kernel, keys, in.dk, shape.hkv, shape.d, kernel.out_rows) &&
           backward_map(&out->dv, kernel, keys, in.dv, shape.hkv, shape.dv, kernel.out_rows);
}

static inline preprocess_set backward_preprocess_set(const attn_shape &shape, const attn_set &in)
{
    preprocess_set set = {};
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

/* Rows of dQ that no tile of queries writes. */
static inline fill_set backward_query_fill_set(const attn_shape &shape, const attn_set &in)
{
    fill_set set = {};
    set.rows[0] = static_cast<uint8_t *>(in.dq.data);
    set.row_stride[0] = in.dq.row_stride;
    set.head_stride[0] = in.dq.head_stride;
    set.row_bytes[0] = shape.d * 2;
    return set;
}

static inline fill_set backward_fill_set(const attn_shape &shape, const attn_set &in)
{
    fill_set set = {};
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

constexpr size_t BACKWARD_ALIGNMENT = 256;

constexpr size_t backward_round(size_t bytes)
{
    return (bytes + BACKWARD_ALIGNMENT - 1) / BACKWARD_ALIGNMENT * BACKWARD_ALIGNMENT;
}

/* Where the parts of backward_scratch begin, for units of M rows of D columns. */
struct backward_layout {
    size_t dq, statistics, dsink, turns, bytes;
};

static inline backward_layout backward_layout_of(int64_t stripes, int32_t hq, int32_t m, int32_t d)
{
    size_t units = static_cast<size_t>(stripes) * static_cast<size_t>(hq);
    backward_layout at = {};
    at.statistics = backward_round(units * static_cast<size_t>(m) * static_cast<size_t>(d) * 4);
    at.dsink = at.statistics + backward_round(units * static_cast<size_t>(m) * 8);
    at.turns = at.dsink + backward_round(units * 4);
    at.bytes = at.turns + backward_round(units * 4);
    return at;
}

/*
 * Longest sequences whose tiles are ordered where they need not be: no zeros, no postprocess, but
 * tiles wait for one another. 16/16 heads of 1024 gain 4 to 10 %, of 2048 lose 2 to 5.
 */
constexpr int32_t ORDERED_KEYS = 1024;

/*
 * A deterministic launch waits in any case, and all its tiles are ordered if the kernel knows how.
 * But what becomes of a share of dQ is then read in each step: 8192 keys lose 2 to 3 %. 2048 gain 2
 * to 5, and mixed lengths, half of whose work is in sequences of up to 6400, 1 to 4.
 */
constexpr int32_t ORDERED_KEYS_DETERMINISTIC = 7168;

/* Is a kernel that knows ordered tiles the faster one: is at least half of the work in sequences
 * short enough? Bits do not depend on it: an order is what a deterministic launch has anyway. */
static inline bool backward_mostly_short(const attn_launch *launch)
{
    int32_t limit = launch->shape.deterministic ? ORDERED_KEYS_DETERMINISTIC : ORDERED_KEYS;
    double brief = 0.0, all = 0.0;
    for (int32_t i = 0; i < launch->sequence_count; i++) {
        const attn_sequence &s = launch->sequences[i];
        double work = static_cast<double>(s.q_len) * s.k_len;
        all += work;
        brief += s.k_len <= limit ? work : 0.0;
    }
    return 2.0 * brief >= all;
}

static inline plan_shape backward_plan_shape(const attn_shape &shape, int32_t m, int32_t n)
{
    int32_t walked_bytes = 2 * (shape.d + shape.dv) + 4 * shape.d;
    return {ATTN_BACKWARD,       shape.mask, shape.hq, shape.hkv, m, n, walked_bytes,
            shape.deterministic, 0,          0,        0,         0, 0};
}

/* With a kernel for dQ nothing is added in memory, so no order is needed for the same bits. */
static inline plan_shape backward_keys_shape(const attn_shape &shape, const backward_kernel &kernel)
{
    plan_shape keys = backward_plan_shape(shape, kernel.q_block, kernel.k_block);
    if (kernel.queries != nullptr) {
        keys.deterministic = false;
        keys.walked_bytes = 2 * (shape.d + shape.dv);
    }
    if (kernel.orders) {
        keys.ordered_keys = shape.deterministic ? INT32_MAX : ORDERED_KEYS;
    }
    return keys;
}

static inline plan_shape backward_queries_shape(const attn_shape &shape,
                                                const backward_kernel &kernel)
{
    return {ATTN_FORWARD,
            shape.mask,
            shape.hq,
            shape.hkv,
            kernel.query_rows,
            kernel.k_box > 0 ? kernel.k_box : kernel.k_block,
            2 * (shape.d + shape.dv),
            false,
            0,
            kernel.q_block,
            0,
            0,
            0};
}

/* What a launch brings along, in one piece of the context's ring. */
struct backward_luggage {
    cuda_piece piece;
    backward_set *more;          /* set_count - 1 */
    preprocess_set *preprocess;  /* set_count */
    fill_set *fill, *query_fill; /* set_count each */
    dsink_sequence *dsink;       /* sequence_count, with a sink */

    template <typename P>
    const P *on_device(const P *host) const
    {
        return reinterpret_cast<const P *>(piece.device +
                                           (reinterpret_cast<const uint8_t *>(host) - piece.host));
    }
};

/* What is taken from the context's ring for one launch. */
struct backward_bag {
    backward_luggage luggage;
    cuda_plan keys, queries;
};

/* Where the parts of the luggage begin. */
struct backward_luggage_layout {
    size_t preprocess, fill, query_fill, dsink, bytes;
};

static inline backward_luggage_layout backward_luggage_layout_of(const attn_launch *launch)
{
    size_t sets = static_cast<size_t>(launch->set_count);
    size_t sequences = launch->shape.has_sink ? static_cast<size_t>(launch->sequence_count) : 0;
    backward_luggage_layout at = {};
    at.preprocess = backward_round((sets - 1) * sizeof(backward_set));
    at.fill = at.preprocess + backward_round(sets * sizeof(preprocess_set));
    at.query_fill = at.fill + backward_round(sets * sizeof(fill_set));
    at.dsink = at.query_fill + backward_round(sets * sizeof(fill_set));
    at.bytes = at.dsink + sequences * sizeof(dsink_sequence);
    return at;
}

static inline backward_luggage backward_luggage_in(const cuda_piece &piece,
                                                   const backward_luggage_layout &at)
{
    return {piece,
            reinterpret_cast<backward_set *>(piece.host),
            reinterpret_cast<preprocess_set *>(piece.host + at.preprocess),
            reinterpret_cast<fill_set *>(piece.host + at.fill),
            reinterpret_cast<fill_set *>(piece.host + at.query_fill),
            reinterpret_cast<dsink_sequence *>(piece.host + at.dsink)};
}

static inline bool backward_luggage_pack(attn_context *context, const attn_launch *launch,
                                         const backward_kernel &kernel,
                                         const backward_luggage &luggage, backward_params *p)
{
    const attn_shape &shape = launch->shape;
    for (int32_t i = 0; i < launch->set_count; i++) {
        const attn_set &in = launch->sets[i];
        if (!backward_set_make(i == 0 ? &p->first : &luggage.more[i - 1], kernel, shape, in)) {
            return false;
        }
        luggage.preprocess[i] = backward_preprocess_set(shape, in);
        luggage.fill[i] = backward_fill_set(shape, in);
        luggage.query_fill[i] = backward_query_fill_set(shape, in);
    }
    int32_t stripe = 0;
    for (int32_t s = 0; shape.has_sink && s < launch->sequence_count; s++) {
        const attn_sequence &sequence = launch->sequences[s];
        int32_t stripes = (sequence.q_span + kernel.q_block - 1) / kernel.q_block;
        luggage.dsink[s] = {launch->sets[sequence.set].dsink + int64_t{sequence.index} * shape.hq,
                            stripe, stripes};
        stripe += stripes;
    }
    p->more = luggage.on_device(luggage.more);
    return cuda_piece_send(context, &luggage.piece);
}

static inline int32_t backward_clamp_reach(bool bounded, int32_t reach)
{
    return bounded && reach < MASK_ENDLESS ? reach : MASK_ENDLESS;
}

/* Tiles that wait for nobody all start at their first block: in step, they share it in L2. Clusters
 * are too few for a group whose tiles wait for each other. */
static inline turn_order backward_order(const attn_shape &shape, const backward_kernel &kernel)
{
    bool cyclic = shape.deterministic && kernel.queries == nullptr && !shape.mask.has_left &&
                  kernel.cluster == 1 && kernel.k_block <= kernel.q_block;
    return shape.mask.has_right ? turn_order::descending
           : cyclic             ? turn_order::cyclic
                                : turn_order::ascending;
}

static inline void backward_params_fill(backward_params *p, attn_context *context,
                                        const attn_launch *launch, const backward_kernel &kernel,
                                        const cuda_plan &plan)
{
    const attn_shape &shape = launch->shape;
    backward_layout at = backward_layout_of(plan.stripe_count, shape.hq, kernel.q_block, kernel.d);
    uint8_t *scratch = static_cast<uint8_t *>(launch->scratch);
    bool capped = shape.softcap > 0.0f;
    p->scratch = {reinterpret_cast<float *>(scratch + at.statistics),
                  reinterpret_cast<float *>(scratch + at.dq),
                  reinterpret_cast<float *>(scratch + at.dsink),
                  reinterpret_cast<int32_t *>(scratch + at.turns)};
    p->tiles = plan.tiles;
    p->stripes = plan.stripes;
    p->loose = plan.loose;
    p->counter = context->counters;
    p->tile_count = plan.tile_count;
    p->hq = shape.hq;
    p->group = shape.hq / shape.hkv;
    p->d = shape.d;
    p->dv = shape.dv;
    p->reach = {backward_clamp_reach(shape.mask.has_left, shape.mask.left),
                backward_clamp_reach(shape.mask.has_right, shape.mask.right)};
    p->order = backward_order(shape, kernel);
    p->scale_log2 = (capped ? shape.softcap : shape.softmax_scale) * LOG2E;
    p->cap_inner = capped ? shape.softmax_scale / shape.softcap : 0.0f;
    p->scale = shape.softmax_scale;
}

static inline bool backward_preprocess_run(attn_context *context, const attn_launch *launch,
                                           const backward_kernel &kernel, const cuda_plan &plan,
                                           const backward_luggage &luggage,
                                           const backward_params &p)
{
    preprocess_params pre = {};
    pre.first = luggage.preprocess[0];
    pre.more = luggage.on_device(luggage.preprocess + 1);
    pre.stripes = plan.stripes;
    pre.statistics = p.scratch.statistics;
    pre.dq = p.scratch.dq;
    pre.dsink = p.scratch.dsink;
    pre.turns = p.scratch.turns;
    pre.hq = p.hq;
    pre.dv = launch->shape.dv;
    gpu::launch_config config = {plan.stripe_count, p.hq, 1,     PREPROCESS_THREADS,
                                 PREPROCESS_SMEM,   0,    false, context->stream};
    return gpu::launch(config, kernel.preprocess, pre) == nullptr;
}

static inline bool backward_main_run(attn_context *context, const backward_kernel &kernel,
                                     const cuda_plan &plan, const backward_params &p)
{
    int32_t clusters = cuda_ctas(context, plan.tile_count * kernel.cluster) / kernel.cluster;
    gpu::launch_config config = {(clusters > 0 ? clusters : 1) * kernel.cluster,
                                 1,
                                 1,
                                 kernel.threads,
                                 kernel.smem_bytes,
                                 kernel.cluster,
                                 false,
                                 context->stream};
    return plan.tile_count == 0 || gpu::launch(config, kernel.start, p) == nullptr;
}

/* Its CTAs start where those of the main kernel end, before the last of them does: hence a counter
 * of its own. */
static inline bool backward_queries_run(attn_context *context, const backward_kernel &kernel,
                                        const backward_bag &bag, backward_params p)
{
    p.tiles = bag.queries.tiles;
    p.tile_count = bag.queries.tile_count;
    p.counter = context->counters + 1;
    gpu::launch_config config = {cuda_ctas(context, p.tile_count),
                                 1,
                                 1,
                                 kernel.threads,
                                 kernel.queries_smem_bytes,
                                 0,
                                 bag.keys.tile_count > 0,
                                 context->stream};
    return p.tile_count == 0 || gpu::launch(config, kernel.queries, p) == nullptr;
}

static inline bool backward_post_run(attn_context *context, const backward_kernel &kernel,
                                     const cuda_plan &plan, const backward_params &p)
{
    gpu::launch_config config = {plan.loose_count,       p.hq, 1,     kernel.post_threads,
                                 kernel.post_smem_bytes, 0,    false, context->stream};
    return gpu::launch(config, kernel.post, p) == nullptr;
}

static inline bool backward_fill_run(attn_context *context, const cuda_plan &plan, int32_t heads,
                                     const fill_set *sets)
{
    gpu::launch_config config = {plan.fill_count, heads,          1, FILL_THREADS, 0, 0,
                                 false,           context->stream};
    return plan.fill_count == 0 || gpu::launch(config, fill_kernel, sets, plan.fills) == nullptr;
}

static inline bool backward_dsink_run(attn_context *context, const attn_launch *launch,
                                      const backward_luggage &luggage, const backward_params &p)
{
    gpu::launch_config config = {launch->sequence_count, (p.hq + 31) / 32, 1, 32, 0, 0, false,
                                 context->stream};
    return gpu::launch(config, dsink_kernel,
                       static_cast<const dsink_sequence *>(luggage.on_device(luggage.dsink)),
                       static_cast<const float *>(p.scratch.dsink), p.hq) == nullptr;
}

static inline bool backward_bag_take(attn_context *context, const attn_launch *launch,
                                     const backward_kernel &kernel, backward_bag *bag)
{
    plan_shape keys = backward_keys_shape(launch->shape, kernel);
    plan_shape queries = backward_queries_shape(launch->shape, kernel);
    backward_luggage_layout at = backward_luggage_layout_of(launch);
    cuda_piece piece = {};
    bool taken = cuda_take_together(context, at.bytes, &piece, [&] {
        return cuda_plan_take(context, &keys, launch, &bag->keys) &&
               (kernel.queries == nullptr ||
                cuda_plan_take(context, &queries, launch, &bag->queries));
    });
    bag->luggage = taken ? backward_luggage_in(piece, at) : backward_luggage{};
    return taken;
}

/* dQ, when this part of the launch has added its shares, or by its own kernel. */
static inline bool backward_dq_run(attn_context *context, const attn_launch *launch,
                                   const backward_kernel &kernel, const backward_bag &bag,
                                   const backward_params &p)
{
    if (kernel.queries != nullptr) {
        return backward_queries_run(context, kernel, bag, p) &&
               backward_fill_run(context, bag.queries, p.hq,
                                 bag.luggage.on_device(bag.luggage.query_fill));
    }
    bool last = launch->part + 1 >= launch->parts;
    return !last || bag.keys.loose_count == 0 || backward_post_run(context, kernel, bag.keys, p);
}

static inline attn_status backward_launch(attn_context *context, const attn_launch *launch,
                                          const backward_kernel &kernel)
{
    backward_bag bag = {};
    backward_params p = {};
    if (launch->sequence_count == 0 || launch->set_count == 0) {
        return ATTN_OK;
    }
    if (!cuda_launch_fits(launch)) {
        return ATTN_INVALID;
    }
    if (!backward_bag_take(context, launch, kernel, &bag) ||
        !backward_luggage_pack(context, launch, kernel, bag.luggage, &p)) {
        return ATTN_LAUNCH_FAILED;
    }
    const cuda_plan &plan = bag.keys;
    backward_params_fill(&p, context, launch, kernel, plan);
    bool first = launch->part == 0 && plan.stripe_count > 0;
    bool sink = launch->part + 1 >= launch->parts && launch->shape.has_sink;
    bool done =
        (!first || backward_preprocess_run(context, launch, kernel, plan, bag.luggage, p)) &&
        backward_main_run(context, kernel, plan, p) &&
        backward_dq_run(context, launch, kernel, bag, p) &&
        backward_fill_run(context, plan, launch->shape.hkv,
                          bag.luggage.on_device(bag.luggage.fill)) &&
        (!sink || backward_dsink_run(context, launch, bag.luggage, p));
    return done ? ATTN_OK : ATTN_LAUNCH_FAILED;
}

/* Scratch of a launch; a sum over sequences of whole units, so monotone. */
static inline size_t backward_scratch_bytes(const attn_launch *launch, int32_t q_block,
                                            int32_t k_block, int32_t d)
{
    plan_shape shape = backward_plan_shape(launch->shape, q_block, k_block);
    int64_t stripes = plan_stripe_count(&shape, launch->sequences, launch->sequence_count);
    return backward_layout_of(stripes, launch->shape.hq, q_block, d).bytes;
}

} // namespace attn

#endif
