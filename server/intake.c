/*
 * intake.c: REQUEST -> decode -> device -> slot -> reserve -> route; then DATA; then the ends. Each
 * step of admission reserves one thing or says why not; intake_settle undoes them all.
 */
#include "server/intake.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>

#include "server/event.h"
#include "server/log.h"
#include "server/server.h"

/* How long a REQUEST waits for what answers of its own client hold until they are sent. They take
 * some milliseconds where the client reads them. */
#define GIVE_BACK_US 1000000u

/* ---- admission: each step reserves one thing, or says why not ---- */

static enum fas_status check_connection(const struct server *server,
                                        const struct connection *connection,
                                        const struct wire_request *wire, struct fas_error *error)
{
    if (server->draining) {
        return fas_fail(error, FAS_UNAVAILABLE, "", "draining");
    }
    if (connection->unanswered >= connection->limits.requests_in_flight) {
        return fas_fail(error, FAS_RESOURCE_EXHAUSTED, "requests_in_flight",
                        "%u are unanswered on this connection, its limit is %u",
                        connection->unanswered, connection->limits.requests_in_flight);
    }
    if ((uint32_t)wire->batch > connection->limits.sequences) {
        return fas_fail(error, FAS_INVALID_ARGUMENT, "batch", "%d sequences, the limit is %u",
                        wire->batch, connection->limits.sequences);
    }
    return FAS_OK;
}

/* A RESULT carries whole rows, so one that the peer's window never has room for could not be sent.
 */
static enum fas_status check_window(const struct connection *connection,
                                    const struct wire_request *wire, struct fas_error *error)
{
    uint32_t outputs = wire_request_outputs(wire);
    for (int tensor = 0; tensor < FAS_TENSOR_COUNT; tensor++) {
        bool travels = outputs >> tensor & 1 && wire->tensors[tensor].place == FAS_PLACE_INLINE;
        uint64_t row_bytes = travels ? fas_tensor_row_bytes(&wire->dims, tensor) : 0;
        if (row_bytes > connection->result_window) {
            return fas_fail(error, FAS_INVALID_ARGUMENT, "result_credit_bytes",
                            "a row of %s has %" PRIu64 " bytes, HELLO gave room for %" PRIu64,
                            fas_tensor_row(tensor)->name, row_bytes, connection->result_window);
        }
    }
    return FAS_OK;
}

/* Inputs whose bytes come in DATA. */
static bool arrives(const struct request *request, int tensor)
{
    return request->inputs & request->travelling & 1u << tensor;
}

/* Chunks of all inputs, in the order of tensors: where each tensor's bits begin. */
static uint32_t count_chunks(const struct request *request, uint32_t chunk_bytes,
                             struct route_tensor tensors[FAS_TENSOR_COUNT])
{
    uint32_t chunks = 0;
    for (int tensor = 0; tensor < FAS_TENSOR_COUNT; tensor++) {
        tensors[tensor] = (struct route_tensor){0};
        if (arrives(request, tensor)) {
            uint64_t bytes = fas_tensor_bytes(&request->wire.dims, tensor);
            tensors[tensor] = (struct route_tensor){.bytes = bytes, .first_chunk = chunks};
            chunks += route_chunks(bytes, chunk_bytes);
        }
    }
    return chunks;
}

/* Host memory for the sequences and the chunk bit map, in one span. */
static enum fas_status reserve_notes(struct server *server, struct slot *slot,
                                     const struct wire_lengths *lengths, uint32_t chunks,
                                     struct fas_error *error)
{
    uint64_t bitmap_bytes = (chunks + 63u) / 64u * 8u;
    uint64_t sequences_bytes = request_sequences_bytes(&slot->request);
    if (chunks > ROUTE_CHUNKS_MAX) {
        return fas_fail(error, FAS_INVALID_ARGUMENT, "chunk_bytes",
                        "%u chunks, the limit is %u: agree on larger ones", chunks,
                        ROUTE_CHUNKS_MAX);
    }
    if (arena_take(&server->notes, bitmap_bytes + sequences_bytes, &slot->notes) != ARENA_OK) {
        return fas_fail(error, FAS_RESOURCE_EXHAUSTED, "batch", "no room for a batch of %d now",
                        slot->request.sequence_count);
    }
    uint8_t *memory = server->notes_memory + slot->notes.offset;
    slot->claimed = (uint64_t *)(void *)memory;
    memset(slot->claimed, 0, bitmap_bytes);
    request_sequences(&slot->request, lengths,
                      (struct attn_sequence *)(void *)(memory + bitmap_bytes));
    return FAS_OK;
}

/* Room for the tensors; what the same principal retains makes way for its own requests. */
static enum arena_status take_span(struct server *server, struct executor *executor,
                                   struct slot *slot)
{
    enum arena_status status;
    do {
        status = arena_take(&executor->arena, slot->request.layout.bytes, &slot->span);
    } while (status == ARENA_FULL && hold_evict(server, slot->principal, executor->index));
    return status;
}

static enum fas_status reserve_arena(struct server *server, struct executor *executor,
                                     struct slot *slot, struct fas_error *error)
{
    const struct device *device = &executor->device;
    if (slot->request.scratch_bytes > device->scratch_bytes) {
        return fas_fail(error, FAS_INVALID_ARGUMENT, "scratch_bytes",
                        "%zu needed, the scratch of %s has %" PRIu64, slot->request.scratch_bytes,
                        device->name, device->scratch_bytes);
    }
    if (slot->request.plan_bytes > device->plan_bytes) {
        return fas_fail(error, FAS_INVALID_ARGUMENT, "plan_bytes",
                        "%" PRIu64 " needed for tile lists, %s has %" PRIu64,
                        slot->request.plan_bytes, device->name, device->plan_bytes);
    }
    switch (take_span(server, executor, slot)) {
    case ARENA_OK:
        return FAS_OK;
    case ARENA_FULL:
        return fas_fail(error, FAS_RESOURCE_EXHAUSTED, "request_bytes",
                        "%" PRIu64 " bytes do not fit now: %" PRIu64 " of %" PRIu64
                        " are in use on %s",
                        slot->request.layout.bytes, executor->arena.used_bytes,
                        executor->arena.bytes, device->name);
    default:
        return fas_fail(error, FAS_INVALID_ARGUMENT, "request_bytes",
                        "%" PRIu64 " bytes, the arena of %s has %" PRIu64,
                        slot->request.layout.bytes, device->name, executor->arena.bytes);
    }
}

/* Everything the request will need, or nothing. */
static enum fas_status reserve(struct server *server, struct connection *connection,
                               struct slot *slot, const struct wire_lengths *lengths,
                               struct route_tensor tensors[FAS_TENSOR_COUNT],
                               struct fas_error *error)
{
    struct executor *executor = &server->executors[slot->executor];
    uint32_t chunks = count_chunks(&slot->request, connection->limits.chunk_bytes, tensors);
    request_layout(&slot->request);
    if (slot->request.layout.bytes > connection->limits.request_bytes) {
        return fas_fail(error, FAS_INVALID_ARGUMENT, "request_bytes",
                        "%" PRIu64 " bytes, the limit is %" PRIu64, slot->request.layout.bytes,
                        connection->limits.request_bytes);
    }
    enum fas_status status = request_check_spans(&slot->request, lengths, error);
    if (status == FAS_OK && slot->request.wire.retain) {
        status = hold_check(server, connection, executor->index, slot->request.layout.bytes, error);
    }
    if (status == FAS_OK) {
        status = reserve_notes(server, slot, lengths, chunks, error);
    }
    if (status != FAS_OK) {
        return status;
    }
    slot->request.cost.bytes = slot->request.layout.bytes;
    status = principal_admit(&server->principals, slot->principal, &slot->request.cost,
                             &server->principal_limits, error);
    if (status != FAS_OK) {
        return status;
    }
    slot->admitted = true;
    executor->flops_outstanding += slot->request.cost.flops;
    return reserve_arena(server, executor, slot, error);
}

/* The places of its inputs, for the receiving thread. */
static void open_route(struct server *server, struct connection *connection, struct slot *slot,
                       struct route_tensor tensors[FAS_TENSOR_COUNT])
{
    uint8_t *base = server->executors[slot->executor].device.arena + slot->span.offset;
    struct slab_pool *slabs = staging_landing(server, slot);
    for (int tensor = 0; tensor < FAS_TENSOR_COUNT; tensor++) {
        if (arrives(&slot->request, tensor)) {
            tensors[tensor].base = slabs ? NULL : base + slot->request.layout.offsets[tensor];
            tensors[tensor].slabs = slabs;
            slot->bytes_missing += tensors[tensor].bytes;
        }
    }
    reader_admit(stream_reader(connection->stream), slot->id, tensors, slot->claimed);
}

static enum fas_status decode(const struct server *server, const struct connection *connection,
                              const struct inbox_record *record, struct wire_request *wire,
                              struct wire_lengths *lengths, struct fas_error *error)
{
    enum fas_status status =
        wire_decode_request(record->header, record->frame.header_bytes, wire, error);
    if (status == FAS_OK) {
        status = wire_lengths_decode(wire, stream_reader(connection->stream)->lengths,
                                     record->frame.payload_bytes, lengths, error);
    }
    if (status == FAS_OK) {
        status = check_connection(server, connection, wire, error);
    }
    return status == FAS_OK ? check_window(connection, wire, error) : status;
}

/* Of its tensors in CUDA memory. */
static uint64_t cuda_bytes(const struct wire_request *wire)
{
    uint64_t bytes = 0;
    for (int tensor = 0; tensor < FAS_TENSOR_COUNT; tensor++) {
        bool there = wire->tensors[tensor].place == FAS_PLACE_CUDA;
        bytes += there ? fas_tensor_bytes(&wire->dims, (enum fas_tensor)tensor) : 0;
    }
    return bytes;
}

/* Where it runs: where its retained forward is, else at or near its CUDA memory, else where it can
 * run soonest. NULL: nowhere. */
static struct executor *route_device(struct server *server, struct connection *connection,
                                     const struct wire_request *wire, struct hold **hold,
                                     struct fas_error *error)
{
    uint64_t handle = wire->handle;
    *hold = NULL;
    if (handle != 0) {
        *hold = hold_find(server, connection, handle);
        if (*hold && !server->executors[(*hold)->executor].lost) {
            return &server->executors[(*hold)->executor];
        }
        fas_fail(error, FAS_NOT_FOUND, "handle",
                 "%" PRIu64 " is not kept (any more): send the tensors", handle);
        return NULL;
    }
    uint32_t at = place_executor(server, connection, wire);
    struct executor *executor =
        at < server->executor_count
            ? executor_choose_near(server, &server->executors[at], cuda_bytes(wire))
            : executor_choose(server);
    if (!executor) {
        fas_fail(error, FAS_UNAVAILABLE, "", "no device is left");
    }
    return executor;
}

/* A slot of this connection, which holds nothing yet. */
static struct slot *begin(struct server *server, struct connection *connection, uint64_t id,
                          uint32_t executor, uint64_t deadline_us, uint64_t now_us)
{
    struct slot *slot = slot_take(&server->slots);
    if (slot) {
        slot->id = id;
        slot->executor = executor;
        slot->principal = connection->principal;
        slot->times.arrived = slot->times.progress = now_us;
        slot->deadline_us = deadline_us ? now_us + deadline_us : 0;
        principal_keep(&server->principals, slot->principal);
        connection_add_slot(server, connection, slot);
    }
    return slot;
}

/* A backward with a handle describes the very forward that is kept. */
static enum fas_status check_hold(const struct slot *slot, const struct hold *hold,
                                  struct fas_error *error)
{
    const char *field = request_handle_mismatch(&slot->request, &hold->request);
    return field ? fas_fail(error, FAS_INVALID_ARGUMENT, field,
                            "not what the forward of handle %" PRIu64 " had", hold->handle)
                 : FAS_OK;
}

/* Everything a begun slot needs, in order; what was taken before a failure is the slot's to give.
 */
static enum fas_status equip(struct server *server, struct connection *connection,
                             struct slot *slot, const struct wire_request *wire,
                             const struct wire_lengths *lengths, struct hold *hold,
                             struct fas_error *error)
{
    struct route_tensor tensors[FAS_TENSOR_COUNT];
    const struct device *device = &server->executors[slot->executor].device;
    enum fas_status status = request_shape(&slot->request, wire, device->arch, error);
    if (status == FAS_OK) {
        status = place_enter(server, slot, error);
    }
    if (status == FAS_OK) {
        status = event_enter(server, slot, error);
    }
    if (status == FAS_OK && wire->retain && slot->request.in_place) {
        status = fas_fail(error, FAS_UNSUPPORTED, "retain",
                          "%s copies no tensors from places: name them again in the backward",
                          device->name);
    }
    if (status == FAS_OK) {
        status = reserve(server, connection, slot, lengths, tensors, error);
    }
    if (status == FAS_OK && hold) {
        status = check_hold(slot, hold, error);
    }
    if (status == FAS_OK) {
        open_route(server, connection, slot, tensors);
        if (!event_await(server, slot)) {
            place_load(server, slot);
        }
    }
    return status;
}

/* The slot, receiving; or with *error filled NULL, or a slot that has to go again; or NULL as the
 * record was deferred. */
static struct slot *admit(struct server *server, struct connection *connection,
                          const struct inbox_record *record, uint64_t now_us, enum stats_pass *pass,
                          struct fas_error *error)
{
    struct wire_request wire;
    struct wire_lengths lengths;
    struct hold *hold;
    if (decode(server, connection, record, &wire, &lengths, error) != FAS_OK) {
        return NULL;
    }
    *pass = (enum stats_pass)wire.pass;
    if (place_recall(server, connection, &wire)) {
        connection->deferred = record;
        return NULL;
    }
    struct executor *executor = route_device(server, connection, &wire, &hold, error);
    if (!executor) {
        return NULL;
    }
    struct slot *slot =
        begin(server, connection, record->frame.request, executor->index, wire.deadline_us, now_us);
    if (!slot) {
        fas_fail(error, FAS_RESOURCE_EXHAUSTED, "requests", "no slot of %u is free",
                 server->slots.count);
        return NULL;
    }
    if (hold) {
        hold_read(server, slot, hold, now_us);
    }
    equip(server, connection, slot, &wire, &lengths, hold, error);
    return slot;
}

/* How long all that is in flight takes, about: its FLOPs, or what requests took lately where that
 * is moving tensors. */
static double work_us(const struct server *server, const struct executor *executor)
{
    double compute_us = executor ? executor->flops_outstanding / executor->rate.flops_per_us : 0;
    double took_us = (double)stats_quantile(&server->stats.histograms[STATS_TOTAL_US], 0.5);
    return compute_us > took_us ? compute_us : took_us;
}

/* When a request that got no slot may come back. */
static uint32_t advise_unslotted(struct server *server, const struct connection *connection)
{
    const struct retry_use uses[] = {
        {connection->unanswered, 1, connection->limits.requests_in_flight},
        {server->slots.count - server->slots.free_count, 1, server->slots.count},
    };
    return retry_after_ms(retry_part(uses, 2), work_us(server, executor_choose(server)));
}

/* When one may come back whose needs are known. */
static uint32_t advise(const struct server *server, const struct slot *slot)
{
    const struct executor *executor = &server->executors[slot->executor];
    const struct request *request = &slot->request;
    double used = (double)executor->arena.used_bytes, bytes = (double)request->layout.bytes;
    struct retry_use uses[2 + PRINCIPAL_USES] = {
        {used, bytes, (double)executor->arena.bytes},
        {(double)server->notes.used_bytes, (double)request_sequences_bytes(request),
         (double)server->notes.bytes},
    };
    size_t count = 2;
    if (!slot->admitted) { /* else its own cost is part of what is held */
        principal_uses(&server->principals, slot->principal, &request->cost,
                       &server->principal_limits, uses + count);
        count += PRINCIPAL_USES;
    }
    double part = retry_part(uses, count);
    if (part == 0 && used > 0) { /* enough is free, but not in one piece */
        part = bytes < used ? bytes / used : 1;
    }
    return retry_after_ms(part, work_us(server, executor));
}

/* A half admitted slot goes, as if it had never been. */
static void withdraw(struct server *server, struct connection *connection, struct slot *slot)
{
    connection->unanswered--;
    slot->answered = true;
    slot_move(slot, SLOT_REPLYING);
    intake_settle(server, slot);
}

/* Answers a REQUEST that was not admitted; a half admitted slot goes without an answer of its own.
 */
static void refuse(struct server *server, struct connection *connection,
                   const struct inbox_record *record, struct slot *slot, enum stats_pass pass,
                   struct fas_error *error)
{
    if (error->status == FAS_RESOURCE_EXHAUSTED) {
        error->retry_after_ms = slot ? advise(server, slot) : advise_unslotted(server, connection);
    }
    log_debug("request_refused", log_u64("connection", connection->number),
              log_u64("request", record->frame.request),
              log_str("status", fas_status_name(error->status)), log_str("field", error->field),
              log_str("text", error->text));
    reader_refuse(stream_reader(connection->stream), record->frame.request);
    stats_answer(&server->stats, pass, error->status);
    connection_refuse(connection, record->frame.request, error);
    if (slot) {
        withdraw(server, connection, slot);
    }
}

/* A request of this client is answered, and gives back what it holds when the send that says so is
 * over: a moment, in which the client may already have sent its next one. */
static bool gives_back_soon(const struct server *server, const struct connection *connection)
{
    const struct slot *slots = server->slots.entries;
    uint32_t index = connection->first_slot;
    for (uint32_t count = connection->slot_count; count > 0; count--) {
        if (slots[index].answered && !slot_sent(&slots[index])) {
            return true;
        }
        index = slots[index].next;
    }
    return false;
}

/* Whether a REQUEST that found no room waits for what its client's own answers give back: a client
 * that does not take them holds up itself, and is told to come back in the end. */
static bool waits(const struct server *server, const struct connection *connection,
                  enum fas_status status, enum stats_pass pass, uint64_t waited_us)
{
    bool memory = status == FAS_RESOURCE_EXHAUSTED && pass != STATS_UNREAD; /* not its own limits */
    return memory && waited_us < GIVE_BACK_US && gives_back_soon(server, connection);
}

void intake_request(struct server *server, struct connection *connection,
                    const struct inbox_record *record, uint64_t now_us)
{
    struct fas_error error = {0};
    enum stats_pass pass = STATS_UNREAD;
    uint64_t arrived_us = connection->deferred_us ? connection->deferred_us : now_us;
    struct slot *slot = admit(server, connection, record, arrived_us, &pass, &error);
    if (waits(server, connection, error.status, pass, now_us - arrived_us)) {
        connection->deferred = record;
        if (slot) {
            withdraw(server, connection, slot);
        }
    }
    connection->deferred_us = connection->deferred ? arrived_us : 0;
    if (connection->deferred) {
        return;
    }
    stats_add(&server->stats, STATS_REQUESTS_RECEIVED, 1);
    if (!slot || error.status != FAS_OK) {
        refuse(server, connection, record, slot, pass, &error);
    } else {
        intake_uploaded(server, slot, 0, now_us);
    }
    join_decided(connection);
}

/* ---- inputs arrive ---- */

void intake_uploaded(struct server *server, struct slot *slot, uint64_t bytes, uint64_t now_us)
{
    slot->bytes_missing -= bytes;
    staging_hasten(server, slot);
    if (slot->bytes_missing == 0 && slot->events.passed) {
        executor_enqueue(server, slot, now_us);
    }
}

/* slot: NULL or over if it ended while this was on its way. */
static void landed(struct server *server, struct connection *connection, struct slot *slot,
                   const struct inbox_record *record, uint64_t now_us)
{
    const struct frame *frame = &record->frame;
    if (!slot || slot->state != SLOT_RECEIVING) {
        staging_discard(server, record->landed);
        if (slot) {
            slot->landing &= ~(1u << connection->lane);
            intake_settle(server, slot);
        }
        return;
    }
    uint64_t arena_offset = slot->span.offset + slot->request.layout.offsets[frame->flags] +
                            (uint64_t)frame->chunk * connection->limits.chunk_bytes;
    slot->times.progress = now_us;
    if (!staging_upload(server, slot, record->landed, arena_offset, frame->payload_bytes)) {
        intake_uploaded(server, slot, frame->payload_bytes, now_us);
    }
}

void intake_data(struct server *server, struct connection *connection,
                 const struct inbox_record *record, uint64_t now_us)
{
    struct slot *slot = connection_find(server, connection->leader, record->frame.request);
    connection->credit_due += record->frame.payload_bytes;
    stats_payload(&server->stats, STATS_IN, FAS_PLACE_INLINE, (double)record->frame.payload_bytes);
    if (record->kind == INBOX_LANDED) {
        landed(server, connection, slot, record, now_us);
    } else if (slot && record->kind == INBOX_REFUSED) {
        struct fas_error error;
        fas_fail(&error, FAS_INVALID_ARGUMENT, "data.chunk",
                 "%s: tensor %u, chunk %u, %" PRIu64 " bytes", record->text, record->frame.flags,
                 record->frame.chunk, record->frame.payload_bytes);
        intake_end(server, slot, &error);
    }
}

/* ---- the end ---- */

void intake_end(struct server *server, struct slot *slot, const struct fas_error *error)
{
    if (slot->state == SLOT_FREE || slot->answered || slot->error.status != FAS_OK) {
        return;
    }
    slot->error = *error;
    event_resign(server, slot);
    staging_drop(server, slot);
    if (slot->connection) {
        slot->landing |= reader_finish(stream_reader(slot->connection->stream), slot->id);
        slot->landing |= join_landing(slot->connection, slot->id);
    }
    if (slot->state == SLOT_RECEIVING) {
        slot_move(slot, SLOT_REPLYING);
    } else {
        executor_drop(server, slot);
    }
    intake_settle(server, slot);
}

void intake_orphan(struct server *server, struct slot *slot)
{
    struct fas_error error;
    fas_fail(&error, FAS_CANCELLED, "", "the connection is gone");
    if (!slot->answered) {
        stats_answer(&server->stats, (enum stats_pass)slot->request.wire.pass, FAS_CANCELLED);
    }
    connection_remove_slot(server, slot);
    slot->landing = 0; /* the streams are closed: nothing is outstanding */
    staging_drop(server, slot);
    memset(slot->sends, 0, sizeof slot->sends);
    if (slot->state == SLOT_REPLYING || slot->answered || slot->error.status != FAS_OK) {
        intake_settle(server, slot);
    } else {
        intake_end(server, slot, &error);
    }
}

void intake_settle(struct server *server, struct slot *slot)
{
    if (!slot_idle(slot)) {
        return;
    }
    struct executor *executor = &server->executors[slot->executor];
    if (slot->connection) {
        connection_remove_slot(server, slot);
    }
    if (slot->admitted) {
        principal_release(&server->principals, slot->principal, &slot->request.cost);
        executor->flops_outstanding -= slot->request.cost.flops;
    }
    principal_give(&server->principals, slot->principal);
    hold_unread(server, slot);
    place_leave(server, slot);
    arena_give(&executor->arena, &slot->span);
    arena_give(&server->notes, &slot->notes);
    slot_give(&server->slots, slot);
}
