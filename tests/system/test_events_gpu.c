/*
 * Calls between two events, and on a stream, on a GPU: inputs that are written behind the call and
 * before the event, outputs that are read before the call's end is looked at; a stream that goes on
 * when its call is cancelled, its client leaves, the daemon is killed; and how long it takes.
 */
#include <dlfcn.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "client/faserve.h"
#include "tests/support/check_main.h"
#include "tests/support/daemon.h"
#include "tests/support/random.h"
#include "tests/support/watch.h"

enum { INTERPROCESS = 6, NON_BLOCKING = 1, WAIT_MS = 20000, NOT_YET_MS = 20, NOT_READY = 600 };
enum { GOOD = 4, BAD, OUTPUTS, CALLS = 10, PIECES = OUTPUTS + CALLS };
enum { HEADS = 4, D = 128, LEN = 1000, BATCH = 3, ROWS = LEN * BATCH };

static struct {
    int (*init)(unsigned flags);
    int (*device)(int *device, int ordinal);
    int (*retain)(void **context, int device);
    int (*enter)(void *context);
    int (*open_stream)(void **stream, unsigned flags);
    int (*wait_stream)(void *stream);
    int (*query_stream)(void *stream);
    int (*stream_waits)(void *stream, void *event, unsigned flags);
    int (*host_function)(void *stream, void (*function)(void *), void *context);
    int (*copy)(uintptr_t to, uintptr_t from, size_t bytes, void *stream);
    int (*create)(void **event, unsigned flags);
    int (*record)(void *event, void *stream);
} cuda;

static struct daemon server;
static struct fas_client *client;
static struct fas_error error;
static void *stream, *ready, *done;
static uint8_t *memory; /* q, k, v, o of the call, a good q, a bad one, outputs */
static uint8_t *host, *expected;
static struct fas_request request;
static atomic_bool held;

static const uint64_t BYTES = (uint64_t)ROWS * HEADS * D * 2;

static void load_driver(void)
{
    const struct {
        const char *symbol;
        void *function;
    } rows[] = {
        {"cuInit", &cuda.init},
        {"cuDeviceGet", &cuda.device},
        {"cuDevicePrimaryCtxRetain", &cuda.retain},
        {"cuCtxSetCurrent", &cuda.enter},
        {"cuStreamCreate", &cuda.open_stream},
        {"cuStreamSynchronize", &cuda.wait_stream},
        {"cuStreamQuery", &cuda.query_stream},
        {"cuStreamWaitEvent", &cuda.stream_waits},
        {"cuLaunchHostFunc", &cuda.host_function},
        {"cuMemcpyAsync", &cuda.copy},
        {"cuEventCreate", &cuda.create},
        {"cuEventRecord", &cuda.record},
    };
    void *context, *library = dlopen("libcuda.so.1", RTLD_NOW);
    int device;
    ck_assert_ptr_nonnull(library);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        void *found = dlsym(library, rows[i].symbol);
        ck_assert_msg(found != NULL, "%s", rows[i].symbol);
        memcpy(rows[i].function, &found, sizeof found);
    }
    ck_assert(cuda.init(0) == 0 && cuda.device(&device, 0) == 0 &&
              cuda.retain(&context, device) == 0 && cuda.enter(context) == 0);
    ck_assert_int_eq(cuda.open_stream(&stream, NON_BLOCKING), 0);
    ck_assert_int_eq(cuda.create(&ready, INTERPROCESS), 0);
    ck_assert_int_eq(cuda.create(&done, INTERPROCESS), 0);
}

/* Bits of bf16 numbers of -2 to 2. */
static void fill(uint8_t *to, uint64_t bytes, struct random *random)
{
    for (uint64_t i = 0; i < bytes; i += 2) {
        float value = (float)(random_unit(random) * 4 - 2);
        uint32_t bits;
        memcpy(&bits, &value, 4);
        to[i] = (uint8_t)(bits >> 16);
        to[i + 1] = (uint8_t)(bits >> 24);
    }
}

static uint8_t *piece(int number)
{
    return memory + (uint64_t)number * BYTES;
}

static void copy_on_stream(int to, int from)
{
    ck_assert_int_eq(cuda.copy((uintptr_t)piece(to), (uintptr_t)piece(from), BYTES, stream), 0);
}

static void start_daemon(void)
{
    static const char *const options[] = {"--device", "cuda:0", "--arena-bytes", "512MiB", NULL};
    daemon_start(&server, options);
}

static void connect_client(void)
{
    struct fas_connect_options connect = {.url = server.url};
    ck_assert_msg(fas_connect(&connect, &client, &error) == FAS_OK, "%s", error.text);
}

/* The request in CUDA memory, and what comes of it. */
static void prepare(void)
{
    struct random random = random_open(1);
    void *shared;
    load_driver();
    ck_assert_msg(fas_alloc(client, FAS_PLACE_CUDA, PIECES * BYTES, &shared, &error) == FAS_OK,
                  "%s", error.text);
    memory = shared;
    host = malloc(BYTES);
    expected = malloc(BYTES);
    for (int i = 0; i < 5; i++) {
        fill(host, BYTES, &random);
        ck_assert_int_eq(fas_copy(piece(i), host, BYTES, &error), FAS_OK);
    }
    ck_assert_int_eq(fas_copy(piece(GOOD), piece(0), BYTES, &error), FAS_OK);
    request = (struct fas_request){.dims = {FAS_BF16, HEADS, HEADS, D, D, ROWS, ROWS},
                                   .batch = BATCH,
                                   .q.max_len = LEN,
                                   .k.max_len = LEN,
                                   .tensors = {[FAS_Q] = {piece(0)},
                                               [FAS_K] = {piece(1)},
                                               [FAS_V] = {piece(2)},
                                               [FAS_O] = {piece(3)}}};
    struct fas_report report;
    ck_assert_msg(fas_run(client, &request, &report) == FAS_OK, "%s", report.error.text);
    ck_assert_int_eq(fas_copy(expected, piece(3), BYTES, &error), FAS_OK);
    request.wait_event = ready;
    request.done_event = done;
}

static void start(void)
{
    start_daemon();
    connect_client();
    prepare();
}

static void stop(void)
{
    fas_event_close(client, ready);
    fas_event_close(client, done);
    fas_close(client);
    ck_assert_int_eq(daemon_stop(&server), 0);
}

static void hold(void *context)
{
    (void)context;
    while (atomic_load(&held)) {
        usleep(50);
    }
}

/* The inputs are wrong until the stream, which is held, comes by. */
static struct fas_call *submit_held(void)
{
    struct fas_call *call = NULL;
    atomic_store(&held, true);
    copy_on_stream(0, BAD);
    copy_on_stream(3, BAD);
    ck_assert_int_eq(cuda.wait_stream(stream), 0);
    ck_assert_int_eq(cuda.host_function(stream, hold, NULL), 0);
    copy_on_stream(0, GOOD);
    ck_assert_int_eq(cuda.record(ready, stream), 0);
    ck_assert_msg(fas_submit(client, &request, &call, &error) == FAS_OK, "%s: %s", error.field,
                  error.text);
    return call;
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

static void run_between(int rounds)
{
    for (int round = 0; round < rounds; round++) {
        struct fas_call *call = submit_held();
        ck_assert(round % 20 || !fas_enqueued(call, NOT_YET_MS));
        atomic_store(&held, false);
        ck_assert(fas_enqueued(call, WAIT_MS));
        ck_assert_int_eq(cuda.stream_waits(stream, done, 0), 0);
        ck_assert_int_eq(cuda.copy((uintptr_t)host, (uintptr_t)piece(3), BYTES, stream), 0);
        ck_assert_int_eq(cuda.wait_stream(stream), 0);
        ck_assert_msg(memcmp(host, expected, BYTES) == 0, "round %d", round);
        check_end(call, FAS_OK, "");
    }
}

START_TEST(between_two_events)
{
    start();
    run_between(200);
    stop();
}
END_TEST

/* Its event is pending for ever. The daemon lets go of it, and is as well as before. */
START_TEST(a_client_killed_while_it_waits)
{
    start_daemon();
    pid_t child = fork(); /* before this process has to do with CUDA */
    if (child == 0) {
        connect_client();
        prepare();
        submit_held();
        pause();
    }
    connect_client();
    ck_assert_double_eq(watch_for(client, "requests_in_flight", 1), 1);
    usleep(100000);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    ck_assert_double_eq(watch_for(client, "requests_in_flight", 0), 0);
    ck_assert_double_eq(watch_for(client, "places", 0), 0);
    prepare();
    run_between(50);
    stop();
}
END_TEST

/* Another connection is served while one waits; then the call is cancelled. */
START_TEST(nobody_else_waits)
{
    start();
    struct fas_connect_options connect = {.url = server.url};
    struct fas_client *other;
    ck_assert_int_eq(fas_connect(&connect, &other, &error), FAS_OK);
    struct fas_call *call = submit_held();
    struct fas_request plain = request;
    plain.wait_event = plain.done_event = NULL;
    plain.tensors[FAS_Q].data = piece(GOOD);
    for (int i = 0; i < 50; i++) {
        ck_assert_int_eq(fas_run(other, &plain, NULL), FAS_OK);
        ck_assert_int_eq(fas_copy(host, piece(3), BYTES, &error), FAS_OK);
        ck_assert_int_eq(memcmp(host, expected, BYTES), 0);
    }
    fas_cancel(call);
    check_end(call, FAS_CANCELLED, "");
    atomic_store(&held, false);
    fas_close(other);
    stop();
}
END_TEST

static double now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e6 + (double)now.tv_nsec * 1e-3;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, int count)
{
    qsort(values, (size_t)count, sizeof values[0], by_value);
    return values[count / 2];
}

/* Copies in, a call, copies out, so many times in a row: with the host between, with events, as
 * calls on the stream. */
enum how { HOST, EVENTS, STREAM, HOWS };
enum { IN_A_ROW = 8 };

static void run_row(enum how how)
{
    struct fas_call *calls[IN_A_ROW];
    request.wait_event = how == EVENTS ? ready : NULL;
    request.done_event = how == EVENTS ? done : NULL;
    request.stream = how == STREAM ? stream : NULL;
    for (int i = 0; i < IN_A_ROW; i++) {
        copy_on_stream(0, GOOD);
        if (how != STREAM) {
            ck_assert_int_eq(how == EVENTS ? cuda.record(ready, stream) : cuda.wait_stream(stream),
                             0);
        }
        ck_assert_msg(fas_submit(client, &request, &calls[i], &error) == FAS_OK, "%s: %s",
                      error.field, error.text);
        if (how == EVENTS) {
            ck_assert(fas_enqueued(calls[i], WAIT_MS));
            ck_assert_int_eq(cuda.stream_waits(stream, done, 0), 0);
        } else if (how == HOST) {
            ck_assert(fas_wait(calls[i], WAIT_MS));
        }
        copy_on_stream(OUTPUTS, 3);
    }
    ck_assert_int_eq(cuda.wait_stream(stream), 0);
    for (int i = 0; i < IN_A_ROW; i++) {
        check_end(calls[i], FAS_OK, "");
    }
}

START_TEST(how_long_it_takes)
{
    enum { ROUNDS = 200 };
    static double us[HOWS][ROUNDS];
    start();
    for (int round = 0; round < HOWS * ROUNDS; round++) {
        double begin_us = now_us();
        run_row((enum how)(round % HOWS));
        us[round % HOWS][round / HOWS] = (now_us() - begin_us) / IN_A_ROW;
    }
    printf("copy, %d x %d of %d heads, copy, %d in a row, each: the host between %.1f us, events "
           "%.1f us, on the stream %.1f us (medians)\n",
           BATCH, LEN, HEADS, IN_A_ROW, median(us[HOST], ROUNDS), median(us[EVENTS], ROUNDS),
           median(us[STREAM], ROUNDS));
    stop();
}
END_TEST

/* Inputs are poisoned on the stream before each call and written again behind, all far ahead of it;
 * outputs are taken from it. */
START_TEST(calls_on_a_stream)
{
    start();
    for (int round = 0; round < 20; round++) {
        struct fas_call *calls[CALLS];
        request.wait_event = request.done_event = NULL;
        request.stream = stream;
        atomic_store(&held, true);
        ck_assert_int_eq(cuda.host_function(stream, hold, NULL), 0);
        for (int i = 0; i < CALLS; i++) {
            copy_on_stream(0, GOOD);
            ck_assert_msg(fas_submit(client, &request, &calls[i], &error) == FAS_OK, "%s: %s",
                          error.field, error.text);
            copy_on_stream(OUTPUTS + i, 3);
            copy_on_stream(0, BAD);
            copy_on_stream(3, BAD);
        }
        atomic_store(&held, false);
        ck_assert_int_eq(cuda.wait_stream(stream), 0);
        for (int i = 0; i < CALLS; i++) {
            ck_assert_int_eq(fas_copy(host, piece(OUTPUTS + i), BYTES, &error), FAS_OK);
            ck_assert(memcmp(host, expected, BYTES) == 0);
            check_end(calls[i], FAS_OK, "");
        }
    }
    stop();
}
END_TEST

static void stream_goes_on(const char *when)
{
    int waited_ms = 0;
    while (cuda.query_stream(stream) == NOT_READY && waited_ms < WAIT_MS) {
        usleep(1000);
        waited_ms++;
    }
    ck_assert_msg(cuda.query_stream(stream) == 0, "%s: %d", when, cuda.query_stream(stream));
}

/* However its calls end. */
START_TEST(a_stream_goes_on)
{
    struct random random = random_open(2);
    start();
    struct fas_connect_options connect = {.url = server.url};
    request.wait_event = request.done_event = NULL;
    request.stream = stream;
    for (int round = 0; round < 100; round++) {
        struct fas_client *leaver;
        struct fas_call *call;
        ck_assert_int_eq(fas_connect(&connect, &leaver, &error), FAS_OK);
        ck_assert_msg(fas_submit(leaver, &request, &call, &error) == FAS_OK, "%s: %s", error.field,
                      error.text);
        usleep((useconds_t)random_below(&random, 200));
        if (round % 2) {
            fas_cancel(call);
            ck_assert(fas_wait(call, WAIT_MS));
        }
        fas_close(leaver);
        stream_goes_on(round % 2 ? "cancelled" : "left");
    }
    for (int i = 0; i < 20; i++) { /* busy when it dies */
        ck_assert_int_eq(fas_submit(client, &request, &(struct fas_call *){NULL}, &error), FAS_OK);
    }
    kill(server.pid, SIGKILL);
    stream_goes_on("killed");
    ck_assert_int_eq(cuda.copy((uintptr_t)host, (uintptr_t)piece(GOOD), BYTES, stream), 0);
    ck_assert_int_eq(cuda.wait_stream(stream), 0);
    daemon_wait(&server);
    fas_close(client);
}
END_TEST

int main(void)
{
    static const struct check_row rows[] = {
        {"between", &between_two_events},
        {"others", &nobody_else_waits},
        {"left", &a_client_killed_while_it_waits},
        {"time", &how_long_it_takes},
        {"stream", &calls_on_a_stream},
        {"goes_on", &a_stream_goes_on},
    };
    return check_main("events_gpu", rows, sizeof rows / sizeof rows[0]);
}
