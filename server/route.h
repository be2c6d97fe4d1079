/*
 * route.h: where the payload of a DATA message goes, decided before it is read.
 *
 * The receiver asks (route_data) with nothing but the preamble in hand; the loop answers in advance
 * by what it did with the request: opened it with the place of every input, or closed it. Routes of
 * finished requests are remembered, the oldest forgotten first, because DATA already on its way
 * when a request ends is not the client's fault.
 *
 * Pure bookkeeping over a fixed array; the caller (reader.c) holds its lock.
 */
#ifndef SERVER_ROUTE_H
#define SERVER_ROUTE_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/frame.h"
#include "proto/tensor.h"
#include "server/slab.h"

/* Chunks of one request: 64 Ki at the default 1 MiB are 64 GiB, half of the largest GPU's memory.
 * The bit map of a request is then 8 KiB. */
#define ROUTE_CHUNKS_MAX (64u << 10)
#define ROUTE_BITMAP_WORDS (ROUTE_CHUNKS_MAX / 64u)

enum route_state {
    ROUTE_FREE,
    ROUTE_UNDECIDED, /* REQUEST was read, the loop has not answered yet */
    ROUTE_OPEN,      /* admitted: inputs have their places */
    ROUTE_CLOSED,    /* refused or finished: DATA is thrown away */
};

/* One input tensor of an admitted request: packed bytes, in chunks. They land at `base`, or each in
 * a slab of `slabs`; with neither the tensor does not travel inline. */
struct route_tensor {
    uint8_t *base;
    uint64_t bytes;
    uint32_t first_chunk; /* its first bit in the bit map */
    struct slab_pool *slabs;
};

struct route {
    enum route_state state;
    uint64_t request;
    uint64_t age; /* grows with every route_begin: the smallest is the oldest */
    struct route_tensor tensors[FAS_TENSOR_COUNT];
    uint64_t *claimed; /* bit map over all chunks, memory of the slot */
};

struct route_table {
    struct route *routes;
    uint32_t count;
    uint32_t chunk_bytes;
    uint64_t age;
};

enum route_answer {
    ROUTE_LAND,    /* into *place */
    ROUTE_WAIT,    /* the loop has not decided: stop reading */
    ROUTE_STARVED, /* no slab is free: stop reading until the pool says that one is */
    ROUTE_DROP,    /* read and throw away */
    ROUTE_REFUSE,  /* read, throw away, and end the request: *text says why */
    ROUTE_UNKNOWN, /* an id that was never opened: the connection is at fault */
};

/* A REQUEST was read. False if the id is in use. */
bool route_begin(struct route_table *table, uint64_t request);

/* The loop admitted it: the route owns nothing, `claimed` must live until route_close. */
void route_open(struct route_table *table, uint64_t request,
                const struct route_tensor tensors[FAS_TENSOR_COUNT], uint64_t *claimed);

/* The loop refused or finished it. */
void route_close(struct route_table *table, uint64_t request);

/* owner: for whom a slab is taken. */
enum route_answer route_data(struct route_table *table, const struct frame *frame, uint32_t owner,
                             uint8_t **place, const char **text);

/* Chunks a packed tensor travels in. */
uint32_t route_chunks(uint64_t bytes, uint32_t chunk_bytes);

#endif
