/*
 * mapper.h: makes and takes apart what places are made of. Mapping and unmapping memory, and making
 * it known to a device, can take a second for a gigabyte; so one thread does it, one task after the
 * other, and the loop goes on meanwhile.
 *
 * A task travels by value: to the thread by mapper_push, back by mapper_take after `wake`. Rings
 * have room for as many tasks as there may be, so neither call waits. Caller: the loop thread.
 */
#ifndef SERVER_MAPPER_H
#define SERVER_MAPPER_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "proto/status.h"
#include "server/device.h"

struct mapper_task {
    uint32_t tag;
    bool unmap;
    struct device_mapping mapping;
    struct fas_error error; /* of a map: the mapping was not made */
};

struct mapper_ring {
    struct mapper_task *tasks;
    uint32_t first, count;
};

struct mapper {
    pthread_t thread;
    pthread_mutex_t lock; /* guards both rings, stopping */
    pthread_cond_t work_there;
    struct mapper_ring work, done;
    uint32_t room;
    bool stopping;
    device_wake *wake;
    void *wake_context;
};

/* room: tasks pushed and not taken back, at most. */
bool mapper_open(struct mapper *mapper, uint32_t room, device_wake *wake, void *wake_context);
/* Ends its thread once all work is done. */
void mapper_close(struct mapper *mapper);

void mapper_push(struct mapper *mapper, const struct mapper_task *task);
bool mapper_take(struct mapper *mapper, struct mapper_task *task);

#endif
