/*
 * connection_own.h: what connection.c (who sends, and the end) and connection_receive.c share, and
 * nobody else.
 */
#ifndef CLIENT_CONNECTION_OWN_H
#define CLIENT_CONNECTION_OWN_H

#include "client/clock.h"
#include "client/connection.h"
#include "client/stream.h"

/* A whole head and header always fit; the rest is for small payloads: 64 KiB are 6 us of memcpy. */
#define BUFFER_BYTES (FRAME_HEAD_BYTES_MAX + FAS_HEADER_BYTES_MAX + (64u << 10))

struct connection {
    struct connection_owner owner;
    const struct stream_kind *kind;
    struct stream *stream;
    uint64_t period_ns, tick_ns; /* tick_ns: when the next one is due; the receive thread's */
    int kick;                    /* eventfd; readable: who receives should look around */
    pthread_t tx_thread, rx_thread;

    pthread_mutex_t *lock, own_lock; /* its own, or that of the client's first connection */
    pthread_cond_t tx_work, rx_work, rx_left;
    bool started, stopping, failed, told;
    bool settled; /* after a failure: the daemon does not use memory of the owner's */
    bool tx_active, rx_active;
    bool tx_handed;           /* the send thread has the role */
    bool tx_pending;          /* and its batch is begun */
    bool tx_mute;             /* the peer takes no more; what it said last is still to be read */
    bool heard;               /* bytes came, or bulk went, since the last tick */
    struct fas_error failure; /* the first */
    struct batch batch;       /* whose who has the role */

    TAILQ_HEAD(, waiter) waiters; /* asleep */
    bool eager;                   /* the owner wants the receive thread to receive */
    bool rx_by_thread;            /* it does */
    pthread_t rx_waiter;          /* otherwise this one, while rx_active */
    bool rx_asleep;               /* it sleeps until the next tick, as others receive */
    bool kicked;
    uint64_t rx_left_ns; /* when a waiter last gave up the role */

    /* Of who has the receiving role. */
    uint8_t *buffer;
    size_t start, end; /* of what has not been parsed */
    bool greeted;      /* the peer's SP hello has been read */
    bool in_payload;
    struct frame frame;
    uint8_t *payload;
    uint64_t payload_left;
    bool flowing; /* more is likely there: the last receive filled its room, or a payload's part */
    bool prompt;  /* what was awaited last came within spin_ns */
    uint64_t spin_ns;
};

/* The thread that receives can be called away, and others can take its place. */
static inline bool is_direct(const struct connection *c)
{
    return c->kind->fd != NULL;
}

/* One direction rests (NULL: none that was active); the last one to do so after a failure tells
 * the owner. */
void connection_rest(struct connection *c, bool *active);

/* Bytes came, or bulk went. */
void connection_heard(struct connection *c);

/* Who receives looks around. Under the lock. */
void connection_kick(struct connection *c);

/* The receive thread; its context is the connection. */
void *connection_receive(void *context);

#endif
