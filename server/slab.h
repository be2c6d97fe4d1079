/*
 * slab.h: host memory that payloads pass through on their way to, or from, a device whose arena the
 * host does not reach: slabs of one size, all there from the start.
 *
 * Each owner (a connection, by index) can always have one slab; it gets more, up to SLAB_OWNER_MAX,
 * while more slabs than there are owners are free. So a peer that stalls in the middle of a payload
 * keeps its own slabs and nobody else's. An owner that was turned away is remembered until it could
 * have one.
 *
 * A slab that was given back is left alone for a while: the cache of the core that used it last is
 * full of it, and a device that writes to it meanwhile holds up that core (staging.h).
 *
 * Two pools per device, one for each direction. Take and give from any thread; the rest is the
 * loop's.
 */
#ifndef SERVER_SLAB_H
#define SERVER_SLAB_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#define SLAB_NONE UINT32_MAX

/* Two keep a link busy while one is copied; a connection is faster than none of its peers with 16.
 */
#define SLAB_OWNER_MAX 16u

/* Given back later than the one that is taken next: two each for eight connections. */
#define SLAB_LEFT_ALONE 16u

/* Beyond one for each owner: eight connections at full speed. */
#define SLAB_SHARED 64u

struct slab {
    uint32_t owner; /* SLAB_NONE: free */
    bool held;      /* by the device: not even the end of its owner frees it */
};

struct slab_pool {
    uint8_t *memory;
    uint64_t slab_bytes;
    uint32_t count, owner_count;

    /* private */
    pthread_mutex_t lock;
    struct slab *slabs;
    uint32_t *free_slabs, free_count, free_min;
    uint32_t *owned; /* per owner */
    bool *waiting;   /* per owner: was turned away */
    uint32_t waiting_count;
};

/* How many slabs serve so many owners. */
uint32_t slab_count(uint32_t owners);

/* Keeps book of `memory`, slab_count(owners) times slab_bytes. False: no memory for the tables. */
bool slab_open(struct slab_pool *pool, uint8_t *memory, uint64_t slab_bytes, uint32_t owners);
void slab_close(struct slab_pool *pool);

/* A slab, or NULL: the owner has to wait. */
uint8_t *slab_take(struct slab_pool *pool, uint32_t owner);
void slab_give(struct slab_pool *pool, const uint8_t *slab);

/* A copy between the slab and the device begins: it stays taken until slab_give. */
void slab_hold(struct slab_pool *pool, const uint8_t *slab);

/* The owner is gone: frees what the device does not hold. */
void slab_reclaim(struct slab_pool *pool, uint32_t owner);

/* An owner that was turned away and can have a slab now, once; SLAB_NONE: there is none. */
uint32_t slab_next_waiting(struct slab_pool *pool);

/* Which one it is, SLAB_NONE: none of this pool. */
uint32_t slab_index(const struct slab_pool *pool, const uint8_t *slab);

/* Whose it is. */
uint32_t slab_owner(const struct slab_pool *pool, uint32_t index);

/* Somebody was turned away. */
bool slab_anyone_waits(struct slab_pool *pool);

/* The most that were ever taken at once. */
uint32_t slab_high_water(struct slab_pool *pool);

#endif
