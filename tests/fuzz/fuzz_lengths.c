/*
 * fuzz_lengths.c: a small head describes a request's two sides, the rest is the payload of its
 * length arrays. What decodes keeps every sequence inside its tensor, apart from its neighbours,
 * and writes back to the same payload.
 */
#include "tests/fuzz/fuzz.h"

#include <string.h>

#include "proto/wire.h"

/* Little-endian, in this order, 16 bytes. */
struct head {
    uint16_t batch;
    uint8_t flags; /* cu_seqlens_q, cu_seqlens_k, seqused_q, seqused_k */
    uint8_t unused;
    uint32_t total_q, total_k;
    uint16_t max_len_q, max_len_k;
};

enum { CU_Q = 1, CU_K = 2, USED_Q = 4, USED_K = 8 };

static void describe(const struct head *head, struct wire_request *request)
{
    *request = (struct wire_request){.batch = head->batch == 0 ? 1 : head->batch};
    request->q.has_cu_seqlens = head->flags & CU_Q;
    request->k.has_cu_seqlens = head->flags & CU_K;
    request->q.has_seqused = head->flags & USED_Q;
    request->k.has_seqused = head->flags & USED_K;
    request->q.max_len = request->q.has_cu_seqlens ? 0 : head->max_len_q;
    request->k.max_len = request->k.has_cu_seqlens ? 0 : head->max_len_k;
    request->dims.total_q = request->q.has_cu_seqlens
                                ? head->total_q % (FAS_ROWS_MAX + 1)
                                : (int64_t)request->batch * request->q.max_len;
    request->dims.total_k = request->k.has_cu_seqlens
                                ? head->total_k % (FAS_ROWS_MAX + 1)
                                : (int64_t)request->batch * request->k.max_len;
}

/* Spans of one side lie one after the other, all inside the tensor. */
static void check_spans(const struct wire_lengths *lengths, int64_t total,
                        struct wire_span (*span_of)(const struct wire_lengths *, int32_t))
{
    int64_t end = 0;
    for (int32_t i = 0; i < lengths->batch; i++) {
        struct wire_span span = span_of(lengths, i);
        must(span.first == end, "a span begins where the last one ended");
        must(span.len >= 0 && span.len <= span.span, "a sequence fits its span");
        end = span.first + span.span;
    }
    must(end == total, "spans cover the tensor");
}

/* The payload again, from the spans alone. */
static size_t write_back(const struct wire_request *request, const struct wire_lengths *lengths,
                         int32_t *out)
{
    int32_t *at = out, batch = lengths->batch;
    for (int side = 0; side < 2; side++) {
        bool has = side == 0 ? request->q.has_cu_seqlens : request->k.has_cu_seqlens;
        for (int32_t i = 0; has && i < batch; i++) {
            struct wire_span span = side == 0 ? wire_span_q(lengths, i) : wire_span_k(lengths, i);
            *at++ = (int32_t)span.first;
        }
        if (has) {
            *at++ = (int32_t)(side == 0 ? request->dims.total_q : request->dims.total_k);
        }
    }
    for (int side = 0; side < 2; side++) {
        bool has = side == 0 ? request->q.has_seqused : request->k.has_seqused;
        for (int32_t i = 0; has && i < batch; i++) {
            *at++ = (side == 0 ? wire_span_q(lengths, i) : wire_span_k(lengths, i)).len;
        }
    }
    return (size_t)(at - out) * sizeof *at;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    static int32_t again[FAS_LENGTHS_BYTES_MAX / 4];
    struct head head;
    if (bytes < sizeof head || bytes - sizeof head > sizeof again) {
        return 0;
    }
    memcpy(&head, data, sizeof head);
    bytes -= sizeof head;
    const uint8_t *payload = data + sizeof head; /* aligned as malloc gave it, 16 further */

    struct wire_request request;
    describe(&head, &request);
    struct wire_lengths lengths;
    struct fas_error error = {.status = FAS_OK};
    enum fas_status status = wire_lengths_decode(&request, payload, bytes, &lengths, &error);
    if (status != FAS_OK) {
        must(error.status == status && error.field[0] != '\0', "the error names an array");
        return 0;
    }
    check_spans(&lengths, request.dims.total_q, wire_span_q);
    check_spans(&lengths, request.dims.total_k, wire_span_k);
    must(write_back(&request, &lengths, again) == bytes, "the payload has its length");
    must(memcmp(payload, again, bytes) == 0, "the payload is written back");
    return 0;
}
