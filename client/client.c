/*
 * client.c: connect, greet, close; and what the connection tells its client. See client.h.
 */
#include "client/client.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#define CONNECT_TIMEOUT_MS_DEFAULT 5000u
/* Longer than any launch slice or full send buffer delays a PONG; short against a training step
 * that waits for ever. */
#define SILENCE_MS_DEFAULT 30000u
#define CALLS_DEFAULT 64u
/* A call's id holds its slot in 16 bits. */
#define CALLS_MAX 65535u
/* More keeps a processor from others for longer than a sleep costs. */
#define SPIN_US_MAX 10000u
/* Enough for 25 Gbit/s at 20 ms; results go straight to their place, so it costs no memory. */
#define RESULT_WINDOW_DEFAULT ((uint64_t)64 << 20)
/* Of a silence: how often it is looked at, so a loss is noticed at most so much later. */
#define TICKS_PER_SILENCE 4u

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "tensors and lengths travel as they lie in memory: little-endian"
#endif

const char *fas_version(void)
{
    return FAS_LIBRARY_VERSION;
}

void client_cond_init(pthread_cond_t *cond)
{
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(cond, &attributes);
    pthread_condattr_destroy(&attributes);
}

/* ---- what the connection tells ---- */

/* Frames may have made room to send, or owe an answer. */
static void client_on_read(void *context)
{
    const struct lane *lane = context;
    connection_push(lane->connection);
}

static uint32_t tick_ms(const struct fas_client *client)
{
    uint32_t ms = client->silence_ms / TICKS_PER_SILENCE;
    return ms > 0 ? ms : 1;
}

/* A silent daemon is asked; one that stays silent is lost. */
static void client_on_tick(void *context, bool heard)
{
    struct lane *lane = context;
    const struct fas_client *client = lane->client;
    connection_lock(lane->connection);
    lane->silent_ms = heard ? 0 : lane->silent_ms + tick_ms(client);
    bool lost = lane->silent_ms >= client->silence_ms;
    lane->ping_wanted = !heard && !lost;
    connection_unlock(lane->connection);
    if (lost) {
        struct fas_error error;
        fas_fail(&error, FAS_UNAVAILABLE, "silence_ms", "the daemon was silent for %u ms",
                 lane->silent_ms);
        connection_fail(lane->connection, &error);
    }
    connection_push(lane->connection);
}

/* Calls with tensors in shared memory, or with events, are under way. */
static bool client_lends(void *context)
{
    const struct lane *lane = context;
    const struct fas_client *client = lane->client;
    for (uint32_t i = 0; client->calls && i < client->call_count; i++) {
        if (call_lends(&client->calls[i])) {
            return true;
        }
    }
    return false;
}

/* The others go with the first that is lost; when the last one rests, nothing touches memory. */
static void client_on_lost(void *context, const struct fas_error *error)
{
    const struct lane *lane = context;
    struct fas_client *client = lane->client;
    struct question *question;
    connection_lock(client->connection);
    bool first = !client->lost, last = ++client->lanes_lost == client->lane_count;
    uint32_t count = client->lane_count;
    if (first) {
        client->lost = true;
        client->failure = *error;
    }
    if (last) {
        call_lose_all(client, &client->failure);
    }
    TAILQ_FOREACH(question, &client->questions, link)
    {
        pthread_cond_signal(&question->done);
    }
    pthread_cond_broadcast(&client->changed);
    connection_unlock(client->connection);
    for (uint32_t i = 0; first && i < count; i++) {
        connection_fail(client->lanes[i].connection, error);
    }
    if (last) {
        call_tell(client);
    }
}

/* ---- connect ---- */

static enum fas_status options_check(const struct fas_connect_options *options,
                                     struct fas_error *error)
{
    if (!options->url) {
        return fas_fail(error, FAS_INVALID_ARGUMENT, "url", "is needed");
    }
    if (options->token && strlen(options->token) > FAS_TOKEN_BYTES_MAX) {
        return fas_fail(error, FAS_INVALID_ARGUMENT, "token", "is longer than %u bytes",
                        FAS_TOKEN_BYTES_MAX);
    }
    if (options->connections > FAS_LANES_MAX) {
        return fas_fail(error, FAS_INVALID_ARGUMENT, "connections", "%u are more than %u",
                        options->connections, FAS_LANES_MAX);
    }
    if (options->spin_us > SPIN_US_MAX) {
        return fas_fail(error, FAS_INVALID_ARGUMENT, "spin_us", "%u are more than %u",
                        options->spin_us, SPIN_US_MAX);
    }
    for (size_t i = 0; i < sizeof(options->reserved) / sizeof(options->reserved[0]); i++) {
        if (options->reserved[i] != 0) {
            return fas_fail(error, FAS_INVALID_ARGUMENT, "reserved", "is not zero");
        }
    }
    return FAS_OK;
}

static bool lane_alloc(struct fas_client *client, uint32_t number)
{
    struct lane *lane = &client->lanes[number];
    lane->client = client;
    lane->number = number;
    lane->bounce = malloc(FAS_CHUNK_BYTES_MAX); /* touched only as far as it is used */
    return sender_open_lane(lane) && lane->bounce;
}

static struct fas_client *client_alloc(const struct fas_connect_options *options, uint32_t lanes)
{
    struct fas_client *client = calloc(1, sizeof(*client));
    if (!client) {
        return NULL;
    }
    TAILQ_INIT(&client->free);
    TAILQ_INIT(&client->ending);
    TAILQ_INIT(&client->finished);
    client_cond_init(&client->changed);
    snprintf(client->name, sizeof(client->name), "%s",
             options->name ? options->name : program_invocation_short_name);
    client->token = options->token;
    client->calls_wanted = options->calls_max ? options->calls_max : CALLS_DEFAULT;
    client->cuda_device = options->cuda_device;
    client->silence_ms = options->silence_ms ? options->silence_ms : SILENCE_MS_DEFAULT;
    client->result_window =
        options->result_window_bytes ? options->result_window_bytes : RESULT_WINDOW_DEFAULT;
    client->result_window /= lanes;
    if (client->result_window < 2 * FAS_CHUNK_BYTES_MAX) {
        client->result_window = 2 * FAS_CHUNK_BYTES_MAX;
    }
    client->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    client->ack = calloc(1, sizeof(*client->ack));
    client->stats = calloc(1, sizeof(*client->stats));
    sender_open(client);
    bool complete = client->event >= 0 && client->ack && client->stats;
    for (uint32_t i = 0; i < lanes; i++) {
        complete &= lane_alloc(client, i);
    }
    if (!complete) {
        fas_close(client);
        return NULL;
    }
    return client;
}

/* Waits for HELLO_ACK. */
static enum fas_status lane_greet(struct lane *lane, uint32_t timeout_ms, struct fas_error *error)
{
    struct fas_client *client = lane->client;
    const struct timespec until =
        at_ns(ns_in_ms(timeout_ms ? timeout_ms : CONNECT_TIMEOUT_MS_DEFAULT));
    int failed = 0;
    enum fas_status status = FAS_OK;
    connection_lock(client->connection);
    while (!lane->greeted && !client->lost && failed == 0) {
        failed =
            pthread_cond_timedwait(&client->changed, connection_mutex(client->connection), &until);
    }
    if (client->lost) {
        status = client->failure.status;
        if (error) {
            *error = client->failure;
        }
    } else if (!lane->greeted) {
        status = fas_fail(error, FAS_DEADLINE_EXCEEDED, "connect_timeout_ms",
                          "connected, but not greeted in time");
    }
    connection_unlock(client->connection);
    return status;
}

/* The calls that HELLO_ACK allows. The connection may be lost already. */
static enum fas_status make_calls(struct fas_client *client, struct fas_error *error)
{
    connection_lock(client->connection);
    uint32_t allowed = client->server.calls_max;
    client->call_count = client->calls_wanted < allowed ? client->calls_wanted : allowed;
    client->call_count = client->call_count < CALLS_MAX ? client->call_count : CALLS_MAX;
    client->server.calls_max = client->call_count;
    enum fas_status status = call_open_all(client);
    connection_unlock(client->connection);
    return status == FAS_OK ? FAS_OK
                            : fas_fail(error, status, "calls_max", "out of memory for %u calls",
                                       client->call_count);
}

/* Dials, says HELLO, is greeted. */
static enum fas_status lane_open(struct lane *lane, const struct fas_connect_options *options,
                                 struct fas_error *error)
{
    struct fas_client *client = lane->client;
    const struct connection_owner owner = {.context = lane,
                                           .on_head = receiver_on_head,
                                           .on_frame = receiver_on_frame,
                                           .on_read = client_on_read,
                                           .next_batch = sender_next_batch,
                                           .batch_sent = sender_batch_sent,
                                           .on_tick = client_on_tick,
                                           .lends = client_lends,
                                           .on_lost = client_on_lost};
    enum fas_status status =
        connection_open(options, &owner, client->connection, &lane->connection, error);
    if (status != FAS_OK) {
        return status;
    }
    client->connection = client->lanes[0].connection;
    connection_lock(client->connection);
    client->lane_count++;
    connection_unlock(client->connection);
    status = connection_start(lane->connection, tick_ms(client), error);
    return status == FAS_OK ? lane_greet(lane, options->connect_timeout_ms, error) : status;
}

enum fas_status fas_connect(const struct fas_connect_options *options, struct fas_client **client,
                            struct fas_error *error)
{
    *client = NULL;
    enum fas_status status = options_check(options, error);
    if (status != FAS_OK) {
        return status;
    }
    uint32_t lanes = options->connections ? options->connections : 1;
    struct fas_client *c = client_alloc(options, lanes);
    if (!c) {
        return fas_fail(error, FAS_RESOURCE_EXHAUSTED, "", "out of memory or descriptors");
    }
    for (uint32_t i = 0; i < lanes && status == FAS_OK; i++) {
        status = lane_open(&c->lanes[i], options, error);
    }
    c->token = NULL;
    if (status == FAS_OK) {
        status = make_calls(c, error);
    }
    if (status != FAS_OK) {
        fas_close(c);
        return status;
    }
    *client = c;
    return FAS_OK;
}

static void lanes_close(struct fas_client *client)
{
    for (uint32_t i = 0; i < client->lane_count; i++) {
        connection_stop(client->lanes[i].connection);
    }
    for (uint32_t i = FAS_LANES_MAX; i-- > 0;) { /* the first has the lock of all */
        struct lane *lane = &client->lanes[i];
        if (lane->connection) {
            connection_free(lane->connection);
        }
        free(lane->stage);
        free(lane->bounce);
    }
}

void fas_close(struct fas_client *client)
{
    if (!client) {
        return;
    }
    if (client->connection) {
        place_settle(client);
    }
    lanes_close(client);
    struct release *release;
    while ((release = STAILQ_FIRST(&client->releases))) {
        STAILQ_REMOVE_HEAD(&client->releases, link);
        free(release);
    }
    call_free_all(client);
    place_free_all(client);
    event_free_all(client);
    stream_free_all(client);
    pthread_cond_destroy(&client->changed);
    if (client->event >= 0) {
        close(client->event);
    }
    free(client->ack);
    free(client->stats);
    free(client);
}

const struct fas_server *fas_server(const struct fas_client *client)
{
    return &client->server;
}
