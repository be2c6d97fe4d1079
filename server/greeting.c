/*
 * greeting.c: HELLO is judged (who is it, is there a place for it, whom does it join), then
 * answered with what was agreed.
 */
#include "server/greeting.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "server/connection.h"
#include "server/log.h"
#include "server/server.h"

/* Who is it? A token's name if one is shown, else the uid a unix socket vouches for. */
static enum fas_status identify(struct server *server, struct connection *connection,
                                const struct wire_hello *hello, struct fas_error *error)
{
    const struct stream_peer *peer = stream_peer(connection->stream);
    const struct token *token = NULL;
    char name[FAS_NAME_BYTES_MAX];
    double weight = 1;
    if (hello->token_bytes > 0) {
        token = tokens_find(&server->tokens, hello->token, hello->token_bytes);
        if (!token) {
            return fas_fail(error, FAS_UNAUTHENTICATED, "token", "not a token of this server");
        }
        snprintf(name, sizeof name, "token:%s", token->name);
        weight = token->weight;
        connection->admin = token->admin;
    } else if (peer->local) {
        snprintf(name, sizeof name, "uid:%" PRIu64, peer->uid);
    } else {
        return fas_fail(error, FAS_UNAUTHENTICATED, "token", "needed on this listener");
    }
    if (peer->local && (peer->uid == 0 || peer->uid == geteuid())) {
        connection->admin = true;
    }
    bool fresh;
    connection->principal = principal_take(&server->principals, name, weight, &fresh);
    assert(connection->principal != PRINCIPAL_NONE);
    for (uint32_t i = 0; i < server->executor_count; i++) {
        queue_weigh(&server->executors[i].queue, connection->principal, weight, fresh);
    }
    return FAS_OK;
}

/* One principal leaves a quarter of the places to others. */
static enum fas_status check_share(const struct server *server, const struct connection *connection,
                                   struct fas_error *error)
{
    uint32_t places = server->config.connections_max, limit = places - places / 4, held = 0;
    uint32_t taken = 0;
    for (uint32_t i = 0; i < server->connections.count; i++) {
        const struct connection *other = &server->connections.entries[i];
        taken += other->state == CONNECTION_OPEN;
        held += other->state == CONNECTION_OPEN && other->principal == connection->principal;
    }
    if (taken >= places) {
        return fas_fail(error, FAS_RESOURCE_EXHAUSTED, "connections", "all %u are taken", places);
    }
    return held < limit ? FAS_OK
                        : fas_fail(error, FAS_RESOURCE_EXHAUSTED, "connections",
                                   "%u of one principal, the limit is %u", held, limit);
}

static uint64_t smaller(uint64_t wanted, uint64_t limit)
{
    return wanted > 0 && wanted < limit ? wanted : limit;
}

static void agree_limits(const struct server *server, struct connection *connection,
                         const struct wire_limits *wanted)
{
    const struct config *config = &server->config;
    uint64_t request_bytes = 0;
    for (uint32_t i = 0; i < server->executor_count; i++) {
        uint64_t bytes = server->executors[i].arena.bytes;
        request_bytes = bytes > request_bytes ? bytes : request_bytes;
    }
    uint32_t chunk_bytes = (uint32_t)smaller(wanted->chunk_bytes, config->chunk_bytes);
    connection->limits = (struct wire_limits){
        .requests_in_flight =
            (uint32_t)smaller(wanted->requests_in_flight, config->requests_per_connection),
        .chunk_bytes = chunk_bytes < FAS_CHUNK_BYTES_MIN ? FAS_CHUNK_BYTES_MIN : chunk_bytes,
        .request_bytes =
            smaller(wanted->request_bytes, smaller(config->request_bytes_max, request_bytes)),
        .sequences = (uint32_t)smaller(wanted->sequences, config->sequences_max),
        .retain_bytes = smaller(wanted->retain_bytes, hold_quota(server)),
    };
}

static void describe_server(const struct server *server, struct wire_hello_ack *ack)
{
    for (uint32_t i = 0; i < server->executor_count && i < FAS_DEVICES_MAX; i++) {
        const struct device *device = &server->executors[i].device;
        struct wire_device *described = &ack->devices[ack->device_count++];
        snprintf(described->name, sizeof described->name, "%s", device->name);
        snprintf(described->uuid, sizeof described->uuid, "%s", device->uuid);
        snprintf(described->arch, sizeof described->arch, "%s", request_arch_name(device->arch));
        described->arena_bytes = device->arena_bytes;
    }
    ack->kernel_count =
        request_describe_kernels(server->executors[0].device.arch, ack->kernels, FAS_KERNELS_MAX);
}

/* May it in? */
static enum fas_status judge(struct server *server, struct connection *connection,
                             const struct wire_hello *hello, uint64_t now_us, uint32_t *version,
                             struct fas_error *error)
{
    if (wire_version_pick(hello, version, error) != FAS_OK) {
        return error->status;
    }
    enum fas_status status = identify(server, connection, hello, error);
    if (status == FAS_OK) {
        status = check_share(server, connection, error);
    }
    if (status == FAS_OK && hello->has_join) {
        status = join_enter(server, connection, hello->join, now_us, error);
    }
    return status;
}

/* It is in: what it may do, who it talks to. */
static void welcome(struct server *server, struct connection *connection,
                    const struct wire_hello *hello, uint64_t now_us, uint32_t version)
{
    static struct wire_hello_ack ack; /* 12 KiB; only the loop uses it */
    uint8_t header[FAS_HEADER_BYTES_MAX];
    uint64_t credit = server->config.upload_credit_bytes;
    snprintf(connection->client, sizeof connection->client, "%s", hello->client);
    if (connection->lane > 0) {
        connection->limits = connection->leader->limits;
    } else {
        agree_limits(server, connection, &hello->wanted);
    }
    connection->result_credit = connection->result_window = hello->result_credit_bytes;
    connection->state = CONNECTION_OPEN;
    ack = (struct wire_hello_ack){
        .version = version, .limits = connection->limits, .upload_credit_bytes = credit};
    snprintf(ack.server, sizeof ack.server, "faserved %s", FAS_SERVER_VERSION);
    describe_server(server, &ack);
    if (connection->lane == 0) {
        join_offer(connection, now_us + server->config.hello_timeout_us, ack.nonce);
    }
    size_t bytes = wire_encode_hello_ack(&ack, header);
    outbox_put(&connection->outbox, (struct frame){.type = FRAME_HELLO_ACK}, header, bytes);
    reader_greet(stream_reader(connection->stream), connection->limits.chunk_bytes, credit);
    log_info("connection_open", log_u64("connection", connection->number),
             log_str("client", connection->client),
             log_str("principal", server->principals.entries[connection->principal].name),
             log_str("peer", stream_peer(connection->stream)->address));
}

void greeting_hello(struct server *server, struct connection *connection,
                    const struct inbox_record *record, uint64_t now_us)
{
    struct wire_hello hello;
    uint32_t version = 0;
    struct fas_error error = {0};
    enum fas_status status =
        wire_decode_hello(record->header, record->frame.header_bytes, &hello, &error);
    if (status == FAS_OK) {
        status = judge(server, connection, &hello, now_us, &version, &error);
    }
    if (status == FAS_OK) {
        welcome(server, connection, &hello, now_us, version);
    } else {
        stats_add(&server->stats, STATS_CONNECTIONS_REFUSED, 1);
        connection_fail(server, connection, &error, now_us);
    }
    explicit_bzero(&hello, sizeof hello); /* its token and nonce */
}
