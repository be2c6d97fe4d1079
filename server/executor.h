/*
 * executor.h: one device at work: its arena, its queue, the batches that run.
 *
 * When the device has room for a launch the executor picks what is there (sched.h), lays it out in
 * slices (batch.h) and launches them one by one, on a GPU one ahead of the one that runs; after
 * each slice the results of its sequences are ready to leave, and requests that were cancelled or
 * ran out of time fall out of the launches to come (flight.h).
 * Owner: the loop thread.
 */
#ifndef SERVER_EXECUTOR_H
#define SERVER_EXECUTOR_H

#include "server/arena.h"
#include "server/batch.h"
#include "server/device.h"
#include "server/flight.h"
#include "server/queue.h"
#include "server/rate.h"
#include "server/sched.h"
#include "server/slot.h"
#include "server/staging.h"

struct server;

struct executor {
    uint32_t index;
    struct device device;
    struct arena arena;
    struct staging staging;
    struct queue queue;
    uint32_t *picked; /* slots taken from the queue, in order; [laid, picked_count) still to run */
    uint32_t picked_count, laid;
    struct attn_shape shape;                 /* of the picked */
    struct flight flights[DEVICE_DEPTH_MAX]; /* a ring, oldest first; the last may grow launches */
    uint32_t first_flight, flight_count;
    uint32_t launches; /* with the device */
    struct cost batch_cost;
    struct batch_part *parts;
    struct attn_set *sets; /* of the parts */
    struct rate rate;
    double flops_outstanding;     /* of all its slots: for routing */
    double lane_us[DEVICE_LANES]; /* with work of the lane under way */
    double flops_done;
    uint64_t batches;
    uint64_t launch_since_us; /* since when the oldest launch is the oldest */
    bool stalled;             /* it takes far longer than it should */
    bool lost;                /* the device failed: nothing runs here any more */
};

enum fas_status executor_open(struct executor *executor, uint32_t index, const char *device,
                              const struct config *config, uint32_t principals, device_wake *wake,
                              void *wake_context, struct fas_error *error);

/* Takes what the device finished. */
void executor_collect(struct server *server, struct executor *executor, uint64_t now_us);

/* Launches as much as the device takes. Returns when to ask again. */
uint64_t executor_start(struct server *server, struct executor *executor, uint64_t now_us);

/* All inputs are there: the slot waits for its turn. */
void executor_enqueue(struct server *server, struct slot *slot, uint64_t now_us);

/* The slot must not run (any further). It becomes REPLYING at once, or when no launch refers to it.
 */
void executor_drop(struct server *server, struct slot *slot);

/* Looks whether the oldest launch should have ended long ago. False: it never will (config.h,
 * launch_timeout_us). */
bool executor_watch(struct server *server, struct executor *executor, uint64_t now_us);

/* Where a request may run soonest: the device with the fewest outstanding FLOPs, one that stalled
 * only if all do; NULL: all lost. */
struct executor *executor_choose(struct server *server);

/* The same for a request of which so many bytes lie in memory of `home`: there, unless another of
 * its kind is through with what it has so much earlier that it pays to copy them. NULL: all lost.
 */
struct executor *executor_choose_near(struct server *server, struct executor *home, uint64_t bytes);

#endif
