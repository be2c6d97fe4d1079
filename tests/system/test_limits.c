/*
 * test_limits.c: what a daemon does at its limits: too many connections, no descriptors, an arena
 * that is full, a peer that asks without end and never listens, and signals while requests are
 * unfinished. Whoever came first keeps being served; who comes later is told to wait, and is served
 * when there is room again.
 */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "tests/proto/check_error.h"
#include "tests/support/daemon.h"
#include "tests/support/exchange.h"
#include "tests/support/peer.h"

enum { ANSWER_MS = 10000, EXIT_AT_ONCE = 69 };

static struct daemon server;
static struct exchange small;
static struct peer peers[40];

static void start(const char *const *options)
{
    daemon_start(&server, options);
    exchange_open(&small, 3);
}

/* Clients go first: a drain waits for what they left unfinished. */
static void stop(void)
{
    for (size_t i = 0; i < COUNT_OF(peers); i++) {
        if (peers[i].payload != NULL) {
            peer_close(&peers[i]);
        }
    }
    exchange_close(&small);
    ck_assert_int_eq(daemon_stop(&server), 0);
}

static void check_served(struct peer *peer, uint64_t id)
{
    ck_assert(exchange_send(&small, peer, id));
    const char *wrong = exchange_receive(&small, peer, id);
    ck_assert_msg(wrong == NULL, "%s", wrong);
}

/* A new client, greeted in the end: a limit may hold for a moment after others left. */
static void connect_soon(struct peer *peer)
{
    for (int tries = 0; tries < 500; tries++) {
        if (peer_connect(peer, server.socket) && peer_greet(peer)) {
            return;
        }
        peer_close(peer);
        usleep(10000);
    }
    ck_abort_msg("nobody can connect any more");
}

/* It is told why, and closed. */
static void check_turned_away(struct peer *peer)
{
    struct fas_error told, error;
    ck_assert(peer_connect(peer, server.socket));
    ck_assert(!peer_greet(peer));
    ck_assert_int_eq(peer->frame.type, FRAME_ERROR);
    ck_assert_int_eq(wire_decode_error(peer->header, peer->frame.header_bytes, &told, &error),
                     FAS_OK);
    ck_assert_int_eq(told.status, FAS_RESOURCE_EXHAUSTED);
    ck_assert_str_eq(told.field, "connections");
    ck_assert_int_eq(peer_receive(peer, ANSWER_MS), PEER_CLOSED);
    peer_close(peer);
}

/* Of three places a quarter is none: all are one principal's to take. */
START_TEST(one_connection_too_many_is_told_and_the_others_are_served)
{
    start((const char *const[]){"--device", "cpu:0", "--arena-bytes", "16MiB", "--connections-max",
                                "3", NULL});
    for (int i = 0; i < 3; i++) {
        connect_soon(&peers[i]);
    }
    for (int i = 0; i < 10; i++) {
        check_turned_away(&peers[3]);
    }
    for (int i = 0; i < 3; i++) {
        check_served(&peers[i], 1);
    }
    peer_close(&peers[0]);
    connect_soon(&peers[3]);
    check_served(&peers[3], 1);
    stop();
}
END_TEST

/* Eight places: two are left to others, however often one principal comes. */
START_TEST(one_principal_leaves_a_quarter_of_the_places_and_is_told)
{
    start((const char *const[]){"--device", "cpu:0", "--arena-bytes", "16MiB", "--connections-max",
                                "8", NULL});
    for (int i = 0; i < 6; i++) {
        connect_soon(&peers[i]);
    }
    for (int i = 0; i < 10; i++) {
        check_turned_away(&peers[6]);
    }
    for (int i = 0; i < 6; i++) {
        check_served(&peers[i], 1);
    }
    peer_close(&peers[0]);
    connect_soon(&peers[6]);
    check_served(&peers[6], 1);
    stop();
}
END_TEST

/* All places, and those beyond them: nobody waits until these have had their time to say HELLO. */
START_TEST(who_says_nothing_keeps_nobody_out)
{
    enum { SILENT = 30 };
    start((const char *const[]){"--device", "cpu:0", "--arena-bytes", "16MiB", "--connections-max",
                                "4", "--hello-timeout", "10min", NULL});
    connect_soon(&peers[0]);
    for (int i = 1; i < SILENT; i++) {
        ck_assert(peer_connect(&peers[i], server.socket));
        usleep(2000); /* taken in one by one: a crowd at once is another matter */
    }
    connect_soon(&peers[SILENT]);
    check_served(&peers[SILENT], 1);
    check_served(&peers[0], 1); /* who was there before is not disturbed */
    stop();
}
END_TEST

static double cpu_seconds(void)
{
    clockid_t clock;
    struct timespec used = {0, 0};
    ck_assert_int_eq(clock_getcpuclockid(server.pid, &clock), 0);
    clock_gettime(clock, &used);
    return (double)used.tv_sec + (double)used.tv_nsec * 1e-9;
}

START_TEST(without_descriptors_it_waits_and_does_not_spin)
{
    start((const char *const[]){"--device", "cpu:0", "--arena-bytes", "16MiB", NULL});
    connect_soon(&peers[0]);
    rlim_t count = (rlim_t)daemon_descriptors(&server) + 3;
    struct rlimit few = {count, count};
    ck_assert_int_eq(prlimit(server.pid, RLIMIT_NOFILE, &few, NULL), 0);
    for (int i = 1; i < 40; i++) { /* the kernel takes them; the daemon can not */
        ck_assert(peer_connect(&peers[i], server.socket));
    }
    usleep(200000);
    double before = cpu_seconds();
    check_served(&peers[0], 1);
    usleep(500000);
    double used = cpu_seconds() - before;
    ck_assert_msg(used < 0.25, "%.3f s of CPU in half a second of waiting", used);
    for (int i = 1; i < 40; i++) {
        peer_close(&peers[i]);
    }
    connect_soon(&peers[1]);
    check_served(&peers[1], 1);
    check_served(&peers[0], 2);
    stop();
}
END_TEST

static void ask(struct peer *peer, const struct wire_request *request, uint64_t id)
{
    uint8_t header[FAS_HEADER_BYTES_MAX];
    struct frame frame = {.type = FRAME_REQUEST,
                          .request = id,
                          .header_bytes = (uint32_t)wire_encode_request(request, header)};
    ck_assert(peer_send(peer, &frame, header, NULL));
}

static void check_error_of(struct peer *peer, uint64_t id, enum fas_status status,
                           struct fas_error *decoded)
{
    struct fas_error error;
    ck_assert_int_eq(peer_receive(peer, ANSWER_MS), PEER_MESSAGE);
    ck_assert_str_eq(frame_type_name(peer->frame.type), "ERROR");
    ck_assert_uint_eq(peer->frame.request, id);
    ck_assert_int_eq(wire_decode_error(peer->header, peer->frame.header_bytes, decoded, &error),
                     FAS_OK);
    ck_assert_msg(decoded->status == status, "%s, %s: %s", fas_status_name(decoded->status),
                  decoded->field, decoded->text);
}

/* 296 bytes a row: 100,000 rows take half of the arena. */
static struct wire_request half_an_arena(void)
{
    struct wire_request request = small.request;
    request.batch = 1000;
    request.q = request.k = (struct wire_side){.max_len = 100};
    request.dims.total_q = request.dims.total_k = 100000;
    return request;
}

START_TEST(a_full_arena_says_when_to_come_back)
{
    start((const char *const[]){"--device", "cpu:0", "--arena-bytes", "64MiB",
                                "--bytes-per-principal", "64MiB", NULL});
    connect_soon(&peers[0]);
    struct wire_request request = half_an_arena();
    struct fas_error error;
    ask(&peers[0], &request, 1); /* holds its memory: its DATA has not come */
    ask(&peers[0], &request, 2);
    check_error_of(&peers[0], 2, FAS_RESOURCE_EXHAUSTED, &error);
    ck_assert_str_ne(error.field, "");
    ck_assert_uint_ge(error.retry_after_ms, 1);
    ck_assert_uint_le(error.retry_after_ms, 10000);
    check_served(&peers[0], 3); /* what fits beside it is served */
    struct frame cancel = {.type = FRAME_CANCEL, .request = 1};
    ck_assert(peer_send(&peers[0], &cancel, NULL, NULL));
    check_error_of(&peers[0], 1, FAS_CANCELLED, &error);
    ask(&peers[0], &request, 4); /* there is room again */
    check_served(&peers[0], 5);
    stop();
}
END_TEST

START_TEST(requests_beyond_the_connections_share_wait)
{
    start((const char *const[]){"--device", "cpu:0", "--arena-bytes", "64MiB",
                                "--requests-per-connection", "3", NULL});
    connect_soon(&peers[0]);
    ck_assert_uint_eq(peers[0].ack.limits.requests_in_flight, 3);
    struct fas_error error;
    struct exchange_message message;
    for (uint64_t id = 1; id <= 4; id++) {
        exchange_message(&small, id, 0, &message);
        ck_assert(peer_send(&peers[0], &message.frame, message.header, message.payload));
    }
    check_error_of(&peers[0], 4, FAS_RESOURCE_EXHAUSTED, &error);
    ck_assert_str_eq(error.field, "requests_in_flight");
    stop();
}
END_TEST

/* One of the daemon's numbers, asked for by a client of its own. */
static double stat_of(struct peer *peer, const char *name)
{
    static struct wire_stats stats;
    const struct frame frame = {.type = FRAME_STATS, .request = 1};
    struct fas_error error;
    ck_assert(peer_send(peer, &frame, NULL, NULL));
    ck_assert_int_eq(peer_receive(peer, ANSWER_MS), PEER_MESSAGE);
    ck_assert_int_eq(wire_decode_stats(peer->header, peer->frame.header_bytes, &stats, &error),
                     FAS_OK);
    for (uint32_t i = 0; i < stats.count; i++) {
        if (strcmp(stats.stats[i].name, name) == 0) {
            return stats.stats[i].value;
        }
    }
    ck_abort_msg("there is no number called %s", name);
}

/* Megabytes of results, which the daemon hands on 0.8 MB at a time. Of so many sequences the last
 * part is about that long, too, so that not all of it goes into the socket's buffers: they hold 0.4
 * MB, or 1 MB where net.core.wmem_max is raised, and the part before it is in them as well. */
enum { WIDE_SEQUENCES = 5600 };

struct wide {
    struct exchange exchange;
    struct exchange_rows rows; /* still to come */
    bool done;
};

static void take_one(struct wide *wide, struct peer *peer)
{
    ck_assert_int_eq(peer_receive(peer, ANSWER_MS), PEER_MESSAGE);
    const char *wrong = exchange_take(&wide->exchange, peer, 1, &wide->rows, &wide->done);
    ck_assert_msg(wrong == NULL, "%s", wrong);
}

/* A peer whose request is answered, though it has not read all of the answer, so that the memory is
 * still being sent from; it is allowed one request. False: a busy machine let it read so much while
 * the daemon was late that the rest has gone out. */
static bool answered_before_it_is_read(struct wide *wide)
{
    start((const char *const[]){"--device", "cpu:0", "--arena-bytes", "64MiB",
                                "--requests-per-principal", "1", NULL});
    *wide = (struct wide){.done = false};
    exchange_open(&wide->exchange, WIDE_SEQUENCES);
    exchange_expect(&wide->exchange, &wide->rows);
    connect_soon(&peers[0]);
    connect_soon(&peers[1]);
    ck_assert(exchange_send(&wide->exchange, &peers[0], 1));
    take_one(wide, &peers[0]);
    while (stat_of(&peers[1], "requests_ok") < 1) { /* that is when its last bytes are handed on */
        take_one(wide, &peers[0]);
        usleep(10000);
    }
    return stat_of(&peers[1], "requests_in_flight") == 1;
}

/* Such a peer sends the next. */
static void ask_before_the_answer_is_read(struct wide *wide)
{
    for (int tries = 1; !answered_before_it_is_read(wide); tries++) {
        ck_assert_int_lt(tries, 10);
        exchange_close(&wide->exchange);
        stop();
    }
    ck_assert(exchange_send(&small, &peers[0], 2));
}

/* It can not know that the daemon's last send is not over yet. */
START_TEST(who_has_an_answer_may_ask_again_though_it_is_still_being_sent)
{
    struct wide wide;
    ask_before_the_answer_is_read(&wide);
    while (!wide.done) {
        take_one(&wide, &peers[0]);
    }
    const char *wrong = exchange_receive(&small, &peers[0], 2);
    ck_assert_msg(wrong == NULL, "%s", wrong);
    exchange_close(&wide.exchange);
    stop();
}
END_TEST

START_TEST(who_does_not_take_his_answer_is_told_to_come_back_in_the_end)
{
    struct wide wide;
    struct fas_error error;
    ask_before_the_answer_is_read(&wide);
    for (int tries = 0; stat_of(&peers[1], "requests_resource_exhausted") < 1; tries++) {
        ck_assert_int_lt(tries, 1000);
        usleep(10000);
    }
    while (!wide.done) {
        take_one(&wide, &peers[0]);
    }
    check_error_of(&peers[0], 2, FAS_RESOURCE_EXHAUSTED, &error);
    ck_assert_str_eq(error.field, "requests");
    check_served(&peers[0], 3);
    exchange_close(&wide.exchange);
    stop();
}
END_TEST

/* Sends until the daemon takes no more for a second: it must stop reading, not store. */
static void flood(struct peer *peer, const struct frame *frame, const void *header)
{
    uint8_t message[FRAME_HEAD_BYTES_MAX + 256];
    size_t bytes = frame_encode(frame, true, message), at = 0;
    memcpy(message + bytes, header, frame->header_bytes);
    bytes += frame->header_bytes;
    fcntl(peer->fd, F_SETFL, O_NONBLOCK);
    for (int idle = 0; idle < 100;) {
        ssize_t sent = write(peer->fd, message + at, bytes - at);
        if (sent > 0) {
            at = (at + (size_t)sent) % bytes;
            idle = 0;
        } else if (sent < 0 && errno == EAGAIN) {
            usleep(10000);
            idle++;
        } else {
            return; /* closed: fine too */
        }
    }
}

START_TEST(who_asks_without_end_and_never_listens_stands_still)
{
    start((const char *const[]){"--device", "cpu:0", "--arena-bytes", "16MiB", NULL});
    uint8_t header[256];
    struct wire_request refused = small.request;
    refused.dims.d = 9;
    struct frame floods[] = {
        {.type = FRAME_PING, .request = 1},
        {.type = FRAME_STATS, .request = 1},
        {.type = FRAME_REQUEST,
         .request = 1,
         .header_bytes = (uint32_t)wire_encode_request(&refused, header)},
    };
    connect_soon(&peers[0]);
    check_served(&peers[0], 1);
    long before_kib = daemon_resident_kib(&server);
    for (size_t i = 0; i < COUNT_OF(floods); i++) {
        connect_soon(&peers[1 + i]);
        flood(&peers[1 + i], &floods[i], header);
        check_served(&peers[0], 2 + i);
    }
    /* A daemon that stores would take all that a flood sends, and it sends until it may not. Thread
     * sanitizer's shadow takes 16 MiB of this. */
    ck_assert_int_le(daemon_resident_kib(&server), before_kib + 32768);
    for (size_t i = 0; i < COUNT_OF(floods); i++) {
        peer_close(&peers[1 + i]);
    }
    check_served(&peers[0], 9);
    stop();
}
END_TEST

/* Whether something is to be read. */
static bool hears(const struct peer *peer, int timeout_ms)
{
    struct pollfd readable = {.fd = peer->fd, .events = POLLIN};
    return poll(&readable, 1, timeout_ms) > 0;
}

/* Two connections have something to say, which waits for the daemon: a thousand times as much is on
 * the one that comes first. The other one is answered before that is all read, or at least now and
 * then: how long this process sleeps between two looks is up to the machine. */
START_TEST(who_says_a_lot_does_not_say_it_all_at_once)
{
    enum { CANCELS = 3000, ROUNDS = 40 };
    static uint8_t lot[(CANCELS + 1) * FRAME_HEAD_BYTES_MAX];
    struct frame cancel = {.type = FRAME_CANCEL, .request = 5};
    const struct frame ping = {.type = FRAME_PING, .request = 6};
    size_t bytes = 0;
    int before = 0;
    start((const char *const[]){"--device", "cpu:0", "--arena-bytes", "16MiB", NULL});
    connect_soon(&peers[0]);
    connect_soon(&peers[1]);
    for (int i = 0; i < CANCELS; i++) {
        bytes += frame_encode(&cancel, true, lot + bytes);
    }
    bytes += frame_encode(&ping, true, lot + bytes);
    for (int round = 0; round < ROUNDS && before == 0; round++) {
        kill(server.pid, SIGSTOP);
        ck_assert(peer_send_bytes(&peers[0], lot, bytes));
        ck_assert(peer_send(&peers[1], &ping, NULL, NULL));
        kill(server.pid, SIGCONT);
        ck_assert(hears(&peers[1], ANSWER_MS));
        before += !hears(&peers[0], 0);
        for (int i = 0; i < 2; i++) {
            ck_assert_int_eq(peer_receive(&peers[i], ANSWER_MS), PEER_MESSAGE);
            ck_assert_int_eq(peers[i].frame.type, FRAME_PONG);
        }
    }
    ck_assert_int_gt(before, 0);
    stop();
}
END_TEST

/* A retained forward; its handle, 0: it was not kept. */
static uint64_t retain(struct exchange *exchange, struct peer *peer, uint64_t id)
{
    struct wire_done done;
    struct fas_error error;
    exchange->request.retain = true;
    ck_assert(exchange_send(exchange, peer, id));
    const char *wrong = exchange_receive(exchange, peer, id);
    ck_assert_msg(wrong == NULL, "%s", wrong);
    ck_assert_int_eq(wire_decode_done(peer->header, peer->frame.header_bytes, &done, &error),
                     FAS_OK);
    return done.handle;
}

/* A backward of it, whose gradient is not sent: until it ends it is a reader of what is kept. */
static void begin_backward(const struct exchange *exchange, struct peer *peer, uint64_t id,
                           uint64_t handle)
{
    struct exchange backward = *exchange;
    struct exchange_message message;
    const struct frame ping = {.type = FRAME_PING, .request = 9};
    backward.request.pass = FAS_BACKWARD;
    backward.request.retain = false;
    backward.request.handle = handle;
    ck_assert(exchange_message(&backward, id, 0, &message));
    ck_assert(peer_send(peer, &message.frame, message.header, message.payload));
    ck_assert(peer_send(peer, &ping, NULL, NULL));
    ck_assert_int_eq(peer_receive(peer, ANSWER_MS), PEER_MESSAGE);
    ck_assert_int_eq(peer->frame.type, FRAME_PONG); /* it was not refused */
}

/* One fits. What is being read can not make way for a second one, which then is not kept: or who
 * reads all he has could keep the whole arena. */
START_TEST(forwards_beyond_their_quota_are_not_retained)
{
    start((const char *const[]){"--device", "cpu:0", "--arena-bytes", "64MiB",
                                "--retain-bytes-per-principal", "1MiB", NULL});
    static struct exchange large; /* 0.7 MB */
    const struct frame cancel = {.type = FRAME_CANCEL, .request = 2};
    exchange_open(&large, 600);
    connect_soon(&peers[0]);
    uint64_t first = retain(&large, &peers[0], 1);
    ck_assert_uint_ne(first, 0);
    begin_backward(&large, &peers[0], 2, first);
    ck_assert_uint_eq(retain(&large, &peers[0], 3), 0);
    ck_assert(peer_send(&peers[0], &cancel, NULL, NULL));
    ck_assert_int_eq(peer_receive(&peers[0], ANSWER_MS), PEER_MESSAGE);
    ck_assert_int_eq(peers[0].frame.type, FRAME_ERROR);
    check_served(&peers[0], 4); /* that answer is sent: nobody reads the first any more */
    ck_assert_uint_gt(retain(&large, &peers[0], 5), first);
    exchange_close(&large);
    stop();
}
END_TEST

START_TEST(the_second_signal_ends_it_at_once)
{
    start((const char *const[]){"--device", "cpu:0", "--arena-bytes", "16MiB", "--drain-timeout",
                                "60s", NULL});
    struct exchange_message message;
    struct fas_error error;
    connect_soon(&peers[0]);
    exchange_message(&small, 1, 0, &message); /* accepted, and unfinished: DATA never comes */
    ck_assert(peer_send(&peers[0], &message.frame, message.header, message.payload));
    check_served(&peers[0], 2);
    kill(server.pid, SIGTERM);
    bool refused = false;
    for (uint64_t id = 3; !refused; id++) { /* the signal is seen in a moment */
        ck_assert(exchange_send(&small, &peers[0], id));
        for (bool over = false; !over;) {
            ck_assert_int_eq(peer_receive(&peers[0], ANSWER_MS), PEER_MESSAGE);
            refused = peers[0].frame.type == FRAME_ERROR;
            over = refused || peers[0].frame.type == FRAME_DONE;
        }
    }
    ck_assert_int_eq(
        wire_decode_error(peers[0].header, peers[0].frame.header_bytes, &error, &error), FAS_OK);
    ck_assert_int_eq(error.status, FAS_UNAVAILABLE);
    ck_assert(daemon_alive(&server)); /* it waits for request 1 */
    kill(server.pid, SIGTERM);
    ck_assert_int_eq(daemon_wait(&server), EXIT_AT_ONCE);
    exchange_close(&small);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("limits");
    TCase *tcase = tcase_create("limits");
    tcase_set_timeout(tcase, 30);
    tcase_add_test(tcase, one_connection_too_many_is_told_and_the_others_are_served);
    tcase_add_test(tcase, one_principal_leaves_a_quarter_of_the_places_and_is_told);
    tcase_add_test(tcase, who_says_nothing_keeps_nobody_out);
    tcase_add_test(tcase, without_descriptors_it_waits_and_does_not_spin);
    tcase_add_test(tcase, a_full_arena_says_when_to_come_back);
    tcase_add_test(tcase, requests_beyond_the_connections_share_wait);
    tcase_add_test(tcase, who_has_an_answer_may_ask_again_though_it_is_still_being_sent);
    tcase_add_test(tcase, who_does_not_take_his_answer_is_told_to_come_back_in_the_end);
    tcase_add_test(tcase, who_asks_without_end_and_never_listens_stands_still);
    tcase_add_test(tcase, who_says_a_lot_does_not_say_it_all_at_once);
    tcase_add_test(tcase, forwards_beyond_their_quota_are_not_retained);
    tcase_add_test(tcase, the_second_signal_ends_it_at_once);
    suite_add_tcase(suite, tcase);
    return run_suite(suite);
}
