/*
 * Retained forwards, with sinks, where they are computed: the backward that sends dO only has the
 * bits of the one that sends everything, and both are right. On a GPU right is what the CPU's
 * kernels say, to within rounding; elsewhere it is their bits.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/check_main.h"
#include "tests/support/daemon.h"
#include "tests/support/job.h"

enum { MIB = 1 << 20, ALL = ~0, OUTPUTS = 4 };

/* Of the largest number of a tensor: a few roundings of bf16, whose steps are 2^-8. */
#define ERROR_MAX 0.02

static const char *const options[] = {"--device", "cpu:0", "--cpu-threads", "1", "--arena-bytes",
                                      "256MiB",   NULL};

static const struct job_shape shapes[] = {
    {FAS_BF16, 4, 2, 64, 64, 5, 300, true, true},
    {FAS_BF16, 2, 2, 128, 128, 3, 500, true, true},
    {FAS_BF16, 6, 1, 64, 64, 4, 200, false, true},
    {FAS_BF16, 4, 4, 128, 128, 7, 130, true, false},
};
enum { SHAPES = sizeof shapes / sizeof shapes[0] };

static const enum fas_tensor gradients[OUTPUTS] = {FAS_DQ, FAS_DK, FAS_DV, FAS_DSINK};

static struct daemon server;
static struct fas_client *client;
static struct fas_error error;

static void start(void)
{
    daemon_start(&server, options);
    struct fas_connect_options connect = {.url = server.url};
    ck_assert_msg(fas_connect(&connect, &client, &error) == FAS_OK, "%s", error.text);
}

static void stop(void)
{
    fas_close(client);
    ck_assert_int_eq(daemon_stop(&server), 0);
}

static double value_at(const void *data, enum fas_tensor tensor, int64_t i)
{
    bool fp32 = fas_tensor_row(tensor)->statistics || tensor == FAS_SINK || tensor == FAS_DSINK;
    uint16_t half;
    float value;
    memcpy(&half, (const uint8_t *)data + i * 2, 2);
    uint32_t bits = (uint32_t)half << 16;
    memcpy(&value, fp32 ? (const void *)((const uint8_t *)data + i * 4) : (const void *)&bits, 4);
    return (double)value;
}

/* Not a number is no match for anything. */
static bool close_to(const struct job *job, enum fas_tensor tensor)
{
    bool fp32 = fas_tensor_row(tensor)->statistics || tensor == FAS_DSINK;
    int64_t count = (int64_t)fas_tensor_bytes(&job->request.dims, tensor) / (fp32 ? 4 : 2);
    double most = 0, worst = 0;
    bool numbers = true;
    for (int64_t i = 0; i < count; i++) {
        double is = value_at(job->tensors[tensor], tensor, i);
        double should = value_at(job->expected[tensor], tensor, i);
        if (is == should) { /* infinities, too */
            continue;
        }
        numbers = numbers && isfinite(is) && isfinite(should);
        most = fabs(should) > most ? fabs(should) : most;
        worst = fabs(is - should) > worst ? fabs(is - should) : worst;
    }
    bool good = numbers && worst <= ERROR_MAX * fmax(most, 1);
    if (!good) {
        fprintf(stderr, "%s: off by %g, the largest is %g\n", fas_tensor_row(tensor)->name, worst,
                most);
    }
    return good;
}

static bool right(const struct job *job)
{
    if (strcmp(daemon_device_kind(), "cuda") != 0) {
        return job_right(job);
    }
    bool good = true;
    for (int tensor = 0; tensor < FAS_TENSOR_COUNT; tensor++) {
        good = good && (!job->expected[tensor] || close_to(job, (enum fas_tensor)tensor));
    }
    return good;
}

static uint64_t run(struct job *job, uint64_t handle)
{
    struct fas_report report;
    job_reset(job);
    job->request.handle = handle;
    ck_assert_msg(fas_run(client, &job->request, &report) == FAS_OK, "%s: %s", report.error.field,
                  report.error.text);
    ck_assert(right(job));
    return report.handle;
}

/* The same gradients from tensors that were sent, and from those that were kept. */
static void compare(struct job *backward, uint64_t handle)
{
    void *sent[OUTPUTS] = {NULL};
    run(backward, 0);
    for (int i = 0; i < OUTPUTS; i++) {
        if (backward->expected[gradients[i]]) {
            uint64_t bytes = fas_tensor_bytes(&backward->request.dims, gradients[i]);
            sent[i] = malloc(bytes);
            memcpy(sent[i], backward->tensors[gradients[i]], bytes);
        }
    }
    for (int round = 0; round < 3; round++) {
        run(backward, handle);
        for (int i = 0; i < OUTPUTS; i++) {
            ck_assert(!sent[i] ||
                      memcmp(sent[i], backward->tensors[gradients[i]],
                             fas_tensor_bytes(&backward->request.dims, gradients[i])) == 0);
        }
    }
    for (int i = 0; i < OUTPUTS; i++) {
        free(sent[i]);
    }
}

/* o and lse of the backward are what the forward gave on this device. */
static void adopt(struct job *backward, const struct job *forward)
{
    static const enum fas_tensor from[] = {FAS_O, FAS_LSE};
    for (int i = 0; i < 2; i++) {
        memcpy(backward->tensors[from[i]], forward->tensors[from[i]],
               fas_tensor_bytes(&forward->request.dims, from[i]));
    }
}

START_TEST(a_backward_that_sends_only_do)
{
    struct random random = random_open(1);
    struct job forward, backward;
    start();
    for (int i = 0; i < SHAPES; i++) {
        job_forward(&forward, &shapes[i], &random);
        job_backward(&backward, &forward, &random);
        forward.request.retain = true;
        uint64_t handle = run(&forward, 0);
        ck_assert_uint_ne(handle, 0);
        adopt(&backward, &forward);
        compare(&backward, handle);
        ck_assert_int_eq(fas_release(client, handle, &error), FAS_OK);
        job_close(&forward);
        job_close(&backward);
    }
    stop();
}
END_TEST

/* A region is copied to a device that does not reach it, and the copy can be kept; do and the
 * gradients may lie in it in any case. */
START_TEST(in_shared_memory)
{
    struct random random = random_open(2);
    struct job forward, backward;
    void *memory;
    start();
    bool copied = strcmp(daemon_device_kind(), "cpu") != 0;
    ck_assert_int_eq(fas_alloc(client, FAS_PLACE_REGION, 32 * MIB, &memory, &error), FAS_OK);
    for (int i = 0; i < SHAPES; i++) {
        job_forward(&forward, &shapes[i], &random);
        job_backward(&backward, &forward, &random);
        uint8_t *left = job_place(&forward, copied ? ALL : 0, memory);
        job_place(&backward, 1u << FAS_DO | 1u << FAS_DQ | 1u << FAS_DK | 1u << FAS_DV, left);
        forward.request.retain = true;
        uint64_t handle = run(&forward, 0);
        adopt(&backward, &forward);
        compare(&backward, handle);
        job_close(&forward);
        job_close(&backward);
    }
    stop();
}
END_TEST

/* ---- in CUDA memory, of a GPU ---- */

static uint8_t *to_gpu(struct job *job, uint8_t *memory)
{
    for (int tensor = 0; tensor < FAS_TENSOR_COUNT; tensor++) {
        if (job->tensors[tensor]) {
            uint64_t bytes = fas_tensor_bytes(&job->request.dims, (enum fas_tensor)tensor);
            ck_assert_int_eq(fas_copy(memory, job->tensors[tensor], bytes, &error), FAS_OK);
            job->request.tensors[tensor].data = memory;
            memory += (bytes + 255) / 256 * 256;
        }
    }
    return memory;
}

static void from_gpu(struct job *job)
{
    for (int tensor = 0; tensor < FAS_TENSOR_COUNT; tensor++) {
        if (job->expected[tensor]) {
            ck_assert_int_eq(fas_copy(job->tensors[tensor], job->request.tensors[tensor].data,
                                      fas_tensor_bytes(&job->request.dims, (enum fas_tensor)tensor),
                                      &error),
                             FAS_OK);
        }
    }
}

static uint64_t run_on_gpu(struct job *job, uint8_t *memory, uint64_t handle)
{
    struct fas_report report;
    job_reset(job);
    to_gpu(job, memory);
    job->request.handle = handle;
    ck_assert_msg(fas_run(client, &job->request, &report) == FAS_OK, "%s: %s", report.error.field,
                  report.error.text);
    ck_assert_uint_eq(report.places, 1u << FAS_PLACE_CUDA);
    from_gpu(job);
    ck_assert(right(job));
    return report.handle;
}

/* The client's memory is its own again when the forward has ended: the same memory has the backward
 * then. */
START_TEST(in_cuda_memory)
{
    struct random random = random_open(3);
    struct job forward, backward;
    void *memory, *sent[OUTPUTS];
    start();
    ck_assert_int_eq(fas_alloc(client, FAS_PLACE_CUDA, 32 * MIB, &memory, &error), FAS_OK);
    for (int i = 0; i < SHAPES; i++) {
        job_forward(&forward, &shapes[i], &random);
        job_backward(&backward, &forward, &random);
        forward.request.retain = true;
        uint64_t handle = run_on_gpu(&forward, memory, 0);
        ck_assert_uint_ne(handle, 0);
        adopt(&backward, &forward);
        run_on_gpu(&backward, memory, 0);
        for (int n = 0; n < OUTPUTS; n++) {
            uint64_t bytes = fas_tensor_bytes(&backward.request.dims, gradients[n]);
            sent[n] = backward.expected[gradients[n]] ? malloc(bytes) : NULL;
            if (sent[n]) {
                memcpy(sent[n], backward.tensors[gradients[n]], bytes);
            }
        }
        run_on_gpu(&backward, memory, handle);
        for (int n = 0; n < OUTPUTS; n++) {
            ck_assert(!sent[n] ||
                      memcmp(sent[n], backward.tensors[gradients[n]],
                             fas_tensor_bytes(&backward.request.dims, gradients[n])) == 0);
            free(sent[n]);
        }
        job_close(&forward);
        job_close(&backward);
    }
    stop();
}
END_TEST

int main(void)
{
    static const struct check_row rows[] = {
        {"kept", &a_backward_that_sends_only_do},
        {"region", &in_shared_memory},
        {"cuda", &in_cuda_memory}, /* last: test_cuda_places.c does without a GPU */
    };
    size_t count = sizeof rows / sizeof rows[0];
    bool gpu = strcmp(daemon_device_kind(), "cuda") == 0;
    return check_main("retained", rows, gpu ? count : count - 1);
}
