/* samples.c: see samples.h. */
#include "tests/proto/samples.h"

#include <stdio.h>
#include <string.h>

static void count_up(uint8_t *bytes, size_t count, uint8_t from)
{
    for (size_t i = 0; i < count; i++) {
        bytes[i] = (uint8_t)(from + i);
    }
}

static const struct wire_limits limits = {.requests_in_flight = 11,
                                          .chunk_bytes = FAS_CHUNK_BYTES_DEFAULT,
                                          .request_bytes = UINT64_C(5) << 33,
                                          .sequences = 1234,
                                          .retain_bytes = UINT64_C(3) << 34};

struct wire_hello sample_hello(void)
{
    struct wire_hello hello = {.version_min = 1,
                               .version_max = 3,
                               .client = "trainer-7",
                               .token_bytes = FAS_TOKEN_BYTES_MAX,
                               .wanted = limits,
                               .result_credit_bytes = 64 << 20,
                               .has_join = true};
    count_up(hello.token, sizeof hello.token, 0);
    count_up(hello.join, sizeof hello.join, 100);
    return hello;
}

struct wire_hello_ack sample_hello_ack(void)
{
    struct wire_hello_ack ack = {.version = 1,
                                 .server = "faserved 0.1.0",
                                 .limits = limits,
                                 .upload_credit_bytes = 33 << 20,
                                 .device_count = FAS_DEVICES_MAX,
                                 .kernel_count = FAS_KERNELS_MAX};
    count_up(ack.nonce, sizeof ack.nonce, 7);
    for (int i = 0; i < (int)FAS_DEVICES_MAX; i++) {
        struct wire_device *device = &ack.devices[i];
        snprintf(device->name, sizeof device->name, "cuda:%d %050d", i, i);
        snprintf(device->uuid, sizeof device->uuid, "GPU-%059d", i);
        snprintf(device->arch, sizeof device->arch, "sm90 %058d", i);
        device->arena_bytes = (UINT64_C(1) << 36) + (uint64_t)i;
    }
    for (int i = 0; i < (int)FAS_KERNELS_MAX; i++) {
        struct wire_kernel *kernel = &ack.kernels[i];
        snprintf(kernel->name, sizeof kernel->name, "fwd %059d", i);
        snprintf(kernel->arch, sizeof kernel->arch, "sm100 %057d", i);
        kernel->pass = i % 2 == 0 ? FAS_FORWARD : FAS_BACKWARD;
        kernel->dtypes = 1u + (uint32_t)i % 7;
        kernel->d_min = 8;
        kernel->d_max = 128;
        kernel->dv_min = 16;
        kernel->dv_max = 256;
    }
    return ack;
}

struct wire_open sample_region(void)
{
    return (struct wire_open){.place = FAS_PLACE_REGION, .bytes = UINT64_C(9) << 32};
}

struct wire_open sample_cuda(void)
{
    struct wire_open open = {
        .place = FAS_PLACE_CUDA, .bytes = 77, .has_memory = true, .device_uuid = "GPU-1234"};
    count_up(open.cuda_memory, sizeof open.cuda_memory, 50);
    return open;
}

struct wire_request sample_forward(void)
{
    return (struct wire_request){
        .pass = FAS_FORWARD,
        .dims = {FAS_FP16, .hq = 6, .hkv = 2, .d = 64, .dv = 128, .total_q = 1000, .total_k = 60},
        .batch = 3,
        .q = {.has_cu_seqlens = true},
        .k = {.has_seqused = true, .max_len = 20},
        .mask = {.has_right = true, .right = 0},
        .has_softmax_scale = true,
        .softmax_scale = 0.25f,
        .softcap = 30.5f,
        .has_sink = true,
        .no_lse = true,
        .deadline_us = 1500000,
        .priority = 2,
        .retain = true,
    };
}

struct wire_request sample_backward(void)
{
    struct wire_request request = {
        .pass = FAS_BACKWARD,
        .dims = {FAS_BF16, .hq = 8, .hkv = 4, .d = 96, .dv = 80, .total_q = 500, .total_k = 700},
        .batch = 2,
        .q = {.has_cu_seqlens = true, .has_seqused = true},
        .k = {.has_cu_seqlens = true},
        .mask = {.has_left = true, .has_right = true, .left = 128, .right = 4},
        .has_dlse = true,
        .has_delta = true,
        .deterministic = true,
        .priority = 1,
        .wait_event = 5,
        .done_event = 6,
    };
    request.tensors[FAS_Q] = (struct wire_tensor){FAS_PLACE_REGION, 1, 4096, 8 * 96 * 2, 96 * 2};
    request.tensors[FAS_K] = (struct wire_tensor){FAS_PLACE_CUDA, 2, 0, 96 * 2, 700 * 96 * 2};
    request.tensors[FAS_LSE] = (struct wire_tensor){FAS_PLACE_CUDA, 3, 44, 0, 0};
    request.tensors[FAS_DQ] = (struct wire_tensor){FAS_PLACE_REGION, 4, 16, 2048, 208};
    request.tensors[FAS_DLSE] = (struct wire_tensor){FAS_PLACE_REGION, 7, 4, 4, 2004};
    return request;
}

struct wire_request sample_handle(void)
{
    struct wire_request request = sample_forward();
    request.pass = FAS_BACKWARD;
    request.no_lse = false;
    request.retain = false;
    request.has_dlse = true;
    request.handle = UINT64_C(0xfedcba9876543210);
    return request;
}

struct wire_result sample_result(void)
{
    return (struct wire_result){
        .first_row = 1 << 20, .row_count = 333, .first_sequence = 17, .sequence_count = 4};
}

struct wire_done sample_done(void)
{
    return (struct wire_done){.queue_us = 1,
                              .copy_in_us = 2,
                              .compute_us = 3,
                              .copy_out_us = 4,
                              .total_us = UINT64_C(1) << 40,
                              .batch_id = 6,
                              .batch_tokens = 7,
                              .batch_requests = 8,
                              .batch_sequences = 9,
                              .device = "cpu:0",
                              .kernel = "cpu fwd",
                              .places = 5,
                              .handle = 10,
                              .launches = 11};
}

struct fas_error sample_error(void)
{
    return (struct fas_error){FAS_RESOURCE_EXHAUSTED, 250, "q.total", "the arena is full"};
}

void sample_stats(struct wire_stats *stats, uint32_t count)
{
    stats->count = count;
    for (uint32_t i = 0; i < count; i++) {
        struct wire_stat *stat = &stats->stats[i];
        snprintf(stat->name, sizeof stat->name, "%063u", i);
        stat->value = i + 0.5;
    }
}
