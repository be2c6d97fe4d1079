/*
 * connection.c: who sends, who receives, and how frames are found in what was received; see
 * connection.h. The bytes themselves are moved by a stream (stream.h).
 *
 * Receiving. `buffer` holds what has been received and not been parsed. A frame's head and header
 * are parsed in it; a payload's first part is copied out of it, the rest is received by one readv
 * into its final place and, behind that, into the buffer again: in bulk a megabyte costs one copy,
 * the kernel's, and a small answer of several frames costs one wake.
 *
 * It is a role. Except with tls, the receive thread gives it up to threads that wait for an
 * answer, because an answer that its own caller reads saves a change of threads, 15 to 20 us. It
 * takes it back when nobody has waited for LINGER_NS, or at once when the owner needs it (callbacks
 * run on the library's threads). A thread in `poll` is called away by an eventfd.
 *
 * A thread that sleeps runs some 10 us after its answer has come. So a waiter looks for spin_ns
 * before it sleeps, if what was awaited last had come that soon and nothing is being sent.
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
#include "client/connection.h"

#include <assert.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "client/stream.h"

/* A whole head and header always fit; the rest is for small payloads: 64 KiB are 6 us of memcpy. */
#define BUFFER_BYTES (FRAME_HEAD_BYTES_MAX + FAS_HEADER_BYTES_MAX + (64u << 10))

/* Read into the buffer between frames: a small answer whole, of a larger one its head and header
 * and what costs 3 us to copy out again. */
#define FIRST_BYTES (32u << 10)

/* Behind a payload only the next frame's head and header are read into the buffer. */
#define BEHIND_PAYLOAD_BYTES 512u

/* What is sent in passing at most: 30 us of copying for a caller who may not want to wait. */
#define PASSING_BYTES (256u << 10)

/* Longer than a caller takes between two calls in a row. What comes meanwhile (a PING, results
 * nobody waits for) lies so long at most. */
#define LINGER_NS 5000000u

#define NS_PER_MS 1000000u

/* Awake, a short request takes an H200's daemon some 50 us. Beside the waiter the daemon has two
 * threads awake. */
#define SPIN_US_DEFAULT 100u
#define SPIN_PROCESSORS_MIN 4

static_assert(BATCH_RANGES_MAX <= STREAM_IOV_MAX, "a batch is one send");

static const struct stream_kind *const kinds[] = {&stream_unix, &stream_tcp, &stream_tls};

#define KINDS (sizeof(kinds) / sizeof(kinds[0]))

struct connection {
    struct connection_owner owner;
    const struct stream_kind *kind;
    struct stream *stream;
    uint64_t period_ns, tick_ns; /* tick_ns: when the next one is due; the receive thread's */
    int kick;                    /* eventfd; readable: who receives should look around */
    pthread_t tx_thread, rx_thread;

    pthread_mutex_t *lock, own_lock; /* its own, or that of the client's first connection */
    pthread_cond_t tx_work, rx_work, rx_left;
    bool started, stopping, failed, told;
    bool settled; /* after a failure: the daemon does not use memory of the owner's */
    bool tx_active, rx_active;
    bool tx_handed;           /* the send thread has the role */
    bool tx_pending;          /* and its batch is begun */
    bool tx_mute;             /* the peer takes no more; what it said last is still to be read */
    bool heard;               /* bytes came, or bulk went, since the last tick */
    struct fas_error failure; /* the first */
    struct batch batch;       /* whose who has the role */

    TAILQ_HEAD(, waiter) waiters; /* asleep */
    bool eager;                   /* the owner wants the receive thread to receive */
    bool rx_by_thread;            /* it does */
    pthread_t rx_waiter;          /* otherwise this one, while rx_active */
    bool rx_asleep;               /* it sleeps until the next tick, as others receive */
    bool kicked;
    uint64_t rx_left_ns; /* when a waiter last gave up the role */

    /* Of who has the receiving role. */
    uint8_t *buffer;
    size_t start, end; /* of what has not been parsed */
    bool greeted;      /* the peer's SP hello has been read */
    bool in_payload;
    struct frame frame;
    uint8_t *payload;
    uint64_t payload_left;
    bool flowing; /* more is likely there: the last receive filled its room, or a payload's part */
    bool prompt;  /* what was awaited last came within spin_ns */
    uint64_t spin_ns;
};

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static struct timespec at_ns(uint64_t ns)
{
    return (struct timespec){.tv_sec = (time_t)(ns / 1000000000u),
                             .tv_nsec = (long)(ns % 1000000000u)};
}

/* Rounded up; what lies in the past is 0. */
static uint32_t ms_until(uint64_t ns)
{
    uint64_t now = now_ns();
    return ns > now ? (uint32_t)((ns - now + NS_PER_MS - 1) / NS_PER_MS) : 0;
}

/* The thread that receives can be called away, and others can take its place. */
static bool is_direct(const struct connection *c)
{
    return c->kind->fd != NULL;
}

/* ---- coming to rest ---- */

/* One direction rests (NULL: none that was active); the last one to do so after a failure tells
 * the owner. */
static void connection_rest(struct connection *c, bool *active)
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

/* Under the lock. */
static void rx_kick(struct connection *c)
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
        rx_kick(c);
    }
    pthread_mutex_unlock(c->lock);
    if (first) {
        c->kind->close(c->stream);
        connection_rest(c, NULL);
    }
}

static void connection_heard(struct connection *c)
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
 * did not take at once. */
static bool tx_in_passing(struct connection *c)
{
    bool pending = false, good = tx_may_pass(c);
    while (good && !pending && c->batch.count > 0) {
        good = tx_step(c, &pending) && is_direct(c);
    }
    if (c->batch.count > 0) {
        tx_hand_over(c, pending);
        return false;
    }
    c->owner.batch_sent(c->owner.context);
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
        c->owner.batch_sent(c->owner.context);
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
    size_t head = frame_prefix_bytes(c->kind->ipc) + FAS_PREAMBLE_BYTES;
    *more = have >= head;
    if (!*more) {
        return FAS_OK;
    }
    const uint8_t *at = c->buffer + c->start;
    enum fas_status status = frame_decode(at, c->kind->ipc, FRAME_SERVER, &c->frame, error);
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

/* Receives once, within the time; false: the stream failed. */
static bool rx_receive(struct connection *c, uint32_t timeout_ms)
{
    struct iovec iov[2];
    struct fas_error error;
    int count = 0;
    size_t bytes = 0, room = c->end > 0 ? BUFFER_BYTES - c->end : FIRST_BYTES;
    if (c->in_payload) {
        iov[count++] = (struct iovec){c->payload, (size_t)c->payload_left};
        room = BEHIND_PAYLOAD_BYTES;
    }
    iov[count++] = (struct iovec){c->buffer + c->end, room};
    enum stream_moved moved = c->kind->receive(c->stream, iov, count, timeout_ms, &bytes, &error);
    size_t most = iov[0].iov_len + (count > 1 ? iov[1].iov_len : 0);
    c->flowing =
        moved == STREAM_MOVED && (bytes == most || (c->in_payload && bytes < c->payload_left));
    if (moved == STREAM_FAILED) {
        connection_fail(c, &error);
        return false;
    }
    if (moved == STREAM_MOVED) {
        rx_fill(c, bytes);
        connection_heard(c);
    }
    return true;
}

/* One turn of who has the role; false: the connection has failed. */
static bool rx_read(struct connection *c, uint32_t timeout_ms)
{
    struct fas_error error;
    if (!rx_receive(c, timeout_ms)) {
        return false;
    }
    if (rx_parse(c, &error) != FAS_OK) {
        connection_fail(c, &error);
        return false;
    }
    c->owner.on_read(c->owner.context);
    return true;
}

/* ---- who receives ---- */

/* 0: for ever. */
static int poll_until(struct pollfd fds[2], uint64_t until_ns)
{
    return poll(fds, 2, until_ns ? (int)ms_until(until_ns) : -1);
}

/* The same, which looks for spin_ns before it sleeps, where that was long enough the last time. */
static int poll_awake(struct connection *c, struct pollfd fds[2], uint64_t until_ns)
{
    uint64_t began_ns = now_ns(), asleep_ns = began_ns + c->spin_ns;
    asleep_ns = until_ns && until_ns < asleep_ns ? until_ns : asleep_ns;
    int ready = 0;
    while (c->prompt && ready == 0 && now_ns() < asleep_ns) {
        ready = poll(fds, 2, 0);
    }
    if (ready == 0) {
        ready = poll_until(fds, until_ns);
    }
    c->prompt = ready > 0 && now_ns() - began_ns < c->spin_ns;
    return ready;
}

/* Waits until there is something to receive (true), or until kicked, or until then (0: for ever).
 * In bulk more has often come by now, and looking costs as much as trying. */
static bool rx_await(struct connection *c, uint64_t until_ns, bool awake)
{
    if (c->flowing) {
        return true;
    }
    struct pollfd fds[2] = {{.fd = c->kind->fd(c->stream), .events = POLLIN},
                            {.fd = c->kick, .events = POLLIN}};
    int ready = awake ? poll_awake(c, fds, until_ns) : poll_until(fds, until_ns);
    if (ready > 0 && fds[1].revents) {
        uint64_t count;
        pthread_mutex_lock(c->lock);
        c->kicked = read(c->kick, &count, sizeof(count)) < 0;
        pthread_mutex_unlock(c->lock);
    }
    return fds[0].revents != 0;
}

/* Under the lock: nobody receives, and somebody should. A waiter is woken first; the receive thread
 * looks for itself after a while, unless it sleeps. */
static void rx_pass_on(struct connection *c)
{
    struct waiter *next = TAILQ_FIRST(&c->waiters);
    if (c->rx_active) {
        return;
    }
    if (next && !c->eager) {
        pthread_cond_signal(next->woken);
    } else if (c->eager || c->rx_asleep) {
        pthread_cond_signal(&c->rx_work);
    }
}

/* Under the lock, which is given up meanwhile. */
static void rx_as_waiter(struct connection *c, const struct waiter *waiter, uint64_t until_ns)
{
    bool good = true;
    c->rx_active = true;
    c->rx_waiter = pthread_self();
    do {
        bool awake = !c->tx_active; /* else it would be in the sender's way */
        pthread_mutex_unlock(c->lock);
        good = !rx_await(c, until_ns, awake) || rx_read(c, 0);
        pthread_mutex_lock(c->lock);
    } while (good && !c->failed && !c->eager && !waiter->done(waiter->context) &&
             (until_ns == 0 || now_ns() < until_ns));
    c->rx_active = false;
    c->rx_left_ns = now_ns();
    pthread_cond_broadcast(&c->rx_left);
    rx_pass_on(c);
    if (c->failed) {
        pthread_mutex_unlock(c->lock);
        connection_rest(c, NULL);
        pthread_mutex_lock(c->lock);
    }
}

/* Under the lock. False: it is late. */
static bool sleep_as_waiter(struct connection *c, struct waiter *waiter, uint64_t until_ns)
{
    const struct timespec until = at_ns(until_ns);
    if (c->rx_by_thread && !c->eager) {
        rx_kick(c);
    }
    TAILQ_INSERT_TAIL(&c->waiters, waiter, link);
    int failed = until_ns == 0 ? pthread_cond_wait(waiter->woken, c->lock)
                               : pthread_cond_timedwait(waiter->woken, c->lock, &until);
    TAILQ_REMOVE(&c->waiters, waiter, link);
    return failed == 0;
}

bool connection_wait(struct connection *c, struct waiter *waiter, uint64_t until_ns)
{
    bool timely = true;
    while (!waiter->done(waiter->context) && timely) {
        if (is_direct(c) && !c->rx_active && !c->eager && !c->failed) {
            rx_as_waiter(c, waiter, until_ns);
            timely = until_ns == 0 || now_ns() < until_ns;
        } else {
            timely = sleep_as_waiter(c, waiter, until_ns);
        }
    }
    rx_pass_on(c); /* it may have been woken to receive */
    return waiter->done(waiter->context);
}

void connection_nudge(struct connection *c)
{
    if (c->rx_active && !c->rx_by_thread && is_direct(c) &&
        !pthread_equal(c->rx_waiter, pthread_self())) {
        rx_kick(c);
    }
}

void connection_set_eager(struct connection *c, bool eager)
{
    c->eager = eager;
    while (c->eager && c->rx_active && !c->rx_by_thread && is_direct(c)) {
        rx_kick(c);
        pthread_cond_wait(&c->rx_left, c->lock);
    }
    if (c->eager) {
        pthread_cond_signal(&c->rx_work);
    }
}

static void tick_if_due(struct connection *c)
{
    uint64_t now = now_ns();
    if (now < c->tick_ns) {
        return;
    }
    c->tick_ns = now + c->period_ns;
    pthread_mutex_lock(c->lock);
    bool heard = c->heard;
    c->heard = false;
    pthread_mutex_unlock(c->lock);
    c->owner.on_tick(c->owner.context, heard);
}

/* The receive thread leaves receiving to others as long as they do, or may do so soon. Under the
 * lock; true: it has slept. */
static bool rx_leave_to_others(struct connection *c)
{
    uint64_t until_ns = c->tick_ns, lingered_ns = c->rx_left_ns + LINGER_NS;
    bool others = !c->eager && (!TAILQ_EMPTY(&c->waiters) || now_ns() < lingered_ns);
    if (!c->rx_active && !others) {
        return false;
    }
    c->rx_asleep = c->rx_active;
    if (!c->rx_active) {
        uint64_t look_ns = now_ns() + LINGER_NS;
        until_ns = look_ns < until_ns ? look_ns : until_ns;
    }
    const struct timespec until = at_ns(until_ns);
    pthread_cond_timedwait(&c->rx_work, c->lock, &until);
    c->rx_asleep = false;
    return true;
}

static void rx_share(struct connection *c)
{
    pthread_mutex_lock(c->lock);
    while (!c->failed) {
        if (!rx_leave_to_others(c)) {
            c->rx_active = c->rx_by_thread = true;
            pthread_mutex_unlock(c->lock);
            if (rx_await(c, c->tick_ns, false)) {
                rx_read(c, 0);
            }
            pthread_mutex_lock(c->lock);
            c->rx_active = c->rx_by_thread = false;
            rx_pass_on(c);
        }
        pthread_mutex_unlock(c->lock);
        tick_if_due(c);
        pthread_mutex_lock(c->lock);
    }
    pthread_mutex_unlock(c->lock);
}

static void rx_alone(struct connection *c)
{
    while (rx_read(c, ms_until(c->tick_ns))) {
        tick_if_due(c);
    }
    connection_rest(c, &c->rx_active);
}

/* The stream is closed. */
static void settle(struct connection *c)
{
    pthread_mutex_lock(c->lock);
    bool lends = c->kind->settle && c->started && c->owner.lends(c->owner.context);
    pthread_mutex_unlock(c->lock);
    if (lends) {
        c->kind->settle(c->stream);
    }
    pthread_mutex_lock(c->lock);
    c->settled = true;
    pthread_mutex_unlock(c->lock);
    connection_rest(c, NULL);
}

static void *rx_run(void *context)
{
    struct connection *c = context;
    if (is_direct(c)) {
        rx_share(c);
    } else {
        rx_alone(c);
    }
    settle(c);
    return NULL;
}

int connection_take_fd(struct connection *c)
{
    return c->kind->take_fd ? c->kind->take_fd(c->stream) : -1;
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
