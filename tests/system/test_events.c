/*
 * Calls between a stream's events, without a GPU: the driver is tests/support/fake_cuda.c, whose
 * streams a test can hold, the daemon's devices are far ones, which open its events.
 */
#include <dlfcn.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/support/check_main.h"
#include "tests/support/daemon.h"
#include "tests/support/job.h"
#include "tests/support/watch.h"

enum { MIB = 1 << 20, ALL = ~0, INTERPROCESS = 6, WAIT_MS = 20000, NOT_YET_MS = 50 };

static const char *const options[] = {"--device",
                                      "far:0",
                                      "--cpu-threads",
                                      "1",
                                      "--slice-time",
                                      "2ms",
                                      "--progress-timeout",
                                      "500ms",
                                      "--drain-timeout",
                                      "300ms",
                                      NULL};
static const struct job_shape shape = {FAS_BF16, 4, 2, 64, 32, 5, 60, true, true};

static struct daemon server;
static struct fas_client *client;
static struct fas_error error;
static int stream; /* its address is one */

static struct {
    int (*alloc)(uintptr_t *memory, size_t bytes);
    int (*create)(void **event, unsigned flags);
    int (*destroy)(void *event);
    int (*record)(void *event, void *stream);
    int (*query)(void *event);
    int (*query_stream)(void *stream);
    void (*hold)(void);
    void (*release)(void);
    int (*push)(void *context);
    int (*retain)(void **context, int device);
} cuda;

static void load_driver(void)
{
    void *library = dlopen("libcuda.so.1", RTLD_NOW);
    ck_assert_ptr_nonnull(library);
    *(void **)&cuda.alloc = dlsym(library, "cuMemAlloc_v2");
    *(void **)&cuda.create = dlsym(library, "cuEventCreate");
    *(void **)&cuda.destroy = dlsym(library, "cuEventDestroy_v2");
    *(void **)&cuda.record = dlsym(library, "cuEventRecord");
    *(void **)&cuda.query = dlsym(library, "cuEventQuery");
    *(void **)&cuda.query_stream = dlsym(library, "cuStreamQuery");
    *(void **)&cuda.hold = dlsym(library, "fake_stream_hold");
    *(void **)&cuda.release = dlsym(library, "fake_stream_release");
    *(void **)&cuda.push = dlsym(library, "cuCtxPushCurrent_v2");
    *(void **)&cuda.retain = dlsym(library, "cuDevicePrimaryCtxRetain");
}

static struct fas_client *connect_client(void)
{
    struct fas_connect_options connect = {.url = server.url};
    struct fas_client *connected = NULL;
    ck_assert_msg(fas_connect(&connect, &connected, &error) == FAS_OK, "%s", error.text);
    return connected;
}

static void start_with(const char *const *arguments)
{
    load_driver();
    daemon_start(&server, arguments);
    client = connect_client();
}

/* Nothing of what a test did is left: no request, and in the end no place. */
static void stop(void)
{
    ck_assert_double_eq(watch_for(client, "requests_in_flight", 0), 0);
    fas_close(client);
    client = connect_client();
    ck_assert_double_eq(watch_for(client, "places", 0), 0);
    fas_close(client);
    ck_assert_int_eq(daemon_stop(&server), 0);
}

/* A job in CUDA memory, and its two events. */
struct task {
    struct job job;
    void *ready, *done;
    struct fas_call *call;
};

static uint8_t *device_memory(size_t bytes)
{
    uintptr_t memory = 0;
    ck_assert_int_eq(cuda.alloc(&memory, bytes), 0);
    return (uint8_t *)memory;
}

static void *make_event(void)
{
    void *event = NULL;
    ck_assert_int_eq(cuda.create(&event, INTERPROCESS), 0);
    return event;
}

static void task_open(struct task *task, struct random *random)
{
    job_forward(&task->job, &shape, random);
    job_place(&task->job, ALL, device_memory(MIB));
    task->job.request.wait_event = task->ready = make_event();
    task->job.request.done_event = task->done = make_event();
}

/* owner: NULL when its connection is closed. */
static void task_close(struct task *task, struct fas_client *owner)
{
    if (owner) {
        fas_event_close(owner, task->ready);
        fas_event_close(owner, task->done);
    }
    cuda.destroy(task->ready);
    cuda.destroy(task->done);
    job_close(&task->job);
}

/* A daemon, a client, and a task for it. */
static void start_task(struct task *task, const char *const *arguments, uint64_t seed)
{
    struct random random = random_open(seed);
    start_with(arguments);
    task_open(task, &random);
}

static void stop_task(struct task *task)
{
    task_close(task, client);
    stop();
}

static void submit_on(struct fas_client *owner, struct task *task)
{
    ck_assert_msg(fas_submit(owner, &task->job.request, &task->call, &error) == FAS_OK, "%s: %s",
                  error.field, error.text);
}

static void submit(struct fas_client *owner, struct task *task)
{
    ck_assert_int_eq(cuda.record(task->ready, &stream), 0);
    submit_on(owner, task);
}

/* A call that does not come to be. */
static void check_refused(struct task *task, enum fas_status status, const char *field)
{
    ck_assert_int_eq(fas_submit(client, &task->job.request, &task->call, &error), status);
    ck_assert_str_eq(error.field, field);
}

static void stream_waits_for(void *event)
{
    for (int waited_ms = 0; cuda.query(event) != 0 && waited_ms < WAIT_MS; waited_ms++) {
        usleep(1000);
    }
    ck_assert_int_eq(cuda.query(event), 0);
}

static void check_end(struct fas_call *call, enum fas_status status, const char *field)
{
    ck_assert(fas_wait(call, WAIT_MS));
    const struct fas_report *report = fas_call_report(call);
    ck_assert_msg(report->error.status == status, "%s, %s: %s",
                  fas_status_name(report->error.status), report->error.field, report->error.text);
    ck_assert_str_eq(report->error.field, field);
    fas_call_close(call);
}

/* Inputs are written after the call is made and before the event; outputs are right when the done
 * event has come to pass, whatever the host has heard. */
static void run_between(struct task *task)
{
    uint64_t bytes = fas_tensor_bytes(&task->job.request.dims, FAS_Q);
    void *q = malloc(bytes);
    memcpy(q, task->job.tensors[FAS_Q], bytes);
    memset(task->job.tensors[FAS_Q], 0x7f, bytes);
    job_reset(&task->job);
    cuda.hold();
    submit(client, task);
    ck_assert(!fas_enqueued(task->call, NOT_YET_MS));
    memcpy(task->job.tensors[FAS_Q], q, bytes);
    cuda.release();
    ck_assert(fas_enqueued(task->call, WAIT_MS));
    stream_waits_for(task->done);
    ck_assert(job_right(&task->job));
    check_end(task->call, FAS_OK, "");
    free(q);
}

START_TEST(inputs_behind_an_event_and_outputs_before_one)
{
    struct task task;
    start_task(&task, options, 1);
    for (int round = 0; round < 5; round++) {
        run_between(&task);
    }
    /* The memory, and two events opened once. */
    ck_assert_double_eq(watch_stat(client, "places"), 3);
    ck_assert_double_eq(watch_stat(client, "mappings"), 1);
    task_close(&task, client);
    ck_assert_double_eq(watch_stat(client, "places"), 1);
    stop();
}
END_TEST

/* One of the two, or of an event that nobody ever recorded. */
START_TEST(each_event_by_itself)
{
    struct task task;
    start_task(&task, options, 2);
    task.job.request.done_event = NULL;
    submit(client, &task);
    ck_assert(fas_enqueued(task.call, WAIT_MS));
    check_end(task.call, FAS_OK, "");
    ck_assert(job_right(&task.job));

    job_reset(&task.job);
    task.job.request.done_event = task.done;
    task.job.request.wait_event = NULL;
    submit(client, &task);
    ck_assert(fas_enqueued(task.call, WAIT_MS));
    stream_waits_for(task.done);
    ck_assert(job_right(&task.job));
    check_end(task.call, FAS_OK, "");

    void *fresh = make_event();
    task.job.request.wait_event = fresh;
    ck_assert_int_eq(fas_run(client, &task.job.request, NULL), FAS_OK);
    fas_event_close(client, fresh);

    task.job.request.wait_event = task.job.request.done_event = NULL;
    submit(client, &task);
    ck_assert(!fas_enqueued(task.call, WAIT_MS)); /* it ends without */
    check_end(task.call, FAS_OK, "");
    stop_task(&task);
}
END_TEST

/* An address that had another event before. */
START_TEST(an_event_made_anew)
{
    struct task task;
    start_task(&task, options, 3);
    for (int round = 0; round < 20; round++) {
        run_between(&task);
        fas_event_close(client, task.ready);
        ck_assert_int_eq(cuda.destroy(task.ready), 0);
        task.job.request.wait_event = task.ready = make_event();
    }
    ck_assert_double_eq(watch_stat(client, "places"), 2); /* the last is not named yet */
    stop_task(&task);
}
END_TEST

/* Others are served, at once, while some wait for what does not come; who waits ends by its
 * deadline, by a cancel, or when the daemon has had enough. */
START_TEST(an_event_that_does_not_come)
{
    enum { WAITING = 20, OTHERS = 30 };
    struct random random = random_open(4);
    struct task tasks[WAITING], other;
    start_with(options);
    struct fas_client *neighbour = connect_client();
    task_open(&other, &random);
    cuda.hold();
    for (int i = 0; i < WAITING; i++) {
        task_open(&tasks[i], &random);
        tasks[i].job.request.deadline_us = i == 0 ? 100000 : 0;
        submit(client, &tasks[i]);
    }
    other.job.request.wait_event = NULL;
    for (int i = 0; i < OTHERS; i++) {
        job_reset(&other.job);
        ck_assert_int_eq(fas_run(neighbour, &other.job.request, NULL), FAS_OK);
        ck_assert(job_right(&other.job));
    }
    check_end(tasks[0].call, FAS_DEADLINE_EXCEEDED, "deadline_us");
    fas_cancel(tasks[1].call);
    check_end(tasks[1].call, FAS_CANCELLED, "");
    ck_assert(!fas_enqueued(tasks[2].call, NOT_YET_MS));
    for (int i = 2; i < WAITING; i++) {
        check_end(tasks[i].call, FAS_DEADLINE_EXCEEDED, "wait_event");
    }
    cuda.release();
    for (int i = 0; i < WAITING; i++) {
        task_close(&tasks[i], client);
    }
    task_close(&other, neighbour);
    fas_close(neighbour);
    stop();
}
END_TEST

/* Its connection goes, and with it what it waited for. */
START_TEST(a_client_that_leaves_while_it_waits)
{
    struct random random = random_open(5);
    struct task task, other;
    start_with(options);
    task_open(&task, &random);
    task_open(&other, &random);
    for (int round = 0; round < 10; round++) {
        struct fas_client *leaver = connect_client();
        cuda.hold();
        submit(leaver, &task);
        usleep((useconds_t)random_below(&random, 3000));
        fas_close(leaver);
        cuda.release();
        run_between(&other);
    }
    pid_t child = fork();
    if (child == 0) {
        client = connect_client();
        cuda.hold();
        submit(client, &task);
        fas_enqueued(task.call, -1);
    }
    ck_assert_double_eq(watch_for(client, "requests_in_flight", 1), 1);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    ck_assert_double_eq(watch_for(client, "requests_in_flight", 0), 0);
    run_between(&other);
    task_close(&other, client);
    stop();
    task_close(&task, NULL);
}
END_TEST

/* A drain waits for what may still come, and not for ever. */
START_TEST(a_drain_while_one_waits)
{
    struct task task;
    start_task(&task, options, 6);
    cuda.hold();
    submit(client, &task);
    ck_assert_int_eq(fas_drain(client, 5000, &error), FAS_OK);
    check_end(task.call, FAS_UNAVAILABLE, "");
    ck_assert_int_eq(daemon_wait(&server), 0);
    fas_close(client);
    task_close(&task, NULL);
}
END_TEST

/* Cancelled at any moment: the event is recorded if, and only if, the caller is told so. */
START_TEST(cancelled_at_any_moment)
{
    struct random random = random_open(7);
    struct task task;
    int enqueued = 0, cancelled = 0;
    start_task(&task, options, 7);
    for (int round = 0; round < 200; round++) {
        submit(client, &task);
        usleep((useconds_t)random_below(&random, 4000));
        fas_cancel(task.call);
        if (fas_enqueued(task.call, WAIT_MS)) {
            stream_waits_for(task.done);
            enqueued++;
        }
        ck_assert(fas_wait(task.call, WAIT_MS));
        enum fas_status status = fas_call_report(task.call)->error.status;
        ck_assert(status == FAS_OK || status == FAS_CANCELLED);
        cancelled += status == FAS_CANCELLED;
        fas_call_close(task.call);
    }
    ck_assert_int_gt(enqueued, 0);
    ck_assert_int_gt(cancelled, 0);
    run_between(&task);
    stop_task(&task);
}
END_TEST

/* The second launch fails: one that was told of its event before has it recorded. */
START_TEST(a_device_that_fails)
{
    struct task task;
    setenv("FASERVED_FAULT", "far:0 2", 1);
    start_task(&task, options, 8);
    unsetenv("FASERVED_FAULT");
    run_between(&task);
    submit(client, &task);
    bool enqueued = fas_enqueued(task.call, WAIT_MS);
    check_end(task.call, FAS_DEVICE_FAULT, "");
    if (enqueued) {
        stream_waits_for(task.done);
    }
    fas_close(client);
    task_close(&task, NULL);
    ck_assert_int_eq(daemon_wait(&server), 70);
}
END_TEST

/* Memory of one device, events of another: both are the daemon's. */
START_TEST(events_of_another_device)
{
    const char *const two[] = {"--device", "far:0,far:1", "--cpu-threads", "1", NULL};
    struct task task;
    void *context;
    start_task(&task, two, 9);
    ck_assert_int_eq(cuda.retain(&context, 1), 0);
    ck_assert_int_eq(cuda.push(context), 0);
    for (int round = 0; round < 5; round++) {
        run_between(&task);
    }
    stop_task(&task);
}
END_TEST

/* Outputs are copied to the memory of a device that the daemon does not compute on. */
START_TEST(outputs_that_are_copied)
{
    const char *const other[] = {"--device", "far:1", "--cpu-threads", "1", "--slice-time",
                                 "2ms",      NULL};
    struct task task;
    start_task(&task, other, 10);
    for (int round = 0; round < 10; round++) {
        run_between(&task);
    }
    stop_task(&task);
}
END_TEST

/* What is not an event, or can not be one here, is refused by name. */
START_TEST(what_is_no_event)
{
    struct task task;
    int nothing = 0;
    start_task(&task, options, 11);
    task.job.request.wait_event = &nothing;
    ck_assert_int_eq(fas_run(client, &task.job.request, NULL), FAS_INVALID_ARGUMENT);
    task.job.request.wait_event = NULL;
    task.job.request.done_event = &nothing;
    check_refused(&task, FAS_INVALID_ARGUMENT, "done_event");
    fas_event_close(client, &nothing); /* never opened: nothing to do */
    stop_task(&task);
}
END_TEST

/* ---- calls on a stream ---- */

static void stream_goes_on(void)
{
    for (int waited_ms = 0; cuda.query_stream(&stream) != 0 && waited_ms < WAIT_MS; waited_ms++) {
        usleep(1000);
    }
    ck_assert_int_eq(cuda.query_stream(&stream), 0);
}

static void put_on_stream(struct task *task)
{
    task->job.request.wait_event = task->job.request.done_event = NULL;
    task->job.request.stream = &stream;
}

/* On a stream that does not come to it. */
static void submit_held(struct fas_client *owner, struct task *task)
{
    cuda.hold();
    submit_on(owner, task);
}

static void release_stream(void)
{
    cuda.release();
    stream_goes_on();
}

/* Two at a time, far ahead of the stream: one after the other, with nobody waiting on the host. */
START_TEST(calls_on_a_stream)
{
    enum { CALLS = 6 };
    struct random random = random_open(12);
    struct task tasks[CALLS];
    start_with(options);
    for (int i = 0; i < CALLS; i++) {
        task_open(&tasks[i], &random);
        put_on_stream(&tasks[i]);
    }
    for (int round = 0; round < 5; round++) {
        cuda.hold();
        for (int i = 0; i < CALLS; i++) {
            job_reset(&tasks[i].job);
            submit_on(client, &tasks[i]);
        }
        usleep(NOT_YET_MS * 1000);
        for (int i = 0; i < CALLS; i++) {
            ck_assert(!fas_enqueued(tasks[i].call, 0));
        }
        cuda.release();
        stream_goes_on();
        for (int i = 0; i < CALLS; i++) {
            ck_assert(job_right(&tasks[i].job));
            check_end(tasks[i].call, FAS_OK, "");
        }
    }
    /* Memory, and an event for each in flight. */
    ck_assert_double_eq(watch_stat(client, "places"), 2 * CALLS);
    stop();
    for (int i = 0; i < CALLS; i++) {
        task_close(&tasks[i], NULL);
    }
}
END_TEST

/* However its calls end: refused, cancelled, too late, left, lost. */
START_TEST(a_stream_goes_on)
{
    struct task task;
    start_task(&task, options, 13);
    put_on_stream(&task);
    task.job.request.dims.d = 12; /* the daemon says no */
    submit_on(client, &task);
    stream_goes_on();
    check_end(task.call, FAS_INVALID_ARGUMENT, "d");
    task.job.request.dims.d = 0; /* the library does */
    ck_assert_int_eq(fas_submit(client, &task.job.request, NULL, &error), FAS_INVALID_ARGUMENT);
    ck_assert_int_eq(fas_submit(client, &task.job.request, &task.call, &error),
                     FAS_INVALID_ARGUMENT);
    stream_goes_on();
    task.job.request.dims.d = shape.d;

    submit_held(client, &task);
    fas_cancel(task.call);
    check_end(task.call, FAS_CANCELLED, "");
    release_stream();

    submit_held(client, &task);
    check_end(task.call, FAS_DEADLINE_EXCEEDED, "wait_event");
    release_stream();

    struct fas_client *leaver = connect_client();
    submit_held(leaver, &task);
    fas_close(leaver);
    release_stream();

    submit_held(client, &task);
    kill(server.pid, SIGKILL);
    check_end(task.call, FAS_UNAVAILABLE, "");
    release_stream();

    daemon_wait(&server);
    ck_assert_int_eq(fas_submit(client, &task.job.request, &task.call, &error), FAS_UNAVAILABLE);
    stream_goes_on();
    fas_close(client);
    task_close(&task, NULL);
}
END_TEST

/* Two bosses of one thing, and no stream at all. */
START_TEST(what_is_no_stream)
{
    struct task task;
    start_task(&task, options, 14);
    task.job.request.stream = &stream;
    check_refused(&task, FAS_INVALID_ARGUMENT, "wait_event");
    task.job.request.wait_event = NULL; /* the done event may be beside it */
    submit_on(client, &task);
    ck_assert(fas_enqueued(task.call, WAIT_MS));
    stream_waits_for(task.done);
    stream_goes_on();
    check_end(task.call, FAS_OK, "");
    stop_task(&task);
}
END_TEST

int main(void)
{
    static const struct check_row rows[] = {
        {"between", &inputs_behind_an_event_and_outputs_before_one},
        {"each", &each_event_by_itself},
        {"anew", &an_event_made_anew},
        {"never", &an_event_that_does_not_come},
        {"leaves", &a_client_that_leaves_while_it_waits},
        {"drain", &a_drain_while_one_waits},
        {"cancel", &cancelled_at_any_moment},
        {"fault", &a_device_that_fails},
        {"other", &events_of_another_device},
        {"copied", &outputs_that_are_copied},
        {"bad", &what_is_no_event},
        {"stream", &calls_on_a_stream},
        {"goes_on", &a_stream_goes_on},
        {"no_stream", &what_is_no_stream},
    };
    return check_main("events", rows, sizeof rows / sizeof rows[0]);
}
