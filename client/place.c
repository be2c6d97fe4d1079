/*
 * place.c: memory shared with the daemon: made by fas_alloc, recognised by address in every call,
 * given back by fas_free. The list is short (a program shares few large pieces), so it is walked.
 */
#include "client/client.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define ALIGN 64u

/* The daemon may have to make a region known to a GPU: some seconds for tens of gigabytes. */
#define OPEN_TIMEOUT_MS 60000u

/* How often place_settle looks whether the daemon has answered. */
#define SETTLE_MS 10

struct place {
    enum fas_place kind;
    uint32_t id; /* the daemon's; INLINE: 0 */
    uint8_t *data;
    uint64_t bytes;
    struct place *next;
};

/* ---- which tensors lie in it ---- */

static const struct place *place_of(const struct fas_client *client, const void *data)
{
    for (const struct place *place = client->places; place; place = place->next) {
        uint64_t offset = (uint64_t)((uintptr_t)data - (uintptr_t)place->data);
        if (offset < place->bytes && place->kind != FAS_PLACE_INLINE) {
            return place;
        }
    }
    return NULL;
}

void place_locate(struct fas_call *call)
{
    call->placed = 0;
    for (uint32_t left = call->inputs | call->outputs; left; left &= left - 1) {
        enum fas_tensor tensor = (enum fas_tensor)__builtin_ctz(left);
        const struct fas_buffer *buffer = &call->request.tensors[tensor];
        const struct place *place = place_of(call->client, buffer->data);
        if (!place || fas_tensor_bytes(&call->request.dims, tensor) == 0) {
            continue;
        }
        call->placed |= 1u << tensor;
        call->wire.tensors[tensor] = (struct wire_tensor){
            .place = place->kind,
            .place_id = place->id,
            .offset = (uint64_t)((uintptr_t)buffer->data - (uintptr_t)place->data),
            .row_stride = buffer->row_stride,
            .head_stride = buffer->head_stride};
    }
    call->inputs &= ~call->placed;
    call->outputs &= ~call->placed;
}

/* ---- making it ---- */

/* The daemon's memory, mapped here. Every page is touched: a fault costs more than any copy later.
 */
static enum fas_status open_region(struct fas_client *client, struct place *place,
                                   struct fas_error *error)
{
    const struct wire_open open = {.place = FAS_PLACE_REGION, .bytes = place->bytes};
    struct question question = {
        .asks = FRAME_OPEN, .answered_by = FRAME_OPENED, .open = &open, .fd = -1};
    enum fas_status status = question_ask(client, &question, OPEN_TIMEOUT_MS, error);
    if (status != FAS_OK) {
        return status;
    }
    void *data = question.fd < 0 ? MAP_FAILED
                                 : mmap(NULL, place->bytes, PROT_READ | PROT_WRITE,
                                        MAP_SHARED | MAP_POPULATE, question.fd, 0);
    if (question.fd >= 0) {
        close(question.fd);
    }
    if (data == MAP_FAILED) {
        question_release(client, 0, question.opened.id, NULL);
        return fas_fail(error, FAS_RESOURCE_EXHAUSTED, "bytes", "%llu can not be mapped",
                        (unsigned long long)place->bytes);
    }
    place->data = data;
    place->id = question.opened.id;
    return FAS_OK;
}

static enum fas_status open_ordinary(struct place *place, struct fas_error *error)
{
    uint64_t bytes = (place->bytes + ALIGN - 1) / ALIGN * ALIGN;
    place->data = bytes >= place->bytes ? aligned_alloc(ALIGN, bytes) : NULL;
    if (!place->data) {
        return fas_fail(error, FAS_RESOURCE_EXHAUSTED, "bytes", "out of memory");
    }
    memset(place->data, 0, place->bytes);
    return FAS_OK;
}

static enum fas_status check_wish(enum fas_place place, uint64_t bytes, struct fas_error *error)
{
    if (place != FAS_PLACE_INLINE && place != FAS_PLACE_REGION) {
        return fas_fail(error, FAS_UNSUPPORTED, "place", "not one that fas_alloc makes");
    }
    if (bytes == 0 || bytes > (uint64_t)FAS_EXTENT_BYTES_MAX) {
        return fas_fail(error, FAS_INVALID_ARGUMENT, "bytes", "%llu", (unsigned long long)bytes);
    }
    return FAS_OK;
}

enum fas_status fas_alloc(struct fas_client *client, enum fas_place place, uint64_t bytes,
                          void **memory, struct fas_error *error)
{
    *memory = NULL;
    enum fas_status status = check_wish(place, bytes, error);
    if (status != FAS_OK) {
        return status;
    }
    struct place *made = calloc(1, sizeof(*made));
    if (!made) {
        return fas_fail(error, FAS_RESOURCE_EXHAUSTED, "", "out of memory");
    }
    made->kind = place;
    made->bytes = bytes;
    status =
        place == FAS_PLACE_REGION ? open_region(client, made, error) : open_ordinary(made, error);
    if (status != FAS_OK) {
        free(made);
        return status;
    }
    *memory = made->data;
    connection_lock(client->connection);
    made->next = client->places;
    client->places = made;
    connection_unlock(client->connection);
    return FAS_OK;
}

/* ---- giving it back ---- */

static void place_free(struct place *place)
{
    if (place->kind == FAS_PLACE_REGION) {
        munmap(place->data, place->bytes);
    } else {
        free(place->data);
    }
    free(place);
}

/* Out of the chain. Under the lock. */
static struct place *place_take(struct fas_client *client, const void *memory)
{
    struct place **link = &client->places;
    while (*link && (*link)->data != memory) {
        link = &(*link)->next;
    }
    struct place *place = *link;
    if (place) {
        *link = place->next;
    }
    return place;
}

void fas_free(struct fas_client *client, void *memory)
{
    connection_lock(client->connection);
    struct place *place = memory ? place_take(client, memory) : NULL;
    connection_unlock(client->connection);
    if (place && place->id) { /* a daemon that is gone has closed it already */
        struct question question = {
            .asks = FRAME_CLOSE, .answered_by = FRAME_CLOSED, .place = place->id, .fd = -1};
        question_ask(client, &question, OPEN_TIMEOUT_MS, NULL);
    }
    if (place) {
        place_free(place);
    }
}

void place_free_all(struct fas_client *client)
{
    struct place *place = client->places;
    while (place) {
        struct place *next = place->next;
        place_free(place);
        place = next;
    }
    client->places = NULL;
}

/* ---- before the connection is closed ---- */

/* A call that the daemon has not answered, cancelled. Under the lock. */
static struct fas_call *unsettled(struct fas_client *client)
{
    for (uint32_t i = 0; client->calls && i < client->call_count; i++) {
        struct fas_call *call = &client->calls[i];
        if (call->state == CALL_OPEN && call->placed) {
            return call;
        }
    }
    return NULL;
}

void place_settle(struct fas_client *client)
{
    struct fas_call *call;
    do {
        connection_lock(client->connection);
        call = unsettled(client);
        connection_unlock(client->connection);
        if (call) { /* it may be closed in its callback meanwhile */
            fas_cancel(call);
            fas_wait(call, SETTLE_MS);
        }
    } while (call);
}
