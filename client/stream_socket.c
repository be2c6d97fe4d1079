/*
 * stream_socket.c: a unix socket or tcp without anything in between: whoever calls, sends and
 * receives in its own thread. Descriptors that the daemon sends along over a unix socket wait in
 * arrival order to be taken.
 */
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
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

#include "client/clock.h"
#include "client/stream.h"

/* As the daemon's stream_socket.c has it, and for its reason. Several connections keep every core
 * busy without waiting for each other less: 4 of them are a tenth faster with the kernel's own. */
#define SEND_BUFFER_BYTES (512 << 10)

#define FDS_MAX 16 /* received and not taken: more than any honest daemon sends ahead */

/* How often a sender that the kernel has no room for looks whether the stream was closed. */
#define CLOSING_LOOK_MS 10

/* How often the death of a daemon is looked for while it dies. */
#define DYING_LOOK_MS 20

/* In the flags of /proc/PID/stat: PF_EXITING of linux/sched.h. */
#define EXITING 0x4u

/* A host's name has 255 bytes at most. */
#define ADDRESS_BYTES_MAX 300

/* A daemon of the same site answers in milliseconds. */
#define CONNECT_TIMEOUT_MS_DEFAULT 5000u

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

/* Signals of the program's do not end it. */
static int connect_through_signals(int fd, const struct sockaddr *address, socklen_t length,
                                   uint32_t timeout_ms)
{
    const uint64_t until_ns = ns_in_ms(timeout_ms);
    int failed;
    do {
        failed = connect(fd, address, length); /* again: it is waited for further */
    } while (failed && errno == EINTR && now_ns() < until_ns);
    errno = failed && errno == EINTR ? ETIMEDOUT : errno;
    return failed;
}

/* Connects a new socket, whose sends then wait for CLOSING_LOOK_MS; -1: errno says why not. */
static int connect_within(const struct sockaddr *address, socklen_t length, uint32_t timeout_ms)
{
    const struct timeval look = {.tv_usec = CLOSING_LOOK_MS * 1000};
    /* Of connect, too. */
    const struct timeval patience = {.tv_sec = timeout_ms / 1000,
                                     .tv_usec = timeout_ms % 1000 * 1000};
    int fd = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return -1;
    }
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
    if (connect_through_signals(fd, address, length, timeout_ms) != 0) {
        int why = errno;
        close(fd);
        errno = why;
        return -1;
    }
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &look, sizeof(look));
    return fd;
}

/* EAGAIN: the backlog of a unix socket stayed full; EINPROGRESS: no answer over tcp. */
static enum fas_status connect_failed(const char *url, int why, struct fas_error *error)
{
    enum fas_status status =
        why == EAGAIN || why == EINPROGRESS || why == ETIMEDOUT ? FAS_DEADLINE_EXCEEDED
        : why == EACCES                                         ? FAS_UNAUTHENTICATED
        : why == EMFILE || why == ENFILE || why == ENOMEM       ? FAS_RESOURCE_EXHAUSTED
                                                                : FAS_UNAVAILABLE;
    return refuse(url, status, strerror(why), error);
}

static enum fas_status stream_of(int fd, struct stream **opened, struct fas_error *error)
{
    struct stream *s = calloc(1, sizeof(*s));
    if (!s) {
        close(fd);
        return fas_fail(error, FAS_RESOURCE_EXHAUSTED, "", "out of memory");
    }
    s->fd = fd;
    s->daemon = -1;
    *opened = s;
    return FAS_OK;
}

static uint32_t timeout_of(const struct fas_connect_options *options)
{
    return options->connect_timeout_ms ? options->connect_timeout_ms : CONNECT_TIMEOUT_MS_DEFAULT;
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
    int fd = connect_within((struct sockaddr *)&address, sizeof(address), timeout_of(options));
    if (fd < 0) {
        return connect_failed(options->url, errno, error);
    }
    const int send_bytes = SEND_BUFFER_BYTES;
    if (options->connections <= 1) {
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &send_bytes, sizeof(send_bytes));
    }
    enum fas_status status = stream_of(fd, opened, error);
    if (status == FAS_OK) {
        remember_daemon(*opened);
    }
    return status;
}

/* getaddrinfo takes 99999 for 34463. */
static bool is_port(const char *text)
{
    char *end;
    unsigned long port = strtoul(text, &end, 10);
    return text[0] >= '0' && text[0] <= '9' && *end == '\0' && port > 0 && port <= UINT16_MAX;
}

/* "host:port" or "[address]:port" -> both, in place. False: neither. */
static bool split(char *address, char **host, char **port)
{
    char *colon = strrchr(address, ':');
    if (!colon || colon == address || colon[1] == '\0') {
        return false;
    }
    bool brackets = address[0] == '[' && colon[-1] == ']';
    *colon = '\0';
    colon[-1] = brackets ? '\0' : colon[-1];
    *host = address + brackets;
    *port = colon + 1;
    return **host != '\0' && is_port(*port);
}

/* The first that answers. */
static int connect_any(const struct addrinfo *found, uint32_t timeout_ms)
{
    int fd = -1;
    for (const struct addrinfo *at = found; at && fd < 0; at = at->ai_next) {
        fd = connect_within(at->ai_addr, at->ai_addrlen, timeout_ms);
    }
    return fd;
}

/* Buffers are the kernel's to size. */
static enum fas_status connect_tcp(const struct fas_connect_options *options,
                                   struct stream **opened, struct fas_error *error)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
    struct addrinfo *found = NULL;
    char address[ADDRESS_BYTES_MAX], *host, *port;
    const char *given = options->url + strlen(stream_tcp.scheme);
    size_t length = strlen(given);
    if (length >= sizeof(address)) {
        return refuse("tcp", FAS_INVALID_ARGUMENT, "not host:port", error);
    }
    memcpy(address, given, length + 1);
    if (!split(address, &host, &port)) {
        return refuse(options->url, FAS_INVALID_ARGUMENT, "not host:port", error);
    }
    int why = getaddrinfo(host, port, &hints, &found);
    if (why != 0) {
        bool later = why == EAI_AGAIN || why == EAI_SYSTEM || why == EAI_MEMORY;
        return refuse(options->url, later ? FAS_UNAVAILABLE : FAS_INVALID_ARGUMENT,
                      gai_strerror(why), error);
    }
    int fd = connect_any(found, timeout_of(options));
    why = errno;
    freeaddrinfo(found);
    if (fd < 0) {
        return connect_failed(options->url, why, error);
    }
    const int yes = 1; /* without it two small sends cost 40 ms */
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &yes, sizeof(yes));
    return stream_of(fd, opened, error);
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

/* What there is no room for is closed. The kernel drops those that the process has no number for,
 * and does not say how many: which answers are without theirs can not be known then. */
static enum fas_status keep_fds(struct stream *s, struct msghdr *message, struct fas_error *error)
{
    bool complete = !(message->msg_flags & MSG_CTRUNC), room = true;
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
    if (!room || (!complete && s->fd_count == FDS_MAX)) {
        return fas_fail(error, FAS_INTERNAL, "fd",
                        "the daemon sent more than %d descriptors unasked", FDS_MAX);
    }
    return complete ? FAS_OK
                    : fas_fail(error, FAS_RESOURCE_EXHAUSTED, "",
                               "the connection is lost: this process has no descriptor left for "
                               "shared memory");
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
    if (keep_fds(s, &message, error) != FAS_OK) {
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

static void close_tcp(struct stream *s)
{
    atomic_store(&s->closing, true);
    shutdown(s->fd, SHUT_RDWR);
}

static void free_socket(struct stream *s)
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
    .free = free_socket,
};

const struct stream_kind stream_tcp = {
    .scheme = "tcp://",
    .open = connect_tcp,
    .send_begin = send_begin,
    .send_finish = send_finish,
    .receive = receive,
    .fd = fd_of,
    .close = close_tcp,
    .free = free_socket,
};
