/*
 * sched.h: what runs next. Called when a device is about to be free (late binding: until then the
 * batch can still grow), with the time as an argument.
 *
 * 1. The principal furthest behind its share leads, with its best request: higher priority first,
 *    older first; waiting sched_limits.ageing_us raises a request one priority.
 * 2. The leader's class is the batch's. Others of the class join, again furthest behind first,
 *    until a cap is reached: the batch is what is there. A request that does not fit is passed over
 *    (its principal stays behind, so it leads soon); a leader alone may exceed the caps.
 * 3. With delay_us, a class is ready only when its oldest request has waited that long or its caps
 *    are full. A class that is not ready delays no other.
 */
#ifndef SERVER_SCHED_H
#define SERVER_SCHED_H

#include <stdint.h>

#include "server/queue.h"

#define SCHED_NEVER UINT64_MAX

struct sched_limits {
    uint64_t delay_us;
    uint64_t ageing_us; /* 0: no ageing */
    struct cost batch;  /* caps: requests, sequences, tokens, flops; bytes is not looked at */
};

struct sched_batch {
    uint32_t *slots; /* room for limits.batch.requests, the caller's */
    uint32_t count;  /* 0: nothing is ready */
    struct attn_shape shape;
    struct cost cost;
    uint64_t next_us; /* count 0: when to ask again; SCHED_NEVER: after the next push */
};

/* Takes the next batch out of the queue and charges its principals. */
void sched_pick(struct queue *queue, const struct sched_limits *limits, uint64_t now_us,
                struct sched_batch *batch);

/* When something must be done without a push: the first deadline or the end of a delay. */
uint64_t sched_next_us(const struct queue *queue, const struct sched_limits *limits);

#endif
