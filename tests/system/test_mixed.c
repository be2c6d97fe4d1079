/*
 * Both passes and several shapes in flight at once, in small batches, so that launches of one kind
 * follow those of another, on the same scratch, all the time: every answer has the bits that it has
 * alone.
 */
#include <string.h>

#include "tests/support/check_main.h"
#include "tests/support/daemon.h"
#include "tests/support/job.h"

enum { SHAPES = 4, KINDS = 2 * SHAPES, COPIES = 4, CALLS = KINDS * COPIES, ROUNDS = 12 };

static const struct job_shape shapes[SHAPES] = {
    {FAS_BF16, 4, 2, 64, 64, 4, 300, true, false},
    {FAS_BF16, 2, 2, 128, 128, 3, 260, false, false},
    {FAS_BF16, 2, 1, 128, 128, 1, 500, true, true},
    {FAS_BF16, 1, 1, 192, 128, 2, 200, true, false},
};

static struct daemon server;
static struct fas_client *client;
static struct job jobs[KINDS][COPIES];

static uint32_t outputs_of(const struct job *job)
{
    const uint32_t forward = 1u << FAS_O | 1u << FAS_LSE;
    const uint32_t backward = 1u << FAS_DQ | 1u << FAS_DK | 1u << FAS_DV;
    uint32_t sink = job->tensors[FAS_DSINK] ? 1u << FAS_DSINK : 0;
    return job->request.pass == FAS_FORWARD ? forward : backward | sink;
}

/* What it has alone is what it has to have. */
static void run_alone(struct job *job)
{
    struct fas_report report;
    job_reset(job);
    fas_run(client, &job->request, &report);
    ck_assert_msg(report.error.status == FAS_OK, "%s: %s", report.error.field, report.error.text);
    for (uint32_t left = outputs_of(job); left; left &= left - 1) {
        enum fas_tensor tensor = (enum fas_tensor)__builtin_ctz(left);
        memcpy(job->expected[tensor], job->tensors[tensor],
               fas_tensor_bytes(&job->request.dims, tensor));
    }
}

static void run_all(void)
{
    struct fas_call *calls[CALLS];
    struct fas_error error;
    for (int i = 0; i < CALLS; i++) {
        struct job *job = &jobs[i % KINDS][i / KINDS];
        job_reset(job);
        ck_assert_msg(fas_submit(client, &job->request, &calls[i], &error) == FAS_OK, "%s",
                      error.text);
    }
    for (int i = 0; i < CALLS; i++) {
        fas_wait(calls[i], -1);
        const struct fas_report *report = fas_call_report(calls[i]);
        ck_assert_msg(report->error.status == FAS_OK, "%s", report->error.text);
        ck_assert_msg(job_right(&jobs[i % KINDS][i / KINDS]), "kind %d", i % KINDS);
        fas_call_close(calls[i]);
    }
}

START_TEST(launches_of_all_kinds_do_not_disturb_each_other)
{
    static const char *const arguments[] = {"--device",
                                            "cpu:0",
                                            "--arena-bytes",
                                            "256MiB",
                                            "--cpu-threads",
                                            "2",
                                            "--batch-requests-max",
                                            "2",
                                            NULL};
    struct random random = random_open(7);
    struct fas_error error;
    daemon_start(&server, arguments);
    struct fas_connect_options options = {.url = server.url};
    ck_assert_msg(fas_connect(&options, &client, &error) == FAS_OK, "%s", error.text);
    for (int i = 0; i < SHAPES * COPIES; i++) {
        struct job *forward = &jobs[2 * (i % SHAPES)][i / SHAPES];
        struct job *backward = &jobs[2 * (i % SHAPES) + 1][i / SHAPES];
        job_forward(forward, &shapes[i % SHAPES], &random);
        job_backward(backward, forward, &random);
        run_alone(forward);
        run_alone(backward);
    }
    for (int round = 0; round < ROUNDS; round++) {
        run_all();
    }
    fas_close(client);
    ck_assert_int_eq(daemon_stop(&server), 0);
}
END_TEST

int main(void)
{
    static const struct check_row rows[] = {
        {"mixed", &launches_of_all_kinds_do_not_disturb_each_other},
    };
    return check_main("mixed", rows, sizeof rows / sizeof rows[0]);
}
