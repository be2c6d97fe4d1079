/*
 * transport.c: callbacks first (what nng's threads do), then the loop's side, accepting, opening.
 *
 * Every posted operation and every turn of a reader counts as outstanding; the end of the last one,
 * after stream_close, makes STREAM_CLOSED.
 */
#include "server/transport.h"

#include <assert.h>
#include <errno.h>
#include <grp.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <nng/nng.h>
#include <nng/supplemental/tls/tls.h>

#include "server/log.h"

/* What is left of one stream_send; count 0: none. */
struct send {
    nng_iov iov[TRANSPORT_IOV_MAX];
    unsigned count;
};

struct stream {
    struct transport *transport;
    uint32_t index;
    bool used; /* the loop's */
    nng_stream *nng;
    nng_aio *rx, *tx;
    struct reader reader;
    struct stream_peer peer;

    /* Held while posting and while closing: nng 1.5.2 never completes what is posted on a closed
     * stream. */
    pthread_mutex_t post_lock;
    bool closing;
    struct send sends[TRANSPORT_SENDS_MAX]; /* the one under way, and the one behind it */
    uint64_t sends_done;

    /* Under transport.lock. */
    unsigned outstanding; /* operations posted whose callbacks have not ended, and turns taken */
    unsigned events;
    bool ready;
    struct stream *next_ready;
    int result; /* nng's, of the first failure; NNG_EPROTO: the reader has the reason */
};

struct listener {
    struct transport *transport;
    nng_stream_listener *nng;
    nng_aio *aio;
    const char *option;
    bool local;

    /* Under transport.lock. */
    nng_stream *accepted;
    bool failed; /* accept has to be tried again */
};

#define LISTENERS_MAX 3u

/* A chain of certificates or a key, in PEM. */
#define TLS_FILE_BYTES_MAX (256u << 10)

struct transport {
    struct listener listeners[LISTENERS_MAX];
    uint32_t listener_count, stream_count;
    struct stream *streams;
    nng_duration progress_timeout_ms;
    bool stopped;
    transport_wake *wake;
    void *wake_context;

    pthread_mutex_t lock;
    struct stream *first_ready, **last_ready;
};

/* ---- what callbacks tell the loop ---- */

/* Called with the lock held. */
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

static void begin(struct stream *stream)
{
    pthread_mutex_lock(&stream->transport->lock);
    stream->outstanding++;
    pthread_mutex_unlock(&stream->transport->lock);
}

/* The last thing a callback or a turn does. result: nng's, with STREAM_ENDED. */
static void end(struct stream *stream, unsigned events, int result)
{
    struct transport *transport = stream->transport;
    pthread_mutex_lock(&transport->lock);
    stream->outstanding--;
    if (stream->result == 0) {
        stream->result = result;
    }
    if (stream->outstanding == 0 && stream->closing) {
        events |= STREAM_CLOSED;
    }
    make_ready(stream, events);
    pthread_mutex_unlock(&transport->lock);
    if (events != 0) {
        transport->wake(transport->wake_context);
    }
}

/* ---- receive chain ---- */

static void receive(struct stream *stream)
{
    struct iovec targets[2];
    nng_iov iov[2];
    unsigned count = reader_targets(&stream->reader, targets);
    for (unsigned i = 0; i < count; i++) {
        iov[i] = (nng_iov){targets[i].iov_base, targets[i].iov_len};
    }
    nng_aio_set_iov(stream->rx, count, iov);
    /* Idle between messages is fine; half a message and then silence is not. Restarting with every
     * receive makes it a limit on inactivity. */
    nng_aio_set_timeout(stream->rx, reader_between_messages(&stream->reader)
                                        ? NNG_DURATION_INFINITE
                                        : stream->transport->progress_timeout_ms);
    pthread_mutex_lock(&stream->post_lock);
    if (!stream->closing) {
        begin(stream);
        nng_stream_recv(stream->nng, stream->rx);
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
        end(stream, news ? STREAM_RECEIVED : 0, 0);
        break;
    }
    case READER_PAUSED:
        end(stream, STREAM_RECEIVED, 0);
        break;
    case READER_FAILED:
        end(stream, STREAM_RECEIVED | STREAM_ENDED, NNG_EPROTO);
        break;
    }
}

static void receive_done(void *context)
{
    struct stream *stream = context;
    int result = nng_aio_result(stream->rx);
    if (result != 0) {
        end(stream, STREAM_ENDED, result);
        return;
    }
    reader_received(&stream->reader, nng_aio_count(stream->rx));
    advance(stream);
}

void stream_start(struct stream *stream)
{
    begin(stream);
    advance(stream);
}

void stream_resume(struct stream *stream)
{
    if (!stream->closing && reader_resume(&stream->reader)) {
        begin(stream);
        advance(stream);
    }
}

/* ---- send chain ---- */

/* Called with post_lock held, and not when closing. */
static void post_send(struct stream *stream)
{
    struct send *send = &stream->sends[0];
    nng_aio_set_iov(stream->tx, send->count, send->iov);
    nng_aio_set_timeout(stream->tx, stream->transport->progress_timeout_ms);
    begin(stream);
    nng_stream_send(stream->nng, stream->tx);
}

/* Removes `bytes` from the front of what is left; false: nothing is. */
static bool take_sent(struct send *send, size_t bytes)
{
    unsigned done = 0;
    while (done < send->count && bytes >= send->iov[done].iov_len) {
        bytes -= send->iov[done++].iov_len;
    }
    send->count -= done;
    memmove(send->iov, send->iov + done, send->count * sizeof send->iov[0]);
    if (send->count > 0) {
        send->iov[0].iov_buf = (uint8_t *)send->iov[0].iov_buf + bytes;
        send->iov[0].iov_len -= bytes;
    }
    return send->count > 0;
}

/* What is left of this send goes on, else the next one does, without the loop in between. */
static void send_done(void *context)
{
    struct stream *stream = context;
    int result = nng_aio_result(stream->tx);
    if (result != 0) {
        end(stream, STREAM_SENT | STREAM_ENDED, result);
        return;
    }
    unsigned events = 0;
    pthread_mutex_lock(&stream->post_lock);
    if (!take_sent(&stream->sends[0], nng_aio_count(stream->tx))) {
        stream->sends[0] = stream->sends[1];
        stream->sends[1].count = 0;
        stream->sends_done++;
        events = STREAM_SENT;
    }
    if (stream->sends[0].count > 0 && !stream->closing) {
        post_send(stream);
    }
    pthread_mutex_unlock(&stream->post_lock);
    end(stream, events, 0);
}

void stream_send(struct stream *stream, const struct iovec *iov, unsigned count)
{
    assert(count > 0 && count <= TRANSPORT_IOV_MAX);
    pthread_mutex_lock(&stream->post_lock);
    bool busy = stream->sends[0].count > 0;
    struct send *send = &stream->sends[busy];
    assert(send->count == 0);
    for (unsigned i = 0; i < count; i++) {
        send->iov[i] = (nng_iov){iov[i].iov_base, iov[i].iov_len};
    }
    send->count = count;
    if (!busy && !stream->closing) {
        post_send(stream);
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

const struct stream_peer *stream_peer(const struct stream *stream)
{
    return &stream->peer;
}

struct reader *stream_reader(struct stream *stream)
{
    return &stream->reader;
}

uint32_t stream_index(const struct stream *stream)
{
    return stream->index;
}

void stream_error(struct stream *stream, struct fas_error *error)
{
    pthread_mutex_lock(&stream->transport->lock);
    int result = stream->result;
    pthread_mutex_unlock(&stream->transport->lock);
    if (result == NNG_EPROTO) {
        reader_error(&stream->reader, error);
    } else if (result == NNG_ETIMEDOUT) {
        fas_fail(error, FAS_DEADLINE_EXCEEDED, "", "no progress in the middle of a message");
    } else {
        fas_fail(error, FAS_UNAVAILABLE, "", "%s", nng_strerror(result));
    }
}

void stream_close(struct stream *stream)
{
    pthread_mutex_lock(&stream->post_lock);
    bool first = !stream->closing;
    if (first) {
        pthread_mutex_lock(&stream->transport->lock); /* `end` reads both under it */
        stream->outstanding++; /* so that CLOSED comes once, after both callbacks */
        stream->closing = true;
        pthread_mutex_unlock(&stream->transport->lock);
        nng_stream_close(stream->nng);
    }
    pthread_mutex_unlock(&stream->post_lock);
    if (first) {
        end(stream, 0, 0);
    }
}

void stream_release(struct stream *stream)
{
    assert(stream->closing && stream->outstanding == 0);
    /* The callbacks have ended but for their return; the loop, unlike them, may wait for that. */
    nng_aio_wait(stream->rx);
    nng_aio_wait(stream->tx);
    nng_stream_free(stream->nng);
    stream->nng = NULL;
    stream->used = false;
}

/* ---- accepting ---- */

static void accept_done(void *context)
{
    struct listener *listener = context;
    struct transport *transport = listener->transport;
    int result = nng_aio_result(listener->aio);
    pthread_mutex_lock(&transport->lock);
    if (result == 0) {
        listener->accepted = nng_aio_get_output(listener->aio, 0);
    } else if (result != NNG_ECLOSED) {
        listener->failed = true; /* descriptors or memory ran out: at once again would spin */
    }
    pthread_mutex_unlock(&transport->lock);
    transport->wake(transport->wake_context);
}

static void describe_peer(struct stream *stream, bool local)
{
    struct stream_peer *peer = &stream->peer;
    *peer = (struct stream_peer){.local = local};
    if (local) {
        uint64_t pid = 0;
        if (nng_stream_get_uint64(stream->nng, NNG_OPT_IPC_PEER_UID, &peer->uid) != 0) {
            peer->local = false; /* the kernel does not say who: a stranger */
        }
        nng_stream_get_uint64(stream->nng, NNG_OPT_IPC_PEER_PID, &pid);
        snprintf(peer->address, sizeof peer->address, "uid %" PRIu64 " pid %" PRIu64, peer->uid,
                 pid);
        return;
    }
    nng_sockaddr address;
    if (nng_stream_get_addr(stream->nng, NNG_OPT_REMADDR, &address) != 0) {
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

static struct stream *free_stream(struct transport *transport)
{
    for (uint32_t i = 0; i < transport->stream_count; i++) {
        if (!transport->streams[i].used) {
            return &transport->streams[i];
        }
    }
    return NULL;
}

/* Gives what a listener accepted a place, and accepts the next one. With all places taken the
 * newcomer is closed: an end of stream tells it more than silence. */
static void adopt(struct listener *listener, nng_stream *accepted)
{
    struct transport *transport = listener->transport;
    struct stream *stream = free_stream(transport);
    if (!stream) {
        log_warn("connection_refused", log_str("reason", "connections-max reached"));
        nng_stream_free(accepted);
        return;
    }
    stream->used = true;
    stream->closing = false;
    stream->result = 0;
    stream->sends[0].count = stream->sends[1].count = 0;
    stream->sends_done = 0;
    stream->nng = accepted;
    describe_peer(stream, listener->local);
    reader_reset(&stream->reader, listener->local);
    pthread_mutex_lock(&transport->lock);
    make_ready(stream, STREAM_ACCEPTED);
    pthread_mutex_unlock(&transport->lock);
}

void transport_accept(struct transport *transport, bool retry)
{
    for (uint32_t i = 0; i < transport->listener_count && !transport->stopped; i++) {
        struct listener *listener = &transport->listeners[i];
        pthread_mutex_lock(&transport->lock);
        nng_stream *accepted = listener->accepted;
        bool again = accepted || (listener->failed && retry);
        listener->accepted = NULL;
        listener->failed = listener->failed && !again;
        pthread_mutex_unlock(&transport->lock);
        if (accepted) {
            adopt(listener, accepted);
        }
        if (again) {
            nng_stream_listener_accept(listener->nng, listener->aio);
        }
    }
}

void transport_stop_accepting(struct transport *transport)
{
    transport->stopped = true;
    for (uint32_t i = 0; i < transport->listener_count; i++) {
        nng_stream_listener_close(transport->listeners[i].nng);
    }
}

/* ---- opening ---- */

/* nng would delete a regular file at the path and take over a live daemon's socket. */
static enum fas_status check_socket_path(const char *path, struct fas_error *error)
{
    struct stat status;
    if (strlen(path) >= sizeof((struct sockaddr_un *)NULL)->sun_path) {
        return fas_fail(error, FAS_INVALID_ARGUMENT, "listen-ipc", "%s: too long for a socket",
                        path);
    }
    if (lstat(path, &status) != 0) {
        return errno == ENOENT ? FAS_OK
                               : fas_fail(error, FAS_INVALID_ARGUMENT, "listen-ipc", "%s: %s", path,
                                          strerror(errno));
    }
    if (!S_ISSOCK(status.st_mode)) {
        return fas_fail(error, FAS_INVALID_ARGUMENT, "listen-ipc", "%s exists and is not a socket",
                        path);
    }
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    memcpy(address.sun_path, path, strlen(path) + 1);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    bool stale = fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) != 0 &&
                 errno == ECONNREFUSED;
    if (fd >= 0) {
        close(fd);
    }
    if (!stale) {
        return fas_fail(error, FAS_INVALID_ARGUMENT, "listen-ipc",
                        "%s: a daemon is listening there", path);
    }
    unlink(path);
    return FAS_OK;
}

static enum fas_status give_to_group(const char *path, const char *group, struct fas_error *error)
{
    const struct group *entry = getgrnam(group);
    if (!entry) {
        return fas_fail(error, FAS_INVALID_ARGUMENT, "ipc-group", "no group named %s", group);
    }
    if (chown(path, (uid_t)-1, entry->gr_gid) != 0) {
        return fas_fail(error, FAS_INVALID_ARGUMENT, "ipc-group", "%s: %s", path, strerror(errno));
    }
    return FAS_OK;
}

static enum fas_status nng_failed(int result, const char *option, const char *value,
                                  struct fas_error *error)
{
    return fas_fail(error, FAS_INVALID_ARGUMENT, option, "%s: %s", value, nng_strerror(result));
}

/* A listener that is not listening yet, or NULL. */
static struct listener *add_listener(struct transport *transport, const char *scheme,
                                     const char *option, const char *where, struct fas_error *error)
{
    char url[CONFIG_TEXT_BYTES_MAX + 16];
    snprintf(url, sizeof url, "%s%s", scheme, where);
    struct listener *listener = &transport->listeners[transport->listener_count];
    *listener = (struct listener){.transport = transport, .option = option};
    int result = nng_stream_listener_alloc(&listener->nng, url);
    if (result == 0) {
        result = nng_aio_alloc(&listener->aio, accept_done, listener);
    }
    if (result != 0) {
        nng_failed(result, option, where, error);
        return NULL;
    }
    transport->listener_count++;
    return listener;
}

static enum fas_status listen_on(struct listener *listener, const char *where,
                                 struct fas_error *error)
{
    int result = nng_stream_listener_listen(listener->nng);
    if (result != 0) {
        return nng_failed(result, listener->option, where, error);
    }
    log_info("listening", log_str("option", listener->option), log_str("at", where));
    nng_stream_listener_accept(listener->nng, listener->aio);
    return FAS_OK;
}

static enum fas_status open_ipc(struct transport *transport, const struct config *config,
                                struct fas_error *error)
{
    enum fas_status status = check_socket_path(config->listen_ipc, error);
    if (status != FAS_OK) {
        return status;
    }
    struct listener *listener =
        add_listener(transport, "ipc://", "listen-ipc", config->listen_ipc, error);
    if (!listener) {
        return error->status;
    }
    listener->local = true;
    nng_stream_listener_set_int(listener->nng, NNG_OPT_IPC_PERMISSIONS, (int)config->ipc_mode);
    status = listen_on(listener, config->listen_ipc, error);
    if (status == FAS_OK && config->ipc_group[0] != '\0') {
        status = give_to_group(config->listen_ipc, config->ipc_group, error);
    }
    return status;
}

static enum fas_status open_tcp(struct transport *transport, const struct config *config,
                                struct fas_error *error)
{
    struct listener *listener =
        add_listener(transport, "tcp://", "listen-tcp", config->listen_tcp, error);
    if (!listener) {
        return error->status;
    }
    /* Off by default for streams; two small sends would then cost 40 ms. */
    nng_stream_listener_set_bool(listener->nng, NNG_OPT_TCP_NODELAY, true);
    nng_stream_listener_set_bool(listener->nng, NNG_OPT_TCP_KEEPALIVE, true);
    return listen_on(listener, config->listen_tcp, error);
}

/* A small file as text, allocated; an nng error number. */
static int read_text(const char *path, char **text)
{
    FILE *file = fopen(path, "re");
    if (!file) {
        return errno == ENOENT ? NNG_ENOENT : NNG_EPERM;
    }
    *text = calloc(1, TLS_FILE_BYTES_MAX + 1);
    size_t bytes = *text ? fread(*text, 1, TLS_FILE_BYTES_MAX, file) : 0;
    fclose(file);
    return bytes > 0 ? 0 : NNG_EINVAL;
}

/* Server certificate, and with tls-ca the demand for a client's. */
static enum fas_status configure_tls(nng_tls_config *tls, const struct config *config,
                                     struct fas_error *error)
{
    char *cert = NULL, *key = NULL;
    int result = read_text(config->tls_cert, &cert);
    if (result == 0) {
        result = read_text(config->tls_key, &key);
    }
    if (result == 0) {
        result = nng_tls_config_own_cert(tls, cert, key, NULL);
    }
    free(cert);
    free(key);
    if (result != 0) {
        return nng_failed(result, "tls-cert", config->tls_cert, error);
    }
    if (config->tls_ca[0] == '\0') {
        return FAS_OK;
    }
    nng_tls_config_auth_mode(tls, NNG_TLS_AUTH_MODE_REQUIRED);
    result = nng_tls_config_ca_file(tls, config->tls_ca);
    return result == 0 ? FAS_OK : nng_failed(result, "tls-ca", config->tls_ca, error);
}

static enum fas_status open_tls(struct transport *transport, const struct config *config,
                                struct fas_error *error)
{
    struct listener *listener =
        add_listener(transport, "tls+tcp://", "listen-tls", config->listen_tls, error);
    if (!listener) {
        return error->status;
    }
    nng_stream_listener_set_bool(listener->nng, NNG_OPT_TCP_NODELAY, true);
    nng_stream_listener_set_bool(listener->nng, NNG_OPT_TCP_KEEPALIVE, true);
    nng_tls_config *tls;
    int result = nng_tls_config_alloc(&tls, NNG_TLS_MODE_SERVER);
    if (result != 0) {
        return nng_failed(result, "listen-tls", config->listen_tls, error);
    }
    enum fas_status status = configure_tls(tls, config, error);
    if (status == FAS_OK) {
        nng_stream_listener_set_ptr(listener->nng, NNG_OPT_TLS_CONFIG, tls);
        status = listen_on(listener, config->listen_tls, error);
    }
    nng_tls_config_free(tls); /* the listener keeps its own reference */
    return status;
}

/* All streams at once, each with its buffers and both its operations: nothing grows with load. The
 * buffers come from one mapping whose pages exist once they are used. */
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
        reader_place(&stream->reader, memory + i * bytes, routes);
        if (nng_aio_alloc(&stream->rx, receive_done, stream) != 0 ||
            nng_aio_alloc(&stream->tx, send_done, stream) != 0) {
            return fas_fail(error, FAS_RESOURCE_EXHAUSTED, "connections-max", "no memory for %u",
                            count);
        }
    }
    return FAS_OK;
}

enum fas_status transport_open(struct transport **opened, const struct config *config,
                               uint32_t routes_per_stream, transport_wake *wake, void *wake_context,
                               struct fas_error *error)
{
    struct transport *transport = calloc(1, sizeof *transport);
    if (!transport) {
        return fas_fail(error, FAS_RESOURCE_EXHAUSTED, "connections-max", "no memory");
    }
    *opened = transport;
    transport->wake = wake;
    transport->wake_context = wake_context;
    transport->last_ready = &transport->first_ready;
    transport->progress_timeout_ms = (nng_duration)(config->progress_timeout_us / 1000);
    pthread_mutex_init(&transport->lock, NULL);
    enum fas_status status =
        open_streams(transport, config->connections_max, routes_per_stream, error);
    if (status == FAS_OK && config->listen_ipc[0] != '\0') {
        status = open_ipc(transport, config, error);
    }
    if (status == FAS_OK && config->listen_tcp[0] != '\0') {
        status = open_tcp(transport, config, error);
    }
    if (status == FAS_OK && config->listen_tls[0] != '\0') {
        status = open_tls(transport, config, error);
    }
    return status;
}
