/*
 * What a GPU's memory does while the daemon maps an allocation: freed by its owner it comes back
 * only when the mapping goes, by LRU, by CLOSE or with the connection. On a GPU; the driver is
 * found as libcuda.so.1.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "client/faserve.h"
#include "tests/support/check_main.h"
#include "tests/support/daemon.h"

enum { ROWS = 128, HEADS = 2, WIDTH = 64, TENSOR_BYTES = ROWS * HEADS * WIDTH * 2 };

#define SMALL_BYTES ((size_t)4 << 20)
#define LARGE_BYTES ((size_t)1 << 30)
/* What else may come and go meanwhile, with no other test beside it. */
#define SLACK_BYTES ((size_t)128 << 20)

static const char *const options[] = {
    "--device", "cuda:0", "--arena-bytes", "1GiB", "--cuda-mappings-max", "2", NULL};

static struct {
    int (*init)(unsigned flags);
    int (*device_get)(int *device, int ordinal);
    int (*retain)(void **context, int device);
    int (*set)(void *context);
    int (*info)(size_t *free_bytes, size_t *total_bytes);
    int (*alloc)(uintptr_t *memory, size_t bytes);
    int (*zero)(uintptr_t memory, unsigned char value, size_t bytes);
    int (*free)(uintptr_t memory);
} driver;

static struct daemon server;
static struct fas_client *client;

static void load(const char *name, void *function)
{
    void *library = dlopen("libcuda.so.1", RTLD_NOW);
    void *found = library ? dlsym(library, name) : NULL;
    ck_assert_msg(found != NULL, "no %s", name);
    memcpy(function, &found, sizeof found);
}

static void start(void)
{
    void *context;
    int device;
    load("cuInit", &driver.init);
    load("cuDeviceGet", &driver.device_get);
    load("cuDevicePrimaryCtxRetain", &driver.retain);
    load("cuCtxSetCurrent", &driver.set);
    load("cuMemGetInfo_v2", &driver.info);
    load("cuMemAlloc_v2", &driver.alloc);
    load("cuMemsetD8_v2", &driver.zero);
    load("cuMemFree_v2", &driver.free);
    ck_assert_int_eq(driver.init(0), 0);
    ck_assert_int_eq(driver.device_get(&device, 0), 0);
    ck_assert_int_eq(driver.retain(&context, device), 0);
    ck_assert_int_eq(driver.set(context), 0);
    daemon_start(&server, options);
}

static struct fas_client *connect_client(void)
{
    struct fas_connect_options connect = {.url = server.url};
    struct fas_client *connected = NULL;
    ck_assert_int_eq(fas_connect(&connect, &connected, NULL), FAS_OK);
    return connected;
}

static uintptr_t device_memory(size_t bytes)
{
    uintptr_t memory = 0;
    ck_assert_int_eq(driver.alloc(&memory, bytes), 0);
    ck_assert_int_eq(driver.zero(memory, 0, bytes), 0);
    return memory;
}

static size_t free_bytes(void)
{
    size_t bytes = 0, total = 0;
    ck_assert_int_eq(driver.info(&bytes, &total), 0);
    return bytes;
}

/* A forward of zeros, all of whose tensors lie there: o was not zero before. */
static void run_in(uintptr_t memory)
{
    static const int32_t cu_seqlens[] = {0, ROWS};
    static uint8_t poison[TENSOR_BYTES], o[TENSOR_BYTES];
    struct fas_report report;
    struct fas_request request = {.pass = FAS_FORWARD, .batch = 1};
    request.dims = (struct fas_dims){.dtype = FAS_BF16,
                                     .hq = HEADS,
                                     .hkv = HEADS,
                                     .d = WIDTH,
                                     .dv = WIDTH,
                                     .total_q = ROWS,
                                     .total_k = ROWS};
    request.q.cu_seqlens = request.k.cu_seqlens = cu_seqlens;
    static const enum fas_tensor tensors[] = {FAS_Q, FAS_K, FAS_V, FAS_O, FAS_LSE};
    for (size_t i = 0; i < sizeof tensors / sizeof tensors[0]; i++) {
        request.tensors[tensors[i]].data = (uint8_t *)memory + i * TENSOR_BYTES;
    }
    memset(poison, 0xff, sizeof poison);
    ck_assert_int_eq(fas_copy(request.tensors[FAS_O].data, poison, sizeof poison, NULL), FAS_OK);
    ck_assert_msg(fas_run(client, &request, &report) == FAS_OK, "%s: %s", report.error.field,
                  report.error.text);
    ck_assert_uint_eq(report.places, 1u << FAS_PLACE_CUDA);
    ck_assert_int_eq(fas_copy(o, request.tensors[FAS_O].data, sizeof o, NULL), FAS_OK);
    for (size_t i = 0; i < sizeof o; i++) {
        ck_assert_msg(o[i] == 0, "byte %zu of o", i);
    }
}

static void wait_until_free(size_t wanted, const char *after)
{
    for (int waited_ms = 0; free_bytes() + SLACK_BYTES < wanted && waited_ms < 10000;
         waited_ms += 20) {
        usleep(20000);
    }
    size_t bytes = free_bytes();
    ck_assert_msg(bytes + SLACK_BYTES >= wanted, "%s: %zu MiB free, %zu MiB were", after,
                  bytes >> 20, wanted >> 20);
}

/* A gigabyte that the daemon maps and its owner frees. */
static void map_and_free(void)
{
    uintptr_t large = device_memory(LARGE_BYTES);
    run_in(large);
    ck_assert_int_eq(driver.free(large), 0);
}

START_TEST(memory_comes_back_when_its_mapping_goes)
{
    start();
    client = connect_client();
    uintptr_t small[] = {device_memory(SMALL_BYTES), device_memory(SMALL_BYTES)};
    run_in(small[0]);
    run_in(small[1]);
    size_t before = free_bytes();

    map_and_free();
    ck_assert_msg(free_bytes() + LARGE_BYTES / 2 < before, "a mapping keeps nothing here?");
    run_in(small[0]);
    run_in(small[1]);
    wait_until_free(before, "the least recently used was unmapped");

    map_and_free();
    run_in(device_memory(LARGE_BYTES)); /* at the same address, as a rule: the client closes it */
    run_in(small[0]);
    wait_until_free(before - LARGE_BYTES, "the client closed it");

    before = free_bytes();
    map_and_free();
    fas_close(client);
    wait_until_free(before, "the client is gone");
    ck_assert_int_eq(daemon_stop(&server), 0);
}
END_TEST

int main(void)
{
    static const struct check_row rows[] = {
        {"comes_back", &memory_comes_back_when_its_mapping_goes},
    };
    return check_main("mappings", rows, sizeof rows / sizeof rows[0]);
}
