/* A device fails: its requests end as DEVICE_FAULT, the others do not notice. */
#include <stdlib.h>
#include <unistd.h>

#include "tests/support/check_main.h"
#include "tests/support/daemon.h"
#include "tests/support/exchange.h"
#include "tests/support/job.h"
#include "tests/support/peer.h"
#include "tests/support/watch.h"

static const struct job_shape shape = {FAS_BF16, 4, 2, 64, 64, 4, 100, true, false};

static void start(struct daemon *daemon, const char *devices, const char *fault)
{
    const char *const arguments[] = {"--device", devices, "--cpu-threads", "1", "--arena-bytes",
                                     "64MiB",    NULL};
    setenv("FASERVED", FASERVED_FAULTY_PATH, 1);
    setenv("FASERVED_FAULT", fault, 1);
    daemon_start(daemon, arguments);
}

static struct fas_client *connect_to(const struct daemon *daemon)
{
    struct fas_connect_options options = {.url = daemon->url};
    struct fas_client *client;
    ck_assert_int_eq(fas_connect(&options, &client, NULL), FAS_OK);
    return client;
}

enum { MANY = 48, ROUNDS_MAX = 50 };

/* Submits many at once, again and again until some have ended as DEVICE_FAULT: how many launches a
 * device gets of one round is up to the moment, but each round gives it one. Returns how many. */
static int run_until_fault(struct fas_client *client, const struct fas_request *request)
{
    struct fas_call *calls[MANY];
    int faults = 0;
    for (int round = 0; round < ROUNDS_MAX && faults == 0; round++) {
        for (int i = 0; i < MANY; i++) {
            ck_assert_int_eq(fas_submit(client, request, &calls[i], NULL), FAS_OK);
        }
        for (int i = 0; i < MANY; i++) {
            ck_assert_msg(fas_wait(calls[i], 20000), "call %d", i);
            enum fas_status status = fas_call_report(calls[i])->error.status;
            ck_assert(status == FAS_OK || status == FAS_DEVICE_FAULT);
            faults += status == FAS_DEVICE_FAULT;
            fas_call_close(calls[i]);
        }
    }
    return faults;
}

START_TEST(the_other_device_goes_on)
{
    struct daemon daemon;
    struct random random = random_open(1);
    struct job job;
    struct fas_report report;
    start(&daemon, "cpu:0,cpu:1", "cpu:1 2");
    struct fas_client *client = connect_to(&daemon);
    job_forward(&job, &shape, &random);
    job.request.tensors[FAS_LSE].data = NULL; /* the calls write equal bits to one place */
    ck_assert_int_ge(run_until_fault(client, &job.request), 1);
    for (int i = 0; i < 8; i++) { /* safe to resubmit */
        ck_assert_int_eq(fas_run(client, &job.request, &report), FAS_OK);
        ck_assert_str_eq(report.device, "cpu:0");
    }
    job_close(&job);
    fas_close(client);
    ck_assert_int_eq(daemon_stop(&daemon), 0);
}
END_TEST

/* A GPU fails at a copy as well as at a launch, while others of its kind go on. */
START_TEST(a_failed_copy_or_launch_ends_what_the_device_has)
{
    static const char *const faults[] = {"far:1/upload 7", "far:1/download 5", "far:1 2"};
    for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++) {
        struct daemon daemon;
        struct random random = random_open(3);
        struct job job;
        start(&daemon, "far:0,far:1", faults[i]);
        struct fas_client *client = connect_to(&daemon);
        job_forward(&job, &shape, &random);
        void *lse = job.request.tensors[FAS_LSE].data;
        job.request.tensors[FAS_LSE].data = NULL;
        ck_assert_msg(run_until_fault(client, &job.request) >= 1, "%s", faults[i]);
        job.request.tensors[FAS_LSE].data = lse;
        job_reset(&job);
        ck_assert_int_eq(fas_run(client, &job.request, NULL), FAS_OK);
        ck_assert(job_right(&job));
        job_close(&job);
        fas_close(client);
        ck_assert_int_eq(daemon_stop(&daemon), 0);
    }
}
END_TEST

/* Whatever stage a request is in when it is cancelled or its client goes: everything comes back. */
/* Two requests of `client`, of which one is cancelled, and one of a client that leaves. */
static void cancel_and_leave(struct fas_client *client, struct job *job,
                             const struct daemon *daemon, struct job *leavers,
                             struct random *random)
{
    struct fas_call *calls[2], *left;
    struct fas_client *leaver = connect_to(daemon);
    for (int n = 0; n < 2; n++) {
        ck_assert_int_eq(fas_submit(client, &job->request, &calls[n], NULL), FAS_OK);
    }
    ck_assert_int_eq(fas_submit(leaver, &leavers->request, &left, NULL), FAS_OK);
    usleep((useconds_t)random_below(random, 6000));
    fas_cancel(calls[random_below(random, 2)]);
    fas_close(leaver);
    for (int n = 0; n < 2; n++) {
        ck_assert(fas_wait(calls[n], 20000));
        enum fas_status status = fas_call_report(calls[n])->error.status;
        ck_assert_msg(status == FAS_OK || status == FAS_CANCELLED, "status %d", status);
        fas_call_close(calls[n]);
    }
}

START_TEST(cancels_at_every_stage_give_everything_back)
{
    static const struct job_shape large = {FAS_BF16, 4, 2, 64, 64, 6, 500, true, false};
    struct daemon daemon;
    struct random random = random_open(4);
    struct job job, leavers;
    start(&daemon, "far:0", "none 1");
    struct fas_client *client = connect_to(&daemon);
    job_forward(&job, &large, &random);
    job_forward(&leavers, &large, &random);
    void *lse = job.request.tensors[FAS_LSE].data;
    job.request.tensors[FAS_LSE].data = NULL;
    for (int round = 0; round < 100; round++) {
        cancel_and_leave(client, &job, &daemon, &leavers, &random);
    }
    job.request.tensors[FAS_LSE].data = lse;
    job_reset(&job);
    ck_assert_int_eq(fas_run(client, &job.request, NULL), FAS_OK);
    ck_assert(job_right(&job));
    ck_assert_double_eq(watch_for(client, ".arena_used_bytes", 0), 0);
    job_close(&job);
    job_close(&leavers);
    fas_close(client);
    ck_assert_int_eq(daemon_stop(&daemon), 0);
}
END_TEST

/* The launch that fails ends its request like anything else: its id may be used again. */
START_TEST(an_id_is_free_after_its_device_failed)
{
    enum { ID = 7, ANSWER_MS = 10000 };
    struct daemon daemon;
    struct exchange exchange;
    struct peer peer = {.fd = -1};
    struct fas_error told, error;
    start(&daemon, "cpu:0,cpu:1", "cpu:0 1");
    exchange_open(&exchange, 3);
    ck_assert(peer_connect(&peer, daemon.socket) && peer_greet(&peer));
    ck_assert(exchange_send(&exchange, &peer, ID));
    ck_assert_int_eq(peer_receive(&peer, ANSWER_MS), PEER_MESSAGE);
    ck_assert_int_eq(peer.frame.type, FRAME_ERROR);
    ck_assert_int_eq(wire_decode_error(peer.header, peer.frame.header_bytes, &told, &error),
                     FAS_OK);
    ck_assert_int_eq(told.status, FAS_DEVICE_FAULT);
    ck_assert(exchange_send(&exchange, &peer, ID));
    const char *wrong = exchange_receive(&exchange, &peer, ID);
    ck_assert_msg(wrong == NULL, "%s", wrong);
    peer_close(&peer);
    exchange_close(&exchange);
    ck_assert_int_eq(daemon_stop(&daemon), 0);
}
END_TEST

START_TEST(without_a_device_the_daemon_ends)
{
    struct daemon daemon;
    struct random random = random_open(2);
    struct job job;
    start(&daemon, "cpu:0", "cpu:0 1");
    struct fas_client *client = connect_to(&daemon);
    job_forward(&job, &shape, &random);
    ck_assert_int_eq(fas_run(client, &job.request, NULL), FAS_DEVICE_FAULT);
    ck_assert_int_eq(daemon_wait(&daemon), 70); /* for the service manager to start it again */
    job_close(&job);
    fas_close(client);
}
END_TEST

int main(void)
{
    static const struct check_row rows[] = {
        {"other", &the_other_device_goes_on},
        {"copies", &a_failed_copy_or_launch_ends_what_the_device_has},
        {"cancels", &cancels_at_every_stage_give_everything_back},
        {"id", &an_id_is_free_after_its_device_failed},
        {"last", &without_a_device_the_daemon_ends},
    };
    return check_main("device_loss", rows, sizeof rows / sizeof rows[0]);
}
