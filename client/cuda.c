/*
 * cuda.c: some functions of libcuda.so.1 and the few numbers of cuda.h that they take. The driver's
 * interface is stable; names with _v2 are what cuda.h calls without it.
 */
#include "client/cuda.h"

#include <dlfcn.h>
#include <link.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#define LIBRARY "libcuda.so.1"

/* CUpointer_attribute, CUmemorytype, flags. */
enum {
    ATTRIBUTE_CONTEXT = 1,
    ATTRIBUTE_MEMORY_TYPE = 2,
    ATTRIBUTE_BUFFER_ID = 7,
    ATTRIBUTE_DEVICE_ORDINAL = 9,
    ATTRIBUTE_RANGE_START = 11,
    ATTRIBUTE_RANGE_SIZE = 12,
    MEMORY_DEVICE = 2,
    EVENT_DISABLE_TIMING = 2,
    EVENT_INTERPROCESS = 4,
    HOST_PORTABLE = 1,
    HOST_DEVICE_MAP = 2,
    STREAM_PER_THREAD = 2,
    WAIT_GREATER_OR_EQUAL = 0, /* of numbers that count round */
};

struct handle {
    char bytes[WIRE_CUDA_HANDLE_BYTES];
};

struct uuid {
    uint8_t bytes[16];
};

struct driver {
    int (*init)(unsigned flags);
    int (*device_count)(int *count);
    int (*device_get)(int *device, int ordinal);
    int (*device_uuid)(struct uuid *uuid, int device);
    int (*retain)(void **context, int device);
    int (*push)(void *context);
    int (*pop)(void **context);
    int (*attribute)(void *value, int attribute, uintptr_t memory);
    int (*export)(struct handle *handle, uintptr_t memory);
    int (*alloc)(uintptr_t *memory, size_t bytes);
    int (*fill)(uintptr_t memory, unsigned char value, size_t bytes, void *stream);
    int (*free)(uintptr_t memory);
    int (*copy)(uintptr_t to, uintptr_t from, size_t bytes);
    int (*wait)(void *stream);
    int (*current_device)(int *device);
    int (*export_event)(struct handle *handle, void *event);
    int (*stream_context)(void *stream, void **context);
    int (*create_event)(void **event, unsigned flags);
    int (*destroy_event)(void *event);
    int (*record)(void *event, void *stream);
    int (*wait_word)(void *stream, uintptr_t word, uint32_t value, unsigned flags);
    int (*host_alloc)(void **memory, size_t bytes, unsigned flags);
};

static struct driver driver;
static bool loaded; /* once true, it stays; guarded by lock */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static bool resolve(void *library)
{
    const struct {
        const char *name;
        void *function;
    } rows[] = {
        {"cuInit", &driver.init},
        {"cuDeviceGetCount", &driver.device_count},
        {"cuDeviceGet", &driver.device_get},
        {"cuDeviceGetUuid_v2", &driver.device_uuid},
        {"cuDevicePrimaryCtxRetain", &driver.retain},
        {"cuCtxPushCurrent_v2", &driver.push},
        {"cuCtxPopCurrent_v2", &driver.pop},
        {"cuPointerGetAttribute", &driver.attribute},
        {"cuIpcGetMemHandle", &driver.export},
        {"cuMemAlloc_v2", &driver.alloc},
        {"cuMemsetD8Async", &driver.fill},
        {"cuMemFree_v2", &driver.free},
        {"cuMemcpy", &driver.copy},
        {"cuStreamSynchronize", &driver.wait},
        {"cuCtxGetDevice", &driver.current_device},
        {"cuIpcGetEventHandle", &driver.export_event},
        {"cuStreamGetCtx", &driver.stream_context},
        {"cuEventCreate", &driver.create_event},
        {"cuEventDestroy_v2", &driver.destroy_event},
        {"cuEventRecord", &driver.record},
        {"cuStreamWaitValue32_v2", &driver.wait_word},
        {"cuMemHostAlloc", &driver.host_alloc},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        void *found = dlsym(library, rows[i].name);
        memcpy(rows[i].function, &found, sizeof(found));
        if (!found) {
            return false;
        }
    }
    return driver.init(0) == 0;
}

static unsigned long long objects_seen; /* loaded in all when none of them was it; by lock */

static int count_objects(struct dl_phdr_info *info, size_t bytes, void *count)
{
    (void)bytes;
    *(unsigned long long *)count = info->dlpi_adds;
    return 1;
}

static int look(struct dl_phdr_info *info, size_t bytes, void *found)
{
    (void)bytes;
    *(bool *)found = info->dlpi_name && strstr(info->dlpi_name, LIBRARY);
    return *(bool *)found;
}

/* Whether the program has loaded it. Asked with every call, so the list is walked only when
 * something was loaded since. Under the lock. */
static bool is_present(void)
{
    unsigned long long objects = 0;
    bool found = false;
    dl_iterate_phdr(count_objects, &objects);
    if (objects != objects_seen) {
        dl_iterate_phdr(look, &found);
        objects_seen = found ? objects_seen : objects;
    }
    return found;
}

/* present: only if the program has loaded it already. Without that there is no device memory. */
static bool load(bool present)
{
    pthread_mutex_lock(&lock);
    if (!loaded && (!present || is_present())) {
        void *library = dlopen(LIBRARY, RTLD_NOW);
        loaded = library && resolve(library);
    }
    bool there = loaded;
    pthread_mutex_unlock(&lock);
    return there;
}

bool cuda_find(const void *data, struct cuda_allocation *allocation)
{
    uintptr_t at = (uintptr_t)data;
    unsigned type = 0;
    uintptr_t base = 0;
    size_t bytes = 0;
    unsigned long long number = 0;
    if (!data || !load(true) || driver.attribute(&type, ATTRIBUTE_MEMORY_TYPE, at) != 0 ||
        type != MEMORY_DEVICE || driver.attribute(&base, ATTRIBUTE_RANGE_START, at) != 0 ||
        driver.attribute(&bytes, ATTRIBUTE_RANGE_SIZE, at) != 0 ||
        driver.attribute(&number, ATTRIBUTE_BUFFER_ID, at) != 0) {
        return false;
    }
    *allocation = (struct cuda_allocation){
        .base = (uint8_t *)(uintptr_t)data - (at - base), .bytes = bytes, .number = number};
    return true;
}

static void print_uuid(const struct uuid *uuid, char *text, size_t room)
{
    const uint8_t *u = uuid->bytes;
    snprintf(text, room, "GPU-%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x",
             u[0], u[1], u[2], u[3], u[4], u[5], u[6], u[7], u[8], u[9], u[10], u[11], u[12], u[13],
             u[14], u[15]);
}

enum fas_status cuda_export(const struct cuda_allocation *allocation, struct wire_open *open,
                            struct fas_error *error)
{
    uintptr_t base = (uintptr_t)allocation->base;
    void *context = NULL;
    int ordinal = 0, device = 0;
    struct handle handle;
    struct uuid uuid;
    bool current = driver.attribute(&context, ATTRIBUTE_CONTEXT, base) == 0 && context &&
                   driver.push(context) == 0;
    int failed = driver.export(&handle, base);
    bool known = driver.attribute(&ordinal, ATTRIBUTE_DEVICE_ORDINAL, base) == 0 &&
                 driver.device_get(&device, ordinal) == 0 && driver.device_uuid(&uuid, device) == 0;
    if (current) {
        driver.pop(&context);
    }
    if (failed || !known) {
        return fas_fail(
            error, FAS_UNSUPPORTED, "tensors",
            "CUDA memory at %p has no IPC handle (error %d): use cudaMalloc, not a pool",
            (const void *)allocation->base, failed);
    }
    *open = (struct wire_open){.place = FAS_PLACE_CUDA, .has_memory = true};
    memcpy(open->cuda_memory, handle.bytes, sizeof(open->cuda_memory));
    print_uuid(&uuid, open->device_uuid, sizeof(open->device_uuid));
    return FAS_OK;
}

/* The driver does not say which device an event is of. */
enum fas_status cuda_export_event(void *event, struct wire_open *open, struct fas_error *error)
{
    struct handle handle;
    struct uuid uuid;
    int device = 0;
    if (!load(true) || driver.current_device(&device) != 0 ||
        driver.device_uuid(&uuid, device) != 0) {
        return fas_fail(error, FAS_INVALID_ARGUMENT, "",
                        "no GPU is current on this thread, that the event could be of");
    }
    int failed = driver.export_event(&handle, event);
    if (failed) {
        return fas_fail(error, FAS_INVALID_ARGUMENT, "",
                        "has no IPC handle (error %d): create it with cudaEventInterprocess and "
                        "cudaEventDisableTiming",
                        failed);
    }
    *open = (struct wire_open){.place = FAS_PLACE_CUDA, .has_event = true};
    memcpy(open->cuda_event, handle.bytes, sizeof(open->cuda_event));
    print_uuid(&uuid, open->device_uuid, sizeof(open->device_uuid));
    return FAS_OK;
}

static bool name_device(int ordinal, int *device, char text[FAS_NAME_BYTES_MAX])
{
    struct uuid uuid;
    bool known = driver.device_get(device, ordinal) == 0 && driver.device_uuid(&uuid, *device) == 0;
    if (known) {
        print_uuid(&uuid, text, FAS_NAME_BYTES_MAX);
    }
    return known;
}

bool cuda_name_device(uint32_t ordinal, char uuid[FAS_NAME_BYTES_MAX])
{
    int count = 0, device;
    return load(false) && driver.device_count(&count) == 0 && ordinal < (uint32_t)count &&
           name_device((int)ordinal, &device, uuid);
}

/* The device of that uuid as this process numbers it, -1: none. */
static int find_device(const char *wanted)
{
    int count = 0;
    driver.device_count(&count);
    for (int i = 0; i < count; i++) {
        int device;
        char text[FAS_NAME_BYTES_MAX];
        if (name_device(i, &device, text) && strcmp(text, wanted) == 0) {
            return device;
        }
    }
    return -1;
}

/* Filling is begun, not done, when the call returns, and streams of the program's need not wait for
 * it: so it is waited for here, on a stream that waits for none of theirs. In a context. */
static int alloc_zeros(uintptr_t *memory, uint64_t bytes)
{
    int failed = driver.alloc(memory, bytes);
    if (failed) {
        return failed;
    }
    failed = driver.fill(*memory, 0, bytes, (void *)STREAM_PER_THREAD);
    failed = failed ? failed : driver.wait((void *)STREAM_PER_THREAD);
    if (failed) {
        driver.free(*memory);
    }
    return failed;
}

enum fas_status cuda_alloc(const char *uuid, uint64_t bytes, void **memory, struct fas_error *error)
{
    void *context = NULL;
    uintptr_t at = 0;
    int device = load(false) ? find_device(uuid) : -1;
    if (device < 0 || driver.retain(&context, device) != 0 || driver.push(context) != 0) {
        return fas_fail(
            error, FAS_UNSUPPORTED, "place",
            uuid[0] ? "this process can not use the device %s" : "the daemon has no GPU%s", uuid);
    }
    int failed = alloc_zeros(&at, bytes);
    driver.pop(&context);
    if (failed) {
        return fas_fail(error, FAS_RESOURCE_EXHAUSTED, "bytes", "%llu of device memory: error %d",
                        (unsigned long long)bytes, failed);
    }
    memcpy(memory, &at, sizeof(at));
    return FAS_OK;
}

/* The context of device memory, for this thread. */
static bool enter(const void *memory)
{
    void *context = NULL;
    return load(true) && driver.attribute(&context, ATTRIBUTE_CONTEXT, (uintptr_t)memory) == 0 &&
           context && driver.push(context) == 0;
}

void cuda_free(void *memory)
{
    void *context;
    if (enter(memory)) {
        driver.free((uintptr_t)memory);
        driver.pop(&context);
    }
}

enum fas_status cuda_copy(void *to, const void *from, uint64_t bytes, struct fas_error *error)
{
    void *context;
    bool entered = enter(to) || enter(from);
    if (!entered) {
        memmove(to, from, bytes);
        return FAS_OK;
    }
    /* From memory that is not pinned it returns when the bytes are in a buffer of the driver's: who
     * works in this process comes after them all the same, the daemon might not. */
    int failed = driver.copy((uintptr_t)to, (uintptr_t)from, bytes);
    failed = failed ? failed : driver.wait(NULL);
    driver.pop(&context);
    return failed ? fas_fail(error, FAS_DEVICE_FAULT, "", "copy of device memory: error %d", failed)
                  : FAS_OK;
}

/* ---- streams of the program's ---- */

bool cuda_enter_stream(void *stream, void **context)
{
    return load(true) && driver.stream_context(stream, context) == 0 && driver.push(*context) == 0;
}

void cuda_leave(void)
{
    void *context;
    driver.pop(&context);
}

void *cuda_make_event(void)
{
    void *event = NULL;
    int failed = driver.create_event(&event, EVENT_INTERPROCESS | EVENT_DISABLE_TIMING);
    return failed ? NULL : event;
}

void cuda_destroy_event(void *context, void *event)
{
    if (driver.push(context) == 0) {
        driver.destroy_event(event);
        cuda_leave();
    }
}

bool cuda_record(void *event, void *stream)
{
    return driver.record(event, stream) == 0;
}

uint32_t *cuda_words(uint32_t count)
{
    void *memory = NULL;
    size_t bytes = count * sizeof(uint32_t);
    if (driver.host_alloc(&memory, bytes, HOST_PORTABLE | HOST_DEVICE_MAP) != 0) {
        return NULL;
    }
    memset(memory, 0, bytes);
    return memory;
}

/* Host memory has one address for all. */
bool cuda_wait_word(void *stream, const uint32_t *word, uint32_t value)
{
    return driver.wait_word(stream, (uintptr_t)word, value, WAIT_GREATER_OR_EQUAL) == 0;
}
