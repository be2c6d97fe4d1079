/* route.c: a short array searched by id: a connection has some tens of requests. */
#include "server/route.h"

#include <assert.h>
#include <string.h>

static struct route *route_find(struct route_table *table, uint64_t request)
{
    for (uint32_t i = 0; i < table->count; i++) {
        if (table->routes[i].state != ROUTE_FREE && table->routes[i].request == request) {
            return &table->routes[i];
        }
    }
    return NULL;
}

/* A free entry, else the closed one that is oldest. The table is longer than the number of requests
 * a connection may have unfinished, so one of the two exists. */
static struct route *route_recycle(struct route_table *table)
{
    struct route *oldest = NULL;
    for (uint32_t i = 0; i < table->count; i++) {
        struct route *route = &table->routes[i];
        if (route->state == ROUTE_FREE) {
            return route;
        }
        if (route->state == ROUTE_CLOSED && (!oldest || route->age < oldest->age)) {
            oldest = route;
        }
    }
    assert(oldest);
    return oldest;
}

bool route_begin(struct route_table *table, uint64_t request)
{
    struct route *route = route_find(table, request);
    if (route && route->state != ROUTE_CLOSED) {
        return false;
    }
    if (!route) {
        route = route_recycle(table);
    }
    *route = (struct route){.state = ROUTE_UNDECIDED, .request = request, .age = ++table->age};
    return true;
}

void route_open(struct route_table *table, uint64_t request,
                const struct route_tensor tensors[FAS_TENSOR_COUNT], uint64_t *claimed)
{
    struct route *route = route_find(table, request);
    assert(route && route->state == ROUTE_UNDECIDED);
    memcpy(route->tensors, tensors, sizeof route->tensors);
    route->claimed = claimed;
    route->state = ROUTE_OPEN;
}

void route_close(struct route_table *table, uint64_t request)
{
    struct route *route = route_find(table, request);
    if (route) {
        route->state = ROUTE_CLOSED;
        route->claimed = NULL;
    }
}

uint32_t route_chunks(uint64_t bytes, uint32_t chunk_bytes)
{
    return (uint32_t)((bytes + chunk_bytes - 1) / chunk_bytes);
}

static bool travels(const struct route_tensor *tensor)
{
    return tensor->base || tensor->slabs;
}

/* Chunk n of a tensor is bytes [n * chunk_bytes, ...), full length but for the last. */
static const char *chunk_check(const struct route_table *table, const struct route_tensor *tensor,
                               const struct frame *frame)
{
    uint64_t first = (uint64_t)frame->chunk * table->chunk_bytes;
    if (first >= tensor->bytes) {
        return "a chunk beyond its tensor";
    }
    uint64_t left = tensor->bytes - first;
    uint64_t bytes = left < table->chunk_bytes ? left : table->chunk_bytes;
    return frame->payload_bytes == bytes ? NULL : "a chunk of the wrong length";
}

enum route_answer route_data(struct route_table *table, const struct frame *frame, uint32_t owner,
                             uint8_t **place, const char **text)
{
    struct route *route = route_find(table, frame->request);
    if (!route) {
        return ROUTE_UNKNOWN;
    }
    if (route->state != ROUTE_OPEN) {
        return route->state == ROUTE_UNDECIDED ? ROUTE_WAIT : ROUTE_DROP;
    }
    if (frame->flags >= FAS_TENSOR_COUNT || !travels(&route->tensors[frame->flags])) {
        *text = "a tensor that does not travel inline in this request";
        return ROUTE_REFUSE;
    }
    const struct route_tensor *tensor = &route->tensors[frame->flags];
    *text = chunk_check(table, tensor, frame);
    if (*text) {
        return ROUTE_REFUSE;
    }
    uint32_t bit = tensor->first_chunk + frame->chunk;
    if (route->claimed[bit / 64] >> (bit % 64) & 1) {
        *text = "a chunk sent twice";
        return ROUTE_REFUSE;
    }
    *place = tensor->slabs ? slab_take(tensor->slabs, owner)
                           : tensor->base + (uint64_t)frame->chunk * table->chunk_bytes;
    if (!*place) {
        return ROUTE_STARVED;
    }
    route->claimed[bit / 64] |= UINT64_C(1) << (bit % 64);
    return ROUTE_LAND;
}
