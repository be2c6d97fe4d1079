/*
 * peer.h: one end of a connection as a plain blocking socket, which says whatever a test wants,
 * right or wrong. No threads; one owner.
 */
#ifndef TESTS_PEER_H
#define TESTS_PEER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/frame.h"
#include "proto/wire.h"

struct peer {
    int fd;
    bool tcp;                  /* then without the extra byte of nng's ipc framing */
    const char *token;         /* for peer_greet; NULL: none */
    struct wire_hello_ack ack; /* after peer_greet */
    struct frame frame;        /* the last message received */
    uint8_t header[FAS_HEADER_BYTES_MAX];
    uint8_t *payload; /* FAS_CHUNK_BYTES_MAX */
};

enum peer_event {
    PEER_MESSAGE, /* frame, header and payload are set */
    PEER_CLOSED,  /* by the other end, between two messages or not */
    PEER_SILENT,  /* nothing came in time */
};

/* A connection on which nothing was said yet. */
bool peer_connect(struct peer *peer, const char *path);
bool peer_connect_tcp(struct peer *peer, uint16_t port, const char *token); /* on this machine */
void peer_close(struct peer *peer);

/* False when the other end is gone. */
bool peer_send_bytes(struct peer *peer, const void *bytes, size_t count);

/* As frame_encode, for its stream. */
size_t peer_head(const struct peer *peer, const struct frame *frame,
                 uint8_t out[FRAME_HEAD_BYTES_MAX]);

/* header and payload have the lengths that the frame says. */
bool peer_send(struct peer *peer, const struct frame *frame, const void *header,
               const void *payload);

/* The next message, whatever it is. */
enum peer_event peer_receive_any(struct peer *peer, int timeout_ms);

/* The next message that is not CREDIT; PING is answered. */
enum peer_event peer_receive(struct peer *peer, int timeout_ms);

/* Both SP hellos, HELLO, HELLO_ACK, with chunks of FAS_CHUNK_BYTES_MIN. */
bool peer_greet(struct peer *peer);

#endif
