/* A request's way through a live daemon and back: every answer is the kernel's, bit for bit. */
#include <string.h>
#include <sys/resource.h>

#include "tests/support/check_main.h"
#include "tests/support/daemon.h"
#include "tests/support/job.h"

static const char *const small_daemon[] = {
    "--device", "cpu:0", "--cpu-threads", "2", "--arena-bytes", "64MiB", NULL};

enum { MANY = 48 };

static struct daemon server;
static struct fas_client *client;

static void start_awake(const char *const *arguments, uint32_t spin_us)
{
    struct fas_error error;
    daemon_start(&server, arguments);
    struct fas_connect_options options = {
        .url = server.url, .connections = daemon_connections(), .spin_us = spin_us};
    ck_assert_msg(fas_connect(&options, &client, &error) == FAS_OK, "%s", error.text);
}

static void start(const char *const *arguments)
{
    start_awake(arguments, 0);
}

static void stop(void)
{
    fas_close(client);
    ck_assert_int_eq(daemon_stop(&server), 0);
}

static void run_and_check(struct job *job)
{
    struct fas_report report;
    fas_run(client, &job->request, &report);
    ck_assert_msg(report.error.status == FAS_OK, "%s: %s", report.error.field, report.error.text);
    ck_assert(job_right(job));
}

static void check_refused(const struct job *job, enum fas_status status, const char *field)
{
    struct fas_report report;
    fas_run(client, &job->request, &report);
    ck_assert_int_eq(report.error.status, status);
    ck_assert_str_eq(report.error.field, field);
}

/* All in flight at once, and all right. */
static void run_many(const struct job_shape *shape, uint64_t seed, struct fas_report reports[MANY])
{
    struct random random = random_open(seed);
    struct job jobs[MANY];
    struct fas_call *calls[MANY];
    for (int i = 0; i < MANY; i++) {
        job_forward(&jobs[i], shape, &random);
    }
    for (int i = 0; i < MANY; i++) {
        ck_assert_int_eq(fas_submit(client, &jobs[i].request, &calls[i], NULL), FAS_OK);
    }
    for (int i = 0; i < MANY; i++) {
        fas_wait(calls[i], -1);
        reports[i] = *fas_call_report(calls[i]);
        ck_assert_msg(reports[i].error.status == FAS_OK, "%s", reports[i].error.text);
        ck_assert(job_right(&jobs[i]));
        fas_call_close(calls[i]);
        job_close(&jobs[i]);
    }
}

START_TEST(forward_and_backward_are_the_kernels_bits)
{
    static const struct job_shape shapes[] = {
        {FAS_FP32, 4, 2, 64, 64, 7, 90, true, false},
        {FAS_BF16, 6, 3, 32, 64, 5, 200, false, true},
        {FAS_BF16, 2, 2, 128, 128, 1, 1, true, true},
        {FAS_FP32, 1, 1, 8, 8, 300, 3, false, false},
    };
    struct random random = random_open(1);
    start(small_daemon);
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        struct job forward, backward;
        job_forward(&forward, &shapes[i], &random);
        run_and_check(&forward);
        job_backward(&backward, &forward, &random);
        run_and_check(&backward);
        job_close(&forward);
        job_close(&backward);
    }
    stop();
}
END_TEST

START_TEST(many_in_flight_are_batched_and_all_right)
{
    static const struct job_shape shape = {FAS_BF16, 4, 2, 64, 64, 6, 120, true, false};
    struct fas_report reports[MANY];
    uint32_t batch_requests_max = 0;
    start(small_daemon);
    run_many(&shape, 2, reports);
    for (int i = 0; i < MANY; i++) {
        if (reports[i].batch_requests > batch_requests_max) {
            batch_requests_max = reports[i].batch_requests;
        }
    }
    ck_assert_uint_gt(batch_requests_max, 1);
    stop();
}
END_TEST

START_TEST(a_retained_forward_needs_only_do_for_its_backward)
{
    static const struct job_shape shape = {FAS_BF16, 4, 2, 64, 64, 6, 120, true, true};
    struct random random = random_open(3);
    struct job forward, backward;
    struct fas_report report;
    start(small_daemon);
    job_forward(&forward, &shape, &random);
    forward.request.retain = true;
    ck_assert_int_eq(fas_run(client, &forward.request, &report), FAS_OK);
    ck_assert(job_right(&forward));
    ck_assert_uint_ne(report.handle, 0);
    job_backward(&backward, &forward, &random);
    backward.request.retain = false;
    backward.request.handle = report.handle;
    for (int i = 0; i < 2; i++) { /* as often as one likes */
        job_reset(&backward);
        run_and_check(&backward);
    }
    backward.request.softcap = 3;
    check_refused(&backward, FAS_INVALID_ARGUMENT, "softcap");
    backward.request.softcap = 0;
    ck_assert_int_eq(fas_release(client, backward.request.handle, NULL), FAS_OK);
    check_refused(&backward, FAS_NOT_FOUND, "handle");
    job_close(&forward);
    job_close(&backward);
    stop();
}
END_TEST

/* The sixteenth of these pushes the first out of half the arena's half. */
START_TEST(the_least_recently_used_handle_makes_room)
{
    static const struct job_shape shape = {FAS_FP32, 4, 4, 64, 64, 1024, 1, false, false};
    enum { HOLDS = 16 };
    struct random random = random_open(4);
    struct job forward, backward;
    struct fas_report report;
    uint64_t handles[HOLDS];
    start(small_daemon);
    job_forward(&forward, &shape, &random); /* some 2 MiB */
    job_backward(&backward, &forward, &random);
    forward.request.retain = true;
    for (int i = 0; i < HOLDS; i++) {
        ck_assert_int_eq(fas_run(client, &forward.request, &report), FAS_OK);
        handles[i] = report.handle;
    }
    backward.request.handle = handles[0];
    check_refused(&backward, FAS_NOT_FOUND, "handle");
    backward.request.handle = handles[HOLDS - 1];
    run_and_check(&backward);
    job_close(&forward);
    job_close(&backward);
    stop();
}
END_TEST

START_TEST(two_devices_share_the_work)
{
    static const char *const two[] = {
        "--device", "cpu:0,cpu:1", "--cpu-threads", "1", "--arena-bytes", "64MiB", NULL};
    static const struct job_shape shape = {FAS_BF16, 4, 2, 64, 64, 4, 300, true, false};
    struct fas_report reports[MANY];
    int on_second = 0;
    start(two);
    run_many(&shape, 5, reports);
    for (int i = 0; i < MANY; i++) {
        on_second += reports[i].device[strlen(reports[i].device) - 1] == '1';
    }
    ck_assert_int_gt(on_second, MANY / 8);
    ck_assert_int_lt(on_second, MANY - MANY / 8);
    stop();
}
END_TEST

enum { LOOKED_FOR = 100, OFTEN = LOOKED_FOR / 2 };

struct sleeps {
    long daemon, own;
};

static struct sleeps sleeps_so_far(void)
{
    struct rusage usage;
    ck_assert_int_eq(getrusage(RUSAGE_THREAD, &usage), 0);
    return (struct sleeps){daemon_sleeps(&server), usage.ru_nvcsw};
}

/* How often the daemon's loop, and this thread, sleep in so many calls, one after the other. */
static struct sleeps sleeps_of_calls(void)
{
    static const struct job_shape shape = {FAS_FP32, 1, 1, 8, 8, 1, 16, true, false};
    struct random random = random_open(11);
    struct job job;
    job_forward(&job, &shape, &random);
    run_and_check(&job);
    struct sleeps before = sleeps_so_far();
    for (int i = 0; i < LOOKED_FOR; i++) {
        run_and_check(&job);
    }
    struct sleeps after = sleeps_so_far();
    job_close(&job);
    return (struct sleeps){after.daemon - before.daemon, after.own - before.own};
}

/* The time is so long that a busy machine does not use it up. One of the two at a time: the other's
 * processor is for the kernel. */
START_TEST(who_looks_for_news_does_not_sleep)
{
    static const char *const looks[] = {
        "--device", "cpu:0", "--arena-bytes", "64MiB", "--spin-time", "10ms", NULL};
    static const char *const rests[] = {
        "--device", "cpu:0", "--arena-bytes", "64MiB", "--spin-time", "1us", NULL};
    start_awake(looks, 1);
    struct sleeps sleeps = sleeps_of_calls();
    ck_assert_int_lt(sleeps.daemon, OFTEN);
    ck_assert_int_ge(sleeps.own, OFTEN);
    stop();
    start_awake(rests, 10000);
    sleeps = sleeps_of_calls();
    ck_assert_int_ge(sleeps.daemon, OFTEN);
    ck_assert_int_lt(sleeps.own, OFTEN);
    stop();
}
END_TEST

/* The least window there can be has room for one of the largest chunks, and a small one comes
 * first. */
START_TEST(a_chunk_as_large_as_the_window)
{
    static const char *const options[] = {"--device",
                                          "cpu:0",
                                          "--arena-bytes",
                                          "64MiB",
                                          "--chunk-bytes",
                                          "4MiB",
                                          "--upload-credit-bytes",
                                          "4MiB",
                                          NULL};
    static float small[64 * 16], large[1 << 20], o[64 * 16];
    struct fas_report report;
    start(options);
    const struct fas_request request = {
        .dims = {FAS_FP32, 1, 1, 16, 16, 64, 1 << 16},
        .batch = 1,
        .q.max_len = 64,
        .k.max_len = 1 << 16,
        .deadline_us = 20000000,
        .tensors = {[FAS_Q] = {small}, [FAS_K] = {large}, [FAS_V] = {large}, [FAS_O] = {o}}};
    fas_run(client, &request, &report);
    ck_assert_msg(report.error.status == FAS_OK, "%s: %s", report.error.field, report.error.text);
    stop();
}
END_TEST

int main(void)
{
    static const struct check_row rows[] = {
        {"bits", &forward_and_backward_are_the_kernels_bits},
        {"many", &many_in_flight_are_batched_and_all_right},
        {"retained", &a_retained_forward_needs_only_do_for_its_backward},
        {"evicted", &the_least_recently_used_handle_makes_room},
        {"devices", &two_devices_share_the_work},
        {"window", &a_chunk_as_large_as_the_window},
        {"awake", &who_looks_for_news_does_not_sleep},
    };
    return check_main("path", rows, sizeof rows / sizeof rows[0]);
}
