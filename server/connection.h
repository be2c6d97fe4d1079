/*
 * connection.h: one peer, from accept to close: who it is, what it may have in flight, what goes
 * out to it next.
 *
 *   FREE -> GREETING (HELLO awaited) -> OPEN -> FAREWELL (an ERROR is on its way)
 *        -> LEAVING (a launch uses its places) -> CLOSING -> FREE
 *
 * Owner: the loop thread. One per stream of the transport, by index; none is allocated later.
 */
#ifndef SERVER_CONNECTION_H
#define SERVER_CONNECTION_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/wire.h"
#include "server/join.h"
#include "server/outbox.h"
#include "server/slot.h"
#include "server/transport.h"

struct server;

enum connection_state {
    CONNECTION_FREE,
    CONNECTION_GREETING,
    CONNECTION_OPEN,
    CONNECTION_FAREWELL,
    CONNECTION_LEAVING,
    CONNECTION_CLOSING,
};

struct connection {
    enum connection_state state;
    struct stream *stream;
    struct connection *leader; /* of the same client: itself, or whom it joined */
    uint32_t lane;             /* among that one's connections */
    struct join join;          /* the leader's */
    uint64_t number;           /* for logs: counts from the start */
    char client[FAS_NAME_BYTES_MAX];
    uint32_t principal;
    bool admin;
    struct wire_limits limits;                 /* as agreed */
    uint64_t accepted_us, heard_us, pinged_us; /* heard_us: of its last message */
    uint64_t failed_us;                        /* FAREWELL: since when */
    uint64_t awaited, awaited_us;              /* DATA waits for this request; since when */
    uint32_t pings;                            /* unanswered in a row */

    uint32_t first_slot; /* ring of its slots; the first is next to be served. SLOT_NONE: none */
    uint32_t slot_count; /* in the ring */
    uint32_t unanswered; /* of them */

    struct outbox outbox;
    uint64_t sends, sends_done;          /* handed to the stream; over */
    struct fetch_queue fetches;          /* being sent from slabs */
    const struct inbox_record *deferred; /* a REQUEST that waits for memory; NULL: none */
    uint64_t deferred_us;                /* when it arrived; 0: none waits */
    bool backlog;  /* it stopped reading its inbox: its outbox, or its turn, is full */
    uint64_t turn; /* in which it read last, and so many messages */
    uint32_t messages;
    uint64_t result_credit; /* bytes of RESULT the peer can take */
    uint64_t result_window; /* its first credit */
    uint64_t credit_due;    /* bytes of DATA to be credited to the peer */
    uint32_t place_answers; /* OPENED and CLOSED that are due */
};

struct connections {
    struct connection *entries;
    uint32_t count, open;
    uint64_t accepted;
    uint64_t turn;
    bool behind; /* some had more to say than a turn takes: the next one should come at once */
};

bool connections_open(struct connections *connections, uint32_t count);

/* Takes everything streams have to tell. */
void connection_serve_all(struct server *server, uint64_t now_us);

/* Goes on where a REQUEST waited: for memory to be mapped again, or given back by an answered one.
 */
void connection_resume_deferred(struct server *server, uint64_t now_us);

/* Timeouts of HELLO, of uploads, of results nobody takes. Called some times a second. */
void connection_watch_all(struct server *server, uint64_t now_us);

/* The connection failed: the peer is told (ERROR for request 0), then it is closed, with all the
 * client has. */
void connection_fail(struct server *server, struct connection *connection,
                     const struct fas_error *error, uint64_t now_us);

/* LEAVING: closes it if no launch uses its memory any more, nor a connection that joined it. */
void connection_leave(struct server *server, struct connection *connection);

/* All that was to be said to it is said. */
bool connection_silent(const struct connection *connection);

/* Slots in its ring. */
void connection_add_slot(struct server *server, struct connection *connection, struct slot *slot);
void connection_remove_slot(struct server *server, struct slot *slot);
/* The slot of an id that is not answered, or whose last chunk is still landing. */
struct slot *connection_find(struct server *server, struct connection *connection, uint64_t id);

/* An ERROR for a request (or OPEN, STATS, ...) that has no slot. */
void connection_refuse(struct connection *connection, uint64_t id, const struct fas_error *error);

#endif
