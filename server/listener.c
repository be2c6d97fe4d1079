/* listener.c: see listener.h. */
#include "server/listener.h"

#include <arpa/inet.h>
#include <errno.h>
#include <grp.h>
#include <inttypes.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

/* ---- at a path ---- */

static enum fas_status refuse(const char *path, const char *text, struct fas_error *error)
{
    return fas_fail(error, FAS_INVALID_ARGUMENT, "listen-ipc", "%s: %s", path, text);
}

static struct sockaddr_un address_of(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    memcpy(address.sun_path, path, strlen(path) + 1);
    return address;
}

/* The path must be free, or a dead daemon's socket: neither a file nor a live daemon is replaced.
 */
static enum fas_status clear_path(const char *path, struct fas_error *error)
{
    struct stat status;
    if (strlen(path) >= sizeof((struct sockaddr_un *)NULL)->sun_path) {
        return refuse(path, "too long for a socket", error);
    }
    if (lstat(path, &status) != 0) {
        return errno == ENOENT ? FAS_OK : refuse(path, strerror(errno), error);
    }
    if (!S_ISSOCK(status.st_mode)) {
        return refuse(path, "exists and is not a socket", error);
    }
    struct sockaddr_un address = address_of(path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    bool stale = fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) != 0 &&
                 errno == ECONNREFUSED;
    if (fd >= 0) {
        close(fd);
    }
    if (!stale) {
        return refuse(path, "a daemon is listening there", error);
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

/* Nobody can connect before `listen`, so mode and group are set in time. */
enum fas_status listener_open_path(const struct config *config, int backlog, int *listener,
                                   struct fas_error *error)
{
    const char *path = config->listen_ipc;
    enum fas_status status = clear_path(path, error);
    if (status != FAS_OK) {
        return status;
    }
    struct sockaddr_un address = address_of(path);
    *listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (*listener < 0 || bind(*listener, (struct sockaddr *)&address, sizeof address) != 0) {
        return refuse(path, strerror(errno), error);
    }
    if (chmod(path, config->ipc_mode) != 0) {
        return refuse(path, strerror(errno), error);
    }
    if (config->ipc_group[0] != '\0') {
        status = give_to_group(path, config->ipc_group, error);
    }
    if (status == FAS_OK && listen(*listener, backlog) != 0) {
        return refuse(path, strerror(errno), error);
    }
    return status;
}

/* ---- at an address ---- */

/* "host:port" -> host and port; a bare port is one of this machine only. False: neither. */
static bool split(const char *address, char *host, size_t room, const char **port)
{
    const char *colon = strrchr(address, ':');
    const char *begin = address;
    size_t length = colon ? (size_t)(colon - address) : 0;
    if (!colon) {
        begin = "127.0.0.1";
        length = strlen(begin);
    } else if (length >= 2 && address[0] == '[' && colon[-1] == ']') {
        begin++;
        length -= 2;
    }
    *port = colon ? colon + 1 : address;
    return length < room && snprintf(host, room, "%.*s", (int)length, begin) > 0;
}

/* -1: errno says why. */
static int listen_at(const struct addrinfo *at, int backlog)
{
    const int yes = 1;
    int listener = socket(at->ai_family, at->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (listener < 0) {
        return -1;
    }
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(listener, at->ai_addr, at->ai_addrlen) != 0 || listen(listener, backlog) != 0) {
        int why = errno;
        close(listener);
        errno = why;
        return -1;
    }
    return listener;
}

enum fas_status listener_open_address(const char *address, const char *option, int backlog,
                                      int *listener, struct fas_error *error)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
    struct addrinfo *found;
    char host[256];
    const char *port;
    if (!split(address, host, sizeof host, &port)) {
        return fas_fail(error, FAS_INVALID_ARGUMENT, option, "%s: not host:port", address);
    }
    int why = getaddrinfo(host, port, &hints, &found);
    if (why != 0) {
        return fas_fail(error, FAS_INVALID_ARGUMENT, option, "%s: %s", address, gai_strerror(why));
    }
    *listener = listen_at(found, backlog);
    why = errno;
    freeaddrinfo(found);
    if (*listener < 0) {
        return fas_fail(error, FAS_INVALID_ARGUMENT, option, "%s: %s%s", address, strerror(why),
                        why == EADDRINUSE ? ": two daemons of a node need two ports" : "");
    }
    return FAS_OK;
}

/* ---- who has come ---- */

static void describe_local(int fd, struct stream_peer *peer)
{
    struct ucred who;
    socklen_t bytes = sizeof who;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &bytes) != 0) {
        return; /* the kernel does not say who: a stranger */
    }
    peer->local = true;
    peer->uid = who.uid;
    peer->gid = who.gid;
    snprintf(peer->address, sizeof peer->address, "uid %" PRIu64 " pid %d", peer->uid,
             (int)who.pid);
}

static void describe_remote(int fd, struct stream_peer *peer)
{
    union {
        struct sockaddr any;
        struct sockaddr_in in;
        struct sockaddr_in6 in6;
    } address = {.any = {0}};
    char host[INET6_ADDRSTRLEN] = "?";
    socklen_t bytes = sizeof address;
    if (getpeername(fd, &address.any, &bytes) != 0) {
        return; /* gone already */
    }
    bool v6 = address.any.sa_family == AF_INET6;
    const void *raw = v6 ? (const void *)&address.in6.sin6_addr : &address.in.sin_addr;
    inet_ntop(address.any.sa_family, raw, host, sizeof host);
    snprintf(peer->address, sizeof peer->address, v6 ? "[%s]:%u" : "%s:%u", host,
             ntohs(v6 ? address.in6.sin6_port : address.in.sin_port));
}

void listener_describe(int fd, bool ipc, struct stream_peer *peer)
{
    if (ipc) {
        describe_local(fd, peer);
    } else {
        describe_remote(fd, peer);
    }
}
