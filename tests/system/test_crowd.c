/*
 * A daemon among many clients: some stall, some are slow, some are killed, and one wants its work
 * done. Memory stays what it was, and a daemon that is killed leaves no call hanging.
 */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/support/check_main.h"
#include "tests/support/daemon.h"
#include "tests/support/exchange.h"
#include "tests/support/job.h"
#include "tests/support/peer.h"
#include "tests/support/watch.h"

static const char *const options[] = {"--device", "cpu:0", "--cpu-threads", "1", "--arena-bytes",
                                      "256MiB",   NULL};

static struct fas_client *connect_to(const struct daemon *daemon)
{
    struct fas_connect_options connect = {.url = daemon->url};
    struct fas_client *client = NULL;
    struct fas_error error;
    ck_assert_msg(fas_connect(&connect, &client, &error) == FAS_OK, "%s", error.text);
    return client;
}

/* A request whose result is 16 MiB and costs next to nothing: one row of each side is used. */
static struct fas_request large_result(void)
{
    enum { ROWS = 32768 };
    static const int32_t one = 1;
    static uint16_t q[ROWS * 8], k[8], v[256];
    static uint16_t o[ROWS * 256];
    return (struct fas_request){.dims = {FAS_BF16, 1, 1, 8, 256, ROWS, 1},
                                .batch = 1,
                                .q = {.max_len = ROWS, .seqused = &one},
                                .k = {.max_len = 1},
                                .tensors = {{q}, {k}, {v}, {o}}};
}

/* The same by hand: its messages, so that a peer can leave the answer unread. */
static bool peer_ask(struct peer *peer, uint64_t id)
{
    struct fas_request request = large_result();
    struct wire_request wire = {.dims = request.dims,
                                .batch = 1,
                                .no_lse = true,
                                .q = {.has_seqused = true, .max_len = request.q.max_len},
                                .k = {.max_len = 1}};
    static uint8_t header[FAS_HEADER_BYTES_MAX];
    struct frame frame = {
        .type = FRAME_REQUEST, .request = id, .payload_bytes = wire_lengths_bytes(&wire)};
    frame.header_bytes = (uint32_t)wire_encode_request(&wire, header);
    bool good = peer_send(peer, &frame, header, request.q.seqused);
    for (int tensor = FAS_Q; tensor <= FAS_V; tensor++) {
        uint64_t all = fas_tensor_bytes(&request.dims, (enum fas_tensor)tensor);
        uint32_t chunk_bytes = peer->ack.limits.chunk_bytes;
        const uint8_t *data = request.tensors[tensor].data;
        for (uint64_t at = 0; good && at < all; at += chunk_bytes) {
            struct frame chunk = {.type = FRAME_DATA, .flags = (uint16_t)tensor, .request = id};
            chunk.chunk = (uint32_t)(at / chunk_bytes);
            chunk.payload_bytes = all - at < chunk_bytes ? all - at : chunk_bytes;
            good = peer_send(peer, &chunk, NULL, data + at);
        }
    }
    return good;
}

/* Asks again and again and reads an answer's bytes a little at a time. */
struct slow {
    const char *path;
    atomic_bool stop;
};

static void *slow_run(void *context)
{
    struct slow *slow = context;
    struct peer peer;
    uint8_t bytes[4096];
    if (peer_connect(&peer, slow->path) && peer_greet(&peer) && peer_ask(&peer, 1)) {
        while (!slow->stop && read(peer.fd, bytes, sizeof(bytes)) > 0) {
            usleep(2000);
        }
    }
    peer_close(&peer);
    return NULL;
}

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* What half of a client's small requests take at most. */
static uint64_t median_us(struct fas_client *client, struct job *job)
{
    enum { REQUESTS = 300 };
    static uint64_t us[REQUESTS];
    for (int i = 0; i < REQUESTS; i++) {
        struct fas_report report;
        ck_assert_int_eq(fas_run(client, &job->request, &report), FAS_OK);
        ck_assert(job_right(job));
        job_reset(job);
        us[i] = report.client_us;
    }
    qsort(us, REQUESTS, sizeof us[0], by_value);
    return us[REQUESTS / 2];
}

/* A request of 50 us may take 5 times as long, and 20 ms: other tests share the cores, and may have
 * begun since it was alone. Behind one chunk of 1 MiB to the slow reader it would be half a second.
 */
static void check_fast(uint64_t us, uint64_t alone_us)
{
    ck_assert_msg(us <= 5 * alone_us + 20000, "%llu us, alone %llu us", (unsigned long long)us,
                  (unsigned long long)alone_us);
}

START_TEST(stalled_and_slow_readers_leave_others_their_speed)
{
    struct daemon daemon;
    struct peer stalled[2];
    struct random random = random_open(3);
    struct job job;
    pthread_t thread;
    daemon_start(&daemon, options);
    struct slow slow = {.path = daemon.socket};
    struct fas_client *client = connect_to(&daemon);
    job_forward(&job, &(struct job_shape){FAS_BF16, 2, 1, 64, 64, 3, 40, true, false}, &random);
    uint64_t alone_us = median_us(client, &job);
    for (int i = 0; i < 2; i++) {
        ck_assert(peer_connect(&stalled[i], daemon.socket) && peer_greet(&stalled[i]));
        ck_assert(peer_ask(&stalled[i], 1) && peer_ask(&stalled[i], 2));
    }
    pthread_create(&thread, NULL, slow_run, &slow);
    check_fast(median_us(client, &job), alone_us);
    struct fas_request large = large_result();
    for (int i = 0; i < 20; i++) {
        ck_assert_int_eq(fas_run(client, &large, NULL), FAS_OK);
    }
    slow.stop = true;
    pthread_join(thread, NULL);
    for (int i = 0; i < 2; i++) {
        peer_close(&stalled[i]);
    }
    job_close(&job);
    fas_close(client);
    ck_assert_int_eq(daemon_stop(&daemon), 0);
}
END_TEST

/* ---- killed ---- */

/* A client with uploads and results on the way all the time. Never returns. */
static void busy_client(const char *url)
{
    struct fas_connect_options connect = {.url = url};
    struct fas_client *client;
    struct fas_request large = large_result();
    if (fas_connect(&connect, &client, NULL) == FAS_OK) {
        for (;;) {
            struct fas_call *call;
            if (fas_submit(client, &large, &call, NULL) == FAS_OK) {
                fas_run(client, &large, NULL);
                fas_call_close(call);
            }
        }
    }
    _exit(1);
}

START_TEST(killed_clients_leave_nothing_behind)
{
    struct daemon daemon;
    daemon_start(&daemon, options);
    for (int i = 0; i < 12; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            busy_client(daemon.url);
        }
        usleep(30000 + (useconds_t)i * 7000); /* during connect, upload, compute, result */
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
    }
    struct fas_client *client = connect_to(&daemon);
    ck_assert_double_eq(watch_for(client, "requests_in_flight", 0), 0);
    ck_assert_double_eq(watch_stat(client, daemon_arena_stat()), 0);
    struct fas_request large = large_result();
    ck_assert_int_eq(fas_run(client, &large, NULL), FAS_OK);
    fas_close(client);
    ck_assert_int_eq(daemon_stop(&daemon), 0);
}
END_TEST

START_TEST(a_killed_daemon_leaves_no_call_hanging)
{
    enum { CALLS = 7 };
    struct daemon daemon;
    struct fas_call *calls[CALLS];
    daemon_start(&daemon, options);
    struct fas_client *client = connect_to(&daemon);
    struct fas_request large = large_result();
    for (int i = 0; i < CALLS - 1; i++) {
        ck_assert_int_eq(fas_submit(client, &large, &calls[i], NULL), FAS_OK);
    }
    usleep(20000);
    kill(daemon.pid, SIGSTOP); /* under load those before may have ended: this one has not begun */
    ck_assert_int_eq(fas_submit(client, &large, &calls[CALLS - 1], NULL), FAS_OK);
    kill(daemon.pid, SIGKILL);
    int lost = 0;
    for (int i = 0; i < CALLS; i++) {
        ck_assert(fas_wait(calls[i], 10000));
        enum fas_status status = fas_call_report(calls[i])->error.status;
        ck_assert(status == FAS_OK || status == FAS_UNAVAILABLE);
        lost += status == FAS_UNAVAILABLE;
        fas_call_close(calls[i]);
    }
    ck_assert_int_gt(lost, 0);
    ck_assert_int_eq(fas_run(client, &large, NULL), FAS_UNAVAILABLE);
    ck_assert_int_eq(fas_ping(client, 1000, NULL, NULL), FAS_UNAVAILABLE);
    fas_close(client);
    ck_assert_int_eq(daemon_wait(&daemon), -SIGKILL);
}
END_TEST

/* ---- memory ---- */

/* Resident memory without the pages of files. */
static long anonymous_kib(pid_t pid)
{
    char path[64], line[256];
    long kib = -1;
    snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
    FILE *file = fopen(path, "re");
    while (file && fgets(line, sizeof(line), file)) {
        sscanf(line, "RssAnon: %ld", &kib);
    }
    if (file) {
        fclose(file);
    }
    ck_assert_int_gt(kib, 0);
    return kib;
}

struct caller {
    struct fas_client *client;
    int requests;
    atomic_int good;
    pthread_t thread;
};

static void *caller_run(void *context)
{
    struct caller *caller = context;
    struct random random = random_open(5);
    struct job job;
    job_forward(&job, &(struct job_shape){FAS_FP32, 1, 1, 8, 8, 2, 4, false, false}, &random);
    for (int i = 0; i < caller->requests; i++) {
        caller->good += fas_run(caller->client, &job.request, NULL) == FAS_OK;
    }
    caller->good += job_right(&job);
    job_close(&job);
    return NULL;
}

static void requests(struct fas_client *client, int count)
{
    enum { CALLERS = 8 };
    static struct caller callers[CALLERS];
    for (int i = 0; i < CALLERS; i++) {
        callers[i].client = client;
        callers[i].requests = count / CALLERS;
        callers[i].good = 0;
        pthread_create(&callers[i].thread, NULL, caller_run, &callers[i]);
    }
    for (int i = 0; i < CALLERS; i++) {
        pthread_join(callers[i].thread, NULL);
        ck_assert_int_eq(callers[i].good, count / CALLERS + 1);
    }
}

START_TEST(memory_after_100000_requests_is_that_after_1000)
{
    struct daemon daemon;
    daemon_start(&daemon, options);
    struct fas_client *client = connect_to(&daemon);
    requests(client, 1000);
    long daemon_kib = anonymous_kib(daemon.pid), own_kib = anonymous_kib(getpid());
    requests(client, 100000);
    /* The arena's pages are touched at start; a leak of 16 bytes a request would be 1.5 MiB. */
    ck_assert_int_lt(anonymous_kib(daemon.pid) - daemon_kib, 1024);
    ck_assert_int_lt(anonymous_kib(getpid()) - own_kib, 1024);
    fas_close(client);
    ck_assert_int_eq(daemon_stop(&daemon), 0);
}
END_TEST

/* Of ten that came, where three may stay, it is the tenth that says who it is. */
START_TEST(the_last_to_come_is_served)
{
    enum { ALL = 10 };
    static const char *const few[] = {
        "--device", "cpu:0", "--arena-bytes", "64MiB", "--connections-max", "3", NULL};
    struct daemon daemon;
    struct exchange exchange;
    struct peer peers[ALL];
    daemon_start(&daemon, few);
    exchange_open(&exchange, 3);
    for (int i = 0; i < ALL; i++) {
        ck_assert(peer_connect(&peers[i], daemon.socket));
    }
    ck_assert(peer_greet(&peers[ALL - 1]));
    for (uint64_t id = 1; id <= 3; id++) {
        ck_assert(exchange_send(&exchange, &peers[ALL - 1], id));
        const char *wrong = exchange_receive(&exchange, &peers[ALL - 1], id);
        ck_assert_msg(wrong == NULL, "%s", wrong);
    }
    for (int i = 0; i < ALL; i++) {
        peer_close(&peers[i]);
    }
    exchange_close(&exchange);
    ck_assert_int_eq(daemon_stop(&daemon), 0);
}
END_TEST

int main(int argc, char **argv)
{
    static const struct check_row crowd[] = {
        {"stalled and slow readers leave others their speed",
         &stalled_and_slow_readers_leave_others_their_speed},
        {"the last to come is served", &the_last_to_come_is_served},
        {"killed clients leave nothing behind", &killed_clients_leave_nothing_behind},
        {"a killed daemon leaves no call hanging", &a_killed_daemon_leaves_no_call_hanging},
    };
    static const struct check_row memory[] = {
        {"memory after 100000 requests is that after 1000",
         &memory_after_100000_requests_is_that_after_1000},
    };
    (void)argv;
    return argc > 1 ? check_main("memory", memory, 1)
                    : check_main("crowd", crowd, sizeof(crowd) / sizeof(crowd[0]));
}
