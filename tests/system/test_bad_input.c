/*
 * test_bad_input.c: connections that break the rules of the wire: garbage, other versions, half
 * messages and silence, lengths that lie, headers made to hurt, credit, and cuts at every message
 * boundary. Each gets a status that names the field, or a clean close where there is nobody to
 * answer to. bad_client.h says what holds around each test.
 */
#include <check.h>
#include <string.h>
#include <unistd.h>

#include "tests/system/bad_client.h"

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
    check_connection_refused(FAS_INVALID_ARGUMENT, over_tcp() ? "frame.magic" : "frame.prefix");
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
    show_token(&hello);
    size_t bytes = wire_encode_hello(&hello, header);
    static const uint8_t newer_field[] = {0xf8, 0x7f, 1};
    memcpy(header + bytes, newer_field, sizeof newer_field);
    say_sp_hello();
    say_message(FRAME_HELLO, 0, header, bytes + sizeof newer_field);
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
    size_t bytes = sizeof frame_sp_hello + peer_head(&bad, &frame, all + sizeof frame_sp_hello);
    memcpy(all + bytes, header, frame.header_bytes);
    const size_t cuts[] = {1, 8, 9, 20, 48, 49, 50};
    ck_assert_uint_lt(cuts[COUNT_OF(cuts) - 1], bytes + frame.header_bytes);
    connect_bad();
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
    say(head, peer_head(&bad, &message.frame, head));
    say(message.payload, (size_t)message.frame.payload_bytes / 2);
    enum peer_event event;
    while ((event = peer_receive(&bad, ANSWER_MS)) == PEER_MESSAGE) { /* it may be told why */
        ck_assert_str_eq(frame_type_name(bad.frame.type), "ERROR");
    }
    ck_assert_int_eq(event, PEER_CLOSED);
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

static size_t append(uint8_t *to, size_t at, const void *bytes, size_t count)
{
    memcpy(to + at, bytes, count);
    return at + count;
}

/* The connection fails while its reader waits for what becomes of a REQUEST, which nobody will say.
 * In one piece, so that all of it is there when the first message is looked at. */
START_TEST(a_request_behind_a_credit_of_nothing)
{
    static uint8_t all[4 * FAS_CHUNK_BYTES_MIN];
    uint8_t head[FRAME_HEAD_BYTES_MAX], header[32];
    struct frame credit = {.type = FRAME_CREDIT};
    credit.header_bytes = (uint32_t)wire_encode_credit(0, header);
    ck_assert(peer_greet(&bad));
    size_t head_bytes = peer_head(&bad, &credit, head);
    size_t bytes = append(all, 0, head, head_bytes);
    bytes = append(all, bytes, header, credit.header_bytes);
    for (uint32_t i = 0; i < 2; i++) {
        ck_assert(exchange_message(&small, ID, i, &message));
        head_bytes = peer_head(&bad, &message.frame, head);
        bytes = append(all, bytes, head, head_bytes);
        bytes = append(all, bytes, message.header, message.frame.header_bytes);
        bytes = append(all, bytes, message.payload, message.frame.payload_bytes);
    }
    say(all, bytes);
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

START_TEST(a_window_too_small_for_a_row)
{
    struct wire_hello hello = {.version_min = 1, .version_max = 1, .result_credit_bytes = 16};
    show_token(&hello);
    say_sp_hello();
    say_hello(&hello);
    ck_assert_int_eq(peer_receive(&bad, ANSWER_MS), PEER_MESSAGE);
    ck_assert_str_eq(frame_type_name(bad.frame.type), "HELLO_ACK");
    say_part(&small, 0);
    check_answer(ID, FAS_INVALID_ARGUMENT, "result_credit_bytes");
}
END_TEST

/* ---- a connection cut ---- */

/* All bytes of a good client, from the SP hello to the last chunk; message boundaries in ends[]. */
static size_t write_all(uint8_t *out, size_t ends[16], size_t *end_count)
{
    struct wire_hello hello = {.version_min = 1, .version_max = 1, .result_credit_bytes = 1 << 20};
    uint8_t header[FAS_HEADER_BYTES_MAX];
    show_token(&hello);
    struct frame frame = {.type = FRAME_HELLO,
                          .header_bytes = (uint32_t)wire_encode_hello(&hello, header)};
    size_t at = sizeof frame_sp_hello, count = 0;
    ends[count++] = 0;
    memcpy(out, frame_sp_hello, at);
    ends[count++] = at;
    at += peer_head(&bad, &frame, out + at);
    memcpy(out + at, header, frame.header_bytes);
    at += frame.header_bytes;
    ends[count++] = at;
    for (uint32_t i = 0; exchange_message(&small, ID, i, &message); i++) {
        at += peer_head(&bad, &message.frame, out + at);
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
    connect_bad();
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
        connect_bad();
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
        connect_bad();
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
    connect_bad();
}
END_TEST

/* "tcp": the bad client comes that way. */
int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "tcp") == 0) {
        use_tcp();
    }
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
    tcase_add_test(tcase, a_length_that_is_not_the_sum_of_its_parts);
    tcase_add_test(tcase, a_payload_of_2_to_the_62);
    tcase_add_test(tcase, a_header_of_4_gib);
    tcase_add_test(tcase, lengths_of_another_size_than_the_batch);
    tcase_add_test(tcase, a_hello_of_nothing_but_nesting);
    tcase_add_test(tcase, a_request_of_nothing_but_nesting);
    tcase_add_test(tcase, a_request_that_is_not_protobuf);
    tcase_add_test(tcase, more_data_than_credit);
    tcase_add_test(tcase, a_credit_of_nothing);
    tcase_add_test(tcase, a_request_behind_a_credit_of_nothing);
    tcase_add_test(tcase, credit_without_end);
    tcase_add_test(tcase, a_window_too_small_for_a_row);
    tcase_add_test(tcase, cut_at_every_message_boundary);
    tcase_add_test(tcase, cut_anywhere);
    tcase_add_test(tcase, gone_while_results_are_on_their_way);
    tcase_add_test(tcase, nothing_is_left_behind);
    suite_add_tcase(suite, tcase);
    return run_suite(suite);
}
