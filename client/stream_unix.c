/*
 * stream_unix.c: a unix socket without anything in between: whoever calls, sends and receives in
 * its own thread. Descriptors that the daemon sends along wait in arrival order to be taken.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "client/stream.h"

/* As the daemon's stream_unix.c has it, and for its reason. Several connections keep every core
 * busy without waiting for each other less: 4 of them are a tenth faster with the kernel's own. */
#define SEND_BUFFER_BYTES (512 << 10)

#define FDS_MAX 16 /* received and not taken: more than any honest daemon sends ahead */

/* How often a sender that the kernel has no room for looks whether the stream was closed. */
#define CLOSING_LOOK_MS 10

/* How often the death of a daemon is looked for while it dies. */
#define DYING_LOOK_MS 20

/* In the flags of /proc/PID/stat: PF_EXITING of linux/sched.h. */
#define EXITING 0x4u

struct stream {
    int fd;
    atomic_bool closing;
    int daemon; /* pidfd; -1: unknown */
    pid_t daemon_pid;
    struct iovec iov[STREAM_IOV_MAX]; /* of a send that is pending */
    int iov_count;
    int fds[FDS_MAX]; /* the receiving thread's */
    int fd_count;
};

static enum fas_status refuse(const char *url, enum fas_status status, const char *text,
                              struct fas_error *error)
{
    return fas_fail(error, status, "url", "%s: %s", url, text);
}

/* The process at the other end, as long as it lives. */
static void remember_daemon(struct stream *s)
{
    struct ucred peer = {0};
    socklen_t length = sizeof(peer);
    bool known = getsockopt(s->fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0 && peer.pid > 0;
    s->daemon = known ? (int)syscall(SYS_pidfd_open, peer.pid, 0) : -1;
    s->daemon_pid = peer.pid;
}

static enum fas_status connect_unix(const struct fas_connect_options *options,
                                    struct stream **opened, struct fas_error *error)
{
    const char *path = options->url + strlen(stream_unix.scheme);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (path[0] == '\0' || strlen(path) >= sizeof(address.sun_path)) {
        return refuse(options->url, FAS_INVALID_ARGUMENT, "not the path of a socket", error);
    }
    memcpy(address.sun_path, path, strlen(path) + 1);
    struct stream *s = calloc(1, sizeof(*s));
    int fd = s ? socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0) : -1;
    if (fd < 0) {
        free(s);
        return fas_fail(error, FAS_RESOURCE_EXHAUSTED, "", "out of memory or descriptors");
    }
    uint32_t timeout_ms = options->connect_timeout_ms ? options->connect_timeout_ms : 5000;
    /* connect waits only while the daemon's backlog is full, and for this long. */
    const struct timeval patience = {.tv_sec = timeout_ms / 1000,
                                     .tv_usec = timeout_ms % 1000 * 1000};
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
    if (connect(fd, (struct sockaddr *)&address, sizeof(address)) != 0) {
        enum fas_status status = errno == EAGAIN   ? FAS_DEADLINE_EXCEEDED
                                 : errno == EACCES ? FAS_UNAUTHENTICATED
                                                   : FAS_UNAVAILABLE;
        refuse(options->url, status, strerror(errno), error);
        close(fd);
        free(s);
        return status;
    }
    const struct timeval look = {.tv_usec = CLOSING_LOOK_MS * 1000};
    const int send_bytes = SEND_BUFFER_BYTES;
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &look, sizeof(look));
    if (options->connections <= 1) {
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &send_bytes, sizeof(send_bytes));
    }
    s->fd = fd;
    remember_daemon(s);
    *opened = s;
    return FAS_OK;
}

static enum stream_moved lost(const char *why, struct fas_error *error)
{
    fas_fail(error, FAS_UNAVAILABLE, "", "the connection is lost: %s", why);
    return STREAM_FAILED;
}

/* ---- sending ---- */

static enum stream_moved send_some(struct stream *s, int flags, size_t *bytes,
                                   struct fas_error *error)
{
    struct msghdr message = {.msg_iov = s->iov, .msg_iovlen = (size_t)s->iov_count};
    ssize_t sent = sendmsg(s->fd, &message, flags | MSG_NOSIGNAL);
    if (sent < 0) {
        return errno == EAGAIN || errno == EINTR ? STREAM_PENDING : lost(strerror(errno), error);
    }
    *bytes = (size_t)sent;
    return STREAM_MOVED;
}

static enum stream_moved send_begin(struct stream *s, const struct iovec *iov, int count,
                                    size_t *bytes, struct fas_error *error)
{
    memcpy(s->iov, iov, (size_t)count * sizeof(*iov));
    s->iov_count = count;
    return send_some(s, MSG_DONTWAIT, bytes, error);
}

/* Waits in the call itself, until all of it is gone or the stream is closed: no poll, and no futile
 * try, for every time the daemon is waited for. */
static enum stream_moved send_finish(struct stream *s, size_t *bytes, struct fas_error *error)
{
    enum stream_moved moved;
    do {
        moved = send_some(s, 0, bytes, error);
    } while (moved == STREAM_PENDING && !atomic_load(&s->closing));
    return moved == STREAM_PENDING ? lost("it was closed here", error) : moved;
}

/* ---- receiving ---- */

/* False: there is no room for them; what there is no room for is closed. */
static bool keep_fds(struct stream *s, struct msghdr *message)
{
    bool room = !(message->msg_flags & MSG_CTRUNC);
    for (struct cmsghdr *head = CMSG_FIRSTHDR(message); head; head = CMSG_NXTHDR(message, head)) {
        if (head->cmsg_level != SOL_SOCKET || head->cmsg_type != SCM_RIGHTS) {
            continue;
        }
        size_t count = (head->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(head) + i * sizeof(fd), sizeof(fd));
            if (s->fd_count < FDS_MAX) {
                s->fds[s->fd_count++] = fd;
            } else {
                close(fd);
                room = false;
            }
        }
    }
    return room;
}

static enum stream_moved receive_now(struct stream *s, const struct iovec *iov, int count,
                                     size_t *bytes, struct fas_error *error)
{
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(FDS_MAX * sizeof(int))];
    } control;
    struct msghdr message = {.msg_iov = (struct iovec *)(uintptr_t)iov, /* only read */
                             .msg_iovlen = (size_t)count,
                             .msg_control = &control,
                             .msg_controllen = sizeof(control)};
    ssize_t got = recvmsg(s->fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (got < 0) {
        return errno == EAGAIN || errno == EINTR ? STREAM_PENDING : lost(strerror(errno), error);
    }
    if (got == 0) {
        return lost("the daemon has hung up", error);
    }
    if (!keep_fds(s, &message)) {
        fas_fail(error, FAS_INTERNAL, "fd", "the daemon sent more than %d descriptors unasked",
                 FDS_MAX);
        return STREAM_FAILED;
    }
    *bytes = (size_t)got;
    return STREAM_MOVED;
}

static enum stream_moved receive(struct stream *s, const struct iovec *iov, int count,
                                 uint32_t timeout_ms, size_t *bytes, struct fas_error *error)
{
    struct pollfd readable = {.fd = s->fd, .events = POLLIN};
    if (timeout_ms > 0) {
        poll(&readable, 1, (int)timeout_ms);
    }
    return receive_now(s, iov, count, bytes, error);
}

static int fd_of(const struct stream *s)
{
    return s->fd;
}

static int take_fd(struct stream *s)
{
    if (s->fd_count == 0) {
        return -1;
    }
    int fd = s->fds[0];
    memmove(s->fds, s->fds + 1, (size_t)--s->fd_count * sizeof(s->fds[0]));
    return fd;
}

/* ---- its end ---- */

/* Only this end's half: that the daemon has closed its own has to be seen. */
static void close_unix(struct stream *s)
{
    atomic_store(&s->closing, true);
    shutdown(s->fd, SHUT_WR);
}

/* Whether the daemon, which has not died yet, is about to: its sockets are closed then, but its
 * devices may not be. */
static bool dies(const struct stream *s)
{
    char path[32], line[512];
    snprintf(path, sizeof(path), "/proc/%d/stat", (int)s->daemon_pid);
    FILE *file = fopen(path, "re");
    bool read = file && fgets(line, sizeof(line), file);
    if (file) {
        fclose(file);
    }
    /* PID (NAME) STATE PPID PGRP SESSION TTY TPGID FLAGS */
    char *at = read ? strrchr(line, ')') : NULL;
    for (int field = 0; at && field < 7; field++) {
        at = strchr(at + 1, ' ');
    }
    return at && strtoul(at, NULL, 10) & EXITING;
}

/*
 * A daemon hangs up when nothing it started uses this client's memory. One that was killed did not
 * wait for that: the kernel closes its sockets, then its devices, on which a launch may still be
 * running, and only then says that it is dead.
 */
static void settle_unix(struct stream *s)
{
    struct pollfd peer = {.fd = s->fd}, daemon = {.fd = s->daemon, .events = POLLIN};
    while (poll(&peer, 1, -1) <= 0 || !(peer.revents & (POLLHUP | POLLERR))) {
    }
    while (s->daemon >= 0 && poll(&daemon, 1, 0) == 0 && dies(s)) {
        poll(&daemon, 1, DYING_LOOK_MS);
    }
}

static void free_unix(struct stream *s)
{
    while (s->fd_count > 0) {
        close(s->fds[--s->fd_count]);
    }
    if (s->daemon >= 0) {
        close(s->daemon);
    }
    close(s->fd);
    free(s);
}

const struct stream_kind stream_unix = {
    .scheme = "ipc://",
    .ipc = true,
    .open = connect_unix,
    .send_begin = send_begin,
    .send_finish = send_finish,
    .receive = receive,
    .fd = fd_of,
    .take_fd = take_fd,
    .close = close_unix,
    .settle = settle_unix,
    .free = free_unix,
};
