/*
 * test_bad_input.c: a live daemon and a client that breaks every rule it can reach with a plain
 * socket. Each time: a status that names the field (or a clean close where there is nobody to
 * answer to), within seconds; and a second client, connected all the while, is served before and
 * after.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/proto/check_error.h"
#include "tests/proto/samples.h"
#include "tests/support/daemon.h"
#include "tests/support/exchange.h"
#include "tests/support/peer.h"

/* Small enough that a request can be too large, short enough that silence is seen in a test. */
static const char *const options[] = {"--device",
                                      "cpu:0",
                                      "--arena-bytes",
                                      "64MiB",
                                      "--hello-timeout",
                                      "400ms",
                                      "--progress-timeout",
                                      "400ms",
                                      "--result-timeout",
                                      "2s",
                                      "--sequences-max",
                                      "50000",
                                      "--upload-credit-bytes",
                                      "4MiB",
                                      NULL};

enum { ANSWER_MS = 10000, ID = 5 };

static struct daemon server;
static struct exchange small, large; /* one chunk a tensor; several of q and v */
static struct peer good, bad;
static struct exchange_message message;

static void start_daemon(void)
{
    daemon_start(&server, options);
    exchange_open(&small, 3);
    exchange_open(&large, 600);
}

static void stop_daemon(void)
{
    exchange_close(&small);
    exchange_close(&large);
    int status = daemon_stop(&server);
    if (status != 0) {
        fprintf(stderr, "faserved ended with %d\n", status);
        exit(EXIT_FAILURE);
    }
}

static void check_served(struct peer *peer, uint64_t id)
{
    ck_assert(exchange_send(&small, peer, id));
    const char *wrong = exchange_receive(&small, peer, id);
    ck_assert_msg(wrong == NULL, "the good client: %s", wrong);
}

static void connect_both(void)
{
    ck_assert(peer_connect(&good, server.socket));
    ck_assert(peer_greet(&good));
    check_served(&good, 1);
    ck_assert(peer_connect(&bad, server.socket));
}

static double stat_of(const struct wire_stats *stats, const char *name)
{
    for (uint32_t i = 0; i < stats->count; i++) {
        if (strcmp(stats->stats[i].name, name) == 0) {
            return stats->stats[i].value;
        }
    }
    ck_abort_msg("no stat %s", name);
    return 0;
}

static void ask_stats(struct wire_stats *stats)
{
    struct frame ask = {.type = FRAME_STATS, .request = 99};
    struct fas_error error;
    ck_assert(peer_send(&good, &ask, NULL, NULL));
    ck_assert_int_eq(peer_receive(&good, ANSWER_MS), PEER_MESSAGE);
    ck_assert_str_eq(frame_type_name(good.frame.type), "STATS_REPLY");
    ck_assert_int_eq(wire_decode_stats(good.header, good.frame.header_bytes, stats, &error),
                     FAS_OK);
}

static double daemon_requests(void)
{
    static struct wire_stats stats;
    ask_stats(&stats);
    return stat_of(&stats, "requests_in_flight");
}

/* Nobody but the good client is connected, no request is held, no byte of the arena is in use. */
static bool all_given_back(void)
{
    static struct wire_stats stats;
    ask_stats(&stats);
    return stat_of(&stats, "connections") == 1 && stat_of(&stats, "requests_in_flight") == 0 &&
           stat_of(&stats, "cpu:0.arena_used_bytes") == 0;
}

static void served_as_before(void)
{
    peer_close(&bad);
    check_served(&good, 2);
    bool back = all_given_back();
    for (int waited_ms = 0; !back && waited_ms < ANSWER_MS; waited_ms += 10) {
        usleep(10000); /* a lost connection is noticed in a moment */
        back = all_given_back();
    }
    ck_assert_msg(back, "a request, its memory or its connection is still held");
    peer_close(&good);
    ck_assert(daemon_alive(&server));
}

/* ---- what a test says about the answer ---- */

static void check_answer(uint64_t id, enum fas_status expected, const char *field)
{
    enum peer_event event = peer_receive(&bad, ANSWER_MS);
    ck_assert_msg(event == PEER_MESSAGE, "%s instead of an answer about %s",
                  event == PEER_CLOSED ? "a close" : "silence", field);
    ck_assert_str_eq(frame_type_name(bad.frame.type), "ERROR");
    struct fas_error decoded, error;
    ck_assert_int_eq(wire_decode_error(bad.header, bad.frame.header_bytes, &decoded, &error),
                     FAS_OK);
    ck_assert_msg(decoded.status == expected && strcmp(decoded.field, field) == 0,
                  "%s, %s: %s (expected %s, %s)", fas_status_name(decoded.status), decoded.field,
                  decoded.text, fas_status_name(expected), field);
    ck_assert_str_ne(decoded.text, "");
    ck_assert_uint_eq(bad.frame.request, id);
}

static void check_closed(void)
{
    enum peer_event event = peer_receive(&bad, ANSWER_MS);
    ck_assert_msg(event == PEER_CLOSED, "%s instead of a close",
                  event == PEER_SILENT ? "silence" : frame_type_name(bad.frame.type));
}

/* The connection is at fault: told once, then closed. */
static void check_connection_refused(enum fas_status expected, const char *field)
{
    check_answer(0, expected, field);
    check_closed();
}

/* The request is at fault: its connection goes on. */
static void check_request_refused(enum fas_status expected, const char *field)
{
    check_answer(ID, expected, field);
    check_served(&bad, ID + 1);
}

/* Whatever the daemon still says (its hello, an ERROR), it closes; Check's time limit watches. */
static void check_ends(void)
{
    uint8_t rest[4096];
    while (read(bad.fd, rest, sizeof rest) > 0) {
    }
}

static void say(const void *bytes, size_t count)
{
    peer_send_bytes(&bad, bytes, count); /* the daemon may have closed already */
}

static void say_sp_hello(void)
{
    uint8_t theirs[FRAME_SP_HELLO_BYTES];
    say(frame_sp_hello, sizeof frame_sp_hello);
    size_t got = 0;
    while (got < sizeof theirs) {
        ssize_t bytes = read(bad.fd, theirs + got, sizeof theirs - got);
        ck_assert_int_gt(bytes, 0);
        got += (size_t)bytes;
    }
    ck_assert_mem_eq(theirs, frame_sp_hello, sizeof theirs);
}

static void say_message(enum frame_type type, uint64_t request, const void *header, size_t bytes)
{
    struct frame frame = {.type = type, .request = request, .header_bytes = (uint32_t)bytes};
    peer_send(&bad, &frame, header, NULL);
}

static void say_hello(const struct wire_hello *hello)
{
    uint8_t header[FAS_HEADER_BYTES_MAX];
    say_message(FRAME_HELLO, 0, header, wire_encode_hello(hello, header));
}

/* Message `index` of the exchange, as it should be. */
static void say_part(const struct exchange *exchange, uint32_t index)
{
    ck_assert(exchange_message(exchange, ID, index, &message));
    peer_send(&bad, &message.frame, message.header, message.payload);
}

/* A head whose bytes are changed afterwards: what our encoder would never write. */
static void say_head(struct frame frame, size_t offset, const void *change, size_t bytes)
{
    uint8_t head[FRAME_HEAD_BYTES_MAX];
    size_t count = frame_encode(&frame, true, head);
    memcpy(head + offset, change, bytes);
    say(head, count);
}

/* ---- not our protocol ---- */

START_TEST(garbage_instead_of_the_sp_hello)
{
    static const char http[] = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    say(http, sizeof http - 1);
    check_ends();
}
END_TEST

START_TEST(another_nng_protocol)
{
    uint8_t req0[FRAME_SP_HELLO_BYTES] = {0, 'S', 'P', 0, 0, 0x30, 0, 0};
    say(req0, sizeof req0);
    check_ends();
}
END_TEST

START_TEST(garbage_instead_of_hello)
{
    static const char http[] = "GET / HTTP/1.1\r\nHost: localhost.localdomain\r\n\r\n";
    say_sp_hello();
    say(http, sizeof http - 1);
    check_connection_refused(FAS_INVALID_ARGUMENT, "frame.prefix");
}
END_TEST

START_TEST(garbage_instead_of_a_preamble)
{
    ck_assert(peer_greet(&bad));
    say_head((struct frame){.type = FRAME_PING}, 9, "JUNK", 4);
    check_connection_refused(FAS_INVALID_ARGUMENT, "frame.magic");
}
END_TEST

START_TEST(another_message_before_hello)
{
    say_sp_hello();
    say_part(&small, 0);
    check_connection_refused(FAS_INVALID_ARGUMENT, "frame.type");
}
END_TEST

START_TEST(hello_twice)
{
    struct wire_hello hello = {.version_min = 1, .version_max = 1};
    ck_assert(peer_greet(&bad));
    say_hello(&hello);
    check_connection_refused(FAS_INVALID_ARGUMENT, "frame.type");
}
END_TEST

START_TEST(a_message_only_a_server_sends)
{
    ck_assert(peer_greet(&bad));
    say_message(FRAME_DONE, ID, NULL, 0);
    check_connection_refused(FAS_INVALID_ARGUMENT, "frame.type");
}
END_TEST

START_TEST(a_type_nobody_knows)
{
    ck_assert(peer_greet(&bad));
    say_head((struct frame){.type = FRAME_PING}, 14, "\x63", 1);
    check_connection_refused(FAS_UNSUPPORTED, "frame.type");
}
END_TEST

/* ---- other versions ---- */

START_TEST(a_newer_preamble)
{
    say_sp_hello();
    say_head((struct frame){.type = FRAME_HELLO}, 13, "\x02", 1);
    check_connection_refused(FAS_UNSUPPORTED, "frame.version");
}
END_TEST

START_TEST(a_client_too_new)
{
    struct wire_hello hello = {.version_min = FAS_VERSION_MAX + 1, .version_max = 99};
    say_sp_hello();
    say_hello(&hello);
    check_connection_refused(FAS_UNSUPPORTED, "version_min");
}
END_TEST

START_TEST(a_client_of_no_version)
{
    struct wire_hello hello = {.version_min = 0, .version_max = 0};
    say_sp_hello();
    say_hello(&hello);
    check_connection_refused(FAS_INVALID_ARGUMENT, "version_min");
}
END_TEST

START_TEST(a_newer_client_that_speaks_ours_too_is_served)
{
    uint8_t header[FAS_HEADER_BYTES_MAX];
    struct wire_hello hello = {.version_min = 1,
                               .version_max = 99,
                               .result_credit_bytes = 1 << 20,
                               .wanted = {.chunk_bytes = UINT32_MAX, .sequences = UINT32_MAX}};
    size_t bytes = wire_encode_hello(&hello, header);
    memcpy(header + bytes, "\xf8\x7f\x01", 3); /* a field only it knows */
    say_sp_hello();
    say_message(FRAME_HELLO, 0, header, bytes + 3);
    ck_assert_int_eq(peer_receive(&bad, ANSWER_MS), PEER_MESSAGE);
    ck_assert_str_eq(frame_type_name(bad.frame.type), "HELLO_ACK");
    struct fas_error error;
    ck_assert_int_eq(wire_decode_hello_ack(bad.header, bad.frame.header_bytes, &bad.ack, &error),
                     FAS_OK);
    ck_assert_uint_eq(bad.ack.version, FAS_VERSION_MAX);
    check_served(&bad, ID);
}
END_TEST

START_TEST(a_token_longer_than_any)
{
    static uint8_t header[FAS_HEADER_BYTES_MAX] = {0x08, 1, 0x10, 1, 0x22, 0x81, 0x02}; /* 257 */
    say_sp_hello();
    say_message(FRAME_HELLO, 0, header, 7 + 257);
    check_connection_refused(FAS_INVALID_ARGUMENT, "token");
}
END_TEST

START_TEST(a_wrong_token_is_refused_even_where_none_is_needed)
{
    struct wire_hello hello = {
        .version_min = 1, .version_max = 1, .token = "guess", .token_bytes = 5};
    say_sp_hello();
    say_hello(&hello);
    check_connection_refused(FAS_UNAUTHENTICATED, "token");
}
END_TEST

/* ---- silence ---- */

START_TEST(nothing_at_all)
{
    check_ends();
}
END_TEST

START_TEST(half_of_anything_then_silence)
{
    static uint8_t all[4096];
    struct wire_hello hello = {.version_min = 1, .version_max = 1};
    uint8_t header[FAS_HEADER_BYTES_MAX];
    struct frame frame = {.type = FRAME_HELLO,
                          .header_bytes = (uint32_t)wire_encode_hello(&hello, header)};
    memcpy(all, frame_sp_hello, sizeof frame_sp_hello);
    size_t bytes = sizeof frame_sp_hello + frame_encode(&frame, true, all + sizeof frame_sp_hello);
    memcpy(all + bytes, header, frame.header_bytes);
    const size_t cuts[] = {1, 8, 9, 20, 48, 49, 50};
    ck_assert_uint_lt(cuts[COUNT_OF(cuts) - 1], bytes + frame.header_bytes);
    peer_close(&bad);
    ck_assert(peer_connect(&bad, server.socket));
    say(all, cuts[_i]);
    check_ends();
}
END_TEST

START_TEST(half_a_payload_then_silence)
{
    uint8_t head[FRAME_HEAD_BYTES_MAX];
    ck_assert(peer_greet(&bad));
    say_part(&large, 0);
    ck_assert(exchange_message(&large, ID, 1, &message));
    say(head, frame_encode(&message.frame, true, head));
    say(message.payload, (size_t)message.frame.payload_bytes / 2);
    enum peer_event event;
    while ((event = peer_receive(&bad, ANSWER_MS)) == PEER_MESSAGE) { /* it may be told why */
        ck_assert_str_eq(frame_type_name(bad.frame.type), "ERROR");
    }
    ck_assert_int_eq(event, PEER_CLOSED);
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
        say(head, frame_encode(&message.frame, true, head));
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

/* ---- lengths that lie ---- */

START_TEST(a_length_that_is_not_the_sum_of_its_parts)
{
    ck_assert(peer_greet(&bad));
    say_head((struct frame){.type = FRAME_PING}, 1, "\x7f\xff\xff\xff\xff\xff\xff\xff", 8);
    check_connection_refused(FAS_INVALID_ARGUMENT, "frame.length");
}
END_TEST

START_TEST(a_payload_of_2_to_the_62)
{
    ck_assert(peer_greet(&bad));
    struct frame data = {.type = FRAME_DATA, .request = ID, .payload_bytes = 64};
    say_head(data, 33, "\0\0\0\0\0\0\0\x40", 8);
    check_connection_refused(FAS_INVALID_ARGUMENT, "frame.payload_bytes");
}
END_TEST

START_TEST(a_header_of_4_gib)
{
    ck_assert(peer_greet(&bad));
    say_head((struct frame){.type = FRAME_REQUEST, .request = ID}, 17, "\xff\xff\xff\xff", 4);
    check_connection_refused(FAS_INVALID_ARGUMENT, "frame.header_bytes");
}
END_TEST

START_TEST(lengths_of_another_size_than_the_batch)
{
    ck_assert(peer_greet(&bad));
    ck_assert(exchange_message(&small, ID, 0, &message));
    message.frame.payload_bytes -= 4;
    peer_send(&bad, &message.frame, message.header, message.payload);
    check_request_refused(FAS_INVALID_ARGUMENT, "lengths");
}
END_TEST

/* ---- headers made to hurt ---- */

static void fill_header(uint8_t out[FAS_HEADER_BYTES_MAX], const char *unit, size_t bytes)
{
    for (size_t i = 0; i < FAS_HEADER_BYTES_MAX; i++) {
        out[i] = (uint8_t)unit[i % bytes];
    }
}

START_TEST(a_hello_of_nothing_but_nesting)
{
    static uint8_t header[FAS_HEADER_BYTES_MAX];
    fill_header(header, "\x2a\x00", 2); /* `wanted`, empty, 32768 times */
    say_sp_hello();
    say_message(FRAME_HELLO, 0, header, sizeof header);
    check_connection_refused(FAS_INVALID_ARGUMENT, "header");
}
END_TEST

START_TEST(a_request_of_nothing_but_nesting)
{
    static uint8_t header[FAS_HEADER_BYTES_MAX];
    fill_header(header, "\x9a\x01\x00", 3); /* tensor entries, empty */
    header[FAS_HEADER_BYTES_MAX - 1] = 0x9a;
    ck_assert(peer_greet(&bad));
    say_message(FRAME_REQUEST, ID, header, sizeof header - 1);
    check_request_refused(FAS_INVALID_ARGUMENT, "header");
}
END_TEST

START_TEST(a_request_that_is_not_protobuf)
{
    static uint8_t header[FAS_HEADER_BYTES_MAX];
    memset(header, 0xff, sizeof header);
    ck_assert(peer_greet(&bad));
    say_message(FRAME_REQUEST, ID, header, sizeof header);
    check_request_refused(FAS_INVALID_ARGUMENT, "header");
}
END_TEST

/* ---- requests that break a rule; test_request.c and test_lengths.c have them all ---- */

struct bad_request {
    const char *field;
    enum fas_status status;
    void (*spoil)(struct wire_request *request, int32_t *lengths);
};

static void not_monotone(struct wire_request *request, int32_t *lengths)
{
    (void)request;
    lengths[1] = lengths[2] + 1;
}

static void not_from_0(struct wire_request *request, int32_t *lengths)
{
    (void)request;
    lengths[0] = 1;
}

static void not_to_total(struct wire_request *request, int32_t *lengths)
{
    lengths[2 * request->batch + 1]++;
}

static void total_overflows(struct wire_request *request, int32_t *lengths)
{
    (void)lengths;
    request->dims.total_k = INT64_MAX;
}

static void dims_not_allowed(struct wire_request *request, int32_t *lengths)
{
    (void)lengths;
    request->dims.d = 20;
}

static void heads_not_shared(struct wire_request *request, int32_t *lengths)
{
    (void)lengths;
    request->dims.hkv = 3;
}

static void a_million_sequences(struct wire_request *request, int32_t *lengths)
{
    (void)lengths;
    request->batch = 1000000;
}

static void more_sequences_than_this_server(struct wire_request *request, int32_t *lengths)
{
    (void)lengths;
    request->batch = 60000;
    request->q = request->k = (struct wire_side){.max_len = 1};
    request->dims.total_q = request->dims.total_k = 60000;
}

static void more_bytes_than_the_arena(struct wire_request *request, int32_t *lengths)
{
    (void)lengths;
    request->batch = 1;
    request->q = request->k = (struct wire_side){.max_len = 10000000};
    request->dims.total_q = request->dims.total_k = 10000000;
}

static void the_most_bytes_there_can_be(struct wire_request *request, int32_t *lengths)
{
    (void)lengths;
    request->batch = 1;
    request->q = request->k = (struct wire_side){.max_len = (int32_t)FAS_ROWS_MAX};
    request->dims = (struct fas_dims){FAS_FP32, 1024, 1024, 256, 256, FAS_ROWS_MAX, FAS_ROWS_MAX};
}

static void scale_of_nothing(struct wire_request *request, int32_t *lengths)
{
    (void)lengths;
    request->has_softmax_scale = true;
    request->softmax_scale = 0;
}

static void a_handle_never_given(struct wire_request *request, int32_t *lengths)
{
    (void)lengths;
    request->pass = FAS_BACKWARD;
    request->handle = 77;
}

static void a_place_never_opened(struct wire_request *request, int32_t *lengths)
{
    (void)lengths;
    request->tensors[FAS_Q] = (struct wire_tensor){FAS_PLACE_REGION, 9, 0, 0, 0};
}

static void an_event_never_opened(struct wire_request *request, int32_t *lengths)
{
    (void)lengths;
    request->wait_event = 3;
}

static const struct bad_request bad_requests[] = {
    {"cu_seqlens_q", FAS_INVALID_ARGUMENT, not_monotone},
    {"cu_seqlens_q", FAS_INVALID_ARGUMENT, not_from_0},
    {"cu_seqlens_k", FAS_INVALID_ARGUMENT, not_to_total},
    {"k.total", FAS_INVALID_ARGUMENT, total_overflows},
    {"d", FAS_INVALID_ARGUMENT, dims_not_allowed},
    {"hq", FAS_INVALID_ARGUMENT, heads_not_shared},
    {"batch", FAS_INVALID_ARGUMENT, a_million_sequences},
    {"batch", FAS_INVALID_ARGUMENT, more_sequences_than_this_server},
    {"request_bytes", FAS_INVALID_ARGUMENT, more_bytes_than_the_arena},
    {"request_bytes", FAS_INVALID_ARGUMENT, the_most_bytes_there_can_be},
    {"softmax_scale", FAS_INVALID_ARGUMENT, scale_of_nothing},
    {"handle", FAS_UNSUPPORTED, a_handle_never_given},
    {"tensors.place", FAS_UNSUPPORTED, a_place_never_opened},
    {"wait_event", FAS_UNSUPPORTED, an_event_never_opened},
};

START_TEST(a_request_that_breaks_a_rule)
{
    const struct bad_request *row = &bad_requests[_i];
    struct exchange spoilt = small;
    size_t count = 2 * ((size_t)small.sequences + 1);
    spoilt.lengths = malloc(count * sizeof *spoilt.lengths);
    memcpy(spoilt.lengths, small.lengths, count * sizeof *spoilt.lengths);
    row->spoil(&spoilt.request, spoilt.lengths);
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

START_TEST(a_place_of_a_kind_this_server_has_not)
{
    uint8_t header[FAS_HEADER_BYTES_MAX];
    struct wire_open open = sample_cuda();
    ck_assert(peer_greet(&bad));
    say_message(FRAME_OPEN, ID, header, wire_encode_open(&open, header));
    check_request_refused(FAS_UNSUPPORTED, "place");
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

/* ---- credit ---- */

START_TEST(more_data_than_credit)
{
    ck_assert(peer_greet(&bad));
    say_part(&large, 0);
    say_message(FRAME_CANCEL, ID, NULL, 0); /* dropped data counts like any other */
    bool told = false;
    for (uint64_t sent = 0; !told && sent < 64 * bad.ack.upload_credit_bytes;) {
        ck_assert(exchange_message(&large, ID, 1, &message));
        told = !peer_send(&bad, &message.frame, NULL, message.payload);
        sent += message.frame.payload_bytes;
    }
    /* Either the daemon kept up, or it said "credit" and closed: both leave others alone. */
}
END_TEST

START_TEST(a_credit_of_nothing)
{
    uint8_t header[32];
    ck_assert(peer_greet(&bad));
    say_message(FRAME_CREDIT, 0, header, wire_encode_credit(0, header));
    check_connection_refused(FAS_INVALID_ARGUMENT, "bytes");
}
END_TEST

START_TEST(credit_without_end)
{
    uint8_t header[32];
    ck_assert(peer_greet(&bad));
    for (int i = 0; i < 1000; i++) {
        say_message(FRAME_CREDIT, 0, header, wire_encode_credit(FAS_CREDIT_BYTES_MAX, header));
    }
    check_served(&bad, ID);
}
END_TEST

/* ---- a connection cut ---- */

/* All bytes of a good client, from the SP hello to the last chunk; message boundaries in ends[]. */
static size_t write_all(uint8_t *out, size_t ends[16], size_t *end_count)
{
    struct wire_hello hello = {.version_min = 1, .version_max = 1, .result_credit_bytes = 1 << 20};
    uint8_t header[FAS_HEADER_BYTES_MAX];
    struct frame frame = {.type = FRAME_HELLO,
                          .header_bytes = (uint32_t)wire_encode_hello(&hello, header)};
    size_t at = sizeof frame_sp_hello, count = 0;
    ends[count++] = 0;
    memcpy(out, frame_sp_hello, at);
    ends[count++] = at;
    at += frame_encode(&frame, true, out + at);
    memcpy(out + at, header, frame.header_bytes);
    at += frame.header_bytes;
    ends[count++] = at;
    for (uint32_t i = 0; exchange_message(&small, ID, i, &message); i++) {
        at += frame_encode(&message.frame, true, out + at);
        memcpy(out + at, message.header, message.frame.header_bytes);
        at += message.frame.header_bytes;
        memcpy(out + at, message.payload, message.frame.payload_bytes);
        at += message.frame.payload_bytes;
        ends[count++] = at;
    }
    *end_count = count;
    return at;
}

static void cut_after(const uint8_t *all, size_t bytes)
{
    peer_close(&bad);
    ck_assert(peer_connect(&bad, server.socket));
    say(all, bytes);
}

START_TEST(cut_at_every_message_boundary)
{
    static uint8_t all[16384];
    size_t ends[16], count;
    write_all(all, ends, &count);
    for (int round = 0; round < 20; round++) {
        for (size_t i = 0; i < count; i++) {
            cut_after(all, ends[i]);
        }
    }
}
END_TEST

START_TEST(cut_anywhere)
{
    static uint8_t all[16384];
    size_t ends[16], count, bytes = write_all(all, ends, &count);
    for (size_t cut = 1; cut < bytes; cut += 3) {
        cut_after(all, cut);
    }
}
END_TEST

START_TEST(gone_while_results_are_on_their_way)
{
    for (int i = 0; i < 20; i++) {
        peer_close(&bad);
        ck_assert(peer_connect(&bad, server.socket));
        ck_assert(peer_greet(&bad));
        for (uint64_t id = 1; id < 6; id++) {
            exchange_send(&large, &bad, id);
        }
        if (i % 2 == 0) {
            peer_receive(&bad, ANSWER_MS);
        }
    }
}
END_TEST

/* Last: what all of the above left behind. */
START_TEST(nothing_is_left_behind)
{
    int before = daemon_descriptors(&server);
    long resident_kib = daemon_resident_kib(&server);
    for (int i = 0; i < 300; i++) {
        peer_close(&bad);
        ck_assert(peer_connect(&bad, server.socket));
        say(frame_sp_hello, (size_t)i % 9);
    }
    peer_close(&bad);
    int after = 0;
    for (int waited = 0; waited < 100; waited++) { /* closed connections are seen in a moment */
        after = daemon_descriptors(&server);
        if (after <= before) {
            break;
        }
        usleep(20000);
    }
    ck_assert_int_le(after, before);
    ck_assert_int_le(daemon_resident_kib(&server), resident_kib + 16384);
    ck_assert(peer_connect(&bad, server.socket));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("bad_input");
    TCase *tcase = tcase_create("bad_input");
    tcase_set_timeout(tcase, 30);
    tcase_add_unchecked_fixture(tcase, start_daemon, stop_daemon);
    tcase_add_checked_fixture(tcase, connect_both, served_as_before);
    tcase_add_test(tcase, garbage_instead_of_the_sp_hello);
    tcase_add_test(tcase, another_nng_protocol);
    tcase_add_test(tcase, garbage_instead_of_hello);
    tcase_add_test(tcase, garbage_instead_of_a_preamble);
    tcase_add_test(tcase, another_message_before_hello);
    tcase_add_test(tcase, hello_twice);
    tcase_add_test(tcase, a_message_only_a_server_sends);
    tcase_add_test(tcase, a_type_nobody_knows);
    tcase_add_test(tcase, a_newer_preamble);
    tcase_add_test(tcase, a_client_too_new);
    tcase_add_test(tcase, a_client_of_no_version);
    tcase_add_test(tcase, a_newer_client_that_speaks_ours_too_is_served);
    tcase_add_test(tcase, a_token_longer_than_any);
    tcase_add_test(tcase, a_wrong_token_is_refused_even_where_none_is_needed);
    tcase_add_test(tcase, nothing_at_all);
    tcase_add_loop_test(tcase, half_of_anything_then_silence, 0, 7);
    tcase_add_test(tcase, half_a_payload_then_silence);
    tcase_add_test(tcase, a_chunk_that_never_comes);
    tcase_add_test(tcase, a_chunk_that_does_not_come_by_the_deadline);
    tcase_add_test(tcase, a_deadline_in_the_middle_of_a_chunk);
    tcase_add_test(tcase, a_length_that_is_not_the_sum_of_its_parts);
    tcase_add_test(tcase, a_payload_of_2_to_the_62);
    tcase_add_test(tcase, a_header_of_4_gib);
    tcase_add_test(tcase, lengths_of_another_size_than_the_batch);
    tcase_add_test(tcase, a_hello_of_nothing_but_nesting);
    tcase_add_test(tcase, a_request_of_nothing_but_nesting);
    tcase_add_test(tcase, a_request_that_is_not_protobuf);
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
    tcase_add_test(tcase, data_of_a_request_never_made);
    tcase_add_test(tcase, two_requests_of_one_id);
    tcase_add_test(tcase, an_id_may_be_used_again_once_it_was_answered);
    tcase_add_test(tcase, cancel_and_release_of_nothing_are_not_answered);
    tcase_add_test(tcase, a_place_that_was_never_opened);
    tcase_add_test(tcase, a_place_of_a_kind_this_server_has_not);
    tcase_add_test(tcase, a_cancelled_request_is_answered_once);
    tcase_add_test(tcase, more_data_than_credit);
    tcase_add_test(tcase, a_credit_of_nothing);
    tcase_add_test(tcase, credit_without_end);
    tcase_add_test(tcase, cut_at_every_message_boundary);
    tcase_add_test(tcase, cut_anywhere);
    tcase_add_test(tcase, gone_while_results_are_on_their_way);
    tcase_add_test(tcase, nothing_is_left_behind);
    suite_add_tcase(suite, tcase);
    return run_suite(suite);
}
