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

static bool move_in(int fd, uint8_t *to, uint64_t bytes)
{
    while (bytes > 0) {
        ssize_t n = recv(fd, to, bytes, 0);
        if (n <= 0) {
            return false;
        }
        to += n;
        bytes -= (uint64_t)n;
    }
    return true;
}

static bool move_out(int fd, const uint8_t *from, uint64_t bytes)
{
    while (bytes > 0) {
        ssize_t n = send(fd, from, bytes, MSG_NOSIGNAL);
        if (n <= 0) {
            return false;
        }
        from += n;
        bytes -= (uint64_t)n;
    }
    return true;
}

/* The peer: two sizes, then as many bytes in and out. */
static void peer_run(int fd, uint8_t *buffer)
{
    uint64_t sizes[2];
    while (move_in(fd, (uint8_t *)sizes, sizeof(sizes)) && move_in(fd, buffer, sizes[0]) &&
           move_out(fd, buffer, sizes[1])) {
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

bool plain_open(struct plain *plain, bool tcp, uint64_t bytes)
{
    int fds[2] = {-1, -1};
    memset(plain, 0, sizeof(*plain));
    plain->buffer = malloc(bytes);
    plain->bytes = bytes;
    if (!plain->buffer ||
        !(tcp ? pair_tcp(fds) : socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0)) {
        free(plain->buffer);
        plain->buffer = NULL;
        return false;
    }
    plain->child = fork();
    if (plain->child == 0) {
        close(fds[0]);
        memset(plain->buffer, 1, bytes);
        peer_run(fds[1], plain->buffer);
        _exit(0);
    }
    close(fds[1]);
    plain->fd = fds[0];
    memset(plain->buffer, 1, bytes);
    return plain->child > 0;
}

double plain_move(struct plain *plain, uint64_t up, uint64_t down)
{
    uint64_t sizes[2] = {up, down}, begin_ns = clock_ns();
    bool good = move_out(plain->fd, (const uint8_t *)sizes, sizeof(sizes)) &&
                move_out(plain->fd, plain->buffer, up) && move_in(plain->fd, plain->buffer, down);
    return good ? clock_seconds(begin_ns) : -1;
}

void plain_close(struct plain *plain)
{
    if (plain->buffer) {
        close(plain->fd);
        waitpid(plain->child, NULL, 0);
        free(plain->buffer);
        plain->buffer = NULL;
    }
}
