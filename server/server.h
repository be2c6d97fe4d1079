/*
 * server.h: the whole daemon as one struct: what the loop thread owns. Modules that act for the
 * loop take it as their first argument; modules that only decide (arena, queue, sched, batch,
 * request, route) do not know it.
 *
 * The main path, one turn of the loop (loop.c):
 *
 *   transport -> connection -> intake -> [slot] -> queue -> executor -> device
 *                    ^                                          |
 *                    +---- outbox <- reply <- [slot] <----------+
 */
#ifndef SERVER_SERVER_H
#define SERVER_SERVER_H

#include "server/config.h"
#include "server/connection.h"
#include "server/executor.h"
#include "server/hold.h"
#include "server/place.h"
#include "server/principal.h"
#include "server/share.h"
#include "server/slot.h"
#include "server/stats.h"
#include "server/token.h"
#include "server/transport.h"

struct server {
    struct config config;
    struct transport *transport;
    struct connections connections;
    struct slots slots;
    struct arena notes; /* host memory for sequences and chunk bit maps */
    uint8_t *notes_memory;
    struct executor *executors;
    uint32_t executor_count;
    struct principals principals;
    struct principal_limits principal_limits;
    struct holds holds;
    struct places places;
    struct share share;
    struct tokens tokens;
    struct stats stats;
    uint64_t started_us, watch_us; /* watch_us: when to look at the time next */
    bool draining;
    bool hung; /* a device does not end its launch: whoever waits for it waits for ever */
};

/* Opens all parts from server->config, in order: memory and devices first, listeners last. `wake`
 * is called from other threads when the loop has to take a turn. */
enum fas_status server_open(struct server *server, void (*wake)(void *), void *wake_context,
                            struct fas_error *error);

/* One turn: what peers sent, what devices finished, what runs next, what goes out. Returns when to
 * take the next one if nothing wakes the loop before: clock_us. */
uint64_t server_turn(struct server *server, uint64_t now_us);

/* Brings the gauges of stats up to date. */
void server_measure(struct server *server, uint64_t now_us);

/* Refuses new work from now on. */
void server_drain(struct server *server);

/* Ends all requests in flight with UNAVAILABLE. */
void server_abandon(struct server *server);

/* No device is left: the daemon has answered all and should be started again. */
bool server_lost(const struct server *server);

/* Some device has a launch that takes far too long. */
bool server_stalled(const struct server *server);

/* Everything accepted was answered and sent. */
bool server_drained(const struct server *server);

#endif
