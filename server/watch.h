/*
 * watch.h: events of clients that requests wait for, asked one after the other whether they have
 * come to pass.
 *
 * Asked, and never waited for by a stream: a stream that waited for an event behind a kernel that
 * hangs, or of a process that was killed, stood still as long as it was watched (5 s; H200, driver
 * 580), and everybody's work behind it; an answer takes 0.04 us and stays pending. A few are asked
 * at a time, so that any number of them holds up nothing else the asking thread does.
 * Threads: add and resign by the loop, the rest by the one thread that asks.
 */
#ifndef SERVER_WATCH_H
#define SERVER_WATCH_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

/* Asked at a time: under a microsecond. */
#define WATCH_ASKED 8u

enum watch_answer { WATCH_PENDING, WATCH_OVER, WATCH_BROKEN };
typedef enum watch_answer watch_query(void *event);

struct watch {
    void *event;
    uint64_t tag;
    bool resigned;
};

struct watches {
    pthread_mutex_t lock;
    struct watch *entries;
    uint32_t room, count;
    uint32_t next; /* to be asked */
};

/* Of those that need not be asked any more. */
struct watch_end {
    uint64_t tag;
    bool failed; /* resigned, or broken */
};

bool watch_open(struct watches *watches, uint32_t room);

void watch_add(struct watches *watches, void *event, uint64_t tag);
/* Ends soon, without being asked again; one that has ended is left alone. */
void watch_resign(struct watches *watches, uint64_t tag);

bool watch_any(struct watches *watches);

/* Asks the next few; returns how many have ended. An event is not touched after its end. */
uint32_t watch_ask(struct watches *watches, watch_query *query, struct watch_end *ends);

#endif
