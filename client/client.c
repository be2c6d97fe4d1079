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

uint64_t client_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

struct timespec client_in_ms(uint64_t ms)
{
    uint64_t at = client_now_ns() + ms * 1000000u;
    return (struct timespec){.tv_sec = (time_t)(at / 1000000000u),
                             .tv_nsec = (long)(at % 1000000000u)};
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
    struct fas_client *client = context;
    connection_push(client->connection);
}

/* A silent daemon is asked; one that stays silent is lost. */
static void client_on_tick(void *context, bool heard)
{
    struct fas_client *client = context;
    connection_lock(client->connection);
    client->silent_ms = heard ? 0 : client->silent_ms + client->silence_ms / TICKS_PER_SILENCE;
    bool lost = client->silent_ms >= client->silence_ms;
    client->ping_wanted = !heard && !lost;
    connection_unlock(client->connection);
    if (lost) {
        struct fas_error error;
        fas_fail(&error, FAS_UNAVAILABLE, "silence_ms", "the daemon was silent for %u ms",
                 client->silent_ms);
        connection_fail(client->connection, &error);
    }
    connection_push(client->connection);
}

/* Calls with tensors in shared memory are under way. */
static bool client_lends(void *context)
{
    const struct fas_client *client = context;
    for (uint32_t i = 0; client->calls && i < client->call_count; i++) {
        if (client->calls[i].state == CALL_OPEN && client->calls[i].placed) {
            return true;
        }
    }
    return false;
}

static void client_on_lost(void *context, const struct fas_error *error)
{
    struct fas_client *client = context;
    struct question *question;
    connection_lock(client->connection);
    client->lost = true;
    client->failure = *error;
    call_lose_all(client, error);
    TAILQ_FOREACH(question, &client->questions, link)
    {
        pthread_cond_signal(&question->done);
    }
    pthread_cond_broadcast(&client->changed);
    connection_unlock(client->connection);
    call_tell(client);
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
    for (size_t i = 0; i < sizeof(options->reserved) / sizeof(options->reserved[0]); i++) {
        if (options->reserved[i] != 0) {
            return fas_fail(error, FAS_INVALID_ARGUMENT, "reserved", "is not zero");
        }
    }
    return FAS_OK;
}

static struct fas_client *client_alloc(const struct fas_connect_options *options)
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
    client->silence_ms = options->silence_ms ? options->silence_ms : SILENCE_MS_DEFAULT;
    client->result_window =
        options->result_window_bytes ? options->result_window_bytes : RESULT_WINDOW_DEFAULT;
    if (client->result_window < 2 * FAS_CHUNK_BYTES_MAX) {
        client->result_window = 2 * FAS_CHUNK_BYTES_MAX;
    }
    client->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    client->bounce = malloc(FAS_CHUNK_BYTES_MAX); /* touched only as far as it is used */
    client->ack = calloc(1, sizeof(*client->ack));
    client->stats = calloc(1, sizeof(*client->stats));
    bool complete = client->event >= 0 && client->bounce && client->ack && client->stats;
    if (sender_open(client) != FAS_OK || !complete) {
        fas_close(client);
        return NULL;
    }
    return client;
}

/* Waits for HELLO_ACK and makes the calls it allows. */
static enum fas_status client_greet(struct fas_client *client, uint32_t timeout_ms,
                                    struct fas_error *error)
{
    struct timespec until = client_in_ms(timeout_ms ? timeout_ms : CONNECT_TIMEOUT_MS_DEFAULT);
    int failed = 0;
    connection_lock(client->connection);
    while (!client->greeted && !client->lost && failed == 0) {
        failed =
            pthread_cond_timedwait(&client->changed, connection_mutex(client->connection), &until);
    }
    enum fas_status status = FAS_OK;
    client->token = NULL;
    if (client->lost) {
        status = client->failure.status;
        if (error) {
            *error = client->failure;
        }
    } else if (!client->greeted) {
        status = fas_fail(error, FAS_DEADLINE_EXCEEDED, "connect_timeout_ms",
                          "connected, but not greeted in time");
    } else {
        uint32_t allowed = client->server.calls_max;
        client->call_count = client->calls_wanted < allowed ? client->calls_wanted : allowed;
        client->call_count = client->call_count < CALLS_MAX ? client->call_count : CALLS_MAX;
        client->server.calls_max = client->call_count;
        status = call_open_all(client);
        if (status != FAS_OK) {
            fas_fail(error, status, "calls_max", "out of memory for %u calls", client->call_count);
        }
    }
    connection_unlock(client->connection);
    return status;
}

enum fas_status fas_connect(const struct fas_connect_options *options, struct fas_client **client,
                            struct fas_error *error)
{
    *client = NULL;
    enum fas_status status = options_check(options, error);
    if (status != FAS_OK) {
        return status;
    }
    struct fas_client *c = client_alloc(options);
    if (!c) {
        return fas_fail(error, FAS_RESOURCE_EXHAUSTED, "", "out of memory or descriptors");
    }
    const struct connection_owner owner = {.context = c,
                                           .on_head = receiver_on_head,
                                           .on_frame = receiver_on_frame,
                                           .on_read = client_on_read,
                                           .next_batch = sender_next_batch,
                                           .batch_sent = sender_batch_sent,
                                           .on_tick = client_on_tick,
                                           .lends = client_lends,
                                           .on_lost = client_on_lost};
    status = connection_open(options, &owner, &c->connection, error);
    if (status == FAS_OK) {
        status = connection_start(c->connection, c->silence_ms / TICKS_PER_SILENCE, error);
    }
    if (status == FAS_OK) {
        status = client_greet(c, options->connect_timeout_ms, error);
    }
    if (status != FAS_OK) {
        fas_close(c);
        return status;
    }
    *client = c;
    return FAS_OK;
}

void fas_close(struct fas_client *client)
{
    if (!client) {
        return;
    }
    if (client->connection) {
        place_settle(client);
        connection_close(client->connection);
    }
    struct release *release;
    while ((release = STAILQ_FIRST(&client->releases))) {
        STAILQ_REMOVE_HEAD(&client->releases, link);
        free(release);
    }
    call_free_all(client);
    place_free_all(client);
    pthread_cond_destroy(&client->changed);
    if (client->event >= 0) {
        close(client->event);
    }
    free(client->stage);
    free(client->bounce);
    free(client->ack);
    free(client->stats);
    free(client);
}

const struct fas_server *fas_server(const struct fas_client *client)
{
    return &client->server;
}
