/*
 * fake_cuda.c: a libcuda.so.1 for tests: device memory is a memfd, a handle is "PID FD", the
 * devices are those of device_far.c. What libfaserve asks of the driver, and what tests do with
 * events. A stream does its work at once, unless a test holds it.
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/support/fake_event.h"

enum { ALLOCATIONS_MAX = 256, EVENTS_MAX = 64, FAILED = 1, NOT_READY = 600, DEVICES = 2 };

static struct handle {
    struct fake_event *shared; /* NULL: free */
    int fd;
    bool held; /* recorded on a stream that is held */
} events[EVENTS_MAX];
static bool stream_held;

static struct allocation {
    uint8_t *base;
    size_t bytes;
    unsigned long long number;
    int fd, device;
} allocations[ALLOCATIONS_MAX];
static unsigned long long numbers;
static _Thread_local int current; /* device */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

int cuInit(unsigned flags);
int cuDeviceGetCount(int *count);
int cuDeviceGet(int *device, int ordinal);
int cuDeviceGetUuid_v2(uint8_t *uuid, int device);
int cuDevicePrimaryCtxRetain(void **context, int device);
int cuCtxPushCurrent_v2(void *context);
int cuCtxPopCurrent_v2(void **context);
int cuPointerGetAttribute(void *value, int attribute, uintptr_t memory);
int cuIpcGetMemHandle(char *handle, uintptr_t memory);
int cuMemAlloc_v2(uintptr_t *memory, size_t bytes);
int cuMemsetD8_v2(uintptr_t memory, unsigned char value, size_t bytes);
int cuMemFree_v2(uintptr_t memory);
int cuMemcpy(uintptr_t to, uintptr_t from, size_t bytes);
int cuStreamSynchronize(void *stream);
int cuCtxGetDevice(int *device);
int cuEventCreate(void **event, unsigned flags);
int cuEventDestroy_v2(void *event);
int cuEventRecord(void *event, void *stream);
int cuEventQuery(void *event);
int cuIpcGetEventHandle(char *handle, void *event);
void fake_stream_hold(void);
void fake_stream_release(void);

int cuInit(unsigned flags)
{
    return flags == 0 ? 0 : FAILED;
}

int cuDeviceGetCount(int *count)
{
    *count = DEVICES;
    return 0;
}

int cuDeviceGet(int *device, int ordinal)
{
    *device = ordinal;
    return 0;
}

int cuDeviceGetUuid_v2(uint8_t *uuid, int device)
{
    memset(uuid, 0, 16);
    uuid[0] = 0xfa;
    uuid[15] = (uint8_t)device;
    return 0;
}

int cuDevicePrimaryCtxRetain(void **context, int device)
{
    *context = &allocations[device];
    return 0;
}

/* A context is the address of an entry with its device's number. */
int cuCtxPushCurrent_v2(void *context)
{
    current = context ? (int)((struct allocation *)context - allocations) % DEVICES : 0;
    return context ? 0 : FAILED;
}

int cuCtxPopCurrent_v2(void **context)
{
    *context = NULL;
    current = 0;
    return 0;
}

/* Under the lock. */
static struct allocation *find(uintptr_t memory)
{
    for (int i = 0; i < ALLOCATIONS_MAX; i++) {
        struct allocation *a = &allocations[i];
        if (a->base && memory - (uintptr_t)a->base < a->bytes) {
            return a;
        }
    }
    return NULL;
}

static int attribute_of(void *value, int attribute, const struct allocation *a)
{
    switch (attribute) {
    case 1: /* context */
        *(void **)value = &allocations[a->device];
        return 0;
    case 2: /* memory type: device */
        *(unsigned *)value = 2;
        return 0;
    case 7: /* buffer id */
        *(unsigned long long *)value = a->number;
        return 0;
    case 9: /* ordinal */
        *(int *)value = a->device;
        return 0;
    case 11: /* start */
        *(uintptr_t *)value = (uintptr_t)a->base;
        return 0;
    case 12: /* size */
        *(size_t *)value = a->bytes;
        return 0;
    default:
        return FAILED;
    }
}

int cuPointerGetAttribute(void *value, int attribute, uintptr_t memory)
{
    pthread_mutex_lock(&lock);
    const struct allocation *a = find(memory);
    int failed = a ? attribute_of(value, attribute, a) : FAILED;
    pthread_mutex_unlock(&lock);
    return failed;
}

int cuIpcGetMemHandle(char *handle, uintptr_t memory)
{
    pthread_mutex_lock(&lock);
    const struct allocation *a = find(memory);
    if (a) {
        memset(handle, 0, 64);
        snprintf(handle, 64, "%d %d", (int)getpid(), a->fd);
    }
    pthread_mutex_unlock(&lock);
    return a ? 0 : FAILED;
}

static int make(struct allocation *a, size_t bytes)
{
    int fd = memfd_create("fake-cuda", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, (off_t)bytes) != 0) {
        return FAILED;
    }
    void *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    *a = (struct allocation){base, bytes, ++numbers, fd, current};
    return 0;
}

int cuMemAlloc_v2(uintptr_t *memory, size_t bytes)
{
    int failed = FAILED;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < ALLOCATIONS_MAX && failed; i++) {
        if (!allocations[i].base) {
            failed = make(&allocations[i], bytes);
            *memory = (uintptr_t)allocations[i].base;
        }
    }
    pthread_mutex_unlock(&lock);
    return failed;
}

int cuMemsetD8_v2(uintptr_t memory, unsigned char value, size_t bytes)
{
    memset((void *)memory, value, bytes);
    return 0;
}

int cuMemFree_v2(uintptr_t memory)
{
    pthread_mutex_lock(&lock);
    struct allocation *a = find(memory);
    if (a) {
        munmap(a->base, a->bytes);
        close(a->fd);
        *a = (struct allocation){0};
    }
    pthread_mutex_unlock(&lock);
    return a ? 0 : FAILED;
}

int cuMemcpy(uintptr_t to, uintptr_t from, size_t bytes)
{
    memmove((void *)to, (const void *)from, bytes);
    return 0;
}

int cuStreamSynchronize(void *stream)
{
    return stream ? FAILED : 0;
}

int cuCtxGetDevice(int *device)
{
    *device = current;
    return 0;
}

/* ---- events ---- */

static int make_event(struct handle *event)
{
    int fd = memfd_create("fake-event", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, sizeof *event->shared) != 0) {
        return FAILED;
    }
    void *shared = mmap(NULL, sizeof *event->shared, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    *event = (struct handle){.shared = shared, .fd = fd};
    return 0;
}

int cuEventCreate(void **event, unsigned flags)
{
    int failed = FAILED; /* but for one that is interprocess and without timing */
    pthread_mutex_lock(&lock);
    for (int i = 0; i < EVENTS_MAX && flags == 6 && failed; i++) {
        if (!events[i].shared) {
            failed = make_event(&events[i]);
            *event = &events[i];
        }
    }
    pthread_mutex_unlock(&lock);
    return failed;
}

int cuEventDestroy_v2(void *event)
{
    struct handle *gone = event;
    pthread_mutex_lock(&lock);
    munmap(gone->shared, sizeof *gone->shared);
    close(gone->fd);
    *gone = (struct handle){0};
    pthread_mutex_unlock(&lock);
    return 0;
}

int cuEventRecord(void *event, void *stream)
{
    struct handle *recorded = event;
    pthread_mutex_lock(&lock);
    unsigned long long number = fake_event_record(recorded->shared);
    recorded->held = stream_held && stream;
    if (!recorded->held) {
        fake_event_end(recorded->shared, number);
    }
    pthread_mutex_unlock(&lock);
    return 0;
}

int cuEventQuery(void *event)
{
    const struct handle *asked = event;
    return fake_event_is_over(asked->shared) ? 0 : NOT_READY;
}

int cuIpcGetEventHandle(char *handle, void *event)
{
    const struct handle *given = event;
    bool known = given >= events && given < events + EVENTS_MAX && given->shared;
    if (known) {
        memset(handle, 0, 64);
        snprintf(handle, 64, "%d %d", (int)getpid(), given->fd);
    }
    return known ? 0 : FAILED;
}

void fake_stream_hold(void)
{
    pthread_mutex_lock(&lock);
    stream_held = true;
    pthread_mutex_unlock(&lock);
}

void fake_stream_release(void)
{
    pthread_mutex_lock(&lock);
    stream_held = false;
    for (int i = 0; i < EVENTS_MAX; i++) {
        if (events[i].held) {
            fake_event_end(events[i].shared, atomic_load(&events[i].shared->recorded));
            events[i].held = false;
        }
    }
    pthread_mutex_unlock(&lock);
}
