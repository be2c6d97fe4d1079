/*
 * connection.c: the send chain and the receive chain over one nng stream; see connection.h.
 *
 * Receiving. `buffer` holds what has been received and not been parsed. A frame's head and header
 * are parsed in it; a payload's first part is copied out of it, the rest is received by one readv
 * into its final place and, behind that, into the buffer again: in bulk a megabyte costs one copy,
 * the kernel's, and a small answer of several frames costs one wake.
 *
 * The end. Whoever sees a failure first closes the stream; then both operations complete with an
 * error, and the last chain to come to rest tells the owner. So on_lost means that nobody reads or
 * writes the caller's buffers any more. nng 1.5.2 never completes an operation begun on a closed
 * stream, so beginning one and closing exclude each other by a gate per direction.
 */
#include "client/connection.h"

#include <assert.h>
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

    pthread_mutex_t tx_gate, rx_gate; /* closing takes both; a gate comes before lock */
    bool closed;

    pthread_mutex_t lock;
    pthread_cond_t lost_told;
    bool started, tx_active, rx_active, failed, telling, told;
    bool heard;               /* bytes came or went since the last tick */
    struct fas_error failure; /* the first */
    struct batch batch;       /* being sent; the send chain's while tx_active */

    /* The receive chain's own. */
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

/* One chain rests; the last one to do so after a failure tells the owner. */
static void connection_rest(struct connection *c, bool *active)
{
    pthread_mutex_lock(&c->lock);
    *active = false;
    bool last = c->failed && !c->tx_active && !c->rx_active && !c->telling;
    c->telling |= last;
    pthread_mutex_unlock(&c->lock);
    if (!last) {
        return;
    }
    c->owner.on_lost(c->owner.context, &c->failure);
    pthread_mutex_lock(&c->lock);
    c->told = true;
    pthread_cond_broadcast(&c->lost_told);
    pthread_mutex_unlock(&c->lock);
}

/*
 * A chain's state goes from the thread that began an operation, under the gate, to the one that
 * runs its completion. nng's own locks order that, too, but thread sanitizer can not see into nng.
 */
static void gate_pass(pthread_mutex_t *gate)
{
    pthread_mutex_lock(gate);
    pthread_mutex_unlock(gate);
}

/* ---- the send chain ---- */

/* Under the gate, and open. */
static void tx_send(struct connection *c)
{
    nng_iov iov[BATCH_RANGES_MAX];
    for (int i = 0; i < c->batch.count; i++) {
        iov[i].iov_buf = (void *)(uintptr_t)c->batch.ranges[i].data; /* nng only reads it */
        iov[i].iov_len = c->batch.ranges[i].bytes;
    }
    nng_aio_set_iov(c->tx, (unsigned)c->batch.count, iov);
    nng_stream_send(c->stream, c->tx);
}

/* Sends the rest of the batch; false: the stream is closed. */
static bool tx_continue(struct connection *c)
{
    pthread_mutex_lock(&c->tx_gate);
    bool open = !c->closed;
    if (open) {
        tx_send(c);
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

void connection_push(struct connection *c)
{
    pthread_mutex_lock(&c->lock);
    bool idle = c->started && !c->tx_active && !c->failed;
    pthread_mutex_unlock(&c->lock);
    if (!idle) {
        return; /* whoever sends now asks for the next batch afterwards */
    }
    pthread_mutex_lock(&c->tx_gate);
    pthread_mutex_lock(&c->lock);
    bool go = !c->closed && !c->tx_active;
    if (go) {
        c->batch.count = 0;
        go = c->owner.next_batch(c->owner.context, &c->batch);
        c->tx_active = go;
    }
    pthread_mutex_unlock(&c->lock);
    if (go) {
        tx_send(c);
    }
    pthread_mutex_unlock(&c->tx_gate);
}

static void on_tx(void *context)
{
    struct connection *c = context;
    gate_pass(&c->tx_gate);
    int failed = nng_aio_result(c->tx);
    if (failed == 0) {
        pthread_mutex_lock(&c->lock);
        c->heard = true;
        pthread_mutex_unlock(&c->lock);
        if (!tx_advance(&c->batch, nng_aio_count(c->tx)) && tx_continue(c)) {
            return;
        }
    } else {
        connection_fail_nng(c, failed);
    }
    c->owner.batch_sent(c->owner.context);
    connection_rest(c, &c->tx_active);
    connection_push(c);
}

/* ---- the receive chain ---- */

/* Under the gate, and open. */
static void rx_post(struct connection *c)
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
    nng_aio_set_iov(c->rx, count, iov);
    nng_stream_recv(c->stream, c->rx);
}

static void rx_receive(struct connection *c)
{
    pthread_mutex_lock(&c->rx_gate);
    bool open = !c->closed;
    if (open) {
        rx_post(c);
    }
    pthread_mutex_unlock(&c->rx_gate);
    if (!open) {
        connection_rest(c, &c->rx_active);
    }
}

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

static void on_rx(void *context)
{
    struct connection *c = context;
    gate_pass(&c->rx_gate);
    int failed = nng_aio_result(c->rx);
    if (failed != 0) {
        connection_fail_nng(c, failed);
        connection_rest(c, &c->rx_active);
        return;
    }
    rx_fill(c, nng_aio_count(c->rx));
    struct fas_error error;
    if (rx_parse(c, &error) != FAS_OK) {
        connection_fail(c, &error);
        connection_rest(c, &c->rx_active);
        return;
    }
    pthread_mutex_lock(&c->lock);
    c->heard = true;
    pthread_mutex_unlock(&c->lock);
    c->owner.on_read(c->owner.context);
    rx_receive(c);
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
    pthread_cond_destroy(&c->lost_told);
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
    pthread_cond_init(&c->lost_told, NULL);
    c->buffer = malloc(BUFFER_BYTES);
    if (!c->buffer || nng_aio_alloc(&c->tx, on_tx, c) != 0 ||
        nng_aio_alloc(&c->rx, on_rx, c) != 0 || nng_aio_alloc(&c->ticker, on_ticker, c) != 0) {
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

void connection_start(struct connection *c, uint32_t period_ms)
{
    pthread_mutex_lock(&c->lock);
    c->period_ms = period_ms;
    c->started = true;
    c->rx_active = true;
    pthread_mutex_unlock(&c->lock);
    nng_sleep_aio((nng_duration)period_ms, c->ticker);
    rx_receive(c);
    connection_push(c);
}

void connection_close(struct connection *c)
{
    struct fas_error error;
    fas_fail(&error, FAS_CANCELLED, "", "the connection was closed here");
    connection_fail(c, &error);
    pthread_mutex_lock(&c->lock);
    while (c->started && !c->told) {
        pthread_cond_wait(&c->lost_told, &c->lock);
    }
    pthread_mutex_unlock(&c->lock);
    nng_aio_stop(c->ticker);
    nng_aio_stop(c->tx);
    nng_aio_stop(c->rx);
    gate_pass(&c->lock); /* after whatever the last callbacks did */
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
