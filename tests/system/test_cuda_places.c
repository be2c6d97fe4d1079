/*
 * Tensors in CUDA memory, without a GPU: a fake driver (tests/support/fake_cuda.c, found as
 * libcuda.so.1) at the client's end, a far device that opens its handles at the daemon's.
 */
#include <dirent.h>
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/support/check_main.h"
#include "tests/support/daemon.h"
#include "tests/support/job.h"
#include "tests/support/watch.h"

enum { MIB = 1 << 20, ALL = ~0, MAPPINGS = 4 };

static const char *const options[] = {
    "--device", "far:0", "--cpu-threads", "1", "--slice-time", "2ms", "--cuda-mappings-max",
    "4",        NULL};
static const char *const two[] = {"--device", "far:0,far:1", "--cpu-threads", "1", NULL};
static const struct job_shape shape = {FAS_BF16, 4, 2, 64, 32, 5, 60, true, true};

static struct daemon server;
static struct fas_client *client;
static struct fas_error error;
static int (*cuda_alloc)(uintptr_t *memory, size_t bytes);
static int (*cuda_free)(uintptr_t memory);

static struct fas_client *connect_client(void)
{
    struct fas_connect_options connect = {.url = server.url};
    struct fas_client *connected = NULL;
    ck_assert_msg(fas_connect(&connect, &connected, &error) == FAS_OK, "%s", error.text);
    return connected;
}

static void load_driver(void)
{
    void *library = dlopen("libcuda.so.1", RTLD_NOW);
    ck_assert_ptr_nonnull(library);
    *(void **)&cuda_alloc = dlsym(library, "cuMemAlloc_v2");
    *(void **)&cuda_free = dlsym(library, "cuMemFree_v2");
}

static void start_with(const char *const *arguments)
{
    load_driver();
    daemon_start(&server, arguments);
    client = connect_client();
}

static void start(void)
{
    start_with(options);
}

static void stop(void)
{
    fas_close(client);
    ck_assert_int_eq(daemon_stop(&server), 0);
}

static uint8_t *device_memory(size_t bytes)
{
    uintptr_t memory = 0;
    ck_assert_int_eq(cuda_alloc(&memory, bytes), 0);
    return (uint8_t *)memory;
}

static void run_right(struct job *job)
{
    struct fas_report report;
    ck_assert_msg(fas_run(client, &job->request, &report) == FAS_OK, "%s: %s", report.error.field,
                  report.error.text);
    ck_assert(job_right(job));
    ck_assert_uint_eq(report.places, 1u << FAS_PLACE_CUDA);
}

/* A forward and its backward, the same pieces of memory each time. */
static void run_both(uint64_t seed)
{
    struct random random = random_open(seed);
    struct job forward, backward;
    uint8_t *memory = device_memory(2 * MIB);
    for (int round = 0; round < 5; round++) {
        job_forward(&forward, &shape, &random);
        job_backward(&backward, &forward, &random);
        job_place(&forward, ALL, memory);
        job_place(&backward, ALL, memory + MIB);
        run_right(&forward);
        run_right(&backward);
        job_close(&forward);
        job_close(&backward);
    }
}

START_TEST(memory_of_the_program_is_recognised)
{
    start();
    run_both(1);
    ck_assert_double_eq(watch_stat(client, "places"), 1);
    stop();
}
END_TEST

START_TEST(memory_that_was_freed_and_allocated_anew)
{
    struct random random = random_open(2);
    struct job job;
    start();
    for (int round = 0; round < 100; round++) {
        uint8_t *memory = device_memory(MIB);
        job_forward(&job, &shape, &random);
        job_place(&job, ALL, memory);
        run_right(&job);
        ck_assert_int_eq(cuda_free((uintptr_t)memory), 0);
        job_close(&job);
    }
    ck_assert_double_le(watch_stat(client, "places"), 64);
    stop();
}
END_TEST

START_TEST(memory_made_for_the_purpose)
{
    struct random random = random_open(3);
    struct job job;
    void *memory;
    char back[64];
    start();
    ck_assert_msg(fas_alloc(client, FAS_PLACE_CUDA, MIB, &memory, &error) == FAS_OK, "%s",
                  error.text);
    job_forward(&job, &shape, &random);
    job_place(&job, ALL, memory);
    run_right(&job);
    ck_assert_int_eq(fas_copy(back, memory, sizeof back, &error), FAS_OK);
    ck_assert_mem_eq(back, job.tensors[FAS_Q], sizeof back);
    job.request.tensors[FAS_Q].data = (uint8_t *)memory + MIB - 64;
    struct fas_report report;
    ck_assert_int_eq(fas_run(client, &job.request, &report), FAS_INVALID_ARGUMENT);
    ck_assert_str_eq(report.error.field, "tensors.q");
    fas_free(client, memory);
    ck_assert_double_eq(watch_stat(client, "places"), 0);
    job_close(&job);
    stop();
}
END_TEST

/* A program that writes there from another stream is not waited for by the zeros. */
START_TEST(memory_is_zero_once_it_is_given)
{
    start();
    for (int round = 0; round < 10; round++) {
        void *memory;
        ck_assert_int_eq(fas_alloc(client, FAS_PLACE_CUDA, MIB, &memory, &error), FAS_OK);
        memset(memory, 0x55, MIB);
        usleep(5000);
        ck_assert_int_eq(((uint8_t *)memory)[MIB - 1], 0x55);
        fas_free(client, memory);
    }
    stop();
}
END_TEST

/* More pieces than may be mapped, several in one request, in an order that finds each unmapped:
 * nobody notices but the memory. */
START_TEST(the_least_recently_used_is_unmapped)
{
    enum { PIECES = 3 * MAPPINGS };
    struct random random = random_open(5);
    struct job jobs[PIECES];
    start();
    for (int i = 0; i < PIECES; i++) {
        job_forward(&jobs[i], &shape, &random);
        job_place(&jobs[i], 1u << FAS_K | 1u << FAS_LSE, device_memory(MIB));
        job_place(&jobs[i], ALL & ~(1u << FAS_K | 1u << FAS_LSE), device_memory(MIB));
    }
    for (int round = 0; round < 4; round++) {
        for (int i = 0; i < PIECES; i++) {
            job_reset(&jobs[i]);
            run_right(&jobs[i]);
            ck_assert_double_le(watch_stat(client, "mappings"), MAPPINGS);
        }
    }
    ck_assert_double_eq(watch_stat(client, "places"), 2 * PIECES);
    for (int i = 0; i < PIECES; i++) {
        job_close(&jobs[i]);
    }
    stop();
}
END_TEST

/* The library keeps 64 allocations open. A call that finds all of them taken and names the one that
 * was not used for longest, and two new ones: none of its own makes room for another. */
START_TEST(a_call_closes_none_that_it_names)
{
    enum { OPEN = 64 };
    struct random random = random_open(9);
    struct job jobs[OPEN], several;
    uint8_t *oldest = NULL;
    start();
    for (int i = 0; i < OPEN; i++) {
        uint8_t *memory = device_memory(MIB);
        job_forward(&jobs[i], &shape, &random);
        uint8_t *end = job_place(&jobs[i], ALL, memory);
        oldest = i == 0 ? end : oldest;
        run_right(&jobs[i]);
    }
    job_forward(&several, &shape, &random);
    job_place(&several, 1u << FAS_Q, oldest);
    job_place(&several, 1u << FAS_K, device_memory(MIB));
    job_place(&several, ALL & ~(1u << FAS_Q | 1u << FAS_K), device_memory(MIB));
    run_right(&several);
    ck_assert_double_eq(watch_stat(client, "places"), OPEN);
    for (int i = 0; i < OPEN; i++) {
        job_close(&jobs[i]);
    }
    job_close(&several);
    stop();
}
END_TEST

/* Many at once from two connections, some cancelled while they wait for their memory. */
START_TEST(requests_wait_for_their_memory)
{
    enum { PIECES = 3 * MAPPINGS, CALLS = 8 };
    struct random random = random_open(6);
    struct job jobs[PIECES];
    struct fas_call *calls[CALLS];
    start();
    struct fas_client *clients[2] = {client, connect_client()};
    for (int i = 0; i < PIECES; i++) {
        job_forward(&jobs[i], &shape, &random);
        job_place(&jobs[i], ALL, device_memory(MIB));
    }
    for (int round = 0; round < 40; round++) {
        uint32_t first = (uint32_t)random_below(&random, PIECES);
        for (uint32_t n = 0; n < CALLS; n++) {
            struct job *job = &jobs[(first + n) % PIECES];
            job_reset(job);
            ck_assert_int_eq(fas_submit(clients[n % 2], &job->request, &calls[n], &error), FAS_OK);
        }
        fas_cancel(calls[random_below(&random, CALLS)]);
        for (uint32_t n = 0; n < CALLS; n++) {
            ck_assert(fas_wait(calls[n], 20000));
            const struct fas_report *report = fas_call_report(calls[n]);
            enum fas_status status = report->error.status;
            ck_assert_msg(status == FAS_OK || status == FAS_CANCELLED, "%s: %s",
                          report->error.field, report->error.text);
            ck_assert(status != FAS_OK || job_right(&jobs[(first + n) % PIECES]));
            fas_call_close(calls[n]);
        }
    }
    for (int i = 0; i < PIECES; i++) {
        job_close(&jobs[i]);
    }
    fas_close(clients[1]);
    stop();
}
END_TEST

/* Where the memory is, until that device has so much to do that the other is worth the copy; and
 * the bits are the same on either. */
START_TEST(a_busy_device_is_helped_by_its_neighbour)
{
    enum { CALLS = 12 };
    static const struct job_shape long_shape = {FAS_FP32, 2, 2, 64, 64, 4, 500, true, false};
    struct random random = random_open(5);
    struct job jobs[CALLS];
    struct fas_call *calls[CALLS];
    int away = 0;
    start_with(two);
    for (int i = 0; i < CALLS; i++) {
        job_forward(&jobs[i], &long_shape, &random);
        job_place(&jobs[i], ALL, device_memory(6 * MIB));
    }
    struct fas_report report; /* alone: at home */
    ck_assert_int_eq(fas_run(client, &jobs[0].request, &report), FAS_OK);
    ck_assert_str_eq(report.device, "far:0");
    job_reset(&jobs[0]);
    for (int i = 0; i < CALLS; i++) {
        ck_assert_int_eq(fas_submit(client, &jobs[i].request, &calls[i], &error), FAS_OK);
    }
    for (int i = 0; i < CALLS; i++) {
        ck_assert(fas_wait(calls[i], 30000));
        const struct fas_report *ended = fas_call_report(calls[i]);
        ck_assert_msg(ended->error.status == FAS_OK, "%s", ended->error.text);
        ck_assert(job_right(&jobs[i]));
        ck_assert_uint_eq(ended->places, 1u << FAS_PLACE_CUDA);
        away += strcmp(ended->device, "far:1") == 0;
        fas_call_close(calls[i]);
        job_close(&jobs[i]);
    }
    ck_assert_int_gt(away, 0);
    ck_assert_int_lt(away, CALLS);
    stop();
}
END_TEST

START_TEST(memory_of_a_gpu_by_number)
{
    struct random random = random_open(6);
    struct job job;
    struct fas_report report;
    void *memory;
    start_with(two);
    fas_close(client);
    struct fas_connect_options connect = {.url = server.url, .cuda_device = 3};
    ck_assert_int_eq(fas_connect(&connect, &client, &error), FAS_OK);
    ck_assert_int_eq(fas_alloc(client, FAS_PLACE_CUDA, MIB, &memory, &error), FAS_INVALID_ARGUMENT);
    ck_assert_str_eq(error.field, "cuda_device");
    fas_close(client);
    connect.cuda_device = 2;
    ck_assert_int_eq(fas_connect(&connect, &client, &error), FAS_OK);
    ck_assert_int_eq(fas_alloc(client, FAS_PLACE_CUDA, MIB, &memory, &error), FAS_OK);
    job_forward(&job, &shape, &random);
    job_place(&job, ALL, memory);
    ck_assert_int_eq(fas_run(client, &job.request, &report), FAS_OK);
    ck_assert(job_right(&job));
    ck_assert_str_eq(report.device, "far:1");
    job_close(&job);
    stop();
}
END_TEST

/* It is copied there and back, to the same bits. */
START_TEST(memory_of_a_gpu_that_the_daemon_does_not_compute_on)
{
    const char *const other[] = {"--device", "far:1", "--cpu-threads", "1", NULL};
    start_with(other);
    run_both(7); /* of the first, as no context is current */
    stop();
}
END_TEST

/* The daemon keeps copies, counted on the quota: the client's memory is its own again, and the
 * backward brings nothing but dO, which lies in CUDA memory, too. */
START_TEST(a_retained_forward_is_a_copy)
{
    struct random random = random_open(8);
    struct job forward, backward;
    struct fas_report report;
    start();
    uint8_t *memory = device_memory(2 * MIB);
    for (int round = 0; round < 5; round++) {
        job_forward(&forward, &shape, &random);
        job_backward(&backward, &forward, &random);
        job_place(&forward, ALL, memory);
        job_place(&backward, ALL, memory + MIB);
        forward.request.retain = true;
        ck_assert_msg(fas_run(client, &forward.request, &report) == FAS_OK, "%s: %s",
                      report.error.field, report.error.text);
        ck_assert(job_right(&forward));
        ck_assert_uint_eq(report.places, 1u << FAS_PLACE_CUDA);
        ck_assert_double_eq(watch_stat(client, "retained_handles"), 1);
        double kept = watch_stat(client, "retained_bytes");
        ck_assert_double_ge(kept, (double)fas_tensor_bytes(&forward.request.dims, FAS_Q));
        memset(memory, 0x7f, MIB);
        for (int tensor = FAS_Q; tensor <= FAS_LSE; tensor++) {
            backward.request.tensors[tensor].data = NULL;
        }
        backward.request.tensors[FAS_SINK].data = backward.tensors[FAS_SINK];
        backward.request.handle = report.handle;
        run_right(&backward);
        ck_assert_int_eq(fas_release(client, report.handle, &error), FAS_OK);
        job_close(&forward);
        job_close(&backward);
    }
    ck_assert_double_eq(watch_stat(client, "retained_bytes"), 0);
    stop();
}
END_TEST

static int open_descriptors(void)
{
    int count = 0;
    DIR *folder = opendir("/proc/self/fd");
    while (readdir(folder)) {
        count++;
    }
    closedir(folder);
    return count;
}

static void *alloc_and_free(void *place)
{
    struct fas_error failed = {0};
    for (int i = 0; i < 500 && failed.status == FAS_OK; i++) {
        uint8_t *memory;
        if (fas_alloc(client, *(enum fas_place *)place, 4096, (void **)&memory, &failed) ==
            FAS_OK) {
            memory[4095] = 1;
            fas_free(client, memory);
        }
    }
    ck_assert_msg(failed.status == FAS_OK, "%s: %s", failed.field, failed.text);
    return NULL;
}

/* A region's memory comes as a descriptor, others' places without one, and answers may arrive
 * together: each finds its own. */
START_TEST(places_of_all_kinds_are_opened_at_once)
{
    static enum fas_place kinds[] = {FAS_PLACE_REGION, FAS_PLACE_CUDA, FAS_PLACE_CUDA};
    pthread_t threads[3];
    start();
    int before = open_descriptors();
    for (int i = 0; i < 3; i++) {
        pthread_create(&threads[i], NULL, alloc_and_free, &kinds[i]);
    }
    for (int i = 0; i < 3; i++) {
        pthread_join(threads[i], NULL);
    }
    ck_assert_int_eq(open_descriptors(), before);
    ck_assert_double_eq(watch_stat(client, "places"), 0);
    stop();
}
END_TEST

START_TEST(a_killed_client_leaves_nothing)
{
    struct random random = random_open(4);
    struct job job;
    load_driver();
    daemon_start(&server, options);
    job_forward(&job, &shape, &random);
    for (int round = 0; round < 10; round++) {
        pid_t child = fork();
        if (child == 0) {
            client = connect_client();
            job_place(&job, ALL, device_memory(MIB));
            for (;;) {
                fas_run(client, &job.request, NULL);
            }
        }
        usleep(30000 + (useconds_t)random_below(&random, 20000));
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
    }
    client = connect_client();
    ck_assert_double_eq(watch_for(client, "places", 0), 0);
    job_close(&job);
    stop();
}
END_TEST

int main(void)
{
    static const struct check_row rows[] = {
        {"recognised", &memory_of_the_program_is_recognised},
        {"anew", &memory_that_was_freed_and_allocated_anew},
        {"made", &memory_made_for_the_purpose},
        {"zero", &memory_is_zero_once_it_is_given},
        {"least_used", &the_least_recently_used_is_unmapped},
        {"names", &a_call_closes_none_that_it_names},
        {"wait", &requests_wait_for_their_memory},
        {"busy", &a_busy_device_is_helped_by_its_neighbour},
        {"number", &memory_of_a_gpu_by_number},
        {"other", &memory_of_a_gpu_that_the_daemon_does_not_compute_on},
        {"retained", &a_retained_forward_is_a_copy},
        {"kinds", &places_of_all_kinds_are_opened_at_once},
        {"killed", &a_killed_client_leaves_nothing},
    };
    return check_main("cuda_places", rows, sizeof rows / sizeof rows[0]);
}
