/*
 * wire_lengths.c: the length arrays of a request, the payload of REQUEST. They are read where they
 * lie, so this is the only check they get: after it no sequence reaches outside its tensors.
 */
#include "proto/wire.h"

#include <assert.h>
#include <inttypes.h>

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "lengths are used in place, as sent");

uint32_t wire_lengths_bytes(const struct wire_request *request)
{
    uint32_t batch = (uint32_t)request->batch;
    uint32_t cu_seqlens = (uint32_t)request->q.has_cu_seqlens + (uint32_t)request->k.has_cu_seqlens;
    uint32_t seqused = (uint32_t)request->q.has_seqused + (uint32_t)request->k.has_seqused;
    return (uint32_t)sizeof(int32_t) * (cu_seqlens * (batch + 1) + seqused * batch);
}

/* cu[0] = 0, never falling, cu[batch] = total. Finds the longest sequence on the way. */
static enum fas_status check_cu_seqlens(const int32_t *cu, int32_t batch, int64_t total,
                                        const char *field, int32_t *max_len,
                                        struct fas_error *error)
{
    if (cu[0] != 0) {
        return fas_fail(error, FAS_INVALID_ARGUMENT, field, "starts at %" PRId32 ", not at 0",
                        cu[0]);
    }
    *max_len = 0;
    for (int32_t i = 0; i < batch; i++) {
        if (cu[i + 1] < cu[i]) {
            return fas_fail(error, FAS_INVALID_ARGUMENT, field,
                            "falls from %" PRId32 " to %" PRId32 " at sequence %" PRId32, cu[i],
                            cu[i + 1], i);
        }
        int32_t len = cu[i + 1] - cu[i]; /* both are >= 0 here */
        *max_len = len > *max_len ? len : *max_len;
    }
    if (cu[batch] != total) {
        return fas_fail(error, FAS_INVALID_ARGUMENT, field,
                        "ends at %" PRId32 ", not at the total of %" PRId64, cu[batch], total);
    }
    return FAS_OK;
}

static struct wire_span span_of(const int32_t *cu, const int32_t *seqused, int32_t max_len,
                                int32_t sequence)
{
    struct wire_span span = {(int64_t)sequence * max_len, max_len, max_len};
    if (cu != NULL) {
        span.first = cu[sequence];
        span.span = cu[sequence + 1] - cu[sequence];
    }
    span.len = seqused != NULL ? seqused[sequence] : span.span;
    return span;
}

struct wire_span wire_span_q(const struct wire_lengths *lengths, int32_t sequence)
{
    assert(sequence >= 0 && sequence < lengths->batch);
    return span_of(lengths->cu_seqlens_q, lengths->seqused_q, lengths->max_len_q, sequence);
}

struct wire_span wire_span_k(const struct wire_lengths *lengths, int32_t sequence)
{
    assert(sequence >= 0 && sequence < lengths->batch);
    return span_of(lengths->cu_seqlens_k, lengths->seqused_k, lengths->max_len_k, sequence);
}

/* 0 <= seqused[i] <= the rows sequence i has. */
static enum fas_status check_seqused(const int32_t *cu, const int32_t *seqused, int32_t max_len,
                                     int32_t batch, const char *field, struct fas_error *error)
{
    for (int32_t i = 0; i < batch; i++) {
        struct wire_span span = span_of(cu, seqused, max_len, i);
        if (span.len < 0 || span.len > span.span) {
            return fas_fail(error, FAS_INVALID_ARGUMENT, field,
                            "%" PRId32 " at sequence %" PRId32 ", which has %" PRId32 " rows",
                            span.len, i, span.span);
        }
    }
    return FAS_OK;
}

/* The next array of the payload, or NULL when the request does not have it. */
static const int32_t *take_array(const int32_t **at, bool has, int32_t count)
{
    if (!has) {
        return NULL;
    }
    const int32_t *array = *at;
    *at += count;
    return array;
}

static enum fas_status check_side(const struct wire_side *side, const int32_t *cu,
                                  const int32_t *seqused, int32_t batch, int64_t total,
                                  const char *const fields[2], int32_t *max_len,
                                  struct fas_error *error)
{
    *max_len = side->max_len;
    enum fas_status status = FAS_OK;
    if (cu != NULL) {
        status = check_cu_seqlens(cu, batch, total, fields[0], max_len, error);
    }
    if (status == FAS_OK && seqused != NULL) {
        status = check_seqused(cu, seqused, *max_len, batch, fields[1], error);
    }
    return status;
}

enum fas_status wire_lengths_decode(const struct wire_request *request, const void *payload,
                                    uint64_t payload_bytes, struct wire_lengths *lengths,
                                    struct fas_error *error)
{
    static const char *const q_fields[] = {"cu_seqlens_q", "seqused_q"};
    static const char *const k_fields[] = {"cu_seqlens_k", "seqused_k"};

    if (payload_bytes != wire_lengths_bytes(request)) {
        return fas_fail(error, FAS_INVALID_ARGUMENT, "lengths",
                        "%" PRIu64 " bytes, this request's arrays have %" PRIu32, payload_bytes,
                        wire_lengths_bytes(request));
    }
    assert((uintptr_t)payload % sizeof(int32_t) == 0);

    const int32_t *at = payload;
    int32_t batch = request->batch;
    lengths->batch = batch;
    lengths->cu_seqlens_q = take_array(&at, request->q.has_cu_seqlens, batch + 1);
    lengths->cu_seqlens_k = take_array(&at, request->k.has_cu_seqlens, batch + 1);
    lengths->seqused_q = take_array(&at, request->q.has_seqused, batch);
    lengths->seqused_k = take_array(&at, request->k.has_seqused, batch);

    enum fas_status status =
        check_side(&request->q, lengths->cu_seqlens_q, lengths->seqused_q, batch,
                   request->dims.total_q, q_fields, &lengths->max_len_q, error);
    if (status != FAS_OK) {
        return status;
    }
    return check_side(&request->k, lengths->cu_seqlens_k, lengths->seqused_k, batch,
                      request->dims.total_k, k_fields, &lengths->max_len_k, error);
}
