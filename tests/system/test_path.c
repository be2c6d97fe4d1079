/* A request's way through a live daemon and back: every answer is the kernel's, bit for bit. */
#include <string.h>

#include "tests/support/check_main.h"
#include "tests/support/daemon.h"
#include "tests/support/job.h"

static const char *const small_daemon[] = {
    "--device", "cpu:0", "--cpu-threads", "2", "--arena-bytes", "64MiB", NULL};

static struct fas_client *connect_to(const struct daemon *daemon)
{
    struct fas_connect_options options = {.url = daemon->url, .connections = daemon_connections()};
    struct fas_client *client;
    struct fas_error error;
    ck_assert_msg(fas_connect(&options, &client, &error) == FAS_OK, "%s", error.text);
    return client;
}

static void run_and_check(struct fas_client *client, struct job *job)
{
    struct fas_report report;
    fas_run(client, &job->request, &report);
    ck_assert_msg(report.error.status == FAS_OK, "%s: %s", report.error.field, report.error.text);
    ck_assert(job_right(job));
}

START_TEST(forward_and_backward_are_the_kernels_bits)
{
    static const struct job_shape shapes[] = {
        {FAS_FP32, 4, 2, 64, 64, 7, 90, true, false},
        {FAS_BF16, 6, 3, 32, 64, 5, 200, false, true},
        {FAS_BF16, 2, 2, 128, 128, 1, 1, true, true},
        {FAS_FP32, 1, 1, 8, 8, 300, 3, false, false},
    };
    struct daemon daemon;
    struct random random = random_open(1);
    daemon_start(&daemon, small_daemon);
    struct fas_client *client = connect_to(&daemon);
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        struct job forward, backward;
        job_forward(&forward, &shapes[i], &random);
        run_and_check(client, &forward);
        job_backward(&backward, &forward, &random);
        run_and_check(client, &backward);
        job_close(&forward);
        job_close(&backward);
    }
    fas_close(client);
    ck_assert_int_eq(daemon_stop(&daemon), 0);
}
END_TEST

enum { MANY = 48 };

START_TEST(many_in_flight_are_batched_and_all_right)
{
    static const struct job_shape shape = {FAS_BF16, 4, 2, 64, 64, 6, 120, true, false};
    struct daemon daemon;
    struct random random = random_open(2);
    struct job jobs[MANY];
    struct fas_call *calls[MANY];
    uint32_t batch_requests_max = 0;
    daemon_start(&daemon, small_daemon);
    struct fas_client *client = connect_to(&daemon);
    for (int i = 0; i < MANY; i++) {
        job_forward(&jobs[i], &shape, &random);
    }
    for (int i = 0; i < MANY; i++) {
        ck_assert_int_eq(fas_submit(client, &jobs[i].request, &calls[i], NULL), FAS_OK);
    }
    for (int i = 0; i < MANY; i++) {
        fas_wait(calls[i], -1);
        const struct fas_report *report = fas_call_report(calls[i]);
        ck_assert_msg(report->error.status == FAS_OK, "%s", report->error.text);
        ck_assert(job_right(&jobs[i]));
        if (report->batch_requests > batch_requests_max) {
            batch_requests_max = report->batch_requests;
        }
        fas_call_close(calls[i]);
        job_close(&jobs[i]);
    }
    ck_assert_uint_gt(batch_requests_max, 1);
    fas_close(client);
    ck_assert_int_eq(daemon_stop(&daemon), 0);
}
END_TEST

START_TEST(a_retained_forward_needs_only_do_for_its_backward)
{
    static const struct job_shape shape = {FAS_BF16, 4, 2, 64, 64, 6, 120, true, true};
    struct daemon daemon;
    struct random random = random_open(3);
    struct job forward, backward;
    struct fas_report report;
    daemon_start(&daemon, small_daemon);
    struct fas_client *client = connect_to(&daemon);
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
        run_and_check(client, &backward);
    }
    backward.request.softcap = 3;
    fas_run(client, &backward.request, &report);
    ck_assert_int_eq(report.error.status, FAS_INVALID_ARGUMENT);
    ck_assert_str_eq(report.error.field, "softcap");
    backward.request.softcap = 0;
    ck_assert_int_eq(fas_release(client, backward.request.handle, NULL), FAS_OK);
    fas_run(client, &backward.request, &report);
    ck_assert_int_eq(report.error.status, FAS_NOT_FOUND);
    ck_assert_str_eq(report.error.field, "handle");
    job_close(&forward);
    job_close(&backward);
    fas_close(client);
    ck_assert_int_eq(daemon_stop(&daemon), 0);
}
END_TEST

/* The sixteenth of these pushes the first out of half the arena's half. */
START_TEST(the_least_recently_used_handle_makes_room)
{
    static const struct job_shape shape = {FAS_FP32, 4, 4, 64, 64, 1024, 1, false, false};
    enum { HOLDS = 16 };
    struct daemon daemon;
    struct random random = random_open(4);
    struct job forward, backward;
    struct fas_report report;
    uint64_t handles[HOLDS];
    daemon_start(&daemon, small_daemon);
    struct fas_client *client = connect_to(&daemon);
    job_forward(&forward, &shape, &random); /* some 2 MiB */
    job_backward(&backward, &forward, &random);
    forward.request.retain = true;
    for (int i = 0; i < HOLDS; i++) {
        ck_assert_int_eq(fas_run(client, &forward.request, &report), FAS_OK);
        handles[i] = report.handle;
    }
    backward.request.handle = handles[0];
    ck_assert_int_eq(fas_run(client, &backward.request, NULL), FAS_NOT_FOUND);
    backward.request.handle = handles[HOLDS - 1];
    run_and_check(client, &backward);
    job_close(&forward);
    job_close(&backward);
    fas_close(client);
    ck_assert_int_eq(daemon_stop(&daemon), 0);
}
END_TEST

START_TEST(two_devices_share_the_work)
{
    static const char *const two[] = {
        "--device", "cpu:0,cpu:1", "--cpu-threads", "1", "--arena-bytes", "64MiB", NULL};
    static const struct job_shape shape = {FAS_BF16, 4, 2, 64, 64, 4, 300, true, false};
    struct daemon daemon;
    struct random random = random_open(5);
    struct job jobs[MANY];
    struct fas_call *calls[MANY];
    int on_second = 0;
    daemon_start(&daemon, two);
    struct fas_client *client = connect_to(&daemon);
    for (int i = 0; i < MANY; i++) {
        job_forward(&jobs[i], &shape, &random);
    }
    for (int i = 0; i < MANY; i++) {
        ck_assert_int_eq(fas_submit(client, &jobs[i].request, &calls[i], NULL), FAS_OK);
    }
    for (int i = 0; i < MANY; i++) {
        fas_wait(calls[i], -1);
        const struct fas_report *report = fas_call_report(calls[i]);
        ck_assert_msg(report->error.status == FAS_OK, "%s", report->error.text);
        ck_assert(job_right(&jobs[i]));
        on_second += report->device[strlen(report->device) - 1] == '1';
        fas_call_close(calls[i]);
        job_close(&jobs[i]);
    }
    ck_assert_int_gt(on_second, MANY / 8);
    ck_assert_int_lt(on_second, MANY - MANY / 8);
    fas_close(client);
    ck_assert_int_eq(daemon_stop(&daemon), 0);
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
    };
    return check_main("path", rows, sizeof rows / sizeof rows[0]);
}
