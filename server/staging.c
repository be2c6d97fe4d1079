/* staging.c: the way in, the way out, the ends. A copy's tag is the number of its slab. */
#include "server/staging.h"

#include <assert.h>
#include <stdlib.h>

#include "server/intake.h"
#include "server/server.h"

bool staging_open(struct staging *staging, const struct device *device, const struct config *config)
{
    *staging = (struct staging){0};
    if (device->host_reaches_arena) {
        return true;
    }
    uint64_t slab_bytes = device_slab_bytes(config);
    uint32_t owners = config_connections(config), count = slab_count(owners);
    uint8_t *out = device->staging + count * slab_bytes;
    staging->arrivals = calloc(count, sizeof *staging->arrivals);
    staging->fetches = calloc(count, sizeof *staging->fetches);
    staging->rests = malloc(owners * sizeof *staging->rests);
    for (uint32_t i = 0; staging->rests && i < owners; i++) {
        staging->rests[i] = SLAB_NONE;
    }
    return staging->arrivals && staging->fetches && staging->rests &&
           slab_open(&staging->in, device->staging, slab_bytes, owners) &&
           slab_open(&staging->out, out, slab_bytes, owners);
}

static struct staging *staging_of(struct server *server, const struct slot *slot)
{
    return &server->executors[slot->executor].staging;
}

/* ---- in ---- */

struct slab_pool *staging_landing(struct server *server, const struct slot *slot)
{
    bool passes = !server->executors[slot->executor].device.host_reaches_arena;
    return passes ? &staging_of(server, slot)->in : NULL;
}

static uint8_t *slab_at(const struct staging *staging, uint32_t index)
{
    return staging->in.memory + index * staging->in.slab_bytes;
}

/* What becomes of a chunk that rests no longer. */
typedef void fate(struct server *server, struct staging *staging, uint32_t index);

static void begin_upload(struct server *server, struct staging *staging, uint32_t index)
{
    const struct arrival *arrival = &staging->arrivals[index];
    const struct slot *slot = &server->slots.entries[arrival->slot];
    struct device *device = &server->executors[slot->executor].device;
    const struct device_copy copy = {.arena_offset = arrival->arena_offset,
                                     .host = slab_at(staging, index),
                                     .width = arrival->bytes,
                                     .height = 1};
    bool under_way = device->ops->upload(device, &copy, index);
    assert(under_way && "what the host does not reach is copied by others");
    (void)under_way;
}

static void forget(struct server *server, struct staging *staging, uint32_t index)
{
    struct slot *slot = &server->slots.entries[staging->arrivals[index].slot];
    slot->bytes_landed -= staging->arrivals[index].bytes;
    slot->copies--;
    slab_give(&staging->in, slab_at(staging, index));
}

/* The chunk that rests for that owner, if there is one. */
static void rouse(struct server *server, struct staging *staging, uint32_t owner, fate *then)
{
    uint32_t index = staging->rests[owner];
    staging->rests[owner] = SLAB_NONE;
    if (index != SLAB_NONE) {
        then(server, staging, index);
    }
}

/* All of a slot; SLOT_NONE: of all. */
static void rouse_all(struct server *server, struct staging *staging, uint32_t slot, fate *then)
{
    for (uint32_t owner = 0; owner < staging->in.owner_count; owner++) {
        uint32_t index = staging->rests[owner];
        if (index != SLAB_NONE && (slot == SLOT_NONE || staging->arrivals[index].slot == slot)) {
            rouse(server, staging, owner, then);
        }
    }
}

void staging_hasten(struct server *server, struct slot *slot)
{
    if (slot->bytes_landed == slot->bytes_missing) {
        rouse_all(server, staging_of(server, slot), slot->index, begin_upload);
    }
}

bool staging_upload(struct server *server, struct slot *slot, uint8_t *landed,
                    uint64_t arena_offset, uint64_t bytes)
{
    struct device *device = &server->executors[slot->executor].device;
    struct staging *staging = staging_of(server, slot);
    if (device->host_reaches_arena) {
        const struct device_copy copy = {
            .arena_offset = arena_offset, .host = landed, .width = bytes, .height = 1};
        return device->ops->upload(device, &copy, 0);
    }
    uint32_t index = slab_index(&staging->in, landed);
    uint32_t owner = slab_owner(&staging->in, index);
    staging->arrivals[index] = (struct arrival){slot->index, arena_offset, bytes};
    slab_hold(&staging->in, landed);
    slot->bytes_landed += bytes;
    slot->copies++;
    rouse(server, staging, owner, begin_upload);
    staging->rests[owner] = index;
    staging_hasten(server, slot);
    return true;
}

void staging_discard(struct server *server, const uint8_t *landed)
{
    for (uint32_t i = 0; i < server->executor_count; i++) {
        struct slab_pool *in = &server->executors[i].staging.in;
        if (slab_index(in, landed) != SLAB_NONE) {
            slab_give(in, landed);
        }
    }
}

static void uploaded(struct server *server, struct staging *staging,
                     const struct device_completion *completion, uint64_t now_us)
{
    const struct arrival *arrival = &staging->arrivals[completion->tag];
    struct slot *slot = &server->slots.entries[arrival->slot];
    slab_give(&staging->in, slab_at(staging, (uint32_t)completion->tag));
    slot->bytes_landed -= arrival->bytes;
    slot->copies--;
    if (slot->state == SLOT_RECEIVING && !completion->failed) {
        intake_uploaded(server, slot, arrival->bytes, now_us);
    } else {
        intake_settle(server, slot);
    }
}

void staging_resume(struct server *server, struct staging *staging)
{
    uint32_t owner;
    if (slab_anyone_waits(&staging->in)) {
        rouse_all(server, staging, SLOT_NONE, begin_upload);
    }
    while ((owner = slab_next_waiting(&staging->in)) != SLAB_NONE) {
        struct connection *connection = &server->connections.entries[owner];
        if (connection->state == CONNECTION_OPEN) {
            reader_feed(stream_reader(connection->stream));
            stream_resume(connection->stream);
        }
    }
}

/* ---- out ---- */

static void append(struct fetch_queue *queue, struct fetch *fetch)
{
    fetch->next = NULL;
    if (queue->first) {
        queue->last->next = fetch;
    } else {
        queue->first = fetch;
    }
    queue->last = fetch;
}

static struct fetch *pop(struct fetch_queue *queue)
{
    struct fetch *fetch = queue->first;
    queue->first = fetch->next;
    return fetch;
}

/* Somewhere in the queue: a client has as many carriers, at most. */
static void take_out(struct fetch_queue *queue, const struct fetch *fetch)
{
    struct fetch *before = NULL;
    for (struct fetch *at = queue->first; at != fetch; at = at->next) {
        before = at;
    }
    *(before ? &before->next : &queue->first) = fetch->next;
    queue->last = queue->last == fetch ? before : queue->last;
}

bool staging_fetch(struct server *server, struct connection *carrier, struct slot *slot,
                   const struct chunk *chunk, struct device_copy *copy)
{
    struct device *device = &server->executors[slot->executor].device;
    struct staging *staging = staging_of(server, slot);
    uint8_t *slab = slab_take(&staging->out, stream_index(carrier->stream));
    if (!slab) {
        return false;
    }
    slab_hold(&staging->out, slab);
    uint32_t index = slab_index(&staging->out, slab);
    struct fetch *fetch = &staging->fetches[index];
    *fetch = (struct fetch){.pool = &staging->out,
                            .slab = slab,
                            .slot = slot->index,
                            .carrier = carrier,
                            .chunk = *chunk,
                            .bytes = copy->width * copy->height};
    assert(fetch->bytes <= staging->out.slab_bytes);
    copy->host = slab;
    copy->host_pitch = copy->width;
    append(&slot->fetches, fetch);
    slot->copies++;
    device->ops->download(device, copy, index);
    return true;
}

uint32_t staging_ahead(const struct slot *slot, const struct connection *carrier)
{
    uint32_t count = 0;
    for (const struct fetch *fetch = slot->fetches.first; fetch; fetch = fetch->next) {
        count += fetch->carrier == carrier;
    }
    return count;
}

struct fetch *staging_front(const struct slot *slot, const struct connection *carrier)
{
    struct fetch *fetch = slot->fetches.first;
    while (fetch && fetch->carrier != carrier) {
        fetch = fetch->next;
    }
    return fetch && fetch->arrived ? fetch : NULL;
}

void staging_send(struct connection *carrier, struct slot *slot, uint64_t send)
{
    struct fetch *fetch = staging_front(slot, carrier);
    take_out(&slot->fetches, fetch);
    if (send == 0) {
        slab_give(fetch->pool, fetch->slab);
        return;
    }
    fetch->send = send;
    append(&carrier->fetches, fetch);
}

void staging_forget(struct slot *slot, const struct connection *carrier)
{
    for (struct fetch *fetch = slot->fetches.first; fetch; fetch = fetch->next) {
        fetch->carrier = fetch->carrier == carrier ? NULL : fetch->carrier;
    }
}

void staging_sent(struct connection *connection, uint64_t sends_done)
{
    while (connection->fetches.first && connection->fetches.first->send <= sends_done) {
        struct fetch *fetch = pop(&connection->fetches);
        slab_give(fetch->pool, fetch->slab);
    }
}

/* Downloads end in order: those that have arrived are the first ones. */
void staging_drop(struct server *server, struct slot *slot)
{
    rouse_all(server, staging_of(server, slot), slot->index, forget);
    while (slot->fetches.first && slot->fetches.first->arrived) {
        struct fetch *fetch = pop(&slot->fetches);
        if (slot->connection && fetch->carrier) { /* what there was credit for is not coming */
            fetch->carrier->result_credit += fetch->bytes;
        }
        slab_give(fetch->pool, fetch->slab);
    }
}

static void downloaded(struct server *server, struct staging *staging,
                       const struct device_completion *completion)
{
    struct fetch *fetch = &staging->fetches[completion->tag];
    struct slot *slot = &server->slots.entries[fetch->slot];
    fetch->arrived = true;
    slot->copies--;
    if (slot->error.status != FAS_OK || !slot->connection) {
        staging_drop(server, slot);
        intake_settle(server, slot);
    }
}

/* ---- both ---- */

void staging_close(struct server *server, struct connection *connection, uint32_t owner)
{
    staging_sent(connection, UINT64_MAX);
    for (uint32_t i = 0; i < server->executor_count; i++) {
        if (!server->executors[i].device.host_reaches_arena) {
            slab_reclaim(&server->executors[i].staging.in, owner);
        }
    }
}

void staging_collect(struct server *server, struct staging *staging,
                     const struct device_completion *completion, uint64_t now_us)
{
    if (completion->lane == DEVICE_UPLOAD) {
        uploaded(server, staging, completion, now_us);
    } else {
        downloaded(server, staging, completion);
    }
}

uint64_t staging_bytes(const struct staging *staging)
{
    return (staging->in.count + staging->out.count) * staging->in.slab_bytes;
}

uint64_t staging_high_bytes(struct staging *staging)
{
    return staging->in.count == 0
               ? 0
               : (slab_high_water(&staging->in) + slab_high_water(&staging->out)) *
                     staging->in.slab_bytes;
}
