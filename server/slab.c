/*
 * slab.c: a stack of free slabs and a count per owner.
 *
 * Why each owner can have one: free slabs are never fewer than owners without any. It holds at
 * first (slab_count); an owner's first slab takes one of each; a further one is only given while
 * more slabs are free than there are owners; giving one back only adds.
 */
#include "server/slab.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

uint32_t slab_count(uint32_t owners)
{
    return owners + SLAB_SHARED;
}

bool slab_open(struct slab_pool *pool, uint8_t *memory, uint64_t slab_bytes, uint32_t owners)
{
    uint32_t count = slab_count(owners);
    *pool = (struct slab_pool){.memory = memory,
                               .slab_bytes = slab_bytes,
                               .count = count,
                               .owner_count = owners,
                               .free_count = count,
                               .free_min = count};
    pthread_mutex_init(&pool->lock, NULL);
    pool->slabs = calloc(count, sizeof *pool->slabs);
    pool->free_slabs = calloc(count, sizeof *pool->free_slabs);
    pool->owned = calloc(owners, sizeof *pool->owned);
    pool->waiting = calloc(owners, sizeof *pool->waiting);
    if (!pool->slabs || !pool->free_slabs || !pool->owned || !pool->waiting) {
        slab_close(pool);
        return false;
    }
    for (uint32_t i = 0; i < count; i++) {
        pool->slabs[i].owner = SLAB_NONE;
        pool->free_slabs[i] = count - 1 - i; /* the first ones are used most: fewer pages */
    }
    return true;
}

void slab_close(struct slab_pool *pool)
{
    free(pool->slabs);
    free(pool->free_slabs);
    free(pool->owned);
    free(pool->waiting);
    pthread_mutex_destroy(&pool->lock);
    *pool = (struct slab_pool){0};
}

/* With the lock held. */
static bool may_have(const struct slab_pool *pool, uint32_t owner)
{
    return pool->owned[owner] == 0 ||
           (pool->owned[owner] < SLAB_OWNER_MAX && pool->free_count > pool->owner_count);
}

/* Not one of those that were given back last; of the others that which was: fewer pages. */
static uint32_t take_free(struct slab_pool *pool)
{
    uint32_t behind = pool->free_count - 1;
    behind = behind < SLAB_LEFT_ALONE ? behind : SLAB_LEFT_ALONE;
    uint32_t *taken = &pool->free_slabs[--pool->free_count - behind], index = *taken;
    memmove(taken, taken + 1, behind * sizeof *taken);
    return index;
}

uint8_t *slab_take(struct slab_pool *pool, uint32_t owner)
{
    uint8_t *slab = NULL;
    pthread_mutex_lock(&pool->lock);
    if (may_have(pool, owner)) {
        assert(pool->free_count > 0);
        uint32_t index = take_free(pool);
        pool->free_min = pool->free_count < pool->free_min ? pool->free_count : pool->free_min;
        pool->slabs[index] = (struct slab){.owner = owner};
        pool->owned[owner]++;
        slab = pool->memory + index * pool->slab_bytes;
    } else if (!pool->waiting[owner]) {
        pool->waiting[owner] = true;
        pool->waiting_count++;
    }
    pthread_mutex_unlock(&pool->lock);
    return slab;
}

/* With the lock held. */
static void release(struct slab_pool *pool, uint32_t index)
{
    struct slab *slab = &pool->slabs[index];
    assert(slab->owner != SLAB_NONE && pool->owned[slab->owner] > 0);
    pool->owned[slab->owner]--;
    *slab = (struct slab){.owner = SLAB_NONE};
    pool->free_slabs[pool->free_count++] = index;
}

void slab_give(struct slab_pool *pool, const uint8_t *slab)
{
    uint32_t index = slab_index(pool, slab);
    assert(index != SLAB_NONE);
    pthread_mutex_lock(&pool->lock);
    release(pool, index);
    pthread_mutex_unlock(&pool->lock);
}

void slab_hold(struct slab_pool *pool, const uint8_t *slab)
{
    uint32_t index = slab_index(pool, slab);
    assert(index != SLAB_NONE && pool->slabs[index].owner != SLAB_NONE);
    pthread_mutex_lock(&pool->lock);
    pool->slabs[index].held = true;
    pthread_mutex_unlock(&pool->lock);
}

static void stop_waiting(struct slab_pool *pool, uint32_t owner)
{
    pool->waiting_count -= pool->waiting[owner];
    pool->waiting[owner] = false;
}

void slab_reclaim(struct slab_pool *pool, uint32_t owner)
{
    pthread_mutex_lock(&pool->lock);
    stop_waiting(pool, owner);
    for (uint32_t i = 0; i < pool->count && pool->owned[owner] > 0; i++) {
        if (pool->slabs[i].owner == owner && !pool->slabs[i].held) {
            release(pool, i);
        }
    }
    pthread_mutex_unlock(&pool->lock);
}

uint32_t slab_next_waiting(struct slab_pool *pool)
{
    uint32_t found = SLAB_NONE;
    pthread_mutex_lock(&pool->lock);
    for (uint32_t i = 0; pool->waiting_count > 0 && i < pool->owner_count; i++) {
        if (pool->waiting[i] && may_have(pool, i)) {
            stop_waiting(pool, i);
            found = i;
            break;
        }
    }
    pthread_mutex_unlock(&pool->lock);
    return found;
}

uint32_t slab_index(const struct slab_pool *pool, const uint8_t *slab)
{
    if (!pool->memory || slab < pool->memory ||
        slab >= pool->memory + pool->count * pool->slab_bytes) {
        return SLAB_NONE;
    }
    return (uint32_t)((uint64_t)(slab - pool->memory) / pool->slab_bytes);
}

uint32_t slab_owner(const struct slab_pool *pool, uint32_t index)
{
    return pool->slabs[index].owner;
}

bool slab_anyone_waits(struct slab_pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    bool any = pool->waiting_count > 0;
    pthread_mutex_unlock(&pool->lock);
    return any;
}

uint32_t slab_high_water(struct slab_pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    uint32_t taken = pool->count - pool->free_min;
    pthread_mutex_unlock(&pool->lock);
    return taken;
}
