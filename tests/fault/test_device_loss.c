/* A device fails: its requests end as DEVICE_FAULT, the others do not notice. */
#include <stdlib.h>

#include "tests/support/check_main.h"
#include "tests/support/daemon.h"
#include "tests/support/job.h"

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

enum { MANY = 48 };

START_TEST(the_other_device_goes_on)
{
    struct daemon daemon;
    struct random random = random_open(1);
    struct job job;
    struct fas_call *calls[MANY];
    struct fas_report report;
    int faults = 0;
    start(&daemon, "cpu:0,cpu:1", "cpu:1 2");
    struct fas_client *client = connect_to(&daemon);
    job_forward(&job, &shape, &random);
    job.request.tensors[FAS_LSE].data = NULL; /* the calls write equal bits to one place */
    for (int i = 0; i < MANY; i++) {
        ck_assert_int_eq(fas_submit(client, &job.request, &calls[i], NULL), FAS_OK);
    }
    for (int i = 0; i < MANY; i++) {
        ck_assert(fas_wait(calls[i], 20000));
        enum fas_status status = fas_call_report(calls[i])->error.status;
        ck_assert(status == FAS_OK || status == FAS_DEVICE_FAULT);
        faults += status == FAS_DEVICE_FAULT;
        fas_call_close(calls[i]);
    }
    ck_assert_int_ge(faults, 1);
    for (int i = 0; i < 8; i++) { /* safe to resubmit */
        ck_assert_int_eq(fas_run(client, &job.request, &report), FAS_OK);
        ck_assert_str_eq(report.device, "cpu:0");
    }
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
        {"last", &without_a_device_the_daemon_ends},
    };
    return check_main("device_loss", rows, sizeof rows / sizeof rows[0]);
}
