/*
 * call.c: the life of a call, from fas_submit to fas_call_close. See client.h for its states.
 */
#include "client/client.h"
#include "client/strided.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- what the library checks itself: that no number leads outside the caller's memory ---- */

static enum fas_status check_between(int64_t value, int64_t min, int64_t max, const char *field,
                                     struct fas_error *error)
{
    if (value >= min && value <= max) {
        return FAS_OK;
    }
    return fas_fail(error, FAS_INVALID_ARGUMENT, field, "%lld is not within %lld .. %lld",
                    (long long)value, (long long)min, (long long)max);
}

static enum fas_status check_dims(const struct fas_request *request, struct fas_error *error)
{
    const struct fas_dims *dims = &request->dims;
    const struct {
        int64_t value, min, max;
        const char *field;
    } rows[] = {
        {request->pass, FAS_FORWARD, FAS_BACKWARD, "pass"},
        {dims->dtype, 0, FAS_DTYPE_COUNT - 1, "dtype"},
        {dims->hq, 1, FAS_HEADS_MAX, "hq"},
        {dims->hkv, 1, FAS_HEADS_MAX, "hkv"},
        {dims->d, FAS_HEAD_DIM_MIN, FAS_HEAD_DIM_MAX, "d"},
        {dims->dv, FAS_HEAD_DIM_MIN, FAS_HEAD_DIM_MAX, "dv"},
        {dims->total_q, 0, FAS_ROWS_MAX, "q.total"},
        {dims->total_k, 0, FAS_ROWS_MAX, "k.total"},
        {request->batch, 0, FAS_SEQUENCES_MAX, "batch"},
        {request->priority, FAS_PRIORITY_NORMAL, FAS_PRIORITY_LOW, "priority"},
    };
    enum fas_status status = FAS_OK;
    for (size_t i = 0; status == FAS_OK && i < sizeof(rows) / sizeof(rows[0]); i++) {
        status = check_between(rows[i].value, rows[i].min, rows[i].max, rows[i].field, error);
    }
    return status;
}

/* Every tensor the request names has memory, and strides that keep elements apart and aligned. */
static enum fas_status check_buffers(const struct fas_call *call, struct fas_error *error)
{
    const struct fas_dims *dims = &call->request.dims;
    for (uint32_t left = call->inputs | call->outputs; left; left &= left - 1) {
        enum fas_tensor tensor = (enum fas_tensor)__builtin_ctz(left);
        const struct fas_buffer *buffer = &call->request.tensors[tensor];
        const struct fas_tensor_row *row = fas_tensor_row(tensor);
        bool fp32 = row->statistics || row->side == FAS_SIDE_NONE;
        int64_t align = fp32 ? 4 : fas_dtype_bytes(dims->dtype);
        if (!buffer->data && fas_tensor_bytes(dims, tensor) > 0) {
            return fas_fail(error, FAS_INVALID_ARGUMENT, row->name, "has no memory");
        }
        if (buffer->row_stride % align != 0 || buffer->head_stride % align != 0) {
            return fas_fail(error, FAS_INVALID_ARGUMENT, row->name,
                            "strides %lld and %lld are not multiples of %lld",
                            (long long)buffer->row_stride, (long long)buffer->head_stride,
                            (long long)align);
        }
    }
    return FAS_OK;
}

static enum fas_status check_reserved(const struct fas_request *request, struct fas_error *error)
{
    for (size_t i = 0; i < sizeof(request->reserved) / sizeof(request->reserved[0]); i++) {
        if (request->reserved[i] != 0) {
            return fas_fail(error, FAS_INVALID_ARGUMENT, "reserved", "is not zero");
        }
    }
    return FAS_OK;
}

/* ---- from the caller's words to the wire's ---- */

static struct wire_side wire_side_of(const struct fas_lengths *lengths)
{
    return (struct wire_side){.has_cu_seqlens = lengths->cu_seqlens != NULL,
                              .has_seqused = lengths->seqused != NULL,
                              .max_len = lengths->max_len};
}

static struct wire_request wire_of(const struct fas_request *request)
{
    const struct fas_buffer *tensors = request->tensors;
    bool backward = request->pass == FAS_BACKWARD;
    return (struct wire_request){
        .pass = request->pass,
        .dims = request->dims,
        .batch = request->batch,
        .q = wire_side_of(&request->q),
        .k = wire_side_of(&request->k),
        .mask = {request->mask.has_left, request->mask.has_right, request->mask.left,
                 request->mask.right},
        .has_softmax_scale = request->softmax_scale != 0.0f,
        .softmax_scale = request->softmax_scale,
        .softcap = request->softcap,
        .has_sink = tensors[FAS_SINK].data != NULL,
        .has_dlse = backward && tensors[FAS_DLSE].data != NULL,
        .has_delta = backward && tensors[FAS_DELTA].data != NULL,
        .deterministic = request->deterministic,
        .no_lse = !backward && !tensors[FAS_LSE].data,
        .deadline_us = request->deadline_us,
        .priority = request->priority,
        .retain = request->retain,
        .handle = request->handle,
    };
}

static uint32_t tensors_with_bytes(const struct fas_dims *dims, uint32_t tensors)
{
    uint32_t with = 0;
    for (uint32_t left = tensors; left; left &= left - 1) {
        uint32_t bit = left & -left;
        with |= fas_tensor_bytes(dims, (enum fas_tensor)__builtin_ctz(bit)) > 0 ? bit : 0;
    }
    return with;
}

static enum fas_status call_fill(struct fas_call *call, const struct fas_request *request,
                                 struct fas_error *error)
{
    enum fas_status status = check_dims(request, error);
    if (status == FAS_OK) {
        status = check_reserved(request, error);
    }
    if (status != FAS_OK) {
        return status;
    }
    call->request = *request;
    call->wire = wire_of(request);
    call->inputs = wire_request_inputs(&call->wire);
    call->outputs = wire_request_outputs(&call->wire);
    enum fas_status usable = check_buffers(call, error);
    if (usable != FAS_OK) {
        return usable;
    }
    status = event_locate(call, error);
    if (status != FAS_OK) {
        return status;
    }
    place_locate(call);
    call->tensors_left = tensors_with_bytes(&request->dims, call->inputs);
    for (int tensor = 0; tensor < FAS_TENSOR_COUNT; tensor++) {
        bool wanted = call->outputs & (1u << tensor);
        call->rows_left[tensor] =
            wanted ? fas_tensor_rows(&request->dims, (enum fas_tensor)tensor) : 0;
    }
    return FAS_OK;
}

/* ---- slots ---- */

enum fas_status call_open_all(struct fas_client *client)
{
    client->calls = calloc(client->call_count, sizeof(*client->calls));
    if (!client->calls) {
        return FAS_RESOURCE_EXHAUSTED;
    }
    for (uint32_t i = 0; i < client->call_count; i++) {
        struct fas_call *call = &client->calls[i];
        call->client = client;
        call->id = i + 1;
        client_cond_init(&call->ended);
        TAILQ_INSERT_TAIL(&client->free, call, end_link);
    }
    return FAS_OK;
}

void call_free_all(struct fas_client *client)
{
    for (uint32_t i = 0; client->calls && i < client->call_count; i++) {
        pthread_cond_destroy(&client->calls[i].ended);
    }
    free(client->calls);
}

static struct fas_call *call_take_slot(struct fas_client *client, struct fas_error *error)
{
    struct fas_call *call = TAILQ_FIRST(&client->free);
    if (client->lost) {
        if (error) {
            *error = client->failure;
        }
        return NULL;
    }
    if (client->closing) {
        fas_fail(error, FAS_CANCELLED, "", "the connection is being closed here");
        return NULL;
    }
    if (!call) {
        fas_fail(error, FAS_RESOURCE_EXHAUSTED, "calls_max", "no call of %u is free",
                 client->call_count);
        return NULL;
    }
    TAILQ_REMOVE(&client->free, call, end_link);
    return call;
}

/* Back to the free ones. The next use has another id. Under the lock. */
static void call_give_slot(struct fas_call *call)
{
    call->state = CALL_FREE;
    TAILQ_INSERT_HEAD(&call->client->free, call, end_link);
}

/* 2^47 REQUESTs are enough: four years at a million a second. */
void call_number(struct fas_call *call)
{
    uint64_t slot = (uint64_t)(call - call->client->calls) + 1;
    call->id = ++call->client->announced << 16 | slot;
}

struct fas_call *call_find(struct fas_client *client, uint64_t id)
{
    uint64_t slot = (id & 0xffff) - 1;
    if (!client->calls || slot >= client->call_count) {
        return NULL;
    }
    struct fas_call *call = &client->calls[slot];
    return call->id == id && call->state == CALL_OPEN && call->announced ? call : NULL;
}

bool call_lends(const struct fas_call *call)
{
    return call->state == CALL_OPEN &&
           (call->placed || call->wire.wait_event || call->wire.done_event);
}

/* ---- to the end ---- */

static void call_end_if_idle(struct fas_call *call)
{
    if (call->state == CALL_ANSWERED && call->held == 0 && call->receiving == 0) {
        call->state = CALL_ENDING;
        stream_release(call->client, call->follow);
        TAILQ_INSERT_TAIL(&call->client->ending, call, end_link);
    }
}

void call_answer(struct fas_call *call, const struct fas_error *error)
{
    if (error) {
        call->report.error = *error;
    }
    call->report.client_us = (now_ns() - call->submitted_ns) / 1000;
    sender_remove(call);
    if (call->cancelling) {
        TAILQ_REMOVE(&call->client->cancels, call, cancel_link);
        call->cancelling = false;
    }
    call->state = CALL_ANSWERED;
    call_end_if_idle(call);
}

void call_unhold(struct fas_call *call)
{
    call->held--;
    call_end_if_idle(call);
}

void call_received(struct fas_call *call)
{
    call->receiving--;
    call_end_if_idle(call);
}

void call_lose_all(struct fas_client *client, const struct fas_error *error)
{
    for (uint32_t i = 0; client->calls && i < client->call_count; i++) {
        struct fas_call *call = &client->calls[i];
        call->receiving = 0; /* what was cut off in the middle does not go on */
        if (call->state == CALL_OPEN) {
            call_answer(call, error);
        } else {
            call_end_if_idle(call);
        }
    }
}

/* Nobody may be waiting for what comes of it in fas_wait. */
static bool is_eager(const struct fas_request *request)
{
    return request->on_end || request->on_progress || request->queue || request->stream;
}

/* Of calls in flight. Under the lock, which may be given up meanwhile. */
static void count_eager(struct fas_client *client, const struct fas_request *request, int change)
{
    if (is_eager(request)) {
        client->calls_eager += change;
        connection_set_eager(client->connection, client->calls_eager > 0);
    }
}

/* on_end has returned: the call is the caller's. Under the lock. */
static void call_ended(struct fas_call *call)
{
    struct fas_client *client = call->client;
    count_eager(client, &call->request, -1);
    if (call->closed_in_callback) {
        call_give_slot(call);
        return;
    }
    call->state = CALL_ENDED;
    pthread_cond_broadcast(&call->ended);
    connection_nudge(client->connection); /* its waiter may be receiving, not asleep */
    if (call->request.queue) {
        bool was_empty = TAILQ_EMPTY(&client->finished);
        TAILQ_INSERT_TAIL(&client->finished, call, end_link);
        uint64_t one = 1;
        if (was_empty && write(client->event, &one, sizeof(one)) < 0) {
            /* An eventfd that was zero takes one; there is nothing to do if not. */
        }
    }
}

/* Under the lock, which is given up meanwhile. */
static void tell(struct fas_call *call)
{
    struct fas_client *client = call->client;
    TAILQ_REMOVE(&client->ending, call, end_link);
    if (call->request.on_end) {
        call->in_on_end = true;
        call->teller = pthread_self();
        connection_unlock(client->connection);
        call->request.on_end(call, &call->report, call->request.context);
        connection_lock(client->connection);
        call->in_on_end = false;
    }
    call_ended(call);
}

void call_tell(struct fas_client *client)
{
    struct fas_call *call;
    connection_lock(client->connection);
    while ((call = TAILQ_FIRST(&client->ending))) {
        tell(call);
    }
    connection_unlock(client->connection);
}

/* ---- the caller's side ---- */

/* What the daemon has to know before the call: memory, events, and what is before it on its stream.
 */
static enum fas_status prepare(struct fas_client *client, const struct fas_request *request,
                               struct follow **follow, struct fas_error *error)
{
    enum fas_status status = place_share(client, request, error);
    if (status == FAS_OK) {
        status = event_share(client, request, error);
    }
    return status == FAS_OK ? stream_begin(client, request, follow, error) : status;
}

/* A filled call, or NULL. Under the lock. */
static struct fas_call *call_begin(struct fas_client *client, const struct fas_request *request,
                                   struct follow *follow, struct fas_error *error)
{
    struct fas_call *call = call_take_slot(client, error);
    if (!call) {
        return NULL;
    }
    if (call_fill(call, request, error) != FAS_OK) {
        call_give_slot(call);
        return NULL;
    }
    stream_place(call, follow);
    call->state = CALL_OPEN;
    call->announced = call->closed_in_callback = false;
    call->chunk = 0;
    call->done = call->telling = call->enqueued = false;
    call->results = call->beyond = 0;
    call->complete = call->told = 0;
    memset(&call->report, 0, sizeof(call->report));
    call->submitted_ns = now_ns();
    return call;
}

enum fas_status fas_submit(struct fas_client *client, const struct fas_request *request,
                           struct fas_call **call_out, struct fas_error *error)
{
    struct follow *follow = NULL;
    struct fas_error failure = {0};
    if (!call_out && !request->on_end && !request->queue) {
        return fas_fail(error, FAS_INVALID_ARGUMENT, "call", "nobody would learn of its end");
    }
    enum fas_status status = prepare(client, request, &follow, error);
    if (status != FAS_OK) {
        return status;
    }
    connection_lock(client->connection);
    count_eager(client, request, 1);
    struct fas_call *call = call_begin(client, request, follow, &failure);
    if (call) {
        if (call_out) {
            *call_out = call;
        }
        sender_add(call);
    } else {
        count_eager(client, request, -1);
        stream_release(client, follow);
    }
    connection_unlock(client->connection);
    if (!call) {
        status = failure.status;
        assert(status != FAS_OK);
        if (error) {
            *error = failure;
        }
        return status;
    }
    connection_push(client->connection);
    if (client->lane_count > 1) {
        sender_share(client);
    }
    return FAS_OK;
}

static bool call_has_ended(const void *context)
{
    const struct fas_call *call = context;
    return call->state == CALL_ENDED;
}

bool fas_wait(struct fas_call *call, int64_t timeout_ms)
{
    struct connection *connection = call->client->connection;
    struct waiter waiter = {.woken = &call->ended, .done = call_has_ended, .context = call};
    uint64_t until_ns = timeout_ms < 0 ? 0 : ns_in_ms((uint64_t)timeout_ms);
    connection_lock(connection);
    bool ended = connection_wait(connection, &waiter, until_ns);
    connection_unlock(connection);
    return ended;
}

static bool call_is_enqueued(const void *context)
{
    const struct fas_call *call = context;
    return call->enqueued || call->state == CALL_ENDED;
}

bool fas_enqueued(struct fas_call *call, int64_t timeout_ms)
{
    struct connection *connection = call->client->connection;
    struct waiter waiter = {.woken = &call->ended, .done = call_is_enqueued, .context = call};
    uint64_t until_ns = timeout_ms < 0 ? 0 : ns_in_ms((uint64_t)timeout_ms);
    connection_lock(connection);
    connection_wait(connection, &waiter, until_ns);
    bool enqueued = call->enqueued;
    connection_unlock(connection);
    return enqueued;
}

/* In its own on_end a call is the caller's already. Under the lock. */
static bool in_own_on_end(const struct fas_call *call)
{
    return call->in_on_end && pthread_equal(call->teller, pthread_self());
}

const struct fas_report *fas_call_report(struct fas_call *call)
{
    connection_lock(call->client->connection);
    bool ended = call->state == CALL_ENDED || in_own_on_end(call);
    connection_unlock(call->client->connection);
    return ended ? &call->report : NULL;
}

void *fas_call_context(const struct fas_call *call)
{
    return call->request.context;
}

/* Under the lock; true when it ended here and now. */
static bool call_cancel(struct fas_call *call)
{
    if (call->state != CALL_OPEN || call->cancelling) {
        return false;
    }
    if (!call->announced) { /* the daemon has never heard of it */
        struct fas_error error;
        fas_fail(&error, FAS_CANCELLED, "", "cancelled before it was sent");
        call_answer(call, &error);
        return true;
    }
    sender_remove(call);
    call->cancelling = true;
    TAILQ_INSERT_TAIL(&call->client->cancels, call, cancel_link);
    return false;
}

void fas_cancel(struct fas_call *call)
{
    struct fas_client *client = call->client;
    connection_lock(client->connection);
    bool ended = call_cancel(call);
    if (ended) { /* this one only: callbacks of others are the library's threads' */
        tell(call);
    }
    connection_unlock(client->connection);
    if (!ended) {
        connection_push(client->connection);
    }
}

void fas_call_close(struct fas_call *call)
{
    if (!call) {
        return;
    }
    struct fas_client *client = call->client;
    connection_lock(client->connection);
    if (in_own_on_end(call)) {
        call->closed_in_callback = true;
        connection_unlock(client->connection);
        return;
    }
    bool open = call->state == CALL_OPEN;
    connection_unlock(client->connection);
    if (open) {
        fas_cancel(call);
    }
    fas_wait(call, -1);
    connection_lock(client->connection);
    if (call->request.queue) { /* closed without fas_take */
        TAILQ_REMOVE(&client->finished, call, end_link);
    }
    call_give_slot(call);
    connection_unlock(client->connection);
}

enum fas_status fas_run(struct fas_client *client, const struct fas_request *request,
                        struct fas_report *report)
{
    struct fas_call *call = NULL;
    struct fas_error error = {0};
    struct fas_request quiet = *request;
    quiet.on_end = NULL;
    quiet.queue = false;
    enum fas_status status = fas_submit(client, &quiet, &call, &error);
    if (status != FAS_OK) {
        if (report) {
            memset(report, 0, sizeof(*report));
            report->error = error;
        }
        return status;
    }
    fas_wait(call, -1);
    status = call->report.error.status;
    if (report) {
        *report = call->report;
    }
    fas_call_close(call);
    return status;
}

int fas_fd(const struct fas_client *client)
{
    return client->event;
}

struct fas_call *fas_take(struct fas_client *client)
{
    connection_lock(client->connection);
    struct fas_call *call = TAILQ_FIRST(&client->finished);
    if (call) {
        TAILQ_REMOVE(&client->finished, call, end_link);
        call->request.queue = false;
    }
    uint64_t count;
    if (TAILQ_EMPTY(&client->finished) && read(client->event, &count, sizeof(count)) < 0) {
        /* It was zero: nothing was queued. */
    }
    connection_unlock(client->connection);
    return call;
}
