/*
 * place.c: a fixed table; an id is an entry's number, so that finding one costs nothing.
 */
#include "server/place.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "server/event.h"
#include "server/intake.h"
#include "server/log.h"
#include "server/server.h"

static_assert(PLACES_MAX <= FAS_PLACE_ID_MAX, "an id is an entry's number");

bool places_open(struct places *places, const struct places_limits *limits, device_wake *wake,
                 void *wake_context)
{
    uint64_t memory = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    *places = (struct places){.entries = calloc(PLACES_MAX, sizeof *places->entries),
                              .bytes_max = limits->bytes ? limits->bytes : memory / 4,
                              .mappings_max = limits->mappings};
    places->bytes_per_principal =
        limits->bytes_per_principal ? limits->bytes_per_principal : places->bytes_max / 4 * 3;
    return places->entries && mapper_open(&places->mapper, PLACES_MAX, wake, wake_context);
}

void places_close(struct places *places)
{
    mapper_close(&places->mapper);
    free(places->entries);
}

/* Events keep nobody's memory. */
static bool counts(const struct place *place)
{
    return place->kind == FAS_PLACE_CUDA && !place->mapping.event;
}

/* The mapping goes to the mapper, and comes back by place_collect. */
static void work(struct places *places, struct place *place, bool unmap)
{
    const struct mapper_task task = {
        .tag = (uint32_t)(place - places->entries), .unmap = unmap, .mapping = place->mapping};
    if (counts(place)) {
        places->mappings += unmap ? -1u : 1u;
    }
    place->working = true;
    mapper_push(&places->mapper, &task);
}

/* ---- no more CUDA memory mapped than there may be ---- */

/* Mapped, and nobody's loss: not even of a request that waits for another one to be mapped. */
static bool may_go(const struct place *place)
{
    return place->state == PLACE_OPEN && counts(place) && !place->working &&
           place->mapping.memory && place->users == 0 && !place->connection->deferred;
}

/* For one more. */
static void make_room(struct places *places)
{
    while (places->mappings >= places->mappings_max) {
        struct place *oldest = NULL;
        for (uint32_t i = 0; i < PLACES_MAX; i++) {
            struct place *place = &places->entries[i];
            if (may_go(place) && (!oldest || place->used < oldest->used)) {
                oldest = place;
            }
        }
        if (!oldest) {
            return;
        }
        work(places, oldest, true);
    }
}

/* ---- opening ---- */

struct held {
    uint32_t count;
    uint64_t bytes;
};

static struct held held_by(const struct places *places, uint32_t principal)
{
    struct held held = {0};
    for (uint32_t i = 0; i < PLACES_MAX && places->count > 0; i++) {
        const struct place *place = &places->entries[i];
        if (place->state != PLACE_FREE && place->principal == principal) {
            held.count++;
            held.bytes += place->reserved;
        }
    }
    return held;
}

/* What never fits is INVALID_ARGUMENT, what does not fit now RESOURCE_EXHAUSTED. */
static enum fas_status check_room(const struct places *places, uint32_t principal, uint64_t bytes,
                                  struct fas_error *error)
{
    struct held own = held_by(places, principal);
    uint64_t limit = places->bytes_per_principal < places->bytes_max ? places->bytes_per_principal
                                                                     : places->bytes_max;
    if (bytes > limit) {
        return fas_fail(error, FAS_INVALID_ARGUMENT, "bytes",
                        "%" PRIu64 ", the limit of one client is %" PRIu64, bytes, limit);
    }
    if (own.count >= PLACES_PER_PRINCIPAL || places->count == PLACES_MAX) {
        return fas_fail(error, FAS_RESOURCE_EXHAUSTED, "place",
                        "%u are open, the limit of one client is %u, of all %u", own.count,
                        PLACES_PER_PRINCIPAL, PLACES_MAX);
    }
    if (own.bytes + bytes > limit || places->bytes + bytes > places->bytes_max) {
        return fas_fail(error, FAS_RESOURCE_EXHAUSTED, "bytes",
                        "%" PRIu64 " beside %" PRIu64 " of this client's %" PRIu64 ", and %" PRIu64
                        " of all clients' %" PRIu64,
                        bytes, own.bytes, limit, places->bytes, places->bytes_max);
    }
    return FAS_OK;
}

static struct place *vacant(struct places *places)
{
    for (uint32_t i = 0; i < PLACES_MAX; i++) {
        if (places->entries[i].state == PLACE_FREE) {
            return &places->entries[i];
        }
    }
    return NULL;
}

/* An entry of that many bytes, being opened. */
static enum fas_status begin(struct server *server, struct connection *connection,
                             const struct device_mapping *mapping, uint64_t reserved,
                             uint64_t request, struct fas_error *error)
{
    struct places *places = &server->places;
    enum fas_status status = check_room(places, connection->principal, reserved, error);
    if (status != FAS_OK) {
        return status;
    }
    if (mapping->kind == FAS_PLACE_CUDA && !mapping->event) {
        make_room(places);
    }
    struct place *place = vacant(places);
    *place = (struct place){.state = PLACE_OPENING,
                            .kind = mapping->kind,
                            .connection = connection,
                            .principal = connection->principal,
                            .reserved = reserved,
                            .used = ++places->uses,
                            .mapping = *mapping,
                            .answer = request};
    principal_keep(&server->principals, place->principal);
    places->count++;
    places->bytes += reserved;
    work(places, place, false);
    return FAS_OK;
}

/* A device that copies from regions, if there is one: it has to know them. */
static struct device *copying_device(struct server *server)
{
    for (uint32_t i = 0; i < server->executor_count; i++) {
        struct executor *executor = &server->executors[i];
        if (executor->device.ops->map && !executor->lost) {
            return &executor->device;
        }
    }
    return NULL;
}

/* The device of that uuid, or, for memory of a GPU that this daemon does not compute on, any that
 * may reach it as a neighbour. */
static struct device *opening_device(struct server *server, const char *uuid)
{
    for (uint32_t i = 0; i < server->executor_count; i++) {
        struct executor *executor = &server->executors[i];
        struct device *device = &executor->device;
        if (device->ops->map && !executor->lost && strcmp(device->uuid, uuid) == 0) {
            return device;
        }
    }
    return copying_device(server);
}

static enum fas_status open_cuda(struct server *server, struct connection *connection,
                                 const struct wire_open *open, uint64_t request,
                                 struct fas_error *error)
{
    struct device_mapping mapping = {.kind = FAS_PLACE_CUDA,
                                     .event = open->has_event,
                                     .device = opening_device(server, open->device_uuid)};
    if (!mapping.device) {
        return fas_fail(error, FAS_UNSUPPORTED, "place", "no device of this server opens it");
    }
    static_assert(DEVICE_HANDLE_BYTES == WIRE_CUDA_HANDLE_BYTES, "one handle");
    memcpy(mapping.handle, open->has_event ? open->cuda_event : open->cuda_memory,
           sizeof mapping.handle);
    snprintf(mapping.uuid, sizeof mapping.uuid, "%s", open->device_uuid);
    return begin(server, connection, &mapping, 0, request, error);
}

static enum fas_status open_region(struct server *server, struct connection *connection,
                                   uint64_t bytes, uint64_t request, struct fas_error *error)
{
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    const struct device_mapping mapping = {.kind = FAS_PLACE_REGION,
                                           .bytes = (bytes + page - 1) / page * page,
                                           .device = copying_device(server)};
    return begin(server, connection, &mapping, mapping.bytes, request, error);
}

enum fas_status place_open(struct server *server, struct connection *connection,
                           const struct wire_open *open, uint64_t request, struct fas_error *error)
{
    return open->place == FAS_PLACE_REGION
               ? open_region(server, connection, open->bytes, request, error)
               : open_cuda(server, connection, open, request, error);
}

/* ---- requests that use it ---- */

struct place *place_find(struct server *server, const struct connection *connection, uint32_t id)
{
    struct place *place = id - 1 < PLACES_MAX ? &server->places.entries[id - 1] : NULL;
    return place && place->state == PLACE_OPEN && place->connection == connection ? place : NULL;
}

/* The place of a tensor that is said to be in CUDA memory, or NULL. */
static struct place *find_cuda(struct server *server, const struct connection *connection,
                               const struct wire_tensor *at)
{
    return at->place == FAS_PLACE_CUDA ? place_find(server, connection, at->place_id) : NULL;
}

uint32_t place_executor(struct server *server, const struct connection *connection,
                        const struct wire_request *wire)
{
    for (int tensor = 0; tensor < FAS_TENSOR_COUNT; tensor++) {
        const struct place *place = find_cuda(server, connection, &wire->tensors[tensor]);
        for (uint32_t i = 0; place && i < server->executor_count; i++) {
            if (&server->executors[i].device == place->mapping.device) {
                return i;
            }
        }
    }
    return UINT32_MAX;
}

/* The place of a tensor in CUDA memory that is not mapped now, unless it can not be. */
static struct place *find_unmapped(struct server *server, const struct connection *connection,
                                   const struct wire_tensor *at)
{
    struct place *place = find_cuda(server, connection, at);
    return place && (place->working || !place->mapping.memory) && place->error.status == FAS_OK
               ? place
               : NULL;
}

/* Room for one more of what the request names, at the cost of nothing else that it names: it would
 * have to be mapped again in turn, and so on. */
static void make_room_beside(struct server *server, const struct connection *connection,
                             const struct wire_request *wire)
{
    struct place *named[FAS_TENSOR_COUNT];
    for (int tensor = 0; tensor < FAS_TENSOR_COUNT; tensor++) {
        named[tensor] = find_cuda(server, connection, &wire->tensors[tensor]);
        if (named[tensor]) {
            named[tensor]->users++;
        }
    }
    make_room(&server->places);
    for (int tensor = 0; tensor < FAS_TENSOR_COUNT; tensor++) {
        if (named[tensor]) {
            named[tensor]->users--;
        }
    }
}

bool place_recall(struct server *server, const struct connection *connection,
                  const struct wire_request *wire)
{
    bool waits = false;
    for (int tensor = 0; tensor < FAS_TENSOR_COUNT; tensor++) {
        struct place *place = find_unmapped(server, connection, &wire->tensors[tensor]);
        if (place && !place->working) {
            make_room_beside(server, connection, wire);
            place->used = ++server->places.uses;
            work(&server->places, place, false);
        }
        waits |= place != NULL;
    }
    return waits;
}

/* Kernels of this device can use the memory where it is. */
static bool reaches(const struct device *device, const struct place *place)
{
    return place->kind == FAS_PLACE_REGION ? device->host_reaches_arena
                                           : place->mapping.own && place->mapping.device == device;
}

void place_use(struct server *server, struct slot *slot, uint32_t use, struct place *place)
{
    slot->places[use] = (uint16_t)place->id;
    place->used = ++server->places.uses;
    place->users++;
}

/* What is to be kept is copied, where the device copies: the client's memory is its own again when
 * the request has ended. */
static bool is_copied(const struct device *device, const struct slot *slot,
                      const struct place *place)
{
    return !reaches(device, place) || (slot->request.wire.retain && !device->host_reaches_arena);
}

/* A tensor that was placed to be copied can be. */
static enum fas_status check_copy(const struct device *device, const struct request *request,
                                  enum fas_tensor tensor, struct fas_error *error)
{
    const struct attn_tensor *placed = &request->placed[tensor];
    int64_t pitch =
        placed->row_stride > placed->head_stride ? placed->row_stride : placed->head_stride;
    if (request->wire.tensors[tensor].place == FAS_PLACE_CUDA && !device->ops->map) {
        return fas_fail(error, FAS_UNSUPPORTED, wire_tensor_field(tensor),
                        "%s, which the request has to run on, does not reach CUDA memory",
                        device->name);
    }
    if (pitch > DEVICE_PITCH_MAX) {
        return fas_fail(error, FAS_UNSUPPORTED, wire_tensor_field(tensor),
                        "strides of %" PRId64 " bytes: %s copies it, by at most %" PRId32, pitch,
                        device->name, DEVICE_PITCH_MAX);
    }
    return FAS_OK;
}

static enum fas_status enter(struct server *server, struct slot *slot, enum fas_tensor tensor,
                             struct fas_error *error)
{
    const struct device *device = &server->executors[slot->executor].device;
    struct request *request = &slot->request;
    const struct wire_tensor *at = &request->wire.tensors[tensor];
    const char *field = wire_tensor_field(tensor);
    struct place *place = place_find(server, slot->connection, at->place_id);
    if (!place || place->kind != at->place) {
        return fas_fail(error, FAS_NOT_FOUND, field, "%s %u is not open on this connection",
                        fas_place_name(at->place), at->place_id);
    }
    if (place->mapping.event) {
        return fas_fail(error, FAS_INVALID_ARGUMENT, field, "place %u is an event, not memory",
                        at->place_id);
    }
    if (place->error.status != FAS_OK) { /* it could not be mapped again; the next may try */
        fas_fail(error, FAS_NOT_FOUND, field, "%s %u: %s", fas_place_name(at->place), at->place_id,
                 place->error.text);
        place->error = (struct fas_error){0};
        return error->status;
    }
    uint64_t extent = wire_tensor_extent(&request->wire, tensor), bytes = place->mapping.bytes;
    if (extent > bytes || at->offset > bytes - extent) {
        return fas_fail(error, FAS_INVALID_ARGUMENT, field,
                        "%" PRIu64 " bytes from %" PRIu64 " on, in a place of %" PRIu64, extent,
                        at->offset, bytes);
    }
    bool copied = is_copied(device, slot, place);
    request_place(request, tensor, place->mapping.memory + at->offset, copied);
    place_use(server, slot, tensor, place);
    return copied ? check_copy(device, request, tensor, error) : FAS_OK;
}

enum fas_status place_enter(struct server *server, struct slot *slot, struct fas_error *error)
{
    const struct request *request = &slot->request;
    uint32_t placed = (request->inputs | request->outputs) & ~request->travelling;
    enum fas_status status = FAS_OK;
    for (uint32_t left = placed; left && status == FAS_OK; left &= left - 1) {
        status = enter(server, slot, (enum fas_tensor)__builtin_ctz(left), error);
    }
    return status;
}

bool place_used(const struct server *server, const struct connection *connection)
{
    uint32_t index = connection->first_slot;
    for (uint32_t count = connection->slot_count; count > 0; count--) {
        const struct slot *slot = &server->slots.entries[index];
        if ((slot->request.in_place && slot->state == SLOT_RUNNING) ||
            (slot->request.copied && slot->copies > 0) || slot_has_event_out(slot)) {
            return true;
        }
        index = slot->next;
    }
    return false;
}

/* ---- copies ---- */

/* A tag says the tensor above the slot's number; slabs' numbers stay below. */
static uint64_t tag_of(const struct slot *slot, enum fas_tensor tensor)
{
    return (uint64_t)(tensor + 1) << 32 | slot->index;
}

bool place_copies(const struct device_completion *completion)
{
    return completion->tag >> 32 != 0;
}

void place_load(struct server *server, struct slot *slot)
{
    struct device *device = &server->executors[slot->executor].device;
    const struct request *request = &slot->request;
    for (uint32_t left = request->copied & request->inputs; left; left &= left - 1) {
        enum fas_tensor tensor = (enum fas_tensor)__builtin_ctz(left);
        uint64_t bytes = fas_tensor_bytes(&request->wire.dims, tensor);
        if (bytes > 0) {
            const struct request_rows all = {0, fas_tensor_rows(&request->wire.dims, tensor)};
            struct device_copy copy = request_copy(request, tensor, all, slot->span.offset);
            slot->copies++;
            slot->bytes_missing += bytes;
            device->ops->upload(device, &copy, tag_of(slot, tensor));
        }
    }
}

/* Rows of the tensor that belong to sequences [first, end). */
static struct request_rows rows_of(const struct request *request, enum fas_tensor tensor,
                                   int32_t first, int32_t end)
{
    int64_t from = first == 0 ? 0 : request_rows_before(request, tensor, first);
    return (struct request_rows){from, request_rows_before(request, tensor, end) - from};
}

/* One range at a time: the work of a request that the device holds stays bounded. */
void place_store(struct server *server, struct slot *slot)
{
    struct device *device = &server->executors[slot->executor].device;
    struct slot_progress *progress = &slot->progress;
    const struct request *request = &slot->request;
    if (progress->stores > 0 || slot->error.status != FAS_OK || !slot->connection) {
        return;
    }
    progress->storing = progress->computed;
    for (uint32_t left = request->copied & request->outputs; left; left &= left - 1) {
        enum fas_tensor tensor = (enum fas_tensor)__builtin_ctz(left);
        struct request_rows rows = rows_of(request, tensor, progress->ready, progress->storing);
        if (rows.count > 0 && fas_tensor_bytes(&request->wire.dims, tensor) > 0) {
            struct device_copy copy = request_copy(request, tensor, rows, slot->span.offset);
            slot->copies++;
            progress->stores++;
            device->ops->download(device, &copy, tag_of(slot, tensor));
        }
    }
    progress->ready = progress->stores > 0 ? progress->ready : progress->storing;
    event_stored(server, slot);
}

/* A copy of a range is over; with the last of them the range is in its places, and what was
 * computed meanwhile follows. */
static void stored(struct server *server, struct slot *slot, bool failed)
{
    struct slot_progress *progress = &slot->progress;
    progress->stores--;
    if (progress->stores == 0 && !failed) {
        progress->ready = progress->storing;
        if (progress->computed > progress->ready) {
            place_store(server, slot);
        }
        event_stored(server, slot);
    }
    intake_settle(server, slot);
}

void place_copied(struct server *server, const struct device_completion *completion,
                  uint64_t now_us)
{
    struct slot *slot = &server->slots.entries[completion->tag & UINT32_MAX];
    enum fas_tensor tensor = (enum fas_tensor)((completion->tag >> 32) - 1);
    slot->copies--;
    if (slot->state == SLOT_RECEIVING && !completion->failed) {
        intake_uploaded(server, slot, fas_tensor_bytes(&slot->request.wire.dims, tensor), now_us);
    } else if (slot->progress.stores > 0) { /* all its inputs were there long before */
        stored(server, slot, completion->failed);
    } else {
        intake_settle(server, slot);
    }
}

/* ---- closing ---- */

static void vacate(struct server *server, struct place *place)
{
    assert(place->state == PLACE_CLOSING && !place->mapping.memory && place->users == 0);
    principal_give(&server->principals, place->principal);
    server->places.count--;
    place->state = PLACE_FREE;
}

/* Nothing uses it and nobody can name it: the memory goes, then the peer is told if there is one.
 */
static void give_back(struct server *server, struct place *place)
{
    if (place->state != PLACE_CLOSING || place->users > 0 || place->working) {
        return;
    }
    if (place->mapping.memory) {
        work(&server->places, place, true);
        return;
    }
    server->places.bytes -= place->reserved;
    place->reserved = 0;
    if (place->connection) {
        place->connection->place_answers++;
    } else {
        vacate(server, place);
    }
}

/* The memory is there, or is not to be had. */
static void opened(struct server *server, struct place *place, const struct fas_error *error)
{
    place->error = *error;
    if (error->status != FAS_OK || !place->connection) {
        place->state = PLACE_CLOSING;
        give_back(server, place);
        return;
    }
    place->state = PLACE_OPEN;
    place->id = (uint32_t)(place - server->places.entries) + 1;
    place->connection->place_answers++;
}

/* An open place was unmapped, or is mapped again, or can not be. True: its connection may wait for
 * that. */
static bool recalled(struct place *place, const struct fas_error *error)
{
    place->error = *error;
    return place->connection->deferred != NULL;
}

bool place_collect(struct server *server)
{
    struct mapper_task task;
    bool any = false;
    while (mapper_take(&server->places.mapper, &task)) {
        struct place *place = &server->places.entries[task.tag];
        place->working = false;
        place->mapping = task.mapping;
        if (!task.unmap && counts(place) && task.error.status != FAS_OK) {
            server->places.mappings--;
        }
        if (place->state == PLACE_OPEN) {
            any |= recalled(place, &task.error);
        } else if (task.unmap || place->state == PLACE_CLOSING) {
            give_back(server, place);
        } else {
            opened(server, place, &task.error);
        }
    }
    return any;
}

void place_leave(struct server *server, struct slot *slot)
{
    for (int use = 0; use < SLOT_PLACES; use++) {
        if (slot->places[use]) {
            struct place *place = &server->places.entries[slot->places[use] - 1];
            assert(place->users > 0);
            slot->places[use] = 0;
            place->users--;
            give_back(server, place);
        }
    }
}

enum fas_status place_close(struct server *server, struct connection *connection, uint32_t id,
                            uint64_t request, struct fas_error *error)
{
    struct place *place = place_find(server, connection, id);
    if (!place) {
        return fas_fail(error, FAS_NOT_FOUND, "id", "place %u is not open on this connection", id);
    }
    if (place->answer) {
        return fas_fail(error, FAS_INVALID_ARGUMENT, "id", "place %u is closed before OPENED", id);
    }
    place->state = PLACE_CLOSING;
    place->id = 0;
    place->answer = request;
    place->error = (struct fas_error){0}; /* of a request: it could not be mapped again */
    give_back(server, place);
    return FAS_OK;
}

void place_close_all(struct server *server, struct connection *connection)
{
    for (uint32_t i = 0; i < PLACES_MAX && server->places.count > 0; i++) {
        struct place *place = &server->places.entries[i];
        if (place->state == PLACE_FREE || place->connection != connection) {
            continue;
        }
        bool gone = place->state == PLACE_CLOSING && !place->working && !place->mapping.memory;
        place->connection = NULL;
        place->id = 0;
        if (gone) { /* all but its answer was done */
            vacate(server, place);
        } else if (place->state != PLACE_OPENING) {
            place->state = PLACE_CLOSING;
            give_back(server, place);
        }
    }
}

/* ---- answers ---- */

static bool due(const struct place *place, const struct connection *connection)
{
    bool open = place->state == PLACE_OPEN;
    bool gone = place->state == PLACE_CLOSING && !place->working && !place->mapping.memory;
    return (open || gone) && place->connection == connection && place->answer != 0;
}

static void answer_opened(struct connection *connection, struct place *place, uint64_t request)
{
    uint8_t header[FAS_HEADER_BYTES_MAX];
    const struct wire_opened told = {.id = place->id, .bytes = place->mapping.bytes};
    struct frame frame = {.type = FRAME_OPENED, .request = request};
    size_t bytes = wire_encode_opened(&told, header);
    if (place->mapping.fd >= 0) {
        outbox_put_fd(&connection->outbox, frame, header, bytes, place->mapping.fd);
        place->mapping.fd = -1;
    } else {
        outbox_put(&connection->outbox, frame, header, bytes);
    }
}

bool place_answer(struct server *server, struct connection *connection)
{
    struct place *place = server->places.entries;
    if (connection->place_answers == 0) {
        return false;
    }
    while (!due(place, connection)) {
        place++;
        assert(place < server->places.entries + PLACES_MAX && "as many are due as were counted");
    }
    uint64_t request = place->answer;
    connection->place_answers--;
    place->answer = 0;
    if (place->state == PLACE_OPEN) {
        answer_opened(connection, place, request);
        return true;
    }
    if (place->error.status != FAS_OK) {
        connection_refuse(connection, request, &place->error);
    } else {
        outbox_put(&connection->outbox, (struct frame){.type = FRAME_CLOSED, .request = request},
                   NULL, 0);
    }
    vacate(server, place);
    return true;
}
