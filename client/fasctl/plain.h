/*
 * plain.h: what the machine's sockets can do: a plain program with blocking sockets that moves the
 * same bytes through the same kind of socket between two processes. The bench's yardstick.
 *
 * The peer is forked, so open it before anything starts threads (fas_connect does).
 */
#ifndef FASCTL_PLAIN_H
#define FASCTL_PLAIN_H

#include <stdbool.h>
#include <stdint.h>

struct plain {
    int fd;
    int child;
    uint8_t *buffer;
    uint64_t bytes;
};

/* tcp: over loopback; else a unix socket. `bytes` is the most one move has. */
bool plain_open(struct plain *plain, bool tcp, uint64_t bytes);
/* Seconds to move `up` bytes there, then `down` bytes back; negative: it failed. */
double plain_move(struct plain *plain, uint64_t up, uint64_t down);
void plain_close(struct plain *plain);

#endif
