/*
 * place.h: memory that a client and the daemon share, so that tensors need not travel.
 *
 *   FREE -> OPENING -> OPEN -> CLOSING -> FREE
 *
 * A region is a memfd made here, sealed so that it can neither shrink nor grow under the daemon,
 * mapped here and handed over to the client with OPENED. Its pages exist once somebody touches
 * them; the sum of all regions is bounded (region-bytes). Its bytes may change at any time, so no
 * decision reads them: lengths and strides come with REQUEST and are checked against the size the
 * daemon itself gave the region.
 *
 * A CUDA allocation of the client is opened by its IPC handle, on the device it is memory of, where
 * kernels use it in place; memory of a neighbour is copied. Its size is what the driver says, never
 * the client's word. An open mapping keeps the memory from being freed for good, so there is a most
 * of them: past it the least recently used one that no request uses is unmapped. Its place stays
 * open; a request that names it waits, and its connection with it, until it is mapped again.
 *
 * An event of the client's (event.h) is a place without bytes, opened by its handle, too, and named
 * by requests in the same way. It keeps no memory, so it stays open and does not count as a
 * mapping.
 *
 * A place belongs to the connection that opened it and is named by an id nobody else can use. It
 * goes with CLOSE or with its connection; while a request uses it the memory stays, though its name
 * is gone, and CLOSED follows the last use. A connection is closed only when no launch uses its
 * places: whoever sees the end of the stream may use the memory for something else. Who may open
 * one: share.h, over unix sockets only.
 * Owner: the loop thread.
 */
#ifndef SERVER_PLACE_H
#define SERVER_PLACE_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/status.h"
#include "proto/tensor.h"
#include "proto/wire.h"
#include "server/mapper.h"

/* Of all clients; one principal may have a quarter. Each is one mapping; 65530 is the usual limit
 * of a process. */
#define PLACES_MAX 4096u
#define PLACES_PER_PRINCIPAL (PLACES_MAX / 4u)

struct connection;
struct server;
struct slot;

/* OPENING ends with OPEN, or with CLOSING and an error: the memory was not to be had. */
enum place_state { PLACE_FREE, PLACE_OPENING, PLACE_OPEN, PLACE_CLOSING };

struct place {
    enum place_state state;
    enum fas_place kind;
    uint32_t id;                   /* its connection's; 0: nobody can name it (any more) */
    struct connection *connection; /* NULL: gone */
    uint32_t principal;
    uint32_t users;                /* tensors of requests that lie in it, requests that name it */
    uint64_t reserved;             /* bytes of its principal's share */
    bool working;                  /* the mapping is the mapper's */
    uint64_t used;                 /* counts up: places.uses at its last use */
    struct device_mapping mapping; /* CUDA, OPEN: without memory when it was the least used */
    uint64_t answer;               /* the OPEN or CLOSE that is still to be answered; 0: none */
    struct fas_error error;        /* that answer is an ERROR */
};

struct places {
    struct place *entries; /* PLACES_MAX */
    uint32_t count;        /* not FREE */
    uint32_t mappings;     /* of CUDA memory, there or being made */
    uint32_t mappings_max; /* but for those in use */
    uint64_t uses;
    uint64_t bytes; /* of all regions */
    uint64_t bytes_max, bytes_per_principal;
    struct mapper mapper;
};

struct places_limits {
    uint64_t bytes, bytes_per_principal; /* 0: a quarter of the host's memory; 3/4 of that */
    uint32_t mappings;
};

bool places_open(struct places *places, const struct places_limits *limits, device_wake *wake,
                 void *wake_context);
void places_close(struct places *places);

/* Takes what the mapper has done. True: a deferred request may find its memory now. */
bool place_collect(struct server *server);

/* OPEN: answered by place_answer, or refused with *error. */
enum fas_status place_open(struct server *server, struct connection *connection,
                           const struct wire_open *open, uint64_t request, struct fas_error *error);

/* CLOSE: answered by place_answer once nothing uses it. NOT_FOUND: not one of this connection. */
enum fas_status place_close(struct server *server, struct connection *connection, uint32_t id,
                            uint64_t request, struct fas_error *error);

/* The connection is gone, its places with it as soon as nothing uses them. */
void place_close_all(struct server *server, struct connection *connection);

/* Puts the next answer that is due, OPENED or CLOSED, into the connection's outbox, which has room.
 * False: none is. */
bool place_answer(struct server *server, struct connection *connection);

/* Which executor has its CUDA memory, as far as it names any; UINT32_MAX: it may run anywhere. */
uint32_t place_executor(struct server *server, const struct connection *connection,
                        const struct wire_request *wire);

/* Maps again what the request names and is not mapped. True: that is under way, to be asked again
 * after place_collect. */
bool place_recall(struct server *server, const struct connection *connection,
                  const struct wire_request *wire);

/* The open place of that id of this connection, or NULL. */
struct place *place_find(struct server *server, const struct connection *connection, uint32_t id);

/* The slot uses it, as its number `use` (a tensor, or behind those an event), until place_leave. */
void place_use(struct server *server, struct slot *slot, uint32_t use, struct place *place);

/* The tensors of the slot's request that lie in places use them until place_leave: in place where
 * its device reaches them and they are not to be retained, else they are copied. NOT_FOUND, or
 * INVALID_ARGUMENT beyond the end: "tensors.q". */
enum fas_status place_enter(struct server *server, struct slot *slot, struct fas_error *error);
void place_leave(struct server *server, struct slot *slot);

/* Begins to copy the inputs to be copied into the slot's span; then, as sequences are computed,
 * their outputs out of it: slot->progress.ready says how far they are. Each is one of slot->copies
 * until place_copied. */
void place_load(struct server *server, struct slot *slot);
void place_store(struct server *server, struct slot *slot);

/* Whether a completion is of one of these copies; and what follows from it. */
bool place_copies(const struct device_completion *completion);
void place_copied(struct server *server, const struct device_completion *completion,
                  uint64_t now_us);

/* Whether a launch or a copy for this connection may be reading or writing one, or a device has an
 * event of it in hand. */
bool place_used(const struct server *server, const struct connection *connection);

#endif
