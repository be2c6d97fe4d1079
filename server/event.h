/*
 * event.h: CUDA events of a client that its request names, each in a place of its own.
 *
 *   wait_event   RECEIVING lasts until it has come to pass, too; only then are inputs read
 *   done_event   recorded behind the last write to the request's places
 *   ENQUEUED     is sent once both are behind it: the client's streams may wait on the done event,
 *                which comes to pass without the host, and the wait event may be recorded anew
 *
 * What a stream that waits for the done event sees of a daemon that is killed, or whose GPU fails,
 * before it came to pass: nothing, for ever (H200, driver 580). So libfaserve's calls on a stream
 * do without it (client/on_stream.c).
 *
 * No stream of the daemon's waits for a client: the wait event is asked for (watch.h), beside the
 * queue. So a request whose event does not come keeps its slot and its room in the arena, as one
 * whose DATA does not come, until progress-timeout, its deadline, a cancel, the end of its
 * connection or of a drain; launches, their timeouts and other clients do not notice. The price is
 * some 10 us from the event to the launch, and a client that waits for ENQUEUED before it goes on.
 *
 * The done event is recorded right behind the launch that ends a request whose outputs are used in
 * place; behind the last copy where they are copied; and where the event is another GPU's than the
 * one that computes, when all is in place. A request that fails before that ends with ERROR and no
 * ENQUEUED; one that fails later has its event recorded all the same, so that no stream waits in
 * vain. Owner: the loop thread.
 */
#ifndef SERVER_EVENT_H
#define SERVER_EVENT_H

#include <stdbool.h>
#include <stdint.h>

#include "server/device.h"

struct executor;
struct server;
struct slot;

/* The slot uses the events it names until place_leave. NOT_FOUND, or INVALID_ARGUMENT where it is
 * memory: "wait_event", "done_event". */
enum fas_status event_enter(struct server *server, struct slot *slot, struct fas_error *error);

/* Begins to wait for the wait event; false: there is none. */
bool event_await(struct server *server, struct slot *slot);

/* The slot ended early: it waits no longer. */
void event_resign(struct server *server, struct slot *slot);

/* Fills *record if the slot's done event is to be recorded behind the launch that ends it on that
 * device. */
bool event_record_with_launch(struct server *server, struct slot *slot,
                              const struct executor *executor, struct device_record *record);

/* More of the results is computed, on its way to its places or there: records the done event if
 * this was the last. */
void event_stored(struct server *server, struct slot *slot);

/* A completion of an event, of whichever device. */
void event_collect(struct server *server, const struct device_completion *completion,
                   uint64_t now_us);

#endif
