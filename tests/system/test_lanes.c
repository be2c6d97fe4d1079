/*
 * test_lanes.c: several connections of one client, over plain sockets: who may join whom, what
 * joined connections may carry, in every order that is not an order, and what is left when one of
 * them goes. `bad` leads; bad_client.h says what holds around each test. That the library's clients
 * get the same bits by several connections is the business of test_path and others (_lanes).
 */
#include <check.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "tests/system/bad_client.h"

static struct peer joined[FAS_LANES_MAX];

/* As `bad` does. */
static bool connect_too(struct peer *peer)
{
    peer_close(peer);
    return connect_like_bad(peer);
}

/* HELLO with a nonce; true: it was greeted. Otherwise the last message is the ERROR. */
static bool join(struct peer *peer, const uint8_t nonce[FAS_NONCE_BYTES])
{
    struct wire_hello hello = {.version_min = 1,
                               .version_max = 1,
                               .client = "lane",
                               .result_credit_bytes = 64 << 20,
                               .has_join = true};
    uint8_t header[FAS_HEADER_BYTES_MAX], theirs[FRAME_SP_HELLO_BYTES];
    memcpy(hello.join, nonce, FAS_NONCE_BYTES);
    if (peer->tcp) {
        show_token(&hello);
    }
    struct frame frame = {.type = FRAME_HELLO,
                          .header_bytes = (uint32_t)wire_encode_hello(&hello, header)};
    ck_assert(peer_send_bytes(peer, frame_sp_hello, sizeof frame_sp_hello));
    ck_assert_int_eq(read(peer->fd, theirs, sizeof theirs), sizeof theirs);
    ck_assert(peer_send(peer, &frame, header, NULL));
    ck_assert_int_eq(peer_receive(peer, ANSWER_MS), PEER_MESSAGE);
    return peer->frame.type == FRAME_HELLO_ACK;
}

static void check_says(const struct peer *peer, uint64_t id, enum fas_status expected,
                       const char *field)
{
    struct fas_error decoded, error;
    ck_assert_str_eq(frame_type_name(peer->frame.type), "ERROR");
    ck_assert_uint_eq(peer->frame.request, id);
    ck_assert_int_eq(wire_decode_error(peer->header, peer->frame.header_bytes, &decoded, &error),
                     FAS_OK);
    ck_assert_msg(decoded.status == expected && strcmp(decoded.field, field) == 0, "%s, %s: %s",
                  fas_status_name(decoded.status), decoded.field, decoded.text);
}

static void check_hears(struct peer *peer, uint64_t id, enum fas_status expected, const char *field)
{
    ck_assert_int_eq(peer_receive(peer, ANSWER_MS), PEER_MESSAGE);
    check_says(peer, id, expected, field);
}

static void check_hung_up(struct peer *peer)
{
    enum peer_event event;
    do { /* what was on its way comes first: results, the end of a request */
        event = peer_receive(peer, ANSWER_MS);
    } while (event == PEER_MESSAGE);
    ck_assert_int_eq(event, PEER_CLOSED);
}

static void check_joins_nothing(const uint8_t nonce[FAS_NONCE_BYTES])
{
    ck_assert(connect_too(&joined[1]));
    ck_assert(!join(&joined[1], nonce));
    check_says(&joined[1], 0, FAS_UNAUTHENTICATED, "join");
    check_hung_up(&joined[1]);
}

/* The leader and so many that joined it. */
static void lead(int lanes)
{
    ck_assert(peer_greet(&bad));
    for (int i = 1; i < lanes; i++) {
        ck_assert(connect_too(&joined[i]));
        ck_assert(join(&joined[i], bad.ack.nonce));
    }
}

static void leave_all(void)
{
    for (int i = 0; i < (int)FAS_LANES_MAX; i++) {
        peer_close(&joined[i]);
    }
    served_as_before();
}

static void send_part(const struct exchange *exchange, struct peer *peer, uint64_t id,
                      uint32_t index)
{
    ck_assert(exchange_message(exchange, id, index, &message));
    ck_assert(peer_send(peer, &message.frame, message.header, message.payload));
}

static void synchronize(struct peer *peer)
{
    struct frame ping = {.type = FRAME_PING, .request = 77};
    ck_assert(peer_send(peer, &ping, NULL, NULL));
    ck_assert_int_eq(peer_receive(peer, ANSWER_MS), PEER_MESSAGE);
    ck_assert_str_eq(frame_type_name(peer->frame.type), "PONG");
}

/* What came on any of the connections; the results are right and whole when DONE has come, wherever
 * they came. */
static void check_answered(const struct exchange *exchange, int lanes, uint64_t id)
{
    struct exchange_rows rows;
    bool done = false;
    exchange_expect(exchange, &rows);
    do {
        int lane = 0;
        struct peer *peer = &bad;
        while (rows.left[FAS_O] + rows.left[FAS_LSE] > 0 || !done) {
            peer = lane == 0 ? &bad : &joined[lane];
            enum peer_event event = peer_receive(peer, lanes > 1 ? 20 : ANSWER_MS);
            ck_assert_int_ne(event, PEER_CLOSED);
            if (event == PEER_MESSAGE) {
                break;
            }
            lane = (lane + 1) % lanes;
        }
        if (peer->frame.type == FRAME_DONE) {
            ck_assert_ptr_eq(peer, &bad);
            done = true;
            continue;
        }
        ck_assert_str_eq(frame_type_name(peer->frame.type), "RESULT");
        const char *wrong = exchange_take(exchange, peer, id, &rows, &done);
        ck_assert_msg(wrong == NULL, "%s", wrong);
    } while (rows.left[FAS_O] + rows.left[FAS_LSE] > 0 || !done);
}

/* As much as 16 chunks of o: each of the connections has a share of them. */
static void check_spread(int lanes, uint64_t id)
{
    static struct exchange wide;
    struct exchange_rows rows;
    int chunks[FAS_LANES_MAX] = {0}, lane = 0;
    bool done = false;
    exchange_open(&wide, 2048);
    ck_assert(exchange_send(&wide, &bad, id));
    exchange_expect(&wide, &rows);
    while (!done || rows.left[FAS_O] + rows.left[FAS_LSE] > 0) {
        struct peer *peer = lane == 0 ? &bad : &joined[lane];
        enum peer_event event = peer_receive(peer, 20);
        ck_assert_int_ne(event, PEER_CLOSED);
        if (event != PEER_MESSAGE) {
            lane = (lane + 1) % lanes;
        } else if (peer->frame.type == FRAME_DONE) {
            done = true;
        } else {
            const char *wrong = exchange_take(&wide, peer, id, &rows, &done);
            ck_assert_msg(wrong == NULL, "%s", wrong);
            chunks[lane] += peer->frame.flags == FAS_O;
        }
    }
    exchange_close(&wide);
    for (int i = 0; i < lanes; i++) {
        ck_assert_msg(chunks[i] >= 2, "%d chunks in lane %d", chunks[i], i);
    }
}

/* ---- who may join ---- */

START_TEST(a_nonce_nobody_was_given)
{
    uint8_t nonce[FAS_NONCE_BYTES] = {0};
    ck_assert(peer_greet(&bad));
    check_joins_nothing(nonce);
    for (unsigned bit = 0; bit < 8 * FAS_NONCE_BYTES; bit += 9) { /* nearly right */
        memcpy(nonce, bad.ack.nonce, sizeof nonce);
        nonce[bit / 8] ^= (uint8_t)(1u << bit % 8);
        check_joins_nothing(nonce);
    }
    check_served(&bad, ID);
}
END_TEST

START_TEST(nonces_differ)
{
    ck_assert(peer_greet(&bad));
    ck_assert_mem_ne(bad.ack.nonce, good.ack.nonce, FAS_NONCE_BYTES);
}
END_TEST

START_TEST(a_nonce_of_a_client_that_is_gone)
{
    uint8_t nonce[FAS_NONCE_BYTES];
    ck_assert(peer_greet(&bad));
    memcpy(nonce, bad.ack.nonce, sizeof nonce);
    peer_close(&bad);
    synchronize(&good); /* the daemon has read the end of the stream before */
    check_joins_nothing(nonce);
}
END_TEST

START_TEST(a_nonce_joins_for_as_long_as_hello_may_take)
{
    ck_assert(peer_greet(&bad));
    usleep(500000); /* hello-timeout is 400 ms */
    check_joins_nothing(bad.ack.nonce);
    check_served(&bad, ID);
}
END_TEST

START_TEST(a_joined_connection_is_joined_by_nobody)
{
    static const uint8_t none[FAS_NONCE_BYTES];
    lead(2);
    struct fas_error error;
    struct wire_hello_ack ack;
    ck_assert_int_eq(
        wire_decode_hello_ack(joined[1].header, joined[1].frame.header_bytes, &ack, &error),
        FAS_OK);
    ck_assert_mem_eq(ack.nonce, none, sizeof none);
    ck_assert_uint_eq(ack.limits.chunk_bytes, bad.ack.limits.chunk_bytes);
}
END_TEST

START_TEST(another_principal)
{
    ck_assert(peer_greet(&bad)); /* a token's name over tcp, else a uid */
    ck_assert(peer_connect(&joined[1], server.socket));
    ck_assert_int_eq(join(&joined[1], bad.ack.nonce), !over_tcp());
    if (over_tcp()) {
        check_says(&joined[1], 0, FAS_UNAUTHENTICATED, "join");
    }
}
END_TEST

START_TEST(too_many)
{
    lead((int)FAS_LANES_MAX);
    ck_assert(connect_too(&joined[0]));
    ck_assert(!join(&joined[0], bad.ack.nonce));
    check_says(&joined[0], 0, FAS_RESOURCE_EXHAUSTED, "join");
    check_hung_up(&joined[0]);
    check_served(&bad, ID); /* those that are in are not disturbed */
}
END_TEST

/* ---- what they carry ---- */

START_TEST(data_by_all_and_before_its_request)
{
    enum { LANES = 3 };
    lead(LANES);
    uint32_t count = exchange_count(&large);
    for (uint64_t id = 1; id < 6; id++) {
        for (uint32_t i = count; i-- > 1;) { /* from the last */
            send_part(&large, &joined[1 + i % 2], id, i);
        }
        usleep(id * 3000); /* it has come before the REQUEST, or not */
        send_part(&large, &bad, id, 0);
        check_answered(&large, LANES, id);
    }
}
END_TEST

START_TEST(results_by_all)
{
    lead(4);
    check_spread(4, ID);
}
END_TEST

START_TEST(data_of_a_request_that_is_over)
{
    lead(2);
    for (uint64_t id = 1; id < 200; id++) { /* more than are remembered */
        struct exchange refused = small;
        refused.request.has_softmax_scale = true; /* of 0 */
        send_part(&refused, &bad, id, 0);
        check_hears(&bad, id, FAS_INVALID_ARGUMENT, "softmax_scale");
    }
    send_part(&small, &joined[1], 1, 1);   /* forgotten */
    send_part(&small, &joined[1], 199, 1); /* remembered */
    synchronize(&joined[1]);
    check_served(&bad, 200);
}
END_TEST

START_TEST(one_chunk_by_two)
{
    lead(3);
    send_part(&large, &bad, ID, 0);
    send_part(&large, &joined[1], ID, 1);
    synchronize(&joined[1]);
    send_part(&large, &joined[2], ID, 1);
    check_hears(&bad, ID, FAS_INVALID_ARGUMENT, "data.chunk");
    check_served(&bad, ID + 1);
}
END_TEST

START_TEST(data_of_no_request)
{
    lead(2);
    send_part(&small, &joined[1], ID, 1);
    check_hears(&bad, 0, FAS_INVALID_ARGUMENT, "frame.request");
    check_hears(&joined[1], 0, FAS_INVALID_ARGUMENT, "frame.request");
    check_hung_up(&bad);
    check_hung_up(&joined[1]);
}
END_TEST

START_TEST(more_than_payloads)
{
    static const enum frame_type types[] = {FRAME_STATS, FRAME_CANCEL, FRAME_DRAIN};
    lead(2);
    struct frame frame = {.type = types[_i], .request = ID};
    ck_assert(peer_send(&joined[1], &frame, NULL, NULL));
    check_hears(&joined[1], 0, FAS_INVALID_ARGUMENT, "frame.type");
    check_hears(&bad, 0, FAS_INVALID_ARGUMENT, "frame.type");
    check_hung_up(&bad);
}
END_TEST

START_TEST(a_request)
{
    lead(2);
    ck_assert(exchange_message(&small, ID, 0, &message));
    message.frame.payload_bytes = 0; /* it is refused before its payload */
    ck_assert(peer_send(&joined[1], &message.frame, message.header, NULL));
    check_hears(&joined[1], 0, FAS_INVALID_ARGUMENT, "frame.type");
    check_hears(&bad, 0, FAS_INVALID_ARGUMENT, "frame.type");
    check_hung_up(&bad);
}
END_TEST

/* The chunk still lands in the memory of the first request of that id; were there a second one, it
 * would be taken for its. */
START_TEST(an_id_again_while_a_chunk_of_it_still_lands)
{
    uint8_t head[FRAME_HEAD_BYTES_MAX];
    struct exchange_message half;
    struct frame cancel = {.type = FRAME_CANCEL, .request = ID};
    lead(2);
    send_part(&large, &bad, ID, 0);
    ck_assert(exchange_message(&large, ID, 1, &half));
    ck_assert(peer_send_bytes(&joined[1], head, peer_head(&joined[1], &half.frame, head)));
    ck_assert(peer_send_bytes(&joined[1], half.payload, 1000));
    usleep(20000); /* it has begun to land */
    ck_assert(peer_send(&bad, &cancel, NULL, NULL));
    check_hears(&bad, ID, FAS_CANCELLED, "");
    send_part(&large, &bad, ID + 1, 0);
    ck_assert(exchange_message(&large, ID, 0, &message));
    peer_send(&bad, &message.frame, message.header, message.payload); /* it may be refused midway */
    cancel.request = ID + 1; /* whatever it is that comes first among those that are left */
    peer_send(&bad, &cancel, NULL, NULL);
    enum peer_event event = peer_receive(&bad, ANSWER_MS);
    if (event == PEER_MESSAGE && bad.frame.request == ID + 1) {
        peer_send_bytes(&joined[1], (const uint8_t *)half.payload + 1000,
                        half.frame.payload_bytes - 1000);
        event = peer_receive(&bad, ANSWER_MS);
    }
    ck_assert_int_eq(event, PEER_MESSAGE);
    check_says(&bad, 0, FAS_INVALID_ARGUMENT, "frame.request");
    check_hung_up(&bad);
}
END_TEST

/* ---- when one goes ---- */

/* An upload is half done, in all lanes. */
static void begin_upload(void)
{
    lead(3);
    send_part(&large, &bad, ID, 0);
    send_part(&large, &joined[1], ID, 1);
    send_part(&large, &joined[2], ID, 2);
    uint8_t head[FRAME_HEAD_BYTES_MAX];
    ck_assert(exchange_message(&large, ID, 3, &message));
    size_t bytes = peer_head(&joined[1], &message.frame, head);
    ck_assert(peer_send_bytes(&joined[1], head, bytes)); /* and in the midst of a payload */
    ck_assert(peer_send_bytes(&joined[1], message.payload, 1000));
    synchronize(&joined[2]);
}

START_TEST(one_dies_in_the_midst_of_an_upload)
{
    begin_upload();
    peer_close(&joined[1 + _i]);
    check_hung_up(&bad);
    check_hung_up(&joined[2 - _i]);
}
END_TEST

START_TEST(the_leader_dies_in_the_midst_of_an_upload)
{
    begin_upload();
    peer_close(&bad);
    check_hung_up(&joined[1]);
    check_hung_up(&joined[2]);
}
END_TEST

START_TEST(one_dies_in_the_midst_of_results)
{
    lead(3);
    for (uint64_t id = 1; id < 4; id++) {
        ck_assert(exchange_send(&large, &bad, id));
    }
    peer_close(&joined[1]);
    check_hung_up(&bad);
    check_hung_up(&joined[2]);
}
END_TEST

START_TEST(one_stalls_in_the_midst_of_a_payload)
{
    begin_upload();
    check_hung_up(&joined[2]); /* progress-timeout is 400 ms */
    check_hung_up(&bad);
}
END_TEST

/* "tcp": the leader comes that way. */
int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "tcp") == 0) {
        use_tcp();
    }
    for (size_t i = 0; i < FAS_LANES_MAX; i++) {
        joined[i].fd = -1;
    }
    Suite *suite = suite_create("lanes");
    TCase *tcase = tcase_create("lanes");
    tcase_set_timeout(tcase, 30);
    tcase_add_unchecked_fixture(tcase, start_daemon, stop_daemon);
    tcase_add_checked_fixture(tcase, connect_both, leave_all);
    tcase_add_test(tcase, a_nonce_nobody_was_given);
    tcase_add_test(tcase, nonces_differ);
    tcase_add_test(tcase, a_nonce_of_a_client_that_is_gone);
    tcase_add_test(tcase, a_nonce_joins_for_as_long_as_hello_may_take);
    tcase_add_test(tcase, a_joined_connection_is_joined_by_nobody);
    tcase_add_test(tcase, another_principal);
    tcase_add_test(tcase, too_many);
    tcase_add_test(tcase, data_by_all_and_before_its_request);
    tcase_add_test(tcase, results_by_all);
    tcase_add_test(tcase, data_of_a_request_that_is_over);
    tcase_add_test(tcase, one_chunk_by_two);
    tcase_add_test(tcase, data_of_no_request);
    tcase_add_loop_test(tcase, more_than_payloads, 0, 3);
    tcase_add_test(tcase, a_request);
    tcase_add_test(tcase, an_id_again_while_a_chunk_of_it_still_lands);
    tcase_add_loop_test(tcase, one_dies_in_the_midst_of_an_upload, 0, 2);
    tcase_add_test(tcase, the_leader_dies_in_the_midst_of_an_upload);
    tcase_add_test(tcase, one_dies_in_the_midst_of_results);
    tcase_add_test(tcase, one_stalls_in_the_midst_of_a_payload);
    suite_add_tcase(suite, tcase);
    return run_suite(suite);
}
