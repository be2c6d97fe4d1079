/*
 * stream_nng.c: tls, through nng's byte streams. The daemon's only file with nng.
 *
 * Callbacks run on nng's threads: the accept callback keeps the new stream for the loop, the
 * receive callback runs the reader (reader.h) and posts the next receive, the send callback sends
 * what is left. None of them waits, frees, or decides anything. A stream has at most one receive
 * and one send posted: nng completes partially, so a second one would interleave.
 *
 * Streams are used instead of nng sockets because they alone give back-pressure per peer, notice a
 * disconnect at once, and receive into memory of ours.
 */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <nng/nng.h>
#include <nng/supplemental/tls/tls.h>

#include "server/log.h"
#include "server/stream.h"
#include "server/tls.h"

struct side;

struct listener {
    struct side *side;
    nng_stream_listener *nng;
    nng_aio *aio;

    /* Under the lock. */
    pthread_mutex_t lock;
    nng_stream *accepted;
    bool failed; /* accept has to be tried again */
};

/* The kind's part of a stream: both its operations exist from the start. */
struct own {
    struct stream *stream; /* while it is used */
    nng_duration progress_timeout_ms;
    nng_stream *nng;
    nng_aio *rx, *tx;
};

struct side {
    struct transport *transport;
    struct listener listener;
    struct own *owns; /* by index of stream */
};

static void end_nng(struct stream *stream, unsigned events, int result)
{
    struct fas_error why;
    if (result == NNG_ETIMEDOUT) {
        fas_fail(&why, FAS_DEADLINE_EXCEEDED, "", "no progress in the middle of a message");
    } else {
        fas_fail(&why, FAS_UNAVAILABLE, "", "%s", nng_strerror(result));
    }
    stream_end(stream, events, &why);
}

/* ---- receive chain ---- */

static void receive(struct stream *stream)
{
    struct own *own = stream->own;
    struct iovec targets[2];
    nng_iov iov[2];
    unsigned count = reader_targets(&stream->reader, targets);
    for (unsigned i = 0; i < count; i++) {
        iov[i] = (nng_iov){targets[i].iov_base, targets[i].iov_len};
    }
    nng_aio_set_iov(own->rx, count, iov);
    /* Idle between messages is fine; half a message and then silence is not. Restarting with every
     * receive makes it a limit on inactivity. */
    nng_aio_set_timeout(own->rx, reader_between_messages(&stream->reader)
                                     ? NNG_DURATION_INFINITE
                                     : own->progress_timeout_ms);
    pthread_mutex_lock(&stream->post_lock);
    if (!stream->closing) {
        stream_begin(stream);
        nng_stream_recv(own->nng, own->rx);
    }
    pthread_mutex_unlock(&stream->post_lock);
}

/* Takes what is there and posts the next receive. It is the callback's turn, or the loop's after a
 * pause; the turn is given up last. */
static void advance(struct stream *stream)
{
    switch (reader_advance(&stream->reader)) {
    case READER_RECEIVE: {
        bool news = reader_has_news(&stream->reader);
        receive(stream);
        stream_end(stream, news ? STREAM_RECEIVED : 0, NULL);
        break;
    }
    case READER_PAUSED:
        stream_end(stream, STREAM_RECEIVED, NULL);
        break;
    case READER_FAILED:
        stream_end(stream, STREAM_RECEIVED | STREAM_ENDED, NULL);
        break;
    }
}

static void receive_done(void *context)
{
    struct own *own = context;
    struct stream *stream = own->stream;
    int result = nng_aio_result(own->rx);
    if (result != 0) {
        end_nng(stream, STREAM_ENDED, result);
        return;
    }
    reader_received(&stream->reader, nng_aio_count(own->rx));
    advance(stream);
}

static void read_on(struct stream *stream)
{
    stream_begin(stream);
    advance(stream);
}

/* ---- send chain ---- */

/* Under post_lock, and not when closing. */
static void post_send(struct stream *stream)
{
    struct own *own = stream->own;
    const struct send *send = &stream->sends[0];
    nng_iov iov[TRANSPORT_IOV_MAX];
    for (unsigned i = 0; i < send->count; i++) {
        iov[i] = (nng_iov){send->iov[i].iov_base, send->iov[i].iov_len};
    }
    nng_aio_set_iov(own->tx, send->count, iov);
    nng_aio_set_timeout(own->tx, own->progress_timeout_ms);
    stream_begin(stream);
    nng_stream_send(own->nng, own->tx);
}

/* What is left of this send goes on, else the next one does, without the loop in between. */
static void send_done(void *context)
{
    struct own *own = context;
    struct stream *stream = own->stream;
    int result = nng_aio_result(own->tx);
    if (result != 0) {
        end_nng(stream, STREAM_SENT | STREAM_ENDED, result);
        return;
    }
    pthread_mutex_lock(&stream->post_lock);
    unsigned events = stream_sent(stream, nng_aio_count(own->tx)) ? STREAM_SENT : 0;
    if (stream->sends[0].count > 0 && !stream->closing) {
        post_send(stream);
    }
    pthread_mutex_unlock(&stream->post_lock);
    stream_end(stream, events, NULL);
}

/* ---- the end ---- */

static bool in_no_group(const struct stream *stream, uint64_t gid)
{
    (void)stream, (void)gid;
    return false; /* nobody vouches for a peer far away */
}

static void close_nng(struct stream *stream)
{
    struct own *own = stream->own;
    nng_stream_close(own->nng);
}

static void release(struct stream *stream)
{
    struct own *own = stream->own;
    /* The callbacks have ended but for their return; the loop, unlike them, may wait for that. */
    nng_aio_wait(own->rx);
    nng_aio_wait(own->tx);
    nng_stream_free(own->nng);
    own->nng = NULL;
}

/* ---- accepting ---- */

static void accept_done(void *context)
{
    struct listener *listener = context;
    int result = nng_aio_result(listener->aio);
    pthread_mutex_lock(&listener->lock);
    if (result == 0) {
        listener->accepted = nng_aio_get_output(listener->aio, 0);
    } else if (result != NNG_ECLOSED) {
        listener->failed = true; /* descriptors or memory ran out: at once again would spin */
    }
    pthread_mutex_unlock(&listener->lock);
    transport_wake_loop(listener->side->transport);
}

static void describe_peer(struct stream *stream)
{
    const struct own *own = stream->own;
    struct stream_peer *peer = &stream->peer;
    nng_sockaddr address;
    if (nng_stream_get_addr(own->nng, NNG_OPT_REMADDR, &address) != 0) {
        return;
    }
    if (address.s_family == NNG_AF_INET) {
        const uint8_t *a = (const uint8_t *)&address.s_in.sa_addr;
        const uint8_t *p = (const uint8_t *)&address.s_in.sa_port;
        snprintf(peer->address, sizeof peer->address, "%u.%u.%u.%u:%u", a[0], a[1], a[2], a[3],
                 p[0] * 256u + p[1]);
    } else {
        snprintf(peer->address, sizeof peer->address, "ipv6");
    }
}

/* With all places taken the newcomer is closed: an end of stream tells it more than silence. */
static void adopt(struct side *side, nng_stream *accepted)
{
    struct stream *stream = stream_adopt(side->transport, &stream_nng, false);
    if (!stream) {
        nng_stream_free(accepted);
        return;
    }
    struct own *own = &side->owns[stream->index];
    own->stream = stream;
    own->nng = accepted;
    stream->own = own;
    describe_peer(stream);
    stream_accepted(stream);
}

static void poll_listener(void *state, uint64_t now_us, bool watch)
{
    struct side *side = state;
    struct listener *listener = &side->listener;
    (void)now_us; /* timeouts are nng's */
    pthread_mutex_lock(&listener->lock);
    nng_stream *accepted = listener->accepted;
    bool again = accepted || (listener->failed && watch);
    listener->accepted = NULL;
    listener->failed = listener->failed && !again;
    pthread_mutex_unlock(&listener->lock);
    if (accepted) {
        adopt(side, accepted);
    }
    if (again) {
        nng_stream_listener_accept(listener->nng, listener->aio);
    }
}

static void stop(void *state)
{
    struct side *side = state;
    nng_stream_listener_close(side->listener.nng);
}

/* ---- opening ---- */

static enum fas_status nng_failed(int result, const char *option, const char *value,
                                  struct fas_error *error)
{
    return fas_fail(error, FAS_INVALID_ARGUMENT, option, "%s: %s", value, nng_strerror(result));
}

/* Not listening yet. */
static enum fas_status add_listener(struct side *side, const char *where, struct fas_error *error)
{
    char url[CONFIG_TEXT_BYTES_MAX + 16];
    snprintf(url, sizeof url, "tls+tcp://%s", where);
    struct listener *listener = &side->listener;
    int result = nng_stream_listener_alloc(&listener->nng, url);
    if (result == 0) {
        result = nng_aio_alloc(&listener->aio, accept_done, listener);
    }
    if (result != 0) {
        return nng_failed(result, "listen-tls", where, error);
    }
    /* Off by default for streams; two small sends would then cost 40 ms. */
    nng_stream_listener_set_bool(listener->nng, NNG_OPT_TCP_NODELAY, true);
    nng_stream_listener_set_bool(listener->nng, NNG_OPT_TCP_KEEPALIVE, true);
    return FAS_OK;
}

static enum fas_status listen_on(struct listener *listener, const char *where,
                                 struct fas_error *error)
{
    int result = nng_stream_listener_listen(listener->nng);
    if (result != 0) {
        return nng_failed(result, "listen-tls", where, error);
    }
    log_info("listening", log_str("option", "listen-tls"), log_str("at", where));
    nng_stream_listener_accept(listener->nng, listener->aio);
    return FAS_OK;
}

/* Server certificate, and with tls-ca the demand for a client's. What tls_read let pass, nng takes,
 * unless memory is short. */
static int configure_tls(nng_tls_config *tls, const struct tls_files *files)
{
    int result = nng_tls_config_own_cert(tls, files->cert, files->key, NULL);
    if (result == 0 && files->ca) {
        nng_tls_config_auth_mode(tls, NNG_TLS_AUTH_MODE_REQUIRED);
        result = nng_tls_config_ca_chain(tls, files->ca, NULL);
    }
    return result;
}

static enum fas_status open_tls(struct side *side, const struct config *config,
                                struct fas_error *error)
{
    struct tls_files files;
    if (tls_read(&files, config, error) != FAS_OK) {
        return error->status;
    }
    struct listener *listener = &side->listener;
    nng_tls_config *tls = NULL;
    enum fas_status status = add_listener(side, config->listen_tls, error);
    if (status == FAS_OK) {
        int result = nng_tls_config_alloc(&tls, NNG_TLS_MODE_SERVER);
        result = result == 0 ? configure_tls(tls, &files) : result;
        status = result == 0 ? FAS_OK : nng_failed(result, "tls-cert", config->tls_cert, error);
    }
    tls_forget(&files);
    if (status == FAS_OK) {
        nng_stream_listener_set_ptr(listener->nng, NNG_OPT_TLS_CONFIG, tls);
        status = listen_on(listener, config->listen_tls, error);
    }
    if (tls) {
        nng_tls_config_free(tls); /* the listener keeps its own reference */
    }
    return status;
}

static enum fas_status open_operations(struct side *side, const struct config *config,
                                       struct fas_error *error)
{
    uint32_t count = stream_count(side->transport);
    side->owns = calloc(count, sizeof *side->owns);
    bool complete = side->owns != NULL;
    for (uint32_t i = 0; i < count && complete; i++) {
        struct own *own = &side->owns[i];
        own->progress_timeout_ms = (nng_duration)(config->progress_timeout_us / 1000);
        complete = nng_aio_alloc(&own->rx, receive_done, own) == 0 &&
                   nng_aio_alloc(&own->tx, send_done, own) == 0;
    }
    return complete ? FAS_OK
                    : fas_fail(error, FAS_RESOURCE_EXHAUSTED, "connections-max", "no memory for %u",
                               count);
}

static enum fas_status open_side(struct transport *transport, const struct config *config,
                                 void **state, struct fas_error *error)
{
    if (config->listen_tls[0] == '\0') {
        return FAS_OK; /* and nng starts no threads */
    }
    struct side *side = calloc(1, sizeof *side);
    if (!side) {
        return fas_fail(error, FAS_RESOURCE_EXHAUSTED, "connections-max", "no memory");
    }
    *state = side;
    side->transport = transport;
    side->listener.side = side;
    pthread_mutex_init(&side->listener.lock, NULL);
    enum fas_status status = open_operations(side, config, error);
    return status == FAS_OK ? open_tls(side, config, error) : status;
}

const struct stream_kind stream_nng = {
    .open = open_side,
    .poll = poll_listener,
    .stop = stop,
    .read = read_on,
    .send = post_send,
    .close = close_nng,
    .peer_in_group = in_no_group,
    .release = release,
};
