/*
 * reply.c: first which rows go next (pure), then how a chunk, DONE or ERROR is put into the send,
 * then whose turn it is.
 */
#include "server/reply.h"

#include <assert.h>
#include <stdio.h>

#include "server/intake.h"
#include "server/server.h"

/* Credit returns in pieces; waiting for this much keeps chunks from shrinking with them. It is also
 * what joined connections carry at least: less leaves at once with the leader. */
#define REPLY_CHUNK_BYTES_MIN (64u << 10)
/* Of a client of several connections each takes so many chunks at a time, into one send and ahead
 * from the device: the rest is for those whose turn is later. Without this the first one fetched
 * all of a result of 16 MiB: two requests in flight kept two of four connections busy. */
#define LANE_CHUNKS 2u
static_assert(2u * LANE_CHUNKS < OUTBOX_IOV_MAX, "a head and a payload each");
static_assert(OUTBOX_IOV_MAX <= TRANSPORT_IOV_MAX, "what an outbox composes is one send");

/* ---- which rows go next ---- */

static bool wanted(const struct slot *slot, uint32_t tensor)
{
    return slot->request.outputs & slot->request.travelling & 1u << tensor;
}

/* Rows of the range being sent end here, on this tensor's side. */
static int64_t range_rows_end(const struct slot *slot, uint32_t tensor)
{
    return request_rows_before(&slot->request, tensor, slot->progress.range_end);
}

static int64_t range_rows_begin(const struct slot *slot, uint32_t tensor)
{
    return request_rows_before(&slot->request, tensor, slot->progress.sent);
}

/* From `tensor` on, the first that has rows in the range; FAS_TENSOR_COUNT: none. */
static uint32_t next_tensor(const struct slot *slot, uint32_t tensor)
{
    while (
        tensor < FAS_TENSOR_COUNT &&
        (!wanted(slot, tensor) || range_rows_begin(slot, tensor) == range_rows_end(slot, tensor))) {
        tensor++;
    }
    return tensor;
}

static void enter_tensor(struct slot *slot, uint32_t tensor)
{
    slot->progress.tensor = next_tensor(slot, tensor);
    slot->progress.row = slot->progress.tensor < FAS_TENSOR_COUNT
                             ? range_rows_begin(slot, slot->progress.tensor)
                             : 0;
}

/* Something is ready that was not sent. */
static bool enter_range(struct slot *slot)
{
    struct slot_progress *progress = &slot->progress;
    if (progress->range_end > progress->sent) {
        return true;
    }
    if (progress->ready == progress->sent) {
        return false;
    }
    progress->range_end = progress->ready;
    enter_tensor(slot, 0);
    return true;
}

/* Bytes of one row over all heads; statistics travel in strips that are gathered. */
static uint32_t chunk_bytes_max(const struct connection *connection, enum fas_tensor tensor)
{
    uint32_t bytes = connection->limits.chunk_bytes;
    return fas_tensor_row(tensor)->statistics && bytes > OUTBOX_GATHER_BYTES_MAX
               ? OUTBOX_GATHER_BYTES_MAX
               : bytes;
}

/* The next chunk that the credit allows, and that this connection of the client may carry; false:
 * not now. */
static bool next_chunk(const struct connection *connection, const struct slot *slot,
                       struct chunk *chunk)
{
    const struct slot_progress *progress = &slot->progress;
    *chunk = (struct chunk){.first_sequence = progress->sent,
                            .sequence_count = progress->range_end - progress->sent,
                            .number = progress->results};
    if (progress->tensor == FAS_TENSOR_COUNT) { /* sequences without rows */
        return connection->lane == 0;
    }
    enum fas_tensor tensor = (enum fas_tensor)progress->tensor;
    int64_t rows_left = range_rows_end(slot, tensor) - progress->row;
    uint64_t row_bytes = fas_tensor_row_bytes(&slot->request.wire.dims, tensor);
    uint64_t bytes = (uint64_t)rows_left * row_bytes;
    uint64_t bytes_max = chunk_bytes_max(connection, tensor);
    if (bytes > bytes_max) {
        bytes = bytes_max < row_bytes ? row_bytes : bytes_max / row_bytes * row_bytes;
    }
    if (bytes > connection->result_credit) {
        uint64_t enough = connection->result_window / 2;
        enough = enough < REPLY_CHUNK_BYTES_MIN ? enough : REPLY_CHUNK_BYTES_MIN;
        if (connection->result_credit < enough || connection->result_credit < row_bytes) {
            return false;
        }
        bytes = connection->result_credit / row_bytes * row_bytes;
    }
    if (connection->lane > 0 && bytes < REPLY_CHUNK_BYTES_MIN) {
        return false;
    }
    chunk->tensor = tensor;
    chunk->first_row = progress->row;
    chunk->rows = (int64_t)(bytes / row_bytes);
    if (chunk->rows < rows_left || next_tensor(slot, tensor + 1) != FAS_TENSOR_COUNT) {
        chunk->first_sequence = chunk->sequence_count = 0; /* there is more of its range */
    }
    return true;
}

/* The chunk was handed on: the next one begins behind it. */
static void advance(struct slot *slot, const struct chunk *chunk)
{
    struct slot_progress *progress = &slot->progress;
    progress->results++;
    if (chunk->sequence_count > 0) {
        progress->sent = progress->range_end;
        return;
    }
    progress->row += chunk->rows;
    if (progress->row == range_rows_end(slot, chunk->tensor)) {
        enter_tensor(slot, chunk->tensor + 1);
    }
}

/* ---- sending it ---- */

/* Where a chunk lies: rows of a packed tensor, or of statistics one strip per head. */
static struct device_copy locate(const struct slot *slot, const struct chunk *chunk)
{
    const struct request *request = &slot->request;
    const struct fas_dims *dims = &request->wire.dims;
    bool statistics = fas_tensor_row(chunk->tensor)->statistics;
    uint64_t row_bytes = statistics ? 4 : fas_tensor_row_bytes(dims, chunk->tensor);
    return (struct device_copy){
        .arena_offset = slot->span.offset + request->layout.offsets[chunk->tensor] +
                        (uint64_t)chunk->first_row * row_bytes,
        .arena_pitch = 4u * (uint64_t)fas_tensor_rows(dims, chunk->tensor),
        .width = (uint64_t)chunk->rows * row_bytes,
        .height = statistics ? (uint32_t)fas_tensor_heads(dims, chunk->tensor) : 1,
    };
}

static void send_chunk(struct server *server, struct connection *connection,
                       const struct slot *slot, const struct chunk *chunk,
                       const struct outbox_payload *payload)
{
    const struct wire_result result = {.first_row = chunk->first_row,
                                       .row_count = chunk->rows,
                                       .first_sequence = chunk->first_sequence,
                                       .sequence_count = chunk->sequence_count,
                                       .number = chunk->number};
    uint8_t header[FAS_HEADER_BYTES_MAX];
    size_t header_bytes = wire_encode_result(&result, header);
    struct frame frame = {.type = FRAME_RESULT, .flags = chunk->tensor, .request = slot->id};
    uint64_t bytes = payload->bytes * payload->pieces;
    stats_payload(&server->stats, STATS_OUT, FAS_PLACE_INLINE, (double)bytes);
    outbox_add(&connection->outbox, frame, header, header_bytes, bytes ? payload : NULL);
}

/* The next chunk, from where it lies in the arena, as the host reaches it; or one without rows. */
static bool send_in_place(struct server *server, struct connection *connection, struct slot *slot)
{
    const struct device *device = &server->executors[slot->executor].device;
    struct outbox_payload payload = {0};
    struct chunk chunk;
    if (!enter_range(slot) || !next_chunk(connection, slot, &chunk) ||
        (chunk.rows > 0 && !device->host_reaches_arena)) {
        return false;
    }
    if (chunk.rows > 0) {
        struct device_copy copy = locate(slot, &chunk);
        payload = (struct outbox_payload){device->arena + copy.arena_offset, copy.width,
                                          copy.arena_pitch, copy.height};
        connection->result_credit -= copy.width * copy.height;
        slot->sends[connection->lane] = connection->sends + 1; /* the one being composed */
    }
    send_chunk(server, connection, slot, &chunk, &payload);
    advance(slot, &chunk);
    return true;
}

static bool is_joined(const struct connection *connection)
{
    return !join_alone(connection->leader);
}

/* Begins the download of the next chunk. */
static bool fetch_chunk(struct server *server, struct connection *connection, struct slot *slot)
{
    struct chunk chunk;
    if (server->executors[slot->executor].device.host_reaches_arena || !enter_range(slot) ||
        !next_chunk(connection, slot, &chunk) || chunk.rows == 0 ||
        (is_joined(connection) && staging_ahead(slot, connection) >= LANE_CHUNKS)) {
        return false;
    }
    struct device_copy copy = locate(slot, &chunk);
    if (!staging_fetch(server, connection, slot, &chunk, &copy)) {
        return false;
    }
    connection->result_credit -= copy.width * copy.height;
    advance(slot, &chunk);
    return true;
}

/* The chunk that was fetched first, once it has arrived. */
static bool send_fetched(struct server *server, struct connection *connection, struct slot *slot)
{
    const struct fetch *fetch = staging_front(slot, connection);
    if (!fetch) {
        return false;
    }
    const struct outbox_payload payload = {fetch->slab, fetch->bytes, 0, 1};
    bool copied = fetch->bytes <= OUTBOX_COPY_BYTES_MAX;
    send_chunk(server, connection, slot, &fetch->chunk, &payload);
    staging_send(connection, slot, copied ? 0 : connection->sends + 1);
    return true;
}

/* Both, as far as they go: results of a device that the host does not reach arrive first. */
static bool serve_results(struct server *server, struct connection *connection, struct slot *slot,
                          uint64_t now_us)
{
    bool fetched = fetch_chunk(server, connection, slot);
    bool sent = slot->fetches.first ? send_fetched(server, connection, slot)
                                    : send_in_place(server, connection, slot);
    if (sent) {
        slot->times.progress = now_us;
    }
    return fetched || sent;
}

/* How its tensors travelled, for DONE; those in places are counted here. */
static uint32_t count_places(struct server *server, const struct slot *slot)
{
    const struct request *request = &slot->request;
    uint32_t places = request->travelling ? 1u << FAS_PLACE_INLINE : 0;
    uint32_t placed = (request->inputs | request->outputs) & ~request->travelling;
    for (uint32_t left = placed; left; left &= left - 1) {
        enum fas_tensor tensor = (enum fas_tensor)__builtin_ctz(left);
        enum fas_place place = request->wire.tensors[tensor].place;
        places |= 1u << place;
        stats_payload(&server->stats, request->inputs >> tensor & 1 ? STATS_IN : STATS_OUT, place,
                      (double)fas_tensor_bytes(&request->wire.dims, tensor));
    }
    return places;
}

static void send_done(struct server *server, struct connection *connection, struct slot *slot,
                      uint64_t now_us)
{
    const struct slot_times *t = &slot->times;
    uint64_t handle = slot->request.wire.retain ? hold_keep(server, slot, now_us) : 0;
    const struct executor *executor = &server->executors[slot->executor];
    uint64_t started_us = t->started ? t->started : t->computed;
    struct wire_done done = {.copy_in_us = t->complete - t->arrived,
                             .queue_us = t->picked - t->complete,
                             .compute_us = t->computed - started_us,
                             .copy_out_us = now_us > t->computed ? now_us - t->computed : 0,
                             .total_us = now_us - t->arrived,
                             .batch_id = slot->batch.id,
                             .batch_tokens = slot->batch.tokens,
                             .batch_requests = slot->batch.requests,
                             .batch_sequences = slot->batch.sequences,
                             .places = count_places(server, slot),
                             .handle = handle,
                             .launches = slot->batch.launches};
    snprintf(done.device, sizeof done.device, "%s", executor->device.name);
    snprintf(done.kernel, sizeof done.kernel, "%s", slot->request.row->name);
    uint8_t header[FAS_HEADER_BYTES_MAX];
    size_t bytes = wire_encode_done(&done, header);
    outbox_add(&connection->outbox, (struct frame){.type = FRAME_DONE, .request = slot->id}, header,
               bytes, NULL);
    stats_record(&server->stats, STATS_TOTAL_US, done.total_us);
    stats_record(&server->stats, STATS_QUEUE_US, done.queue_us);
    stats_record(&server->stats, STATS_COPY_IN_US, done.copy_in_us);
    stats_record(&server->stats, STATS_COMPUTE_US, done.compute_us);
    stats_record(&server->stats, STATS_COPY_OUT_US, done.copy_out_us);
    enum stats_pass pass = (enum stats_pass)slot->request.wire.pass;
    stats_answer(&server->stats, pass, FAS_OK);
    principal_serve(&server->principals, slot->principal, &slot->request.cost);
    stats_work(&server->stats, pass, (double)slot->request.cost.tokens, slot->request.cost.flops);
}

static void send_error(struct server *server, struct connection *connection,
                       const struct slot *slot)
{
    uint8_t header[FAS_HEADER_BYTES_MAX];
    size_t bytes = wire_encode_error(&slot->error, header);
    stats_answer(&server->stats, (enum stats_pass)slot->request.wire.pass, slot->error.status);
    outbox_add(&connection->outbox, (struct frame){.type = FRAME_ERROR, .request = slot->id},
               header, bytes, NULL);
}

/* Before the answer leaves: the client may use the id again as soon as it has it. */
static void answered(struct connection *connection, struct slot *slot, uint64_t now_us)
{
    if (slot->error.status == FAS_OK) {
        reader_finish(stream_reader(connection->stream), slot->id);
    }
    slot->answered = true;
    slot->times.answered = now_us;
    connection->unanswered--;
}

/* One step for one request: a chunk, or its end. False: nothing to say now. */
static bool serve_slot(struct server *server, struct connection *connection, struct slot *slot,
                       uint64_t now_us)
{
    if (slot->answered) {
        return false;
    }
    if (connection->lane > 0) {
        return slot->error.status == FAS_OK && serve_results(server, connection, slot, now_us);
    }
    if (slot->error.status != FAS_OK) {
        if (slot->state != SLOT_REPLYING || slot->copies > 0 || slot_has_event_out(slot)) {
            return false; /* the device has not let go of it */
        }
        send_error(server, connection, slot);
        answered(connection, slot, now_us);
        return true;
    }
    if (!slot->events.told && slot->events.passed && slot->events.recorded) {
        outbox_add(&connection->outbox, (struct frame){.type = FRAME_ENQUEUED, .request = slot->id},
                   NULL, 0, NULL);
        slot->events.told = true;
        return true;
    }
    if (serve_results(server, connection, slot, now_us)) {
        return true;
    }
    if (slot->events.told && slot->progress.all_computed &&
        slot->progress.sent == slot->progress.computed && !slot->fetches.first &&
        slot->copies == 0) {
        send_done(server, connection, slot, now_us);
        answered(connection, slot, now_us);
        return true;
    }
    return false;
}

/* The send being composed takes more. */
static bool has_room(const struct connection *connection)
{
    const struct outbox *outbox = &connection->outbox;
    return outbox_add_room(outbox, OUTBOX_GATHER_BYTES_MAX) &&
           (outbox->iov_count < 2u * LANE_CHUNKS || !is_joined(connection));
}

/* The client's requests take turns by chunk until the send is full or none has anything to say. */
static void serve_slots(struct server *server, struct connection *connection, uint64_t now_us)
{
    struct slot *slots = server->slots.entries;
    struct connection *leader = connection->leader;
    uint32_t silent = 0; /* in a row */
    while (silent < leader->slot_count && has_room(connection)) {
        struct slot *slot = &slots[leader->first_slot];
        leader->first_slot = slot->next;
        silent = serve_slot(server, connection, slot, now_us) ? 0 : silent + 1;
        intake_settle(server, slot);
    }
}

/* Enough was taken in to tell the peer: a message per quarter of its window, and before there is no
 * room for a chunk beside what it has not been told. */
static void give_credit(struct server *server, struct connection *connection)
{
    uint64_t window = server->config.upload_credit_bytes, due = connection->credit_due;
    if (due < window / 4 && (due == 0 || due + connection->limits.chunk_bytes <= window)) {
        return;
    }
    uint8_t header[FAS_HEADER_BYTES_MAX];
    size_t bytes = wire_encode_credit(connection->credit_due, header);
    reader_credit(stream_reader(connection->stream), connection->credit_due);
    connection->credit_due = 0;
    outbox_put(&connection->outbox, (struct frame){.type = FRAME_CREDIT}, header, bytes);
}

/* Composes the next send, if there is anything to say and one more may be under way. */
static bool reply_send(struct server *server, struct connection *connection, uint64_t now_us)
{
    struct outbox *outbox = &connection->outbox;
    if (connection->sends - connection->sends_done == TRANSPORT_SENDS_MAX ||
        connection->state >= CONNECTION_LEAVING) {
        return false;
    }
    if (connection->state == CONNECTION_OPEN) {
        give_credit(server, connection);
        while (outbox_room(outbox, 0) && place_answer(server, connection)) {
        }
    }
    outbox_begin(outbox);
    if (connection->state == CONNECTION_OPEN) {
        serve_slots(server, connection, now_us);
    }
    outbox_end(outbox);
    if (outbox->iov_count == 0) {
        return false;
    }
    connection->sends++;
    stream_send(connection->stream, &(struct stream_send){.iov = outbox->iov,
                                                          .iov_count = outbox->iov_count,
                                                          .fds = outbox->fds,
                                                          .fd_count = outbox->fd_count});
    return true;
}

void reply_sent(struct server *server, struct connection *connection)
{
    connection->sends_done = stream_sends_done(connection->stream);
    staging_sent(connection, connection->sends_done);
    struct slot *slots = server->slots.entries;
    uint32_t index = connection->leader->first_slot;
    for (uint32_t count = connection->leader->slot_count; count > 0; count--) {
        struct slot *slot = &slots[index];
        uint64_t *send = &slot->sends[connection->lane];
        index = slot->next;
        *send = *send > connection->sends_done ? *send : 0;
        intake_settle(server, slot);
    }
}

/* The client's other connections have had their turn: each takes the send that waits behind the one
 * under way, so that none stands still between two. */
static void send_behind(struct server *server, struct connection *leader, uint64_t now_us)
{
    for (uint32_t lane = 0; lane < FAS_LANES_MAX; lane++) {
        if (leader->join.lanes[lane]) {
            reply_send(server, leader->join.lanes[lane], now_us);
        }
    }
}

void reply_send_all(struct server *server, uint64_t now_us)
{
    struct connection *connections = server->connections.entries;
    uint32_t count = server->connections.count;
    bool again = false;
    for (uint32_t i = 0; i < count; i++) {
        struct connection *connection = &connections[i];
        if (connection->state == CONNECTION_LEAVING) {
            connection_leave(server, connection);
        }
        if (connection->state != CONNECTION_FREE && reply_send(server, connection, now_us)) {
            again |= is_joined(connection);
        }
    }
    for (uint32_t i = 0; i < count && again; i++) {
        if (connections[i].state == CONNECTION_OPEN && connections[i].lane == 0 &&
            is_joined(&connections[i])) {
            send_behind(server, &connections[i], now_us);
        }
    }
}
