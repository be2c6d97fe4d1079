/*
 * staging.h: payloads between the host and the arena of a device that the host does not reach.
 *
 *   in   a chunk lands in a slab (route.h) and rests -> upload -> its place in the arena, the slab
 *        is free
 *   out  a chunk of results is fetched: download into a slab -> sent from there -> the slab is free
 *
 * What is fetched for a slot waits in order (slot->fetches) until it has arrived and can be sent,
 * then with its connection (connection->fetches) until the send is over. Whoever ends early drops
 * what waits; a copy that is under way ends first, and its slot stays until then (slot->copies).
 *
 * A chunk rests until the next one has landed on its connection: until then it is in the cache of
 * the core that received it (2 MiB, and a chunk takes twice its size on the way through the
 * kernel). A device that reads what is dirty in there, or writes to what was just sent from there
 * (slab.h), holds up that core: four plain unix sockets move 13 to 15 GB/s beside such copies, and
 * 20 to 22 beside copies one slab later, as without any (16 cores of a Xeon). No chunk rests whose
 * request is complete: that would only be late.
 *
 * Owner: the loop thread.
 */
#ifndef SERVER_STAGING_H
#define SERVER_STAGING_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/tensor.h"
#include "server/device.h"
#include "server/slab.h"

struct connection;
struct server;
struct slot;

/* Rows of one tensor: what one RESULT carries. */
struct chunk {
    enum fas_tensor tensor;
    int64_t first_row, rows;
    int32_t first_sequence, sequence_count; /* whole once it is sent; none: 0 */
    uint32_t number;                        /* among those of its request */
};

/* A chunk on its way out, in a slab. */
struct fetch {
    struct fetch *next;
    struct slab_pool *pool;
    uint8_t *slab;
    uint32_t slot;              /* while it waits */
    struct connection *carrier; /* who sends it, and had credit for it; NULL: is gone */
    struct chunk chunk;
    uint64_t bytes;
    bool arrived;
    uint64_t send; /* the send of its connection that reads it */
};

/* First in, first out. */
struct fetch_queue {
    struct fetch *first, *last;
};

/* A chunk on its way in. */
struct arrival {
    uint32_t slot;
    uint64_t arena_offset, bytes;
};

/* One per executor. Zero where the host reaches the arena: nothing passes through it. */
struct staging {
    struct slab_pool in, out;
    struct arrival *arrivals; /* per slab of `in` */
    uint32_t *rests;          /* per owner of such: the one that rests; SLAB_NONE */
    struct fetch *fetches;    /* per slab of `out` */
};

bool staging_open(struct staging *staging, const struct device *device,
                  const struct config *config);

/* Where chunks of the slot's inputs land; NULL: in the arena itself. */
struct slab_pool *staging_landing(struct server *server, const struct slot *slot);

/* A chunk landed for a slot that is receiving. False: it is where it belongs already. */
bool staging_upload(struct server *server, struct slot *slot, uint8_t *landed,
                    uint64_t arena_offset, uint64_t bytes);

/* Less is missing of its inputs: once all of that has landed, nothing of it rests any longer. */
void staging_hasten(struct server *server, struct slot *slot);

/* A chunk landed that nobody wants any more. */
void staging_discard(struct server *server, const uint8_t *landed);

/* Begins to fetch a chunk for a connection of the slot's client: `height` strips of copy->width
 * bytes. False: no slab for it now. */
bool staging_fetch(struct server *server, struct connection *carrier, struct slot *slot,
                   const struct chunk *chunk, struct device_copy *copy);

/* How many of the slot's chunks this connection has begun to fetch and not handed on. */
uint32_t staging_ahead(const struct slot *slot, const struct connection *carrier);

/* The slot's next chunk for this connection, if it has arrived. */
struct fetch *staging_front(const struct slot *slot, const struct connection *carrier);

/* That one is part of send number `send`; 0: its bytes were copied. */
void staging_send(struct connection *carrier, struct slot *slot, uint64_t send);

/* The connection, which is not the slot's own, is gone. */
void staging_forget(struct slot *slot, const struct connection *carrier);

/* Sends up to this number are over. */
void staging_sent(struct connection *connection, uint64_t sends_done);

/* The slot is over: its chunks that rest, and those that have arrived to be sent, go. */
void staging_drop(struct server *server, struct slot *slot);

/* The stream of a connection is closed: everything it held is free. */
void staging_close(struct server *server, struct connection *connection, uint32_t owner);

/* A copy is over. */
void staging_collect(struct server *server, struct staging *staging,
                     const struct device_completion *completion, uint64_t now_us);

/* Host memory it has, and the most of it that was ever in use. */
uint64_t staging_bytes(const struct staging *staging);
uint64_t staging_high_bytes(struct staging *staging);

/* While readers stand still for want of a slab nothing rests; those that can have one go on. */
void staging_resume(struct server *server, struct staging *staging);

#endif
