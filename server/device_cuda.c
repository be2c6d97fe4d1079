/*
 * device_cuda.c: an NVIDIA GPU as a device. One thread talks to CUDA: it opens the device, then
 * gives each lane's work to the lane's stream and watches for its end.
 *
 *   loop      -> push into a lane's ring -> thread: copy or launch on the stream, record an event
 *   thread    <- the event of a lane's oldest work -> completion into `done`, wake -> loop
 *
 * Clients' events are recorded on the streams and asked for beside them (watch.h). The memory they
 * share is device_cuda_map.c's.
 *
 * The thread watches events by asking (cudaEventQuery, under a microsecond): a callback of the
 * runtime or a blocking wait costs 20 to 50 us more, half of what a short request takes. It asks
 * without pause while things move, every POLL_US after a while without news, and sleeps when there
 * is nothing to watch.
 */
#include <assert.h>
#include <cuda_runtime_api.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>

#include "kernels/attn_cuda.h"
#include "server/clock.h"
#include "server/device.h"
#include "server/device_cuda.h"
#include "server/fault.h"
#include "server/log.h"
#include "server/topology.h"
#include "server/warm.h"
#include "server/watch.h"

/* Without arena-bytes: as the option's help says. */
#define ARENA_PERCENT 85u
/* What a copy between GPUs is expected to take, where they reach one another (half of what NVLink
 * moves), and through the host. */
#define PEER_BYTES_PER_US 2e5
#define STAGED_BYTES_PER_US 1e4
/* A fifth of what an H200 does, so that the first long request is not cut into crumbs. */
#define FLOPS_PER_US_FIRST 1e8
/* Beside its tile lists a launch brings end marks, one for each SM, and what it says of each of its
 * requests: some KiB. */
#define PLAN_MORE_BYTES (4u << 20)
/* Work of one lane that the driver has at once: its queues are some hundred deep. */
#define EVENTS 64u
/* Asking goes on without pause for this long after anything moved: longer than a client takes to
 * answer a result with its next request. */
#define SPIN_US 200u
#define POLL_US 20u

struct work {
    uint64_t tag, issued_us;
    bool is_record; /* of the download lane */
    bool refused;   /* a launch: as in device_completion */
    union {
        struct device_copy copy;
        struct device_launch launch;
        struct device_record record;
    };
};

/* Work in order: [first, first + issued) is with the stream, up to first + count is waiting. */
struct lane {
    cudaStream_t stream;
    cudaEvent_t events[EVENTS];
    struct work *ring;
    uint64_t first, issued, count;
    uint64_t ended_us; /* the last that was reported */
};

struct cuda {
    struct attn_context *context;
    pthread_t thread;
    pthread_mutex_t lock; /* guards rings and done, opened */
    pthread_cond_t changed;
    struct lane lanes[DEVICE_LANES];
    struct watches watches;
    uint32_t room, done_room; /* of a ring; of done */
    struct device_completion *done;
    uint64_t done_first, done_count;
    bool sleeping, opened, failed;
    bool told; /* there is news in `done` that the loop was not woken for */
    const struct config *config;
    struct fas_error *error; /* while opening */
    enum fas_status status;
};

static enum fas_status refuse(struct device *device, enum fas_status status, const char *field,
                              const char *what, cudaError_t result)
{
    struct cuda *cuda = device->state;
    return fas_fail(cuda->error, status, field, "%s: %s: %s", device->name, what,
                    cudaGetErrorString(result));
}

/* ---- the lanes, by the device's thread ---- */

/* Nothing on this device can be trusted from here on. */
static void latch(struct device *device, const char *what, cudaError_t result)
{
    struct cuda *cuda = device->state;
    if (!cuda->failed) {
        cuda->failed = true;
        snprintf(device->fault, sizeof device->fault, "%s: %s", what, cudaGetErrorString(result));
    }
}

static const char *const lane_names[DEVICE_LANES] = {"upload", "launch", "download"};

/* Where tests make it fail: "cuda:0" for launches, "cuda:0/upload", "cuda:0/download". */
static bool fault(const struct device *device, enum device_lane lane)
{
    char site[sizeof device->name + 16];
    snprintf(site, sizeof site, "%s/%s", device->name, lane_names[lane]);
    return fault_here(lane == DEVICE_LAUNCH ? device->name : site);
}

/* Any memory there is: the driver knows from addresses which way it goes. */
static cudaError_t issue_plane(enum device_lane lane, const struct device_copy *copy,
                               uint8_t *arena, uint8_t *host, cudaStream_t stream)
{
    bool up = lane == DEVICE_UPLOAD;
    if (copy->height == 1) {
        return cudaMemcpyAsync(up ? arena : host, up ? host : arena, copy->width, cudaMemcpyDefault,
                               stream);
    }
    return cudaMemcpy2DAsync(up ? arena : host, up ? copy->arena_pitch : copy->host_pitch,
                             up ? host : arena, up ? copy->host_pitch : copy->arena_pitch,
                             copy->width, copy->height, cudaMemcpyDefault, stream);
}

static cudaError_t issue_copy(const struct device *device, enum device_lane lane,
                              const struct device_copy *copy, cudaStream_t stream)
{
    uint8_t *arena = device->arena + copy->arena_offset, *host = copy->host;
    uint32_t planes = copy->depth ? copy->depth : 1;
    cudaError_t result = cudaSuccess;
    for (uint32_t i = 0; i < planes && result == cudaSuccess; i++) {
        result = issue_plane(lane, copy, arena + i * copy->arena_plane, host + i * copy->host_plane,
                             stream);
    }
    return result;
}

static void tell(struct cuda *cuda, const struct device_completion *completion)
{
    pthread_mutex_lock(&cuda->lock);
    assert(cuda->done_count < cuda->done_room);
    cuda->done[(cuda->done_first + cuda->done_count++) % cuda->done_room] = *completion;
    pthread_mutex_unlock(&cuda->lock);
    cuda->told = true;
}

/* An event that can not be recorded is its client's fault: nothing is latched. */
static void issue_record(struct cuda *cuda, const struct device_record *record, cudaStream_t stream)
{
    cudaError_t result = cuda->failed ? cudaErrorUnknown : cudaEventRecord(record->event, stream);
    if (result != cudaSuccess) {
        cudaGetLastError(); /* not to be found by the next launch */
    }
    tell(cuda, &(struct device_completion){
                   .lane = DEVICE_RECORD, .tag = record->tag, .failed = result != cudaSuccess});
}

/* What the kernel's host part turns down (attn_status) is no error of CUDA's. */
static cudaError_t issue_launch(const struct device *device, const struct device_launch *work,
                                bool *refused)
{
    const struct cuda *cuda = device->state;
    if (work->launch.sequence_count > 0 &&
        work->row->launch(cuda->context, &work->launch) != ATTN_OK) {
        cudaError_t result = cudaGetLastError();
        *refused = result == cudaSuccess;
        return result;
    }
    return attn_cuda_sum_dsink(cuda->context, work->sums, work->sum_count) == ATTN_OK
               ? cudaSuccess
               : cudaErrorLaunchFailure;
}

static void issue_records(struct cuda *cuda, enum device_lane which, const struct work *work)
{
    cudaStream_t stream = cuda->lanes[which].stream;
    for (int32_t i = 0; which == DEVICE_LAUNCH && i < work->launch.record_count; i++) {
        issue_record(cuda, &work->launch.records[i], stream);
    }
    if (work->is_record) {
        issue_record(cuda, &work->record, stream);
    }
}

/* Gives the lane's next work to its stream. */
static void issue(struct device *device, enum device_lane which, struct work *work, uint64_t number)
{
    struct cuda *cuda = device->state;
    struct lane *lane = &cuda->lanes[which];
    cudaError_t result = fault(device, which) ? cudaErrorUnknown : cudaSuccess;
    work->issued_us = clock_us();
    if (result == cudaSuccess && !cuda->failed && !work->is_record) {
        result = which == DEVICE_LAUNCH ? issue_launch(device, &work->launch, &work->refused)
                                        : issue_copy(device, which, &work->copy, lane->stream);
    }
    if (result == cudaSuccess && !cuda->failed) {
        result = cudaEventRecord(lane->events[number % EVENTS], lane->stream);
    }
    if (result != cudaSuccess) {
        latch(device, lane_names[which], result);
    }
    issue_records(cuda, which, work);
}

/* Issues what waits; true if anything did. Entries below `count` are the thread's alone. */
static bool issue_all(struct device *device, enum device_lane which)
{
    struct cuda *cuda = device->state;
    struct lane *lane = &cuda->lanes[which];
    pthread_mutex_lock(&cuda->lock);
    uint64_t end = lane->first + lane->count;
    pthread_mutex_unlock(&cuda->lock);
    uint64_t next = lane->first + lane->issued;
    bool any = next < end && lane->issued < EVENTS;
    for (; next < end && lane->issued < EVENTS; next++, lane->issued++) {
        issue(device, which, &lane->ring[next % cuda->room], next);
    }
    return any;
}

static bool ended(struct device *device, struct lane *lane)
{
    struct cuda *cuda = device->state;
    if (cuda->failed) {
        return true;
    }
    cudaError_t result = cudaEventQuery(lane->events[lane->first % EVENTS]);
    if (result == cudaErrorNotReady) {
        return false;
    }
    if (result != cudaSuccess) {
        latch(device, "device", result);
    }
    return true;
}

/* Reports the lane's oldest work if it is over. */
static bool report_one(struct device *device, enum device_lane which)
{
    struct cuda *cuda = device->state;
    struct lane *lane = &cuda->lanes[which];
    if (lane->issued == 0 || !ended(device, lane)) {
        return false;
    }
    const struct work *work = &lane->ring[lane->first % cuda->room];
    struct device_completion completion = {.lane = which,
                                           .tag = work->tag,
                                           .failed = cuda->failed,
                                           .refused = work->refused,
                                           .ended_us = clock_us()};
    completion.started_us = work->issued_us > lane->ended_us ? work->issued_us : lane->ended_us;
    lane->ended_us = completion.ended_us;
    bool is_record = work->is_record; /* which was told of when it was issued */
    pthread_mutex_lock(&cuda->lock);
    lane->first++;
    lane->count--;
    pthread_mutex_unlock(&cuda->lock);
    lane->issued--;
    if (!is_record) {
        tell(cuda, &completion);
    }
    return true;
}

/* A client's event: what is wrong with it is not wrong with the device. */
static enum watch_answer query(void *event)
{
    cudaError_t result = cudaEventQuery(event);
    if (result == cudaErrorNotReady || result == cudaSuccess) {
        return result == cudaSuccess ? WATCH_OVER : WATCH_PENDING;
    }
    cudaGetLastError();
    return WATCH_BROKEN;
}

static enum watch_answer query_nothing(void *event)
{
    (void)event;
    return WATCH_BROKEN;
}

static void ask_watches(struct cuda *cuda)
{
    struct watch_end ends[WATCH_ASKED];
    uint32_t count = watch_ask(&cuda->watches, cuda->failed ? query_nothing : query, ends);
    for (uint32_t i = 0; i < count; i++) {
        tell(cuda, &(struct device_completion){
                       .lane = DEVICE_AWAIT, .tag = ends[i].tag, .failed = ends[i].failed});
    }
}

/* One look at everything; true if anything moved. */
static bool step(struct device *device)
{
    struct cuda *cuda = device->state;
    bool moved = false;
    for (int which = 0; which < DEVICE_LANES; which++) {
        moved |= issue_all(device, (enum device_lane)which);
        while (report_one(device, (enum device_lane)which)) {
            moved = true;
        }
    }
    ask_watches(cuda);
    if (cuda->told) {
        cuda->told = false;
        moved = true;
        device->wake(device->wake_context);
    }
    return moved;
}

/* Under the lock. */
static bool idle(struct cuda *cuda)
{
    return cuda->lanes[0].count + cuda->lanes[1].count + cuda->lanes[2].count == 0 &&
           !watch_any(&cuda->watches);
}

static void sleep_until_work(struct cuda *cuda)
{
    pthread_mutex_lock(&cuda->lock);
    while (idle(cuda)) {
        cuda->sleeping = true;
        pthread_cond_wait(&cuda->changed, &cuda->lock);
    }
    cuda->sleeping = false;
    pthread_mutex_unlock(&cuda->lock);
}

static void watch(struct device *device)
{
    static const struct timespec poll = {.tv_nsec = POLL_US * 1000};
    struct cuda *cuda = device->state;
    uint64_t moved_us = clock_us();
    for (;;) {
        if (step(device)) {
            moved_us = clock_us();
        } else if (clock_us() - moved_us > SPIN_US) {
            pthread_mutex_lock(&cuda->lock);
            bool nothing = idle(cuda);
            pthread_mutex_unlock(&cuda->lock);
            if (nothing) {
                sleep_until_work(cuda);
            } else {
                nanosleep(&poll, NULL);
            }
        }
    }
}

/* ---- opening, by the device's thread ---- */

static enum fas_status open_identity(struct device *device)
{
    struct cuda *cuda = device->state;
    struct cudaDeviceProp properties;
    cudaError_t result = cudaSetDevice(device->ordinal);
    if (result == cudaSuccess) {
        result = cudaGetDeviceProperties(&properties, device->ordinal);
    }
    if (result != cudaSuccess) {
        return refuse(device, FAS_INVALID_ARGUMENT, "device", "can not be used", result);
    }
    device->arch = attn_cuda_arch();
    if (device->arch == ATTN_CPU) {
        return fas_fail(cuda->error, FAS_INVALID_ARGUMENT, "device",
                        "%s is a %s of compute capability %d.%d: kernels are for 9.0, 10.0, 10.3",
                        device->name, properties.name, properties.major, properties.minor);
    }
    if (properties.multiProcessorCount < ATTN_CUDA_SMS_MIN) {
        return fas_fail(cuda->error, FAS_INVALID_ARGUMENT, "device",
                        "%s has %d SMs (a slice of a GPU?): kernels need %d", device->name,
                        properties.multiProcessorCount, ATTN_CUDA_SMS_MIN);
    }
    device_cuda_uuid(device->ordinal, device->uuid);
    log_info("cuda_device", log_str("device", device->name), log_str("model", properties.name),
             log_str("uuid", device->uuid));
    return FAS_OK;
}

/* The thread, and with it the host memory it allocates, moves next to the GPU. */
static void settle_down(const struct device *device)
{
    char bus_id[32];
    prctl(PR_SET_TIMERSLACK, 1000ul); /* the kernel's default of 50 us would add to each POLL_US */
    if (cudaDeviceGetPCIBusId(bus_id, sizeof bus_id, device->ordinal) == cudaSuccess &&
        !topology_move_to_pci(bus_id)) {
        log_debug("topology_unknown", log_str("device", device->name), log_str("bus", bus_id));
    }
}

static enum fas_status open_lanes(struct device *device)
{
    struct cuda *cuda = device->state;
    cudaError_t result = cudaSuccess;
    for (int which = 0; which < DEVICE_LANES && result == cudaSuccess; which++) {
        struct lane *lane = &cuda->lanes[which];
        result = cudaStreamCreateWithFlags(&lane->stream, cudaStreamNonBlocking);
        for (uint32_t i = 0; i < EVENTS && result == cudaSuccess; i++) {
            result = cudaEventCreateWithFlags(&lane->events[i], cudaEventDisableTiming);
        }
    }
    return result == cudaSuccess
               ? FAS_OK
               : refuse(device, FAS_RESOURCE_EXHAUSTED, "device", "streams", result);
}

static enum fas_status open_host_memory(struct device *device)
{
    struct cuda *cuda = device->state;
    uint64_t bytes = device_staging_bytes(cuda->config);
    void *memory = NULL;
    cudaError_t result = cudaHostAlloc(&memory, bytes, cudaHostAllocPortable);
    if (result != cudaSuccess) {
        return fas_fail(cuda->error, FAS_RESOURCE_EXHAUSTED, "connections-max",
                        "%s: %llu bytes of pinned memory: %s", device->name,
                        (unsigned long long)bytes, cudaGetErrorString(result));
    }
    device->staging = memory;
    device->plan_bytes = cuda->config->plan_bytes;
    cuda->context =
        attn_cuda_open(cuda->lanes[DEVICE_LAUNCH].stream, device->plan_bytes + PLAN_MORE_BYTES);
    return cuda->context ? FAS_OK
                         : fas_fail(cuda->error, FAS_RESOURCE_EXHAUSTED, "plan-bytes",
                                    "%s: no memory for it", device->name);
}

static enum fas_status open_arena(struct device *device)
{
    struct cuda *cuda = device->state;
    size_t free_bytes = 0, total_bytes = 0;
    void *memory = NULL;
    cudaError_t result = cudaMemGetInfo(&free_bytes, &total_bytes);
    uint64_t bytes =
        cuda->config->arena_bytes ? cuda->config->arena_bytes : free_bytes / 100u * ARENA_PERCENT;
    enum fas_status status = device_divide(device, cuda->config, bytes, cuda->error);
    if (status != FAS_OK) {
        return status;
    }
    if (result == cudaSuccess) {
        result = cudaMalloc(&memory, device->arena_bytes + device->scratch_bytes);
    }
    if (result != cudaSuccess) {
        return fas_fail(cuda->error, FAS_RESOURCE_EXHAUSTED, "arena-bytes",
                        "%s: %llu bytes wanted, %zu of %zu are free: %s", device->name,
                        (unsigned long long)bytes, free_bytes, total_bytes,
                        cudaGetErrorString(result));
    }
    device->arena = memory;
    device->scratch = device->arena + device->arena_bytes;
    return FAS_OK;
}

/* Copies between memory of this GPU and of those opened before go directly from here on, where the
 * machine can do that. Devices are opened one after the other. */
static enum fas_status open_peers(struct device *device)
{
    static struct device *opened[FAS_DEVICES_MAX];
    static int count;
    device->peer_bytes_per_us = PEER_BYTES_PER_US;
    for (int i = 0; i < count; i++) {
        int there = 0, back = 0;
        cudaDeviceCanAccessPeer(&there, device->ordinal, opened[i]->ordinal);
        cudaDeviceCanAccessPeer(&back, opened[i]->ordinal, device->ordinal);
        if (there && back) {
            cudaDeviceEnablePeerAccess(opened[i]->ordinal, 0);
            cudaSetDevice(opened[i]->ordinal);
            cudaDeviceEnablePeerAccess(device->ordinal, 0);
            cudaSetDevice(device->ordinal);
        } else {
            device->peer_bytes_per_us = opened[i]->peer_bytes_per_us = STAGED_BYTES_PER_US;
        }
    }
    cudaGetLastError(); /* that of two names for one GPU, too */
    opened[count++] = device;
    return FAS_OK;
}

/* Loads every kernel and finds out whether it runs at all here. */
static enum fas_status warm(struct device *device)
{
    struct cuda *cuda = device->state;
    const char *failed = warm_rows(device, cuda->context);
    cudaError_t result = cudaDeviceSynchronize();
    if (failed || result != cudaSuccess) {
        return refuse(device, FAS_DEVICE_FAULT, "device", failed ? failed : "first launches",
                      result != cudaSuccess ? result : cudaGetLastError());
    }
    return FAS_OK;
}

static enum fas_status open_all(struct device *device)
{
    enum fas_status (*const steps[])(struct device *) = {
        open_identity, open_lanes, open_host_memory, open_arena, open_peers, warm,
    };
    enum fas_status status = FAS_OK;
    for (size_t i = 0; i < sizeof steps / sizeof steps[0] && status == FAS_OK; i++) {
        if (steps[i] == open_lanes) {
            settle_down(device);
        }
        status = steps[i](device);
    }
    return status;
}

static void *run(void *argument)
{
    struct device *device = argument;
    struct cuda *cuda = device->state;
    enum fas_status status = open_all(device);
    pthread_mutex_lock(&cuda->lock);
    cuda->status = status;
    cuda->opened = true;
    pthread_cond_signal(&cuda->changed);
    pthread_mutex_unlock(&cuda->lock);
    if (status == FAS_OK) {
        watch(device);
    }
    return NULL;
}

/* ---- the loop's side ---- */

static void push(struct device *device, enum device_lane which, const struct work *work)
{
    struct cuda *cuda = device->state;
    struct lane *lane = &cuda->lanes[which];
    pthread_mutex_lock(&cuda->lock);
    assert(lane->count < cuda->room);
    lane->ring[(lane->first + lane->count++) % cuda->room] = *work;
    if (cuda->sleeping) {
        pthread_cond_signal(&cuda->changed);
    }
    pthread_mutex_unlock(&cuda->lock);
}

static bool cuda_upload(struct device *device, const struct device_copy *copy, uint64_t tag)
{
    push(device, DEVICE_UPLOAD, &(struct work){.tag = tag, .copy = *copy});
    return true;
}

static bool cuda_download(struct device *device, const struct device_copy *copy, uint64_t tag)
{
    push(device, DEVICE_DOWNLOAD, &(struct work){.tag = tag, .copy = *copy});
    return true;
}

static void cuda_launch(struct device *device, const struct device_launch *launch, uint64_t tag)
{
    push(device, DEVICE_LAUNCH, &(struct work){.tag = tag, .launch = *launch});
}

static void cuda_await(struct device *device, void *event, uint64_t tag)
{
    struct cuda *cuda = device->state;
    watch_add(&cuda->watches, event, tag);
    pthread_mutex_lock(&cuda->lock);
    if (cuda->sleeping) {
        pthread_cond_signal(&cuda->changed);
    }
    pthread_mutex_unlock(&cuda->lock);
}

static void cuda_resign(struct device *device, uint64_t tag)
{
    struct cuda *cuda = device->state;
    watch_resign(&cuda->watches, tag);
}

static void cuda_record(struct device *device, const struct device_record *record)
{
    push(device, DEVICE_DOWNLOAD, &(struct work){.is_record = true, .record = *record});
}

static bool cuda_take(struct device *device, struct device_completion *completion)
{
    struct cuda *cuda = device->state;
    pthread_mutex_lock(&cuda->lock);
    bool any = cuda->done_count > 0;
    if (any) {
        *completion = cuda->done[cuda->done_first++ % cuda->done_room];
        cuda->done_count--;
    }
    pthread_mutex_unlock(&cuda->lock);
    return any;
}

static bool open_rings(struct cuda *cuda, const struct config *config)
{
    cuda->room = device_work_max(config);
    cuda->done_room = device_completions_max(config);
    cuda->done = calloc(cuda->done_room, sizeof *cuda->done);
    bool opened = cuda->done != NULL && watch_open(&cuda->watches, config->slots);
    for (int which = 0; which < DEVICE_LANES; which++) {
        cuda->lanes[which].ring = calloc(cuda->room, sizeof *cuda->lanes[which].ring);
        opened = opened && cuda->lanes[which].ring;
    }
    return opened;
}

/* Before the first call of CUDA: all kernels are loaded with the context, not one by one when they
 * are first needed. */
static void prepare(void)
{
    setenv("CUDA_MODULE_LOADING", "EAGER", 0);
}

static enum fas_status cuda_open(struct device *device, const struct config *config,
                                 struct fas_error *error)
{
    struct cuda *cuda = calloc(1, sizeof *cuda);
    device->state = cuda;
    device->depth = DEVICE_DEPTH_MAX;
    device->flops_per_us = FLOPS_PER_US_FIRST;
    if (!cuda || !open_rings(cuda, config)) {
        return fas_fail(error, FAS_RESOURCE_EXHAUSTED, "connections-max", "no memory for %s",
                        device->name);
    }
    cuda->config = config;
    cuda->error = error;
    pthread_mutex_init(&cuda->lock, NULL);
    pthread_cond_init(&cuda->changed, NULL);
    prepare();
    if (pthread_create(&cuda->thread, NULL, run, device) != 0) {
        return fas_fail(error, FAS_RESOURCE_EXHAUSTED, "device", "no thread for %s", device->name);
    }
    pthread_mutex_lock(&cuda->lock);
    while (!cuda->opened) {
        pthread_cond_wait(&cuda->changed, &cuda->lock);
    }
    pthread_mutex_unlock(&cuda->lock);
    return cuda->status;
}

static int cuda_count(void)
{
    int count = 0;
    prepare();
    return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

const struct device_ops device_cuda = {
    .kind = "cuda",
    .count = cuda_count,
    .open = cuda_open,
    .upload = cuda_upload,
    .download = cuda_download,
    .launch = cuda_launch,
    .take = cuda_take,
    .await = cuda_await,
    .resign = cuda_resign,
    .record = cuda_record,
    .map = device_cuda_map,
    .unmap = device_cuda_unmap,
};
