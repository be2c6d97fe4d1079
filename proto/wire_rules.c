/*
 * wire_rules.c: which tensors a request takes and gives, and the rules between its fields. Ranges
 * of single fields are the decoder's (wire_request.c). Knows no protobuf. Pure.
 */
#include "proto/wire.h"

#include <inttypes.h>
#include <math.h>

static uint32_t bit(enum fas_tensor tensor)
{
    return 1u << tensor;
}

uint32_t wire_request_inputs(const struct wire_request *request)
{
    uint32_t dlse = request->has_dlse ? bit(FAS_DLSE) : 0;
    uint32_t sink = request->has_sink ? bit(FAS_SINK) : 0;
    if (request->pass == FAS_FORWARD) {
        return bit(FAS_Q) | bit(FAS_K) | bit(FAS_V) | sink;
    }
    if (request->handle != 0) {
        return bit(FAS_DO) | dlse;
    }
    return bit(FAS_Q) | bit(FAS_K) | bit(FAS_V) | bit(FAS_LSE) | bit(FAS_DO) | dlse | sink |
           bit(request->has_delta ? FAS_DELTA : FAS_O);
}

uint32_t wire_request_outputs(const struct wire_request *request)
{
    if (request->pass == FAS_FORWARD) {
        return bit(FAS_O) | (request->no_lse ? 0 : bit(FAS_LSE));
    }
    return bit(FAS_DQ) | bit(FAS_DK) | bit(FAS_DV) | (request->has_sink ? bit(FAS_DSINK) : 0);
}

static enum fas_status check_dims(const struct fas_dims *dims, struct fas_error *error)
{
    if (dims->hq % dims->hkv != 0) {
        return fas_fail(error, FAS_INVALID_ARGUMENT, "hq",
                        "%" PRId32 " q heads do not share %" PRId32 " kv heads evenly", dims->hq,
                        dims->hkv);
    }
    if (dims->d % FAS_HEAD_DIM_STEP != 0) {
        return fas_fail(error, FAS_INVALID_ARGUMENT, "d", "%" PRId32 " is not a multiple of %d",
                        dims->d, FAS_HEAD_DIM_STEP);
    }
    if (dims->dv % FAS_HEAD_DIM_STEP != 0) {
        return fas_fail(error, FAS_INVALID_ARGUMENT, "dv", "%" PRId32 " is not a multiple of %d",
                        dims->dv, FAS_HEAD_DIM_STEP);
    }
    return FAS_OK;
}

/* fields: total, max_len. */
static enum fas_status check_side(const struct wire_side *side, int32_t batch, int64_t total,
                                  const char *const fields[2], struct fas_error *error)
{
    if (side->has_cu_seqlens && side->max_len != 0) {
        return fas_fail(error, FAS_INVALID_ARGUMENT, fields[1],
                        "%" PRId32 " beside cu_seqlens, which say all lengths", side->max_len);
    }
    if (!side->has_cu_seqlens && total != (int64_t)batch * side->max_len) {
        return fas_fail(error, FAS_INVALID_ARGUMENT, fields[0],
                        "%" PRId64 " rows, not %" PRId32 " sequences of %" PRId32, total, batch,
                        side->max_len);
    }
    return FAS_OK;
}

/* A bound without its flag is more likely a forgotten flag than a wish for no bound. */
static enum fas_status check_mask(const struct wire_mask *mask, struct fas_error *error)
{
    if (!mask->has_left && mask->left != 0) {
        return fas_fail(error, FAS_INVALID_ARGUMENT, "mask.left", "%" PRId32 " without has_left",
                        mask->left);
    }
    if (!mask->has_right && mask->right != 0) {
        return fas_fail(error, FAS_INVALID_ARGUMENT, "mask.right", "%" PRId32 " without has_right",
                        mask->right);
    }
    return FAS_OK;
}

static enum fas_status check_scores(const struct wire_request *request, struct fas_error *error)
{
    double scale = (double)request->softmax_scale, softcap = (double)request->softcap;
    if (request->has_softmax_scale && !(isfinite(scale) && scale > 0)) {
        return fas_fail(error, FAS_INVALID_ARGUMENT, "softmax_scale",
                        "%g is not a positive finite number", scale);
    }
    if (!request->has_softmax_scale && scale != 0) {
        return fas_fail(error, FAS_INVALID_ARGUMENT, "softmax_scale",
                        "%g without has_softmax_scale", scale);
    }
    if (!(isfinite(softcap) && softcap >= 0)) {
        return fas_fail(error, FAS_INVALID_ARGUMENT, "softcap",
                        "%g is neither 0 (none) nor a positive finite number", softcap);
    }
    return FAS_OK;
}

/* One row per field that means something in one pass only. */
static enum fas_status check_pass(const struct wire_request *request, struct fas_error *error)
{
    const struct {
        const char *field;
        bool set;
        enum fas_pass pass;
    } rows[] = {
        {"has_dlse", request->has_dlse, FAS_BACKWARD},
        {"has_delta", request->has_delta, FAS_BACKWARD},
        {"handle", request->handle != 0, FAS_BACKWARD},
        {"no_lse", request->no_lse, FAS_FORWARD},
        {"retain", request->retain, FAS_FORWARD},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        if (rows[i].set && rows[i].pass != request->pass) {
            return fas_fail(error, FAS_INVALID_ARGUMENT, rows[i].field, "is of the %s only",
                            rows[i].pass == FAS_FORWARD ? "forward" : "backward");
        }
    }
    if (request->has_delta && request->handle != 0) {
        return fas_fail(error, FAS_INVALID_ARGUMENT, "has_delta",
                        "a retained forward has o: delta is not sent");
    }
    return FAS_OK;
}

/*
 * First to last byte of a strided tensor, or -1 when it is too long to be true. The dimension with
 * the larger stride must step over the whole of the other: elements then never overlap, and no two
 * threads write one byte.
 */
static int64_t extent_of(int64_t outer_count, int64_t outer_stride, int64_t inner_count,
                         int64_t inner_stride, int64_t width_bytes)
{
    int64_t inner, outer, extent;
    if (__builtin_mul_overflow(inner_count - 1, inner_stride, &inner) ||
        __builtin_add_overflow(inner, width_bytes, &inner) ||
        (inner_count > 1 && inner_stride < width_bytes) ||
        (outer_count > 1 && inner > outer_stride) ||
        __builtin_mul_overflow(outer_count - 1, outer_stride, &outer) ||
        __builtin_add_overflow(outer, inner, &extent) || extent > FAS_EXTENT_BYTES_MAX) {
        return -1;
    }
    return extent;
}

/* One row stands for none: its strides are checked all the same. */
static int64_t strided_extent(const struct fas_dims *dims, enum fas_tensor tensor,
                              const struct wire_tensor *at, int64_t width_bytes)
{
    int64_t rows = fas_tensor_rows(dims, tensor), heads = fas_tensor_heads(dims, tensor);
    rows = rows > 0 ? rows : 1;
    return at->row_stride >= at->head_stride
               ? extent_of(rows, at->row_stride, heads, at->head_stride, width_bytes)
               : extent_of(heads, at->head_stride, rows, at->row_stride, width_bytes);
}

uint64_t wire_tensor_extent(const struct wire_request *request, enum fas_tensor tensor)
{
    const struct fas_dims *dims = &request->dims;
    const struct wire_tensor *at = &request->tensors[tensor];
    int64_t width =
        (int64_t)fas_tensor_width(dims, tensor) * (int64_t)fas_tensor_element_bytes(dims, tensor);
    uint64_t bytes = fas_tensor_bytes(dims, tensor);
    return at->row_stride == 0 || bytes == 0 ? bytes
                                             : (uint64_t)strided_extent(dims, tensor, at, width);
}

static enum fas_status check_strides(const struct fas_dims *dims, enum fas_tensor tensor,
                                     const struct wire_tensor *at, const char *field,
                                     struct fas_error *error)
{
    bool statistics = fas_tensor_row(tensor)->statistics;
    int64_t step = statistics ? FAS_STATISTICS_STRIDE_STEP : FAS_STRIDE_STEP;
    if (at->row_stride == 0 && at->head_stride == 0) {
        return FAS_OK;
    }
    if (fas_tensor_row(tensor)->side == FAS_SIDE_NONE) {
        return fas_fail(error, FAS_INVALID_ARGUMENT, field, "one number per head: packed");
    }
    if (at->row_stride <= 0 || at->head_stride <= 0) {
        return fas_fail(error, FAS_INVALID_ARGUMENT, field,
                        "strides %" PRId64 " and %" PRId64 ": both 0 (packed) or both positive",
                        at->row_stride, at->head_stride);
    }
    if (at->row_stride % step != 0 || at->head_stride % step != 0) {
        return fas_fail(error, FAS_INVALID_ARGUMENT, field,
                        "strides %" PRId64 " and %" PRId64 " are not multiples of %" PRId64
                        " bytes",
                        at->row_stride, at->head_stride, step);
    }
    int64_t width =
        (int64_t)fas_tensor_width(dims, tensor) * (int64_t)fas_tensor_element_bytes(dims, tensor);
    int64_t extent = strided_extent(dims, tensor, at, width);
    if (extent < 0) {
        return fas_fail(error, FAS_INVALID_ARGUMENT, field,
                        "strides %" PRId64 " and %" PRId64 " make elements of %" PRId64
                        " bytes overlap, or reach too far",
                        at->row_stride, at->head_stride, width);
    }
    return FAS_OK;
}

const char *wire_tensor_field(enum fas_tensor tensor)
{
    static const char *const fields[FAS_TENSOR_COUNT] = {
        [FAS_Q] = "tensors.q",        [FAS_K] = "tensors.k",         [FAS_V] = "tensors.v",
        [FAS_O] = "tensors.o",        [FAS_LSE] = "tensors.lse",     [FAS_DO] = "tensors.do",
        [FAS_DQ] = "tensors.dq",      [FAS_DK] = "tensors.dk",       [FAS_DV] = "tensors.dv",
        [FAS_DLSE] = "tensors.dlse",  [FAS_DELTA] = "tensors.delta", [FAS_SINK] = "tensors.sink",
        [FAS_DSINK] = "tensors.dsink"};
    return fields[tensor];
}

static enum fas_status check_tensor(const struct wire_request *request, enum fas_tensor tensor,
                                    struct fas_error *error)
{
    const struct wire_tensor *at = &request->tensors[tensor];
    const char *field = wire_tensor_field(tensor);
    bool plain =
        at->place_id == 0 && at->offset == 0 && at->row_stride == 0 && at->head_stride == 0;
    if (at->place == FAS_PLACE_INLINE) {
        return plain ? FAS_OK
                     : fas_fail(error, FAS_INVALID_ARGUMENT, field,
                                "inline, so it is packed: no place, offset or strides");
    }
    uint32_t used = wire_request_inputs(request) | wire_request_outputs(request);
    if ((used & bit(tensor)) == 0) {
        return fas_fail(error, FAS_INVALID_ARGUMENT, field, "this request has no such tensor");
    }
    if (at->place_id == 0) {
        return fas_fail(error, FAS_INVALID_ARGUMENT, field, "place id 0 is never opened");
    }
    uint32_t step =
        fas_tensor_row(tensor)->statistics ? FAS_STATISTICS_STRIDE_STEP : FAS_STRIDE_STEP;
    if (at->offset % step != 0 || at->offset > (uint64_t)FAS_EXTENT_BYTES_MAX) {
        return fas_fail(error, FAS_INVALID_ARGUMENT, field,
                        "offset %" PRIu64 " is not a multiple of %" PRIu32 " bytes, or too far",
                        at->offset, step);
    }
    return check_strides(&request->dims, tensor, at, field, error);
}

enum fas_status wire_request_check(const struct wire_request *request, struct fas_error *error)
{
    static const char *const q_fields[] = {"q.total", "q.max_len"};
    static const char *const k_fields[] = {"k.total", "k.max_len"};

    enum fas_status status = check_dims(&request->dims, error);
    if (status == FAS_OK) {
        status = check_side(&request->q, request->batch, request->dims.total_q, q_fields, error);
    }
    if (status == FAS_OK) {
        status = check_side(&request->k, request->batch, request->dims.total_k, k_fields, error);
    }
    if (status == FAS_OK) {
        status = check_mask(&request->mask, error);
    }
    if (status == FAS_OK) {
        status = check_scores(request, error);
    }
    if (status == FAS_OK) {
        status = check_pass(request, error);
    }
    for (int tensor = 0; status == FAS_OK && tensor < FAS_TENSOR_COUNT; tensor++) {
        status = check_tensor(request, (enum fas_tensor)tensor, error);
    }
    return status;
}
