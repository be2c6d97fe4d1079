/* bad_client.c: see bad_client.h. */
#include "tests/system/bad_client.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Small enough that a request can be too large, short enough that silence is seen in a test. */
static const char *options[] = {"--device",
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
                                NULL, /* room for the listener and tokens of use_tcp */
                                NULL,
                                NULL,
                                NULL,
                                NULL};

static char token[] = "0123456789abcdef0123456789abcdef";
static char token_file[] = "/tmp/faserved-tokens-XXXXXX", listen_tcp[32];
static uint16_t port; /* 0: unix socket */

struct daemon server;
struct exchange small, large;
struct peer good, bad;
struct exchange_message message;

bool over_tcp(void)
{
    return port != 0;
}

void use_tcp(void)
{
    size_t count = 0;
    int fd = mkstemp(token_file);
    while (options[count]) {
        count++;
    }
    if (fd < 0 || dprintf(fd, "bad %s\n", token) < 0) {
        perror(token_file);
        exit(EXIT_FAILURE);
    }
    close(fd);
    port = (uint16_t)daemon_port();
    snprintf(listen_tcp, sizeof listen_tcp, "127.0.0.1:%u", port);
    options[count++] = "--listen-tcp";
    options[count++] = listen_tcp;
    options[count++] = "--token-file";
    options[count++] = token_file;
}

bool connect_like_bad(struct peer *peer)
{
    return over_tcp() ? peer_connect_tcp(peer, port, token) : peer_connect(peer, server.socket);
}

void connect_bad(void)
{
    peer_close(&bad);
    ck_assert(connect_like_bad(&bad));
}

void show_token(struct wire_hello *hello)
{
    if (over_tcp()) {
        hello->token_bytes = (uint32_t)strlen(token);
        memcpy(hello->token, token, hello->token_bytes);
    }
}

void start_daemon(void)
{
    daemon_start(&server, options);
    exchange_open(&small, 3);
    exchange_open(&large, 600);
}

void stop_daemon(void)
{
    exchange_close(&small);
    exchange_close(&large);
    int status = daemon_stop(&server);
    unlink(token_file); /* if there is one */
    if (status != 0) {
        fprintf(stderr, "faserved ended with %d\n", status);
        exit(EXIT_FAILURE);
    }
}

void check_served(struct peer *peer, uint64_t id)
{
    ck_assert(exchange_send(&small, peer, id));
    const char *wrong = exchange_receive(&small, peer, id);
    ck_assert_msg(wrong == NULL, "the good client: %s", wrong);
}

void connect_both(void)
{
    ck_assert(peer_connect(&good, server.socket));
    ck_assert(peer_greet(&good));
    check_served(&good, 1);
    connect_bad();
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

double daemon_requests(void)
{
    static struct wire_stats stats;
    ask_stats(&stats);
    return stat_of(&stats, "requests_in_flight");
}

/* Nobody but the good client is connected, no request is held, no byte of the arena is in use, and
 * no place is open but the good client's own. */
static bool all_given_back(void)
{
    static struct wire_stats stats;
    ask_stats(&stats);
    return stat_of(&stats, "connections") == 1 && stat_of(&stats, "requests_in_flight") == 0 &&
           stat_of(&stats, daemon_arena_stat()) == 0 && stat_of(&stats, "places") <= 1;
}

void served_as_before(void)
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

void check_answer(uint64_t id, enum fas_status expected, const char *field)
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

void check_closed(void)
{
    enum peer_event event = peer_receive(&bad, ANSWER_MS);
    ck_assert_msg(event == PEER_CLOSED, "%s instead of a close",
                  event == PEER_SILENT ? "silence" : frame_type_name(bad.frame.type));
}

void check_connection_refused(enum fas_status expected, const char *field)
{
    check_answer(0, expected, field);
    check_closed();
}

void check_request_refused(enum fas_status expected, const char *field)
{
    check_answer(ID, expected, field);
    check_served(&bad, ID + 1);
}

void check_ends(void)
{
    uint8_t rest[4096];
    while (read(bad.fd, rest, sizeof rest) > 0) {
    }
}

void say(const void *bytes, size_t count)
{
    peer_send_bytes(&bad, bytes, count); /* the daemon may have closed already */
}

void say_sp_hello(void)
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

void say_message(enum frame_type type, uint64_t request, const void *header, size_t bytes)
{
    struct frame frame = {.type = type, .request = request, .header_bytes = (uint32_t)bytes};
    peer_send(&bad, &frame, header, NULL);
}

void say_hello(const struct wire_hello *hello)
{
    uint8_t header[FAS_HEADER_BYTES_MAX];
    say_message(FRAME_HELLO, 0, header, wire_encode_hello(hello, header));
}

void say_part(const struct exchange *exchange, uint32_t index)
{
    ck_assert(exchange_message(exchange, ID, index, &message));
    peer_send(&bad, &message.frame, message.header, message.payload);
}

void say_head(struct frame frame, size_t offset, const void *change, size_t bytes)
{
    uint8_t head[FRAME_HEAD_BYTES_MAX];
    size_t count = peer_head(&bad, &frame, head);
    memcpy(head + offset - (over_tcp() ? 1 : 0), change, bytes);
    say(head, count);
}
