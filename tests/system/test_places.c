/*
 * Tensors in shared memory, against a live daemon: computed where they are, with the same bits; and
 * the memory is the client's again the moment a call ends, however it ends.
 */
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/support/check_main.h"
#include "tests/support/daemon.h"
#include "tests/support/job.h"
#include "tests/support/watch.h"

enum { MIB = 1 << 20, ALL = ~0, ANSWER_MS = 20000 };

static const char *const options[] = {
    "--device", "cpu:0",          "--cpu-threads", "1", "--arena-bytes", "64MiB", "--slice-time",
    "2ms",      "--region-bytes", "24MiB",         NULL};

static const struct job_shape shape = {FAS_BF16, 4, 2, 64, 32, 5, 60, true, true};

static struct daemon server;
static struct fas_client *client;
static struct fas_error error;

static struct fas_client *connect_client(const char *url, const char *token)
{
    struct fas_connect_options connect = {.url = url, .token = token};
    struct fas_client *connected = NULL;
    ck_assert_msg(fas_connect(&connect, &connected, &error) == FAS_OK, "%s", error.text);
    return connected;
}

static void start(void)
{
    daemon_start(&server, options);
    client = connect_client(server.url, NULL);
}

static void stop(void)
{
    fas_close(client);
    ck_assert_int_eq(daemon_stop(&server), 0);
}

static uint8_t *region(uint64_t bytes)
{
    void *memory = NULL;
    enum fas_status status = FAS_RESOURCE_EXHAUSTED;
    for (int waited_ms = 0; status == FAS_RESOURCE_EXHAUSTED && waited_ms < ANSWER_MS;
         waited_ms++) {
        status = fas_alloc(client, FAS_PLACE_REGION, bytes, &memory, &error);
        usleep(status == FAS_OK ? 0 : 1000); /* that of a client that has died comes back */
    }
    ck_assert_msg(status == FAS_OK, "%s: %s", error.field, error.text);
    return memory;
}

static void refused(const struct fas_request *request, enum fas_status status, const char *field)
{
    struct fas_report report;
    fas_run(client, request, &report);
    ck_assert_msg(report.error.status == status && strcmp(report.error.field, field) == 0,
                  "%s, %s: %s", fas_status_name(report.error.status), report.error.field,
                  report.error.text);
}

/* ---- what it is for ---- */

static void run_placed(struct job *job, uint32_t tensors, uint8_t *memory, uint32_t places)
{
    struct fas_report report;
    job_place(job, tensors, memory);
    ck_assert_msg(fas_run(client, &job->request, &report) == FAS_OK, "%s: %s", report.error.field,
                  report.error.text);
    ck_assert(job_right(job));
    ck_assert_uint_eq(report.places, places);
}

START_TEST(forward_and_backward_in_a_region)
{
    struct random random = random_open(1);
    struct job forward, backward;
    start();
    uint8_t *memory = region(2 * MIB);
    for (int round = 0; round < 20; round++) {
        job_forward(&forward, &shape, &random);
        job_backward(&backward, &forward, &random);
        run_placed(&forward, ALL, memory, 1u << FAS_PLACE_REGION);
        run_placed(&backward, ALL, memory + MIB, 1u << FAS_PLACE_REGION);
        job_close(&forward);
        job_close(&backward);
    }
    stop();
}
END_TEST

START_TEST(tensors_in_and_outside_of_regions_mix)
{
    struct random random = random_open(2);
    struct job forward, backward;
    const uint32_t both = 1u << FAS_PLACE_REGION | 1u << FAS_PLACE_INLINE;
    start();
    uint8_t *memory = region(MIB), *other = region(MIB);
    for (uint32_t tensors = 1; tensors < 1u << FAS_DV; tensors = tensors * 3 + 1) {
        job_forward(&forward, &shape, &random);
        job_backward(&backward, &forward, &random);
        job_place(&backward, 1u << FAS_V | 1u << FAS_DV, other);
        run_placed(&forward, tensors, memory, both);
        run_placed(&backward, tensors & ~(1u << FAS_V | 1u << FAS_DV), memory, both);
        job_close(&forward);
        job_close(&backward);
    }
    stop();
}
END_TEST

/* q, k and v of a token beside one another, as a projection writes them. */
START_TEST(strides_are_used_where_the_tensors_are)
{
    enum { ROW = (4 * 64 + 2 * 64 + 2 * 32) * 2 };
    struct random random = random_open(3);
    struct job job;
    struct fas_report report;
    start();
    job_forward(&job, &shape, &random);
    const struct fas_dims *dims = &job.request.dims;
    int64_t rows = dims->total_q > dims->total_k ? dims->total_q : dims->total_k;
    uint8_t *memory = region((uint64_t)rows * ROW + 16);
    const int64_t columns[] = {0, 4 * 64 * 2, 6 * 64 * 2};
    for (enum fas_tensor tensor = FAS_Q; tensor <= FAS_V; tensor++) {
        uint32_t row_bytes = fas_tensor_row_bytes(dims, tensor);
        uint8_t *at = memory + columns[tensor];
        for (int64_t row = 0; row < fas_tensor_rows(dims, tensor); row++) {
            memcpy(at + row * ROW, (uint8_t *)job.tensors[tensor] + row * row_bytes, row_bytes);
        }
        job.request.tensors[tensor] =
            (struct fas_buffer){at, ROW, row_bytes / fas_tensor_heads(dims, tensor)};
    }
    ck_assert_int_eq(fas_run(client, &job.request, &report), FAS_OK);
    ck_assert(job_right(&job));
    job.request.tensors[FAS_Q].row_stride += 8;
    refused(&job.request, FAS_INVALID_ARGUMENT, "tensors.q");
    job.request.tensors[FAS_Q].row_stride += 8; /* a multiple of 16, and beyond the end */
    job.request.tensors[FAS_Q].row_stride *= 8;
    refused(&job.request, FAS_INVALID_ARGUMENT, "tensors.q");
    job_close(&job);
    stop();
}
END_TEST

static int32_t reported;
static bool reported_right = true;

/* What is reported is there: compared at that moment. */
static void on_progress(struct fas_call *call, int32_t first, int32_t count, void *context)
{
    const struct job *job = context;
    const struct fas_request *request = &job->request;
    const int32_t *cu_seqlens = request->q.cu_seqlens;
    size_t row_bytes = 4u * (size_t)request->dims.hq * (size_t)request->dims.dv;
    size_t from = (size_t)cu_seqlens[first] * row_bytes;
    size_t end = (size_t)cu_seqlens[first + count] * row_bytes;
    (void)call;
    reported_right =
        reported_right && memcmp((uint8_t *)request->tensors[FAS_O].data + from,
                                 (uint8_t *)job->expected[FAS_O] + from, end - from) == 0;
    reported += count;
}

START_TEST(sequences_are_reported_as_they_are_done)
{
    static const struct job_shape many = {FAS_FP32, 2, 2, 32, 32, 200, 64, false, false};
    struct random random = random_open(4);
    struct job job;
    struct fas_call *call;
    start();
    job_forward(&job, &many, &random);
    job_place(&job, ALL, region(16 * MIB));
    job.request.on_progress = on_progress;
    job.request.context = &job;
    ck_assert_int_eq(fas_submit(client, &job.request, &call, &error), FAS_OK);
    ck_assert(fas_wait(call, ANSWER_MS));
    ck_assert_uint_eq(fas_call_report(call)->error.status, FAS_OK);
    ck_assert(reported_right);
    ck_assert_int_eq(reported, job.request.batch);
    ck_assert(job_right(&job));
    fas_call_close(call);
    job_close(&job);
    stop();
}
END_TEST

/* ---- what is refused ---- */

START_TEST(tensors_that_do_not_lie_in_a_region)
{
    struct random random = random_open(5);
    struct job job;
    start();
    uint8_t *memory = region(MIB);
    job_forward(&job, &shape, &random);
    job_place(&job, 1u << FAS_Q, memory);
    memory += MIB - 64; /* it begins in the region and ends behind it */
    job.request.tensors[FAS_Q].data = memory;
    refused(&job.request, FAS_INVALID_ARGUMENT, "tensors.q");
    job.request.tensors[FAS_Q].data = memory - MIB + 72;
    refused(&job.request, FAS_INVALID_ARGUMENT, "tensors.q");
    job.request.tensors[FAS_Q].data = memory - MIB + 64;
    if (!getenv("FASERVED_KIND")) { /* a device that copies can keep its copy */
        job.request.retain = true;
        refused(&job.request, FAS_UNSUPPORTED, "retain");
        job.request.retain = false;
    }
    ck_assert_int_eq(fas_run(client, &job.request, NULL), FAS_OK);
    ck_assert(job_right(&job));
    job_close(&job);
    stop();
}
END_TEST

START_TEST(more_than_there_is)
{
    void *memory;
    start();
    ck_assert_int_eq(fas_alloc(client, FAS_PLACE_REGION, 25 * MIB, &memory, &error),
                     FAS_INVALID_ARGUMENT);
    ck_assert_str_eq(error.field, "bytes");
    ck_assert_ptr_null(memory);
    for (int round = 0; round < 50; round++) {
        uint8_t *first = region(16 * MIB);
        ck_assert_int_eq(fas_alloc(client, FAS_PLACE_REGION, 8 * MIB, &memory, &error),
                         FAS_RESOURCE_EXHAUSTED);
        ck_assert_str_eq(error.field, "bytes");
        fas_free(client, first);
    }
    ck_assert_int_eq(fas_alloc(client, FAS_PLACE_REGION, 0, &memory, &error), FAS_INVALID_ARGUMENT);
    ck_assert_int_eq(fas_alloc(client, (enum fas_place)77, 16, &memory, &error), FAS_UNSUPPORTED);
    ck_assert_double_eq(watch_stat(client, "region_bytes"), 0);
    fas_free(client, NULL);
    stop();
}
END_TEST

START_TEST(a_client_that_is_not_of_this_node)
{
    char file[] = "/tmp/faserved-tokens-XXXXXX", port[32], url[64];
    const char *token = "0123456789abcdef0123456789abcdef";
    int fd = mkstemp(file);
    ck_assert_int_gt(dprintf(fd, "trainer %s\n", token), 0);
    close(fd);
    snprintf(port, sizeof port, "127.0.0.1:%d", daemon_port());
    snprintf(url, sizeof url, "tcp://%s", port);
    const char *const listening[] = {"--device",     "cpu:0",        "--arena-bytes",
                                     "16MiB",        "--listen-tcp", port,
                                     "--token-file", file,           NULL};
    void *memory;
    daemon_start(&server, listening);
    client = connect_client(url, token);
    ck_assert_int_eq(fas_alloc(client, FAS_PLACE_REGION, MIB, &memory, &error), FAS_UNSUPPORTED);
    ck_assert_str_eq(error.field, "place");
    ck_assert_int_eq(fas_alloc(client, FAS_PLACE_INLINE, MIB, &memory, &error), FAS_OK);
    memset(memory, 1, MIB);
    stop();
    unlink(file);
}
END_TEST

/* In a process of that user, which has no rights of ours: 0 if all is as it should be. */
static int be_another_user(bool shared, struct job *job)
{
    enum { NOBODY = 65534 };
    void *memory = NULL;
    if (setgroups(0, NULL) != 0 || setgid(NOBODY) != 0 || setuid(NOBODY) != 0) {
        return 1;
    }
    struct fas_connect_options connect = {.url = server.url};
    if (fas_connect(&connect, &client, &error) != FAS_OK) {
        return 2;
    }
    enum fas_status status = fas_alloc(client, FAS_PLACE_REGION, MIB, &memory, &error);
    if (!shared) {
        bool told = status == FAS_UNAUTHENTICATED && strcmp(error.field, "place") == 0;
        return told && fas_run(client, &job->request, NULL) == FAS_OK && job_right(job) ? 0 : 3;
    }
    if (status != FAS_OK) {
        return 4;
    }
    struct fas_report report;
    job_place(job, ALL, memory);
    fas_run(client, &job->request, &report);
    return job_right(job) && report.places == 1u << FAS_PLACE_REGION ? 0 : 5;
}

/* Whom the daemon was not told to share memory with is served all the same, by messages. */
START_TEST(memory_is_shared_with_named_users_only)
{
    static const char *const unnamed[] = {"--device", "cpu:0", "--arena-bytes", "16MiB", NULL};
    static const char *const named[] = {
        "--device", "cpu:0", "--arena-bytes", "16MiB", "--share-with", "65534", NULL};
    struct random random = random_open(6);
    struct job job;
    if (geteuid() != 0) {
        return; /* only root can be somebody else */
    }
    for (int shared = 0; shared < 2; shared++) {
        int status = 0;
        job_forward(&job, &shape, &random);
        daemon_start(&server, shared ? named : unnamed);
        ck_assert_int_eq(chmod(server.folder, 0755), 0);
        ck_assert_int_eq(chmod(server.socket, 0666), 0);
        fflush(NULL);
        pid_t child = fork();
        if (child == 0) {
            _exit(be_another_user(shared, &job));
        }
        ck_assert_int_eq(waitpid(child, &status, 0), child);
        ck_assert_int_eq(status, 0);
        ck_assert_int_eq(daemon_stop(&server), 0);
        job_close(&job);
    }
}
END_TEST

/* ---- the memory is the caller's when the call has ended ---- */

/* Cancelled at some moment; what the caller puts there afterwards stays. */
START_TEST(outputs_refilled_at_once_stay_as_they_are)
{
    static const struct job_shape long_shape = {FAS_FP32, 2, 2, 64, 64, 8, 600, false, false};
    struct random random = random_open(7);
    struct job job;
    int ended_early = 0;
    start();
    job_forward(&job, &long_shape, &random);
    job_place(&job, ALL, region(12 * MIB));
    uint64_t bytes = fas_tensor_bytes(&job.request.dims, FAS_O);
    uint8_t *o = job.tensors[FAS_O];
    for (int round = 0; round < 100; round++) {
        struct fas_call *call;
        if (round % 2) {
            job.request.deadline_us = 1 + (uint64_t)random_below(&random, 30000);
        }
        ck_assert_int_eq(fas_submit(client, &job.request, &call, &error), FAS_OK);
        usleep((useconds_t)random_below(&random, 6000));
        fas_cancel(call);
        ck_assert(fas_wait(call, ANSWER_MS));
        ended_early += fas_call_report(call)->error.status != FAS_OK;
        memset(o, 0x5a, bytes);
        usleep(2000);
        uint64_t same = 0;
        while (same < bytes && o[same] == 0x5a) {
            same++;
        }
        ck_assert_msg(same == bytes, "round %d: byte %zu was written", round, (size_t)same);
        fas_call_close(call);
        job.request.deadline_us = 0;
    }
    ck_assert_int_gt(ended_early, 20);
    ck_assert_int_eq(fas_run(client, &job.request, NULL), FAS_OK);
    ck_assert(job_right(&job));
    job_close(&job);
    stop();
}
END_TEST

START_TEST(closing_the_client_waits_for_the_daemon)
{
    static const struct job_shape long_shape = {FAS_FP32, 2, 2, 64, 64, 8, 600, false, false};
    struct random random = random_open(8);
    struct job job;
    start();
    for (int round = 0; round < 10; round++) {
        struct fas_client *watcher = client;
        struct fas_call *calls[3];
        client = connect_client(server.url, NULL);
        job_forward(&job, &long_shape, &random);
        job_place(&job, ALL, region(12 * MIB));
        for (int i = 0; i < 3; i++) {
            ck_assert_int_eq(fas_submit(client, &job.request, &calls[i], &error), FAS_OK);
        }
        usleep((useconds_t)random_below(&random, 30000));
        fas_close(client);
        client = watcher;
        job_close(&job);
        ck_assert_double_eq(watch_for(client, "places", 0), 0);
    }
    ck_assert_double_eq(watch_stat(client, "requests_in_flight"), 0);
    stop();
}
END_TEST

/* ---- clients that die ---- */

START_TEST(a_killed_client_leaves_nothing)
{
    static const struct job_shape long_shape = {FAS_FP32, 2, 2, 64, 64, 8, 600, false, false};
    struct random random = random_open(9);
    struct job job;
    daemon_start(&server, options);
    job_forward(&job, &long_shape, &random);
    int descriptors = daemon_descriptors(&server);
    for (int round = 0; round < 20; round++) {
        int ready[2];
        char byte;
        ck_assert_int_eq(pipe(ready), 0);
        fflush(NULL);
        pid_t child = fork();
        if (child == 0) {
            struct fas_call *call;
            client = connect_client(server.url, NULL);
            job_place(&job, ALL, region(12 * MIB));
            for (int i = 0; i < 4; i++) {
                fas_submit(client, &job.request, &call, NULL);
            }
            _exit(write(ready[1], "x", 1) == 1 && pause());
        }
        close(ready[1]);
        ck_assert_int_eq(read(ready[0], &byte, 1), 1);
        usleep((useconds_t)random_below(&random, 20000));
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
        close(ready[0]);
    }
    client = connect_client(server.url, NULL);
    ck_assert_double_eq(watch_for(client, "places", 0), 0);
    ck_assert_double_eq(watch_for(client, "requests_in_flight", 0), 0);
    ck_assert_double_eq(watch_stat(client, "region_bytes"), 0);
    ck_assert_double_eq(watch_stat(client, ".arena_used_bytes"), 0);
    ck_assert_int_le(daemon_descriptors(&server), descriptors + 1); /* this client's */
    job_place(&job, ALL, region(12 * MIB));
    ck_assert_int_eq(fas_run(client, &job.request, NULL), FAS_OK);
    ck_assert(job_right(&job));
    job_close(&job);
    stop();
}
END_TEST

START_TEST(memory_outlives_a_killed_daemon)
{
    struct random random = random_open(10);
    struct job job;
    void *memory;
    start();
    job_forward(&job, &shape, &random);
    run_placed(&job, ALL, region(MIB), 1u << FAS_PLACE_REGION);
    kill(server.pid, SIGKILL);
    daemon_wait(&server);
    ck_assert(job_right(&job));
    struct fas_report report;
    ck_assert_int_eq(fas_run(client, &job.request, &report), FAS_UNAVAILABLE);
    ck_assert_int_eq(fas_alloc(client, FAS_PLACE_REGION, MIB, &memory, &error), FAS_UNAVAILABLE);
    ck_assert(job_right(&job));
    fas_free(client, job.tensors[FAS_Q]);
    job_close(&job);
    fas_close(client);
}
END_TEST

static void submit_again(struct fas_call *call, const struct fas_report *report, void *context)
{
    (void)report;
    fas_call_close(call);
    fas_submit(client, context, NULL, NULL);
}

/* A program that keeps the daemon busy from its callbacks, whatever came of the call before. */
START_TEST(closing_ends_callbacks_that_always_submit)
{
    struct random random = random_open(11);
    struct job job;
    start();
    job_forward(&job, &shape, &random);
    job_place(&job, ALL, region(MIB));
    job.request.on_end = submit_again;
    job.request.context = &job.request;
    for (int i = 0; i < 4; i++) {
        ck_assert_int_eq(fas_submit(client, &job.request, NULL, &error), FAS_OK);
    }
    usleep(20000);
    fas_close(client);
    ck_assert_int_eq(daemon_stop(&server), 0);
    job_close(&job);
}
END_TEST

/* The kernel drops a descriptor there is no number for, and says only that. */
START_TEST(a_process_without_a_free_descriptor)
{
    struct rlimit limit;
    void *memory;
    start();
    getrlimit(RLIMIT_NOFILE, &limit);
    int next = dup(0);
    close(next);
    const struct rlimit none = {.rlim_cur = (rlim_t)next, .rlim_max = limit.rlim_max};
    setrlimit(RLIMIT_NOFILE, &none);
    enum fas_status status = fas_alloc(client, FAS_PLACE_REGION, MIB, &memory, &error);
    setrlimit(RLIMIT_NOFILE, &limit);
    ck_assert_msg(status == FAS_RESOURCE_EXHAUSTED && strstr(error.text, "no descriptor"), "%s",
                  error.text);
    stop();
}
END_TEST

int main(void)
{
    static const struct check_row rows[] = {
        {"region", &forward_and_backward_in_a_region},
        {"mix", &tensors_in_and_outside_of_regions_mix},
        {"strides", &strides_are_used_where_the_tensors_are},
        {"progress", &sequences_are_reported_as_they_are_done},
        {"bounds", &tensors_that_do_not_lie_in_a_region},
        {"quota", &more_than_there_is},
        {"users", &memory_is_shared_with_named_users_only},
        {"tcp", &a_client_that_is_not_of_this_node},
        {"refilled", &outputs_refilled_at_once_stay_as_they_are},
        {"closing", &closing_the_client_waits_for_the_daemon},
        {"always", &closing_ends_callbacks_that_always_submit},
        {"descriptor", &a_process_without_a_free_descriptor},
        {"killed", &a_killed_client_leaves_nothing},
        {"outlives", &memory_outlives_a_killed_daemon},
    };
    return check_main("places", rows, sizeof rows / sizeof rows[0]);
}
