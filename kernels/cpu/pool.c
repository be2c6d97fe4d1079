/*
 * pool.c: helpers wait on a condition variable; a run says how many of them it wants, wakes that
 * many, and hands out items from one counter. A helper that wakes after the last item was taken
 * finds nothing wanted and sleeps on, so a run never waits for a thread that has not begun.
 */
#include "kernels/cpu/pool.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

struct helper {
    struct pool *pool;
    pthread_t thread;
    int worker;
};

struct pool {
    pthread_mutex_t lock; /* over everything up to `next` */
    pthread_cond_t wake, idle;
    bool closing;
    int wanted;  /* helpers that may still join the run */
    int running; /* helpers that joined and have not left */
    pool_work *work;
    void *job;
    int64_t items;
    atomic_int_fast64_t next;
    int helper_count;
    struct helper helpers[];
};

static void work_off(struct pool *pool, int worker)
{
    int64_t item;
    while ((item = atomic_fetch_add_explicit(&pool->next, 1, memory_order_relaxed)) < pool->items) {
        pool->work(pool->job, worker, item);
    }
}

static void *helper_main(void *argument)
{
    struct helper *self = argument;
    struct pool *pool = self->pool;
    pthread_mutex_lock(&pool->lock);
    for (;;) {
        while (!pool->wanted && !pool->closing) {
            pthread_cond_wait(&pool->wake, &pool->lock);
        }
        if (pool->closing) {
            break;
        }
        pool->wanted--;
        pool->running++;
        pthread_mutex_unlock(&pool->lock);
        work_off(pool, self->worker);
        pthread_mutex_lock(&pool->lock);
        if (--pool->running == 0) {
            pthread_cond_signal(&pool->idle);
        }
    }
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

struct pool *pool_open(int threads)
{
    struct pool *pool = calloc(1, sizeof *pool + (size_t)threads * sizeof pool->helpers[0]);
    if (!pool) {
        return NULL;
    }
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->wake, NULL);
    pthread_cond_init(&pool->idle, NULL);
    for (int i = 0; i < threads - 1; i++) {
        struct helper *helper = &pool->helpers[i];
        helper->pool = pool;
        helper->worker = i + 1;
        if (pthread_create(&helper->thread, NULL, helper_main, helper) != 0) {
            pool_close(pool);
            return NULL;
        }
        pool->helper_count++;
    }
    return pool;
}

void pool_close(struct pool *pool)
{
    if (!pool) {
        return;
    }
    pthread_mutex_lock(&pool->lock);
    pool->closing = true;
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->lock);
    for (int i = 0; i < pool->helper_count; i++) {
        pthread_join(pool->helpers[i].thread, NULL);
    }
    pthread_mutex_destroy(&pool->lock);
    pthread_cond_destroy(&pool->wake);
    pthread_cond_destroy(&pool->idle);
    free(pool);
}

static int wanted_helpers(const struct pool *pool, int64_t items, int helpers)
{
    int wanted = helpers < pool->helper_count ? helpers : pool->helper_count;
    if (wanted > items - 1) {
        wanted = (int)(items - 1);
    }
    return wanted > 0 ? wanted : 0;
}

void pool_run(struct pool *pool, pool_work *work, void *job, int64_t items, int helpers)
{
    pthread_mutex_lock(&pool->lock);
    pool->work = work;
    pool->job = job;
    pool->items = items;
    atomic_store_explicit(&pool->next, 0, memory_order_relaxed);
    pool->wanted = wanted_helpers(pool, items, helpers);
    int wakes = pool->wanted;
    pthread_mutex_unlock(&pool->lock);
    for (int i = 0; i < wakes; i++) {
        pthread_cond_signal(&pool->wake);
    }
    work_off(pool, 0);
    pthread_mutex_lock(&pool->lock);
    pool->wanted = 0;
    while (pool->running) {
        pthread_cond_wait(&pool->idle, &pool->lock);
    }
    pthread_mutex_unlock(&pool->lock);
}
