/*
 * wire_request.c: REQUEST's header: each number into its range and its type here, then the rules
 * between them (wire_rules.c).
 */
#include "proto/wire.h"

#include <faserve.pb-c.h>

#include "proto/wire_codec.h"

static Faserve__V1__Side side_message(const struct wire_side *side, int64_t total)
{
    Faserve__V1__Side message = FASERVE__V1__SIDE__INIT;
    message.total = (uint64_t)total;
    message.has_cu_seqlens = side->has_cu_seqlens;
    message.has_seqused = side->has_seqused;
    message.max_len = (uint32_t)side->max_len;
    return message;
}

static bool is_plain(const struct wire_tensor *at)
{
    return at->place == FAS_PLACE_INLINE && at->place_id == 0 && at->offset == 0 &&
           at->row_stride == 0 && at->head_stride == 0;
}

/* An entry for each tensor that is not where it would be without one; returns their number. */
static size_t tensor_messages(const struct wire_tensor tensors[FAS_TENSOR_COUNT],
                              Faserve__V1__Tensor messages[FAS_TENSOR_COUNT],
                              Faserve__V1__Tensor *rows[FAS_TENSOR_COUNT])
{
    size_t count = 0;
    for (uint32_t tensor = 0; tensor < FAS_TENSOR_COUNT; tensor++) {
        const struct wire_tensor *at = &tensors[tensor];
        if (is_plain(at)) {
            continue;
        }
        Faserve__V1__Tensor message = FASERVE__V1__TENSOR__INIT;
        message.tensor = tensor;
        message.place = at->place;
        message.place_id = at->place_id;
        message.offset = at->offset;
        message.row_stride = at->row_stride;
        message.head_stride = at->head_stride;
        messages[count] = message;
        rows[count] = &messages[count];
        count++;
    }
    return count;
}

size_t wire_encode_request(const struct wire_request *request, uint8_t *out)
{
    Faserve__V1__Side q = side_message(&request->q, request->dims.total_q);
    Faserve__V1__Side k = side_message(&request->k, request->dims.total_k);
    Faserve__V1__Mask mask = FASERVE__V1__MASK__INIT;
    mask.has_left = request->mask.has_left;
    mask.has_right = request->mask.has_right;
    mask.left = (uint32_t)request->mask.left;
    mask.right = (uint32_t)request->mask.right;
    Faserve__V1__Tensor tensors[FAS_TENSOR_COUNT], *tensor_rows[FAS_TENSOR_COUNT];

    Faserve__V1__Request message = FASERVE__V1__REQUEST__INIT;
    message.pass = request->pass;
    message.dtype = request->dims.dtype;
    message.hq = (uint32_t)request->dims.hq;
    message.hkv = (uint32_t)request->dims.hkv;
    message.d = (uint32_t)request->dims.d;
    message.dv = (uint32_t)request->dims.dv;
    message.batch = (uint32_t)request->batch;
    message.q = &q;
    message.k = &k;
    message.mask = &mask;
    message.has_softmax_scale = request->has_softmax_scale;
    message.softmax_scale = request->softmax_scale;
    message.softcap = request->softcap;
    message.has_sink = request->has_sink;
    message.has_dlse = request->has_dlse;
    message.has_delta = request->has_delta;
    message.deterministic = request->deterministic;
    message.no_lse = request->no_lse;
    message.n_tensors = tensor_messages(request->tensors, tensors, tensor_rows);
    message.tensors = tensor_rows;
    message.deadline_us = request->deadline_us;
    message.priority = request->priority;
    message.retain = request->retain;
    message.handle = request->handle;
    message.wait_event = request->wait_event;
    message.done_event = request->done_event;
    return codec_encode(&message.base, out);
}

static enum fas_status check_request(const Faserve__V1__Request *message, struct fas_error *error)
{
    if (message->q == NULL || message->k == NULL) {
        return fas_fail(error, FAS_INVALID_ARGUMENT, message->q == NULL ? "q" : "k", "missing");
    }
    static const Faserve__V1__Mask no_mask = FASERVE__V1__MASK__INIT;
    const Faserve__V1__Mask *mask = message->mask == NULL ? &no_mask : message->mask;
    const struct codec_range ranges[] = {
        {"pass", message->pass, FAS_FORWARD, FAS_BACKWARD},
        {"dtype", message->dtype, 0, FAS_DTYPE_COUNT - 1},
        {"hq", message->hq, 1, FAS_HEADS_MAX},
        {"hkv", message->hkv, 1, FAS_HEADS_MAX},
        {"d", message->d, FAS_HEAD_DIM_MIN, FAS_HEAD_DIM_MAX},
        {"dv", message->dv, FAS_HEAD_DIM_MIN, FAS_HEAD_DIM_MAX},
        {"batch", message->batch, 1, FAS_SEQUENCES_MAX},
        {"q.total", message->q->total, 0, FAS_ROWS_MAX},
        {"k.total", message->k->total, 0, FAS_ROWS_MAX},
        {"q.max_len", message->q->max_len, 0, FAS_ROWS_MAX},
        {"k.max_len", message->k->max_len, 0, FAS_ROWS_MAX},
        {"mask.left", mask->left, 0, INT32_MAX},
        {"mask.right", mask->right, 0, INT32_MAX},
        {"deadline_us", message->deadline_us, 0, FAS_DEADLINE_US_MAX},
        {"priority", message->priority, 0, FAS_PRIORITY_MAX},
        {"wait_event", message->wait_event, 0, FAS_PLACE_ID_MAX},
        {"done_event", message->done_event, 0, FAS_PLACE_ID_MAX},
    };
    return codec_check(ranges, COUNT(ranges), error);
}

static enum fas_status read_tensors(const Faserve__V1__Request *message,
                                    struct wire_tensor tensors[FAS_TENSOR_COUNT],
                                    struct fas_error *error)
{
    uint32_t seen = 0;
    for (size_t i = 0; i < message->n_tensors; i++) {
        const Faserve__V1__Tensor *entry = message->tensors[i];
        const struct codec_range ranges[] = {
            {"tensors.tensor", entry->tensor, 0, FAS_TENSOR_COUNT - 1},
            {"tensors.place", entry->place, 0, FAS_PLACE_COUNT - 1},
            {"tensors.place_id", entry->place_id, 0, FAS_PLACE_ID_MAX},
        };
        enum fas_status status = codec_check(ranges, COUNT(ranges), error);
        if (status != FAS_OK) {
            return status;
        }
        if ((seen & (1u << entry->tensor)) != 0) {
            return fas_fail(error, FAS_INVALID_ARGUMENT, "tensors.tensor", "two entries for %s",
                            fas_tensor_row((enum fas_tensor)entry->tensor)->name);
        }
        seen |= 1u << entry->tensor;
        tensors[entry->tensor] = (struct wire_tensor){.place = (enum fas_place)entry->place,
                                                      .place_id = entry->place_id,
                                                      .offset = entry->offset,
                                                      .row_stride = entry->row_stride,
                                                      .head_stride = entry->head_stride};
    }
    return FAS_OK;
}

static void read_side(const Faserve__V1__Side *message, struct wire_side *side, int64_t *total)
{
    *side = (struct wire_side){message->has_cu_seqlens, message->has_seqused,
                               (int32_t)message->max_len};
    *total = (int64_t)message->total;
}

static enum fas_status read_request(const void *in, void *out, struct fas_error *error)
{
    const Faserve__V1__Request *message = in;
    struct wire_request *request = out;
    enum fas_status status = check_request(message, error);
    if (status != FAS_OK) {
        return status;
    }
    *request = (struct wire_request){
        .pass = (enum fas_pass)message->pass,
        .dims = {.dtype = (enum fas_dtype)message->dtype,
                 .hq = (int32_t)message->hq,
                 .hkv = (int32_t)message->hkv,
                 .d = (int32_t)message->d,
                 .dv = (int32_t)message->dv},
        .batch = (int32_t)message->batch,
        .has_softmax_scale = message->has_softmax_scale,
        .softmax_scale = message->softmax_scale,
        .softcap = message->softcap,
        .has_sink = message->has_sink,
        .has_dlse = message->has_dlse,
        .has_delta = message->has_delta,
        .deterministic = message->deterministic,
        .no_lse = message->no_lse,
        .deadline_us = message->deadline_us,
        .priority = message->priority,
        .retain = message->retain,
        .handle = message->handle,
        .wait_event = message->wait_event,
        .done_event = message->done_event,
    };
    read_side(message->q, &request->q, &request->dims.total_q);
    read_side(message->k, &request->k, &request->dims.total_k);
    if (message->mask != NULL) {
        request->mask =
            (struct wire_mask){message->mask->has_left, message->mask->has_right,
                               (int32_t)message->mask->left, (int32_t)message->mask->right};
    }
    status = read_tensors(message, request->tensors, error);
    return status == FAS_OK ? wire_request_check(request, error) : status;
}

enum fas_status wire_decode_request(const uint8_t *in, size_t bytes, struct wire_request *request,
                                    struct fas_error *error)
{
    return codec_decode(&faserve__v1__request__descriptor, in, bytes, read_request, request, error);
}
