/*
 * io.h: a few threads that move bulk, so that the loop never copies megabytes. A task belongs to
 * the pool from io_push until its run returns false; then the pool does not touch it any more. It
 * is run in turns: one that returns true goes behind the tasks that wait.
 *
 * Any thread may push. The queue is a list through the tasks themselves: nothing is allocated.
 */
#ifndef SERVER_IO_H
#define SERVER_IO_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/status.h"

struct io_task {
    bool (*run)(struct io_task *task);
    void *context;
    struct io_task *next; /* the pool's */
};

struct io_pool;

/* Starts the threads, which take no signals. Field of errors: "io-threads". */
enum fas_status io_open(struct io_pool **opened, uint32_t threads, struct fas_error *error);

void io_push(struct io_pool *pool, struct io_task *task);

/* Tasks wait for a thread: who has had its share should return true. */
bool io_crowded(struct io_pool *pool);

#endif
