/*
 * outbox.h: what goes to a peer next, as bytes and pointers ready for one send.
 *
 * Three buffers: messages are put into one while one is being sent and one waits behind it. Heads,
 * headers and small payloads are copied; large payloads are sent from where they are and must stay
 * there until the send is over. Fixed size: who has no room waits, and a peer that does not read is
 * not read either. Owner: the loop.
 */
#ifndef SERVER_OUTBOX_H
#define SERVER_OUTBOX_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "proto/frame.h"

#define OUTBOX_BYTES (512u << 10)
/* Any one message with the largest header. */
#define OUTBOX_MESSAGE_BYTES (FAS_HEADER_BYTES_MAX + FRAME_HEAD_BYTES_MAX)
/* Payloads up to this are copied: cheaper than one more piece for the kernel to gather. */
#define OUTBOX_COPY_BYTES_MAX (4u << 10)
/* Statistics are gathered from one strip per head, so they are copied, in pieces of this. */
#define OUTBOX_GATHER_BYTES_MAX (128u << 10)
#define OUTBOX_IOV_MAX 8u
#define OUTBOX_FDS_MAX 4u
static_assert(OUTBOX_BYTES >= 2u * OUTBOX_MESSAGE_BYTES + 2u * OUTBOX_GATHER_BYTES_MAX,
              "control messages and a gathered chunk fit beside one another");

struct outbox {
    bool ipc;
    uint8_t *filling, *sending, *before; /* before: what was `sending` for the send before */
    uint32_t filled_bytes;
    struct iovec iov[OUTBOX_IOV_MAX];
    unsigned iov_count;
    int filled_fds[OUTBOX_FDS_MAX], fds[OUTBOX_FDS_MAX]; /* beside `filling`; beside iov */
    unsigned filled_fd_count, fd_count;
};

/* A piece of memory, or `rows` pieces of it `pitch` apart. */
struct outbox_payload {
    uint8_t *data;         /* only read */
    uint64_t bytes, pitch; /* of one piece */
    uint32_t pieces;
};

/* `memory`: OUTBOX_BUFFERS of OUTBOX_BYTES each. */
#define OUTBOX_BUFFERS 3u
void outbox_place(struct outbox *outbox, uint8_t *memory);
/* Forgets what was not sent. */
void outbox_reset(struct outbox *outbox, bool ipc);

/* Room for one more message of any header, a descriptor, and a payload of `copied` bytes by copy.
 */
bool outbox_room(const struct outbox *outbox, uint32_t copied);

/* Puts a message without payload behind the others; there must be room. */
void outbox_put(struct outbox *outbox, struct frame frame, const uint8_t *header,
                size_t header_bytes);
/* The same, with a descriptor that arrives no later than the message: for local peers. It is the
 * outbox's from here on. */
void outbox_put_fd(struct outbox *outbox, struct frame frame, const uint8_t *header,
                   size_t header_bytes, int fd);
/* Puts raw bytes: the SP hello. */
void outbox_put_raw(struct outbox *outbox, const uint8_t *bytes, size_t count);

bool outbox_empty(const struct outbox *outbox);

/* What was put becomes the send's beginning; outbox_add appends to it. */
void outbox_begin(struct outbox *outbox);
/* Room for outbox_add of a message whose payload is sent from its place. */
bool outbox_add_room(const struct outbox *outbox, uint32_t copied);
void outbox_add(struct outbox *outbox, struct frame frame, const uint8_t *header,
                size_t header_bytes, const struct outbox_payload *payload);
/* The send (iov and fds) is complete and no more may be added; what is put from now on is the next.
 * The descriptors are the sender's. */
void outbox_end(struct outbox *outbox);

#endif
