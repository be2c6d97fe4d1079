/*
 * device_far.c: "far:N", a device for tests whose arena the host does not reach: what a GPU is to
 * the daemon, without one. Each lane has a thread that takes its time, so that completions of
 * different lanes come in any order, and one more asks for clients' events; kernels are the CPU's.
 * Copies go through memcpy, so that sanitizers see every access to a slab.
 *
 * Fault sites: "far:0" for launches, "far:0/upload", "far:0/download": a failed device completes
 * everything as failed. "far:0/hang": the launch never ends; "far:0/slow": after SLOW_US;
 * "far:0/refuse": it is not begun.
 */
#include <assert.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "server/arena.h"
#include "server/clock.h"
#include "server/device.h"
#include "server/fault.h"
#include "server/watch.h"
#include "tests/support/fake_event.h"

#define FAR_ARENA_BYTES (UINT64_C(64) << 20)
#define FAR_PLAN_BYTES (UINT64_C(64) << 20)
#define SLOW_US 900000u
#define ASK_US 100u

/* Launches take longest, so that requests gather behind them. */
static const uint32_t pause_us_max[DEVICE_LANES] = {
    [DEVICE_UPLOAD] = 50, [DEVICE_LAUNCH] = 2000, [DEVICE_DOWNLOAD] = 300};

struct work {
    uint64_t tag;
    bool is_record; /* of the download lane */
    union {
        struct device_copy copy;
        struct device_launch launch;
        struct device_record record;
    };
};

struct far_lane {
    struct device *device;
    enum device_lane which;
    pthread_t thread;
    struct work *ring;
    uint64_t first, count;
    uint32_t random;
};

struct far {
    struct attn_context *context;
    pthread_mutex_t lock; /* guards rings and done */
    pthread_cond_t work_there;
    struct far_lane lanes[DEVICE_LANES];
    pthread_t asker;
    struct watches watches;
    uint32_t room, done_room;
    struct device_completion *done;
    uint64_t done_first, done_count;
    atomic_bool failed;
};

static void pause_a_while(struct far_lane *lane)
{
    lane->random = lane->random * 1664525u + 1013904223u; /* Numerical Recipes */
    uint32_t pause_us = (lane->random >> 16) % pause_us_max[lane->which];
    struct timespec time = {.tv_nsec = (long)pause_us * 1000};
    nanosleep(&time, NULL);
}

static void copy_plane(enum device_lane which, const struct device_copy *work, uint8_t *arena,
                       uint8_t *host)
{
    for (uint32_t i = 0; i < work->height; i++) {
        if (which == DEVICE_UPLOAD) {
            memcpy(arena + i * work->arena_pitch, host + i * work->host_pitch, work->width);
        } else {
            memcpy(host + i * work->host_pitch, arena + i * work->arena_pitch, work->width);
        }
    }
}

static void copy(const struct device *device, enum device_lane which,
                 const struct device_copy *work)
{
    uint32_t planes = work->depth ? work->depth : 1;
    for (uint32_t i = 0; i < planes; i++) {
        copy_plane(which, work, device->arena + work->arena_offset + i * work->arena_plane,
                   work->host + i * work->host_plane);
    }
}

static void launch(const struct far *far, const struct device_launch *work)
{
    if (work->launch.sequence_count > 0) {
        enum attn_status status = work->row->launch(far->context, &work->launch);
        assert(status == ATTN_OK);
        (void)status;
    }
    for (int32_t i = 0; i < work->sum_count; i++) {
        attn_sum_dsink(work->sums[i].per_sequence, work->sums[i].sequences, work->sums[i].hq,
                       work->sums[i].out);
    }
}

static bool fails(struct far_lane *lane)
{
    static const char *const sites[DEVICE_LANES] = {"/upload", "", "/download"};
    struct far *far = lane->device->state;
    char site[sizeof lane->device->name + 16];
    snprintf(site, sizeof site, "%s%s", lane->device->name, sites[lane->which]);
    if (fault_here(site)) {
        atomic_store(&far->failed, true);
    }
    return atomic_load(&far->failed);
}

/* A launch that is not begun. */
static bool refuses(const struct far_lane *lane)
{
    char site[sizeof lane->device->name + 16];
    snprintf(site, sizeof site, "%s/refuse", lane->device->name);
    return lane->which == DEVICE_LAUNCH && fault_here(site);
}

/* Launches that take their time. */
static void linger(const struct far_lane *lane)
{
    char site[sizeof lane->device->name + 16];
    snprintf(site, sizeof site, "%s/hang", lane->device->name);
    while (lane->which == DEVICE_LAUNCH && fault_here(site)) {
        pause();
    }
    snprintf(site, sizeof site, "%s/slow", lane->device->name);
    if (lane->which == DEVICE_LAUNCH && fault_here(site)) {
        usleep(SLOW_US);
    }
}

static struct work take_work(struct far_lane *lane)
{
    struct far *far = lane->device->state;
    pthread_mutex_lock(&far->lock);
    while (lane->count == 0) {
        pthread_cond_wait(&far->work_there, &far->lock);
    }
    struct work work = lane->ring[lane->first % far->room];
    pthread_mutex_unlock(&far->lock);
    return work;
}

static void tell(struct device *device, const struct device_completion *completion)
{
    struct far *far = device->state;
    pthread_mutex_lock(&far->lock);
    assert(far->done_count < far->done_room);
    far->done[(far->done_first + far->done_count++) % far->done_room] = *completion;
    pthread_mutex_unlock(&far->lock);
    device->wake(device->wake_context);
}

static void pop(struct far_lane *lane)
{
    struct far *far = lane->device->state;
    pthread_mutex_lock(&far->lock);
    lane->first++;
    lane->count--;
    pthread_mutex_unlock(&far->lock);
}

static void record(struct far_lane *lane, const struct device_record *record)
{
    const struct far *far = lane->device->state;
    bool failed = atomic_load(&far->failed);
    if (!failed) {
        fake_event_record(record->event);
    }
    tell(lane->device,
         &(struct device_completion){.lane = DEVICE_RECORD, .tag = record->tag, .failed = failed});
}

/* As on a stream: streams may wait on the events of a launch before it is over. */
static void record_all(struct far_lane *lane, const struct work *work)
{
    for (int32_t i = 0; lane->which == DEVICE_LAUNCH && i < work->launch.record_count; i++) {
        record(lane, &work->launch.records[i]);
    }
}

static void end_all(const struct far_lane *lane, const struct work *work)
{
    for (int32_t i = 0; lane->which == DEVICE_LAUNCH && i < work->launch.record_count; i++) {
        struct fake_event *event = work->launch.records[i].event;
        fake_event_end(event, atomic_load(&event->recorded));
    }
}

/* True: it was nothing but a record. */
static bool take_record(struct far_lane *lane, const struct work *work)
{
    if (work->is_record) {
        pop(lane);
        record(lane, &work->record);
        struct fake_event *event = work->record.event;
        fake_event_end(event, atomic_load(&event->recorded));
    }
    return work->is_record;
}

static void *run(void *argument)
{
    struct far_lane *lane = argument;
    for (;;) {
        struct work work = take_work(lane);
        struct device_completion completion = {
            .lane = lane->which, .tag = work.tag, .started_us = clock_us()};
        if (take_record(lane, &work)) {
            continue;
        }
        record_all(lane, &work);
        linger(lane);
        completion.failed = fails(lane);
        completion.refused = refuses(lane);
        if (!completion.failed && !completion.refused && lane->which == DEVICE_LAUNCH) {
            launch(lane->device->state, &work.launch);
        } else if (!completion.failed && !completion.refused) {
            copy(lane->device, lane->which, &work.copy);
        }
        pause_a_while(lane);
        completion.ended_us = clock_us();
        end_all(lane, &work);
        pop(lane);
        tell(lane->device, &completion);
    }
    return NULL;
}

static enum watch_answer query(void *event)
{
    return fake_event_is_over(event) ? WATCH_OVER : WATCH_PENDING;
}

static enum watch_answer query_nothing(void *event)
{
    (void)event;
    return WATCH_BROKEN;
}

static void *run_asker(void *argument)
{
    struct device *device = argument;
    struct far *far = device->state;
    struct watch_end ends[WATCH_ASKED];
    for (;;) {
        bool failed = atomic_load(&far->failed);
        uint32_t count = watch_ask(&far->watches, failed ? query_nothing : query, ends);
        for (uint32_t i = 0; i < count; i++) {
            tell(device, &(struct device_completion){
                             .lane = DEVICE_AWAIT, .tag = ends[i].tag, .failed = ends[i].failed});
        }
        usleep(ASK_US);
    }
    return NULL;
}

static void push(struct device *device, enum device_lane which, const struct work *work)
{
    struct far *far = device->state;
    struct far_lane *lane = &far->lanes[which];
    pthread_mutex_lock(&far->lock);
    assert(lane->count < far->room);
    assert(which != DEVICE_LAUNCH || lane->count < device->depth);
    lane->ring[(lane->first + lane->count++) % far->room] = *work;
    pthread_cond_broadcast(&far->work_there);
    pthread_mutex_unlock(&far->lock);
}

static bool far_upload(struct device *device, const struct device_copy *work, uint64_t tag)
{
    push(device, DEVICE_UPLOAD, &(struct work){.tag = tag, .copy = *work});
    return true;
}

static bool far_download(struct device *device, const struct device_copy *work, uint64_t tag)
{
    push(device, DEVICE_DOWNLOAD, &(struct work){.tag = tag, .copy = *work});
    return true;
}

static void far_launch(struct device *device, const struct device_launch *work, uint64_t tag)
{
    push(device, DEVICE_LAUNCH, &(struct work){.tag = tag, .launch = *work});
}

static void far_await(struct device *device, void *event, uint64_t tag)
{
    struct far *far = device->state;
    watch_add(&far->watches, event, tag);
}

static void far_resign(struct device *device, uint64_t tag)
{
    struct far *far = device->state;
    watch_resign(&far->watches, tag);
}

static void far_record(struct device *device, const struct device_record *wanted)
{
    push(device, DEVICE_DOWNLOAD, &(struct work){.is_record = true, .record = *wanted});
}

static bool far_take(struct device *device, struct device_completion *completion)
{
    struct far *far = device->state;
    pthread_mutex_lock(&far->lock);
    bool any = far->done_count > 0;
    if (any) {
        *completion = far->done[far->done_first++ % far->done_room];
        far->done_count--;
    }
    pthread_mutex_unlock(&far->lock);
    return any;
}

static bool open_memory(struct device *device, const struct config *config)
{
    struct far *far = device->state;
    far->room = device_work_max(config);
    far->done_room = device_completions_max(config);
    far->done = calloc(far->done_room, sizeof *far->done);
    device->arena = aligned_alloc(ARENA_ALIGN, device->arena_bytes + device->scratch_bytes);
    device->scratch = device->arena + device->arena_bytes;
    device->staging = aligned_alloc(ARENA_ALIGN, device_staging_bytes(config));
    return far->done && device->arena && device->staging &&
           watch_open(&far->watches, config->slots);
}

static bool open_lanes(struct device *device)
{
    struct far *far = device->state;
    bool opened = true;
    for (int which = 0; which < DEVICE_LANES; which++) {
        struct far_lane *lane = &far->lanes[which];
        *lane = (struct far_lane){.device = device,
                                  .which = (enum device_lane)which,
                                  .ring = calloc(far->room, sizeof *lane->ring),
                                  .random = (uint32_t)(which + 1) * 977u};
        opened = opened && lane->ring && pthread_create(&lane->thread, NULL, run, lane) == 0;
    }
    return opened && pthread_create(&far->asker, NULL, run_asker, device) == 0;
}

static void name_far(int ordinal, char uuid[FAS_NAME_BYTES_MAX])
{
    snprintf(uuid, FAS_NAME_BYTES_MAX, "GPU-fa000000-0000-0000-0000-00000000000%d", ordinal);
}

static enum fas_status far_open(struct device *device, const struct config *config,
                                struct fas_error *error)
{
    uint64_t bytes = config->arena_bytes ? config->arena_bytes : FAR_ARENA_BYTES;
    enum fas_status status = device_divide(device, config, bytes, error);
    if (status != FAS_OK) {
        return status;
    }
    struct far *far = calloc(1, sizeof *far);
    device->state = far;
    device->arch = ATTN_CPU;
    device->depth = DEVICE_DEPTH_MAX;
    device->plan_bytes = FAR_PLAN_BYTES;
    device->peer_bytes_per_us = 1e4;
    name_far(device->ordinal, device->uuid);
    if (!far || !open_memory(device, config)) {
        return fas_fail(error, FAS_RESOURCE_EXHAUSTED, "arena-bytes", "no memory for a far device");
    }
    pthread_mutex_init(&far->lock, NULL);
    pthread_cond_init(&far->work_there, NULL);
    far->context = attn_cpu_open(config->cpu_threads ? (int)config->cpu_threads : 1);
    if (!far->context || !open_lanes(device)) {
        return fas_fail(error, FAS_RESOURCE_EXHAUSTED, "device", "no threads for a far device");
    }
    return FAS_OK;
}

/* As many as the driver of tests/support/fake_cuda.c has. */
static bool is_here(const char *uuid)
{
    char there[2][FAS_NAME_BYTES_MAX];
    name_far(0, there[0]);
    name_far(1, there[1]);
    return strcmp(uuid, there[0]) == 0 || strcmp(uuid, there[1]) == 0;
}

static size_t length_of(const struct device_mapping *mapping)
{
    return mapping->event ? sizeof(struct fake_event) : mapping->bytes;
}

/* A handle is what a fake libcuda exports (tests/support/fake_cuda.c), of memory and of events:
 * "PID FD". */
static enum fas_status far_map(struct device *device, struct device_mapping *mapping,
                               struct fas_error *error)
{
    char path[64];
    long pid = 0, number = 0;
    if (mapping->kind == FAS_PLACE_REGION) {
        return FAS_OK;
    }
    const char *field = mapping->event ? "cuda_event" : "cuda_memory";
    if (!is_here(mapping->uuid)) {
        return fas_fail(error, FAS_INVALID_ARGUMENT, "device_uuid", "no such device: %s",
                        mapping->uuid);
    }
    mapping->handle[DEVICE_HANDLE_BYTES - 1] = 0;
    char *end;
    pid = strtol((const char *)mapping->handle, &end, 10);
    number = strtol(end, NULL, 10);
    snprintf(path, sizeof path, "/proc/%ld/fd/%ld", pid, number);
    int fd = pid > 0 ? open(path, O_RDWR | O_CLOEXEC) : -1;
    struct stat stat;
    if (fd < 0 || fstat(fd, &stat) != 0) {
        return fas_fail(error, FAS_INVALID_ARGUMENT, field, "no such handle: %s", path);
    }
    mapping->bytes = mapping->event ? 0 : (uint64_t)stat.st_size;
    mapping->memory = mmap(NULL, length_of(mapping), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    mapping->own = strcmp(mapping->uuid, device->uuid) == 0;
    close(fd);
    if (mapping->memory == MAP_FAILED) {
        return fas_fail(error, FAS_INVALID_ARGUMENT, field, "can not be mapped: %s", path);
    }
    return FAS_OK;
}

static void far_unmap(struct device *device, const struct device_mapping *mapping)
{
    (void)device;
    if (mapping->kind == FAS_PLACE_CUDA) {
        munmap(mapping->memory, length_of(mapping));
    }
}

static int far_count(void)
{
    return 0; /* only by name */
}

extern const struct device_ops device_far;
const struct device_ops device_far = {
    .kind = "far",
    .count = far_count,
    .open = far_open,
    .upload = far_upload,
    .download = far_download,
    .launch = far_launch,
    .take = far_take,
    .await = far_await,
    .resign = far_resign,
    .record = far_record,
    .map = far_map,
    .unmap = far_unmap,
};
