/*
 * fake_cuda.c: a libcuda.so.1 for tests: device memory is a memfd, a handle is "PID FD", the
 * devices are those of device_far.c. What libfaserve asks of the driver, and what tests do with
 * events. All streams are one: a thread that does its work in order, unless a test holds it.
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/support/fake_event.h"

enum {
    ALLOCATIONS_MAX = 256,
    EVENTS_MAX = 64,
    WORKS_MAX = 1024,
    STEP_US = 50,
    FILL_US = 1000,
    PER_THREAD = 2, /* the stream of that name */
    FAILED = 1,
    NOT_READY = 600,
    DEVICES = 2
};

static struct handle {
    struct fake_event *shared; /* NULL: free */
    int fd;
} events[EVENTS_MAX];

/* The stream's work: an event's record, or a word to wait for. */
static struct work {
    struct fake_event *event; /* NULL: it is a word */
    unsigned long long number;
    const uint32_t *word;
    uint32_t value;
} works[WORKS_MAX];
static unsigned first_work, work_count; /* guarded by lock */
static bool stream_held;
static pthread_cond_t work_there = PTHREAD_COND_INITIALIZER;

static struct allocation {
    uint8_t *base;
    size_t bytes;
    unsigned long long number;
    int fd, device;
} allocations[ALLOCATIONS_MAX];
static unsigned long long numbers;

struct filling {
    void *memory;
    unsigned char value;
    size_t bytes;
};
static int fillings;              /* to come */
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
int cuMemsetD8Async(uintptr_t memory, unsigned char value, size_t bytes, void *stream);
int cuMemFree_v2(uintptr_t memory);
int cuMemcpy(uintptr_t to, uintptr_t from, size_t bytes);
int cuStreamSynchronize(void *stream);
int cuCtxGetDevice(int *device);
int cuEventCreate(void **event, unsigned flags);
int cuEventDestroy_v2(void *event);
int cuEventRecord(void *event, void *stream);
int cuEventQuery(void *event);
int cuIpcGetEventHandle(char *handle, void *event);
int cuStreamGetCtx(void *stream, void **context);
int cuStreamCreate(void **stream, unsigned flags);
int cuStreamQuery(void *stream);
int cuStreamWaitValue32_v2(void *stream, uintptr_t word, uint32_t value, unsigned flags);
int cuMemHostAlloc(void **memory, size_t bytes, unsigned flags);
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

/* Some time after the call that asks for it, as on a device. */
static void *fill(void *context)
{
    struct filling *filling = context;
    usleep(FILL_US);
    memset(filling->memory, filling->value, filling->bytes);
    free(filling);
    __atomic_sub_fetch(&fillings, 1, __ATOMIC_RELEASE);
    return NULL;
}

static void wait_for_fillings(void)
{
    while (__atomic_load_n(&fillings, __ATOMIC_ACQUIRE) > 0) {
        usleep(STEP_US);
    }
}

int cuMemsetD8Async(uintptr_t memory, unsigned char value, size_t bytes, void *stream)
{
    struct filling *filling = malloc(sizeof *filling);
    pthread_t thread;
    if (!filling || stream != (void *)PER_THREAD) {
        free(filling);
        return FAILED;
    }
    *filling = (struct filling){(void *)memory, value, bytes};
    __atomic_add_fetch(&fillings, 1, __ATOMIC_RELAXED);
    pthread_create(&thread, NULL, fill, filling);
    pthread_detach(thread);
    return 0;
}

int cuMemFree_v2(uintptr_t memory)
{
    wait_for_fillings();
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
    close(gone->fd); /* its memory stays: the stream may still have it to record */
    *gone = (struct handle){0};
    pthread_mutex_unlock(&lock);
    return 0;
}

/* The next work, once it may be done. Under the lock, which is given up meanwhile. */
static struct work next_work(void)
{
    for (;;) {
        const struct work *work = &works[first_work % WORKS_MAX];
        if (work_count == 0) {
            pthread_cond_wait(&work_there, &lock);
        } else if (!stream_held &&
                   (work->event ||
                    (int32_t)(__atomic_load_n(work->word, __ATOMIC_ACQUIRE) - work->value) >= 0)) {
            return *work;
        } else {
            pthread_mutex_unlock(&lock);
            usleep(STEP_US);
            pthread_mutex_lock(&lock);
        }
    }
}

static void *run_stream(void *unused)
{
    pthread_mutex_lock(&lock);
    for (;;) {
        struct work work = next_work();
        if (work.event) {
            fake_event_end(work.event, work.number);
        }
        first_work++;
        work_count--;
    }
    return unused;
}

static void start_stream(void)
{
    pthread_t thread;
    pthread_create(&thread, NULL, run_stream, NULL);
}

/* Under the lock. */
static int push(const struct work *work)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, start_stream);
    if (work_count == WORKS_MAX) {
        return FAILED;
    }
    works[(first_work + work_count++) % WORKS_MAX] = *work;
    pthread_cond_signal(&work_there);
    return 0;
}

int cuEventRecord(void *event, void *stream)
{
    struct fake_event *shared = ((struct handle *)event)->shared;
    int failed = 0;
    pthread_mutex_lock(&lock);
    struct work work = {.event = shared, .number = fake_event_record(shared)};
    if (stream) {
        failed = push(&work);
    } else {
        fake_event_end(shared, work.number);
    }
    pthread_mutex_unlock(&lock);
    return failed;
}

int cuStreamWaitValue32_v2(void *stream, uintptr_t word, uint32_t value, unsigned flags)
{
    pthread_mutex_lock(&lock);
    int failed = stream && flags == 0
                     ? push(&(struct work){.word = (const uint32_t *)word, .value = value})
                     : FAILED;
    pthread_mutex_unlock(&lock);
    return failed;
}

int cuStreamCreate(void **stream, unsigned flags)
{
    *stream = flags == 1 ? works : NULL;
    return *stream ? 0 : FAILED;
}

int cuStreamQuery(void *stream)
{
    pthread_mutex_lock(&lock);
    int answer = stream && stream != (void *)PER_THREAD && work_count > 0 ? NOT_READY : 0;
    pthread_mutex_unlock(&lock);
    return answer;
}

int cuStreamSynchronize(void *stream)
{
    wait_for_fillings();
    while (cuStreamQuery(stream) != 0) {
        usleep(STEP_US);
    }
    return 0;
}

int cuStreamGetCtx(void *stream, void **context)
{
    *context = &allocations[current];
    return stream ? 0 : FAILED;
}

int cuMemHostAlloc(void **memory, size_t bytes, unsigned flags)
{
    *memory = flags == 3 ? calloc(1, bytes) : NULL; /* portable, for devices */
    return *memory ? 0 : FAILED;
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
    pthread_mutex_unlock(&lock);
}
