/*
 * transport.h: byte streams of peers, over unix sockets, tcp and tls.
 *
 * Threads. Everything here is called by the loop. Small messages of unix sockets and tcp are read
 * and written in these calls; bulk, and all of tls, by other threads, which run the reader
 * (reader.h) but decide nothing: what the loop should know is a flag on the stream, the stream is
 * put on the ready list, and the loop is woken.
 *
 * After stream_close both directions come to rest, then transport_take reports the stream closed;
 * only then is its memory no longer touched by anyone.
 */
#ifndef SERVER_TRANSPORT_H
#define SERVER_TRANSPORT_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "server/config.h"
#include "server/reader.h"

#define TRANSPORT_IOV_MAX 8u /* nng's limit per operation */
#define TRANSPORT_SENDS_MAX 2u
#define TRANSPORT_FDS_MAX 4u /* descriptors that travel with one send */

struct transport;
struct stream;

/* Called from any thread, must only wake the loop. */
typedef void transport_wake(void *context);

/* Opens the listeners of the config, for so many streams at once. Fields of errors are the options'
 * names. */
enum fas_status transport_open(struct transport **opened, const struct config *config,
                               uint32_t streams, uint32_t routes_per_stream, transport_wake *wake,
                               void *wake_context, struct fas_error *error);

/* Polls readable when transport_poll has something to do, as `wake` says it has; -1: there is no
 * such descriptor. */
int transport_fd(const struct transport *transport);

/* A turn of the loop begins: takes in new peers, which then are STREAM_ACCEPTED, and reads where
 * the loop reads itself. watch: looks for peers that make no progress, and accepts again where that
 * failed for want of descriptors; true every 100 ms or so. */
void transport_poll(struct transport *transport, uint64_t now_us, bool watch);

/* No new peers from here on. */
void transport_stop_accepting(struct transport *transport);

enum stream_event {
    STREAM_ACCEPTED = 1, /* a new peer; stream_start begins to read */
    STREAM_RECEIVED = 2, /* its inbox may hold something */
    STREAM_SENT = 4,     /* a send or two are over: stream_sends_done */
    STREAM_ENDED = 8,    /* no more will be received: end of stream, error, or bad protocol */
    STREAM_CLOSED = 16,  /* after stream_close: nothing is outstanding */
};

/* The next stream with something to tell, or NULL; *events is a set of stream_event. */
struct stream *transport_take(struct transport *transport, unsigned *events);

/* There is one: the loop takes another turn. */
bool transport_has_news(struct transport *transport);

struct stream_peer {
    bool local; /* unix socket: uid is the kernel's word */
    uint64_t uid, gid;
    char address[64]; /* for logs: "uid 1000 pid 4711", "127.0.0.1:4242" */
};

const struct stream_peer *stream_peer(const struct stream *stream);
/* The kernel vouches for it: the group is the peer's, or one of its further ones. */
bool stream_peer_in_group(const struct stream *stream, uint64_t gid);
struct reader *stream_reader(struct stream *stream);
uint32_t stream_index(const struct stream *stream); /* below the count of streams */

/* Begins to receive, after STREAM_ACCEPTED. */
void stream_start(struct stream *stream);

/* Goes on reading where the reader stood still for the loop. */
void stream_resume(struct stream *stream);

struct stream_send {
    const struct iovec *iov; /* up to TRANSPORT_IOV_MAX; the array is copied, the bytes are not */
    unsigned iov_count;
    const int *fds; /* up to TRANSPORT_FDS_MAX; only a local peer can be sent any */
    unsigned fd_count;
};

/* Sends all of it, then STREAM_SENT. One may be under way and one more wait behind it, so that the
 * wire does not idle while the loop composes. Descriptors travel with the first byte and are the
 * stream's from here on: it closes them, whether the peer got them or is gone. */
void stream_send(struct stream *stream, const struct stream_send *what);

/* How many of its sends are over, in order: what they referred to is free. */
uint64_t stream_sends_done(struct stream *stream);

/* Why it ended. INVALID_ARGUMENT: the peer broke the protocol, and may be told. */
void stream_error(struct stream *stream, struct fas_error *error);

void stream_close(struct stream *stream);

/* After STREAM_CLOSED: its place is free for the next peer. */
void stream_release(struct stream *stream);

#endif
