/* A request's way through a live daemon and back: every answer is the kernel's, bit for bit. */
#include "tests/support/check_main.h"
#include "tests/support/daemon.h"
#include "tests/support/job.h"

static const char *const small_daemon[] = {
    "--device", "cpu:0", "--cpu-threads", "2", "--arena-bytes", "64MiB", NULL};

static struct fas_client *connect_to(const struct daemon *daemon)
{
    struct fas_connect_options options = {.url = daemon->url};
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

int main(void)
{
    static const struct check_row rows[] = {
        {"bits", &forward_and_backward_are_the_kernels_bits},
        {"many", &many_in_flight_are_batched_and_all_right},
    };
    return check_main("path", rows, sizeof rows / sizeof rows[0]);
}
