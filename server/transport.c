/*
 * transport.c: the table of streams, and the list of those that have something to tell. What kinds
 * have in common stands here; what sets them apart is behind stream.h.
 */
#include "server/transport.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "server/log.h"
#include "server/stream.h"

static const struct stream_kind *const kinds[] = {&stream_socket, &stream_nng};

#define KINDS (sizeof kinds / sizeof kinds[0])

struct transport {
    void *states[KINDS]; /* NULL: the kind is not listening */
    uint32_t stream_count;
    struct stream *streams;
    bool stopped;
    transport_wake *wake;
    void *wake_context;

    pthread_mutex_t lock;
    struct stream *first_ready, **last_ready;
};

/* ---- what is told to the loop ---- */

/* Under the lock. */
static void make_ready(struct stream *stream, unsigned events)
{
    struct transport *transport = stream->transport;
    stream->events |= events;
    if (!stream->ready && stream->events != 0) {
        stream->ready = true;
        stream->next_ready = NULL;
        *transport->last_ready = stream;
        transport->last_ready = &stream->next_ready;
    }
}

/* Under the lock. The first reason stays. */
static void note(struct stream *stream, unsigned events, const struct fas_error *why)
{
    if (events & STREAM_ENDED && !stream->broken && stream->ended.status == FAS_OK) {
        stream->broken = why == NULL;
        stream->ended = why ? *why : stream->ended;
    }
    make_ready(stream, events);
}

void stream_begin(struct stream *stream)
{
    pthread_mutex_lock(&stream->transport->lock);
    stream->outstanding++;
    pthread_mutex_unlock(&stream->transport->lock);
}

void stream_end(struct stream *stream, unsigned events, const struct fas_error *why)
{
    struct transport *transport = stream->transport;
    pthread_mutex_lock(&transport->lock);
    stream->outstanding--;
    if (stream->outstanding == 0 && stream->closing) {
        events |= STREAM_CLOSED;
    }
    note(stream, events, why);
    pthread_mutex_unlock(&transport->lock);
    if (events != 0) {
        transport->wake(transport->wake_context);
    }
}

void stream_note(struct stream *stream, unsigned events, const struct fas_error *why)
{
    pthread_mutex_lock(&stream->transport->lock);
    note(stream, events, why);
    pthread_mutex_unlock(&stream->transport->lock);
}

void stream_close_fds(struct send *send)
{
    while (send->fd_count > 0) {
        close(send->fds[--send->fd_count]);
    }
}

bool stream_sent(struct stream *stream, size_t bytes)
{
    struct send *send = &stream->sends[0];
    unsigned done = 0;
    while (done < send->count && bytes >= send->iov[done].iov_len) {
        bytes -= send->iov[done++].iov_len;
    }
    send->count -= done;
    memmove(send->iov, send->iov + done, send->count * sizeof send->iov[0]);
    if (send->count > 0) {
        send->iov[0].iov_base = (uint8_t *)send->iov[0].iov_base + bytes;
        send->iov[0].iov_len -= bytes;
        return false;
    }
    stream->sends[0] = stream->sends[1];
    stream->sends[1].count = stream->sends[1].fd_count = 0;
    stream->sends_done++;
    return true;
}

/* ---- new peers ---- */

void transport_wake_loop(struct transport *transport)
{
    transport->wake(transport->wake_context);
}

uint32_t stream_count(const struct transport *transport)
{
    return transport->stream_count;
}

static struct stream *free_stream(struct transport *transport)
{
    for (uint32_t i = 0; i < transport->stream_count; i++) {
        if (!transport->streams[i].used) {
            return &transport->streams[i];
        }
    }
    return NULL;
}

struct stream *stream_adopt(struct transport *transport, const struct stream_kind *kind, bool ipc)
{
    struct stream *stream = free_stream(transport);
    if (!stream) {
        log_warn("connection_refused", log_str("reason", "no place even to say so"));
        return NULL;
    }
    stream->kind = kind;
    stream->used = true;
    stream->closing = false;
    stream->broken = false;
    stream->ended = (struct fas_error){0};
    memset(stream->sends, 0, sizeof stream->sends);
    stream->sends_done = 0;
    stream->peer = (struct stream_peer){0};
    reader_reset(&stream->reader, ipc);
    return stream;
}

void stream_accepted(struct stream *stream)
{
    stream_note(stream, STREAM_ACCEPTED, NULL);
}

void transport_poll(struct transport *transport, uint64_t now_us, bool watch)
{
    for (size_t i = 0; i < KINDS; i++) {
        if (transport->states[i]) {
            kinds[i]->poll(transport->states[i], now_us, watch);
        }
    }
}

int transport_fd(const struct transport *transport)
{
    for (size_t i = 0; i < KINDS; i++) {
        if (transport->states[i] && kinds[i]->descriptor) {
            return kinds[i]->descriptor(transport->states[i]);
        }
    }
    return -1;
}

void transport_stop_accepting(struct transport *transport)
{
    for (size_t i = 0; i < KINDS && !transport->stopped; i++) {
        if (transport->states[i]) {
            kinds[i]->stop(transport->states[i]);
        }
    }
    transport->stopped = true;
}

/* ---- the loop's side of a stream ---- */

struct stream *transport_take(struct transport *transport, unsigned *events)
{
    pthread_mutex_lock(&transport->lock);
    struct stream *stream = transport->first_ready;
    if (stream) {
        transport->first_ready = stream->next_ready;
        if (!transport->first_ready) {
            transport->last_ready = &transport->first_ready;
        }
        stream->ready = false;
        *events = stream->events;
        stream->events = 0;
    }
    pthread_mutex_unlock(&transport->lock);
    return stream;
}

bool transport_has_news(struct transport *transport)
{
    pthread_mutex_lock(&transport->lock);
    bool news = transport->first_ready != NULL;
    pthread_mutex_unlock(&transport->lock);
    return news;
}

const struct stream_peer *stream_peer(const struct stream *stream)
{
    return &stream->peer;
}

bool stream_peer_in_group(const struct stream *stream, uint64_t gid)
{
    return stream->kind->peer_in_group(stream, gid);
}

struct reader *stream_reader(struct stream *stream)
{
    return &stream->reader;
}

uint32_t stream_index(const struct stream *stream)
{
    return stream->index;
}

void stream_start(struct stream *stream)
{
    stream->kind->read(stream);
}

void stream_resume(struct stream *stream)
{
    if (!stream->closing && reader_resume(&stream->reader)) {
        stream->kind->read(stream);
    }
}

void stream_send(struct stream *stream, const struct stream_send *what)
{
    assert(what->iov_count > 0 && what->iov_count <= TRANSPORT_IOV_MAX);
    assert(what->fd_count <= (stream->peer.local ? TRANSPORT_FDS_MAX : 0));
    pthread_mutex_lock(&stream->post_lock);
    bool busy = stream->sends[0].count > 0;
    struct send *send = &stream->sends[busy];
    assert(send->count == 0 && send->fd_count == 0);
    memcpy(send->iov, what->iov, what->iov_count * sizeof what->iov[0]);
    send->count = what->iov_count;
    for (unsigned i = 0; i < what->fd_count; i++) {
        send->fds[send->fd_count++] = what->fds[i];
    }
    if (!busy && !stream->closing) {
        stream->kind->send(stream);
    }
    pthread_mutex_unlock(&stream->post_lock);
}

uint64_t stream_sends_done(struct stream *stream)
{
    pthread_mutex_lock(&stream->post_lock);
    uint64_t done = stream->sends_done;
    pthread_mutex_unlock(&stream->post_lock);
    return done;
}

void stream_error(struct stream *stream, struct fas_error *error)
{
    pthread_mutex_lock(&stream->transport->lock);
    *error = stream->ended;
    bool broken = stream->broken;
    pthread_mutex_unlock(&stream->transport->lock);
    if (broken) {
        reader_error(&stream->reader, error);
    }
}

void stream_close(struct stream *stream)
{
    pthread_mutex_lock(&stream->post_lock);
    bool first = !stream->closing;
    if (first) {
        pthread_mutex_lock(&stream->transport->lock); /* stream_end reads both under it */
        stream->outstanding++; /* so that CLOSED comes once, after everything else */
        stream->closing = true;
        pthread_mutex_unlock(&stream->transport->lock);
        stream->kind->close(stream);
    }
    pthread_mutex_unlock(&stream->post_lock);
    if (first) {
        stream_end(stream, 0, NULL);
    }
}

void stream_release(struct stream *stream)
{
    assert(stream->closing && stream->outstanding == 0);
    stream->kind->release(stream);
    for (unsigned i = 0; i < TRANSPORT_SENDS_MAX; i++) {
        stream_close_fds(&stream->sends[i]);
    }
    stream->own = NULL;
    stream->used = false;
}

/* ---- opening ---- */

/* All streams at once, each with its buffers: nothing grows with load. The buffers come from one
 * mapping whose pages exist once they are used. */
static enum fas_status open_streams(struct transport *transport, uint32_t count, uint32_t routes,
                                    struct fas_error *error)
{
    size_t bytes = (reader_memory_bytes(routes) + 4095u) & ~(size_t)4095u;
    transport->streams = calloc(count, sizeof *transport->streams);
    uint8_t *memory = mmap(NULL, bytes * count, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (!transport->streams || memory == MAP_FAILED) {
        return fas_fail(error, FAS_RESOURCE_EXHAUSTED, "connections-max", "no memory for %u",
                        count);
    }
    transport->stream_count = count;
    for (uint32_t i = 0; i < count; i++) {
        struct stream *stream = &transport->streams[i];
        stream->transport = transport;
        stream->index = i;
        pthread_mutex_init(&stream->post_lock, NULL);
        reader_place(&stream->reader, memory + i * bytes, routes, i);
    }
    return FAS_OK;
}

enum fas_status transport_open(struct transport **opened, const struct config *config,
                               uint32_t streams, uint32_t routes_per_stream, transport_wake *wake,
                               void *wake_context, struct fas_error *error)
{
    struct transport *transport = calloc(1, sizeof *transport);
    if (!transport) {
        return fas_fail(error, FAS_RESOURCE_EXHAUSTED, "connections-max", "no memory");
    }
    *opened = transport;
    transport->wake = wake;
    transport->wake_context = wake_context;
    transport->last_ready = &transport->first_ready;
    pthread_mutex_init(&transport->lock, NULL);
    enum fas_status status = open_streams(transport, streams, routes_per_stream, error);
    for (size_t i = 0; i < KINDS && status == FAS_OK; i++) {
        status = kinds[i]->open(transport, config, &transport->states[i], error);
    }
    return status;
}
