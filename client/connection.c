/*
 * connection.c: who sends, and how a connection begins and ends; see connection.h. The bytes
 * themselves are moved by a stream (stream.h).
 *
 * Sending. tx_active says that somebody has the role; whoever takes it asks the owner for a batch
 * and either sends that in passing or hands it to the send thread, which goes on asking until there
 * is nothing to send.
 *
 * The end. Whoever sees a failure first closes the stream; then both directions come to rest. If
 * the daemon may be using the caller's memory where it is, the receive thread waits until it has
 * hung up, too: it does that when its last launch on that memory is over. The last of all tells the
 * owner. So on_lost means that nobody reads or writes the caller's buffers any more.
 */
#include <assert.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "client/connection_own.h"

/* What is sent in passing at most: 30 us of copying for a caller who may not want to wait. */
#define PASSING_BYTES (256u << 10)

/* Awake, a short request takes an H200's daemon some 50 us. Beside the waiter the daemon has two
 * threads awake. */
#define SPIN_US_DEFAULT 100u
#define SPIN_PROCESSORS_MIN 4

static_assert(BATCH_RANGES_MAX <= STREAM_IOV_MAX, "a batch is one send");

static const struct stream_kind *const kinds[] = {&stream_unix, &stream_tcp, &stream_tls};

#define KINDS (sizeof(kinds) / sizeof(kinds[0]))

/* ---- coming to rest ---- */

void connection_rest(struct connection *c, bool *active)
{
    pthread_mutex_lock(c->lock);
    if (active) {
        *active = false;
    }
    bool last = c->started && c->failed && c->settled && !c->tx_active && !c->rx_active && !c->told;
    c->told |= last;
    pthread_mutex_unlock(c->lock);
    if (last) {
        c->owner.on_lost(c->owner.context, &c->failure);
    }
}

void connection_kick(struct connection *c)
{
    const uint64_t one = 1;
    if (!c->kicked && write(c->kick, &one, sizeof(one)) == sizeof(one)) {
        c->kicked = true;
    }
}

void connection_fail(struct connection *c, const struct fas_error *error)
{
    pthread_mutex_lock(c->lock);
    bool first = !c->failed;
    if (first) {
        c->failed = true;
        c->failure = *error;
        pthread_cond_signal(&c->rx_work);
        connection_kick(c);
    }
    pthread_mutex_unlock(c->lock);
    if (first) {
        c->kind->close(c->stream);
        connection_rest(c, NULL);
    }
}

void connection_heard(struct connection *c)
{
    pthread_mutex_lock(c->lock);
    c->heard = true;
    pthread_mutex_unlock(c->lock);
}

/* ---- sending ---- */

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

/* A peer that takes no more may have said why: that is read before the end, but for tls. */
static void tx_failed(struct connection *c, const struct fas_error *error)
{
    if (!is_direct(c)) {
        connection_fail(c, error);
        return;
    }
    pthread_mutex_lock(c->lock);
    c->tx_mute = true;
    pthread_mutex_unlock(c->lock);
}

/* Sends some of the batch, or finishes what is pending; false: the stream failed. */
static bool tx_step(struct connection *c, bool *pending)
{
    struct iovec iov[BATCH_RANGES_MAX];
    struct fas_error error;
    size_t bytes = 0;
    enum stream_moved moved;
    if (*pending) {
        moved = c->kind->send_finish(c->stream, &bytes, &error);
    } else {
        for (int i = 0; i < c->batch.count; i++) {
            iov[i].iov_base = (void *)(uintptr_t)c->batch.ranges[i].data; /* only read */
            iov[i].iov_len = c->batch.ranges[i].bytes;
        }
        moved = c->kind->send_begin(c->stream, iov, c->batch.count, &bytes, &error);
    }
    *pending = moved == STREAM_PENDING;
    if (moved == STREAM_FAILED) {
        tx_failed(c, &error);
        return false;
    }
    if (moved == STREAM_MOVED) {
        if (c->batch.borrowed) { /* an upload goes on; that the kernel takes a PING says nothing */
            connection_heard(c);
        }
        tx_advance(&c->batch, bytes);
    }
    return true;
}

/* Under the lock: the role, with the owner's next batch, if it is free and there is one. */
static bool tx_take(struct connection *c)
{
    if (c->failed || c->tx_mute) {
        return false;
    }
    c->batch.count = 0;
    c->batch.borrowed = false;
    return c->owner.next_batch(c->owner.context, &c->batch);
}

static void tx_hand_over(struct connection *c, bool pending)
{
    pthread_mutex_lock(c->lock);
    c->tx_handed = true;
    c->tx_pending = pending;
    pthread_cond_signal(&c->tx_work);
    pthread_mutex_unlock(c->lock);
}

/* nng's streams may take much more of the caller's memory than a caller should wait for. */
static bool tx_may_pass(const struct connection *c)
{
    size_t bytes = 0;
    for (int i = 0; i < c->batch.count; i++) {
        bytes += c->batch.ranges[i].bytes;
    }
    return is_direct(c) ? bytes <= PASSING_BYTES : !c->batch.borrowed;
}

/* Sends the batch in passing. True when it is gone; otherwise the send thread has what the kernel
 * did not take at once, or callbacks that are due. */
static bool tx_in_passing(struct connection *c)
{
    bool pending = false, good = tx_may_pass(c);
    while (good && !pending && c->batch.count > 0) {
        good = tx_step(c, &pending) && is_direct(c);
    }
    if (c->batch.count > 0 || c->owner.batch_sent(c->owner.context, true)) {
        tx_hand_over(c, pending);
        return false;
    }
    return true;
}

void connection_push(struct connection *c)
{
    pthread_mutex_lock(c->lock);
    bool go = c->started && !c->tx_active && tx_take(c);
    c->tx_active |= go;
    pthread_mutex_unlock(c->lock);
    if (!go || !tx_in_passing(c)) {
        return; /* whoever has the role asks for the next batch afterwards */
    }
    pthread_mutex_lock(c->lock);
    bool more = c->failed || tx_take(c); /* the end is the send thread's to tell, too */
    c->tx_active = more;
    pthread_mutex_unlock(c->lock);
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
        while (c->batch.count > 0 && tx_step(c, &pending)) {
        }
        pending = false;
        c->owner.batch_sent(c->owner.context, false);
        pthread_mutex_lock(c->lock);
        more = tx_take(c);
        rest = c->failed;
        c->tx_active = more || rest;
        pthread_mutex_unlock(c->lock);
    }
    if (rest) {
        connection_rest(c, &c->tx_active);
    }
}

static void *tx_run(void *context)
{
    struct connection *c = context;
    pthread_mutex_lock(c->lock);
    while (c->tx_handed || !c->stopping) {
        if (!c->tx_handed) {
            pthread_cond_wait(&c->tx_work, c->lock);
            continue;
        }
        bool pending = c->tx_pending;
        c->tx_handed = c->tx_pending = false;
        pthread_mutex_unlock(c->lock);
        tx_drain(c, pending);
        pthread_mutex_lock(c->lock);
    }
    pthread_mutex_unlock(c->lock);
    return NULL;
}

/* ---- life ---- */

void connection_free(struct connection *c)
{
    if (c->stream) {
        c->kind->free(c->stream);
    }
    if (c->kick >= 0) {
        close(c->kick);
    }
    pthread_cond_destroy(&c->tx_work);
    pthread_cond_destroy(&c->rx_work);
    pthread_cond_destroy(&c->rx_left);
    pthread_mutex_destroy(&c->own_lock);
    free(c->buffer);
    free(c);
}

static const struct stream_kind *kind_of(const char *url)
{
    for (size_t i = 0; i < KINDS; i++) {
        if (strncmp(url, kinds[i]->scheme, strlen(kinds[i]->scheme)) == 0) {
            return kinds[i];
        }
    }
    return NULL;
}

/* Times are those of CLOCK_MONOTONIC. */
static void cond_init(pthread_cond_t *cond)
{
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(cond, &attributes);
    pthread_condattr_destroy(&attributes);
}

static uint64_t spin_ns(const struct fas_connect_options *options)
{
    cpu_set_t allowed;
    bool spare = sched_getaffinity(0, sizeof(allowed), &allowed) == 0 &&
                 CPU_COUNT(&allowed) >= SPIN_PROCESSORS_MIN;
    uint64_t us = options->spin_us ? options->spin_us : spare ? SPIN_US_DEFAULT : 0;
    return us * 1000u;
}

enum fas_status connection_open(const struct fas_connect_options *options,
                                const struct connection_owner *owner, struct connection *first,
                                struct connection **connection, struct fas_error *error)
{
    const struct stream_kind *kind = kind_of(options->url);
    if (!kind) {
        return fas_fail(error, FAS_INVALID_ARGUMENT, "url",
                        "\"%s\" starts with none of ipc://, tcp://, tls+tcp://", options->url);
    }
    struct connection *c = calloc(1, sizeof(*c));
    if (!c) {
        return fas_fail(error, FAS_RESOURCE_EXHAUSTED, "", "out of memory");
    }
    c->owner = *owner;
    c->kind = kind;
    TAILQ_INIT(&c->waiters);
    pthread_mutex_init(&c->own_lock, NULL);
    c->lock = first ? first->lock : &c->own_lock;
    cond_init(&c->tx_work);
    cond_init(&c->rx_work);
    cond_init(&c->rx_left);
    c->spin_ns = spin_ns(options);
    c->kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    c->buffer = malloc(BUFFER_BYTES);
    enum fas_status status = FAS_OK;
    if (!c->buffer || c->kick < 0) {
        status = fas_fail(error, FAS_RESOURCE_EXHAUSTED, "", "out of memory or descriptors");
    }
    if (status == FAS_OK) {
        status = kind->open(options, &c->stream, error);
    }
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
    bool rx = pthread_create(&c->rx_thread, NULL, connection_receive, c) == 0;
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
    c->period_ns = (uint64_t)period_ms * NS_PER_MS;
    c->tick_ns = now_ns() + c->period_ns;
    c->rx_active = !is_direct(c);
    if (!threads_start(c)) {
        return fas_fail(error, FAS_RESOURCE_EXHAUSTED, "", "no thread can be had");
    }
    pthread_mutex_lock(c->lock);
    c->started = true;
    pthread_mutex_unlock(c->lock);
    connection_rest(c, NULL); /* a failure until here has not been told */
    connection_push(c);
    return FAS_OK;
}

void connection_stop(struct connection *c)
{
    struct fas_error error;
    fas_fail(&error, FAS_CANCELLED, "", "the connection was closed here");
    connection_fail(c, &error);
    if (c->started) {
        pthread_join(c->rx_thread, NULL);
        pthread_mutex_lock(c->lock);
        c->stopping = true; /* with the role in hand it comes to rest before it ends */
        pthread_cond_signal(&c->tx_work);
        pthread_mutex_unlock(c->lock);
        pthread_join(c->tx_thread, NULL);
    }
}

int connection_take_fd(struct connection *c)
{
    return c->kind->take_fd ? c->kind->take_fd(c->stream) : -1;
}

bool connection_is_ipc(const struct connection *c)
{
    return c->kind->ipc;
}

void connection_lock(struct connection *c)
{
    pthread_mutex_lock(c->lock);
}

void connection_unlock(struct connection *c)
{
    pthread_mutex_unlock(c->lock);
}

pthread_mutex_t *connection_mutex(struct connection *c)
{
    return c->lock;
}
