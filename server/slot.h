/*
 * slot.h: one admitted request, from REQUEST to the last byte of its answer.
 *
 *   FREE -> RECEIVING -> QUEUED -> RUNNING -> REPLYING -> FREE
 *
 * A slot moves one way only and may skip ahead: whatever ends it early (error, cancel, deadline,
 * lost peer) puts the reason into `error` and moves it to REPLYING. The state names the owner:
 * intake, queue, executor, reply. All are called by the loop thread, which owns all slots; other
 * threads see only memory behind them (payloads being received, the launch that runs).
 *
 * A slot is given back when nothing can touch its memory any more: it is answered (or its peer is
 * gone), no payload is landing in it, no copy, no launch, no send and no event refers to it.
 */
#ifndef SERVER_SLOT_H
#define SERVER_SLOT_H

#include <stdbool.h>
#include <stdint.h>

#include "server/arena.h"
#include "server/request.h"
#include "server/staging.h"

#define SLOT_NONE UINT32_MAX

enum slot_state { SLOT_FREE, SLOT_RECEIVING, SLOT_QUEUED, SLOT_RUNNING, SLOT_REPLYING };

/* How far the results have gone out: ranges of sequences, in them tensors, in them rows. */
struct slot_progress {
    int32_t computed;  /* sequences [0, computed) are done with */
    int32_t ready;     /* sequences [0, ready) are in their places too: they may be told of */
    int32_t storing;   /* on the way to their places: [ready, storing); equal to ready: none */
    uint32_t stores;   /* copies of those, under way */
    int32_t sent;      /* sequences [0, sent) were sent whole */
    int32_t range_end; /* being sent: [sent, range_end); equal to sent: nothing */
    uint32_t tensor;   /* fas_tensor whose rows come next */
    int64_t row;       /* its next row */
    bool all_computed, all_sent;
    uint32_t results; /* chunks so far: the next one's number */
};

/* Moments, clock_us; 0: not yet. */
struct slot_times {
    uint64_t arrived, complete, picked, started, computed, answered;
    uint64_t progress; /* the last time the peer did something for it */
};

/* What its batch was, for DONE. */
struct slot_batch {
    uint64_t id, tokens;
    uint32_t requests, sequences, launches;
};

/* Its events, which lie in places behind those of its tensors. */
enum slot_event { SLOT_AWAITED, SLOT_DONE, SLOT_EVENTS };
#define SLOT_PLACES (FAS_TENSOR_COUNT + SLOT_EVENTS)

struct slot_events {
    bool waiting;   /* a device asks for the awaited one */
    bool recording; /* a device has the done one to record */
    bool passed;    /* the awaited one has come to pass, or there is none */
    bool recorded;  /* streams may wait on the done one, or there is none */
    bool told;      /* ENQUEUED is sent, or there are none */
};

struct connection;

struct slot {
    enum slot_state state;
    uint32_t index;
    uint32_t next, previous;       /* of the connection's, a ring; or of the free ones */
    struct connection *connection; /* NULL: the peer is gone */
    uint64_t id;                   /* the client's */
    uint32_t principal, executor;
    struct request request;
    struct arena_span span;       /* of the executor's arena */
    struct arena_span notes;      /* host memory: sequences, chunk bit map */
    uint64_t *claimed;            /* chunk bit map */
    uint64_t bytes_missing;       /* of the inputs */
    uint64_t bytes_landed;        /* of them, in slabs */
    uint64_t deadline_us;         /* absolute; 0: none */
    uint16_t places[SLOT_PLACES]; /* ids of those its tensors and events lie in; 0: none */
    struct slot_events events;
    uint32_t hold;          /* index of the hold it reads; SLOT_NONE: none */
    int32_t batch_index;    /* RUNNING: which request of the executor's batch */
    struct fas_error error; /* status FAS_OK while all is well */
    bool admitted;          /* its cost is booked on the principal */
    uint32_t landing; /* over, but in these lanes (a bit set) a payload is still received into it */
    uint64_t sends[FAS_LANES_MAX]; /* by lane: the last send that reads its memory; 0: none */
    bool answered;                 /* DONE or ERROR was handed to the transport */
    uint32_t copies;               /* between host and arena, under way; and chunks that rest */
    struct fetch_queue fetches;
    struct slot_progress progress;
    struct slot_times times;
    struct slot_batch batch;
};

struct slots {
    struct slot *entries;
    uint32_t count, free_count;
    uint32_t first_free;
};

bool slots_open(struct slots *slots, uint32_t count);

/* A free slot, now RECEIVING; NULL if there is none. */
struct slot *slot_take(struct slots *slots);

/* Forwards only. */
void slot_move(struct slot *slot, enum slot_state to);

/* A device has one of its events in hand. */
bool slot_has_event_out(const struct slot *slot);

/* No send under way says anything of it. */
bool slot_sent(const struct slot *slot);

/* REPLYING or, if the peer is gone, whatever: nothing may refer to it. */
bool slot_idle(const struct slot *slot);
void slot_give(struct slots *slots, struct slot *slot);

const char *slot_state_name(enum slot_state state);

#endif
