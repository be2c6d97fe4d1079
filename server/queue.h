/*
 * queue.h: requests that are complete and wait for one device.
 *
 * Kept so that the scheduler's questions are short walks: per principal, and inside it per class
 * (requests whose attn_shape is equal: they may share a launch), one first-in-first-out list per
 * priority. A (principal, class) pair is a lane. Everything lives in fixed tables indexed by slot:
 * each table needs at most one entry per waiting request.
 *
 * Shares. Each principal has a virtual time: FLOPs served so far, divided by its weight. The
 * scheduler serves the principal that is furthest behind, so over time each busy principal gets
 * FLOPs by weight, whatever the sizes and numbers of its requests. One that was idle comes back at
 * the queue's clock: absence saves nothing up, and leaving does not forgive what was just used.
 *
 * Priority orders a principal's own requests. It takes nothing from others, or everyone would be
 * "high". Pure: no clock of its own, no allocation after open. Owner: the loop thread.
 */
#ifndef SERVER_QUEUE_H
#define SERVER_QUEUE_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/attn.h"
#include "server/cost.h"

#define QUEUE_NONE UINT32_MAX

/* Numbers as on the wire. */
enum queue_priority { QUEUE_NORMAL = 0, QUEUE_HIGH = 1, QUEUE_LOW = 2, QUEUE_PRIORITIES = 3 };

struct queue_item {
    uint32_t principal;
    enum queue_priority priority;
    uint64_t arrival_us;  /* when it became complete */
    uint64_t deadline_us; /* 0: none */
    struct attn_shape shape;
    struct cost cost;
};

/* Neighbours in one of the lists below. */
struct queue_link {
    uint32_t prev, next;
};

struct queue_list {
    uint32_t head, tail;
};

/* One waiting request, by its slot. */
struct queue_entry {
    bool waiting;
    uint32_t lane;
    struct queue_item item;
};

/* Waiting requests of one principal and class. */
struct queue_lane {
    uint32_t principal, class;
    uint32_t count;
    uint32_t passed; /* serial of the pick that passed this lane over */
    struct queue_list waiting[QUEUE_PRIORITIES];
};

/* Waiting requests that may share a launch. */
struct queue_class {
    struct attn_shape shape;
    struct cost cost;
    struct queue_list lanes;
};

/* One principal's part. */
struct queue_share {
    double weight;
    double virtual_flops;
    struct queue_list lanes;
};

struct queue {
    struct cost waiting; /* of all entries */

    /* For sched.c. Lists link indices: [i] of a link array is the neighbourhood of item i. */
    uint32_t slots, principals;
    struct queue_entry *entries; /* by slot */
    struct queue_lane *lanes;
    struct queue_class *classes;
    struct queue_share *shares;         /* by principal */
    struct queue_link *entry_links;     /* of a lane's requests of one priority, oldest first */
    struct queue_link *lane_links;      /* of a share's lanes */
    struct queue_link *lane_peer_links; /* of a class's lanes */
    struct queue_link *class_links;     /* of classes with something waiting */
    struct queue_link *share_links;     /* of shares with something waiting */
    struct queue_list free_lanes, free_classes, busy_classes, busy_shares;
    double clock;               /* virtual time of the last leader */
    uint64_t first_deadline_us; /* no waiting request's deadline is before it */
    uint32_t picks;             /* serial of picks */
};

bool queue_open(struct queue *queue, uint32_t slots, uint32_t principals);
void queue_close(struct queue *queue);

/* A principal's weight (1 from open on). `fresh`: the number now means somebody new. */
void queue_weigh(struct queue *queue, uint32_t principal, double weight, bool fresh);

/* Room is certain: a slot waits at most once. */
void queue_push(struct queue *queue, uint32_t slot, const struct queue_item *item);

bool queue_holds(const struct queue *queue, uint32_t slot);
const struct queue_item *queue_item(const struct queue *queue, uint32_t slot);

/* Cancels: true if the slot was waiting. Nothing is charged. */
bool queue_remove(struct queue *queue, uint32_t slot);

/* Removes one request whose deadline is not after now and returns its slot, or QUEUE_NONE. */
uint32_t queue_expire(struct queue *queue, uint64_t now_us);

/* Removes a request that is about to run and charges its principal. */
void queue_take(struct queue *queue, uint32_t slot);

#endif
