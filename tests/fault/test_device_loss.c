/* A device fails, or is slow: its requests end as DEVICE_FAULT or late, the others do not notice.
 */
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

/* Keeps a request from the first device: one that is not complete is there. */
static void occupy(struct peer *peer, const struct daemon *daemon, struct exchange *exchange)
{
    struct exchange_message message;
    const struct frame ping = {.type = FRAME_PING, .request = 9};
    exchange_open(exchange, 3);
    ck_assert(peer_connect(peer, daemon->socket) && peer_greet(peer));
    ck_assert(exchange_message(exchange, 1, 0, &message));
    ck_assert(peer_send(peer, &message.frame, message.header, message.payload));
    ck_assert(peer_send(peer, &ping, NULL, NULL));
    ck_assert_int_eq(peer_receive(peer, 10000), PEER_MESSAGE);
    ck_assert_int_eq(peer->frame.type, FRAME_PONG);
}

/* A forward without inputs but for v, which is 1 everywhere: so is o. */
static void forward_of_ones(struct fas_request *request, const int32_t *cu, int32_t sequences,
                            uint16_t *v, uint16_t *o)
{
    static uint16_t zeros[1 << 21];
    int64_t rows = cu[sequences];
    *request = (struct fas_request){
        .dims = {FAS_BF16, 4, 4, 32, 32, rows, rows},
        .batch = sequences,
        .q.cu_seqlens = cu,
        .k.cu_seqlens = cu,
        .tensors = {[FAS_Q] = {zeros}, [FAS_K] = {zeros}, [FAS_V] = {v}, [FAS_O] = {o}}};
    for (int64_t i = 0; i < rows * 4 * 32; i++) {
        v[i] = 0x3f80;
        o[i] = 0;
    }
}

/* A request that was cancelled is in launches to come by name only. Its slot is another's by then,
 * on a device whose batches have the same numbers: that one is not done because they are. */
START_TEST(batches_of_two_devices_are_not_taken_for_each_other)
{
    static const int32_t few[] = {0, 400, 800, 1200, 1600}, one[] = {0, 16384};
    static uint16_t v[1 << 21], o[1 << 21];
    struct daemon daemon;
    struct exchange exchange;
    struct peer peer = {.fd = -1};
    struct fas_request request;
    struct fas_call *call;
    const struct frame cancel = {.type = FRAME_CANCEL, .request = 1};
    start(&daemon, "far:0,far:1", "far:1/slow 1");
    struct fas_client *client = connect_to(&daemon);
    occupy(&peer, &daemon, &exchange);
    forward_of_ones(&request, few, 4, v, o); /* a launch each, 0.9 s */
    ck_assert_int_eq(fas_submit(client, &request, &call, NULL), FAS_OK);
    usleep(300000);
    ck_assert(peer_send(&peer, &cancel, NULL, NULL));
    fas_cancel(call);
    ck_assert(fas_wait(call, 20000));
    ck_assert_str_eq(fas_call_report(call)->device, "");
    ck_assert_int_eq(fas_call_report(call)->error.status, FAS_CANCELLED);
    fas_call_close(call);
    usleep(50000); /* its slot is free, while launches that it was in go on */
    forward_of_ones(&request, one, 1, v, o);
    struct fas_report report;
    ck_assert_msg(fas_run(client, &request, &report) == FAS_OK, "%s: %s", report.error.field,
                  report.error.text);
    ck_assert_str_eq(report.device, "far:0");
    for (int64_t i = 0; i < request.dims.total_q * 4 * 32; i++) {
        ck_assert_msg(o[i] == 0x3f80, "element %lld is 0x%04x", (long long)i, o[i]);
    }
    peer_close(&peer);
    exchange_close(&exchange);
    fas_close(client);
    ck_assert_int_eq(daemon_stop(&daemon), 0);
}
END_TEST

/* What the kernel's host part turns down, for a reason that nobody thought of. */
START_TEST(a_refused_launch_is_its_requests_loss_alone)
{
    struct daemon daemon;
    struct random random = random_open(3);
    struct job job;
    struct fas_report report;
    start(&daemon, "far:0", "far:0/refuse 2");
    struct fas_client *client = connect_to(&daemon);
    job_forward(&job, &shape, &random);
    ck_assert_int_eq(fas_run(client, &job.request, NULL), FAS_OK);
    for (int i = 0; i < 3; i++) {
        ck_assert_int_eq(fas_run(client, &job.request, &report), FAS_INTERNAL);
        ck_assert_str_eq(report.error.text, "far:0 refused the launch");
    }
    ck_assert_int_eq(fas_ping(client, 5000, NULL, NULL), FAS_OK);
    job_close(&job);
    fas_close(client);
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
        {"batches", &batches_of_two_devices_are_not_taken_for_each_other},
        {"refused", &a_refused_launch_is_its_requests_loss_alone},
        {"last", &without_a_device_the_daemon_ends},
    };
    return check_main("device_loss", rows, sizeof rows / sizeof rows[0]);
}
