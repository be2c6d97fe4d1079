/*
 * reader.h: bytes of one peer -> messages in its inbox, payloads in their final places.
 *
 * A reader does no I/O and never waits. Whoever has its turn (the loop, a thread of the pool, or,
 * of tls, nng's receive callback: stream.h) calls reader_advance, which takes all that is in the
 * buffer and says what next: receive more into reader_targets, stand still until the loop calls
 * reader_resume, or give up. Small messages are copied out of the buffer (several of them cost one
 * receive); what is missing of a payload is received straight into its place, together with bytes
 * behind it.
 *
 * A second REQUEST is not taken up before the loop has answered the first: there is one buffer for
 * length arrays, and the DATA behind a REQUEST needs the answer anyway.
 */
#ifndef SERVER_READER_H
#define SERVER_READER_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "proto/frame.h"
#include "server/inbox.h"
#include "server/route.h"

/* One receive takes at most this much beyond a small payload: a small request's REQUEST and DATA
 * together. The loop may copy that much in one go (some 10 us). */
#define READER_BUFFER_BYTES (64u << 10)
/* With nothing at hand it takes this much: all of the smallest requests, and of others REQUEST,
 * with what costs 3 us to copy out again; the rest of a payload then goes straight to its place. */
#define READER_FIRST_BYTES (32u << 10)
/* Behind a payload of READER_BUFFER_BYTES and more it takes this much: the next message's head and
 * header. The buffer full would be copied again, of chunks of 1 MiB one byte in sixteen. */
#define READER_BEHIND_BULK_BYTES 512u

enum reader_step {
    READER_RECEIVE, /* post a receive into reader_targets, then reader_received */
    READER_PAUSED,  /* the loop has to act first; it calls reader_resume */
    READER_FAILED,  /* the peer broke the protocol: reader_error */
};

enum reader_phase { READER_HELLO, READER_HEAD, READER_HEADER, READER_BODY, READER_PAYLOAD };

struct reader {
    /* Of whoever has the turn. */
    bool ipc;
    enum reader_phase phase;
    uint32_t owner;  /* of slabs; constant */
    uint8_t *buffer; /* READER_BUFFER_BYTES */
    uint32_t begin, end;
    struct frame frame;
    uint8_t *header; /* FAS_HEADER_BYTES_MAX, header_bytes of it read */
    uint32_t header_bytes;
    struct inbox_record record; /* of the payload being read */
    uint8_t *place;             /* where the next payload byte goes; NULL: thrown away */
    uint64_t payload_left;

    pthread_mutex_t lock; /* guards the rest, which the loop shares */
    bool greeted;         /* HELLO was accepted */
    bool hello_seen;
    bool paused;
    bool starved;      /* paused for want of a slab, or of the leader's REQUEST: nothing but
                        * reader_feed helps */
    bool lengths_busy; /* `lengths` belongs to the loop, with an undecided REQUEST */
    uint8_t *lengths;  /* FAS_LENGTHS_BYTES_MAX */
    uint64_t landing;  /* the request whose memory is being received into; 0: none */
    uint64_t credit;   /* DATA bytes the peer may still send */
    struct inbox inbox;
    struct route_table routes;
    uint64_t newest;       /* the largest id of a REQUEST so far */
    bool joined;           /* others carry DATA of its requests: their ids grow */
    struct reader *leader; /* whose routes DATA follows: another's of the same client, or itself */
    uint64_t awaited;      /* the request whose DATA came before it; 0: none */
    struct fas_error error;
};

/* Bytes of memory a reader needs, and its set-up in them: once, before the first peer. */
size_t reader_memory_bytes(uint32_t routes);
/* owner: of the slabs it takes. */
void reader_place(struct reader *reader, void *memory, uint32_t routes, uint32_t owner);

/* A new peer. */
void reader_reset(struct reader *reader, bool ipc);

/* With the turn. */
enum reader_step reader_advance(struct reader *reader);
unsigned reader_targets(struct reader *reader, struct iovec targets[2]);
void reader_received(struct reader *reader, size_t bytes);
bool reader_has_news(struct reader *reader); /* something is in the inbox */
bool reader_between_messages(const struct reader *reader);
uint64_t reader_payload_left(const struct reader *reader); /* of a payload that has begun */

/* From the loop, at any time. */
const struct inbox_record *reader_next(struct reader *reader);
bool reader_resume(struct reader *reader); /* true: the turn is the caller's: reader_advance */
void reader_feed(struct reader *reader);   /* what it starves for is to be had: resume it */
/* Before reader_greet: it carries DATA of the leader's requests, and next to nothing else. The
 * leader outlives it, and takes no id twice from here on: what landed for a request that is over
 * may still be in this one's inbox. */
void reader_join(struct reader *reader, struct reader *leader);
/* A request of its leader's that it waits for, 0: none. */
uint64_t reader_awaited(struct reader *reader);
/* Whether memory of an ended request is still being received into. */
bool reader_lands(struct reader *reader, uint64_t request);
void reader_greet(struct reader *reader, uint32_t chunk_bytes, uint64_t credit);
void reader_credit(struct reader *reader, uint64_t bytes);
/* The answer to the undecided REQUEST; its length arrays are no longer needed. */
void reader_admit(struct reader *reader, uint64_t request,
                  const struct route_tensor tensors[FAS_TENSOR_COUNT], uint64_t *claimed);
void reader_refuse(struct reader *reader, uint64_t request);
/* An admitted request is over. Returns whether its memory is still being received into; then its
 * last INBOX_LANDED is yet to come. */
bool reader_finish(struct reader *reader, uint64_t request);
void reader_error(struct reader *reader, struct fas_error *error);

#endif
