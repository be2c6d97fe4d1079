/*
 * turn.h: several threads add to one sum in a fixed order. A turn counts how many have added; who
 * is number n waits until it is n, adds, and passes it on. Waiting threads sleep.
 *
 * Turns are handed memory by their user and start at 0. Deadlock-free when number n begins only
 * after all lower numbers have begun (pool.h).
 */
#ifndef ATTN_CPU_TURN_H
#define ATTN_CPU_TURN_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

typedef atomic_int turn;

/* Where the waiting threads of all turns sleep. */
struct turn_room {
    pthread_mutex_t lock;
    pthread_cond_t passed;
    atomic_int sleepers;
};

bool turn_room_open(struct turn_room *room);
void turn_room_close(struct turn_room *room);

void turn_wait(struct turn_room *room, turn *its, int number);
void turn_pass(struct turn_room *room, turn *its);

#endif
