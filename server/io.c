/* io.c: one queue, first in, first out. */
#include "server/io.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

struct io_pool {
    pthread_mutex_t lock;
    pthread_cond_t work_there;
    struct io_job *first, **last;
};

static void append(struct io_pool *pool, struct io_job *job)
{
    job->next = NULL;
    *pool->last = job;
    pool->last = &job->next;
    pthread_cond_signal(&pool->work_there);
}

static struct io_job *next_job(struct io_pool *pool)
{
    while (!pool->first) {
        pthread_cond_wait(&pool->work_there, &pool->lock);
    }
    struct io_job *job = pool->first;
    pool->first = job->next;
    if (!pool->first) {
        pool->last = &pool->first;
    }
    return job;
}

static void *run(void *argument)
{
    struct io_pool *pool = argument;
    pthread_mutex_lock(&pool->lock);
    for (;;) {
        struct io_job *job = next_job(pool);
        pthread_mutex_unlock(&pool->lock);
        bool again = job->run(job);
        pthread_mutex_lock(&pool->lock);
        if (again) {
            append(pool, job);
        }
    }
    return NULL;
}

void io_push(struct io_pool *pool, struct io_job *job)
{
    pthread_mutex_lock(&pool->lock);
    append(pool, job);
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
