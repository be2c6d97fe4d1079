/*
 * test_lengths.c: the length arrays of a request. Good ones give the spans they mean, for every mix
 * of cu_seqlens and seqused; bad ones are refused by the name of their array.
 */
#include <string.h>

#include "proto/wire.h"
#include "tests/proto/check_error.h"

enum { BATCH = 4 };

/* 4 sequences on q, 10 rows; 4 on k, 12 rows; the second of each is empty. */
static const int32_t cu_q[BATCH + 1] = {0, 3, 3, 9, 10}, cu_k[BATCH + 1] = {0, 5, 5, 6, 12};
static const int32_t used_q[BATCH] = {3, 0, 0, 1}, used_k[BATCH] = {4, 0, 1, 6};

static int32_t payload[4 * (BATCH + 1)];

static struct wire_request request_of(bool cu_on_q, bool cu_on_k, bool used_on_q, bool used_on_k)
{
    struct wire_request request = {
        .batch = BATCH,
        .dims = {.total_q = cu_on_q ? 10 : BATCH * 5, .total_k = cu_on_k ? 12 : BATCH * 6}};
    request.q = (struct wire_side){cu_on_q, used_on_q, cu_on_q ? 0 : 5};
    request.k = (struct wire_side){cu_on_k, used_on_k, cu_on_k ? 0 : 6};
    return request;
}

static int32_t *add(int32_t *at, bool has, const int32_t *array, size_t count)
{
    memcpy(at, array, has ? count * sizeof *array : 0);
    return at + (has ? count : 0);
}

/* The payload as the protocol orders it; returns its bytes. */
static uint64_t write_payload(const struct wire_request *request)
{
    int32_t *at = payload;
    at = add(at, request->q.has_cu_seqlens, cu_q, BATCH + 1);
    at = add(at, request->k.has_cu_seqlens, cu_k, BATCH + 1);
    at = add(at, request->q.has_seqused, used_q, BATCH);
    at = add(at, request->k.has_seqused, used_k, BATCH);
    return (uint64_t)(at - payload) * sizeof *at;
}

static void check_span(struct wire_span span, const int32_t *cu, const int32_t *used, int32_t max,
                       int i)
{
    int32_t rows = cu != NULL ? cu[i + 1] - cu[i] : max;
    ck_assert_int_eq(span.first, cu != NULL ? cu[i] : i * max);
    ck_assert_int_eq(span.span, rows);
    ck_assert_int_eq(span.len, used != NULL ? used[i] : rows);
}

START_TEST(every_mix_gives_its_spans)
{
    bool cu_on_q = _i & 1, cu_on_k = _i & 2, used_on_q = _i & 4, used_on_k = _i & 8;
    struct wire_request request = request_of(cu_on_q, cu_on_k, used_on_q, used_on_k);
    uint64_t bytes = write_payload(&request);
    ck_assert_uint_eq(wire_lengths_bytes(&request), bytes);
    struct wire_lengths lengths;
    struct fas_error error = fresh_error();
    ck_assert_int_eq(wire_lengths_decode(&request, payload, bytes, &lengths, &error), FAS_OK);
    ck_assert_int_eq(lengths.batch, BATCH);
    ck_assert_int_eq(lengths.max_len_q, cu_on_q ? 6 : 5);
    ck_assert_int_eq(lengths.max_len_k, 6);
    for (int i = 0; i < BATCH; i++) {
        check_span(wire_span_q(&lengths, i), cu_on_q ? cu_q : NULL, used_on_q ? used_q : NULL, 5,
                   i);
        check_span(wire_span_k(&lengths, i), cu_on_k ? cu_k : NULL, used_on_k ? used_k : NULL, 6,
                   i);
    }
}
END_TEST

/* All four arrays; `index` into the payload gets `value`. */
static const struct {
    int index;
    int32_t value;
    const char *field;
} bad[] = {
    {0, 1, "cu_seqlens_q"},                                  /* does not start at 0 */
    {0, -1, "cu_seqlens_q"},        {1, 10, "cu_seqlens_q"}, /* falls after */
    {2, 2, "cu_seqlens_q"},                                  /* falls */
    {2, INT32_MIN, "cu_seqlens_q"}, {2, INT32_MAX, "cu_seqlens_q"},
    {4, 9, "cu_seqlens_q"},  /* ends before the total */
    {4, 11, "cu_seqlens_q"}, /* ends past the total */
    {4, INT32_MAX, "cu_seqlens_q"}, {5, 5, "cu_seqlens_k"},
    {8, 4, "cu_seqlens_k"},         {9, 11, "cu_seqlens_k"},
    {10, 4, "seqused_q"}, /* more than the 3 rows there are */
    {11, 1, "seqused_q"}, /* of an empty sequence */
    {12, -1, "seqused_q"},          {13, INT32_MAX, "seqused_q"},
    {14, 6, "seqused_k"},           {17, INT32_MIN, "seqused_k"},
    {17, 7, "seqused_k"},
};

START_TEST(bad_arrays_are_refused_by_name)
{
    struct wire_request request = request_of(true, true, true, true);
    uint64_t bytes = write_payload(&request);
    payload[bad[_i].index] = bad[_i].value;
    struct wire_lengths lengths;
    struct fas_error error = fresh_error();
    check_error(wire_lengths_decode(&request, payload, bytes, &lengths, &error), &error,
                FAS_INVALID_ARGUMENT, bad[_i].field);
}
END_TEST

START_TEST(seqused_of_a_padded_side_stays_within_max_len)
{
    struct wire_request request = request_of(false, false, true, true);
    uint64_t bytes = write_payload(&request);
    struct wire_lengths lengths;
    struct fas_error error = fresh_error();
    payload[0] = 5;
    ck_assert_int_eq(wire_lengths_decode(&request, payload, bytes, &lengths, &error), FAS_OK);
    payload[0] = 6;
    check_error(wire_lengths_decode(&request, payload, bytes, &lengths, &error), &error,
                FAS_INVALID_ARGUMENT, "seqused_q");
    payload[0] = 0;
    payload[BATCH + 3] = 7;
    error = fresh_error();
    check_error(wire_lengths_decode(&request, payload, bytes, &lengths, &error), &error,
                FAS_INVALID_ARGUMENT, "seqused_k");
}
END_TEST

START_TEST(a_payload_of_another_size_is_refused)
{
    struct wire_request request = request_of(true, false, false, true);
    uint64_t bytes = write_payload(&request);
    const uint64_t lies[] = {0, bytes - 4, bytes - 1, bytes + 1, bytes + 4, UINT64_MAX};
    for (size_t i = 0; i < COUNT_OF(lies); i++) {
        struct wire_lengths lengths;
        struct fas_error error = fresh_error();
        check_error(wire_lengths_decode(&request, payload, lies[i], &lengths, &error), &error,
                    FAS_INVALID_ARGUMENT, "lengths");
    }
}
END_TEST

START_TEST(the_largest_batch_of_the_longest_rows)
{
    static int32_t cu[2 * (FAS_SEQUENCES_MAX + 1) + 2 * FAS_SEQUENCES_MAX];
    struct wire_request request = {
        .batch = (int32_t)FAS_SEQUENCES_MAX,
        .dims = {.total_q = FAS_ROWS_MAX, .total_k = FAS_ROWS_MAX},
        .q = {.has_cu_seqlens = true, .has_seqused = true},
        .k = {.has_cu_seqlens = true, .has_seqused = true},
    };
    int32_t *cu_of_k = cu + FAS_SEQUENCES_MAX + 1;
    for (int32_t i = 0; i <= (int32_t)FAS_SEQUENCES_MAX; i++) {
        cu[i] = i * (int32_t)(FAS_ROWS_MAX / FAS_SEQUENCES_MAX);
        cu_of_k[i] = i == 0 ? 0 : (int32_t)FAS_ROWS_MAX; /* one sequence has it all */
    }
    ck_assert_uint_le(wire_lengths_bytes(&request), FAS_LENGTHS_BYTES_MAX);
    ck_assert_uint_eq(wire_lengths_bytes(&request), sizeof cu);
    struct wire_lengths lengths;
    ck_assert_int_eq(wire_lengths_decode(&request, cu, sizeof cu, &lengths, NULL), FAS_OK);
    ck_assert_int_eq(lengths.max_len_q, FAS_ROWS_MAX / FAS_SEQUENCES_MAX);
    ck_assert_int_eq(lengths.max_len_k, FAS_ROWS_MAX);
    ck_assert_int_eq(wire_span_q(&lengths, FAS_SEQUENCES_MAX - 1).first,
                     FAS_ROWS_MAX - FAS_ROWS_MAX / FAS_SEQUENCES_MAX);
    ck_assert_int_eq(wire_span_k(&lengths, 0).span, FAS_ROWS_MAX);
}
END_TEST

START_TEST(spans_of_a_large_padded_batch_do_not_wrap)
{
    struct wire_request request = {.batch = 2,
                                   .dims = {.total_q = FAS_ROWS_MAX, .total_k = 0},
                                   .q = {.max_len = (int32_t)(FAS_ROWS_MAX / 2)}};
    struct wire_lengths lengths;
    ck_assert_uint_eq(wire_lengths_bytes(&request), 0);
    ck_assert_int_eq(wire_lengths_decode(&request, NULL, 0, &lengths, NULL), FAS_OK);
    ck_assert_int_eq(wire_span_q(&lengths, 1).first, FAS_ROWS_MAX / 2);
    ck_assert_int_eq(wire_span_k(&lengths, 1).span, 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("lengths");
    TCase *tcase = tcase_create("lengths");
    tcase_add_loop_test(tcase, every_mix_gives_its_spans, 0, 16);
    tcase_add_loop_test(tcase, bad_arrays_are_refused_by_name, 0, COUNT_OF(bad));
    tcase_add_test(tcase, seqused_of_a_padded_side_stays_within_max_len);
    tcase_add_test(tcase, a_payload_of_another_size_is_refused);
    tcase_add_test(tcase, the_largest_batch_of_the_longest_rows);
    tcase_add_test(tcase, spans_of_a_large_padded_batch_do_not_wrap);
    suite_add_tcase(suite, tcase);
    return run_suite(suite);
}
