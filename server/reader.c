/*
 * reader.c: a state machine over the buffer, one function per phase. It stops in front of what it
 * may not do yet, and does exactly that first when it goes on.
 */
#include "server/reader.h"

#include <assert.h>
#include <string.h>

/* What a phase did with the bytes at hand. */
enum progress { GO_ON, NEED_BYTES, STAND_STILL, GIVE_UP };

static uint32_t available(const struct reader *reader)
{
    return reader->end - reader->begin;
}

static enum progress fail(struct reader *reader, const char *field, const char *text)
{
    pthread_mutex_lock(&reader->lock);
    fas_fail(&reader->error, FAS_INVALID_ARGUMENT, field, "%s", text);
    pthread_mutex_unlock(&reader->lock);
    return GIVE_UP;
}

static enum progress read_sp_hello(struct reader *reader)
{
    if (available(reader) < FRAME_SP_HELLO_BYTES) {
        return NEED_BYTES;
    }
    if (memcmp(reader->buffer + reader->begin, frame_sp_hello, FRAME_SP_HELLO_BYTES) != 0) {
        return fail(reader, "hello", "not the SP hello of a PAIR0 peer");
    }
    reader->begin += FRAME_SP_HELLO_BYTES;
    reader->phase = READER_HEAD;
    return GO_ON;
}

static enum progress read_head(struct reader *reader)
{
    uint32_t bytes = (uint32_t)frame_prefix_bytes(reader->ipc) + FAS_PREAMBLE_BYTES;
    if (available(reader) < bytes) {
        return NEED_BYTES;
    }
    struct fas_error error;
    if (frame_decode(reader->buffer + reader->begin, reader->ipc, FRAME_CLIENT, &reader->frame,
                     &error) != FAS_OK) {
        pthread_mutex_lock(&reader->lock);
        reader->error = error;
        pthread_mutex_unlock(&reader->lock);
        return GIVE_UP;
    }
    if ((reader->frame.type == FRAME_HELLO) == reader->hello_seen) {
        return fail(reader, "frame.type", reader->hello_seen ? "a second HELLO" : "before HELLO");
    }
    reader->begin += bytes;
    reader->header_bytes = 0;
    reader->phase = READER_HEADER;
    return GO_ON;
}

static enum progress read_header(struct reader *reader)
{
    uint32_t missing = reader->frame.header_bytes - reader->header_bytes;
    uint32_t bytes = missing < available(reader) ? missing : available(reader);
    memcpy(reader->header + reader->header_bytes, reader->buffer + reader->begin, bytes);
    reader->begin += bytes;
    reader->header_bytes += bytes;
    if (bytes < missing) {
        return NEED_BYTES;
    }
    reader->phase = READER_BODY;
    return GO_ON;
}

/* Where DATA of the leader's requests goes. It may be ahead of its REQUEST, or late: ids grow. An
 * end of the request (reader_finish) comes before this or sees where it lands (reader_lands), as
 * the own lock is held until that is written down. */
static enum route_answer route_joined(struct reader *reader, const char **text)
{
    struct reader *leader = reader->leader;
    pthread_mutex_lock(&leader->lock);
    enum route_answer answer =
        route_data(&leader->routes, &reader->frame, reader->owner, &reader->place, text);
    if (answer == ROUTE_UNKNOWN) {
        answer = reader->frame.request > leader->newest ? ROUTE_WAIT : ROUTE_DROP;
    }
    pthread_mutex_unlock(&leader->lock);
    reader->awaited = answer == ROUTE_WAIT ? reader->frame.request : 0;
    return answer == ROUTE_WAIT ? ROUTE_STARVED : answer;
}

static enum route_answer route(struct reader *reader, const char **text)
{
    return reader->leader != reader
               ? route_joined(reader, text)
               : route_data(&reader->routes, &reader->frame, reader->owner, &reader->place, text);
}

/* DATA: the route says where. Called with the lock held. */
static enum progress route_payload(struct reader *reader)
{
    struct inbox_record *record = &reader->record;
    switch (route(reader, &record->text)) {
    case ROUTE_LAND:
        record->kind = INBOX_LANDED;
        record->landed = reader->place;
        reader->landing = reader->frame.request;
        break;
    case ROUTE_STARVED:
        reader->starved = true;
        return STAND_STILL;
    case ROUTE_WAIT:
        return STAND_STILL;
    case ROUTE_DROP:
        record->kind = INBOX_DROPPED;
        break;
    case ROUTE_REFUSE:
        record->kind = INBOX_REFUSED;
        break;
    case ROUTE_UNKNOWN:
        fas_fail(&reader->error, FAS_INVALID_ARGUMENT, "frame.request",
                 "DATA for request %llu, which was never opened",
                 (unsigned long long)reader->frame.request);
        return GIVE_UP;
    }
    if (reader->frame.payload_bytes > reader->credit) {
        fas_fail(&reader->error, FAS_INVALID_ARGUMENT, "credit", "DATA beyond the credit given");
        return GIVE_UP;
    }
    reader->credit -= reader->frame.payload_bytes;
    return GO_ON;
}

/* REQUEST: its length arrays go to the one buffer for them. Called with the lock held. */
static enum progress begin_request(struct reader *reader)
{
    if (reader->lengths_busy) {
        return STAND_STILL;
    }
    if (reader->joined && reader->frame.request <= reader->newest) {
        fas_fail(&reader->error, FAS_INVALID_ARGUMENT, "frame.request",
                 "id %llu after %llu: where connections are joined they grow",
                 (unsigned long long)reader->frame.request, (unsigned long long)reader->newest);
        return GIVE_UP;
    }
    if (!route_begin(&reader->routes, reader->frame.request)) {
        fas_fail(&reader->error, FAS_INVALID_ARGUMENT, "frame.request", "id %llu is in use",
                 (unsigned long long)reader->frame.request);
        return GIVE_UP;
    }
    reader->newest =
        reader->frame.request > reader->newest ? reader->frame.request : reader->newest;
    reader->lengths_busy = true;
    reader->place = reader->lengths;
    return GO_ON;
}

/* What a connection that joined another may carry. */
static bool may_carry(enum frame_type type)
{
    return type == FRAME_DATA || type == FRAME_CREDIT || type == FRAME_PING || type == FRAME_PONG;
}

/* The header is complete: decide where the payload goes, once there is room to tell the loop. */
static enum progress begin_payload(struct reader *reader)
{
    enum progress progress = GO_ON;
    pthread_mutex_lock(&reader->lock);
    reader->record = (struct inbox_record){.kind = INBOX_FRAME, .frame = reader->frame};
    reader->place = NULL;
    if (!inbox_room(&reader->inbox, reader->frame.header_bytes) ||
        (reader->hello_seen && !reader->greeted)) {
        progress = STAND_STILL;
    } else if (reader->leader != reader && !may_carry(reader->frame.type)) {
        fas_fail(&reader->error, FAS_INVALID_ARGUMENT, "frame.type",
                 "%s on a connection that joined another", frame_type_name(reader->frame.type));
        progress = GIVE_UP;
    } else if (reader->frame.type == FRAME_DATA) {
        progress = route_payload(reader);
    } else if (reader->frame.type == FRAME_REQUEST) {
        progress = begin_request(reader);
    }
    reader->paused = progress == STAND_STILL;
    pthread_mutex_unlock(&reader->lock);
    if (progress == GO_ON) {
        reader->payload_left = reader->frame.payload_bytes;
        reader->phase = READER_PAYLOAD;
    }
    return progress;
}

static void take_payload(struct reader *reader, uint64_t bytes)
{
    if (reader->place) {
        reader->place += bytes;
    }
    reader->payload_left -= bytes;
}

static enum progress read_payload(struct reader *reader)
{
    uint64_t bytes = available(reader);
    if (bytes > reader->payload_left) {
        bytes = reader->payload_left;
    }
    if (reader->place) {
        memcpy(reader->place, reader->buffer + reader->begin, bytes);
    }
    reader->begin += (uint32_t)bytes;
    take_payload(reader, bytes);
    if (reader->payload_left > 0) {
        return NEED_BYTES;
    }
    pthread_mutex_lock(&reader->lock);
    inbox_push(&reader->inbox, &reader->record, reader->header);
    reader->landing = 0;
    reader->hello_seen = true;
    pthread_mutex_unlock(&reader->lock);
    reader->phase = READER_HEAD;
    return GO_ON;
}

enum reader_step reader_advance(struct reader *reader)
{
    static enum progress (*const phases[])(struct reader *) = {
        [READER_HELLO] = read_sp_hello,  [READER_HEAD] = read_head,
        [READER_HEADER] = read_header,   [READER_BODY] = begin_payload,
        [READER_PAYLOAD] = read_payload,
    };
    enum progress progress;
    do {
        progress = phases[reader->phase](reader);
    } while (progress == GO_ON);
    switch (progress) {
    case STAND_STILL:
        return READER_PAUSED;
    case GIVE_UP:
        return READER_FAILED;
    default:
        return READER_RECEIVE;
    }
}

unsigned reader_targets(struct reader *reader, struct iovec targets[2])
{
    /* What is left is at most a piece of a head: it moves to the front. */
    memmove(reader->buffer, reader->buffer + reader->begin, available(reader));
    reader->end -= reader->begin;
    reader->begin = 0;
    unsigned count = 0;
    size_t room = READER_BUFFER_BYTES - reader->end;
    if (reader->phase == READER_PAYLOAD && reader->place) {
        bool bulk = reader->frame.payload_bytes >= READER_BUFFER_BYTES;
        targets[count++] = (struct iovec){reader->place, reader->payload_left};
        room = bulk ? READER_BEHIND_BULK_BYTES : room;
    } else if (reader->phase != READER_PAYLOAD && reader->end == 0) {
        room = READER_FIRST_BYTES;
    }
    targets[count++] = (struct iovec){reader->buffer + reader->end, room};
    return count;
}

void reader_received(struct reader *reader, size_t bytes)
{
    if (reader->phase == READER_PAYLOAD && reader->place) {
        size_t placed = bytes < reader->payload_left ? bytes : reader->payload_left;
        take_payload(reader, placed);
        bytes -= placed;
    }
    reader->end += (uint32_t)bytes;
    assert(reader->end <= READER_BUFFER_BYTES);
}

bool reader_has_news(struct reader *reader)
{
    pthread_mutex_lock(&reader->lock);
    bool news = reader->inbox.filled_bytes > 0;
    pthread_mutex_unlock(&reader->lock);
    return news;
}

bool reader_between_messages(const struct reader *reader)
{
    return reader->phase == READER_HEAD && available(reader) == 0;
}

uint64_t reader_payload_left(const struct reader *reader)
{
    return reader->phase == READER_PAYLOAD ? reader->payload_left : 0;
}

const struct inbox_record *reader_next(struct reader *reader)
{
    const struct inbox_record *record = inbox_next(&reader->inbox);
    if (!record) {
        pthread_mutex_lock(&reader->lock);
        inbox_swap(&reader->inbox);
        pthread_mutex_unlock(&reader->lock);
        record = inbox_next(&reader->inbox);
    }
    return record;
}

bool reader_resume(struct reader *reader)
{
    pthread_mutex_lock(&reader->lock);
    bool paused = reader->paused && !reader->starved;
    reader->paused = reader->paused && !paused;
    pthread_mutex_unlock(&reader->lock);
    return paused;
}

void reader_feed(struct reader *reader)
{
    pthread_mutex_lock(&reader->lock);
    reader->starved = false;
    pthread_mutex_unlock(&reader->lock);
}

void reader_join(struct reader *reader, struct reader *leader)
{
    pthread_mutex_lock(&reader->lock);
    reader->leader = leader;
    pthread_mutex_unlock(&reader->lock);
    pthread_mutex_lock(&leader->lock);
    leader->joined = true;
    pthread_mutex_unlock(&leader->lock);
}

uint64_t reader_awaited(struct reader *reader)
{
    pthread_mutex_lock(&reader->lock);
    uint64_t request = reader->awaited;
    pthread_mutex_unlock(&reader->lock);
    return request;
}

bool reader_lands(struct reader *reader, uint64_t request)
{
    pthread_mutex_lock(&reader->lock);
    bool lands = reader->landing == request;
    pthread_mutex_unlock(&reader->lock);
    return lands;
}

void reader_greet(struct reader *reader, uint32_t chunk_bytes, uint64_t credit)
{
    pthread_mutex_lock(&reader->lock);
    reader->greeted = true;
    reader->routes.chunk_bytes = chunk_bytes;
    reader->credit = credit;
    pthread_mutex_unlock(&reader->lock);
}

void reader_credit(struct reader *reader, uint64_t bytes)
{
    pthread_mutex_lock(&reader->lock);
    reader->credit += bytes;
    pthread_mutex_unlock(&reader->lock);
}

void reader_admit(struct reader *reader, uint64_t request,
                  const struct route_tensor tensors[FAS_TENSOR_COUNT], uint64_t *claimed)
{
    pthread_mutex_lock(&reader->lock);
    route_open(&reader->routes, request, tensors, claimed);
    reader->lengths_busy = false;
    pthread_mutex_unlock(&reader->lock);
}

bool reader_finish(struct reader *reader, uint64_t request)
{
    pthread_mutex_lock(&reader->lock);
    route_close(&reader->routes, request);
    bool landing = reader->landing == request;
    pthread_mutex_unlock(&reader->lock);
    return landing;
}

void reader_refuse(struct reader *reader, uint64_t request)
{
    pthread_mutex_lock(&reader->lock);
    route_close(&reader->routes, request);
    reader->lengths_busy = false;
    pthread_mutex_unlock(&reader->lock);
}

void reader_error(struct reader *reader, struct fas_error *error)
{
    pthread_mutex_lock(&reader->lock);
    *error = reader->error;
    pthread_mutex_unlock(&reader->lock);
}

/* One memory block, cut into the buffers; the routes first, for their alignment. */
size_t reader_memory_bytes(uint32_t routes)
{
    return routes * sizeof(struct route) + READER_BUFFER_BYTES + FAS_HEADER_BYTES_MAX +
           FAS_LENGTHS_BYTES_MAX + 2u * INBOX_BYTES;
}

void reader_place(struct reader *reader, void *memory, uint32_t routes, uint32_t owner)
{
    uint8_t *at = memory;
    *reader = (struct reader){.owner = owner, .routes = {.routes = memory, .count = routes}};
    at += routes * sizeof(struct route);
    reader->inbox.filling = at;
    reader->inbox.reading = at + INBOX_BYTES;
    at += 2u * INBOX_BYTES;
    reader->lengths = at;
    at += FAS_LENGTHS_BYTES_MAX;
    reader->header = at;
    at += FAS_HEADER_BYTES_MAX;
    reader->buffer = at;
    pthread_mutex_init(&reader->lock, NULL);
}

/* Nobody else holds the reader of a free stream. Its lock is new in each life: a member takes its
 * leader's inside its own, and last time it may have been the other way round. */
void reader_reset(struct reader *reader, bool ipc)
{
    pthread_mutex_destroy(&reader->lock);
    pthread_mutex_init(&reader->lock, NULL);
    pthread_mutex_lock(&reader->lock);
    reader->ipc = ipc;
    reader->phase = READER_HELLO;
    reader->begin = reader->end = 0;
    reader->place = NULL;
    reader->payload_left = 0;
    reader->greeted = reader->hello_seen = reader->lengths_busy = false;
    reader->paused = reader->starved = reader->joined = false;
    reader->landing = reader->newest = reader->awaited = 0;
    reader->leader = reader;
    reader->credit = 0;
    reader->inbox.filled_bytes = reader->inbox.reading_bytes = reader->inbox.read_bytes = 0;
    memset(reader->routes.routes, 0, reader->routes.count * sizeof(struct route));
    pthread_mutex_unlock(&reader->lock);
}
