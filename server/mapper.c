/* mapper.c: two rings, a thread, and the memfd of a region. */
#include "server/mapper.h"

#include <assert.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

/* ---- the work, on the thread ---- */

/* A memfd of that size for ever, mapped here. */
static bool make_region(struct device_mapping *mapping)
{
    mapping->fd = memfd_create("faserve-region", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (mapping->fd >= 0 && ftruncate(mapping->fd, (off_t)mapping->bytes) == 0 &&
        fcntl(mapping->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0) {
        void *memory =
            mmap(NULL, mapping->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, mapping->fd, 0);
        mapping->memory = memory == MAP_FAILED ? NULL : memory;
    }
    return mapping->memory != NULL;
}

/* Leaves nothing behind when it fails. */
static void undo_region(struct device_mapping *mapping)
{
    if (mapping->memory) {
        munmap(mapping->memory, mapping->bytes);
    }
    if (mapping->fd >= 0) {
        close(mapping->fd);
    }
    mapping->memory = NULL;
    mapping->fd = -1;
}

static void map(struct mapper_task *task)
{
    struct device_mapping *mapping = &task->mapping;
    struct device *device = mapping->device;
    bool region = mapping->kind == FAS_PLACE_REGION;
    mapping->fd = -1;
    mapping->memory = NULL;
    if (region && !make_region(mapping)) {
        fas_fail(&task->error, FAS_RESOURCE_EXHAUSTED, "bytes",
                 "no shared memory of %" PRIu64 " bytes can be had", mapping->bytes);
    } else if (device) {
        device->ops->map(device, mapping, &task->error);
    }
    if (region && task->error.status != FAS_OK) {
        undo_region(mapping);
    }
}

static void unmap(struct mapper_task *task)
{
    struct device_mapping *mapping = &task->mapping;
    struct device *device = mapping->device;
    if (device) {
        device->ops->unmap(device, mapping);
    }
    if (mapping->kind == FAS_PLACE_REGION) {
        undo_region(mapping);
    }
    mapping->memory = NULL;
}

/* ---- the rings ---- */

static void put(const struct mapper *mapper, struct mapper_ring *ring,
                const struct mapper_task *task)
{
    assert(ring->count < mapper->room);
    ring->tasks[(ring->first + ring->count++) % mapper->room] = *task;
}

static bool get(const struct mapper *mapper, struct mapper_ring *ring, struct mapper_task *task)
{
    if (ring->count == 0) {
        return false;
    }
    *task = ring->tasks[ring->first];
    ring->first = (ring->first + 1) % mapper->room;
    ring->count--;
    return true;
}

static void *run(void *argument)
{
    struct mapper *mapper = argument;
    struct mapper_task task;
    pthread_mutex_lock(&mapper->lock);
    for (;;) {
        if (get(mapper, &mapper->work, &task)) {
            pthread_mutex_unlock(&mapper->lock);
            (task.unmap ? unmap : map)(&task);
            pthread_mutex_lock(&mapper->lock);
            put(mapper, &mapper->done, &task);
            mapper->wake(mapper->wake_context);
        } else if (mapper->stopping) {
            break;
        } else {
            pthread_cond_wait(&mapper->work_there, &mapper->lock);
        }
    }
    pthread_mutex_unlock(&mapper->lock);
    return NULL;
}

bool mapper_open(struct mapper *mapper, uint32_t room, device_wake *wake, void *wake_context)
{
    *mapper = (struct mapper){.room = room, .wake = wake, .wake_context = wake_context};
    mapper->work.tasks = calloc(room, sizeof *mapper->work.tasks);
    mapper->done.tasks = calloc(room, sizeof *mapper->done.tasks);
    pthread_mutex_init(&mapper->lock, NULL);
    pthread_cond_init(&mapper->work_there, NULL);
    return mapper->work.tasks && mapper->done.tasks &&
           pthread_create(&mapper->thread, NULL, run, mapper) == 0;
}

void mapper_close(struct mapper *mapper)
{
    pthread_mutex_lock(&mapper->lock);
    mapper->stopping = true;
    pthread_cond_signal(&mapper->work_there);
    pthread_mutex_unlock(&mapper->lock);
    pthread_join(mapper->thread, NULL);
    pthread_cond_destroy(&mapper->work_there);
    pthread_mutex_destroy(&mapper->lock);
    free(mapper->work.tasks);
    free(mapper->done.tasks);
}

void mapper_push(struct mapper *mapper, const struct mapper_task *task)
{
    pthread_mutex_lock(&mapper->lock);
    put(mapper, &mapper->work, task);
    pthread_cond_signal(&mapper->work_there);
    pthread_mutex_unlock(&mapper->lock);
}

bool mapper_take(struct mapper *mapper, struct mapper_task *task)
{
    pthread_mutex_lock(&mapper->lock);
    bool any = get(mapper, &mapper->done, task);
    pthread_mutex_unlock(&mapper->lock);
    return any;
}
