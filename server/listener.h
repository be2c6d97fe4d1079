/*
 * listener.h: sockets that listen, at a path or at host:port, and who has come to them.
 */
#ifndef SERVER_LISTENER_H
#define SERVER_LISTENER_H

#include "server/config.h"
#include "server/transport.h"

/* At listen-ipc: the path must be free, or a dead daemon's socket; neither a file nor a live daemon
 * is replaced. Not blocking. Fields of errors: the options'. */
enum fas_status listener_open_path(const struct config *config, int backlog, int *listener,
                                   struct fas_error *error);

/* At "host:port", "[address]:port", or "port" of 127.0.0.1. Field of errors: `option`. */
enum fas_status listener_open_address(const char *address, const char *option, int backlog,
                                      int *listener, struct fas_error *error);

/* Who is at the other end: the kernel's word over a unix socket, an address over tcp. */
void listener_describe(int fd, bool ipc, struct stream_peer *peer);

#endif
