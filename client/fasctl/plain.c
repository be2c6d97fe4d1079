/*
 * plain.c: see plain.h.
 */
#include "client/fasctl/plain.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "client/fasctl/clock.h"

/* The length of the next run of bytes in a buffer that is used round and round. */
static uint64_t run_bytes(uint64_t done, uint64_t left, uint64_t buffer_bytes)
{
    uint64_t run = buffer_bytes - done % buffer_bytes;
    return run < left ? run : left;
}

static bool move_in(int fd, uint8_t *buffer, uint64_t buffer_bytes, uint64_t bytes)
{
    for (uint64_t done = 0; done < bytes;) {
        uint64_t run = run_bytes(done, bytes - done, buffer_bytes);
        ssize_t n = recv(fd, buffer + done % buffer_bytes, run, 0);
        if (n <= 0) {
            return false;
        }
        done += (uint64_t)n;
    }
    return true;
}

static bool move_out(int fd, const uint8_t *buffer, uint64_t buffer_bytes, uint64_t bytes)
{
    for (uint64_t done = 0; done < bytes;) {
        uint64_t run = run_bytes(done, bytes - done, buffer_bytes);
        ssize_t n = send(fd, buffer + done % buffer_bytes, run, MSG_NOSIGNAL);
        if (n <= 0) {
            return false;
        }
        done += (uint64_t)n;
    }
    return true;
}

/* The peer: two sizes, then as many bytes in and out. */
static void peer_run(int fd, uint8_t *buffer, uint64_t buffer_bytes)
{
    uint64_t sizes[2];
    while (move_in(fd, (uint8_t *)sizes, sizeof(sizes), sizeof(sizes)) &&
           move_in(fd, buffer, buffer_bytes, sizes[0]) &&
           move_out(fd, buffer, buffer_bytes, sizes[1])) {
    }
}

static bool pair_tcp(int fds[2])
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof(address);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
    fds[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool good = bind(listener, (struct sockaddr *)&address, length) == 0 &&
                listen(listener, 1) == 0 &&
                getsockname(listener, (struct sockaddr *)&address, &length) == 0 &&
                connect(fds[0], (struct sockaddr *)&address, length) == 0 &&
                (fds[1] = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) >= 0;
    close(listener);
    for (int i = 0; good && i < 2; i++) {
        setsockopt(fds[i], IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    }
    return good;
}

static bool socket_open(struct plain_socket *s, bool tcp, uint64_t buffer_bytes)
{
    int fds[2] = {-1, -1};
    s->buffer = malloc(buffer_bytes);
    s->buffer_bytes = buffer_bytes;
    if (!s->buffer ||
        !(tcp ? pair_tcp(fds) : socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0)) {
        free(s->buffer);
        return false;
    }
    s->child = fork();
    if (s->child == 0) {
        close(fds[0]);
        memset(s->buffer, 1, buffer_bytes);
        peer_run(fds[1], s->buffer, buffer_bytes);
        _exit(0);
    }
    close(fds[1]);
    s->fd = fds[0];
    memset(s->buffer, 1, buffer_bytes);
    return s->child > 0;
}

bool plain_open(struct plain *plain, bool tcp, int sockets, uint64_t buffer_bytes)
{
    bool good = true;
    memset(plain, 0, sizeof(*plain));
    while (good && plain->count < sockets && plain->count < PLAIN_SOCKETS_MAX) {
        good = socket_open(&plain->sockets[plain->count], tcp, buffer_bytes / (uint64_t)sockets);
        plain->count += good;
    }
    return good;
}

static void *socket_move(void *context)
{
    struct plain_socket *s = context;
    uint64_t sizes[2] = {s->up, s->down};
    s->good = move_out(s->fd, (const uint8_t *)sizes, sizeof(sizes), sizeof(sizes)) &&
              move_out(s->fd, s->buffer, s->buffer_bytes, s->up) &&
              move_in(s->fd, s->buffer, s->buffer_bytes, s->down);
    return NULL;
}

double plain_move(struct plain *plain, uint64_t up, uint64_t down)
{
    uint64_t begin_ns = clock_ns(), count = (uint64_t)plain->count;
    bool good = plain->count > 0;
    for (int i = plain->count - 1; i >= 0; i--) { /* the first by this thread */
        struct plain_socket *s = &plain->sockets[i];
        s->up = up / count;
        s->down = down / count;
        if (i == 0 || pthread_create(&s->thread, NULL, socket_move, s) != 0) {
            socket_move(s);
            s->thread = pthread_self();
        }
    }
    for (int i = 0; i < plain->count; i++) {
        struct plain_socket *s = &plain->sockets[i];
        if (!pthread_equal(s->thread, pthread_self())) {
            pthread_join(s->thread, NULL);
        }
        good &= s->good;
    }
    return good ? clock_seconds(begin_ns) : -1;
}

void plain_close(struct plain *plain)
{
    for (int i = 0; i < plain->count; i++) {
        shutdown(plain->sockets[i].fd, SHUT_RDWR); /* peers forked later have it open, too */
        close(plain->sockets[i].fd);
        waitpid(plain->sockets[i].child, NULL, 0);
        free(plain->sockets[i].buffer);
    }
    plain->count = 0;
}
