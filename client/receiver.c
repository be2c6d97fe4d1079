/*
 * receiver.c: what arrives, and where it goes. Runs on the thread that receives, one frame at a
 * time.
 *
 * A RESULT is checked against its call before a byte of its payload is received, and its payload
 * goes straight into the caller's buffer, or, for a tensor with gaps and for the strips of
 * statistics, through a bounce buffer. A daemon that breaks the protocol loses the connection: it
 * can not make the library write outside a caller's tensor.
 *
 * Lanes are not ordered among each other: rows may come after DONE, which then waits for them, and
 * after ERROR, and are thrown away then. Sequences are told of when nothing is missing before them.
 */
#include "client/client.h"
#include "client/strided.h"

#include <string.h>
#include <unistd.h>

static enum fas_status violation(struct fas_error *error, const struct frame *frame,
                                 const char *field, const char *what)
{
    return fas_fail(error, FAS_INTERNAL, field, "the daemon sent %s %s",
                    frame_type_name(frame->type), what);
}

/* ---- results ---- */

static enum fas_status result_check(const struct fas_call *call, const struct frame *frame,
                                    const struct wire_result *result, struct fas_error *error)
{
    const struct fas_dims *dims = &call->request.dims;
    bool news = result->row_count == 0; /* of sequences whose results do not travel */
    if (frame->flags >= FAS_TENSOR_COUNT || !(news || call->outputs & (1u << frame->flags))) {
        return violation(error, frame, "tensor", "of a tensor that was not asked for");
    }
    enum fas_tensor tensor = (enum fas_tensor)frame->flags;
    int64_t rows = fas_tensor_rows(dims, tensor);
    if (result->first_row < 0 || result->row_count < 0 || result->first_row > rows ||
        result->row_count > rows - result->first_row) {
        return violation(error, frame, "first_row", "with rows beyond its tensor");
    }
    if (result->row_count > call->rows_left[tensor]) {
        return violation(error, frame, "row_count", "with rows that had come before");
    }
    uint64_t bytes = (uint64_t)result->row_count * fas_tensor_row_bytes(dims, tensor);
    if (frame->payload_bytes != bytes || bytes > FAS_CHUNK_BYTES_MAX) {
        return violation(error, frame, "payload_bytes", "whose length is not that of its rows");
    }
    if (result->first_sequence < 0 || result->sequence_count < 0 ||
        result->first_sequence > call->request.batch ||
        result->sequence_count > call->request.batch - result->first_sequence) {
        return violation(error, frame, "first_sequence", "with sequences beyond its batch");
    }
    return FAS_OK;
}

/* Of a call that has been answered, when lanes may differ in how far they are. */
static bool is_late(const struct fas_client *client, uint64_t id)
{
    uint64_t slot = (id & 0xffff) - 1;
    return client->lane_count > 1 && slot < client->call_count && id <= client->calls[slot].id;
}

/* Where the payload goes. Under the lock. */
static enum fas_status place_result(struct lane *lane, const struct frame *frame, void **payload,
                                    struct fas_error *error)
{
    struct fas_call *call = call_find(lane->client, frame->request);
    lane->receiving = call;
    lane->scatter = NULL;
    *payload = lane->bounce;
    if (!call) {
        bool fits = frame->payload_bytes <= FAS_CHUNK_BYTES_MAX;
        return fits && is_late(lane->client, frame->request)
                   ? FAS_OK
                   : violation(error, frame, "request", "for a request that is not open");
    }
    enum fas_status status = result_check(call, frame, &lane->result, error);
    if (status != FAS_OK) {
        return status;
    }
    call->receiving++; /* until frame_result */
    const struct fas_dims *dims = &call->request.dims;
    enum fas_tensor tensor = (enum fas_tensor)frame->flags;
    struct strided s = strided_of(dims, tensor, &call->request.tensors[tensor]);
    bool direct = s.packed && !fas_tensor_row(tensor)->statistics;
    uint64_t offset = (uint64_t)lane->result.first_row * fas_tensor_row_bytes(dims, tensor);
    if (direct && frame->payload_bytes > 0) { /* a tensor of no rows need not have an address */
        *payload = s.data + offset;
    }
    lane->scatter = direct ? NULL : lane->bounce;
    return FAS_OK;
}

static enum fas_status head_result(struct lane *lane, const struct frame *frame,
                                   const uint8_t *header, void **payload, struct fas_error *error)
{
    enum fas_status status = wire_decode_result(header, frame->header_bytes, &lane->result, error);
    if (status == FAS_OK) {
        connection_lock(lane->connection);
        status = place_result(lane, frame, payload, error);
        connection_unlock(lane->connection);
    }
    return status;
}

/* From the bounce buffer to the caller's tensor. */
static void result_scatter(const struct fas_call *call, enum fas_tensor tensor,
                           const struct wire_result *result, const uint8_t *in)
{
    const struct fas_dims *dims = &call->request.dims;
    struct strided s = strided_of(dims, tensor, &call->request.tensors[tensor]);
    if (!fas_tensor_row(tensor)->statistics) {
        uint64_t row_bytes = fas_tensor_row_bytes(dims, tensor);
        strided_scatter(&s, (uint64_t)result->first_row * row_bytes,
                        (uint64_t)result->row_count * row_bytes, in);
        return;
    }
    uint64_t strip = 4 * (uint64_t)result->row_count;
    int64_t rows = fas_tensor_rows(dims, tensor);
    for (int32_t head = 0; head < fas_tensor_heads(dims, tensor); head++, in += strip) {
        strided_scatter(&s, 4 * (uint64_t)(head * rows + result->first_row), strip, in);
    }
}

static bool results_complete(const struct fas_call *call)
{
    for (int tensor = 0; tensor < FAS_TENSOR_COUNT; tensor++) {
        if (call->rows_left[tensor] > 0) {
            return false;
        }
    }
    return true;
}

/* Of several lanes: sequences are complete when all RESULTs up to the largest number have come. */
static void count_result(struct fas_call *call, const struct wire_result *result)
{
    int32_t end = result->first_sequence + result->sequence_count;
    call->results++;
    call->beyond = result->number >= call->beyond ? result->number + 1 : call->beyond;
    call->complete = result->sequence_count > 0 && end > call->complete ? end : call->complete;
}

/* Callbacks of a call run one after the other: who is telling tells what others find, too. Under
 * the lock, which is given up meanwhile; the call is being received into, so it stays. */
static void tell_progress(struct lane *lane, struct fas_call *call)
{
    while (call->request.on_progress && !call->telling && call->results == call->beyond &&
           call->told < call->complete && call->report.error.status == FAS_OK) {
        int32_t first = call->told;
        call->told = call->complete;
        call->telling = true;
        connection_unlock(lane->connection);
        call->request.on_progress(call, first, call->told - first, call->request.context);
        connection_lock(lane->connection);
        call->telling = false;
    }
}

/* One lane: what is told is what the daemon said, when it said it. */
static void tell_at_once(struct lane *lane, struct fas_call *call)
{
    const struct wire_result *result = &lane->result;
    if (result->sequence_count > 0 && call->request.on_progress) {
        connection_unlock(lane->connection);
        call->request.on_progress(call, result->first_sequence, result->sequence_count,
                                  call->request.context);
        connection_lock(lane->connection);
    }
}

/* The rows are in place. Under the lock, which may be given up meanwhile. */
static enum fas_status take_result(struct lane *lane, const struct frame *frame,
                                   struct fas_error *error)
{
    struct fas_call *call = lane->receiving;
    if (lane->result.row_count > call->rows_left[frame->flags]) { /* in two lanes at once */
        return violation(error, frame, "row_count", "with rows that had come before");
    }
    call->rows_left[frame->flags] -= lane->result.row_count;
    if (lane->client->lane_count > 1) {
        count_result(call, &lane->result);
        tell_progress(lane, call);
    } else {
        tell_at_once(lane, call);
    }
    if (call->done && call->state == CALL_OPEN && results_complete(call)) {
        call_answer(call, NULL);
    }
    call_received(call);
    return FAS_OK;
}

static enum fas_status frame_result(struct lane *lane, const struct frame *frame,
                                    struct fas_error *error)
{
    struct fas_client *client = lane->client;
    enum fas_status status = FAS_OK;
    if (lane->scatter) {
        result_scatter(lane->receiving, (enum fas_tensor)frame->flags, &lane->result,
                       lane->scatter);
    }
    connection_lock(lane->connection);
    lane->credit_owed += frame->payload_bytes;
    if (lane->receiving) {
        status = take_result(lane, frame, error);
    }
    bool ends = !TAILQ_EMPTY(&client->ending);
    connection_unlock(lane->connection);
    if (ends) {
        call_tell(client);
    }
    return status;
}

/* ---- answers ---- */

static void report_fill(struct fas_report *report, const struct wire_done *done)
{
    report->queue_us = done->queue_us;
    report->copy_in_us = done->copy_in_us;
    report->compute_us = done->compute_us;
    report->copy_out_us = done->copy_out_us;
    report->server_us = done->total_us;
    report->batch_id = done->batch_id;
    report->batch_tokens = done->batch_tokens;
    report->batch_requests = done->batch_requests;
    report->batch_sequences = done->batch_sequences;
    report->launches = done->launches;
    report->places = done->places;
    report->handle = done->handle;
    memcpy(report->device, done->device, sizeof(report->device));
    memcpy(report->kernel, done->kernel, sizeof(report->kernel));
}

static enum fas_status head_done(struct lane *lane, const struct frame *frame,
                                 const uint8_t *header, void **payload, struct fas_error *error)
{
    struct fas_client *client = lane->client;
    struct wire_done done;
    (void)payload;
    enum fas_status status = wire_decode_done(header, frame->header_bytes, &done, error);
    if (status != FAS_OK) {
        return status;
    }
    connection_lock(client->connection);
    struct fas_call *call = call_find(client, frame->request);
    bool complete = call && results_complete(call);
    if (!call || call->done || (!complete && client->lane_count == 1)) {
        status = violation(error, frame, "request",
                           call ? "before all results" : "for a request that is not open");
    } else {
        report_fill(&call->report, &done);
        call->done = true; /* the last rows may be on their way in another lane */
        if (complete) {
            call_answer(call, NULL);
        }
    }
    connection_unlock(client->connection);
    call_tell(client);
    return status;
}

static enum fas_status head_error(struct lane *lane, const struct frame *frame,
                                  const uint8_t *header, void **payload, struct fas_error *error)
{
    struct fas_client *client = lane->client;
    struct fas_error told;
    (void)payload;
    enum fas_status status = wire_decode_error(header, frame->header_bytes, &told, error);
    if (status != FAS_OK) {
        return frame_is_broken(status, error);
    }
    if (told.status == FAS_OK || frame->request == 0) { /* the connection itself failed */
        *error = told;
        error->status = told.status == FAS_OK ? FAS_INTERNAL : told.status;
        return error->status;
    }
    if (lane->number > 0) {
        return violation(error, frame, "request", "on a connection that joined another");
    }
    connection_lock(client->connection);
    struct fas_call *call = call_find(client, frame->request);
    struct question *question = question_find(client, frame->request, FRAME_ERROR);
    if (call) {
        call_answer(call, &told);
    } else if (question) {
        question_answer(question, &told);
    } else if (!(frame->request & QUESTION_BIT)) {
        status = violation(error, frame, "request", "for a request that is not open");
    }
    connection_unlock(client->connection);
    call_tell(client);
    return status;
}

static enum fas_status head_enqueued(struct lane *lane, const struct frame *frame,
                                     const uint8_t *header, void **payload, struct fas_error *error)
{
    struct fas_client *client = lane->client;
    enum fas_status status = FAS_OK;
    (void)header, (void)payload;
    connection_lock(client->connection);
    struct fas_call *call = call_find(client, frame->request);
    bool awaited = call && !call->enqueued && (call->wire.wait_event || call->wire.done_event);
    if (awaited) {
        call->enqueued = true;
        pthread_cond_broadcast(&call->ended);
        connection_nudge(client->connection);
    } else {
        status = violation(error, frame, "request", "for a request without events, or again");
    }
    connection_unlock(client->connection);
    return status;
}

static enum fas_status head_answer(struct lane *lane, const struct frame *frame,
                                   const uint8_t *header, void **payload, struct fas_error *error)
{
    struct fas_client *client = lane->client;
    (void)payload;
    enum fas_status status = FAS_OK;
    if (frame->type == FRAME_STATS_REPLY) {
        status = wire_decode_stats(header, frame->header_bytes, client->stats, error);
        if (status != FAS_OK) {
            return status;
        }
    }
    connection_lock(client->connection);
    struct question *question = question_find(client, frame->request, frame->type);
    if (question) { /* else it came too late for whoever asked */
        if (question->stats && frame->type == FRAME_STATS_REPLY) {
            *question->stats = *client->stats;
        }
        question_answer(question, NULL);
    }
    connection_unlock(client->connection);
    return FAS_OK;
}

/* A place was opened; its memory, if it is the daemon's, came along, perhaps with others before. */
static enum fas_status head_opened(struct lane *lane, const struct frame *frame,
                                   const uint8_t *header, void **payload, struct fas_error *error)
{
    struct fas_client *client = lane->client;
    struct wire_opened opened;
    int fd = frame->request & REGION_BIT ? connection_take_fd(client->connection) : -1;
    (void)payload;
    enum fas_status status = wire_decode_opened(header, frame->header_bytes, &opened, error);
    connection_lock(client->connection);
    struct question *question =
        status == FAS_OK ? question_find(client, frame->request, FRAME_OPENED) : NULL;
    if (question) {
        question->opened = opened;
        question->fd = fd;
        fd = -1;
        question_answer(question, NULL);
    }
    connection_unlock(client->connection);
    if (fd >= 0) {
        close(fd);
    }
    if (!question && status == FAS_OK) { /* too late for whoever asked */
        question_release(client, 0, opened.id, NULL);
    }
    return status;
}

/* ---- the rest ---- */

static void server_fill(struct fas_server *server, const struct wire_hello_ack *ack)
{
    memcpy(server->name, ack->server, sizeof(server->name));
    server->version = ack->version;
    server->calls_max = ack->limits.requests_in_flight;
    server->sequences_max = ack->limits.sequences;
    server->request_bytes_max = ack->limits.request_bytes;
    server->retain_bytes_max = ack->limits.retain_bytes;
    server->chunk_bytes = ack->limits.chunk_bytes;
    server->device_count = ack->device_count;
    server->kernel_count = ack->kernel_count;
    for (uint32_t i = 0; i < ack->device_count; i++) {
        struct fas_server_device *device = &server->devices[i];
        memcpy(device->name, ack->devices[i].name, sizeof(device->name));
        memcpy(device->uuid, ack->devices[i].uuid, sizeof(device->uuid));
        memcpy(device->arch, ack->devices[i].arch, sizeof(device->arch));
        device->arena_bytes = ack->devices[i].arena_bytes;
    }
    for (uint32_t i = 0; i < ack->kernel_count; i++) {
        const struct wire_kernel *from = &ack->kernels[i];
        struct fas_server_kernel *kernel = &server->kernels[i];
        memcpy(kernel->name, from->name, sizeof(kernel->name));
        memcpy(kernel->arch, from->arch, sizeof(kernel->arch));
        kernel->pass = from->pass;
        kernel->dtypes = from->dtypes;
        kernel->d_min = from->d_min;
        kernel->d_max = from->d_max;
        kernel->dv_min = from->dv_min;
        kernel->dv_max = from->dv_max;
    }
}

/* What all lanes have in common is lane 0's to learn. */
static void greet_client(struct fas_client *client, const struct wire_hello_ack *ack)
{
    server_fill(&client->server, ack);
    memcpy(client->nonce, ack->nonce, sizeof(client->nonce));
}

static enum fas_status head_hello_ack(struct lane *lane, const struct frame *frame,
                                      const uint8_t *header, void **payload,
                                      struct fas_error *error)
{
    struct fas_client *client = lane->client;
    struct wire_hello_ack *ack = client->ack;
    (void)payload;
    if (lane->greeted) {
        return violation(error, frame, "", "a second time");
    }
    enum fas_status status = wire_decode_hello_ack(header, frame->header_bytes, ack, error);
    if (status != FAS_OK) {
        return status;
    }
    if (ack->version < FAS_VERSION_MIN || ack->version > FAS_VERSION_MAX) {
        return fas_fail(error, FAS_UNSUPPORTED, "version",
                        "the daemon speaks version %u, this library %u to %u", ack->version,
                        FAS_VERSION_MIN, FAS_VERSION_MAX);
    }
    if (ack->upload_credit_bytes < ack->limits.chunk_bytes) {
        return violation(error, frame, "upload_credit_bytes", "with credit for less than a chunk");
    }
    if (lane->number > 0 && ack->limits.chunk_bytes != client->server.chunk_bytes) {
        return violation(error, frame, "limits.chunk_bytes", "with other chunks than before");
    }
    connection_lock(client->connection);
    if (lane->number == 0) {
        greet_client(client, ack);
    }
    lane->upload_credit = ack->upload_credit_bytes;
    lane->greeted = true;
    pthread_cond_broadcast(&client->changed);
    connection_unlock(client->connection);
    return FAS_OK;
}

static enum fas_status head_credit(struct lane *lane, const struct frame *frame,
                                   const uint8_t *header, void **payload, struct fas_error *error)
{
    uint64_t bytes = 0;
    (void)payload;
    enum fas_status status = wire_decode_credit(header, frame->header_bytes, &bytes, error);
    if (status != FAS_OK) {
        return status;
    }
    connection_lock(lane->connection);
    uint64_t sum = lane->upload_credit + bytes;
    lane->upload_credit = sum < bytes ? UINT64_MAX : sum;
    connection_unlock(lane->connection);
    return FAS_OK;
}

static enum fas_status head_ping(struct lane *lane, const struct frame *frame,
                                 const uint8_t *header, void **payload, struct fas_error *error)
{
    (void)header, (void)payload, (void)error;
    connection_lock(lane->connection);
    lane->pong_wanted = true;
    lane->pong_id = frame->request;
    connection_unlock(lane->connection);
    return FAS_OK;
}

/* ---- one row per type a daemon may send ---- */

typedef enum fas_status on_head(struct lane *, const struct frame *, const uint8_t *, void **,
                                struct fas_error *);

static on_head *const rows[FRAME_TYPE_COUNT] = {
    [FRAME_HELLO_ACK] = head_hello_ack, [FRAME_RESULT] = head_result,
    [FRAME_DONE] = head_done,           [FRAME_ERROR] = head_error,
    [FRAME_CREDIT] = head_credit,       [FRAME_PING] = head_ping,
    [FRAME_PONG] = head_answer,         [FRAME_STATS_REPLY] = head_answer,
    [FRAME_DRAIN_ACK] = head_answer,    [FRAME_OPENED] = head_opened,
    [FRAME_CLOSED] = head_answer,       [FRAME_ENQUEUED] = head_enqueued,
};

/* What a lane beside the first may bring. */
static const uint32_t joined_types = 1u << FRAME_HELLO_ACK | 1u << FRAME_RESULT |
                                     1u << FRAME_ERROR | 1u << FRAME_CREDIT | 1u << FRAME_PING |
                                     1u << FRAME_PONG;

enum fas_status receiver_on_head(void *context, const struct frame *frame, const uint8_t *header,
                                 void **payload, struct fas_error *error)
{
    struct lane *lane = context;
    bool first = frame->type == FRAME_HELLO_ACK || frame->type == FRAME_ERROR;
    if (!rows[frame->type] || (lane->number > 0 && !(joined_types >> frame->type & 1))) {
        return violation(error, frame, "frame.type", "unasked");
    }
    if (!lane->greeted && !first) {
        return violation(error, frame, "frame.type", "before HELLO_ACK");
    }
    enum fas_status status = rows[frame->type](lane, frame, header, payload, error);
    /* What an ERROR says is the daemon's judgement; of its other frames it is ours. */
    return frame->type == FRAME_ERROR ? status : frame_is_broken(status, error);
}

enum fas_status receiver_on_frame(void *context, const struct frame *frame, struct fas_error *error)
{
    struct lane *lane = context;
    return frame->type == FRAME_RESULT ? frame_result(lane, frame, error) : FAS_OK;
}
