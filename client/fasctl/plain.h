/*
 * plain.h: what the machine's sockets can do: a plain program with blocking sockets that moves the
 * same bytes through the same kind of sockets between processes. The bench's yardstick.
 *
 * The peers are forked, so open it before anything starts threads (fas_connect does).
 */
#ifndef FASCTL_PLAIN_H
#define FASCTL_PLAIN_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#define PLAIN_SOCKETS_MAX 8

/* One socket, with a thread on this side and a process on the other. */
struct plain_socket {
    int fd;
    int child;
    uint8_t *buffer; /* used round and round */
    uint64_t buffer_bytes;
    uint64_t up, down; /* of the move under way */
    bool good;
    pthread_t thread;
};

struct plain {
    struct plain_socket sockets[PLAIN_SOCKETS_MAX];
    int count;
};

/* tcp: over loopback; else unix sockets. `buffer_bytes`: of all sockets together. */
bool plain_open(struct plain *plain, bool tcp, int sockets, uint64_t buffer_bytes);
/* Seconds to move `up` bytes there, then `down` bytes back, divided among the sockets; negative: it
 * failed. */
double plain_move(struct plain *plain, uint64_t up, uint64_t down);
void plain_close(struct plain *plain);

#endif
