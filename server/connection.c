/*
 * connection.c: events of streams come in at connection_serve_all; each message of a peer goes to
 * its handler by one table; connection_watch_all is where time ends what peers do not.
 */
#include "server/connection.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "server/greeting.h"
#include "server/intake.h"
#include "server/log.h"
#include "server/reply.h"
#include "server/server.h"

/* Of one connection in a turn, some 0.2 ms; then it is the others'. A socket holds thousands that
 * are not answered, such as CREDIT, and who sends nothing else held up everybody for 10 ms at a
 * time. */
#define MESSAGES_PER_TURN 128u

/* Unanswered in a row, then the peer is given up. */
#define PINGS_MAX 2u

bool connections_open(struct connections *connections, uint32_t count)
{
    *connections = (struct connections){.count = count};
    connections->entries = calloc(count, sizeof *connections->entries);
    /* Pages exist once they are used. */
    uint8_t *memory =
        mmap(NULL, (size_t)count * OUTBOX_BUFFERS * OUTBOX_BYTES, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (!connections->entries || memory == MAP_FAILED) {
        return false;
    }
    for (uint32_t i = 0; i < count; i++) {
        outbox_place(&connections->entries[i].outbox,
                     memory + (size_t)i * OUTBOX_BUFFERS * OUTBOX_BYTES);
    }
    return true;
}

/* ---- its requests ---- */

void connection_add_slot(struct server *server, struct connection *connection, struct slot *slot)
{
    struct slot *slots = server->slots.entries;
    slot->connection = connection;
    if (connection->first_slot == SLOT_NONE) {
        connection->first_slot = slot->next = slot->previous = slot->index;
    } else { /* behind the last: its turn comes after the others' */
        struct slot *first = &slots[connection->first_slot];
        slot->next = first->index;
        slot->previous = first->previous;
        slots[slot->previous].next = slot->index;
        first->previous = slot->index;
    }
    connection->slot_count++;
    connection->unanswered++;
}

void connection_remove_slot(struct server *server, struct slot *slot)
{
    struct slot *slots = server->slots.entries;
    struct connection *connection = slot->connection;
    slots[slot->previous].next = slot->next;
    slots[slot->next].previous = slot->previous;
    if (connection->first_slot == slot->index) {
        connection->first_slot = slot->next == slot->index ? SLOT_NONE : slot->next;
    }
    connection->slot_count--;
    slot->connection = NULL;
}

struct slot *connection_find(struct server *server, struct connection *connection, uint64_t id)
{
    uint32_t index = connection->first_slot;
    for (uint32_t count = connection->slot_count; count > 0; count--) {
        struct slot *slot = &server->slots.entries[index];
        if (slot->id == id && (!slot->answered || slot->landing)) {
            return slot;
        }
        index = slot->next;
    }
    return NULL;
}

void connection_refuse(struct connection *connection, uint64_t id, const struct fas_error *error)
{
    uint8_t header[FAS_HEADER_BYTES_MAX];
    size_t bytes = wire_encode_error(error, header);
    outbox_put(&connection->outbox, (struct frame){.type = FRAME_ERROR, .request = id}, header,
               bytes);
}

/* ---- its end ---- */

bool connection_silent(const struct connection *connection)
{
    return connection->sends_done == connection->sends && outbox_empty(&connection->outbox) &&
           !connection->deferred;
}

void connection_leave(struct server *server, struct connection *connection)
{
    if (join_alone(connection) && !place_used(server, connection)) {
        connection->state = CONNECTION_CLOSING;
        stream_close(connection->stream);
    }
}

static void close_one(struct server *server, struct connection *connection)
{
    struct fas_error error;
    uint32_t index = connection->first_slot;
    fas_fail(&error, FAS_CANCELLED, "", "the connection is closed");
    connection->state = CONNECTION_LEAVING;
    for (uint32_t count = connection->slot_count; count > 0; count--) {
        struct slot *slot = &server->slots.entries[index];
        index = slot->next;
        intake_end(server, slot, &error);
    }
    connection_leave(server, connection);
}

/* With one connection its client loses all. */
static void close_now(struct server *server, struct connection *connection)
{
    struct connection *leader = connection->leader;
    for (uint32_t lane = 0; lane < FAS_LANES_MAX; lane++) {
        struct connection *one = leader->join.lanes[lane];
        if (one && one->state < CONNECTION_LEAVING) {
            close_one(server, one);
        }
    }
}

/* Whether the whole client has been told. */
static bool told(const struct connection *connection)
{
    for (uint32_t lane = 0; lane < FAS_LANES_MAX; lane++) {
        const struct connection *one = connection->leader->join.lanes[lane];
        if (one && one->state == CONNECTION_FAREWELL && !connection_silent(one)) {
            return false;
        }
    }
    return true;
}

/* False: there is no room even to say so. */
static bool bid_farewell(struct connection *connection, const struct fas_error *error,
                         uint64_t now_us)
{
    if (connection->state >= CONNECTION_FAREWELL) {
        return true;
    }
    if (!outbox_room(&connection->outbox, 0)) {
        return false;
    }
    connection_refuse(connection, 0, error);
    connection->deferred = NULL; /* its answer is the farewell */
    connection->state = CONNECTION_FAREWELL;
    connection->failed_us = now_us;
    return true;
}

void connection_fail(struct server *server, struct connection *connection,
                     const struct fas_error *error, uint64_t now_us)
{
    if (connection->state >= CONNECTION_FAREWELL) {
        return;
    }
    stats_add(&server->stats, STATS_CONNECTIONS_LOST, 1);
    log_info("connection_failed", log_u64("connection", connection->number),
             log_str("status", fas_status_name(error->status)), log_str("field", error->field),
             log_str("text", error->text));
    bool good = true;
    for (uint32_t lane = 0; lane < FAS_LANES_MAX; lane++) {
        struct connection *one = connection->leader->join.lanes[lane];
        good &= !one || bid_farewell(one, error, now_us);
    }
    if (!good) {
        close_now(server, connection);
    }
}

/* Nothing of the stream is outstanding: its requests lose their peer, its place is free. */
static void on_closed(struct server *server, struct connection *connection)
{
    if (connection->lane > 0) {
        join_leave(server, connection);
    }
    while (connection->first_slot != SLOT_NONE) {
        intake_orphan(server, &server->slots.entries[connection->first_slot]);
    }
    staging_close(server, connection, stream_index(connection->stream));
    hold_release_all(server, connection);
    place_close_all(server, connection);
    if (connection->principal != PRINCIPAL_NONE) {
        principal_give(&server->principals, connection->principal);
    }
    log_info("connection_closed", log_u64("connection", connection->number),
             log_str("client", connection->client));
    outbox_reset(&connection->outbox, false);
    stream_release(connection->stream);
    connection->stream = NULL;
    connection->state = CONNECTION_FREE;
    server->connections.open--;
}

/* No more will come from the peer. A protocol error is told, everything else just ends. */
static void on_ended(struct server *server, struct connection *connection, uint64_t now_us)
{
    struct fas_error error = {0};
    if (connection->state == CONNECTION_FAREWELL) {
        close_now(server, connection); /* it can not even be told */
        return;
    }
    stream_error(connection->stream, &error);
    if (error.status == FAS_INVALID_ARGUMENT || error.status == FAS_UNSUPPORTED) {
        connection_fail(server, connection, &error, now_us);
        return;
    }
    log_debug("stream_ended", log_u64("connection", connection->number),
              log_str("reason", error.text));
    close_now(server, connection);
}

/* ---- its beginning ---- */

/* With more of them than connections-max, who has said nothing for longest makes way for those to
 * come: else whoever can connect could keep everybody out, without a token, by saying nothing. A
 * client says HELLO at once. */
static void make_way(struct server *server, const struct connection *newcomer, uint64_t now_us)
{
    struct connection *oldest = NULL;
    for (uint32_t i = 0; i < server->connections.count; i++) {
        struct connection *one = &server->connections.entries[i];
        if (one->state == CONNECTION_GREETING && one != newcomer &&
            (!oldest || one->number < oldest->number)) {
            oldest = one;
        }
    }
    if (oldest) {
        struct fas_error error;
        fas_fail(&error, FAS_RESOURCE_EXHAUSTED, "hello", "none came, and others came instead");
        connection_fail(server, oldest, &error, now_us);
    }
}

static void on_accepted(struct server *server, struct stream *stream, uint64_t now_us)
{
    struct connection *connection = &server->connections.entries[stream_index(stream)];
    assert(connection->state == CONNECTION_FREE);
    struct outbox outbox = connection->outbox;
    *connection = (struct connection){.state = CONNECTION_GREETING,
                                      .stream = stream,
                                      .number = ++server->connections.accepted,
                                      .principal = PRINCIPAL_NONE,
                                      .accepted_us = now_us,
                                      .heard_us = now_us,
                                      .first_slot = SLOT_NONE,
                                      .outbox = outbox};
    join_begin(connection);
    server->connections.open++;
    stats_add(&server->stats, STATS_CONNECTIONS_ACCEPTED, 1);
    outbox_reset(&connection->outbox, stream_reader(stream)->ipc);
    outbox_put_raw(&connection->outbox, frame_sp_hello, FRAME_SP_HELLO_BYTES);
    log_debug("connection_accepted", log_u64("connection", connection->number),
              log_str("peer", stream_peer(stream)->address));
    stream_start(stream);
    if (server->connections.open > server->config.connections_max) {
        make_way(server, connection, now_us);
    }
}

/* ---- other messages ---- */

static void on_cancel(struct server *server, struct connection *connection,
                      const struct inbox_record *record, uint64_t now_us)
{
    (void)now_us;
    struct slot *slot = connection_find(server, connection, record->frame.request);
    if (slot) {
        struct fas_error error;
        fas_fail(&error, FAS_CANCELLED, "", "by the client, while %s",
                 slot_state_name(slot->state));
        intake_end(server, slot, &error);
    }
}

static void on_credit(struct server *server, struct connection *connection,
                      const struct inbox_record *record, uint64_t now_us)
{
    uint64_t bytes;
    struct fas_error error = {0};
    if (wire_decode_credit(record->header, record->frame.header_bytes, &bytes, &error) != FAS_OK) {
        connection_fail(server, connection, &error, now_us);
        return;
    }
    uint64_t room = UINT64_MAX - connection->result_credit;
    connection->result_credit += bytes < room ? bytes : room;
}

static void on_ping(struct server *server, struct connection *connection,
                    const struct inbox_record *record, uint64_t now_us)
{
    (void)server;
    (void)now_us;
    outbox_put(&connection->outbox,
               (struct frame){.type = FRAME_PONG, .request = record->frame.request}, NULL, 0);
}

/* That it was heard is all there is to it. */
static void on_pong(struct server *server, struct connection *connection,
                    const struct inbox_record *record, uint64_t now_us)
{
    (void)server;
    (void)connection;
    (void)record;
    (void)now_us;
}

static void on_stats(struct server *server, struct connection *connection,
                     const struct inbox_record *record, uint64_t now_us)
{
    static struct wire_stats reply; /* 37 KiB; only the loop uses it */
    static struct stats_value values[FAS_STATS_MAX];
    uint8_t header[FAS_HEADER_BYTES_MAX];
    server_measure(server, now_us);
    size_t count = stats_snapshot(&server->stats, values, FAS_STATS_MAX);
    reply.count = (uint32_t)(count < FAS_STATS_MAX ? count : FAS_STATS_MAX);
    for (uint32_t i = 0; i < reply.count; i++) {
        memcpy(reply.stats[i].name, values[i].name, sizeof reply.stats[i].name);
        reply.stats[i].value = values[i].value;
    }
    size_t bytes = wire_encode_stats(&reply, header);
    outbox_put(&connection->outbox,
               (struct frame){.type = FRAME_STATS_REPLY, .request = record->frame.request}, header,
               bytes);
}

static void on_drain(struct server *server, struct connection *connection,
                     const struct inbox_record *record, uint64_t now_us)
{
    (void)now_us;
    if (!connection->admin) {
        struct fas_error error;
        fas_fail(&error, FAS_UNAUTHENTICATED, "",
                 "DRAIN is for root, the daemon's user, or an admin token");
        connection_refuse(connection, record->frame.request, &error);
        return;
    }
    outbox_put(&connection->outbox,
               (struct frame){.type = FRAME_DRAIN_ACK, .request = record->frame.request}, NULL, 0);
    server_drain(server);
}

static bool in_group(const void *context, gid_t group)
{
    return stream_peer_in_group(context, group);
}

/* Shared memory is for peers of this node that the operator chose. */
static enum fas_status may_share(const struct server *server, const struct connection *connection,
                                 struct fas_error *error)
{
    const struct stream_peer *peer = stream_peer(connection->stream);
    if (!peer->local) {
        return fas_fail(error, FAS_UNSUPPORTED, "place",
                        "memory is shared over a unix socket only");
    }
    return share_allows(&server->share, (uid_t)peer->uid, in_group, connection->stream)
               ? FAS_OK
               : fas_fail(error, FAS_UNAUTHENTICATED, "place",
                          "uid %" PRIu64 " is not one of share-with", peer->uid);
}

static void on_open(struct server *server, struct connection *connection,
                    const struct inbox_record *record, uint64_t now_us)
{
    struct wire_open open;
    struct fas_error error = {0};
    (void)now_us;
    if (wire_decode_open(record->header, record->frame.header_bytes, &open, &error) != FAS_OK ||
        may_share(server, connection, &error) != FAS_OK ||
        place_open(server, connection, &open, record->frame.request, &error) != FAS_OK) {
        connection_refuse(connection, record->frame.request, &error);
    }
}

static void on_close(struct server *server, struct connection *connection,
                     const struct inbox_record *record, uint64_t now_us)
{
    uint32_t id;
    struct fas_error error = {0};
    (void)now_us;
    if (wire_decode_close(record->header, record->frame.header_bytes, &id, &error) != FAS_OK ||
        place_close(server, connection, id, record->frame.request, &error) != FAS_OK) {
        connection_refuse(connection, record->frame.request, &error);
    }
}

static void on_release(struct server *server, struct connection *connection,
                       const struct inbox_record *record, uint64_t now_us)
{
    uint64_t handle;
    struct fas_error error = {0};
    if (wire_decode_release(record->header, record->frame.header_bytes, &handle, &error) !=
        FAS_OK) {
        connection_fail(server, connection, &error, now_us);
        return;
    }
    hold_release(server, connection, handle);
}

typedef void handler(struct server *server, struct connection *connection,
                     const struct inbox_record *record, uint64_t now_us);

/* Which message goes where. frame.c has refused those that a client does not send. */
static handler *const handlers[FRAME_TYPE_COUNT] = {
    [FRAME_HELLO] = greeting_hello,   [FRAME_OPEN] = on_open,     [FRAME_CLOSE] = on_close,
    [FRAME_REQUEST] = intake_request, [FRAME_DATA] = intake_data, [FRAME_RELEASE] = on_release,
    [FRAME_CREDIT] = on_credit,       [FRAME_CANCEL] = on_cancel, [FRAME_PING] = on_ping,
    [FRAME_PONG] = on_pong,           [FRAME_STATS] = on_stats,   [FRAME_DRAIN] = on_drain,
};

/* Whether it may read one more message in this turn. */
static bool has_turn(struct server *server, struct connection *connection)
{
    struct connections *all = &server->connections;
    if (connection->turn != all->turn) {
        connection->turn = all->turn;
        connection->messages = 0;
    }
    bool more = connection->messages++ < MESSAGES_PER_TURN;
    all->behind |= !more;
    return more;
}

/* Reads the inbox as long as there is room for an answer to anything in it. */
static void read_inbox(struct server *server, struct connection *connection, uint64_t now_us)
{
    connection->backlog = false;
    while (connection->state == CONNECTION_GREETING || connection->state == CONNECTION_OPEN) {
        if (!outbox_room(&connection->outbox, 0) || !has_turn(server, connection)) {
            connection->backlog = true; /* goes on when the send is over, or in the next turn */
            return;
        }
        const struct inbox_record *record = connection->deferred;
        connection->deferred = NULL;
        record = record ? record : reader_next(stream_reader(connection->stream));
        if (!record) {
            break;
        }
        connection->heard_us = now_us;
        connection->pings = 0;
        handlers[record->frame.type](server, connection, record, now_us);
        if (connection->deferred) {
            return; /* goes on when its memory is there */
        }
    }
    /* A reader that waits for a decision nobody will make would be back at once, for ever. */
    if (connection->state == CONNECTION_GREETING || connection->state == CONNECTION_OPEN) {
        stream_resume(connection->stream);
    }
}

static void resume_deferred(struct server *server, struct connection *connection, uint64_t now_us)
{
    if (connection->state == CONNECTION_OPEN && connection->deferred) {
        read_inbox(server, connection, now_us);
    }
}

void connection_resume_deferred(struct server *server, uint64_t now_us)
{
    for (uint32_t i = 0; i < server->connections.count; i++) {
        resume_deferred(server, &server->connections.entries[i], now_us);
    }
}

static void serve(struct server *server, struct stream *stream, unsigned events, uint64_t now_us)
{
    if (events & STREAM_ACCEPTED) {
        on_accepted(server, stream, now_us);
    }
    struct connection *connection = &server->connections.entries[stream_index(stream)];
    if (events & STREAM_SENT) {
        reply_sent(server, connection);
        if (connection->state == CONNECTION_FAREWELL && told(connection)) {
            close_now(server, connection);
        }
        resume_deferred(server, connection->leader, now_us);
    }
    if (events & STREAM_RECEIVED || connection->backlog) {
        read_inbox(server, connection, now_us);
    }
    if (events & STREAM_ENDED && connection->state < CONNECTION_LEAVING) {
        on_ended(server, connection, now_us);
    }
    if (events & STREAM_CLOSED) {
        on_closed(server, connection);
    }
}

/* Those that a turn was not enough for, first. */
static void catch_up(struct server *server, uint64_t now_us)
{
    server->connections.behind = false;
    for (uint32_t i = 0; i < server->connections.count; i++) {
        if (server->connections.entries[i].backlog) {
            read_inbox(server, &server->connections.entries[i], now_us);
        }
    }
}

void connection_serve_all(struct server *server, uint64_t now_us)
{
    unsigned events;
    struct stream *stream;
    server->connections.turn++;
    if (server->connections.behind) {
        catch_up(server, now_us);
    }
    while ((stream = transport_take(server->transport, &events))) {
        serve(server, stream, events, now_us);
    }
}

/* ---- time ---- */

/* A peer that neither sends what it announced nor takes what it asked for holds memory. */
static void watch_slot(struct server *server, struct slot *slot, uint64_t now_us)
{
    struct fas_error error;
    if (slot->deadline_us && now_us >= slot->deadline_us && slot->state != SLOT_REPLYING) {
        fas_fail(&error, FAS_DEADLINE_EXCEEDED, "deadline_us", "passed while %s",
                 slot_state_name(slot->state));
        intake_end(server, slot, &error);
    } else if (slot->state == SLOT_RECEIVING &&
               now_us > slot->times.progress + server->config.progress_timeout_us) {
        uint64_t waited_ms = server->config.progress_timeout_us / 1000;
        if (slot->bytes_missing > 0) {
            fas_fail(&error, FAS_DEADLINE_EXCEEDED, "data",
                     "%" PRIu64 " bytes are missing and none came for %" PRIu64 " ms",
                     slot->bytes_missing, waited_ms);
        } else {
            fas_fail(&error, FAS_DEADLINE_EXCEEDED, "wait_event",
                     "it has not come to pass for %" PRIu64 " ms", waited_ms);
        }
        intake_end(server, slot, &error);
    }
}

static bool stalled(const struct server *server, const struct slot *slot, uint64_t now_us)
{
    uint64_t since_us =
        slot->times.progress > slot->times.computed ? slot->times.progress : slot->times.computed;
    return slot->state == SLOT_REPLYING && !slot->answered && slot->error.status == FAS_OK &&
           now_us > since_us + server->config.result_timeout_us;
}

/* A silent peer is asked whether it is still there: the only way to notice that its machine is
 * gone. */
static void watch_silence(struct server *server, struct connection *connection, uint64_t now_us)
{
    uint64_t interval_us = server->config.ping_us;
    if (interval_us == 0 || connection->state != CONNECTION_OPEN ||
        now_us < connection->heard_us + interval_us ||
        now_us < connection->pinged_us + interval_us) {
        return;
    }
    if (connection->pings == PINGS_MAX) {
        log_info("connection_silent", log_u64("connection", connection->number));
        stats_add(&server->stats, STATS_CONNECTIONS_LOST, 1);
        close_now(server, connection);
    } else if (outbox_room(&connection->outbox, 0)) {
        connection->pings++;
        connection->pinged_us = now_us;
        outbox_put(&connection->outbox, (struct frame){.type = FRAME_PING}, NULL, 0);
    }
}

/* DATA on a joined connection, whose REQUEST does not come. */
static void watch_awaited(struct server *server, struct connection *connection, uint64_t now_us)
{
    uint64_t awaited = reader_awaited(stream_reader(connection->stream));
    if (awaited != connection->awaited) {
        connection->awaited = awaited;
        connection->awaited_us = now_us;
    }
    if (awaited != 0 && now_us > connection->awaited_us + server->config.progress_timeout_us) {
        struct fas_error error;
        fas_fail(&error, FAS_INVALID_ARGUMENT, "frame.request",
                 "DATA for request %" PRIu64 ", which was never opened", awaited);
        connection_fail(server, connection, &error, now_us);
    }
}

static void watch(struct server *server, struct connection *connection, uint64_t now_us)
{
    struct fas_error error;
    resume_deferred(server, connection, now_us);
    watch_silence(server, connection, now_us);
    watch_awaited(server, connection, now_us);
    if (connection->state == CONNECTION_GREETING &&
        now_us > connection->accepted_us + server->config.hello_timeout_us) {
        fas_fail(&error, FAS_DEADLINE_EXCEEDED, "hello", "none came in time");
        connection_fail(server, connection, &error, now_us);
    }
    uint32_t index = connection->first_slot;
    for (uint32_t count = connection->slot_count; count > 0; count--) {
        struct slot *slot = &server->slots.entries[index];
        index = slot->next;
        if (stalled(server, slot, now_us)) {
            fas_fail(&error, FAS_DEADLINE_EXCEEDED, "credit",
                     "results of request %" PRIu64 " were not taken", slot->id);
            connection_fail(server, connection, &error, now_us);
            close_now(server, connection);
            return;
        }
        watch_slot(server, slot, now_us);
    }
}

void connection_watch_all(struct server *server, uint64_t now_us)
{
    for (uint32_t i = 0; i < server->connections.count; i++) {
        struct connection *connection = &server->connections.entries[i];
        if (connection->state == CONNECTION_GREETING || connection->state == CONNECTION_OPEN) {
            watch(server, connection, now_us);
        } else if (connection->state == CONNECTION_FAREWELL &&
                   now_us > connection->failed_us + server->config.hello_timeout_us) {
            close_now(server, connection); /* it does not read its farewell */
        }
    }
}
