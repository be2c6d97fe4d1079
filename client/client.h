/*
 * client.h: what the files of libfaserve share. One lock per client (the connection's) guards all
 * of it; comments name the exceptions.
 *
 *   client.c    connect, greet, close        call.c      the life of a call
 *   sender.c    what is sent next            receiver.c  what arrives, and where it goes
 *   question.c  ping, stats, drain, open     strided.c   packed bytes <-> strided tensors
 *   place.c     memory shared with the daemon
 *   event.c     CUDA events shared with the daemon
 *   on_stream.c calls on a CUDA stream
 *
 * A call goes one way:  FREE -> OPEN -> ANSWERED -> ENDING -> ENDED -> FREE.
 *   OPEN      the daemon may send results into the caller's memory
 *   ANSWERED  the daemon is done with it; a batch in flight may still read the caller's memory
 *   ENDING    nothing touches the caller's memory; on_end is to be run, or running
 *   ENDED     the caller's, until fas_call_close
 */
#ifndef CLIENT_CLIENT_H
#define CLIENT_CLIENT_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include "client/clock.h"
#include "client/connection.h"
#include "client/faserve.h"
#include "proto/wire.h"

enum call_state { CALL_FREE, CALL_OPEN, CALL_ANSWERED, CALL_ENDING, CALL_ENDED };

struct fas_call {
    struct fas_client *client;
    uint64_t id; /* slot + 1, and above it which REQUEST of all it was: late frames find nobody */
    enum call_state state;
    struct fas_request request;
    struct wire_request wire;
    uint32_t inputs, outputs; /* bit sets of 1u << fas_tensor: those that travel */
    uint32_t placed;          /* the others: the daemon uses them where they are */

    /* Sending: what is next. */
    bool announced, sending, cancelling; /* REQUEST is out; in a send queue; in client.cancels */
    uint32_t tensors_left;               /* inputs not wholly handed over */
    uint32_t chunk;                      /* of the lowest of them */
    uint32_t held;                       /* ranges of the batch in flight in the caller's memory */

    /* Receiving. */
    int64_t rows_left[FAS_TENSOR_COUNT];
    uint32_t receiving;       /* lanes that are receiving into it, or telling of progress */
    bool done;                /* DONE has come; rows may still be on their way in other lanes */
    bool enqueued;            /* ENQUEUED has come */
    struct follow *follow;    /* what is before and behind it on a stream; NULL: nothing */
    uint32_t results, beyond; /* RESULTs that came; one more than their largest number */
    int32_t complete, told;   /* sequences that are complete with all those; told of */
    bool telling;             /* on_progress is running */

    struct fas_report report;
    uint64_t submitted_ns;
    bool in_on_end; /* which `teller` runs */
    pthread_t teller;
    bool closed_in_callback;
    pthread_cond_t ended;
    TAILQ_ENTRY(fas_call) send_link, cancel_link, end_link;
};

TAILQ_HEAD(call_queue, fas_call);

/* Ping, stats, drain, open: a thread asks and waits. On its stack. */
struct question {
    const struct fas_client *client;
    enum frame_type asks, answered_by;
    const struct wire_open *open; /* OPEN: its header */
    uint32_t place;               /* CLOSE: which */
    uint64_t id;
    bool sent, answered;
    struct fas_error error;
    struct wire_stats *stats; /* STATS: where the reply goes */
    struct wire_opened opened;
    int fd; /* that came with OPENED; else -1 */
    pthread_cond_t done;
    TAILQ_ENTRY(question) link;
};

/* Something the daemon need not keep: a retained forward, or a place. */
struct release {
    uint64_t handle;
    uint32_t place; /* 0: it is a handle */
    STAILQ_ENTRY(release) link;
};

/* Frames not in answer to a call have ids with this bit. */
#define QUESTION_BIT (UINT64_C(1) << 63)
/* And those of OPENs whose OPENED brings a descriptor, with this one: also when nobody waits for it
 * any more, the descriptor is its. */
#define REGION_BIT (UINT64_C(1) << 62)

/* Ranges of one batch that lie in callers' memory. */
#define HELD_MAX BATCH_RANGES_MAX

/* One of the client's connections, and what goes with each. Lane 0 is the first one; the others
 * carry payloads only. */
struct lane {
    struct fas_client *client;
    uint32_t number;
    struct connection *connection;
    bool greeted;

    /* sender.c */
    bool hello_sent, pong_wanted, ping_wanted;
    uint64_t pong_id;
    uint64_t upload_credit, credit_owed;
    uint8_t *stage; /* frame heads, headers and small or gathered payloads of the batch in flight */
    size_t stage_bytes, stage_used;
    struct fas_call *held[HELD_MAX];
    uint32_t held_count;

    /* receiver.c; of who receives */
    struct fas_call *receiving; /* NULL: what is received is thrown away */
    struct wire_result result;
    void *scatter; /* a payload on its way to a strided tensor */
    uint8_t *bounce;

    uint32_t silent_ms; /* how long nothing was heard */
};

struct fas_client {
    struct connection *connection; /* lane 0's */
    struct lane lanes[FAS_LANES_MAX];
    uint32_t lane_count;      /* opened */
    uint32_t lanes_lost;      /* of them */
    struct fas_server server; /* constant once greeted */
    char name[FAS_NAME_BYTES_MAX];
    const char *token; /* the caller's, until greeted */
    uint32_t calls_wanted;
    uint32_t cuda_device; /* as in the options */

    uint8_t nonce[FAS_NONCE_BYTES]; /* joins further lanes */

    bool closing;             /* fas_close has begun: nothing new */
    bool lost;                /* the first lane to be lost sets it; the last ends all calls */
    struct fas_error failure; /* when lost */
    pthread_cond_t changed;   /* greeted or lost */

    struct fas_call *calls;
    uint32_t call_count;
    int32_t calls_eager; /* open, with callbacks or for the queue */
    struct call_queue free, ending, finished;
    int event; /* readable while finished has calls */

    /* sender.c */
    bool small_went_last, share_wanted; /* bulk was announced, which other lanes can help with */
    struct call_queue small, bulk, cancels;
    TAILQ_HEAD(, question) questions;
    struct place *places;   /* a chain */
    struct event *events;   /* another */
    struct follow *follows; /* of no call */
    uint64_t places_used;   /* counts requests' uses of them */
    STAILQ_HEAD(, release) releases;
    uint64_t result_window;      /* of a lane */
    uint64_t next_id, announced; /* of questions; REQUESTs so far */

    /* receiver.c; of who receives in lane 0, the acks of others while they are greeted */
    struct wire_hello_ack *ack;
    struct wire_stats *stats;

    uint32_t silence_ms;
};

/* sender.c */
bool sender_next_batch(void *context, struct batch *batch);
bool sender_batch_sent(void *context, bool in_passing);
/* The call has things to send; the call has nothing to send any more. Under the lock. */
void sender_add(struct fas_call *call);
void sender_remove(struct fas_call *call);
void sender_open(struct fas_client *client);
bool sender_open_lane(struct lane *lane);
/* Bulk was announced in lane 0: the others help. Without the lock. */
void sender_share(struct fas_client *client);

/* receiver.c */
enum fas_status receiver_on_head(void *context, const struct frame *frame, const uint8_t *header,
                                 void **payload, struct fas_error *error);
enum fas_status receiver_on_frame(void *context, const struct frame *frame,
                                  struct fas_error *error);

/* call.c */
/* Under the lock. */
enum fas_status call_open_all(struct fas_client *client);
void call_free_all(struct fas_client *client);
/* An OPEN call that the daemon has heard of, by its id, or NULL. Under the lock. */
struct fas_call *call_find(struct fas_client *client, uint64_t id);
/* Its REQUEST is next: its id is larger than all before. Under the lock. */
void call_number(struct fas_call *call);
/* The daemon is done with it. Under the lock; then call_tell without. */
void call_answer(struct fas_call *call, const struct fas_error *error);
/* No longer read by a batch; no longer received into. Under the lock. */
void call_unhold(struct fas_call *call);
void call_received(struct fas_call *call);
/* Runs on_end of calls that have ended, and wakes who waits. On threads of the library, without the
 * lock. */
void call_tell(struct fas_client *client);
/* The connection is gone, and nothing touches memory any more. Under the lock. */
void call_lose_all(struct fas_client *client, const struct fas_error *error);

/* Whether the daemon may be using memory or events of the program's for it. Under the lock. */
bool call_lends(const struct fas_call *call);

/* event.c. Events that the request names and the daemon does not know are opened by it. Waits, so
 * without the lock. */
enum fas_status event_share(struct fas_client *client, const struct fas_request *request,
                            struct fas_error *error);
/* Events of the call are named by place. Under the lock. */
enum fas_status event_locate(struct fas_call *call, struct fas_error *error);
void event_free_all(struct fas_client *client);

/* on_stream.c. Puts the call, which is to be made, on the request's stream: *follow is what it
 * needs for that; NULL: there is no stream. May wait for the daemon and the stream, so without the
 * lock.
 */
enum fas_status stream_begin(struct fas_client *client, const struct fas_request *request,
                             struct follow **follow, struct fas_error *error);
/* The call has it from here on. Under the lock. */
void stream_place(struct fas_call *call, struct follow *follow);
/* The call has ended, or is not made after all: the stream goes on. Under the lock. */
void stream_release(struct fas_client *client, struct follow *follow);
void stream_free_all(struct fas_client *client);

/* place.c. Under the lock. */
/* CUDA allocations that the request names and the daemon does not know are opened by it. Waits, so
 * without the lock. */
enum fas_status place_share(struct fas_client *client, const struct fas_request *request,
                            struct fas_error *error);
/* Tensors of the call that lie in shared memory are named by place instead of being sent. */
void place_locate(struct fas_call *call);
/* Calls of which the daemon may be using shared memory are cancelled and waited for. Not under the
 * lock; the last that happens on a connection. */
void place_settle(struct fas_client *client);
void place_free_all(struct fas_client *client);

/* question.c. Under the lock. */
struct question *question_find(struct fas_client *client, uint64_t id, enum frame_type answered_by);
void question_answer(struct question *question, const struct fas_error *error);
/* Without the lock: asks, and waits for the answer. */
enum fas_status question_ask(struct fas_client *client, struct question *question,
                             uint32_t timeout_ms, struct fas_error *error);
/* Without the lock: queues it; the release is freed when sent. */
enum fas_status question_release(struct fas_client *client, uint64_t handle, uint32_t place,
                                 struct fas_error *error);

/* client.c */
void client_cond_init(pthread_cond_t *cond);

#endif
