/*
 * device_cpu.c: the host as a device. Its arena is ordinary memory, touched at start (first touch
 * costs more than all copies later); payloads land in it and leave from it, so only launches are
 * work. They run one after another on a thread of the device's own, which uses the kernel's
 * threads.
 */
#include "server/device.h"

#include <assert.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "server/arena.h"
#include "server/clock.h"
#include "server/fault.h"
#include "server/topology.h"

/* Without arena-bytes: as the option's help says. */
#define CPU_ARENA_PART 8u
#define CPU_ARENA_BYTES_MAX (UINT64_C(4) << 30)

struct work {
    struct device_launch launch;
    uint64_t tag;
};

struct cpu {
    struct attn_context *context;
    pthread_t thread;
    pthread_mutex_t lock; /* guards both rings */
    pthread_cond_t work_there;
    struct work work[DEVICE_DEPTH_MAX];
    struct device_completion done[DEVICE_DEPTH_MAX];
    uint32_t work_first, work_count, done_first, done_count;
};

/* Waits for the next launch. */
static struct work next_work(struct cpu *cpu)
{
    pthread_mutex_lock(&cpu->lock);
    while (cpu->work_count == 0) {
        pthread_cond_wait(&cpu->work_there, &cpu->lock);
    }
    struct work work = cpu->work[cpu->work_first];
    cpu->work_first = (cpu->work_first + 1) % DEVICE_DEPTH_MAX;
    cpu->work_count--;
    pthread_mutex_unlock(&cpu->lock);
    return work;
}

static void report(struct cpu *cpu, const struct device_completion *completion)
{
    pthread_mutex_lock(&cpu->lock);
    assert(cpu->done_count < DEVICE_DEPTH_MAX);
    cpu->done[(cpu->done_first + cpu->done_count++) % DEVICE_DEPTH_MAX] = *completion;
    pthread_mutex_unlock(&cpu->lock);
}

static enum attn_status compute(struct device *device, const struct device_launch *work)
{
    const struct cpu *cpu = device->state;
    if (fault_here(device->name)) {
        snprintf(device->fault, sizeof device->fault, "a launch failed");
        return ATTN_LAUNCH_FAILED;
    }
    enum attn_status status =
        work->launch.sequence_count == 0 ? ATTN_OK : work->row->launch(cpu->context, &work->launch);
    for (int32_t i = 0; i < work->sum_count; i++) {
        const struct attn_dsink_sum *sum = &work->sums[i];
        attn_sum_dsink(sum->per_sequence, sum->sequences, sum->hq, sum->out);
    }
    return status;
}

static void *run(void *argument)
{
    struct device *device = argument;
    struct cpu *cpu = device->state;
    for (;;) {
        struct work work = next_work(cpu);
        struct device_completion completion = {.lane = DEVICE_LAUNCH, .tag = work.tag};
        completion.started_us = clock_us();
        enum attn_status status = compute(device, &work.launch);
        completion.refused = status == ATTN_INVALID;
        completion.failed = status != ATTN_OK && !completion.refused;
        completion.ended_us = clock_us();
        report(cpu, &completion);
        device->wake(device->wake_context);
    }
    return NULL;
}

static void cpu_launch(struct device *device, const struct device_launch *launch, uint64_t tag)
{
    struct cpu *cpu = device->state;
    pthread_mutex_lock(&cpu->lock);
    assert(cpu->work_count < DEVICE_DEPTH_MAX);
    cpu->work[(cpu->work_first + cpu->work_count++) % DEVICE_DEPTH_MAX] =
        (struct work){*launch, tag};
    pthread_mutex_unlock(&cpu->lock);
    pthread_cond_signal(&cpu->work_there); /* not before: who wakes would wait for the lock */
}

static bool cpu_upload(struct device *device, const struct device_copy *copy, uint64_t tag)
{
    (void)tag;
    assert(copy->host == device->arena + copy->arena_offset);
    return false;
}

static bool cpu_download(struct device *device, const struct device_copy *copy, uint64_t tag)
{
    (void)tag;
    assert(copy->host == device->arena + copy->arena_offset);
    return false;
}

static bool cpu_take(struct device *device, struct device_completion *completion)
{
    struct cpu *cpu = device->state;
    pthread_mutex_lock(&cpu->lock);
    bool any = cpu->done_count > 0;
    if (any) {
        *completion = cpu->done[cpu->done_first];
        cpu->done_first = (cpu->done_first + 1) % DEVICE_DEPTH_MAX;
        cpu->done_count--;
    }
    pthread_mutex_unlock(&cpu->lock);
    return any;
}

static uint64_t default_arena_bytes(void)
{
    uint64_t memory = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    uint64_t part = memory / CPU_ARENA_PART;
    return part < CPU_ARENA_BYTES_MAX ? part : CPU_ARENA_BYTES_MAX;
}

static enum fas_status open_memory(struct device *device, const struct config *config,
                                   struct fas_error *error)
{
    uint64_t bytes = config->arena_bytes ? config->arena_bytes : default_arena_bytes();
    enum fas_status status = device_divide(device, config, bytes, error);
    if (status != FAS_OK) {
        return status;
    }
    bytes = device->arena_bytes + device->scratch_bytes;
    uint8_t *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (memory == MAP_FAILED) {
        return fas_fail(error, FAS_RESOURCE_EXHAUSTED, "arena-bytes",
                        "%llu bytes can not be had for %s", (unsigned long long)bytes,
                        device->name);
    }
    device->arena = memory;
    device->scratch = memory + device->arena_bytes;
    device->host_reaches_arena = true;
    return FAS_OK;
}

/* The cores this process may use, shared by the CPU devices. */
static int default_threads(const struct config *config)
{
    int devices = 0;
    for (const char *at = config->device; (at = strstr(at, "cpu:")); at++) {
        devices++;
    }
    int threads = topology_processors() / (devices > 0 ? devices : 1);
    return threads > 0 ? threads : 1;
}

static enum fas_status cpu_open(struct device *device, const struct config *config,
                                struct fas_error *error)
{
    int threads = config->cpu_threads ? (int)config->cpu_threads : default_threads(config);
    struct cpu *cpu = calloc(1, sizeof *cpu);
    device->arch = ATTN_CPU;
    device->state = cpu;
    enum fas_status status = open_memory(device, config, error);
    if (status != FAS_OK) {
        return status;
    }
    if (!cpu || !(cpu->context = attn_cpu_open(threads))) {
        return fas_fail(error, FAS_RESOURCE_EXHAUSTED, "cpu-threads", "%d can not be had", threads);
    }
    pthread_mutex_init(&cpu->lock, NULL);
    pthread_cond_init(&cpu->work_there, NULL);
    if (pthread_create(&cpu->thread, NULL, run, device) != 0) {
        return fas_fail(error, FAS_RESOURCE_EXHAUSTED, "device", "no thread for %s", device->name);
    }
    return FAS_OK;
}

static int cpu_count(void)
{
    return 1;
}

const struct device_ops device_cpu = {
    .kind = "cpu",
    .count = cpu_count,
    .open = cpu_open,
    .upload = cpu_upload,
    .download = cpu_download,
    .launch = cpu_launch,
    .take = cpu_take,
};
