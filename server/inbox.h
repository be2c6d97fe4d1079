/*
 * inbox.h: what a peer sent, on its way from the receiving thread to the loop.
 *
 * Two buffers of fixed size: the receiver appends to one while the loop reads the other; the loop
 * swaps them when its own is empty. A receiver that finds no room stops reading, so a peer that
 * talks faster than the loop listens waits in its own socket.
 *
 * The caller (reader.c) holds its lock around push, room and swap; next is the loop's alone.
 */
#ifndef SERVER_INBOX_H
#define SERVER_INBOX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/frame.h"

enum inbox_kind {
    INBOX_FRAME,   /* a message other than DATA, with its header */
    INBOX_LANDED,  /* a DATA payload is where the route said */
    INBOX_DROPPED, /* a DATA payload of a finished request was thrown away */
    INBOX_REFUSED, /* a DATA payload broke a rule and was thrown away; text says which */
};

/* One message. Records lie behind one another, each padded to 8 bytes. */
struct inbox_record {
    enum inbox_kind kind;
    struct frame frame;
    const char *text;      /* INBOX_REFUSED: static */
    uint8_t *landed;       /* INBOX_LANDED: where */
    const uint8_t *header; /* frame.header_bytes of them, behind the record; set by inbox_push */
};

/* The largest header twice: a reader is never stuck behind its own single message. */
#define INBOX_BYTES (2u * (FAS_HEADER_BYTES_MAX + 128u))
static_assert(sizeof(struct inbox_record) <= 128, "a record with the largest header fits");

struct inbox {
    uint8_t *filling, *reading; /* INBOX_BYTES each */
    uint32_t filled_bytes, reading_bytes, read_bytes;
};

bool inbox_room(const struct inbox *inbox, uint32_t header_bytes);

/* Appends; there must be room. */
void inbox_push(struct inbox *inbox, const struct inbox_record *record, const uint8_t *header);

/* Gives what was pushed to the loop if the loop has read all it had. */
void inbox_swap(struct inbox *inbox);

/* The next record, valid until the swap after it, or NULL. */
const struct inbox_record *inbox_next(struct inbox *inbox);

#endif
