/*
 * hold.h: retained forwards: q, k, v, o, lse (and sink) of an answered request stay in the arena
 * under a handle, so that its backward sends dO only. Tensors in places are copied for that: their
 * memory is the client's to write to once the forward has ended.
 *
 * A hold belongs to the connection that made it; nobody else can name it. It goes with RELEASE,
 * with its connection, when retain-ttl has passed since it was last used, or when its owner needs
 * the room: for a newer hold past a quota, or for a request that does not fit; the least recently
 * used goes first. While somebody reads it (the send of the forward's own results, a backward) its
 * memory stays, though its name may be gone. Owner: the loop thread.
 */
#ifndef SERVER_HOLD_H
#define SERVER_HOLD_H

#include <stdbool.h>
#include <stdint.h>

#include "server/arena.h"
#include "server/request.h"

/* Layers of a large model times a few microbatches, times a few trainers. */
#define HOLDS_MAX 4096u

struct connection;
struct server;
struct slot;

struct hold {
    uint64_t handle; /* never used twice; 0: nobody can name it (any more) */
    struct connection *connection;
    uint32_t executor, principal;
    uint32_t readers;
    bool used; /* the entry is in use: it is named, or read */
    uint64_t used_us;
    struct arena_span span, notes;
    struct request request;
};

struct holds {
    struct hold *entries; /* HOLDS_MAX */
    uint32_t count;       /* in use */
    uint64_t bytes;       /* of all */
    uint64_t last_handle;
};

bool holds_open(struct holds *holds);

/* What one principal may keep on one device, at most: HELLO_ACK says it. */
uint64_t hold_quota(const struct server *server);

/* Whether a forward of these bytes could ever be kept for this connection. */
enum fas_status hold_check(const struct server *server, const struct connection *connection,
                           uint32_t executor, uint64_t bytes, struct fas_error *error);

/* An answered forward is kept: its memory changes hands, slot->hold reads it. Returns the handle, 0
 * if there is no entry for it, or none can go that takes the room it has a right to. */
uint64_t hold_keep(struct server *server, struct slot *slot, uint64_t now_us);

/* The hold of that name of this connection, or NULL. */
struct hold *hold_find(struct server *server, const struct connection *connection, uint64_t handle);

/* A backward reads it, from admission until it is settled. */
void hold_read(struct server *server, struct slot *slot, struct hold *hold, uint64_t now_us);
void hold_unread(struct server *server, struct slot *slot);

void hold_release(struct server *server, const struct connection *connection, uint64_t handle);
void hold_release_all(struct server *server, const struct connection *connection);
void hold_expire(struct server *server, uint64_t now_us);

/* Gives up the principal's least recently used hold on that device; false: there is none. */
bool hold_evict(struct server *server, uint32_t principal, uint32_t executor);

#endif
