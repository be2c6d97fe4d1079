/*
 * receiver.c: what arrives, and where it goes. Runs on the thread that receives, one frame at a
 * time.
 *
 * A RESULT is checked against its call before a byte of its payload is received, and its payload
 * goes straight into the caller's buffer, or, for a tensor with gaps and for the strips of
 * statistics, through a bounce buffer. A daemon that breaks the protocol loses the connection: it
 * can not make the library write outside a caller's tensor.
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

static enum fas_status head_result(struct fas_client *client, const struct frame *frame,
                                   const uint8_t *header, void **payload, struct fas_error *error)
{
    enum fas_status status =
        wire_decode_result(header, frame->header_bytes, &client->result, error);
    if (status != FAS_OK) {
        return status;
    }
    connection_lock(client->connection);
    struct fas_call *call = call_find(client, frame->request);
    connection_unlock(client->connection);
    if (!call) {
        return violation(error, frame, "request", "for a request that is not open");
    }
    status = result_check(call, frame, &client->result, error);
    if (status != FAS_OK) {
        return status;
    }
    client->receiving = call; /* stays open: only who receives ends calls the daemon knows */
    const struct fas_dims *dims = &call->request.dims;
    enum fas_tensor tensor = (enum fas_tensor)frame->flags;
    struct strided s = strided_of(dims, tensor, &call->request.tensors[tensor]);
    bool direct = s.packed && !fas_tensor_row(tensor)->statistics;
    uint64_t offset = (uint64_t)client->result.first_row * fas_tensor_row_bytes(dims, tensor);
    *payload = direct ? s.data + offset : client->bounce;
    client->scatter = direct ? NULL : client->bounce;
    return FAS_OK;
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

static enum fas_status frame_result(struct fas_client *client, const struct frame *frame,
                                    struct fas_error *error)
{
    struct fas_call *call = client->receiving;
    const struct wire_result *result = &client->result;
    (void)error;
    if (client->scatter) {
        result_scatter(call, (enum fas_tensor)frame->flags, result, client->scatter);
    }
    call->rows_left[frame->flags] -= result->row_count;
    connection_lock(client->connection);
    client->credit_owed += frame->payload_bytes;
    connection_unlock(client->connection);
    if (result->sequence_count > 0 && call->request.on_progress) {
        call->request.on_progress(call, result->first_sequence, result->sequence_count,
                                  call->request.context);
    }
    return FAS_OK;
}

/* ---- answers ---- */

static bool results_complete(const struct fas_call *call)
{
    for (int tensor = 0; tensor < FAS_TENSOR_COUNT; tensor++) {
        if (call->rows_left[tensor] > 0) {
            return false;
        }
    }
    return true;
}

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

static enum fas_status head_done(struct fas_client *client, const struct frame *frame,
                                 const uint8_t *header, void **payload, struct fas_error *error)
{
    struct wire_done done;
    (void)payload;
    enum fas_status status = wire_decode_done(header, frame->header_bytes, &done, error);
    if (status != FAS_OK) {
        return status;
    }
    connection_lock(client->connection);
    struct fas_call *call = call_find(client, frame->request);
    if (!call || !results_complete(call)) {
        status = violation(error, frame, "request",
                           call ? "before all results" : "for a request that is not open");
    } else {
        report_fill(&call->report, &done);
        call_answer(call, NULL);
    }
    connection_unlock(client->connection);
    call_tell(client);
    return status;
}

static enum fas_status head_error(struct fas_client *client, const struct frame *frame,
                                  const uint8_t *header, void **payload, struct fas_error *error)
{
    struct fas_error told;
    (void)payload;
    enum fas_status status = wire_decode_error(header, frame->header_bytes, &told, error);
    if (status != FAS_OK) {
        return status;
    }
    if (told.status == FAS_OK || frame->request == 0) { /* the connection itself failed */
        *error = told;
        error->status = told.status == FAS_OK ? FAS_INTERNAL : told.status;
        return error->status;
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

static enum fas_status head_answer(struct fas_client *client, const struct frame *frame,
                                   const uint8_t *header, void **payload, struct fas_error *error)
{
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

/* A place was opened; its memory, if it is the daemon's, came along. */
static enum fas_status head_opened(struct fas_client *client, const struct frame *frame,
                                   const uint8_t *header, void **payload, struct fas_error *error)
{
    struct wire_opened opened;
    int fd = connection_take_fd(client->connection);
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

static enum fas_status head_hello_ack(struct fas_client *client, const struct frame *frame,
                                      const uint8_t *header, void **payload,
                                      struct fas_error *error)
{
    struct wire_hello_ack *ack = client->ack;
    (void)payload;
    if (client->greeted) {
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
    connection_lock(client->connection);
    server_fill(&client->server, ack);
    client->upload_credit = ack->upload_credit_bytes;
    client->greeted = true;
    pthread_cond_broadcast(&client->changed);
    connection_unlock(client->connection);
    return FAS_OK;
}

static enum fas_status head_credit(struct fas_client *client, const struct frame *frame,
                                   const uint8_t *header, void **payload, struct fas_error *error)
{
    uint64_t bytes = 0;
    (void)payload;
    enum fas_status status = wire_decode_credit(header, frame->header_bytes, &bytes, error);
    if (status != FAS_OK) {
        return status;
    }
    connection_lock(client->connection);
    uint64_t sum = client->upload_credit + bytes;
    client->upload_credit = sum < bytes ? UINT64_MAX : sum;
    connection_unlock(client->connection);
    return FAS_OK;
}

static enum fas_status head_ping(struct fas_client *client, const struct frame *frame,
                                 const uint8_t *header, void **payload, struct fas_error *error)
{
    (void)header, (void)payload, (void)error;
    connection_lock(client->connection);
    client->pong_wanted = true;
    client->pong_id = frame->request;
    connection_unlock(client->connection);
    return FAS_OK;
}

/* ---- one row per type a daemon may send ---- */

typedef enum fas_status on_head(struct fas_client *, const struct frame *, const uint8_t *, void **,
                                struct fas_error *);

static on_head *const rows[FRAME_TYPE_COUNT] = {
    [FRAME_HELLO_ACK] = head_hello_ack, [FRAME_RESULT] = head_result,
    [FRAME_DONE] = head_done,           [FRAME_ERROR] = head_error,
    [FRAME_CREDIT] = head_credit,       [FRAME_PING] = head_ping,
    [FRAME_PONG] = head_answer,         [FRAME_STATS_REPLY] = head_answer,
    [FRAME_DRAIN_ACK] = head_answer,    [FRAME_OPENED] = head_opened,
    [FRAME_CLOSED] = head_answer,
};

enum fas_status receiver_on_head(void *context, const struct frame *frame, const uint8_t *header,
                                 void **payload, struct fas_error *error)
{
    struct fas_client *client = context;
    bool first = frame->type == FRAME_HELLO_ACK || frame->type == FRAME_ERROR;
    if (!rows[frame->type]) {
        return violation(error, frame, "frame.type", "unasked");
    }
    if (!client->greeted && !first) {
        return violation(error, frame, "frame.type", "before HELLO_ACK");
    }
    return rows[frame->type](client, frame, header, payload, error);
}

enum fas_status receiver_on_frame(void *context, const struct frame *frame, struct fas_error *error)
{
    struct fas_client *client = context;
    return frame->type == FRAME_RESULT ? frame_result(client, frame, error) : FAS_OK;
}
