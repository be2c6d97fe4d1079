/*
 * place.c: memory shared with the daemon: made by fas_alloc, recognised by address in every call,
 * given back by fas_free. The list is short (a program shares few large pieces), so it is walked.
 */
#include "client/client.h"
#include "client/cuda.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define ALIGN 64u

/* The daemon may have to make a region known to a GPU: some seconds for tens of gigabytes. */
#define OPEN_TIMEOUT_MS 60000u

/* Allocations of the program's that the daemon has open at once: a caching allocator has some tens
 * of segments; more would keep freed memory from coming back. */
#define CUDA_PLACES_MAX 64u

/* How often place_settle looks whether the daemon has answered. */
#define SETTLE_MS 10

struct place {
    enum fas_place kind;
    uint32_t id; /* the daemon's; INLINE: 0 */
    uint8_t *data;
    uint64_t bytes;
    uint64_t number; /* CUDA: of the allocation */
    bool allocated;  /* here, by fas_alloc */
    uint64_t used;   /* counts up */
    struct place *next;
};

static void place_free(struct place *place)
{
    if (place->kind == FAS_PLACE_REGION) {
        munmap(place->data, place->bytes);
    } else if (place->kind == FAS_PLACE_INLINE) {
        free(place->data);
    } else if (place->allocated) {
        cuda_free(place->data);
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

static void place_add(struct fas_client *client, struct place *place)
{
    connection_lock(client->connection);
    place->used = ++client->places_used;
    place->next = client->places;
    client->places = place;
    connection_unlock(client->connection);
}

/* ---- which tensors lie in it ---- */

static struct place *place_of(const struct fas_client *client, const void *data)
{
    for (struct place *place = client->places; place; place = place->next) {
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

/* All of it is there, and stays: a program dies of touching what is not. */
static bool is_whole(int fd, uint64_t bytes)
{
    struct stat status;
    int seals = fcntl(fd, F_GET_SEALS);
    return fstat(fd, &status) == 0 && (uint64_t)status.st_size >= bytes && seals >= 0 &&
           seals & F_SEAL_SHRINK;
}

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
    bool whole = question.fd >= 0 && is_whole(question.fd, place->bytes);
    void *data = whole ? mmap(NULL, place->bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE,
                              question.fd, 0)
                       : MAP_FAILED;
    if (question.fd >= 0) {
        close(question.fd);
    }
    if (data == MAP_FAILED) {
        question_release(client, 0, question.opened.id, NULL);
        return whole ? fas_fail(error, FAS_RESOURCE_EXHAUSTED, "bytes", "%llu can not be mapped",
                                (unsigned long long)place->bytes)
                     : fas_fail(error, FAS_INTERNAL, "place", "the daemon gave other memory");
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

/* ---- CUDA memory ---- */

static enum fas_status open_cuda(struct fas_client *client, struct place *place,
                                 const struct cuda_allocation *allocation, struct fas_error *error)
{
    struct wire_open open;
    enum fas_status status = cuda_export(allocation, &open, error);
    if (status == FAS_OK) {
        struct question question = {
            .asks = FRAME_OPEN, .answered_by = FRAME_OPENED, .open = &open, .fd = -1};
        status = question_ask(client, &question, OPEN_TIMEOUT_MS, error);
        place->id = question.opened.id;
    }
    place->kind = FAS_PLACE_CUDA;
    place->data = allocation->base;
    place->bytes = allocation->bytes;
    place->number = allocation->number;
    return status;
}

/* Whether a call that has not ended uses it. Under the lock. */
static bool place_busy(const struct fas_client *client, const struct place *place)
{
    for (uint32_t i = 0; i < client->call_count; i++) {
        const struct fas_call *call = &client->calls[i];
        for (uint32_t left = call->state == CALL_OPEN ? call->placed : 0; left; left &= left - 1) {
            if (call->wire.tensors[__builtin_ctz(left)].place_id == place->id) {
                return true;
            }
        }
    }
    return false;
}

/* One that need not stay: another allocation where it was, or the least recently used of too many.
 * Under the lock. */
static struct place *place_stale(struct fas_client *client, const struct cuda_allocation *fresh)
{
    struct place *oldest = NULL;
    uint32_t count = 0;
    for (struct place *place = client->places; place; place = place->next) {
        if (place->kind != FAS_PLACE_CUDA || place->allocated) {
            continue;
        }
        if (place->data < fresh->base + fresh->bytes && fresh->base < place->data + place->bytes) {
            return place;
        }
        bool older = !oldest || place->used < oldest->used;
        oldest = older && !place_busy(client, place) ? place : oldest;
        count++;
    }
    return count >= CUDA_PLACES_MAX ? oldest : NULL;
}

/* The daemon opens an allocation that it does not know yet. */
static enum fas_status share_cuda(struct fas_client *client, const void *data,
                                  struct fas_error *error)
{
    struct cuda_allocation allocation;
    if (!cuda_find(data, &allocation)) {
        return FAS_OK;
    }
    if (!connection_is_ipc(client->connection)) {
        return fas_fail(error, FAS_UNSUPPORTED, "", "CUDA memory is shared over ipc:// only");
    }
    connection_lock(client->connection);
    struct place *known = place_of(client, data);
    bool current = known && known->number == allocation.number;
    if (current) { /* or another tensor of the same request might push it out */
        known->used = ++client->places_used;
    }
    struct place *stale = current ? NULL : place_stale(client, &allocation);
    stale = stale ? place_take(client, stale->data) : NULL;
    connection_unlock(client->connection);
    if (stale) {
        question_release(client, 0, stale->id, NULL);
        place_free(stale);
    }
    if (current) {
        return FAS_OK;
    }
    struct place *place = calloc(1, sizeof(*place));
    enum fas_status status = place ? open_cuda(client, place, &allocation, error)
                                   : fas_fail(error, FAS_RESOURCE_EXHAUSTED, "", "out of memory");
    if (status != FAS_OK) {
        free(place);
        return status;
    }
    place_add(client, place);
    return FAS_OK;
}

enum fas_status place_share(struct fas_client *client, const struct fas_request *request,
                            struct fas_error *error)
{
    enum fas_status status = FAS_OK;
    for (int tensor = 0; tensor < FAS_TENSOR_COUNT && status == FAS_OK; tensor++) {
        const void *data = request->tensors[tensor].data;
        status = data ? share_cuda(client, data, error) : FAS_OK;
        if (status != FAS_OK && error && !error->field[0]) {
            snprintf(error->field, sizeof(error->field), "%s",
                     fas_tensor_row((enum fas_tensor)tensor)->name);
        }
    }
    return status;
}

/* Of the GPU that the connection is for, or the daemon's first. */
static bool name_gpu(const struct fas_client *client, char uuid[FAS_NAME_BYTES_MAX])
{
    const struct fas_server *server = &client->server;
    if (client->cuda_device > 0) {
        return cuda_name_device(client->cuda_device - 1, uuid);
    }
    snprintf(uuid, FAS_NAME_BYTES_MAX, "%s",
             server->device_count > 0 ? server->devices[0].uuid : "");
    return true;
}

/* Device memory of fas_alloc's own. */
static enum fas_status make_cuda(struct fas_client *client, struct place *place,
                                 struct fas_error *error)
{
    struct cuda_allocation allocation;
    void *memory = NULL;
    char uuid[FAS_NAME_BYTES_MAX];
    enum fas_status status = name_gpu(client, uuid)
                                 ? cuda_alloc(uuid, place->bytes, &memory, error)
                                 : fas_fail(error, FAS_INVALID_ARGUMENT, "cuda_device",
                                            "this process has no GPU %u", client->cuda_device - 1);
    if (status != FAS_OK) {
        return status;
    }
    if (!cuda_find(memory, &allocation)) {
        cuda_free(memory);
        return fas_fail(error, FAS_INTERNAL, "place", "the driver does not know its own memory");
    }
    place->allocated = true;
    status = open_cuda(client, place, &allocation, error);
    if (status != FAS_OK) {
        cuda_free(memory);
    }
    return status;
}

enum fas_status fas_copy(void *to, const void *from, uint64_t bytes, struct fas_error *error)
{
    return cuda_copy(to, from, bytes, error);
}

static enum fas_status check_wish(enum fas_place place, uint64_t bytes, struct fas_error *error)
{
    if ((unsigned)place >= FAS_PLACE_COUNT) {
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
    status = place == FAS_PLACE_REGION ? open_region(client, made, error)
             : place == FAS_PLACE_CUDA ? make_cuda(client, made, error)
                                       : open_ordinary(made, error);
    if (status != FAS_OK) {
        free(made);
        return status;
    }
    *memory = made->data;
    place_add(client, made);
    return FAS_OK;
}

/* ---- giving it back ---- */

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
        if (call_lends(call)) {
            return call;
        }
    }
    return NULL;
}

void place_settle(struct fas_client *client)
{
    struct fas_call *call;
    connection_lock(client->connection);
    client->closing = true; /* or a callback that always submits keeps it going */
    connection_unlock(client->connection);
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
