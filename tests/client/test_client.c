/*
 * What libfaserve promises, against a daemon that computes nothing but keeps, or breaks, the
 * protocol: every byte goes and comes where it should, every call ends exactly once, and a daemon
 * that lies can not make the library write outside the caller's tensors.
 */
#include <check.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "client/faserve.h"
#include "tests/support/fake_server.h"

static char path[64], url[80];
static struct fake_server *server;
static struct fas_client *client;
static struct fas_error error;

/* ---- a request with guarded buffers ---- */

enum { GUARD = 64, MARK = 0xA5 };

struct work {
    struct fas_request request;
    uint32_t inputs, outputs;
    uint8_t *memory[FAS_TENSOR_COUNT]; /* with a guard on either side */
    size_t bytes[FAS_TENSOR_COUNT];
    int32_t cu_seqlens[3];
    uint64_t sum;
    atomic_int ended, progressed;
};

/* bytes: of the tensor's extent in memory, gaps included. */
static void *guarded(struct work *w, int tensor, size_t bytes)
{
    w->bytes[tensor] = bytes;
    w->memory[tensor] = malloc(bytes + 2 * GUARD);
    memset(w->memory[tensor], MARK, bytes + 2 * GUARD);
    return w->memory[tensor] + GUARD;
}

static void guards_hold(const struct work *w)
{
    bool hold = true;
    for (int t = 0; t < FAS_TENSOR_COUNT; t++) {
        for (size_t i = 0; w->memory[t] && i < GUARD; i++) {
            hold &= w->memory[t][i] == MARK && w->memory[t][GUARD + w->bytes[t] + i] == MARK;
        }
    }
    ck_assert_msg(hold, "bytes beside a tensor were written");
}

static void work_free(struct work *w)
{
    for (int t = 0; t < FAS_TENSOR_COUNT; t++) {
        free(w->memory[t]);
    }
    free(w);
}

static struct work *work_new(enum fas_pass pass, int64_t rows)
{
    struct work *w = calloc(1, sizeof(*w));
    struct fas_request *request = &w->request;
    request->pass = pass;
    request->dims = (struct fas_dims){FAS_BF16, 4, 2, 64, 32, rows, rows};
    request->batch = 2;
    w->cu_seqlens[1] = (int32_t)(rows / 3);
    w->cu_seqlens[2] = (int32_t)rows;
    request->q.cu_seqlens = request->k.cu_seqlens = w->cu_seqlens;
    const uint32_t forward_in = 1u << FAS_Q | 1u << FAS_K | 1u << FAS_V;
    const uint32_t forward_out = 1u << FAS_O | 1u << FAS_LSE;
    bool forward = pass == FAS_FORWARD;
    w->inputs = forward ? forward_in : forward_in | forward_out | 1u << FAS_DO;
    w->outputs = forward ? forward_out : 1u << FAS_DQ | 1u << FAS_DK | 1u << FAS_DV;
    for (int t = 0; t < FAS_TENSOR_COUNT; t++) {
        if (!((w->inputs | w->outputs) & (1u << t))) {
            continue;
        }
        size_t bytes = fas_tensor_bytes(&request->dims, (enum fas_tensor)t);
        uint8_t *data = guarded(w, t, bytes);
        request->tensors[t].data = data;
        for (size_t i = 0; (w->inputs & (1u << t)) && i < bytes; i++) {
            data[i] = (uint8_t)(i * 31 + (size_t)t);
        }
        w->sum += w->inputs & (1u << t) ? fake_sum(t, 0, data, bytes) : 0;
    }
    w->sum &= 0xffffffffffff;
    return w;
}

static void results_are_in_place(const struct work *w)
{
    for (int t = 0; t < FAS_TENSOR_COUNT; t++) {
        const uint8_t *data = w->request.tensors[t].data;
        for (size_t i = 0; (w->outputs & (1u << t)) && i < w->bytes[t]; i++) {
            if (data[i] != fake_byte(t, i)) {
                ck_abort_msg("%s: byte %zu", fas_tensor_row((enum fas_tensor)t)->name, i);
            }
        }
    }
    guards_hold(w);
}

/* ---- fixtures ---- */

static void start(enum fake_fault fault)
{
    snprintf(path, sizeof(path), "/tmp/fas_test_client.%d", (int)getpid());
    snprintf(url, sizeof(url), "ipc://%s", path);
    server = fake_server_open(path, fault);
}

static enum fas_status connect_for(uint32_t silence_ms)
{
    struct fas_connect_options options = {
        .url = url, .connect_timeout_ms = 2000, .silence_ms = silence_ms};
    return fas_connect(&options, &client, &error);
}

static void start_connected(enum fake_fault fault)
{
    start(fault);
    ck_assert_int_eq(connect_for(0), FAS_OK);
}

static void stop(void)
{
    fas_close(client);
    client = NULL;
    fake_server_close(server);
}

/* ---- a good daemon ---- */

START_TEST(forward_moves_every_byte)
{
    static const int64_t rows[] = {0, 1, 7, 300, 5000};
    start_connected(FAKE_NONE);
    struct work *w = work_new(FAS_FORWARD, rows[_i]);
    struct fas_report report;
    ck_assert_int_eq(fas_run(client, &w->request, &report), FAS_OK);
    results_are_in_place(w);
    ck_assert_uint_eq(report.batch_tokens, w->sum);
    ck_assert_str_eq(report.device, "fake:0");
    ck_assert_uint_eq(report.places, 1u << FAS_PLACE_INLINE);
    work_free(w);
    stop();
}
END_TEST

START_TEST(backward_moves_every_byte)
{
    start_connected(FAKE_NONE);
    struct work *w = work_new(FAS_BACKWARD, 2000);
    struct fas_report report;
    ck_assert_int_eq(fas_run(client, &w->request, &report), FAS_OK);
    results_are_in_place(w);
    ck_assert_uint_eq(report.batch_tokens, w->sum);
    work_free(w);
    stop();
}
END_TEST

START_TEST(lse_is_optional)
{
    start_connected(FAKE_NONE);
    struct work *w = work_new(FAS_FORWARD, 100);
    w->request.tensors[FAS_LSE].data = NULL;
    w->outputs = 1u << FAS_O;
    ck_assert_int_eq(fas_run(client, &w->request, NULL), FAS_OK);
    results_are_in_place(w);
    work_free(w);
    stop();
}
END_TEST

/* q and o lie in rows of 3 tensors' width, heads outermost for v, lse as (rows, heads). */
START_TEST(gaps_are_gathered_and_scattered)
{
    enum { ROWS = 1500, HQ = 4, HKV = 2, D = 64, DV = 32, E = 2 };
    start_connected(FAKE_NONE);
    struct work *w = work_new(FAS_FORWARD, ROWS);
    struct fas_buffer *tensors = w->request.tensors;
    const uint8_t *q = tensors[FAS_Q].data, *v = tensors[FAS_V].data;
    size_t q_row = HQ * D * E, o_row = HQ * DV * E;
    uint8_t *wide_q = calloc(ROWS, 3 * q_row), *turned_v = calloc(ROWS, HKV * DV * E);
    for (size_t row = 0; row < ROWS; row++) {
        memcpy(wide_q + row * 3 * q_row, q + row * q_row, q_row);
        for (size_t head = 0; head < HKV; head++) {
            memcpy(turned_v + (head * ROWS + row) * DV * E, v + (row * HKV + head) * DV * E,
                   (size_t)DV * E);
        }
    }
    tensors[FAS_Q] = (struct fas_buffer){wide_q, (int64_t)(3 * q_row), D * E};
    tensors[FAS_V] = (struct fas_buffer){turned_v, DV * E, ROWS * DV * E};
    free(w->memory[FAS_O]);
    tensors[FAS_O] =
        (struct fas_buffer){guarded(w, FAS_O, ROWS * 3 * o_row), (int64_t)(3 * o_row), DV * E};
    tensors[FAS_LSE].row_stride = 4 * HQ;
    tensors[FAS_LSE].head_stride = 4;
    struct fas_report report;
    ck_assert_int_eq(fas_run(client, &w->request, &report), FAS_OK);
    ck_assert_uint_eq(report.batch_tokens, w->sum);
    const uint8_t *o = tensors[FAS_O].data, *lse = tensors[FAS_LSE].data;
    bool o_right = true, lse_right = true;
    for (size_t row = 0; row < ROWS; row++) {
        for (size_t i = 0; i < 3 * o_row; i++) {
            uint8_t expected = i < o_row ? fake_byte(FAS_O, row * o_row + i) : MARK;
            o_right &= o[row * 3 * o_row + i] == expected;
        }
        for (size_t i = 0; i < 4 * HQ; i++) {
            size_t packed = ((i / 4) * ROWS + row) * 4 + i % 4;
            lse_right &= lse[row * 4 * HQ + i] == fake_byte(FAS_LSE, packed);
        }
    }
    ck_assert(o_right);
    ck_assert(lse_right);
    guards_hold(w);
    free(wide_q);
    free(turned_v);
    work_free(w);
    stop();
}
END_TEST

/* ---- ways to learn of the end ---- */

static void on_end(struct fas_call *call, const struct fas_report *report, void *context)
{
    struct work *w = context;
    ck_assert_int_eq(report->error.status, FAS_OK);
    ck_assert_ptr_eq(fas_call_context(call), w);
    ck_assert_ptr_eq(fas_call_report(call), report);
    fas_call_close(call);
    atomic_fetch_add(&w->ended, 1);
}

static void on_progress(struct fas_call *call, int32_t first, int32_t count, void *context)
{
    struct work *w = context;
    ck_assert_ptr_nonnull(call);
    ck_assert_int_eq(first, 0);
    atomic_fetch_add(&w->progressed, count);
}

START_TEST(many_calls_end_by_callback)
{
    enum { CALLS = 500 };
    start_connected(FAKE_NONE);
    struct work *w = work_new(FAS_FORWARD, 40);
    w->request.on_end = on_end;
    w->request.on_progress = on_progress;
    w->request.context = w;
    for (int submitted = 0; submitted < CALLS;) {
        enum fas_status status = fas_submit(client, &w->request, NULL, &error);
        submitted += status == FAS_OK;
        if (status != FAS_OK) { /* all slots are taken: that is said, not waited for */
            ck_assert_int_eq(status, FAS_RESOURCE_EXHAUSTED);
            ck_assert_str_eq(error.field, "calls_max");
            usleep(100);
        }
    }
    while (atomic_load(&w->ended) < CALLS) {
        usleep(1000);
    }
    ck_assert_int_eq(atomic_load(&w->progressed), 2 * CALLS);
    stop();
    ck_assert_int_eq(atomic_load(&w->ended), CALLS);
    work_free(w);
}
END_TEST

START_TEST(calls_end_in_the_queue)
{
    enum { CALLS = 8 };
    start_connected(FAKE_NONE);
    struct work *works[CALLS];
    for (int i = 0; i < CALLS; i++) {
        works[i] = work_new(i % 2 ? FAS_FORWARD : FAS_BACKWARD, 50 + 200 * i);
        works[i]->request.queue = true;
        works[i]->request.context = works[i];
        ck_assert_int_eq(fas_submit(client, &works[i]->request, NULL, &error), FAS_OK);
    }
    for (int taken = 0; taken < CALLS;) {
        struct pollfd pollfd = {.fd = fas_fd(client), .events = POLLIN};
        ck_assert_int_eq(poll(&pollfd, 1, 5000), 1);
        struct fas_call *call;
        for (; (call = fas_take(client)); taken++) {
            struct work *w = fas_call_context(call);
            ck_assert_int_eq(fas_call_report(call)->error.status, FAS_OK);
            results_are_in_place(w);
            fas_call_close(call);
        }
        ck_assert_int_eq(poll(&pollfd, 1, 0) > 0, taken < CALLS && pollfd.revents != 0);
    }
    for (int i = 0; i < CALLS; i++) {
        work_free(works[i]);
    }
    stop();
}
END_TEST

static void *run_some(void *context)
{
    (void)context;
    for (int i = 0; i < 50; i++) {
        struct work *w = work_new(i % 2 ? FAS_FORWARD : FAS_BACKWARD, 1 + 37 * i);
        struct fas_report report;
        ck_assert_int_eq(fas_run(client, &w->request, &report), FAS_OK);
        ck_assert_uint_eq(report.batch_tokens, w->sum);
        results_are_in_place(w);
        work_free(w);
    }
    return NULL;
}

START_TEST(threads_share_a_client)
{
    pthread_t threads[4];
    start_connected(FAKE_NONE);
    for (int i = 0; i < 4; i++) {
        pthread_create(&threads[i], NULL, run_some, NULL);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
    }
    stop();
}
END_TEST

/* ---- cancel, close, loss ---- */

START_TEST(cancel_ends_a_call)
{
    start_connected(FAKE_WAITS_CANCEL);
    struct work *w = work_new(FAS_FORWARD, _i ? 100000 : 10);
    struct fas_call *call;
    ck_assert_int_eq(fas_submit(client, &w->request, &call, &error), FAS_OK);
    ck_assert(!fas_wait(call, 20));
    ck_assert_ptr_null(fas_call_report(call));
    fas_cancel(call);
    ck_assert(fas_wait(call, 5000));
    ck_assert_int_eq(fas_call_report(call)->error.status, FAS_CANCELLED);
    fas_cancel(call);
    fas_call_close(call);
    ck_assert_int_eq(fas_ping(client, 0, NULL, &error), FAS_OK);
    work_free(w);
    stop();
}
END_TEST

static void *cancel_soon(void *call)
{
    usleep(50000);
    fas_cancel(call);
    return NULL;
}

START_TEST(a_long_wait_is_a_long_wait)
{
    start_connected(FAKE_WAITS_CANCEL);
    struct work *w = work_new(FAS_FORWARD, 10);
    struct fas_call *call;
    pthread_t thread;
    ck_assert_int_eq(fas_submit(client, &w->request, &call, &error), FAS_OK);
    pthread_create(&thread, NULL, cancel_soon, call);
    ck_assert(fas_wait(call, INT64_MAX));
    ck_assert(!fas_enqueued(call, INT64_MAX));
    pthread_join(thread, NULL);
    fas_call_close(call);
    work_free(w);
    stop();
}
END_TEST

START_TEST(closing_an_open_call_cancels_it)
{
    start_connected(FAKE_WAITS_CANCEL);
    struct work *w = work_new(FAS_FORWARD, 10);
    struct fas_call *call;
    ck_assert_int_eq(fas_submit(client, &w->request, &call, &error), FAS_OK);
    fas_call_close(call);
    memset(w->memory[FAS_O], MARK, w->bytes[FAS_O]);
    ck_assert_int_eq(fas_ping(client, 0, NULL, &error), FAS_OK);
    guards_hold(w);
    work_free(w);
    stop();
}
END_TEST

static void on_end_cancelled(struct fas_call *call, const struct fas_report *report, void *context)
{
    struct work *w = context;
    ck_assert_ptr_nonnull(call);
    ck_assert_int_eq(report->error.status, FAS_CANCELLED);
    atomic_fetch_add(&w->ended, 1);
}

START_TEST(fas_close_ends_every_call)
{
    start_connected(FAKE_WAITS_CANCEL);
    struct work *w = work_new(FAS_FORWARD, 20000);
    w->request.on_end = on_end_cancelled;
    w->request.context = w;
    for (int i = 0; i < 5; i++) {
        ck_assert_int_eq(fas_submit(client, &w->request, NULL, &error), FAS_OK);
    }
    stop();
    ck_assert_int_eq(atomic_load(&w->ended), 5);
    work_free(w);
}
END_TEST

/* Of fewer ms than there are looks at it; on a busy machine the greeting is too late, too. */
START_TEST(a_short_silence_is_noticed)
{
    start(FAKE_STALLS);
    enum fas_status status = connect_for(3);
    status = status == FAS_OK ? fas_ping(client, 5000, NULL, &error) : status;
    ck_assert_int_eq(status, FAS_UNAVAILABLE);
    ck_assert_str_eq(error.field, "silence_ms");
    stop();
}
END_TEST

/* ---- the order of ends ---- */

static atomic_bool first_ends, third_is_closed, third_ended, ended_after_close;

static void first_on_end(struct fas_call *call, const struct fas_report *report, void *context)
{
    (void)call, (void)report, (void)context;
    first_ends = true;
    for (int i = 0; i < 200 && !third_is_closed; i++) {
        usleep(1000);
    }
}

static void second_on_end(struct fas_call *call, const struct fas_report *report, void *context)
{
    (void)report, (void)context;
    fas_call_close(call);
}

static void third_on_end(struct fas_call *call, const struct fas_report *report, void *context)
{
    (void)call, (void)report, (void)context;
    third_ended = true;
    ended_after_close = third_is_closed;
}

static pthread_t submitter;
static atomic_int refused, refused_by_submitter;

static void on_end_refused(struct fas_call *call, const struct fas_report *report, void *context)
{
    (void)context;
    ck_assert_int_eq(report->error.status, FAS_RESOURCE_EXHAUSTED);
    refused_by_submitter += pthread_equal(submitter, pthread_self()) != 0;
    fas_call_close(call);
    refused++;
}

/* Also when the answer comes while the caller sends the call's tensors itself: a lock that is held
 * in fas_submit and taken in on_end must not be waited for by who holds it. */
START_TEST(on_end_runs_on_threads_of_the_library)
{
    enum { CALLS = 500 };
    submitter = pthread_self();
    start_connected(FAKE_REJECTS);
    struct work *w = work_new(FAS_FORWARD, 200);
    w->request.on_end = on_end_refused;
    for (int i = 0; i < CALLS; i++) {
        ck_assert_int_eq(fas_submit(client, &w->request, NULL, &error), FAS_OK);
        while (refused <= i) {
            usleep(10);
        }
    }
    ck_assert_int_eq(refused_by_submitter, 0);
    work_free(w);
    stop();
}
END_TEST

/* Lengths need no credit, so these fill the socket of a daemon that reads nothing. */
static void submit_lengths(fas_on_end *end, struct fas_call **call)
{
    static const int32_t zeros[65537];
    const struct fas_request request = {.dims = {FAS_BF16, 1, 1, 8, 8, 0, 0},
                                        .batch = 65536,
                                        .q.cu_seqlens = zeros,
                                        .k.cu_seqlens = zeros,
                                        .on_end = end};
    ck_assert_int_eq(fas_submit(client, &request, call, &error), FAS_OK);
}

/* The one who closes a call has run on_end of an earlier call in the same slot (by cancelling what
 * had not been sent), and the call's own on_end is yet to come, behind a slow one. */
START_TEST(closing_waits_for_on_end)
{
    enum { FILL = 10 };
    struct fas_call *calls[FILL], *second, *third;
    start_connected(FAKE_STALLS);
    for (int i = 0; i < FILL; i++) {
        submit_lengths(i == 0 ? first_on_end : NULL, &calls[i]);
    }
    submit_lengths(second_on_end, &second);
    fas_cancel(second);
    submit_lengths(third_on_end, &third);
    ck_assert_ptr_eq(second, third);
    fake_server_close(server);
    while (!first_ends) {
        usleep(1000);
    }
    ck_assert_ptr_null(fas_call_report(third));
    fas_call_close(third);
    third_is_closed = true;
    for (int i = 0; i < FILL; i++) {
        fas_call_close(calls[i]);
    }
    fas_close(client);
    ck_assert(third_ended);
    ck_assert(!ended_after_close);
}
END_TEST

START_TEST(rejection_stops_the_upload)
{
    start_connected(FAKE_REJECTS);
    struct work *w = work_new(FAS_FORWARD, 50000);
    struct fas_report report;
    ck_assert_int_eq(fas_run(client, &w->request, &report), FAS_RESOURCE_EXHAUSTED);
    ck_assert_str_eq(report.error.field, "batch");
    ck_assert_uint_eq(report.error.retry_after_ms, 7);
    ck_assert_int_eq(fas_ping(client, 0, NULL, &error), FAS_OK);
    work_free(w);
    stop();
}
END_TEST

static const struct {
    enum fake_fault fault;
    enum fas_status status;
    const char *field;
} faults[] = {
    {FAKE_STALLS, FAS_UNAVAILABLE, "silence_ms"},
    {FAKE_DIES, FAS_UNAVAILABLE, ""},
    {FAKE_LIES_LENGTH, FAS_INTERNAL, "payload_bytes"},
    {FAKE_ROWS_OUTSIDE, FAS_INTERNAL, "first_row"},
    {FAKE_ROWS_TWICE, FAS_INTERNAL, "row_count"},
    {FAKE_INPUT_TENSOR, FAS_INTERNAL, "tensor"},
    {FAKE_DONE_EARLY, FAS_INTERNAL, "request"},
    {FAKE_ENQUEUED, FAS_INTERNAL, "request"},
    {FAKE_UNKNOWN_ID, FAS_INTERNAL, "request"},
    {FAKE_LYING_PREFIX, FAS_INTERNAL, "frame.length"},
    {FAKE_BAD_HEADER, FAS_INTERNAL, "header"},
};

START_TEST(a_broken_daemon_breaks_nothing_here)
{
    start(faults[_i].fault);
    ck_assert_int_eq(connect_for(300), FAS_OK);
    struct work *w = work_new(FAS_FORWARD, 1000);
    struct fas_report report;
    enum fas_status status = fas_run(client, &w->request, &report);
    ck_assert_int_eq(status, faults[_i].status);
    ck_assert_str_eq(report.error.field, faults[_i].field);
    guards_hold(w);
    ck_assert_int_eq(fas_run(client, &w->request, NULL), status); /* lost stays lost */
    ck_assert_int_eq(fas_ping(client, 0, NULL, &error), status);
    ck_assert_int_eq(fas_release(client, 1, &error), status);
    ck_assert_int_eq(error.status, status);
    work_free(w);
    stop();
}
END_TEST

/* Memory that is not there would kill who touches it. */
START_TEST(a_region_is_what_was_asked_for)
{
    static const struct {
        enum fake_fault fault;
        enum fas_status status;
    } rows[] = {{FAKE_NONE, FAS_OK},
                {FAKE_HALF_REGION, FAS_INTERNAL},
                {FAKE_LOOSE_REGION, FAS_INTERNAL},
                {FAKE_NO_REGION, FAS_INTERNAL}};
    void *memory;
    start_connected(rows[_i].fault);
    ck_assert_int_eq(fas_alloc(client, FAS_PLACE_REGION, 1 << 20, &memory, &error),
                     rows[_i].status);
    ck_assert((memory != NULL) == (rows[_i].status == FAS_OK));
    if (memory) {
        memset(memory, 1, 1 << 20);
    }
    fas_free(client, memory);
    ck_assert_int_eq(fas_ping(client, 0, NULL, &error), FAS_OK);
    stop();
}
END_TEST

/* ---- connecting ---- */

START_TEST(connect_says_what_is_wrong)
{
    static const struct {
        enum fake_fault fault;
        enum fas_status status;
        const char *field;
    } rows[] = {
        {FAKE_MUTE, FAS_DEADLINE_EXCEEDED, "connect_timeout_ms"},
        {FAKE_GARBAGE, FAS_UNSUPPORTED, "hello"},
        {FAKE_NEWER, FAS_UNSUPPORTED, "version"},
        {FAKE_REFUSES, FAS_UNAUTHENTICATED, "token"},
    };
    start(rows[_i].fault);
    struct fas_connect_options options = {.url = url, .connect_timeout_ms = 300};
    ck_assert_int_eq(fas_connect(&options, &client, &error), rows[_i].status);
    ck_assert_str_eq(error.field, rows[_i].field);
    ck_assert_ptr_null(client);
    stop();
}
END_TEST

static void on_alarm(int number)
{
    (void)number;
}

/* A listener that takes nobody, and a program that gets a signal every 10 ms, as profilers send
 * them: the time is the caller's all the same. */
/* Each in time, both together not. */
START_TEST(a_slow_connect_and_a_slow_greeting)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    start(FAKE_SLOW);
    memcpy(address.sun_path, path, sizeof(path));
    int fd = socket(AF_UNIX, SOCK_STREAM, 0); /* the one that may wait */
    ck_assert_int_eq(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    close(fd);
    struct fas_connect_options options = {.url = url, .connect_timeout_ms = FAKE_SLOW_MS + 400};
    ck_assert_msg(fas_connect(&options, &client, &error) == FAS_OK, "%s", error.text);
    stop();
}
END_TEST

/* fas_connect is not through when the connection is lost (thread sanitizer watches). */
START_TEST(a_daemon_that_hangs_up_on_greeting)
{
    start(FAKE_LEAVES);
    for (int i = 0; i < 50; i++) {
        if (connect_for(0) == FAS_OK) {
            ck_assert_int_eq(fas_ping(client, 0, NULL, &error), FAS_UNAVAILABLE);
            fas_close(client);
        }
        ck_assert_int_eq(error.status, FAS_UNAVAILABLE);
    }
    client = NULL;
    stop();
}
END_TEST

START_TEST(signals_do_not_end_a_connect)
{
    const struct sigaction action = {.sa_handler = on_alarm};
    const struct itimerval often = {{0, 10000}, {0, 10000}}, never = {{0, 0}, {0, 0}};
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd, count = 0, fds[8], listener = socket(AF_UNIX, SOCK_STREAM, 0);
    snprintf(address.sun_path, sizeof(address.sun_path), "/tmp/fas_test_client.%d", (int)getpid());
    snprintf(url, sizeof(url), "ipc://%s", address.sun_path);
    ck_assert_int_eq(bind(listener, (struct sockaddr *)&address, sizeof(address)), 0);
    ck_assert_int_eq(listen(listener, 0), 0);
    do {
        fd = fds[count++] = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
    } while (connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0 && count < 8);
    sigaction(SIGALRM, &action, NULL);
    setitimer(ITIMER_REAL, &often, NULL);
    struct fas_connect_options options = {.url = url, .connect_timeout_ms = 300};
    enum fas_status status = fas_connect(&options, &client, &error);
    setitimer(ITIMER_REAL, &never, NULL);
    ck_assert_msg(status == FAS_DEADLINE_EXCEEDED, "%s", error.text);
    while (count > 0) {
        close(fds[--count]);
    }
    close(listener);
    unlink(address.sun_path);
}
END_TEST

START_TEST(connect_checks_its_options)
{
    char token[300];
    memset(token, 'x', sizeof(token) - 1);
    token[sizeof(token) - 1] = 0;
    struct fas_connect_options options = {.url = "ipc:///nonexistent/faserved.sock"};
    ck_assert_int_eq(fas_connect(&options, &client, &error), FAS_UNAVAILABLE);
    ck_assert_str_eq(error.field, "url");
    options.url = "tcp://127.0.0.1:1"; /* nobody's */
    ck_assert_int_eq(fas_connect(&options, &client, &error), FAS_UNAVAILABLE);
    ck_assert_str_eq(error.field, "url");
    static const char *const nowhere[] = {"tcp://",
                                          "tcp://127.0.0.1",
                                          "tcp://127.0.0.1:",
                                          "tcp://:7411",
                                          "tcp://[]:7411",
                                          "tcp://[::1:7411",
                                          "tcp://::1]:7411",
                                          "tcp://127.0.0.1:x",
                                          "tcp://127.0.0.1:99999",
                                          "tcp://127.0.0.1:0",
                                          "tcp://127.0.0.1:-1"};
    for (size_t i = 0; i < sizeof(nowhere) / sizeof(nowhere[0]); i++) {
        options.url = nowhere[i];
        ck_assert_int_eq(fas_connect(&options, &client, &error), FAS_INVALID_ARGUMENT);
        ck_assert_str_eq(error.field, "url");
    }
    options.url = "http://localhost";
    ck_assert_int_eq(fas_connect(&options, &client, &error), FAS_INVALID_ARGUMENT);
    options.url = NULL;
    ck_assert_int_eq(fas_connect(&options, &client, &error), FAS_INVALID_ARGUMENT);
    options.url = "tls+tcp://localhost:1";
    ck_assert_int_eq(fas_connect(&options, &client, &error), FAS_INVALID_ARGUMENT);
    ck_assert_str_eq(error.field, "tls_ca_file");
    options.url = "ipc:///nonexistent/faserved.sock";
    options.token = token;
    ck_assert_int_eq(fas_connect(&options, &client, &error), FAS_INVALID_ARGUMENT);
    ck_assert_str_eq(error.field, "token");
    options.token = NULL;
    options.connections = 9;
    ck_assert_int_eq(fas_connect(&options, &client, &error), FAS_INVALID_ARGUMENT);
    ck_assert_str_eq(error.field, "connections");
    options.connections = 0;
    options.spin_us = 10001;
    ck_assert_int_eq(fas_connect(&options, &client, &error), FAS_INVALID_ARGUMENT);
    ck_assert_str_eq(error.field, "spin_us");
    options.spin_us = 0;
    options.reserved[3] = 1;
    ck_assert_int_eq(fas_connect(&options, &client, NULL), FAS_INVALID_ARGUMENT);
}
END_TEST

/* What would lead outside the caller's memory is refused before it is sent. */
START_TEST(submit_protects_the_callers_memory)
{
    start_connected(FAKE_NONE);
    struct work *w = work_new(FAS_FORWARD, 10);
    const struct fas_request good = w->request;
    struct fas_request bad[8];
    static const char *const fields[] = {"q.total", "hq", "d", "dtype", "o", "k", "q", "reserved"};
    for (int i = 0; i < 8; i++) {
        bad[i] = good;
    }
    bad[0].dims.total_q = -1;
    bad[1].dims.hq = 1 << 20;
    bad[2].dims.d = 1 << 20;
    bad[3].dims.dtype = FAS_DTYPE_COUNT;
    bad[4].tensors[FAS_O].data = NULL;
    bad[5].tensors[FAS_K].data = NULL;
    bad[6].tensors[FAS_Q].row_stride = 3;
    bad[7].reserved[0] = 1;
    for (int i = 0; i < 8; i++) {
        struct fas_report report;
        ck_assert_int_eq(fas_run(client, &bad[i], &report), FAS_INVALID_ARGUMENT);
        ck_assert_str_eq(report.error.field, fields[i]);
    }
    ck_assert_int_eq(fas_submit(client, &good, NULL, &error), FAS_INVALID_ARGUMENT);
    work_free(w);
    stop();
}
END_TEST

START_TEST(the_daemon_answers_questions)
{
    start_connected(FAKE_NONE);
    struct fas_stat stats[4];
    uint32_t count;
    uint64_t us;
    ck_assert_int_eq(fas_ping(client, 0, &us, &error), FAS_OK);
    ck_assert_int_eq(fas_stats(client, 0, stats, 4, &count, &error), FAS_OK);
    ck_assert_uint_eq(count, 1);
    ck_assert_str_eq(stats[0].name, "fakes");
    ck_assert(stats[0].value == 1.5);
    ck_assert_int_eq(fas_drain(client, 0, &error), FAS_UNAUTHENTICATED);
    ck_assert_str_eq(error.field, "drain");
    ck_assert_int_eq(fas_release(client, 42, &error), FAS_OK);
    ck_assert_str_eq(fas_server(client)->name, "fake");
    ck_assert_uint_eq(fas_server(client)->device_count, 1);
    ck_assert_str_eq(fas_server(client)->devices[0].name, "fake:0");
    stop();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("client");
    TCase *good = tcase_create("good daemon"), *bad = tcase_create("bad daemon");
    tcase_add_loop_test(good, forward_moves_every_byte, 0, 5);
    tcase_add_test(good, backward_moves_every_byte);
    tcase_add_test(good, lse_is_optional);
    tcase_add_test(good, gaps_are_gathered_and_scattered);
    tcase_add_test(good, many_calls_end_by_callback);
    tcase_add_test(good, calls_end_in_the_queue);
    tcase_add_test(good, threads_share_a_client);
    tcase_add_loop_test(good, cancel_ends_a_call, 0, 2);
    tcase_add_test(good, a_long_wait_is_a_long_wait);
    tcase_add_test(good, closing_an_open_call_cancels_it);
    tcase_add_test(good, fas_close_ends_every_call);
    tcase_add_test(good, submit_protects_the_callers_memory);
    tcase_add_test(good, the_daemon_answers_questions);
    tcase_add_test(bad, a_short_silence_is_noticed);
    tcase_add_test(bad, on_end_runs_on_threads_of_the_library);
    tcase_add_test(bad, closing_waits_for_on_end);
    tcase_add_test(bad, rejection_stops_the_upload);
    tcase_add_loop_test(bad, a_broken_daemon_breaks_nothing_here, 0,
                        sizeof(faults) / sizeof(faults[0]));
    tcase_add_loop_test(bad, a_region_is_what_was_asked_for, 0, 4);
    tcase_add_loop_test(bad, connect_says_what_is_wrong, 0, 4);
    tcase_add_test(bad, a_slow_connect_and_a_slow_greeting);
    tcase_add_test(bad, a_daemon_that_hangs_up_on_greeting);
    tcase_add_test(bad, signals_do_not_end_a_connect);
    tcase_add_test(bad, connect_checks_its_options);
    suite_add_tcase(suite, good);
    suite_add_tcase(suite, bad);
    tcase_set_timeout(good, 20);
    tcase_set_timeout(bad, 20);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
