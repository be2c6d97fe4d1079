/*
 * place.c: a fixed table; an id is an entry's number, so that finding one costs nothing. The order
 * of functions is the life of a place.
 */
#include "server/place.h"

#include <assert.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "server/log.h"
#include "server/server.h"

static_assert(PLACES_MAX <= FAS_PLACE_ID_MAX, "an id is an entry's number");

bool places_open(struct places *places, uint64_t bytes_max, uint64_t bytes_per_principal)
{
    uint64_t memory = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    *places = (struct places){.entries = calloc(PLACES_MAX, sizeof *places->entries),
                              .bytes_max = bytes_max ? bytes_max : memory / 4};
    places->bytes_per_principal =
        bytes_per_principal ? bytes_per_principal : places->bytes_max / 4 * 3;
    return places->entries != NULL;
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
            held.bytes += place->bytes;
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

/* A memfd of that size for ever, mapped here. */
static bool make_region(struct place *place, uint64_t bytes)
{
    place->fd = memfd_create("faserve-region", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (place->fd >= 0 && ftruncate(place->fd, (off_t)bytes) == 0 &&
        fcntl(place->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0) {
        void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, place->fd, 0);
        place->memory = memory == MAP_FAILED ? NULL : memory;
    }
    if (!place->memory && place->fd >= 0) {
        close(place->fd);
        place->fd = -1;
    }
    return place->memory != NULL;
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

static enum fas_status open_region(struct server *server, struct connection *connection,
                                   uint64_t bytes, uint64_t request, struct fas_error *error)
{
    struct places *places = &server->places;
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    bytes = (bytes + page - 1) / page * page;
    enum fas_status status = check_room(places, connection->principal, bytes, error);
    if (status != FAS_OK) {
        return status;
    }
    struct place *place = vacant(places);
    *place = (struct place){.kind = FAS_PLACE_REGION,
                            .connection = connection,
                            .principal = connection->principal,
                            .bytes = bytes,
                            .fd = -1,
                            .answer = request};
    if (!make_region(place, bytes)) {
        return fas_fail(error, FAS_RESOURCE_EXHAUSTED, "bytes",
                        "no shared memory of %" PRIu64 " bytes can be had", bytes);
    }
    place->state = PLACE_OPEN;
    place->id = (uint32_t)(place - places->entries) + 1;
    principal_keep(&server->principals, place->principal);
    places->count++;
    places->bytes += bytes;
    connection->place_answers++;
    return FAS_OK;
}

enum fas_status place_open(struct server *server, struct connection *connection,
                           const struct wire_open *open, uint64_t request, struct fas_error *error)
{
    if (open->place != FAS_PLACE_REGION) {
        return fas_fail(error, FAS_UNSUPPORTED, "place", "%s: no device of this server has it",
                        fas_place_name(open->place));
    }
    return open_region(server, connection, open->bytes, request, error);
}

/* ---- requests that use it ---- */

static struct place *find(struct server *server, const struct connection *connection, uint32_t id)
{
    struct place *place = id - 1 < PLACES_MAX ? &server->places.entries[id - 1] : NULL;
    return place && place->state == PLACE_OPEN && place->connection == connection ? place : NULL;
}

static enum fas_status enter(struct server *server, struct slot *slot, enum fas_tensor tensor,
                             struct fas_error *error)
{
    struct request *request = &slot->request;
    const struct wire_tensor *at = &request->wire.tensors[tensor];
    const char *field = wire_tensor_field(tensor);
    struct place *place = find(server, slot->connection, at->place_id);
    if (!place || place->kind != at->place) {
        return fas_fail(error, FAS_NOT_FOUND, field, "%s %u is not open on this connection",
                        fas_place_name(at->place), at->place_id);
    }
    uint64_t extent = wire_tensor_extent(&request->wire, tensor);
    if (extent > place->bytes || at->offset > place->bytes - extent) {
        return fas_fail(error, FAS_INVALID_ARGUMENT, field,
                        "%" PRIu64 " bytes from %" PRIu64 " on, in a place of %" PRIu64, extent,
                        at->offset, place->bytes);
    }
    request_place(request, tensor, place->memory + at->offset);
    slot->places[tensor] = at->place_id;
    place->users++;
    return FAS_OK;
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
        if (slot->request.in_place && slot->state == SLOT_RUNNING) {
            return true;
        }
        index = slot->next;
    }
    return false;
}

/* ---- closing ---- */

static void vacate(struct server *server, struct place *place)
{
    assert(place->state == PLACE_CLOSING && !place->memory && place->users == 0);
    principal_give(&server->principals, place->principal);
    server->places.count--;
    place->state = PLACE_FREE;
}

/* Nothing uses it and nobody can name it: the memory goes, and the peer is told if there is one. */
static void give_back(struct server *server, struct place *place)
{
    if (place->state != PLACE_CLOSING || place->users > 0 || !place->memory) {
        return;
    }
    munmap(place->memory, place->bytes);
    place->memory = NULL;
    server->places.bytes -= place->bytes;
    place->bytes = 0;
    if (place->connection) {
        place->connection->place_answers++;
    } else {
        vacate(server, place);
    }
}

void place_leave(struct server *server, struct slot *slot)
{
    for (int tensor = 0; tensor < FAS_TENSOR_COUNT; tensor++) {
        if (slot->places[tensor]) {
            struct place *place = &server->places.entries[slot->places[tensor] - 1];
            assert(place->users > 0);
            slot->places[tensor] = 0;
            place->users--;
            give_back(server, place);
        }
    }
}

enum fas_status place_close(struct server *server, struct connection *connection, uint32_t id,
                            uint64_t request, struct fas_error *error)
{
    struct place *place = find(server, connection, id);
    if (!place) {
        return fas_fail(error, FAS_NOT_FOUND, "id", "place %u is not open on this connection", id);
    }
    if (place->answer) {
        return fas_fail(error, FAS_INVALID_ARGUMENT, "id", "place %u is closed before OPENED", id);
    }
    place->state = PLACE_CLOSING;
    place->id = 0;
    place->answer = request;
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
        if (place->fd >= 0) {
            close(place->fd);
            place->fd = -1;
        }
        place->connection = NULL;
        place->id = 0;
        place->state = PLACE_CLOSING;
        if (place->memory) {
            give_back(server, place);
        } else {
            vacate(server, place);
        }
    }
}

/* ---- answers ---- */

static bool due(const struct place *place, const struct connection *connection)
{
    return place->state != PLACE_FREE && place->connection == connection && place->answer != 0 &&
           (place->state == PLACE_OPEN || !place->memory);
}

bool place_answer(struct server *server, struct connection *connection)
{
    struct place *place = server->places.entries;
    uint8_t header[FAS_HEADER_BYTES_MAX];
    if (connection->place_answers == 0) {
        return false;
    }
    while (!due(place, connection)) {
        place++;
        assert(place < server->places.entries + PLACES_MAX && "as many are due as were counted");
    }
    struct frame frame = {.type = FRAME_CLOSED, .request = place->answer};
    connection->place_answers--;
    place->answer = 0;
    if (place->state == PLACE_OPEN) {
        struct wire_opened opened = {.id = place->id, .bytes = place->bytes};
        frame.type = FRAME_OPENED;
        outbox_put_fd(&connection->outbox, frame, header, wire_encode_opened(&opened, header),
                      place->fd);
        place->fd = -1;
    } else {
        outbox_put(&connection->outbox, frame, NULL, 0);
        vacate(server, place);
    }
    return true;
}
