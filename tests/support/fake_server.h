/*
 * fake_server.h: a daemon for tests of the client: one connection at a time, plain blocking
 * sockets, and a fault to order. It computes nothing: the byte at packed offset x of output tensor
 * t is fake_byte(t, x), and DONE's batch_tokens is fake_sum over all inputs, so that a test sees
 * whether every byte went, and came, where it should.
 */
#ifndef TESTS_FAKE_SERVER_H
#define TESTS_FAKE_SERVER_H

#include <stddef.h>
#include <stdint.h>

enum fake_fault {
    FAKE_NONE,
    FAKE_MUTE,         /* accepts, says nothing */
    FAKE_GARBAGE,      /* says something else than the SP hello */
    FAKE_NEWER,        /* HELLO_ACK of a version from the future */
    FAKE_REFUSES,      /* ERROR UNAUTHENTICATED for the connection */
    FAKE_SLOW,         /* takes FAKE_SLOW_MS until it accepts the first, and again to greet each;
                          keeps hardly any waiting */
    FAKE_LEAVES,       /* greets, and hangs up */
    FAKE_STALLS,       /* greets, then reads nothing and says nothing */
    FAKE_DIES,         /* closes in the middle of a RESULT's payload */
    FAKE_LIES_LENGTH,  /* a RESULT's payload is longer than its rows */
    FAKE_ROWS_OUTSIDE, /* a RESULT's rows lie beyond its tensor */
    FAKE_ROWS_TWICE,   /* the same rows come again */
    FAKE_INPUT_TENSOR, /* a RESULT of q */
    FAKE_DONE_EARLY,   /* DONE without results */
    FAKE_ENQUEUED,     /* ENQUEUED for a request without events */
    FAKE_UNKNOWN_ID,   /* DONE of a request nobody made */
    FAKE_LYING_PREFIX, /* the message's length is not that of its parts */
    FAKE_BAD_HEADER,   /* DONE's header is no protobuf */
    FAKE_REJECTS,      /* ERROR RESOURCE_EXHAUSTED as soon as the REQUEST is there */
    FAKE_HALF_REGION,  /* a region's memory is half as long as was asked for */
    FAKE_LOOSE_REGION, /* it may be cut off later */
    FAKE_NO_REGION,    /* it does not come at all */
    FAKE_WAITS_CANCEL, /* answers a request only when it is cancelled */
};

#define FAKE_SLOW_MS 600
#define FAKE_CHUNK_BYTES (64u << 10)

struct fake_server;

struct fake_server *fake_server_open(const char *path, enum fake_fault fault);
/* Ends its connection and its thread. */
void fake_server_close(struct fake_server *server);

uint8_t fake_byte(int tensor, uint64_t offset);
/* Of bytes at packed offset `offset` of input tensor `tensor`; sums of parts add up. */
uint64_t fake_sum(int tensor, uint64_t offset, const uint8_t *data, size_t bytes);

#endif
