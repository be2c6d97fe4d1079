/*
 * turn.c: passing costs one atomic addition as long as nobody sleeps. A sleeper announces itself
 * before it looks at the turn for the last time, a passer looks for sleepers after it has passed;
 * both sequentially consistent, so one of them sees the other.
 */
#include "kernels/cpu/turn.h"

bool turn_room_open(struct turn_room *room)
{
    atomic_init(&room->sleepers, 0);
    if (pthread_mutex_init(&room->lock, NULL) != 0) {
        return false;
    }
    if (pthread_cond_init(&room->passed, NULL) != 0) {
        pthread_mutex_destroy(&room->lock);
        return false;
    }
    return true;
}

void turn_room_close(struct turn_room *room)
{
    pthread_cond_destroy(&room->passed);
    pthread_mutex_destroy(&room->lock);
}

void turn_wait(struct turn_room *room, turn *its, int number)
{
    if (atomic_load(its) == number) {
        return;
    }
    pthread_mutex_lock(&room->lock);
    atomic_fetch_add(&room->sleepers, 1);
    while (atomic_load(its) != number) {
        pthread_cond_wait(&room->passed, &room->lock);
    }
    atomic_fetch_sub(&room->sleepers, 1);
    pthread_mutex_unlock(&room->lock);
}

void turn_pass(struct turn_room *room, turn *its)
{
    atomic_fetch_add(its, 1);
    if (atomic_load(&room->sleepers) == 0) {
        return;
    }
    pthread_mutex_lock(&room->lock);
    pthread_cond_broadcast(&room->passed);
    pthread_mutex_unlock(&room->lock);
}
