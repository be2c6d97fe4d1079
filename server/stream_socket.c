/*
 * stream_socket.c: unix sockets and tcp. The loop itself accepts, reads and writes them, so a small
 * request costs no change of threads on its way in or out (through nng it cost four, 15 to 20 us
 * each).
 *
 * Bulk would hold up the loop: a payload of BULK_BYTES or more is left to the pool (io.h), whose
 * thread reads or writes until it is done, or until the peer has not moved for STALL_MS; then the
 * loop waits for the peer. So a direction belongs to the loop, to the pool, or to nobody: reading,
 * while the peer is awaited (rx_awaits) and while the reader stands still for the loop; writing,
 * while there is nothing to write and while the peer is awaited (tx_awaits). Whoever finds x_awaits
 * set under post_lock, and clears it, has the direction.
 *
 * Epoll is edge-triggered, so the small way needs no epoll_ctl; while the pool reads, input is not
 * polled at all.
 *
 * On the wire it is nng's ipc or tcp transport: an nng socket can be the peer. nng itself moves all
 * tcp of a process by one thread that polls, and sends by whoever begins to: with it four joined
 * connections moved 44 % of what four plain sockets do, and the loop copied every byte sent.
 */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "server/clock.h"
#include "server/io.h"
#include "server/listener.h"
#include "server/log.h"
#include "server/stream.h"

/* What the loop copies at most for one stream in one go, some 40 us; and more than what a unix
 * socket holds by default (208 KiB), so what fits there leaves at once. */
#define BULK_BYTES (256u << 10)
/* How long a thread of the pool waits for a peer in the midst of bulk: in the system call itself,
 * which saves a poll and a futile try for every time the peer is waited for. */
#define STALL_MS 2
/* What one such call moves at most. It may wait for each 36 KiB of it (what the kernel allocates at
 * once), so a slow peer holds the thread for 30 ms. */
#define PIECE_BYTES (512u << 10)
/* The kernel takes it twice, as far as net.core.wmem_max goes (208 KiB by default): the two sides
 * wait for each other less often. On 4 cores bulk up is 89 % of plain sockets without, 100 % with
 * this, and with 2 MiB as well, but those fall out of the caches: 2 cores lose a tenth. */
#define SEND_BUFFER_BYTES (512 << 10)
/* How long it serves one stream while others wait. */
#define TURN_US 4000u

#define ACCEPTS_PER_TURN 16
#define EVENTS_PER_TURN 64
#define BACKLOG 128

enum { DOOR_IPC, DOOR_TCP, DOORS };
/* In epoll's data, and above it the doors; streams are their index. */
#define DOOR_FIRST (UINT32_MAX - DOORS)

/* The kind's part of a stream. */
struct own {
    struct stream *stream;
    struct side *side;
    int fd;
    bool at_end; /* the peer has hung up: the loop reads until nothing is left */
    struct io_task reading, writing;

    /* Under post_lock. */
    bool rx_awaits, tx_awaits;
    uint64_t rx_since_us, tx_since_us; /* awaiting in the middle of a message since; 0: not */
    uint32_t polled;                   /* events epoll looks for */
};

struct side {
    struct transport *transport;
    struct io_pool *pool;
    struct own *owns; /* by index of stream */
    uint64_t progress_timeout_us;
    uint64_t now_us; /* the turn's */
    int epoll;
    struct door {
        int listener; /* -1: closed */
        bool accepting;
    } doors[DOORS];
    char path[CONFIG_TEXT_BYTES_MAX];
};

static void poll_for(struct own *own, uint32_t events)
{
    struct epoll_event event = {.events = events | EPOLLET, .data.u32 = own->stream->index};
    epoll_ctl(own->side->epoll, EPOLL_CTL_MOD, own->fd, &event);
    own->polled = events;
}

/* ---- one operation ---- */

enum moved { MOVED, MOVED_ALL, NOTHING, OVER };

static enum moved failed(const char *what, struct fas_error *why)
{
    fas_fail(why, FAS_UNAVAILABLE, "", "%s: %s", what, strerror(errno));
    return OVER;
}

/* MOVED_ALL: the peer had no more than that. patient: waits for STALL_MS. */
static enum moved receive(struct own *own, bool patient, struct fas_error *why)
{
    struct iovec targets[2];
    unsigned count = reader_targets(&own->stream->reader, targets);
    size_t room = targets[0].iov_len + (count > 1 ? targets[1].iov_len : 0);
    struct msghdr message = {.msg_iov = targets, .msg_iovlen = count};
    ssize_t bytes = recvmsg(own->fd, &message, patient ? 0 : MSG_DONTWAIT);
    if (bytes < 0) {
        return errno == EAGAIN || errno == EINTR ? NOTHING : failed("receiving", why);
    }
    if (bytes == 0) {
        fas_fail(why, FAS_UNAVAILABLE, "", "the peer has hung up");
        return OVER;
    }
    reader_received(&own->stream->reader, (size_t)bytes);
    /* Descriptors (which no peer has reason to send, and which are dropped) end a receive early. */
    bool early = message.msg_flags & MSG_CTRUNC;
    return (size_t)bytes < room && !early ? MOVED_ALL : MOVED;
}

/* The beginning of the send, as far as one call may go. */
static unsigned next_piece(const struct send *send, struct iovec piece[TRANSPORT_IOV_MAX])
{
    size_t room = PIECE_BYTES;
    unsigned count = 0;
    while (count < send->count && room > 0) {
        piece[count] = send->iov[count];
        piece[count].iov_len = piece[count].iov_len < room ? piece[count].iov_len : room;
        room -= piece[count++].iov_len;
    }
    return count;
}

/* patient: waits for STALL_MS, again and again while the peer moves. */
static enum moved transmit(struct own *own, struct send *send, bool patient, size_t *bytes,
                           struct fas_error *why)
{
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(sizeof send->fds)];
    } control;
    struct iovec piece[TRANSPORT_IOV_MAX];
    struct msghdr message = {.msg_iov = piece, .msg_iovlen = next_piece(send, piece)};
    if (send->fd_count > 0) {
        size_t bytes_of_fds = send->fd_count * sizeof send->fds[0];
        control.head = (struct cmsghdr){
            .cmsg_len = CMSG_LEN(bytes_of_fds), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
        message.msg_control = &control;
        message.msg_controllen = CMSG_SPACE(bytes_of_fds);
        memcpy(CMSG_DATA(&control.head), send->fds, bytes_of_fds);
    }
    ssize_t sent = sendmsg(own->fd, &message, MSG_NOSIGNAL | (patient ? 0 : MSG_DONTWAIT));
    if (sent < 0) {
        return errno == EAGAIN || errno == EINTR ? NOTHING : failed("sending", why);
    }
    stream_close_fds(send);
    *bytes = (size_t)sent;
    return MOVED;
}

/* ---- reading ---- */

/* Nobody reads until the peer sends. again: epoll has to look anew. */
static void await_input(struct own *own, bool again)
{
    struct stream *stream = own->stream;
    pthread_mutex_lock(&stream->post_lock);
    own->rx_awaits = true;
    own->rx_since_us = reader_between_messages(&stream->reader) ? 0 : clock_us();
    if (!stream->closing && (again || !(own->polled & EPOLLIN))) {
        poll_for(own, own->polled | EPOLLIN | EPOLLRDHUP);
    }
    pthread_mutex_unlock(&stream->post_lock);
}

static bool is_bulk(const struct stream *stream)
{
    return reader_payload_left(&stream->reader) >= BULK_BYTES;
}

static void leave_reading_to_pool(struct own *own)
{
    struct stream *stream = own->stream;
    pthread_mutex_lock(&stream->post_lock);
    if (!stream->closing) {
        poll_for(own, own->polled & ~(uint32_t)(EPOLLIN | EPOLLRDHUP));
        stream_begin(stream);
        io_push(own->side->pool, &own->reading);
    }
    pthread_mutex_unlock(&stream->post_lock);
}

/* The loop's turn: what is there, but not more than BULK_BYTES of it. */
static void read_in_loop(struct stream *stream)
{
    struct own *own = stream->own;
    struct fas_error why;
    enum moved moved = MOVED;
    for (unsigned receives = 0;; receives++) {
        enum reader_step step = reader_advance(&stream->reader);
        if (step != READER_RECEIVE) {
            stream_note(stream, STREAM_RECEIVED | (step == READER_FAILED ? STREAM_ENDED : 0), NULL);
            return;
        }
        if (moved == NOTHING || (moved == MOVED_ALL && !own->at_end) || receives == 4) {
            break;
        }
        if (is_bulk(stream)) {
            leave_reading_to_pool(own);
            stream_note(stream, reader_has_news(&stream->reader) ? STREAM_RECEIVED : 0, NULL);
            return;
        }
        moved = receive(own, false, &why);
        if (moved == OVER) {
            stream_note(stream, STREAM_ENDED, &why);
            return;
        }
    }
    stream_note(stream, reader_has_news(&stream->reader) ? STREAM_RECEIVED : 0, NULL);
    await_input(own, moved == MOVED || own->at_end);
}

static bool read_in_pool(struct io_task *task)
{
    struct own *own = task->context;
    struct stream *stream = own->stream;
    struct fas_error why;
    uint64_t until_us = clock_us() + TURN_US;
    for (;;) {
        enum moved moved = receive(own, true, &why);
        if (moved == OVER) {
            stream_end(stream, STREAM_ENDED, &why);
            return false;
        }
        if (moved == NOTHING) {
            await_input(own, true);
            stream_end(stream, 0, NULL);
            return false;
        }
        enum reader_step step = reader_advance(&stream->reader);
        if (step != READER_RECEIVE) {
            stream_end(stream, STREAM_RECEIVED | (step == READER_FAILED ? STREAM_ENDED : 0), NULL);
            return false;
        }
        if (reader_has_news(&stream->reader)) {
            stream_note(stream, STREAM_RECEIVED, NULL);
            transport_wake_loop(stream->transport);
        }
        if (clock_us() > until_us && io_crowded(own->side->pool)) {
            return true;
        }
    }
}

/* ---- writing ---- */

static size_t bytes_left(const struct send *send)
{
    size_t bytes = 0;
    for (unsigned i = 0; i < send->count; i++) {
        bytes += send->iov[i].iov_len;
    }
    return bytes;
}

/* Nobody writes until the peer has read. Under post_lock. */
static void await_output(struct own *own)
{
    own->tx_awaits = true;
    own->tx_since_us = clock_us();
    if (!own->stream->closing) {
        poll_for(own, own->polled | EPOLLOUT);
    }
}

/* Under post_lock, and not when closing. */
static void write_in_loop(struct stream *stream)
{
    struct own *own = stream->own;
    struct fas_error why;
    unsigned events = 0;
    while (stream->sends[0].count > 0) {
        if (bytes_left(&stream->sends[0]) >= BULK_BYTES) {
            stream_begin(stream);
            io_push(own->side->pool, &own->writing);
            break;
        }
        size_t bytes = 0;
        enum moved moved = transmit(own, &stream->sends[0], false, &bytes, &why);
        if (moved == OVER) {
            stream_note(stream, STREAM_SENT | STREAM_ENDED, &why);
            return;
        }
        if (moved == NOTHING) {
            await_output(own);
            break;
        }
        events |= stream_sent(stream, bytes) ? STREAM_SENT : 0;
    }
    stream_note(stream, events, NULL);
}

/* `bytes` of the send are gone. True: that was all there is to write. */
static bool written(struct stream *stream, size_t bytes)
{
    pthread_mutex_lock(&stream->post_lock);
    bool over = stream_sent(stream, bytes), all = stream->sends[0].count == 0;
    pthread_mutex_unlock(&stream->post_lock);
    if (all) {
        stream_end(stream, STREAM_SENT, NULL);
    } else if (over) {
        stream_note(stream, STREAM_SENT, NULL);
        transport_wake_loop(stream->transport);
    }
    return all;
}

static bool write_in_pool(struct io_task *task)
{
    struct own *own = task->context;
    struct stream *stream = own->stream;
    struct fas_error why;
    uint64_t until_us = clock_us() + TURN_US;
    for (;;) {
        size_t bytes = 0;
        /* Without the lock: the loop touches the send behind this one only. */
        enum moved moved = transmit(own, &stream->sends[0], true, &bytes, &why);
        if (moved == OVER) {
            stream_end(stream, STREAM_SENT | STREAM_ENDED, &why);
            return false;
        }
        if (moved == NOTHING) {
            pthread_mutex_lock(&stream->post_lock);
            await_output(own);
            pthread_mutex_unlock(&stream->post_lock);
            stream_end(stream, 0, NULL);
            return false;
        }
        if (written(stream, bytes)) {
            return false;
        }
        if (clock_us() > until_us && io_crowded(own->side->pool)) {
            return true;
        }
    }
}

/* ---- who it is ---- */

/* What a login has, and some more; one of still more groups is in none of them. */
#define GROUPS_MAX 1024

static bool peer_in_group(const struct stream *stream, uint64_t gid)
{
    const struct own *own = stream->own;
    gid_t groups[GROUPS_MAX];
    socklen_t bytes = sizeof groups;
    bool found = stream->peer.local && stream->peer.gid == gid;
    if (getsockopt(own->fd, SOL_SOCKET, SO_PEERGROUPS, groups, &bytes) != 0) {
        bytes = 0;
    }
    for (size_t i = 0; i < bytes / sizeof groups[0] && !found; i++) {
        found = groups[i] == gid;
    }
    return found;
}

/* ---- the end ---- */

static void close_socket(struct stream *stream)
{
    struct own *own = stream->own;
    own->rx_awaits = own->tx_awaits = false;
    shutdown(own->fd, SHUT_RDWR); /* a thread that waits for the peer comes back at once */
}

static void release(struct stream *stream)
{
    struct own *own = stream->own;
    close(own->fd); /* epoll forgets it */
}

/* ---- accepting ---- */

/* What is refused is only slower. */
static void prepare(int fd, bool ipc)
{
    const int bytes = SEND_BUFFER_BYTES, yes = 1;
    const struct timeval stall = {.tv_usec = STALL_MS * 1000};
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &stall, sizeof stall);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &stall, sizeof stall);
    if (ipc) {
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
    } else { /* without it two small sends cost 40 ms; buffers are the kernel's to size */
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &yes, sizeof yes);
    }
}

/* With all places taken the newcomer is closed: an end of stream tells it more than silence. */
static void adopt(struct side *side, int fd, bool ipc)
{
    struct stream *stream = stream_adopt(side->transport, &stream_socket, ipc);
    if (!stream) {
        close(fd);
        return;
    }
    struct own *own = &side->owns[stream->index];
    *own = (struct own){.stream = stream,
                        .side = side,
                        .fd = fd,
                        .reading = {.run = read_in_pool, .context = own},
                        .writing = {.run = write_in_pool, .context = own},
                        .polled = EPOLLIN | EPOLLRDHUP};
    stream->own = own;
    prepare(fd, ipc);
    listener_describe(fd, ipc, &stream->peer);
    stream_accepted(stream);
    struct epoll_event event = {.events = own->polled | EPOLLET, .data.u32 = stream->index};
    if (epoll_ctl(side->epoll, EPOLL_CTL_ADD, fd, &event) != 0) {
        struct fas_error why;
        failed("polling", &why);
        stream_note(stream, STREAM_ENDED, &why);
    }
}

static void set_accepting(struct side *side, uint32_t number, bool accepting)
{
    struct door *door = &side->doors[number];
    struct epoll_event event = {.events = accepting ? EPOLLIN : 0, .data.u32 = DOOR_FIRST + number};
    epoll_ctl(side->epoll, EPOLL_CTL_MOD, door->listener, &event);
    door->accepting = accepting;
}

static void accept_peers(struct side *side, uint32_t number)
{
    for (int i = 0; i < ACCEPTS_PER_TURN; i++) {
        int fd = accept4(side->doors[number].listener, NULL, NULL, SOCK_CLOEXEC);
        if (fd >= 0) {
            adopt(side, fd, number == DOOR_IPC);
        } else if (errno == EAGAIN) {
            return;
        } else if (errno != ECONNABORTED && errno != EINTR) {
            set_accepting(side, number, false); /* no descriptors: at once again would spin */
            return;
        }
    }
}

/* ---- the loop's turn ---- */

static bool take_reading(struct stream *stream)
{
    struct own *own = stream->own;
    pthread_mutex_lock(&stream->post_lock);
    bool taken = own->rx_awaits;
    own->rx_awaits = false;
    pthread_mutex_unlock(&stream->post_lock);
    return taken;
}

static void serve(struct own *own, uint32_t events)
{
    struct stream *stream = own->stream;
    own->at_end |= (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0;
    if (take_reading(stream)) {
        read_in_loop(stream);
    }
    if (events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) {
        pthread_mutex_lock(&stream->post_lock);
        if (own->tx_awaits && !stream->closing) {
            own->tx_awaits = false;
            poll_for(own, own->polled & ~(uint32_t)EPOLLOUT);
            write_in_loop(stream);
        }
        pthread_mutex_unlock(&stream->post_lock);
    }
}

/* A peer in the middle of a message that neither sends nor takes for too long. */
static void watch_progress(struct side *side, struct own *own)
{
    struct stream *stream = own->stream;
    struct fas_error why;
    pthread_mutex_lock(&stream->post_lock);
    bool late_rx = own->rx_awaits && own->rx_since_us &&
                   side->now_us > own->rx_since_us + side->progress_timeout_us;
    bool late_tx = own->tx_awaits && side->now_us > own->tx_since_us + side->progress_timeout_us;
    own->rx_awaits &= !late_rx;
    own->tx_awaits &= !late_tx;
    pthread_mutex_unlock(&stream->post_lock);
    if (late_rx || late_tx) {
        fas_fail(&why, FAS_DEADLINE_EXCEEDED, "", "no progress in the middle of a message");
        stream_note(stream, STREAM_ENDED | (late_tx ? STREAM_SENT : 0), &why);
    }
}

static void poll_peers(void *state, uint64_t now_us, bool watch)
{
    struct side *side = state;
    struct epoll_event events[EVENTS_PER_TURN];
    side->now_us = now_us;
    int count = epoll_wait(side->epoll, events, EVENTS_PER_TURN, 0);
    for (int i = 0; i < count; i++) {
        if (events[i].data.u32 >= DOOR_FIRST) {
            accept_peers(side, events[i].data.u32 - DOOR_FIRST);
        } else {
            serve(&side->owns[events[i].data.u32], events[i].events);
        }
    }
    if (!watch) {
        return;
    }
    for (uint32_t i = 0; i < DOORS; i++) {
        if (!side->doors[i].accepting && side->doors[i].listener >= 0) {
            set_accepting(side, i, true);
        }
    }
    for (uint32_t i = 0; i < stream_count(side->transport); i++) {
        if (side->owns[i].stream && side->owns[i].stream->own == &side->owns[i]) {
            watch_progress(side, &side->owns[i]);
        }
    }
}

static int descriptor(const void *state)
{
    const struct side *side = state;
    return side->epoll;
}

static void stop(void *state)
{
    struct side *side = state;
    /* While it is this daemon's: once nobody answers there the next one may take the path. */
    if (side->path[0] != '\0') {
        unlink(side->path);
    }
    for (uint32_t i = 0; i < DOORS; i++) {
        if (side->doors[i].listener >= 0) {
            close(side->doors[i].listener);
            side->doors[i].listener = -1;
        }
    }
}

/* ---- opening ---- */

static enum fas_status no_room(const struct transport *transport, struct fas_error *error)
{
    return fas_fail(error, FAS_RESOURCE_EXHAUSTED, "connections-max",
                    "no memory or descriptors for %u", stream_count(transport));
}

/* A listener was opened, or not. */
static enum fas_status open_door(struct side *side, uint32_t number, enum fas_status status,
                                 const char *option, const char *at, struct fas_error *error)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = DOOR_FIRST + number};
    if (status != FAS_OK) {
        return status;
    }
    if (epoll_ctl(side->epoll, EPOLL_CTL_ADD, side->doors[number].listener, &event) != 0) {
        return fas_fail(error, FAS_INVALID_ARGUMENT, option, "%s: %s", at, strerror(errno));
    }
    log_info("listening", log_str("option", option), log_str("at", at));
    return FAS_OK;
}

static enum fas_status open_doors(struct side *side, const struct config *config,
                                  struct fas_error *error)
{
    const char *path = config->listen_ipc, *address = config->listen_tcp;
    enum fas_status status = FAS_OK;
    if (path[0] != '\0') {
        status = listener_open_path(config, BACKLOG, &side->doors[DOOR_IPC].listener, error);
        snprintf(side->path, sizeof side->path, "%s", status == FAS_OK ? path : "");
        status = open_door(side, DOOR_IPC, status, "listen-ipc", path, error);
    }
    if (status == FAS_OK && address[0] != '\0') {
        status = listener_open_address(address, "listen-tcp", BACKLOG,
                                       &side->doors[DOOR_TCP].listener, error);
        status = open_door(side, DOOR_TCP, status, "listen-tcp", address, error);
    }
    return status;
}

static enum fas_status open_side(struct transport *transport, const struct config *config,
                                 void **state, struct fas_error *error)
{
    if (config->listen_ipc[0] == '\0' && config->listen_tcp[0] == '\0') {
        return FAS_OK;
    }
    struct side *side = calloc(1, sizeof *side);
    *state = side;
    if (!side) {
        return no_room(transport, error);
    }
    *side = (struct side){.transport = transport,
                          .owns = calloc(stream_count(transport), sizeof *side->owns),
                          .progress_timeout_us = config->progress_timeout_us,
                          .epoll = epoll_create1(EPOLL_CLOEXEC),
                          .doors = {[DOOR_IPC] = {-1, true}, [DOOR_TCP] = {-1, true}}};
    if (!side->owns || side->epoll < 0) {
        return no_room(transport, error);
    }
    enum fas_status status = io_open(&side->pool, config->io_threads, error);
    return status == FAS_OK ? open_doors(side, config, error) : status;
}

const struct stream_kind stream_socket = {
    .open = open_side,
    .descriptor = descriptor,
    .poll = poll_peers,
    .stop = stop,
    .read = read_in_loop,
    .send = write_in_loop,
    .close = close_socket,
    .peer_in_group = peer_in_group,
    .release = release,
};
