/*
 * stream.h: the byte stream under a connection, of one of two kinds: a socket of our own
 * (stream_socket.c), which any thread may read (a unix socket can bring descriptors, too), and
 * nng's stream for tls (stream_nng.c), with nng's threads underneath. The URL's scheme chooses.
 * Used by connection.c and connection_receive.c only.
 *
 * One thread sends and one receives at a time; any thread may close.
 */
#ifndef CLIENT_STREAM_H
#define CLIENT_STREAM_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "client/faserve.h"

#define STREAM_IOV_MAX 8 /* nng's limit per operation */

enum stream_moved {
    STREAM_MOVED,   /* *bytes were */
    STREAM_PENDING, /* not yet */
    STREAM_FAILED   /* never again; *error says why */
};

struct stream;

struct stream_kind {
    const char *scheme; /* "ipc://" */
    bool ipc;           /* its framing has the extra byte; see frame.h */
    /* Connects within the options' time. */
    enum fas_status (*open)(const struct fas_connect_options *options, struct stream **stream,
                            struct fas_error *error);
    /* Begins to send; PENDING: send_finish has to follow, and waits. iov is not kept. */
    enum stream_moved (*send_begin)(struct stream *stream, const struct iovec *iov, int count,
                                    size_t *bytes, struct fas_error *error);
    enum stream_moved (*send_finish)(struct stream *stream, size_t *bytes, struct fas_error *error);
    /* Waits for bytes, at most so long; then PENDING. */
    enum stream_moved (*receive)(struct stream *stream, const struct iovec *iov, int count,
                                 uint32_t timeout_ms, size_t *bytes, struct fas_error *error);
    /* A descriptor that polls readable when `receive` with no time would move bytes. NULL: there is
     * none, and the thread that receives can not be called away. */
    int (*fd)(const struct stream *stream);
    /* The oldest descriptor received and not taken, or -1. NULL: none ever comes. */
    int (*take_fd)(struct stream *stream);
    /* Ends what is under way, soon: sending with STREAM_FAILED. */
    void (*close)(struct stream *stream);
    /* After close: waits until the daemon has hung up, too, or is no more. NULL: it can not be
     * known, and nothing but messages is shared with it. */
    void (*settle)(struct stream *stream);
    /* After close; nothing is under way. */
    void (*free)(struct stream *stream);
};

extern const struct stream_kind stream_unix, stream_tcp, stream_tls;

#endif
