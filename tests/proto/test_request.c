/*
 * test_request.c: REQUEST there and back, which tensors it takes and gives, and one row for every
 * rule it can break: what is changed in a good request, and the field the error must name.
 */
#include "proto/wire.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <faserve.pb-c.h>

#include "tests/proto/check_error.h"
#include "tests/proto/samples.h"

static uint8_t out[FAS_HEADER_BYTES_MAX];

enum base { FORWARD, BACKWARD, HANDLE };

/* A struct of the message that is changed. TENSOR: the entry of k, in place, of the backward. */
enum part { NOTHING, REQUEST, Q, K, MASK, TENSOR };

struct change {
    enum part part;
    size_t offset, bytes;
    uint64_t value;
};

#define SET(part, type, field, value)                                                              \
    {                                                                                              \
        part, offsetof(Faserve__V1__##type, field), sizeof(((Faserve__V1__##type *)0)->field),     \
            value                                                                                  \
    }
#define R(field, value) SET(REQUEST, Request, field, value)
#define QS(field, value) SET(Q, Side, field, value)
#define KS(field, value) SET(K, Side, field, value)
#define M(field, value) SET(MASK, Mask, field, value)
#define T(field, value) SET(TENSOR, Tensor, field, value)

#define NAN_BITS 0x7fc00000u
#define INFINITY_BITS 0x7f800000u
#define MINUS_ONE_BITS 0xbf800000u

static const struct {
    enum base base;
    const char *field; /* NULL: is accepted */
    struct change changes[3];
} rows[] = {
    {FORWARD, NULL, {{NOTHING, 0, 0, 0}}},
    {BACKWARD, NULL, {{NOTHING, 0, 0, 0}}},
    {HANDLE, NULL, {{NOTHING, 0, 0, 0}}},
    {FORWARD, "pass", {R(pass, 2)}},
    {FORWARD, "pass", {R(pass, UINT32_MAX)}},
    {FORWARD, "dtype", {R(dtype, FAS_DTYPE_COUNT)}},
    {FORWARD, "dtype", {R(dtype, 0x80000000u)}},

    /* heads and dims */
    {FORWARD, "hq", {R(hq, 0)}},
    {FORWARD, "hq", {R(hq, FAS_HEADS_MAX + 1)}},
    {FORWARD, "hq", {R(hq, UINT32_MAX)}},
    {FORWARD, "hq", {R(hq, 7)}},
    {FORWARD, "hq", {R(hq, 1)}},
    {FORWARD, "hkv", {R(hkv, 0)}},
    {FORWARD, "hkv", {R(hkv, FAS_HEADS_MAX + 1)}},
    {FORWARD, "d", {R(d, 0)}},
    {FORWARD, "d", {R(d, 4)}},
    {FORWARD, "d", {R(d, 60)}},
    {FORWARD, "d", {R(d, 264)}},
    {FORWARD, "d", {R(d, UINT32_MAX - 7)}},
    {FORWARD, "dv", {R(dv, 0)}},
    {FORWARD, "dv", {R(dv, 129)}},
    {FORWARD, "dv", {R(dv, 512)}},
    {FORWARD, NULL, {R(d, 8), R(dv, 256)}},

    /* sequences and rows */
    {FORWARD, "batch", {R(batch, 0)}},
    {FORWARD, "batch", {R(batch, 1000000)}},
    {FORWARD, "batch", {R(batch, UINT32_MAX)}},
    {FORWARD, NULL, {R(batch, FAS_SEQUENCES_MAX), KS(max_len, 0), KS(total, 0)}},
    {FORWARD, "q.total", {QS(total, FAS_ROWS_MAX + 1)}},
    {FORWARD, "q.total", {QS(total, UINT64_MAX)}},
    {FORWARD, NULL, {QS(total, FAS_ROWS_MAX)}},
    {FORWARD, NULL, {QS(total, 0)}},
    {FORWARD, "q.max_len", {QS(max_len, 1)}},
    {FORWARD, "q.total", {QS(has_cu_seqlens, 0)}},
    {FORWARD, "k.total", {KS(total, 61)}},
    {FORWARD, "k.total", {KS(total, 0)}},
    {FORWARD, "k.max_len", {KS(max_len, UINT32_MAX)}},
    {FORWARD, "k.max_len", {KS(has_cu_seqlens, 1)}},
    {FORWARD, "k.total", {R(batch, 65536), KS(max_len, 65536), KS(total, 0)}}, /* 0 in 32 bits */
    {FORWARD, "k.total", {R(batch, 65536), KS(max_len, 65536), KS(total, UINT64_C(1) << 32)}},

    /* mask */
    {BACKWARD, "mask.left", {M(left, 0x80000000u)}},
    {BACKWARD, "mask.right", {M(right, UINT32_MAX)}},
    {BACKWARD, "mask.left", {M(has_left, 0)}},
    {BACKWARD, "mask.right", {M(has_right, 0)}},
    {BACKWARD, NULL, {M(left, INT32_MAX), M(right, INT32_MAX)}},
    {BACKWARD, NULL, {M(left, 0), M(has_left, 0)}},

    /* scores */
    {FORWARD, "softmax_scale", {R(softmax_scale, NAN_BITS)}},
    {FORWARD, "softmax_scale", {R(softmax_scale, INFINITY_BITS)}},
    {FORWARD, "softmax_scale", {R(softmax_scale, MINUS_ONE_BITS)}},
    {FORWARD, "softmax_scale", {R(softmax_scale, 0)}},
    {FORWARD, "softmax_scale", {R(has_softmax_scale, 0)}},
    {FORWARD, "softmax_scale", {R(has_softmax_scale, 0), R(softmax_scale, NAN_BITS)}},
    {FORWARD, "softcap", {R(softcap, NAN_BITS)}},
    {FORWARD, "softcap", {R(softcap, INFINITY_BITS)}},
    {FORWARD, "softcap", {R(softcap, MINUS_ONE_BITS)}},
    {FORWARD, NULL, {R(softcap, 0)}},

    /* what goes with which pass */
    {FORWARD, "has_dlse", {R(has_dlse, 1)}},
    {FORWARD, "has_delta", {R(has_delta, 1)}},
    {FORWARD, "handle", {R(handle, 1)}},
    {BACKWARD, "retain", {R(retain, 1)}},
    {BACKWARD, "no_lse", {R(no_lse, 1)}},
    {HANDLE, "has_delta", {R(has_delta, 1)}},
    {FORWARD, NULL, {R(deterministic, 1)}},

    /* the rest */
    {FORWARD, "deadline_us", {R(deadline_us, UINT64_MAX)}},
    {FORWARD, "priority", {R(priority, 3)}},
    {BACKWARD, "wait_event", {R(wait_event, FAS_PLACE_ID_MAX + 1)}},
    {BACKWARD, "done_event", {R(done_event, UINT32_MAX)}},

    /* tensors in place: k, 700 rows of 4 heads of 96 bf16 (192 bytes), heads outermost */
    {BACKWARD, "tensors.tensor", {T(tensor, FAS_TENSOR_COUNT)}},
    {BACKWARD, "tensors.tensor", {T(tensor, UINT32_MAX)}},
    {BACKWARD, "tensors.tensor", {T(tensor, FAS_Q)}}, /* there is one already */
    {BACKWARD, "tensors.o", {T(tensor, FAS_O)}},      /* delta comes in its place */
    {BACKWARD, "tensors.sink", {T(tensor, FAS_SINK)}},
    {BACKWARD, "tensors.place", {T(place, FAS_PLACE_COUNT)}},
    {BACKWARD, "tensors.place_id", {T(place_id, FAS_PLACE_ID_MAX + 1)}},
    {BACKWARD, "tensors.k", {T(place_id, 0)}},
    {BACKWARD, "tensors.k", {T(place, FAS_PLACE_INLINE)}},
    {BACKWARD, "tensors.k", {T(offset, 8)}},
    {BACKWARD, "tensors.k", {T(offset, UINT64_MAX - 15)}},
    {BACKWARD, "tensors.k", {T(row_stride, 0)}},
    {BACKWARD, "tensors.k", {T(head_stride, 0)}},
    {BACKWARD, NULL, {T(row_stride, 0), T(head_stride, 0)}},
    {BACKWARD, "tensors.k", {T(row_stride, (uint64_t)-192)}},
    {BACKWARD, "tensors.k", {T(head_stride, (uint64_t)INT64_MIN)}},
    {BACKWARD, "tensors.k", {T(row_stride, 200)}},
    {BACKWARD, "tensors.k", {T(head_stride, 700 * 192 + 8)}},
    {BACKWARD, "tensors.k", {T(row_stride, 176)}},                           /* rows overlap */
    {BACKWARD, "tensors.k", {T(head_stride, 700 * 192 - 16)}},               /* heads overlap */
    {BACKWARD, NULL, {T(head_stride, 699 * 208 + 192), T(row_stride, 208)}}, /* just not */
    {BACKWARD, "tensors.k", {T(head_stride, 699 * 208 + 176), T(row_stride, 208)}},
    {BACKWARD, "tensors.k", {T(head_stride, UINT64_C(1) << 62)}}, /* 3 of these overflow */
    {BACKWARD, "tensors.k", {T(row_stride, UINT64_C(1) << 60), T(head_stride, 192)}},
    {BACKWARD, "tensors.k", {T(head_stride, (UINT64_C(1) << 55) + 16)}}, /* too far */
    {BACKWARD, NULL, {T(row_stride, 4 * 192), T(head_stride, 192)}},     /* rows outermost */
    {BACKWARD, "tensors.k", {T(row_stride, 4 * 192 - 16), T(head_stride, 192)}},
};

static void apply(const struct change *change, Faserve__V1__Request *message)
{
    uint8_t *parts[] = {[REQUEST] = (uint8_t *)message,
                        [Q] = (uint8_t *)message->q,
                        [K] = (uint8_t *)message->k,
                        [MASK] = (uint8_t *)message->mask,
                        [TENSOR] = NULL};
    for (size_t i = 0; i < message->n_tensors; i++) {
        if (message->tensors[i]->tensor == FAS_K) {
            parts[TENSOR] = (uint8_t *)message->tensors[i];
        }
    }
    if (change->part != NOTHING) {
        memcpy(parts[change->part] + change->offset, &change->value, change->bytes);
    }
}

static struct wire_request request_of(enum base base)
{
    switch (base) {
    case FORWARD:
        return sample_forward();
    case BACKWARD:
        return sample_backward();
    case HANDLE:
        break;
    }
    return sample_handle();
}

START_TEST(each_rule_is_kept_and_named)
{
    struct wire_request request = request_of(rows[_i].base), got;
    size_t bytes = wire_encode_request(&request, out);
    Faserve__V1__Request *message = faserve__v1__request__unpack(NULL, bytes, out);
    for (size_t i = 0; i < COUNT_OF(rows[_i].changes); i++) {
        apply(&rows[_i].changes[i], message);
    }
    bytes = faserve__v1__request__pack(message, out);
    faserve__v1__request__free_unpacked(message, NULL);

    struct fas_error error = fresh_error();
    enum fas_status status = wire_decode_request(out, bytes, &got, &error);
    if (rows[_i].field != NULL) {
        check_error(status, &error, FAS_INVALID_ARGUMENT, rows[_i].field);
    } else {
        ck_assert_msg(status == FAS_OK, "row %d: %s: %s", _i, error.field, error.text);
    }
}
END_TEST

START_TEST(a_side_must_be_there)
{
    Faserve__V1__Request message = FASERVE__V1__REQUEST__INIT;
    Faserve__V1__Side side = FASERVE__V1__SIDE__INIT;
    struct wire_request got;
    struct fas_error error = fresh_error();
    size_t bytes = faserve__v1__request__pack(&message, out);
    check_error(wire_decode_request(out, bytes, &got, &error), &error, FAS_INVALID_ARGUMENT, "q");
    message.q = &side;
    bytes = faserve__v1__request__pack(&message, out);
    error = fresh_error();
    check_error(wire_decode_request(out, bytes, &got, &error), &error, FAS_INVALID_ARGUMENT, "k");
}
END_TEST

static void check_side(const struct wire_side *a, const struct wire_side *b)
{
    ck_assert_int_eq(a->has_cu_seqlens, b->has_cu_seqlens);
    ck_assert_int_eq(a->has_seqused, b->has_seqused);
    ck_assert_int_eq(a->max_len, b->max_len);
}

static void check_same(const struct wire_request *a, const struct wire_request *b)
{
    ck_assert_int_eq(a->pass, b->pass);
    ck_assert_int_eq(a->dims.dtype, b->dims.dtype);
    ck_assert_int_eq(a->dims.hq, b->dims.hq);
    ck_assert_int_eq(a->dims.hkv, b->dims.hkv);
    ck_assert_int_eq(a->dims.d, b->dims.d);
    ck_assert_int_eq(a->dims.dv, b->dims.dv);
    ck_assert_int_eq(a->dims.total_q, b->dims.total_q);
    ck_assert_int_eq(a->dims.total_k, b->dims.total_k);
    ck_assert_int_eq(a->batch, b->batch);
    check_side(&a->q, &b->q);
    check_side(&a->k, &b->k);
    ck_assert_int_eq(a->mask.has_left, b->mask.has_left);
    ck_assert_int_eq(a->mask.has_right, b->mask.has_right);
    ck_assert_int_eq(a->mask.left, b->mask.left);
    ck_assert_int_eq(a->mask.right, b->mask.right);
    ck_assert_int_eq(a->has_softmax_scale, b->has_softmax_scale);
    ck_assert(a->softmax_scale == b->softmax_scale);
    ck_assert(a->softcap == b->softcap);
    ck_assert_int_eq(a->has_sink, b->has_sink);
    ck_assert_int_eq(a->has_dlse, b->has_dlse);
    ck_assert_int_eq(a->has_delta, b->has_delta);
    ck_assert_int_eq(a->deterministic, b->deterministic);
    ck_assert_int_eq(a->no_lse, b->no_lse);
    ck_assert_uint_eq(a->deadline_us, b->deadline_us);
    ck_assert_uint_eq(a->priority, b->priority);
    ck_assert_int_eq(a->retain, b->retain);
    ck_assert_uint_eq(a->handle, b->handle);
    ck_assert_uint_eq(a->wait_event, b->wait_event);
    ck_assert_uint_eq(a->done_event, b->done_event);
    for (int i = 0; i < FAS_TENSOR_COUNT; i++) {
        ck_assert_int_eq(a->tensors[i].place, b->tensors[i].place);
        ck_assert_uint_eq(a->tensors[i].place_id, b->tensors[i].place_id);
        ck_assert_uint_eq(a->tensors[i].offset, b->tensors[i].offset);
        ck_assert_int_eq(a->tensors[i].row_stride, b->tensors[i].row_stride);
        ck_assert_int_eq(a->tensors[i].head_stride, b->tensors[i].head_stride);
    }
}

START_TEST(requests_there_and_back)
{
    struct wire_request sent = request_of((enum base)_i), got;
    struct fas_error error = fresh_error();
    size_t bytes = wire_encode_request(&sent, out);
    ck_assert_int_eq(wire_decode_request(out, bytes, &got, &error), FAS_OK);
    check_same(&sent, &got);
    ck_assert_int_eq(wire_request_check(&sent, NULL), FAS_OK);
}
END_TEST

static uint32_t set_of(const char *names)
{
    uint32_t set = 0;
    char copy[128], *rest = copy, *name;
    snprintf(copy, sizeof copy, "%s", names);
    while ((name = strsep(&rest, " ")) != NULL) {
        for (int i = 0; i < FAS_TENSOR_COUNT; i++) {
            if (strcmp(name, fas_tensor_row((enum fas_tensor)i)->name) == 0) {
                set |= 1u << i;
            }
        }
    }
    return set;
}

START_TEST(what_a_request_takes_and_gives)
{
    const struct {
        struct wire_request request;
        const char *inputs, *outputs;
    } cases[] = {
        {{.pass = FAS_FORWARD}, "q k v", "o lse"},
        {{.pass = FAS_FORWARD, .no_lse = true}, "q k v", "o"},
        {{.pass = FAS_FORWARD, .has_sink = true}, "q k v sink", "o lse"},
        {{.pass = FAS_BACKWARD}, "q k v o lse do", "dq dk dv"},
        {{.pass = FAS_BACKWARD, .has_delta = true}, "q k v delta lse do", "dq dk dv"},
        {{.pass = FAS_BACKWARD, .has_dlse = true, .has_sink = true},
         "q k v o lse do dlse sink",
         "dq dk dv dsink"},
        {{.pass = FAS_BACKWARD, .handle = 9}, "do", "dq dk dv"},
        {{.pass = FAS_BACKWARD, .handle = 9, .has_dlse = true, .has_sink = true},
         "do dlse",
         "dq dk dv dsink"},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        ck_assert_uint_eq(wire_request_inputs(&cases[i].request), set_of(cases[i].inputs));
        ck_assert_uint_eq(wire_request_outputs(&cases[i].request), set_of(cases[i].outputs));
    }
}
END_TEST

/* One head or one row has no stride to be wrong: callers pass what their library reports. */
START_TEST(the_stride_of_a_single_head_or_row_is_free)
{
    struct wire_request request = sample_backward();
    request.dims.hkv = 1;
    request.tensors[FAS_K].row_stride = 192;
    request.tensors[FAS_K].head_stride = 16;
    ck_assert_int_eq(wire_request_check(&request, NULL), FAS_OK);
    request.tensors[FAS_K].head_stride = INT64_C(1) << 55;
    ck_assert_int_eq(wire_request_check(&request, NULL), FAS_OK);
    request = sample_backward();
    request.dims.total_k = 1;
    request.tensors[FAS_K].row_stride = 16;
    ck_assert_int_eq(wire_request_check(&request, NULL), FAS_OK);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("request");
    TCase *tcase = tcase_create("request");
    tcase_add_loop_test(tcase, each_rule_is_kept_and_named, 0, COUNT_OF(rows));
    tcase_add_test(tcase, a_side_must_be_there);
    tcase_add_loop_test(tcase, requests_there_and_back, FORWARD, HANDLE + 1);
    tcase_add_test(tcase, what_a_request_takes_and_gives);
    tcase_add_test(tcase, the_stride_of_a_single_head_or_row_is_free);
    suite_add_tcase(suite, tcase);
    return run_suite(suite);
}
