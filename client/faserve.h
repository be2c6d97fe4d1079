/*
 * faserve.h: variable-length attention, forward and backward, computed by the daemon `faserved`.
 * This header is the manual of libfaserve. client/example.c is a whole program.
 *
 *     struct fas_connect_options options = {.url = "ipc:///run/faserved/faserved.sock"};
 *     struct fas_client *client;
 *     if (fas_connect(&options, &client, &error) != FAS_OK) ...
 *     struct fas_request request = {...};            what to compute, on which buffers
 *     struct fas_report report;
 *     fas_run(client, &request, &report);            or fas_submit, and go on meanwhile
 *     fas_close(client);
 *
 * Zero is the default. Every struct here is filled from zero ({0}; in C++ {}); zero fields mean
 * "the usual", and `reserved` must stay zero, so that programs keep working when fields are added.
 *
 * Memory. Tensors and length arrays are the caller's. Inputs are sent straight from their buffers,
 * results are received straight into theirs; nothing is allocated per request. A call ENDS exactly
 * once, and until then its inputs must not change and its outputs must not be read, except the rows
 * that on_progress reported. A call ends only when neither the library nor the daemon can touch the
 * caller's memory any more: that holds after success, error, cancel, deadline and lost connection
 * alike. The structs passed in are copied; only what they point to must stay.
 *
 * Errors. Each function that can fail returns a status and fills *error (NULL: not wanted) with the
 * status, the name of the field at fault as spelled here and a text. The daemon judges requests;
 * the library refuses on its own only what would endanger the caller's memory, so rules live in one
 * place. A request is a pure function of its bytes: submitting it again is always safe.
 *
 * Lost connections. Nothing reconnects by itself. All calls of the connection end with UNAVAILABLE
 * (INTERNAL: the daemon broke the protocol), later ones are refused with it; fas_close, then
 * fas_connect again and resubmit. A daemon that has hung or become unreachable is found out by
 * pings, within silence_ms and a quarter of it. A call whose tensors the daemon uses where they are
 * (fas_alloc, CUDA memory) ends when the daemon has hung up or is dead, as one that only seems dead
 * may write there yet.
 *
 * Threads. A client and its calls may be used from any number of threads at once; exceptions stand
 * at the function. Callbacks run on threads of the library with no lock held, those of one call one
 * after the other: they may submit, cancel, take and close ended calls, and must not wait (fas_run,
 * fas_wait, fas_enqueued, fas_alloc, fas_free, fas_ping, fas_stats, fas_drain, closing an unended
 * call, fas_close), nor take long: they hold up the results of the other calls. The library has
 * threads of its own, so a process must not fork without exec after fas_connect.
 */
#ifndef FASERVE_H
#define FASERVE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/status.h" /* enum fas_status, struct fas_error */
#include "proto/tensor.h" /* enum fas_tensor, fas_dtype, fas_pass; struct fas_dims; sizes */

#ifdef __cplusplus
extern "C" {
#endif

/* "0.1.0". Static. */
const char *fas_version(void);

/* ---- connections ---- */

struct fas_client;

struct fas_connect_options {
    /*
     * ipc:///run/faserved/faserved.sock   same node; the peer's uid is the identity
     * tcp://10.0.0.7:7411                 needs a token; neither secret nor sealed on the way
     * tls+tcp://node7:7411                TLS 1.2 and a token; about 0.14 GB/s (mbedTLS)
     */
    const char *url;
    const char *token;             /* shared secret; NULL: none */
    const char *name;              /* for the daemon's log; NULL: the program's name */
    const char *tls_ca_file;       /* PEM of the authorities to trust; needed with tls+tcp */
    const char *tls_server_name;   /* as in the certificate; NULL: the url's host */
    const char *tls_cert_key_file; /* PEM of own certificate and key; NULL: none */
    uint32_t connect_timeout_ms;   /* of each: an address, a greeting; looking up a host's name is
                                      the system's; 0: 5000 */
    uint32_t silence_ms;           /* a daemon silent this long is lost; 0: 30000 */
    uint32_t calls_max;            /* in flight at once; 0: 64; the daemon may allow fewer */
    uint32_t connections;          /* that share the tensors of large calls; 0: 1; 8 at most */
    uint32_t cuda_device;          /* whose memory fas_alloc gives: 1 + the program's number of a
                                      GPU; 0: the daemon's first */
    uint32_t spin_us;              /* how long who waits looks for an answer that is likely to come
                                      by then, before it sleeps; 0: 100 where the process may use 4
                                      processors or more, else never; 1: as good as never; 10000 at
                                      most */
    uint64_t result_window_bytes;  /* results on the way at once; 0: 64 MiB */
    uint64_t reserved[7];
};

/*
 * Connects and greets. With `connections`, further ones join the first, and the tensors of calls of
 * more than a chunk travel by all of them, as they have room; on_progress may then tell of more
 * sequences at a time. RESOURCE_EXHAUSTED or UNAUTHENTICATED, field "join": the daemon takes no
 * more, or they were too slow (its hello-timeout). On success *client is to be closed by fas_close.
 * UNAVAILABLE: nobody listens; UNAUTHENTICATED: token missing or wrong; UNSUPPORTED, field
 * "version": the two ends speak no common version; DEADLINE_EXCEEDED: no answer in time.
 */
enum fas_status fas_connect(const struct fas_connect_options *options, struct fas_client **client,
                            struct fas_error *error);

/*
 * Ends the connection and every call still in flight (their callbacks run with CANCELLED, and what
 * they submit is refused), closes all its calls and frees it. NULL is ignored. No other thread may
 * use the client any more.
 */
void fas_close(struct fas_client *client);

#define FAS_SERVER_DEVICES_MAX 16
#define FAS_SERVER_KERNELS_MAX 64

struct fas_server_device {
    char name[64], uuid[64], arch[64]; /* "cpu:0"; CUDA devices only; "cpu", "sm90" */
    uint64_t arena_bytes;
};

struct fas_server_kernel {
    char name[64], arch[64];
    enum fas_pass pass;
    uint32_t dtypes; /* bit set of 1u << fas_dtype */
    int32_t d_min, d_max, dv_min, dv_max;
};

/* What the daemon said when it greeted. Valid until fas_close; never changes. */
struct fas_server {
    char name[64]; /* "faserved 0.1.0" */
    uint32_t version;
    uint32_t calls_max;     /* requests in flight on this connection */
    uint32_t sequences_max; /* of one request */
    uint64_t request_bytes_max, retain_bytes_max;
    uint32_t chunk_bytes;
    uint32_t device_count, kernel_count;
    struct fas_server_device devices[FAS_SERVER_DEVICES_MAX];
    struct fas_server_kernel kernels[FAS_SERVER_KERNELS_MAX];
};
const struct fas_server *fas_server(const struct fas_client *client);

/* ---- requests ---- */

/*
 * One tensor. Element (row, head, c) is at data + row * row_stride + head * head_stride + c * size,
 * strides in bytes. Both strides 0: packed, as tensor.h lays it out, and then nothing is copied in
 * the library. Otherwise rows are gathered on the way out and scattered on the way in, at the price
 * of one copy; the last dimension is always contiguous. The statistics (lse, dlse, delta) are one
 * fp32 per row and head: packed is (heads, rows); (rows, heads) is row_stride 4 * heads,
 * head_stride 4. Strides must be multiples of the element's size, and not make outputs overlap.
 */
struct fas_buffer {
    void *data; /* inputs are only read */
    int64_t row_stride, head_stride;
};

/*
 * How one side's rows form sequences. With cu_seqlens, sequence b is rows cu_seqlens[b] up to
 * cu_seqlens[b + 1]; the first is 0, the last total. Without, sequence b starts at b * max_len.
 * With seqused, only the first seqused[b] rows of it count; the others' results are 0 (lse: -inf).
 * The two sides choose freely; a GPU takes sequences of up to 2^24 rows. The arrays must stay as
 * they are until the call ends.
 */
struct fas_lengths {
    const int32_t *cu_seqlens; /* batch + 1, or NULL */
    const int32_t *seqused;    /* batch, or NULL */
    int32_t max_len;           /* only without cu_seqlens: rows per sequence, used or not */
};

/*
 * Key j is seen by query i iff j <= i + len_k - len_q + right (with has_right) and
 * j >= i + len_k - len_q - left (with has_left): bottom-right aligned. Zero: everything is seen.
 * Causal is has_right with right 0.
 */
struct fas_mask {
    bool has_left, has_right;
    int32_t left, right;
};

enum fas_priority { FAS_PRIORITY_NORMAL = 0, FAS_PRIORITY_HIGH = 1, FAS_PRIORITY_LOW = 2 };

#define FAS_BUFFERS_MAX 16 /* room for tensors to come */

struct fas_call;
struct fas_report;

/*
 * The call has ended; its report is valid until the call is closed, which may be done right here.
 * Runs once, possibly before fas_submit has returned.
 */
typedef void fas_on_end(struct fas_call *call, const struct fas_report *report, void *context);

/* All results of sequences [first, first + count) are in place and may be used. */
typedef void fas_on_progress(struct fas_call *call, int32_t first, int32_t count, void *context);

/*
 * What to compute. tensors[] is indexed by enum fas_tensor (FAS_Q, ...):
 *   forward    in: q, k, v, [sink]           out: o, lse (left out when its data is NULL)
 *   backward   in: q, k, v, o, lse, do, [sink, dlse; delta in place of o]
 *              out: dq, dk, dv, [dsink with a sink]
 *   backward of a retained forward (handle): in: do, [dlse]          out: as above
 * q, o, do, dq have dims.hq heads, k, v, dk, dv have dims.hkv; o, v and their gradients are dims.dv
 * wide. sink and dsink are fp32 (hq). Every output row is written.
 */
struct fas_request {
    enum fas_pass pass;
    struct fas_dims dims; /* dtype, heads, head dims, rows of either side */
    int32_t batch;        /* sequences */
    struct fas_lengths q, k;
    struct fas_mask mask;
    float softmax_scale; /* 0: 1 / sqrt(d) */
    float softcap;       /* 0: none */
    bool deterministic;  /* backward: bitwise-equal gradients, run after run */
    bool retain;         /* forward: the daemon keeps copies of q, k, v, o, lse under a handle that
                            the report names, and counts them on retain_bytes_max */
    enum fas_priority priority;
    uint64_t handle;      /* backward: of a retained forward; else 0 */
    uint64_t deadline_us; /* from arrival at the daemon; 0: none */
    struct fas_buffer tensors[FAS_BUFFERS_MAX];
    fas_on_end *on_end;            /* NULL: none */
    fas_on_progress *on_progress;  /* NULL: none */
    void *context;                 /* for the callbacks and fas_call_context */
    bool queue;                    /* when ended, put it where fas_take finds it */
    void *stream;                  /* cudaStream_t that the call is on; NULL: none. Below */
    void *wait_event, *done_event; /* cudaEvent_t; NULL: none. Below */
    uint64_t reserved[5];
};

/* How a call ended. error.status FAS_OK: the results are complete. Times are the daemon's. */
struct fas_report {
    struct fas_error error;
    uint64_t queue_us;    /* complete at the daemon, until picked for a batch */
    uint64_t copy_in_us;  /* arrival of the request, until its inputs are at the device */
    uint64_t compute_us;  /* the batch's launches */
    uint64_t copy_out_us; /* computed, until the last result was handed to the network */
    uint64_t server_us;   /* arrival to answer */
    uint64_t client_us;   /* fas_submit to end, as seen here */
    uint64_t batch_id, batch_tokens; /* what it was batched with */
    uint32_t batch_requests, batch_sequences;
    uint32_t launches;
    uint32_t places; /* bit set of 1u << fas_place: how the tensors travelled */
    uint64_t handle; /* of a retained forward, to be released by fas_release; else 0 */
    char device[64], kernel[64];
};

/* ---- calls ---- */

/*
 * Hands a request over and returns at once; *call (NULL: not wanted) is to be closed by
 * fas_call_close. An error means that the call does not exist: no callback runs.
 * RESOURCE_EXHAUSTED, field "calls_max": that many are in flight, or ended and not closed. The end
 * of the call is learnt by any of: on_end; fas_wait; with request.queue, fas_fd and fas_take.
 */
enum fas_status fas_submit(struct fas_client *client, const struct fas_request *request,
                           struct fas_call **call, struct fas_error *error);

/* Waits for the call's end; negative timeout: for ever. False: it has not ended yet. */
bool fas_wait(struct fas_call *call, int64_t timeout_ms);

/* The report of a call that has ended, until it is closed; before that NULL. */
const struct fas_report *fas_call_report(struct fas_call *call);

/* request.context. */
void *fas_call_context(const struct fas_call *call);

/*
 * Asks the daemon to stop. The call still ends as usual, soon, with CANCELLED, or with what it had
 * come to. A call of which nothing has been sent yet ends here and now, on_end included. Ended
 * calls are left alone.
 */
void fas_cancel(struct fas_call *call);

/* Gives the call back; one that has not ended is cancelled and waited for. NULL is ignored. */
void fas_call_close(struct fas_call *call);

/*
 * fas_submit, fas_wait, fas_call_close. *report (NULL: not wanted) is always filled; on_end and
 * queue of the request are ignored.
 */
enum fas_status fas_run(struct fas_client *client, const struct fas_request *request,
                        struct fas_report *report);

/*
 * A descriptor that polls readable while fas_take has something to give. It is the client's: do not
 * read or close it.
 */
int fas_fd(const struct fas_client *client);

/* The next ended call that was submitted with request.queue, in order of ending; NULL: none now. */
struct fas_call *fas_take(struct fas_client *client);

/* The daemon may forget a retained forward. Never waits. */
enum fas_status fas_release(struct fas_client *client, uint64_t handle, struct fas_error *error);

/* ---- shared memory ---- */

/*
 * Memory that the daemon uses where it is: tensors that lie in it do not travel, and the report's
 * places say so. FAS_PLACE_REGION: memory of this node that the daemon made; the connection must be
 * ipc:// and the daemon willing (UNAUTHENTICATED, field "place": its option share-with).
 * FAS_PLACE_CUDA: memory of the GPU that the connection's cuda_device names; any other CUDA memory
 * of the program's (cudaMalloc, not a pool) is recognised as well: the first call on an allocation
 * lets the daemon open it, and waits for that, so it is not for callbacks; the 64 most recently
 * used stay open, and an open one keeps freed memory from coming back. Work on it that a stream
 * still has to do must be over before the call is made, or be before it on its stream. A daemon
 * with several GPUs computes where the memory is, unless that GPU has so much to do that another is
 * done sooner, the copies over to it and back included: the report's device says which it was.
 * FAS_PLACE_INLINE: ordinary memory, so that a program can choose by one variable. At least 64-byte
 * aligned and zero. Ask for large pieces and divide them: a tensor is recognised by its address,
 * wherever in a piece it begins; it must begin at a multiple of 16 bytes (statistics: of 4), its
 * strides be multiples of the same, and it must end in its piece. Nothing of it is sent another way
 * instead: what the daemon can not use there is refused by name. Tensors in and outside such memory
 * mix in a request. Waits for the daemon.
 */
enum fas_status fas_alloc(struct fas_client *client, enum fas_place place, uint64_t bytes,
                          void **memory, struct fas_error *error);

/*
 * Gives back what fas_alloc gave; no call that uses it is in flight. Waits for the daemon to have
 * let go of it, too: what it took of a quota is free then. What is not given back goes with
 * fas_close. A lost connection leaves the memory readable until then. NULL is ignored.
 */
void fas_free(struct fas_client *client, void *memory);

/* Copies between host and CUDA memory, either way, and returns when it is done. */
enum fas_status fas_copy(void *to, const void *from, uint64_t bytes, struct fas_error *error);

/* ---- streams ---- */

/*
 * A call on a stream is like a kernel on it: request.stream names a cudaStream_t, fas_submit
 * returns at once, the daemon reads the inputs when all that was given to the stream before is
 * done, and what is given to it from then on begins when the call has ended. Nobody waits on the
 * host:
 *
 *     request.stream = stream;
 *     fas_submit(client, &request, &call, &error);
 *     next_kernel<<<..., stream>>>(output);           and look at the call's report some time
 *
 * The stream goes on however the call ends (error, cancel, deadline, lost connection, killed
 * daemon); the report says whether the outputs may be used. What is before the call on the stream
 * has the daemon's progress-timeout (30 s) to be done, else the call ends with DEADLINE_EXCEEDED,
 * field "wait_event"; it holds nobody else up. As many calls as are in flight at once wait for the
 * daemon the first time they are made: not for callbacks. ipc:// connections only, 1024 such calls
 * of a process at a time, on any of its GPUs; the default stream is cudaStreamLegacy or
 * cudaStreamPerThread. CUDA may have no room for more work on a stream: then fas_submit waits.
 *
 * The two halves by themselves: wait_event, an event of the program's that is recorded behind the
 * work that writes the inputs; done_event, one that the daemon records behind the last write to
 * CUDA memory and regions, for streams to wait for:
 *
 *     if (fas_enqueued(call, -1))
 *         cudaStreamWaitEvent(stream, done, 0);
 *
 * done_event saves the way from the daemon to the program, some 30 us, and needs a daemon that
 * lives: a stream that waits for it when the daemon is killed or its GPU fails may never go on,
 * until the program ends. Use it where that would end the program anyway; a stream never has that
 * risk.
 *
 * Events are created with cudaEventInterprocess | cudaEventDisableTiming on the GPU that is the
 * calling thread's current one in fas_submit. The first call that names one lets the daemon open
 * it, and waits for that. A wait_event that was never recorded is no wait at all. Until
 * fas_enqueued the program neither records wait_event anew nor has a stream wait for done_event;
 * calls in flight have different ones. A call that fails before fas_enqueued has recorded nothing;
 * one that fails later has.
 */

/*
 * Waits until the daemon has done_event recorded (with wait_event or stream alone: has seen what is
 * before the call done). False: the call ended before that, or (a negative timeout: for ever) it
 * takes longer.
 */
bool fas_enqueued(struct fas_call *call, int64_t timeout_ms);

/* The daemon closes an event that it opened for calls, all of which have ended. Needed before
 * cudaEventDestroy; waits for the daemon. What is not closed goes with fas_close. */
void fas_event_close(struct fas_client *client, void *event);

/* ---- the daemon ---- */

/* Time to the daemon's loop and back. */
enum fas_status fas_ping(struct fas_client *client, uint32_t timeout_ms, uint64_t *round_trip_us,
                         struct fas_error *error);

struct fas_stat {
    char name[64];
    double value;
};

/* Fills up to room stats, *count says how many. 512 is room for all. */
enum fas_status fas_stats(struct fas_client *client, uint32_t timeout_ms, struct fas_stat *stats,
                          uint32_t room, uint32_t *count, struct fas_error *error);

/* The daemon refuses new requests from now on, finishes what it has and exits. For operators. */
enum fas_status fas_drain(struct fas_client *client, uint32_t timeout_ms, struct fas_error *error);

#ifdef __cplusplus
}
#endif

#endif
