/*
 * connection.h: one connection to a daemon, as messages.
 *
 * Sending and receiving are roles. A thread that pushes a small batch sends it itself; everything
 * else is the send thread's. A thread that waits for an answer receives it, and what comes
 * before it, itself; otherwise the receive thread does, and with tls always.
 * Whoever receives reads into the connection's buffer, finds frames in it and asks the owner where
 * a payload goes; what is not in the buffer yet is received straight there.
 *
 * Locks: connection_lock guards the owner's state, too: one lock per client. next_batch is called
 * with it held, the other calls of the owner without.
 */
#ifndef CLIENT_CONNECTION_H
#define CLIENT_CONNECTION_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

#include "client/faserve.h"
#include "proto/frame.h"

struct connection;

#define BATCH_RANGES_MAX 8 /* of one send */

/* Bytes to send, in order. They must stay until batch_sent. */
struct batch {
    struct {
        const void *data;
        size_t bytes;
    } ranges[BATCH_RANGES_MAX];
    int count;
    bool borrowed; /* some are the caller's memory: too much to be sent in passing */
};

/* Of a frame that can not be read: no caller's argument is invalid, the daemon broke the protocol.
 */
static inline enum fas_status frame_is_broken(enum fas_status status, struct fas_error *error)
{
    if (status != FAS_INVALID_ARGUMENT) {
        return status;
    }
    error->status = FAS_INTERNAL;
    return FAS_INTERNAL;
}

struct connection_owner {
    void *context;
    /* A frame's head and header are here: *payload is where its payload goes (frame->payload_bytes
     * of room), or NULL for one without. A status other than OK ends the connection. */
    enum fas_status (*on_head)(void *context, const struct frame *frame, const uint8_t *header,
                               void **payload, struct fas_error *error);
    /* And now its payload, too. */
    enum fas_status (*on_frame)(void *context, const struct frame *frame, struct fas_error *error);
    /* All frames that had arrived are handled; the next receive is about to begin. */
    void (*on_read)(void *context);
    /* Fills the empty batch; false: nothing to send now. The only one under the lock. */
    bool (*next_batch)(void *context, struct batch *batch);
    /* The last batch is no longer read. In passing, on a thread of the program's: no callbacks of
     * its; true when some are due, and it is called once more, on the send thread. */
    bool (*batch_sent)(void *context, bool in_passing);
    /* Every period_ms, on the receive thread; heard: bytes came, or bulk went, since the last
     * time. */
    void (*on_tick)(void *context, bool heard);
    /* Whether the daemon may be using memory of this process. Under the lock. */
    bool (*lends)(void *context);
    /* The stream is closed and both directions rest; a daemon that may have been using memory of
     * this process has hung up or is dead: nothing touches anyone's memory any more. Last. */
    void (*on_lost)(void *context, const struct fas_error *error);
};

/* Dials within the options' time. Nothing is sent or received before connection_start. `first`: of
 * the same client, which has one lock for all; NULL: this is the first. */
enum fas_status connection_open(const struct fas_connect_options *options,
                                const struct connection_owner *owner, struct connection *first,
                                struct connection **connection, struct fas_error *error);

enum fas_status connection_start(struct connection *connection, uint32_t period_ms,
                                 struct fas_error *error);

/* A thread that waits for what a frame brings about: on its stack. */
struct waiter {
    pthread_cond_t *woken;             /* signalled by the owner when done; of CLOCK_MONOTONIC */
    bool (*done)(const void *context); /* under the lock; true when the connection is lost, too */
    const void *context;
    TAILQ_ENTRY(waiter) link; /* the connection's */
};

/* Waits until done, or until until_ns (of CLOCK_MONOTONIC; 0: for ever); the last word of `done`.
 * Under the lock, which is given up meanwhile. */
bool connection_wait(struct connection *connection, struct waiter *waiter, uint64_t until_ns);

/* Something that a waiter waits for was done by another thread than the one that receives. Under
 * the lock. */
void connection_nudge(struct connection *connection);

/* Whether frames may be owed to somebody who is not in connection_wait (callbacks, a descriptor
 * that is polled): then the receive thread receives, and once this has returned nobody else does.
 * Under the lock, which may be given up meanwhile. */
void connection_set_eager(struct connection *connection, bool eager);

/* The oldest descriptor that came with the frames so far and was not taken, or -1; the taker closes
 * it. From on_head and on_frame. */
int connection_take_fd(struct connection *connection);

bool connection_is_ipc(const struct connection *connection);
void connection_lock(struct connection *connection);
void connection_unlock(struct connection *connection);
/* For condition variables that go with the lock. */
pthread_mutex_t *connection_mutex(struct connection *connection);

/* There may be something to send. Never waits for the peer. Without the lock. */
void connection_push(struct connection *connection);

/* Closes the stream; on_lost follows, at once unless the daemon has memory of ours in use, with the
 * first error given. Any thread, without the lock. */
void connection_fail(struct connection *connection, const struct fas_error *error);

/* Fails it if that has not happened, and waits until on_lost has returned. Not from the owner's
 * functions. */
void connection_stop(struct connection *connection);

/* After connection_stop, or never started; the first of a client last. */
void connection_free(struct connection *connection);

#endif
