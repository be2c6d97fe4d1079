/*
 * connection.c: the send thread and the receive thread over one nng stream; see connection.h.
 *
 * Receiving. `buffer` holds what has been received and not been parsed. A frame's head and header
 * are parsed in it; a payload's first part is copied out of it, the rest is received by one readv
 * into its final place and, behind that, into the buffer again: in bulk a megabyte costs one copy,
 * the kernel's, and a small answer of several frames costs one wake.
 *
 * Sending. tx_active says that somebody has the role; whoever takes it asks the owner for a batch
 * and either sends that in passing or hands it to the send thread, which goes on asking until there
 * is nothing to send.
 *
 * The end. Whoever sees a failure first closes the stream; then both operations complete with an
 * error, and the last direction to come to rest tells the owner. So on_lost means that nobody reads
 * or writes the caller's buffers any more. nng 1.5.2 never completes an operation begun on a closed
 * stream, so beginning one and closing exclude each other by a gate per direction.
 */
#include "client/connection.h"

#include <assert.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include <nng/nng.h>

#include "client/dial.h"

/* A whole head and header always fit; the rest is for small payloads: 64 KiB are 6 us of memcpy. */
#define BUFFER_BYTES (FRAME_HEAD_BYTES_MAX + FAS_HEADER_BYTES_MAX + (64u << 10))

/* Behind a payload only the next frame's head and header are read into the buffer. */
#define BEHIND_PAYLOAD_BYTES 512u

struct connection {
    struct connection_owner owner;
    nng_stream *stream;
    nng_aio *tx, *rx, *ticker;
    bool ipc;
    uint32_t period_ms;
    pthread_t tx_thread, rx_thread;

    pthread_mutex_t tx_gate, rx_gate; /* closing takes both, in this order */
    bool closed;

    pthread_mutex_t lock;
    pthread_cond_t tx_work;
    bool started, stopping, failed, told;
    bool tx_active, rx_active;
    bool tx_handed;           /* the send thread has the role */
    bool tx_pending;          /* and its batch is begun */
    bool heard;               /* bytes came or went since the last tick */
    struct fas_error failure; /* the first */
    struct batch batch;       /* whose who has the role */

    /* The receive thread's own. */
    uint8_t *buffer;
    size_t start, end; /* of what has not been parsed */
    bool greeted;      /* the peer's SP hello has been read */
    bool in_payload;
    struct frame frame;
    uint8_t *payload;
    uint64_t payload_left;
};

/* ---- coming to rest ---- */

void connection_fail(struct connection *c, const struct fas_error *error)
{
    pthread_mutex_lock(&c->lock);
    bool first = !c->failed;
    if (first) {
        c->failed = true;
        c->failure = *error;
    }
    pthread_mutex_unlock(&c->lock);
    if (first) {
        pthread_mutex_lock(&c->tx_gate);
        pthread_mutex_lock(&c->rx_gate);
        c->closed = true;
        pthread_mutex_unlock(&c->rx_gate);
        pthread_mutex_unlock(&c->tx_gate);
        nng_stream_close(c->stream);
    }
}

static void connection_fail_nng(struct connection *c, int nng_error)
{
    struct fas_error error;
    fas_fail(&error, FAS_UNAVAILABLE, "", "the connection is lost: %s", nng_strerror(nng_error));
    connection_fail(c, &error);
}

/* One direction rests; the last one to do so after a failure tells the owner. */
static void connection_rest(struct connection *c, bool *active)
{
    pthread_mutex_lock(&c->lock);
    *active = false;
    bool last = c->failed && !c->tx_active && !c->rx_active && !c->told;
    c->told |= last;
    pthread_mutex_unlock(&c->lock);
    if (last) {
        c->owner.on_lost(c->owner.context, &c->failure);
    }
}

static void connection_heard(struct connection *c)
{
    pthread_mutex_lock(&c->lock);
    c->heard = true;
    pthread_mutex_unlock(&c->lock);
}

/* ---- sending ---- */

/* Begins to send the batch; false: the stream is closed. */
static bool tx_begin(struct connection *c)
{
    nng_iov iov[BATCH_RANGES_MAX];
    for (int i = 0; i < c->batch.count; i++) {
        iov[i].iov_buf = (void *)(uintptr_t)c->batch.ranges[i].data; /* nng only reads it */
        iov[i].iov_len = c->batch.ranges[i].bytes;
    }
    pthread_mutex_lock(&c->tx_gate);
    bool open = !c->closed;
    if (open) {
        nng_aio_set_iov(c->tx, (unsigned)c->batch.count, iov);
        nng_stream_send(c->stream, c->tx);
    }
    pthread_mutex_unlock(&c->tx_gate);
    return open;
}

/* Takes what was sent off the front of the batch; true when nothing is left. */
static bool tx_advance(struct batch *batch, size_t sent)
{
    int done = 0;
    while (done < batch->count && sent >= batch->ranges[done].bytes) {
        sent -= batch->ranges[done++].bytes;
    }
    batch->count -= done;
    memmove(batch->ranges, batch->ranges + done, (size_t)batch->count * sizeof(batch->ranges[0]));
    if (batch->count > 0) {
        batch->ranges[0].data = (const uint8_t *)batch->ranges[0].data + sent;
        batch->ranges[0].bytes -= sent;
    }
    return batch->count == 0;
}

/* Waits for what is begun; false: the stream failed. */
static bool tx_finish(struct connection *c)
{
    nng_aio_wait(c->tx);
    int failed = nng_aio_result(c->tx);
    if (failed != 0) {
        connection_fail_nng(c, failed);
        return false;
    }
    connection_heard(c);
    tx_advance(&c->batch, nng_aio_count(c->tx));
    return true;
}

/* Under the lock: the role, with the owner's next batch, if it is free and there is one. */
static bool tx_take(struct connection *c)
{
    if (c->failed) {
        return false;
    }
    c->batch.count = 0;
    c->batch.borrowed = false;
    return c->owner.next_batch(c->owner.context, &c->batch);
}

static void tx_hand_over(struct connection *c, bool pending)
{
    pthread_mutex_lock(&c->lock);
    c->tx_handed = true;
    c->tx_pending = pending;
    pthread_cond_signal(&c->tx_work);
    pthread_mutex_unlock(&c->lock);
}

/*
 * Sends a small batch in passing. True when it is gone; otherwise the send thread has it. Bytes the
 * kernel takes at once have been counted when nng_stream_send returns, so a count, or an error,
 * says that waiting for the completion will not take long; without one the send thread waits.
 */
static bool tx_in_passing(struct connection *c)
{
    if (c->batch.borrowed || !tx_begin(c)) {
        tx_hand_over(c, false);
        return false;
    }
    bool pending = nng_aio_count(c->tx) == 0 && nng_aio_result(c->tx) == 0;
    if (pending || !tx_finish(c) || c->batch.count > 0) {
        tx_hand_over(c, pending);
        return false;
    }
    c->owner.batch_sent(c->owner.context);
    return true;
}

void connection_push(struct connection *c)
{
    pthread_mutex_lock(&c->lock);
    bool go = c->started && !c->tx_active && tx_take(c);
    c->tx_active |= go;
    pthread_mutex_unlock(&c->lock);
    if (!go || !tx_in_passing(c)) {
        return; /* whoever has the role asks for the next batch afterwards */
    }
    pthread_mutex_lock(&c->lock);
    bool more = c->failed || tx_take(c); /* the end is the send thread's to tell, too */
    c->tx_active = more;
    pthread_mutex_unlock(&c->lock);
    if (more) {
        tx_hand_over(c, false);
    }
}

/* All of the batch and of those that follow; then gives up the role, unless the end is to be told.
 */
static void tx_drain(struct connection *c, bool pending)
{
    bool more = true, rest = false;
    while (more) {
        bool good = pending ? tx_finish(c) : true;
        while (good && c->batch.count > 0) {
            good = tx_begin(c) && tx_finish(c);
        }
        pending = false;
        c->owner.batch_sent(c->owner.context);
        pthread_mutex_lock(&c->lock);
        more = tx_take(c);
        rest = c->failed;
        c->tx_active = more || rest;
        pthread_mutex_unlock(&c->lock);
    }
    if (rest) {
        connection_rest(c, &c->tx_active);
    }
}

static void *tx_run(void *context)
{
    struct connection *c = context;
    pthread_mutex_lock(&c->lock);
    while (c->tx_handed || !c->stopping) {
        if (!c->tx_handed) {
            pthread_cond_wait(&c->tx_work, &c->lock);
            continue;
        }
        bool pending = c->tx_pending;
        c->tx_handed = c->tx_pending = false;
        pthread_mutex_unlock(&c->lock);
        tx_drain(c, pending);
        pthread_mutex_lock(&c->lock);
    }
    pthread_mutex_unlock(&c->lock);
    return NULL;
}

/* ---- receiving ---- */

/* Accounts for n received bytes, which fill the payload first. */
static void rx_fill(struct connection *c, size_t n)
{
    if (c->in_payload) {
        size_t part = n < c->payload_left ? n : (size_t)c->payload_left;
        c->payload += part;
        c->payload_left -= part;
        n -= part;
    }
    c->end += n;
}

/* One step of parsing; *more is false when it needs further bytes. */
static enum fas_status rx_greeting(struct connection *c, bool *more, struct fas_error *error)
{
    if (c->end - c->start < FRAME_SP_HELLO_BYTES) {
        *more = false;
        return FAS_OK;
    }
    if (memcmp(c->buffer + c->start, frame_sp_hello, FRAME_SP_HELLO_BYTES) != 0) {
        return fas_fail(error, FAS_UNSUPPORTED, "hello", "the peer is no faserve daemon");
    }
    c->start += FRAME_SP_HELLO_BYTES;
    c->greeted = true;
    return FAS_OK;
}

static enum fas_status rx_head(struct connection *c, bool *more, struct fas_error *error)
{
    size_t have = c->end - c->start;
    size_t head = frame_prefix_bytes(c->ipc) + FAS_PREAMBLE_BYTES;
    *more = have >= head;
    if (!*more) {
        return FAS_OK;
    }
    const uint8_t *at = c->buffer + c->start;
    enum fas_status status = frame_decode(at, c->ipc, FRAME_SERVER, &c->frame, error);
    if (status != FAS_OK) {
        return status;
    }
    *more = have >= head + c->frame.header_bytes;
    if (!*more) {
        return FAS_OK;
    }
    void *payload = NULL;
    status = c->owner.on_head(c->owner.context, &c->frame, at + head, &payload, error);
    assert(status != FAS_OK || payload || c->frame.payload_bytes == 0);
    c->start += head + c->frame.header_bytes;
    c->payload = payload;
    c->payload_left = c->frame.payload_bytes;
    c->in_payload = true;
    return status;
}

static enum fas_status rx_payload(struct connection *c, bool *more, struct fas_error *error)
{
    size_t have = c->end - c->start;
    size_t part = have < c->payload_left ? have : (size_t)c->payload_left;
    if (part > 0) {
        memcpy(c->payload, c->buffer + c->start, part);
        c->payload += part;
        c->payload_left -= part;
        c->start += part;
    }
    *more = c->payload_left == 0;
    if (!*more) {
        return FAS_OK;
    }
    c->in_payload = false;
    return c->owner.on_frame(c->owner.context, &c->frame, error);
}

static enum fas_status rx_parse(struct connection *c, struct fas_error *error)
{
    enum fas_status status = FAS_OK;
    bool more = true;
    while (status == FAS_OK && more) {
        if (!c->greeted) {
            status = rx_greeting(c, &more, error);
        } else if (c->in_payload) {
            status = rx_payload(c, &more, error);
        } else {
            status = rx_head(c, &more, error);
        }
    }
    /* What is left is less than a head and header. */
    memmove(c->buffer, c->buffer + c->start, c->end - c->start);
    c->end -= c->start;
    c->start = 0;
    return status;
}

/* Receives once; false: the stream is closed or failed. */
static bool rx_receive(struct connection *c)
{
    nng_iov iov[2];
    unsigned count = 0;
    size_t room = BUFFER_BYTES - c->end;
    if (c->in_payload) {
        iov[count].iov_buf = c->payload;
        iov[count++].iov_len = c->payload_left;
        room = BEHIND_PAYLOAD_BYTES;
    }
    iov[count].iov_buf = c->buffer + c->end;
    iov[count++].iov_len = room;
    pthread_mutex_lock(&c->rx_gate);
    bool open = !c->closed;
    if (open) {
        nng_aio_set_iov(c->rx, count, iov);
        nng_stream_recv(c->stream, c->rx);
    }
    pthread_mutex_unlock(&c->rx_gate);
    if (!open) {
        return false;
    }
    nng_aio_wait(c->rx);
    int failed = nng_aio_result(c->rx);
    if (failed != 0) {
        connection_fail_nng(c, failed);
        return false;
    }
    rx_fill(c, nng_aio_count(c->rx));
    connection_heard(c);
    return true;
}

static void *rx_run(void *context)
{
    struct connection *c = context;
    struct fas_error error;
    while (rx_receive(c)) {
        if (rx_parse(c, &error) != FAS_OK) {
            connection_fail(c, &error);
            break;
        }
        c->owner.on_read(c->owner.context);
    }
    connection_rest(c, &c->rx_active);
    return NULL;
}

/* ---- time ---- */

static void on_ticker(void *context)
{
    struct connection *c = context;
    bool stopped = nng_aio_result(c->ticker) != 0;
    pthread_mutex_lock(&c->lock);
    bool heard = c->heard;
    c->heard = false;
    stopped |= c->failed;
    pthread_mutex_unlock(&c->lock);
    if (!stopped) {
        c->owner.on_tick(c->owner.context, heard);
        pthread_mutex_lock(&c->lock); /* last to touch c before connection_close may free it */
        nng_sleep_aio((nng_duration)c->period_ms, c->ticker);
        pthread_mutex_unlock(&c->lock);
    }
}

/* ---- life ---- */

static void connection_free(struct connection *c)
{
    nng_aio_free(c->ticker);
    nng_aio_free(c->tx);
    nng_aio_free(c->rx);
    nng_stream_free(c->stream);
    pthread_cond_destroy(&c->tx_work);
    pthread_mutex_destroy(&c->lock);
    pthread_mutex_destroy(&c->tx_gate);
    pthread_mutex_destroy(&c->rx_gate);
    free(c->buffer);
    free(c);
}

enum fas_status connection_open(const struct fas_connect_options *options,
                                const struct connection_owner *owner,
                                struct connection **connection, struct fas_error *error)
{
    struct connection *c = calloc(1, sizeof(*c));
    if (!c) {
        return fas_fail(error, FAS_RESOURCE_EXHAUSTED, "", "out of memory");
    }
    c->owner = *owner;
    c->ipc = strncmp(options->url, "ipc://", 6) == 0;
    pthread_mutex_init(&c->lock, NULL);
    pthread_mutex_init(&c->tx_gate, NULL);
    pthread_mutex_init(&c->rx_gate, NULL);
    pthread_cond_init(&c->tx_work, NULL);
    c->buffer = malloc(BUFFER_BYTES);
    if (!c->buffer || nng_aio_alloc(&c->tx, NULL, NULL) != 0 ||
        nng_aio_alloc(&c->rx, NULL, NULL) != 0 || nng_aio_alloc(&c->ticker, on_ticker, c) != 0) {
        connection_free(c);
        return fas_fail(error, FAS_RESOURCE_EXHAUSTED, "", "out of memory");
    }
    enum fas_status status = dial(options, &c->stream, error);
    if (status != FAS_OK) {
        connection_free(c);
        return status;
    }
    *connection = c;
    return FAS_OK;
}

/* The threads take no signals: those are the program's. */
static bool threads_start(struct connection *c)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    bool rx = pthread_create(&c->rx_thread, NULL, rx_run, c) == 0;
    bool tx = rx && pthread_create(&c->tx_thread, NULL, tx_run, c) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rx && !tx) {
        struct fas_error error;
        fas_fail(&error, FAS_RESOURCE_EXHAUSTED, "", "no thread can be had");
        connection_fail(c, &error);
        pthread_join(c->rx_thread, NULL);
    }
    return tx;
}

enum fas_status connection_start(struct connection *c, uint32_t period_ms, struct fas_error *error)
{
    c->period_ms = period_ms;
    c->rx_active = true;
    if (!threads_start(c)) {
        return fas_fail(error, FAS_RESOURCE_EXHAUSTED, "", "no thread can be had");
    }
    pthread_mutex_lock(&c->lock);
    c->started = true;
    nng_sleep_aio((nng_duration)period_ms, c->ticker);
    pthread_mutex_unlock(&c->lock);
    connection_push(c);
    return FAS_OK;
}

void connection_close(struct connection *c)
{
    struct fas_error error;
    fas_fail(&error, FAS_CANCELLED, "", "the connection was closed here");
    connection_fail(c, &error);
    nng_aio_stop(c->ticker); /* it may push, so it goes first */
    if (c->started) {
        pthread_join(c->rx_thread, NULL);
        pthread_mutex_lock(&c->lock);
        c->stopping = true; /* with the role in hand it comes to rest before it ends */
        pthread_cond_signal(&c->tx_work);
        pthread_mutex_unlock(&c->lock);
        pthread_join(c->tx_thread, NULL);
    }
    connection_free(c);
}

bool connection_is_ipc(const struct connection *c)
{
    return c->ipc;
}

void connection_lock(struct connection *c)
{
    pthread_mutex_lock(&c->lock);
}

void connection_unlock(struct connection *c)
{
    pthread_mutex_unlock(&c->lock);
}

pthread_mutex_t *connection_mutex(struct connection *c)
{
    return &c->lock;
}
