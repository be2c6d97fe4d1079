/*
 * sender.c: what is sent next. The connection asks for a batch when the last one is gone, so the
 * choice is made as late as can be: answers and cancels first, then credit, then requests.
 *
 * Requests that fit one chunk ("small") and others ("bulk") wait in two queues which take turns, so
 * that a small request waits behind one chunk and not behind all the bytes of a large one. Within a
 * queue the first goes first: finishing one upload early beats finishing two late.
 *
 * Payloads are sent straight from the caller's memory, except small ones, which are copied beside
 * their frame's head so that a small request leaves as one piece, and tensors with gaps, which are
 * gathered. The daemon's upload credit bounds DATA. All under the client's lock.
 *
 * With several connections all is sent in lane 0, but DATA of bulk in whichever lane has room: the
 * chunks of a tensor are handed out in order and may arrive in any. So that the other lanes do not
 * stand still between two requests until lane 0 is done with its batch, the next REQUEST goes out
 * before the last chunks of the one before it.
 */
#include "client/client.h"
#include "client/strided.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* Copying 16 KiB takes 1 us; another range of a send costs about as much. */
#define COPY_BYTES_MAX (16u << 10)

/* What a cancel may have to wait for; two chunks of the default size keep a fast stream full. */
#define BATCH_BYTES (2u << 20)

#define STAGE_BYTES (FAS_CHUNK_BYTES_MAX + 4 * FAS_HEADER_BYTES_MAX)

void sender_open(struct fas_client *client)
{
    TAILQ_INIT(&client->small);
    TAILQ_INIT(&client->bulk);
    TAILQ_INIT(&client->cancels);
    TAILQ_INIT(&client->questions);
    STAILQ_INIT(&client->releases);
}

bool sender_open_lane(struct lane *lane)
{
    lane->stage_bytes = STAGE_BYTES;
    lane->stage = malloc(lane->stage_bytes); /* touched only as far as it is used */
    return lane->stage != NULL;
}

/* ---- one batch ---- */

struct writer {
    struct fas_client *client;
    struct lane *lane;
    struct batch *batch;
    size_t bytes;
};

/* Room for a frame of any kind with `ranges` ranges beside its head, and `staged` bytes copied. */
static bool writer_has_room(const struct writer *w, int ranges, size_t staged)
{
    size_t most = FRAME_HEAD_BYTES_MAX + FAS_HEADER_BYTES_MAX + staged;
    return w->batch->count + 1 + ranges <= BATCH_RANGES_MAX && w->bytes < BATCH_BYTES &&
           w->lane->stage_bytes - w->lane->stage_used >= most;
}

static void writer_add(struct writer *w, const void *data, size_t bytes)
{
    struct batch *batch = w->batch;
    int last = batch->count - 1;
    if (last >= 0 &&
        (const uint8_t *)batch->ranges[last].data + batch->ranges[last].bytes == data) {
        batch->ranges[last].bytes += bytes;
    } else {
        assert(batch->count < BATCH_RANGES_MAX);
        batch->ranges[batch->count].data = data;
        batch->ranges[batch->count++].bytes = bytes;
    }
    w->bytes += bytes;
}

/* The next bytes of the stage; writer_has_room has been asked. */
static uint8_t *writer_stage(struct writer *w, size_t bytes)
{
    uint8_t *at = w->lane->stage + w->lane->stage_used;
    w->lane->stage_used += bytes;
    writer_add(w, at, bytes);
    return at;
}

/* Where a header may be encoded: behind the room for its frame's head. */
static uint8_t *writer_header(struct writer *w)
{
    return w->lane->stage + w->lane->stage_used +
           frame_prefix_bytes(connection_is_ipc(w->lane->connection)) + FAS_PREAMBLE_BYTES;
}

/* The frame's head, in front of a header that has been encoded at writer_header. */
static void writer_frame(struct writer *w, const struct frame *frame)
{
    bool ipc = connection_is_ipc(w->lane->connection);
    uint8_t *at =
        writer_stage(w, frame_prefix_bytes(ipc) + FAS_PREAMBLE_BYTES + frame->header_bytes);
    uint8_t head[FRAME_HEAD_BYTES_MAX];
    memcpy(at, head, frame_encode(frame, ipc, head));
}

/* Bytes of a call's memory: copied when few, else sent from there. */
static void writer_payload(struct writer *w, struct fas_call *call, const void *data, size_t bytes)
{
    if (bytes == 0) {
        return;
    }
    if (bytes <= COPY_BYTES_MAX) {
        memcpy(writer_stage(w, bytes), data, bytes);
        return;
    }
    writer_add(w, data, bytes);
    w->batch->borrowed = true;
    assert(w->lane->held_count < HELD_MAX);
    w->lane->held[w->lane->held_count++] = call;
    call->held++;
}

/* ---- frames without a call ---- */

static void put_hello(struct writer *w)
{
    struct fas_client *client = w->client;
    memcpy(writer_stage(w, FRAME_SP_HELLO_BYTES), frame_sp_hello, FRAME_SP_HELLO_BYTES);
    struct wire_hello hello = {.version_min = FAS_VERSION_MIN, .version_max = FAS_VERSION_MAX};
    memcpy(hello.client, client->name, sizeof(hello.client));
    size_t token = client->token ? strlen(client->token) : 0;
    assert(token <= FAS_TOKEN_BYTES_MAX);
    hello.token_bytes = (uint32_t)token;
    if (token > 0) {
        memcpy(hello.token, client->token, token);
    }
    hello.wanted.requests_in_flight = client->calls_wanted;
    hello.result_credit_bytes = client->result_window;
    hello.has_join = w->lane->number > 0;
    memcpy(hello.join, client->nonce, sizeof(hello.join));
    struct frame frame = {.type = FRAME_HELLO};
    frame.header_bytes = (uint32_t)wire_encode_hello(&hello, writer_header(w));
    writer_frame(w, &frame);
    w->lane->hello_sent = true;
}

static void put_bare(struct writer *w, enum frame_type type, uint64_t id)
{
    struct frame frame = {.type = type, .request = id};
    writer_frame(w, &frame);
}

static void put_pings(struct writer *w)
{
    struct lane *lane = w->lane;
    if (lane->pong_wanted) {
        put_bare(w, FRAME_PONG, lane->pong_id);
        lane->pong_wanted = false;
    }
    if (lane->ping_wanted) {
        put_bare(w, FRAME_PING, QUESTION_BIT);
        lane->ping_wanted = false;
    }
}

static void put_question(struct writer *w, const struct question *question)
{
    struct frame frame = {.type = question->asks, .request = question->id};
    if (question->open) {
        frame.header_bytes = (uint32_t)wire_encode_open(question->open, writer_header(w));
    } else if (question->place) {
        frame.header_bytes = (uint32_t)wire_encode_close(question->place, writer_header(w));
    }
    writer_frame(w, &frame);
}

static void put_questions(struct writer *w)
{
    struct question *question;
    TAILQ_FOREACH(question, &w->client->questions, link)
    {
        if (!question->sent && writer_has_room(w, 0, 0)) {
            put_question(w, question);
            question->sent = true;
        }
    }
}

static void put_releases(struct writer *w)
{
    struct release *release;
    while ((release = STAILQ_FIRST(&w->client->releases)) && writer_has_room(w, 0, 0)) {
        struct frame frame = {.type = FRAME_RELEASE};
        if (release->place) { /* nobody waits for CLOSED */
            frame = (struct frame){.type = FRAME_CLOSE, .request = QUESTION_BIT};
            frame.header_bytes = (uint32_t)wire_encode_close(release->place, writer_header(w));
        } else {
            frame.header_bytes = (uint32_t)wire_encode_release(release->handle, writer_header(w));
        }
        writer_frame(w, &frame);
        STAILQ_REMOVE_HEAD(&w->client->releases, link);
        free(release);
    }
}

static void put_cancels(struct writer *w)
{
    struct fas_call *call;
    while ((call = TAILQ_FIRST(&w->client->cancels)) && writer_has_room(w, 0, 0)) {
        put_bare(w, FRAME_CANCEL, call->id);
        TAILQ_REMOVE(&w->client->cancels, call, cancel_link);
        call->cancelling = false;
    }
}

/* Credit is given back in quarters of the window: few frames, and the daemon never runs dry. */
static void put_credit(struct writer *w)
{
    struct lane *lane = w->lane;
    if (lane->credit_owed < w->client->result_window / 4 || !writer_has_room(w, 0, 0)) {
        return;
    }
    struct frame frame = {.type = FRAME_CREDIT};
    frame.header_bytes = (uint32_t)wire_encode_credit(lane->credit_owed, writer_header(w));
    writer_frame(w, &frame);
    lane->credit_owed = 0;
}

/* ---- frames of calls ---- */

/* More than a chunk. */
static bool is_bulk(const struct fas_call *call)
{
    uint64_t bytes = 0;
    for (uint32_t left = call->inputs; left; left &= left - 1) {
        bytes += fas_tensor_bytes(&call->request.dims, (enum fas_tensor)__builtin_ctz(left));
    }
    return bytes > call->client->server.chunk_bytes;
}

static bool put_request(struct writer *w, struct fas_call *call)
{
    if (!writer_has_room(w, 4, 4 * (size_t)COPY_BYTES_MAX)) {
        return false;
    }
    struct fas_client *client = w->client;
    const struct fas_request *request = &call->request;
    call_number(call);
    struct frame frame = {.type = FRAME_REQUEST, .request = call->id};
    frame.header_bytes = (uint32_t)wire_encode_request(&call->wire, writer_header(w));
    frame.payload_bytes = wire_lengths_bytes(&call->wire);
    writer_frame(w, &frame);
    size_t used = 4 * (size_t)request->batch, cu = used + 4;
    writer_payload(w, call, request->q.cu_seqlens, request->q.cu_seqlens ? cu : 0);
    writer_payload(w, call, request->k.cu_seqlens, request->k.cu_seqlens ? cu : 0);
    writer_payload(w, call, request->q.seqused, request->q.seqused ? used : 0);
    writer_payload(w, call, request->k.seqused, request->k.seqused ? used : 0);
    call->announced = true;
    client->share_wanted |= client->lane_count > 1 && is_bulk(call);
    return true;
}

static bool put_data(struct writer *w, struct fas_call *call)
{
    struct fas_client *client = w->client;
    const struct fas_dims *dims = &call->request.dims;
    uint32_t chunk_bytes = client->server.chunk_bytes;
    enum fas_tensor tensor = (enum fas_tensor)__builtin_ctz(call->tensors_left);
    uint64_t all = fas_tensor_bytes(dims, tensor);
    uint64_t offset = (uint64_t)call->chunk * chunk_bytes;
    size_t bytes = all - offset < chunk_bytes ? (size_t)(all - offset) : chunk_bytes;
    if (bytes > w->lane->upload_credit || !writer_has_room(w, 2, bytes)) {
        return false;
    }
    struct frame frame = {.type = FRAME_DATA,
                          .flags = (uint16_t)tensor,
                          .chunk = call->chunk,
                          .request = call->id,
                          .payload_bytes = bytes};
    writer_frame(w, &frame);
    struct strided s = strided_of(dims, tensor, &call->request.tensors[tensor]);
    if (s.packed) {
        writer_payload(w, call, s.data + offset, bytes);
    } else {
        strided_gather(&s, offset, bytes, writer_stage(w, bytes));
    }
    w->lane->upload_credit -= bytes;
    call->chunk++;
    if (offset + bytes == all) {
        call->tensors_left &= call->tensors_left - 1;
        call->chunk = 0;
    }
    return true;
}

static bool put_next_of(struct writer *w, struct fas_call *call)
{
    bool put = call->announced ? put_data(w, call) : put_request(w, call);
    if (put && call->tensors_left == 0) {
        sender_remove(call);
    }
    return put;
}

/* Bytes of its inputs that are not handed out. */
static uint64_t bytes_left(const struct fas_call *call)
{
    uint64_t bytes = 0;
    for (uint32_t left = call->tensors_left; left; left &= left - 1) {
        bytes += fas_tensor_bytes(&call->request.dims, (enum fas_tensor)__builtin_ctz(left));
    }
    return bytes - (uint64_t)call->chunk * call->client->server.chunk_bytes;
}

/* The REQUEST of the bulk behind this one, when all lanes are through with this one before lane 0
 * may have composed two more batches. Not earlier: the daemon waits for DATA of what it has
 * admitted for its progress-timeout only. */
static void announce_next(struct writer *w, const struct fas_call *call)
{
    struct fas_call *next = TAILQ_NEXT(call, send_link);
    uint64_t soon = UINT64_C(2) * w->client->lane_count * BATCH_BYTES;
    if (w->client->lane_count > 1 && call->announced && next && !next->announced &&
        bytes_left(call) <= soon) {
        put_request(w, next);
    }
}

/* The two queues take turns; false: neither has anything that may go now. */
static bool put_call(struct writer *w)
{
    struct fas_client *client = w->client;
    struct fas_call *small = TAILQ_FIRST(&client->small), *bulk = TAILQ_FIRST(&client->bulk);
    if (small && (!bulk || !client->small_went_last)) {
        client->small_went_last = true;
        if (put_next_of(w, small)) {
            return true;
        }
    }
    client->small_went_last = false;
    if (bulk) {
        announce_next(w, bulk);
    }
    return bulk && put_next_of(w, bulk);
}

/* Other lanes than the first: DATA of the bulk that was announced. */
static bool put_share(struct writer *w)
{
    struct fas_call *call = TAILQ_FIRST(&w->client->bulk);
    while (call && !call->announced) {
        call = TAILQ_NEXT(call, send_link);
    }
    return call && put_next_of(w, call);
}

bool sender_next_batch(void *context, struct batch *batch)
{
    struct lane *lane = context;
    struct writer w = {.client = lane->client, .lane = lane, .batch = batch};
    lane->stage_used = 0;
    if (!lane->hello_sent) {
        put_hello(&w);
        return true;
    }
    put_pings(&w);
    if (lane->number == 0) {
        put_cancels(&w);
        put_questions(&w);
        put_releases(&w);
    }
    put_credit(&w);
    while (lane->number == 0 ? put_call(&w) : lane->greeted && put_share(&w)) {
    }
    return batch->count > 0;
}

bool sender_batch_sent(void *context, bool in_passing)
{
    struct lane *lane = context;
    struct fas_client *client = lane->client;
    connection_lock(client->connection);
    for (uint32_t i = 0; i < lane->held_count; i++) {
        call_unhold(lane->held[i]);
    }
    lane->held_count = 0;
    bool share = lane->number == 0 && client->share_wanted;
    bool ends = !TAILQ_EMPTY(&client->ending);
    connection_unlock(client->connection);
    if (ends && !in_passing) {
        call_tell(client);
    }
    if (share) {
        sender_share(client);
    }
    return ends;
}

void sender_share(struct fas_client *client)
{
    connection_lock(client->connection);
    bool share = client->share_wanted;
    client->share_wanted = false;
    connection_unlock(client->connection);
    for (uint32_t i = 1; share && i < client->lane_count; i++) {
        connection_push(client->lanes[i].connection);
    }
}

/* ---- queues ---- */

static struct call_queue *queue_of(struct fas_call *call)
{
    return is_bulk(call) ? &call->client->bulk : &call->client->small;
}

void sender_add(struct fas_call *call)
{
    TAILQ_INSERT_TAIL(queue_of(call), call, send_link);
    call->sending = true;
}

void sender_remove(struct fas_call *call)
{
    if (call->sending) {
        TAILQ_REMOVE(queue_of(call), call, send_link);
        call->sending = false;
    }
}
