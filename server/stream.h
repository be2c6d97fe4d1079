/*
 * stream.h: what the kinds of streams share with transport.c, and nobody else: stream_socket.c
 * (unix sockets and tcp, read and written by the loop itself and by the pool of io.h) and
 * stream_nng.c (tls, through nng's threads).
 *
 * A direction of a stream has one owner at a time: the loop, or a thread of the kind. Whoever is
 * not the loop counts as outstanding (stream_begin, stream_end); the end of the last one, after
 * stream_close, makes STREAM_CLOSED, and only then is memory no longer touched by anyone.
 */
#ifndef SERVER_STREAM_H
#define SERVER_STREAM_H

#include <pthread.h>

#include "server/transport.h"

struct stream_kind {
    /* Opens the listeners of the config; *state is the kind's, NULL if it has none to open. */
    enum fas_status (*open)(struct transport *transport, const struct config *config, void **state,
                            struct fas_error *error);
    /* Polls readable when poll has something to do. NULL: such a kind wakes the loop instead. */
    int (*descriptor)(const void *state);
    /* The loop's turn begins: new peers, and bytes where the loop reads them. watch: look at the
     * time, and try again what failed for want of descriptors. */
    void (*poll)(void *state, uint64_t now_us, bool watch);
    /* No new peers from here on. */
    void (*stop)(void *state);

    /* The caller has the reader's turn, and gives it to the kind: reader_advance comes first. */
    void (*read)(struct stream *stream);
    /* sends[0] is new. Under post_lock, and not when closing. */
    void (*send)(struct stream *stream);
    /* Makes everything outstanding come back soon. Under post_lock. */
    void (*close)(struct stream *stream);
    bool (*peer_in_group)(const struct stream *stream, uint64_t gid);
    /* Nothing is outstanding: gives back what the kind holds. */
    void (*release)(struct stream *stream);
};

extern const struct stream_kind stream_nng, stream_socket;

/* What is left of one stream_send; count 0: none. */
struct send {
    struct iovec iov[TRANSPORT_IOV_MAX];
    unsigned count;
    int fds[TRANSPORT_FDS_MAX];
    unsigned fd_count; /* 0 once the first byte is gone */
};

struct stream {
    struct transport *transport;
    const struct stream_kind *kind;
    void *own; /* the kind's part */
    uint32_t index;
    bool used; /* the loop's */
    struct reader reader;
    struct stream_peer peer;

    /* Held while beginning an operation and while closing, so that none begins on a closed stream:
     * nng 1.5.2 would never complete it. */
    pthread_mutex_t post_lock;
    bool closing;
    struct send sends[TRANSPORT_SENDS_MAX]; /* the one under way, and the one behind it */
    uint64_t sends_done;

    /* Under the transport's lock. */
    unsigned outstanding;
    unsigned events;
    bool ready;
    struct stream *next_ready;
    bool broken;            /* the peer broke the protocol: the reader has the reason */
    struct fas_error ended; /* the first reason, with STREAM_ENDED */
};

/* A place for a new peer, reset, or NULL when all are taken. `peer` is filled by the kind, then
 * stream_accepted tells the loop. Loop thread. */
struct stream *stream_adopt(struct transport *transport, const struct stream_kind *kind, bool ipc);
void stream_accepted(struct stream *stream);

/* All places a kind may have to serve. */
uint32_t stream_count(const struct transport *transport);

/* There is something for poll to do. Any thread. */
void transport_wake_loop(struct transport *transport);

/* Something outside the loop begins to act for the stream. */
void stream_begin(struct stream *stream);
/* The last thing it does. why: with STREAM_ENDED, NULL: the reader has the reason. Wakes the loop
 * if there are events, or if a closed stream waited for this. */
void stream_end(struct stream *stream, unsigned events, const struct fas_error *why);
/* The same news from the loop's own thread, which need not be woken. */
void stream_note(struct stream *stream, unsigned events, const struct fas_error *why);

/* Its descriptors are no longer needed here. */
void stream_close_fds(struct send *send);

/* Under post_lock: `bytes` of sends[0] are gone. True when the send is over; then the one behind
 * has taken its place. */
bool stream_sent(struct stream *stream, size_t bytes);

#endif
