/*
 * test_bad_requests.c: requests that break a rule on a good connection: the request is refused by
 * the name of its field, and the connection goes on. Chunks that are wrong, late or missing; ids
 * that are unknown or used twice. bad_client.h says what holds around each test.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/proto/samples.h"
#include "tests/system/bad_client.h"

/* ---- requests that break a rule; test_request.c and test_lengths.c have them all ---- */

struct bad_request {
    const char *field;
    enum fas_status status;
    void (*spoil)(struct wire_request *request); /* or, with the REQUEST itself good: */
    void (*spoil_lengths)(int32_t *cu_q, int32_t *cu_k, int32_t batch);
};

static void not_monotone(int32_t *cu_q, int32_t *cu_k, int32_t batch)
{
    (void)cu_k;
    cu_q[batch - 1] = cu_q[batch] + 1;
}

static void not_from_0(int32_t *cu_q, int32_t *cu_k, int32_t batch)
{
    (void)cu_k;
    (void)batch;
    cu_q[0] = 1;
}

static void not_to_total(int32_t *cu_q, int32_t *cu_k, int32_t batch)
{
    (void)cu_q;
    cu_k[batch]++;
}

static void total_overflows(struct wire_request *request)
{
    request->dims.total_k = INT64_MAX;
}

static void dims_not_allowed(struct wire_request *request)
{
    request->dims.d = 20;
}

static void heads_not_shared(struct wire_request *request)
{
    request->dims.hkv = 3;
}

static void a_million_sequences(struct wire_request *request)
{
    request->batch = 1000000;
}

static void more_sequences_than_this_server(struct wire_request *request)
{
    request->batch = 60000;
    request->q = request->k = (struct wire_side){.max_len = 1};
    request->dims.total_q = request->dims.total_k = 60000;
}

static void more_bytes_than_the_arena(struct wire_request *request)
{
    request->batch = 1;
    request->q = request->k = (struct wire_side){.max_len = 10000000};
    request->dims.total_q = request->dims.total_k = 10000000;
}

static void the_most_bytes_there_can_be(struct wire_request *request)
{
    request->batch = 1;
    request->q = request->k = (struct wire_side){.max_len = (int32_t)FAS_ROWS_MAX};
    request->dims = (struct fas_dims){FAS_FP32, 1024, 1024, 256, 256, FAS_ROWS_MAX, FAS_ROWS_MAX};
}

static void scale_of_nothing(struct wire_request *request)
{
    request->has_softmax_scale = true;
    request->softmax_scale = 0;
}

static void a_handle_never_given(struct wire_request *request)
{
    request->pass = FAS_BACKWARD;
    request->handle = 77;
}

static void a_place_never_opened(struct wire_request *request)
{
    request->tensors[FAS_Q] = (struct wire_tensor){FAS_PLACE_REGION, 9, 0, 0, 0};
}

static void an_event_never_opened(struct wire_request *request)
{
    request->wait_event = 3;
}

static void a_done_event_never_opened(struct wire_request *request)
{
    request->done_event = FAS_PLACE_ID_MAX;
}

static const struct bad_request bad_requests[] = {
    {"cu_seqlens_q", FAS_INVALID_ARGUMENT, NULL, not_monotone},
    {"cu_seqlens_q", FAS_INVALID_ARGUMENT, NULL, not_from_0},
    {"cu_seqlens_k", FAS_INVALID_ARGUMENT, NULL, not_to_total},
    {"k.total", FAS_INVALID_ARGUMENT, total_overflows, NULL},
    {"d", FAS_INVALID_ARGUMENT, dims_not_allowed, NULL},
    {"hq", FAS_INVALID_ARGUMENT, heads_not_shared, NULL},
    {"batch", FAS_INVALID_ARGUMENT, a_million_sequences, NULL},
    {"batch", FAS_INVALID_ARGUMENT, more_sequences_than_this_server, NULL},
    {"request_bytes", FAS_INVALID_ARGUMENT, more_bytes_than_the_arena, NULL},
    {"request_bytes", FAS_INVALID_ARGUMENT, the_most_bytes_there_can_be, NULL},
    {"softmax_scale", FAS_INVALID_ARGUMENT, scale_of_nothing, NULL},
    {"handle", FAS_NOT_FOUND, a_handle_never_given, NULL},
    {"tensors.q", FAS_NOT_FOUND, a_place_never_opened, NULL},
    {"wait_event", FAS_NOT_FOUND, an_event_never_opened, NULL},
    {"done_event", FAS_NOT_FOUND, a_done_event_never_opened, NULL},
};

START_TEST(a_request_that_breaks_a_rule)
{
    const struct bad_request *row = &bad_requests[_i];
    struct exchange spoilt = small;
    size_t count = 2 * ((size_t)small.sequences + 1);
    spoilt.lengths = malloc(count * sizeof *spoilt.lengths);
    memcpy(spoilt.lengths, small.lengths, count * sizeof *spoilt.lengths);
    if (row->spoil != NULL) {
        row->spoil(&spoilt.request);
    } else {
        row->spoil_lengths(spoilt.lengths, spoilt.lengths + count / 2, small.sequences);
    }
    ck_assert(peer_greet(&bad));
    ck_assert(exchange_message(&spoilt, ID, 0, &message));
    if (message.frame.payload_bytes > count * sizeof *spoilt.lengths) {
        message.frame.payload_bytes = 0; /* it is refused before its lengths are looked at */
    }
    peer_send(&bad, &message.frame, message.header, message.payload);
    say_part(&small, 1); /* DATA sent without waiting is dropped, not held against the client */
    check_request_refused(row->status, row->field);
    free(spoilt.lengths);
}
END_TEST

/* ---- chunks ---- */

/* Changes one good DATA message, the second chunk of q. */
static void say_spoilt_chunk(uint16_t tensor, uint32_t chunk, uint64_t bytes)
{
    ck_assert(peer_greet(&bad));
    say_part(&large, 0);
    say_part(&large, 1);
    ck_assert(exchange_message(&large, ID, 2, &message));
    message.frame.flags = tensor;
    message.frame.chunk = chunk;
    message.frame.payload_bytes = bytes;
    peer_send(&bad, &message.frame, NULL, message.payload);
}

START_TEST(a_chunk_twice)
{
    say_spoilt_chunk(FAS_Q, 0, FAS_CHUNK_BYTES_MIN);
    check_request_refused(FAS_INVALID_ARGUMENT, "data.chunk");
}
END_TEST

START_TEST(a_chunk_beyond_its_tensor)
{
    say_spoilt_chunk(FAS_Q, 1000, FAS_CHUNK_BYTES_MIN);
    check_request_refused(FAS_INVALID_ARGUMENT, "data.chunk");
}
END_TEST

START_TEST(the_last_chunk_number_there_is)
{
    say_spoilt_chunk(FAS_Q, UINT32_MAX, FAS_CHUNK_BYTES_MIN);
    check_request_refused(FAS_INVALID_ARGUMENT, "data.chunk");
}
END_TEST

START_TEST(a_chunk_too_short)
{
    say_spoilt_chunk(FAS_Q, 1, FAS_CHUNK_BYTES_MIN - 4);
    check_request_refused(FAS_INVALID_ARGUMENT, "data.chunk");
}
END_TEST

START_TEST(a_last_chunk_too_long)
{
    say_spoilt_chunk(FAS_K, 1, FAS_CHUNK_BYTES_MIN);
    check_request_refused(FAS_INVALID_ARGUMENT, "data.chunk");
}
END_TEST

START_TEST(a_chunk_of_an_output)
{
    say_spoilt_chunk(FAS_O, 0, FAS_CHUNK_BYTES_MIN);
    check_request_refused(FAS_INVALID_ARGUMENT, "data.chunk");
}
END_TEST

START_TEST(a_chunk_of_a_tensor_this_request_has_not)
{
    say_spoilt_chunk(FAS_DLSE, 0, FAS_CHUNK_BYTES_MIN);
    check_request_refused(FAS_INVALID_ARGUMENT, "data.chunk");
}
END_TEST

START_TEST(chunks_in_any_order_are_fine)
{
    ck_assert(peer_greet(&bad));
    say_part(&large, 0);
    for (uint32_t i = exchange_count(&large); i-- > 1;) {
        say_part(&large, i);
    }
    const char *wrong = exchange_receive(&large, &bad, ID);
    ck_assert_msg(wrong == NULL, "%s", wrong);
}
END_TEST

START_TEST(late_chunks_are_dropped)
{
    ck_assert(peer_greet(&bad));
    ck_assert(exchange_send(&small, &bad, ID));
    const char *wrong = exchange_receive(&small, &bad, ID);
    ck_assert_msg(wrong == NULL, "%s", wrong);
    for (int i = 0; i < 3; i++) {
        say_part(&small, 1);
    }
    check_served(&bad, ID + 1);
}
END_TEST

/* Dropped bytes come back as credit, or a client that was refused could never send again. */
START_TEST(dropped_chunks_are_credited)
{
    ck_assert(peer_greet(&bad));
    struct exchange spoilt = large;
    spoilt.request.has_softmax_scale = true;
    for (uint64_t sent = 0; sent < 3 * bad.ack.upload_credit_bytes;) {
        say_part(&spoilt, 0);
        check_answer(ID, FAS_INVALID_ARGUMENT, "softmax_scale");
        for (uint32_t i = 1; i < exchange_count(&large); i++) {
            say_part(&large, i);
            sent += message.frame.payload_bytes;
        }
        say_message(FRAME_PING, 9, NULL, 0);
        ck_assert_int_eq(peer_receive(&bad, ANSWER_MS), PEER_MESSAGE);
        ck_assert_str_eq(frame_type_name(bad.frame.type), "PONG");
    }
    check_served(&bad, ID + 1);
}
END_TEST

START_TEST(a_chunk_that_never_comes)
{
    ck_assert(peer_greet(&bad));
    for (uint32_t i = 0; i < exchange_count(&large); i++) {
        if (i != 2) {
            say_part(&large, i);
        }
    }
    check_request_refused(FAS_DEADLINE_EXCEEDED, "data");
}
END_TEST

START_TEST(a_chunk_that_does_not_come_by_the_deadline)
{
    struct exchange hurried = large;
    hurried.request.deadline_us = 50000;
    ck_assert(peer_greet(&bad));
    say_part(&hurried, 0);
    check_request_refused(FAS_DEADLINE_EXCEEDED, "deadline_us");
}
END_TEST

/* The request ends in the middle of a chunk; the rest of the chunk is no longer wanted. */
START_TEST(a_deadline_in_the_middle_of_a_chunk)
{
    struct exchange hurried = large;
    uint8_t head[FRAME_HEAD_BYTES_MAX];
    hurried.request.deadline_us = 20000;
    ck_assert(peer_greet(&bad));
    for (int i = 0; i < 5; i++) {
        say_part(&hurried, 0);
        ck_assert(exchange_message(&large, ID, 1, &message));
        size_t half = message.frame.payload_bytes / 2;
        say(head, peer_head(&bad, &message.frame, head));
        say(message.payload, half);
        check_answer(ID, FAS_DEADLINE_EXCEEDED, "deadline_us");
        say((const uint8_t *)message.payload + half, message.frame.payload_bytes - half);
    }
    check_served(&bad, ID);
    check_served(&good, ID);
    for (int i = 0; i < 100 && daemon_requests() > 0; i++) {
        usleep(10000);
    }
    ck_assert_msg(daemon_requests() == 0, "requests that ended are still held");
}
END_TEST

/* Receives up to the answer to a PING; true: on the way the request was told that it was late. */
static bool ping_tells_lateness(uint64_t id)
{
    bool late = false;
    say_message(FRAME_PING, 9, NULL, 0);
    do {
        ck_assert_int_eq(peer_receive(&bad, ANSWER_MS), PEER_MESSAGE);
        late |= bad.frame.type == FRAME_ERROR && bad.frame.request == id;
    } while (bad.frame.type != FRAME_PONG);
    return late;
}

/* Complete, but too late to be launched: its chunks are no longer wanted, its id is free, and a
 * connection may have any number of such. */
START_TEST(a_deadline_that_passes_while_it_waits_for_the_device)
{
    enum { ROUNDS = 200 }; /* more than a connection has unfinished, and the daemon remembers */
    struct exchange hurried = small;
    hurried.request.deadline_us = 1;
    ck_assert(peer_greet(&bad));
    for (uint64_t id = 1; id <= ROUNDS; id++) {
        ck_assert(exchange_message(&hurried, id, 0, &message));
        ck_assert(peer_send(&bad, &message.frame, message.header, message.payload));
        bool told = ping_tells_lateness(id); /* a turn of the daemon's later, so its time is over */
        for (uint32_t i = 1; exchange_message(&hurried, id, i, &message); i++) {
            ck_assert(peer_send(&bad, &message.frame, NULL, message.payload));
        }
        if (!told) {
            check_answer(id, FAS_DEADLINE_EXCEEDED, "deadline_us");
        }
    }
    for (uint32_t i = 1; exchange_message(&hurried, ROUNDS, i, &message); i++) {
        ck_assert(peer_send(&bad, &message.frame, NULL, message.payload)); /* late, once more */
    }
    check_served(&bad, ROUNDS);
}
END_TEST

/* ---- ids ---- */

START_TEST(data_of_a_request_never_made)
{
    ck_assert(peer_greet(&bad));
    say_part(&small, 1);
    check_connection_refused(FAS_INVALID_ARGUMENT, "frame.request");
}
END_TEST

START_TEST(two_requests_of_one_id)
{
    ck_assert(peer_greet(&bad));
    say_part(&large, 0);
    say_part(&small, 0);
    check_connection_refused(FAS_INVALID_ARGUMENT, "frame.request");
}
END_TEST

START_TEST(an_id_may_be_used_again_once_it_was_answered)
{
    ck_assert(peer_greet(&bad));
    for (int i = 0; i < 200; i++) { /* at once, while the last answer is still being sent */
        check_served(&bad, ID);
    }
}
END_TEST

START_TEST(cancel_and_release_of_nothing_are_not_answered)
{
    uint8_t header[32];
    ck_assert(peer_greet(&bad));
    say_message(FRAME_CANCEL, 12345, NULL, 0);
    say_message(FRAME_RELEASE, 0, header, wire_encode_release(12345, header));
    check_served(&bad, ID);
}
END_TEST

START_TEST(a_place_that_was_never_opened)
{
    uint8_t header[32];
    ck_assert(peer_greet(&bad));
    say_message(FRAME_CLOSE, ID, header, wire_encode_close(12, header));
    check_request_refused(FAS_NOT_FOUND, "id");
}
END_TEST

/* Memory's and an event's, of a device that is not here, and of one that is, if this kind of device
 * opens handles at all. */
START_TEST(a_handle_nobody_can_open)
{
    uint8_t header[FAS_HEADER_BYTES_MAX];
    struct wire_open open = sample_cuda();
    bool opens = strcmp(daemon_device_kind(), "far") == 0;
    enum fas_status status = opens ? FAS_INVALID_ARGUMENT : FAS_UNSUPPORTED;
    ck_assert(peer_greet(&bad));
    say_message(FRAME_OPEN, ID, header, wire_encode_open(&open, header));
    check_answer(ID, status, opens ? "device_uuid" : "place");
    snprintf(open.device_uuid, sizeof open.device_uuid, "GPU-fa000000-0000-0000-0000-000000000000");
    say_message(FRAME_OPEN, ID, header, wire_encode_open(&open, header));
    check_answer(ID, status, opens ? "cuda_memory" : "place");
    open.has_memory = false;
    open.has_event = true;
    say_message(FRAME_OPEN, ID, header, wire_encode_open(&open, header));
    check_request_refused(status, opens ? "cuda_event" : "place");
}
END_TEST

START_TEST(a_cancelled_request_is_answered_once)
{
    ck_assert(peer_greet(&bad));
    say_part(&large, 0);
    say_message(FRAME_CANCEL, ID, NULL, 0);
    say_message(FRAME_CANCEL, ID, NULL, 0);
    say_part(&large, 1);
    check_request_refused(FAS_CANCELLED, "");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("bad_requests");
    TCase *tcase = tcase_create("bad_requests");
    tcase_set_timeout(tcase, 30);
    tcase_add_unchecked_fixture(tcase, start_daemon, stop_daemon);
    tcase_add_checked_fixture(tcase, connect_both, served_as_before);
    tcase_add_loop_test(tcase, a_request_that_breaks_a_rule, 0, COUNT_OF(bad_requests));
    tcase_add_test(tcase, a_chunk_twice);
    tcase_add_test(tcase, a_chunk_beyond_its_tensor);
    tcase_add_test(tcase, the_last_chunk_number_there_is);
    tcase_add_test(tcase, a_chunk_too_short);
    tcase_add_test(tcase, a_last_chunk_too_long);
    tcase_add_test(tcase, a_chunk_of_an_output);
    tcase_add_test(tcase, a_chunk_of_a_tensor_this_request_has_not);
    tcase_add_test(tcase, chunks_in_any_order_are_fine);
    tcase_add_test(tcase, late_chunks_are_dropped);
    tcase_add_test(tcase, dropped_chunks_are_credited);
    tcase_add_test(tcase, a_chunk_that_never_comes);
    tcase_add_test(tcase, a_chunk_that_does_not_come_by_the_deadline);
    tcase_add_test(tcase, a_deadline_in_the_middle_of_a_chunk);
    tcase_add_test(tcase, a_deadline_that_passes_while_it_waits_for_the_device);
    tcase_add_test(tcase, data_of_a_request_never_made);
    tcase_add_test(tcase, two_requests_of_one_id);
    tcase_add_test(tcase, an_id_may_be_used_again_once_it_was_answered);
    tcase_add_test(tcase, cancel_and_release_of_nothing_are_not_answered);
    tcase_add_test(tcase, a_place_that_was_never_opened);
    tcase_add_test(tcase, a_handle_nobody_can_open);
    tcase_add_test(tcase, a_cancelled_request_is_answered_once);
    suite_add_tcase(suite, tcase);
    return run_suite(suite);
}
