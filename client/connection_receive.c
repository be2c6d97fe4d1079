/*
 * connection_receive.c: who receives, and how frames are found in what was received; see
 * connection.h.
 *
 * `buffer` holds what has been received and not been parsed. A frame's head and header are parsed
 * in it; a payload's first part is copied out of it, the rest is received by one readv into its
 * final place and, behind that, into the buffer again: in bulk a megabyte costs one copy, the
 * kernel's, and a small answer of several frames costs one wake.
 *
 * Receiving is a role. Except with tls, the receive thread gives it up to threads that wait for an
 * answer, because an answer that its own caller reads saves a change of threads, 15 to 20 us. It
 * takes it back when nobody has waited for LINGER_NS, or at once when the owner needs it (callbacks
 * run on the library's threads). A thread in `poll` is called away by an eventfd.
 *
 * A thread that sleeps runs some 10 us after its answer has come. So a waiter looks for spin_ns
 * before it sleeps, if what was awaited last had come that soon and nothing is being sent.
 */
#include <assert.h>
#include <limits.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "client/connection_own.h"

/* Read into the buffer between frames: a small answer whole, of a larger one its head and header
 * and what costs 3 us to copy out again. */
#define FIRST_BYTES (32u << 10)

/* Behind a payload only the next frame's head and header are read into the buffer. */
#define BEHIND_PAYLOAD_BYTES 512u

/* Longer than a caller takes between two calls in a row. What comes meanwhile (a PING, results
 * nobody waits for) lies so long at most. */
#define LINGER_NS 5000000u

/* Rounded up; what lies in the past is 0. No more than poll takes. */
static uint32_t ms_until(uint64_t ns)
{
    uint64_t now = now_ns(), ms = ns > now ? (ns - now + NS_PER_MS - 1) / NS_PER_MS : 0;
    return ms < INT_MAX ? (uint32_t)ms : INT_MAX;
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
        return frame_is_broken(status, error);
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
}

/* Under the lock. False: it is late. */
static bool sleep_as_waiter(struct connection *c, struct waiter *waiter, uint64_t until_ns)
{
    const struct timespec until = at_ns(until_ns);
    if (c->rx_by_thread && !c->eager) {
        connection_kick(c);
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
        connection_kick(c);
    }
}

void connection_set_eager(struct connection *c, bool eager)
{
    c->eager = eager;
    while (c->eager && c->rx_active && !c->rx_by_thread && is_direct(c)) {
        connection_kick(c);
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

/* The stream is closed. The end is never told by a thread that only waited for an answer. */
static void settle(struct connection *c)
{
    pthread_mutex_lock(c->lock);
    while (c->rx_active) {
        pthread_cond_wait(&c->rx_left, c->lock);
    }
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

void *connection_receive(void *context)
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
