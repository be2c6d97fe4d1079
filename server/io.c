/* io.c: one queue, first in, first out. */
#include "server/io.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

struct io_pool {
    pthread_mutex_t lock;
    pthread_cond_t work_there;
    struct io_task *first, **last;
};

static void append(struct io_pool *pool, struct io_task *task)
{
    task->next = NULL;
    *pool->last = task;
    pool->last = &task->next;
    pthread_cond_signal(&pool->work_there);
}

static struct io_task *next_task(struct io_pool *pool)
{
    while (!pool->first) {
        pthread_cond_wait(&pool->work_there, &pool->lock);
    }
    struct io_task *task = pool->first;
    pool->first = task->next;
    if (!pool->first) {
        pool->last = &pool->first;
    }
    return task;
}

static void *run(void *argument)
{
    struct io_pool *pool = argument;
    pthread_mutex_lock(&pool->lock);
    for (;;) {
        struct io_task *task = next_task(pool);
        pthread_mutex_unlock(&pool->lock);
        bool again = task->run(task);
        pthread_mutex_lock(&pool->lock);
        if (again) {
            append(pool, task);
        }
    }
    return NULL;
}

void io_push(struct io_pool *pool, struct io_task *task)
{
    pthread_mutex_lock(&pool->lock);
    append(pool, task);
    pthread_mutex_unlock(&pool->lock);
}

bool io_crowded(struct io_pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    bool crowded = pool->first != NULL;
    pthread_mutex_unlock(&pool->lock);
    return crowded;
}

enum fas_status io_open(struct io_pool **opened, uint32_t threads, struct fas_error *error)
{
    struct io_pool *pool = calloc(1, sizeof *pool);
    if (!pool) {
        return fas_fail(error, FAS_RESOURCE_EXHAUSTED, "io-threads", "no memory");
    }
    *opened = pool;
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->work_there, NULL);
    pool->last = &pool->first;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = 0;
    for (uint32_t i = 0; i < threads && failed == 0; i++) {
        pthread_t thread;
        failed = pthread_create(&thread, NULL, run, pool);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return failed == 0 ? FAS_OK
                       : fas_fail(error, FAS_RESOURCE_EXHAUSTED, "io-threads",
                                  "%u threads can not be had", threads);
}
