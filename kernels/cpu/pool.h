/*
 * pool.h: the threads of one context. They sleep unless there is work; the caller works too.
 *
 * Used by one thread at a time. Items are handed out in ascending order, each to one thread: when
 * an item runs, all before it are done or running. backward.c relies on that.
 */
#ifndef ATTN_CPU_POOL_H
#define ATTN_CPU_POOL_H

#include <stdint.h>

struct pool;

/* worker: 0 (the caller) to threads - 1; no two running items share it. */
typedef void pool_work(void *job, int worker, int64_t item);

/* threads >= 1, the caller included. NULL if they can not be had. */
struct pool *pool_open(int threads);
void pool_close(struct pool *pool);

/* Runs work for items 0 .. items - 1 on the caller and at most `helpers` others; returns when all
 * are done. */
void pool_run(struct pool *pool, pool_work *work, void *job, int64_t items, int helpers);

#endif
