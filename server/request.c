/* request.c: pure translation; the numbers of wire_request were checked when it was decoded. */
#include "server/request.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "kernels/plan.h"
#include "server/arena.h"

/* Numbers of the wire are the kernels' numbers. */
static_assert((int)FAS_FORWARD == (int)ATTN_FORWARD && (int)FAS_BACKWARD == (int)ATTN_BACKWARD &&
                  (int)FAS_BF16 == (int)ATTN_BF16 && (int)FAS_FP16 == (int)ATTN_FP16 &&
                  (int)FAS_FP32 == (int)ATTN_FP32,
              "one numbering");

const char *request_arch_name(enum attn_arch arch)
{
    static const char *const names[] = {
        [ATTN_CPU] = "cpu", [ATTN_SM90] = "sm90", [ATTN_SM100] = "sm100"};
    return names[arch];
}

static uint32_t travelling(const struct wire_request *wire)
{
    uint32_t tensors = 0;
    for (int tensor = 0; tensor < FAS_TENSOR_COUNT; tensor++) {
        tensors |= wire->tensors[tensor].place == FAS_PLACE_INLINE ? 1u << tensor : 0;
    }
    return tensors;
}

/* "field: reason", as attn_select says it, into an error. */
static enum fas_status refuse_shape(const char *reason, enum attn_arch arch,
                                    struct fas_error *error)
{
    const char *colon = strchr(reason, ':');
    char field[sizeof error->field] = "";
    if (colon) {
        snprintf(field, sizeof field, "%.*s", (int)(colon - reason), reason);
        reason = colon + 1 + (colon[1] == ' ');
    }
    return fas_fail(error, FAS_UNSUPPORTED, field, "%s (%s)", reason, request_arch_name(arch));
}

enum fas_status request_shape(struct request *request, const struct wire_request *wire,
                              enum attn_arch arch, struct fas_error *error)
{
    *request = (struct request){.wire = *wire, .sequence_count = wire->batch};
    request->inputs = wire_request_inputs(wire);
    request->outputs = wire_request_outputs(wire);
    request->travelling = (request->inputs | request->outputs) & travelling(wire);
    request->shape = (struct attn_shape){
        .pass = (enum attn_pass)wire->pass,
        .dtype = (enum attn_dtype)wire->dims.dtype,
        .hq = wire->dims.hq,
        .hkv = wire->dims.hkv,
        .d = wire->dims.d,
        .dv = wire->dims.dv,
        .mask = {wire->mask.has_left, wire->mask.has_right, wire->mask.left, wire->mask.right},
        .softmax_scale =
            wire->has_softmax_scale ? wire->softmax_scale : 1.0f / sqrtf((float)wire->dims.d),
        .softcap = wire->softcap,
        .has_sink = wire->has_sink,
        .has_dlse = wire->has_dlse,
        .has_delta = wire->has_delta,
        .deterministic = wire->deterministic,
    };
    const char *reason;
    request->row = attn_select(arch, &request->shape, &reason);
    return request->row ? FAS_OK : refuse_shape(reason, arch, error);
}

static enum fas_status check_span(enum attn_arch arch, const char *field, int32_t rows,
                                  struct fas_error *error)
{
    if (arch == ATTN_CPU || rows <= ATTN_GPU_SPAN_MAX) {
        return FAS_OK;
    }
    return fas_fail(error, FAS_UNSUPPORTED, field,
                    "a sequence of %d rows, the longest here is %d (%s)", rows, ATTN_GPU_SPAN_MAX,
                    request_arch_name(arch));
}

enum fas_status request_check_spans(const struct request *request,
                                    const struct wire_lengths *lengths, struct fas_error *error)
{
    enum attn_arch arch = request->row->arch;
    const char *q = lengths->cu_seqlens_q ? "cu_seqlens_q" : "q.max_len";
    const char *k = lengths->cu_seqlens_k ? "cu_seqlens_k" : "k.max_len";
    enum fas_status status = check_span(arch, q, lengths->max_len_q, error);
    return status == FAS_OK ? check_span(arch, k, lengths->max_len_k, error) : status;
}

uint64_t request_sequences_bytes(const struct request *request)
{
    return (uint64_t)request->sequence_count * sizeof(struct attn_sequence);
}

/* Of one sequence, at most: no kernel's tiles have fewer than 64 rows. */
static uint64_t plan_bytes(const struct attn_shape *shape, const struct attn_sequence *sequence)
{
    uint64_t q_blocks = ((uint64_t)sequence->q_span + 63) / 64;
    uint64_t k_blocks = ((uint64_t)sequence->k_span + 63) / 64;
    uint64_t tiles = q_blocks * (uint64_t)shape->hq + k_blocks * (uint64_t)shape->hkv;
    return tiles * sizeof(struct plan_tile) + (q_blocks + k_blocks) * 2 * sizeof(struct plan_fill);
}

void request_sequences(struct request *request, const struct wire_lengths *lengths,
                       struct attn_sequence *sequences)
{
    request->sequences = sequences;
    request->cost = (struct cost){.requests = 1, .sequences = (uint32_t)request->sequence_count};
    request->cost.tokens = (uint64_t)(request->wire.dims.total_q + request->wire.dims.total_k);
    for (int32_t i = 0; i < request->sequence_count; i++) {
        struct wire_span q = wire_span_q(lengths, i);
        struct wire_span k = wire_span_k(lengths, i);
        sequences[i] = (struct attn_sequence){.index = i,
                                              .q_first = q.first,
                                              .k_first = k.first,
                                              .q_len = q.len,
                                              .k_len = k.len,
                                              .q_span = q.span,
                                              .k_span = k.span};
        request->cost.flops += attn_flops(&request->shape, q.len, k.len);
        request->plan_bytes += plan_bytes(&request->shape, &sequences[i]);
    }
    struct attn_set none = {0};
    struct attn_launch alone = {.shape = request->shape,
                                .sets = &none,
                                .sequences = sequences,
                                .set_count = 1,
                                .sequence_count = request->sequence_count};
    request->scratch_bytes = request->row->scratch_bytes(&alone);
}

static uint64_t take(uint64_t *bytes, uint64_t wanted)
{
    uint64_t offset = *bytes;
    *bytes += (wanted + ARENA_ALIGN - 1) / ARENA_ALIGN * ARENA_ALIGN;
    return offset;
}

void request_layout(struct request *request)
{
    struct request_layout *layout = &request->layout;
    uint32_t tensors = (request->inputs | request->outputs) & ~request->in_place;
    layout->bytes = 0;
    for (int tensor = 0; tensor < FAS_TENSOR_COUNT; tensor++) {
        if (tensors >> tensor & 1) {
            layout->offsets[tensor] =
                take(&layout->bytes, fas_tensor_bytes(&request->wire.dims, tensor));
        }
    }
    /* A kernel writes lse whether or not the client wants it back. */
    if (request->wire.pass == FAS_FORWARD && request->wire.no_lse) {
        layout->offsets[FAS_LSE] =
            take(&layout->bytes, fas_tensor_bytes(&request->wire.dims, FAS_LSE));
    }
    if (request->outputs >> FAS_DSINK & 1) {
        layout->dsink_rows_offset =
            take(&layout->bytes, 4u * (uint64_t)request->sequence_count * request->shape.hq);
    }
    request->cost.bytes = layout->bytes;
}

/* The packed tensor at `data`. */
static struct attn_tensor packed(const struct request *request, uint8_t *data,
                                 enum fas_tensor tensor)
{
    const struct fas_dims *dims = &request->wire.dims;
    if (fas_tensor_row(tensor)->statistics) {
        return (struct attn_tensor){data, 4, 4 * fas_tensor_rows(dims, tensor)};
    }
    int64_t head_bytes =
        fas_tensor_width(dims, tensor) * (int64_t)fas_tensor_element_bytes(dims, tensor);
    return (struct attn_tensor){data, head_bytes * fas_tensor_heads(dims, tensor), head_bytes};
}

void request_place(struct request *request, enum fas_tensor tensor, uint8_t *data, bool copied)
{
    const struct fas_dims *dims = &request->wire.dims;
    const struct wire_tensor *at = &request->wire.tensors[tensor];
    struct attn_tensor placed = packed(request, data, tensor);
    if (at->row_stride != 0) { /* a stride that is never taken may be any: tensor maps care */
        placed.row_stride = fas_tensor_rows(dims, tensor) > 1 ? at->row_stride : placed.row_stride;
        placed.head_stride =
            fas_tensor_heads(dims, tensor) > 1 ? at->head_stride : placed.head_stride;
    }
    *(copied ? &request->copied : &request->in_place) |= 1u << tensor;
    request->placed[tensor] = placed;
}

/* Three dimensions: elements, then the two with strides, the longer one as rows. Dimensions that
 * lie together on both sides are one. */
struct device_copy request_copy(const struct request *request, enum fas_tensor tensor,
                                struct request_rows rows, uint64_t arena_offset)
{
    const struct fas_dims *dims = &request->wire.dims;
    const struct attn_tensor *there = &request->placed[tensor];
    const struct attn_tensor here = packed(request, NULL, tensor);
    uint64_t count = (uint64_t)rows.count;
    uint64_t heads = (uint64_t)fas_tensor_heads(dims, tensor);
    bool by_heads = count < heads;
    struct device_copy copy = {
        .arena_offset = arena_offset + request->layout.offsets[tensor] +
                        (uint64_t)(rows.first * here.row_stride),
        .arena_pitch = (uint64_t)(by_heads ? here.head_stride : here.row_stride),
        .arena_plane = (uint64_t)(by_heads ? here.row_stride : here.head_stride),
        .host = (uint8_t *)there->data + rows.first * there->row_stride,
        .host_pitch = (uint64_t)(by_heads ? there->head_stride : there->row_stride),
        .host_plane = (uint64_t)(by_heads ? there->row_stride : there->head_stride),
        .width = (uint64_t)fas_tensor_width(dims, tensor) * fas_tensor_element_bytes(dims, tensor),
        .height = (uint32_t)(by_heads ? heads : count),
        .depth = (uint32_t)(by_heads ? count : heads)};
    if (copy.arena_plane == copy.width && copy.host_plane == copy.width) {
        copy.width *= copy.depth;
        copy.depth = 1;
    }
    if (copy.arena_pitch == copy.width && copy.host_pitch == copy.width) {
        copy.width *= copy.height;
        copy.height = 1;
    }
    if (copy.height == 1 && copy.arena_plane == copy.width && copy.host_plane == copy.width) {
        copy.width *= copy.depth;
        copy.depth = 1;
    }
    if (copy.height == 1 && copy.depth > 1) { /* planes of one row each are rows */
        copy.height = copy.depth;
        copy.arena_pitch = copy.arena_plane;
        copy.host_pitch = copy.host_plane;
        copy.depth = 1;
    }
    return copy;
}

struct attn_tensor request_tensor(const struct request *request, uint8_t *base,
                                  enum fas_tensor tensor)
{
    return request->in_place >> tensor & 1
               ? request->placed[tensor]
               : packed(request, base + request->layout.offsets[tensor], tensor);
}

static void bind_all(struct attn_set *set, const struct request *request, uint8_t *base)
{
    const struct {
        enum fas_tensor tensor;
        struct attn_tensor *field;
    } fields[] = {
        {FAS_Q, &set->q},     {FAS_K, &set->k},       {FAS_V, &set->v},         {FAS_O, &set->o},
        {FAS_LSE, &set->lse}, {FAS_DO, &set->do_},    {FAS_DQ, &set->dq},       {FAS_DK, &set->dk},
        {FAS_DV, &set->dv},   {FAS_DLSE, &set->dlse}, {FAS_DELTA, &set->delta},
    };
    uint32_t tensors = request->inputs | request->outputs;
    if (request->wire.pass == FAS_FORWARD) {
        tensors |= 1u << FAS_LSE;
    }
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        if (tensors >> fields[i].tensor & 1) {
            *fields[i].field = request_tensor(request, base, fields[i].tensor);
        }
    }
    if (tensors >> FAS_SINK & 1) {
        set->sink = request_tensor(request, base, FAS_SINK).data;
    }
    if (tensors >> FAS_DSINK & 1) {
        set->dsink = (float *)(void *)(base + request->layout.dsink_rows_offset);
    }
}

struct attn_set request_bind(const struct request *request, uint8_t *base,
                             const struct request *retained, uint8_t *retained_base)
{
    struct attn_set set = {0};
    if (retained) {
        bind_all(&set, retained, retained_base);
    }
    bind_all(&set, request, base);
    return set;
}

static bool same_mask(const struct wire_mask *a, const struct wire_mask *b)
{
    return a->has_left == b->has_left && a->has_right == b->has_right && a->left == b->left &&
           a->right == b->right;
}

static bool same_sequences(const struct request *a, const struct request *b)
{
    return memcmp(a->sequences, b->sequences, request_sequences_bytes(a)) == 0;
}
static_assert(sizeof(struct attn_sequence) == 2 * 4 + 2 * 8 + 4 * 4, "no padding to compare");

/* What both have to agree on, field by field. */
const char *request_handle_mismatch(const struct request *backward, const struct request *forward)
{
    const struct wire_request *b = &backward->wire, *f = &forward->wire;
    const struct {
        const char *field;
        bool same;
    } rules[] = {
        {"dtype", b->dims.dtype == f->dims.dtype},
        {"hq", b->dims.hq == f->dims.hq},
        {"hkv", b->dims.hkv == f->dims.hkv},
        {"d", b->dims.d == f->dims.d},
        {"dv", b->dims.dv == f->dims.dv},
        {"q.total", b->dims.total_q == f->dims.total_q},
        {"k.total", b->dims.total_k == f->dims.total_k},
        {"batch", b->batch == f->batch},
        {"mask", same_mask(&b->mask, &f->mask)},
        {"softmax_scale", backward->shape.softmax_scale == forward->shape.softmax_scale},
        {"softcap", b->softcap == f->softcap},
        {"has_sink", b->has_sink == f->has_sink},
        {"cu_seqlens", b->batch == f->batch && same_sequences(backward, forward)},
    };
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++) {
        if (!rules[i].same) {
            return rules[i].field;
        }
    }
    return NULL;
}

int64_t request_rows_before(const struct request *request, enum fas_tensor tensor, int32_t sequence)
{
    enum fas_side side = fas_tensor_row(tensor)->side;
    int64_t rows = fas_tensor_rows(&request->wire.dims, tensor);
    if (sequence == request->sequence_count || side == FAS_SIDE_NONE) {
        return sequence == request->sequence_count ? rows : 0;
    }
    const struct attn_sequence *s = &request->sequences[sequence];
    return side == FAS_SIDE_Q ? s->q_first : s->k_first;
}

uint32_t request_describe_kernels(enum attn_arch arch, struct wire_kernel *kernels, uint32_t room)
{
    size_t rows_count;
    const struct attn_row *rows = attn_rows(&rows_count);
    uint32_t count = 0;
    for (size_t i = 0; i < rows_count && count < room; i++) {
        if (rows[i].arch != arch) {
            continue;
        }
        struct wire_kernel *kernel = &kernels[count++];
        *kernel = (struct wire_kernel){.pass = (enum fas_pass)rows[i].pass,
                                       .dtypes = rows[i].dtypes,
                                       .d_min = rows[i].d_min,
                                       .d_max = rows[i].d_max,
                                       .dv_min = rows[i].dv_min,
                                       .dv_max = rows[i].dv_max};
        snprintf(kernel->name, sizeof kernel->name, "%s", rows[i].name);
        snprintf(kernel->arch, sizeof kernel->arch, "%s", request_arch_name(arch));
    }
    return count;
}
