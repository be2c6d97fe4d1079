/* server.c: opening in order, and the turn. */
#include "server/server.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "server/clock.h"
#include "server/intake.h"
#include "server/log.h"
#include "server/reply.h"

/* Host memory for sequences and chunk maps: eight requests of the most sequences there may be, or
 * some thousands of ordinary ones. */
#define NOTES_BYTES (8u * FAS_SEQUENCES_MAX * (uint64_t)sizeof(struct attn_sequence))

/* How often time alone is looked at: timeouts are seconds. */
#define WATCH_US 100000u

static enum fas_status no_memory(const char *option, struct fas_error *error)
{
    return fas_fail(error, FAS_RESOURCE_EXHAUSTED, option, "no memory for it");
}

static enum fas_status open_tables(struct server *server, struct fas_error *error)
{
    const struct config *config = &server->config;
    stats_open(&server->stats);
    if (!slots_open(&server->slots, config->slots)) {
        return no_memory("slots", error);
    }
    if (!connections_open(&server->connections, config_connections(config)) ||
        !principals_open(&server->principals,
                         server->connections.count + config->slots + HOLDS_MAX + PLACES_MAX)) {
        return no_memory("connections-max", error);
    }
    server->notes_memory = mmap(NULL, NOTES_BYTES, PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (server->notes_memory == MAP_FAILED ||
        !arena_open(&server->notes, NOTES_BYTES, config->slots + HOLDS_MAX) ||
        !holds_open(&server->holds)) {
        return no_memory("slots", error);
    }
    enum fas_status status = share_open(&server->share, config->share_with, error);
    if (status != FAS_OK) {
        return status;
    }
    return config->token_file[0] == '\0' ? FAS_OK
                                         : tokens_open(&server->tokens, config->token_file, error);
}

/* "cuda:0,cuda:1": one executor each. */
static enum fas_status open_executors(struct server *server, void (*wake)(void *),
                                      void *wake_context, struct fas_error *error)
{
    const struct config *config = &server->config;
    char list[CONFIG_TEXT_BYTES_MAX], *rest = list, *name;
    device_list(config->device, list, sizeof list);
    server->executors = calloc(FAS_DEVICES_MAX, sizeof *server->executors);
    if (!server->executors) {
        return no_memory("device", error);
    }
    while ((name = strsep(&rest, ","))) {
        if (server->executor_count == FAS_DEVICES_MAX) {
            return fas_fail(error, FAS_INVALID_ARGUMENT, "device", "more than %u devices",
                            FAS_DEVICES_MAX);
        }
        enum fas_status status =
            executor_open(&server->executors[server->executor_count], server->executor_count, name,
                          config, server->principals.count, wake, wake_context, error);
        if (status != FAS_OK) {
            return status;
        }
        stats_device_add(&server->stats, name);
        server->executor_count++;
    }
    return FAS_OK;
}

/* Limits of one principal, and of all together; 0 in the config is a share of the arena. */
static void set_limits(struct server *server)
{
    const struct config *config = &server->config;
    uint64_t arena_bytes = 0;
    for (uint32_t i = 0; i < server->executor_count; i++) {
        arena_bytes += server->executors[i].arena.bytes;
    }
    server->principal_limits = (struct principal_limits){
        .requests = config->requests_per_principal ? config->requests_per_principal
                                                   : (config->slots + 3) / 4,
        .bytes = config->bytes_per_principal ? config->bytes_per_principal * server->executor_count
                                             : arena_bytes / 4 * 3,
        .all = {.requests = config->slots,
                .tokens = config->queue_tokens_max,
                .flops = config->queue_flops_max},
    };
}

enum fas_status server_open(struct server *server, void (*wake)(void *), void *wake_context,
                            struct fas_error *error)
{
    enum fas_status status = open_tables(server, error);
    if (status == FAS_OK) {
        status = open_executors(server, wake, wake_context, error);
    }
    if (status == FAS_OK) {
        set_limits(server);
        const struct places_limits limits = {.bytes = server->config.region_bytes,
                                             .bytes_per_principal =
                                                 server->config.region_bytes_per_principal,
                                             .mappings = server->config.cuda_mappings_max};
        if (!places_open(&server->places, &limits, wake, wake_context)) {
            return no_memory("region-bytes", error);
        }
        /* Unfinished requests, and as many finished ones whose late DATA is no fault. */
        status = transport_open(&server->transport, &server->config, server->connections.count,
                                2u * server->config.requests_per_connection + 1u, wake,
                                wake_context, error);
    }
    return status;
}

uint64_t server_turn(struct server *server, uint64_t now_us)
{
    bool watch = now_us >= server->watch_us;
    transport_poll(server->transport, now_us, watch);
    connection_serve_all(server, now_us);
    if (place_collect(server)) {
        connection_resume_deferred(server, now_us);
    }
    uint64_t next_us = UINT64_MAX;
    for (uint32_t i = 0; i < server->executor_count; i++) {
        executor_collect(server, &server->executors[i], now_us);
    }
    for (uint32_t i = 0; i < server->executor_count; i++) { /* events may be of another device */
        uint64_t at_us = executor_start(server, &server->executors[i], now_us);
        next_us = at_us < next_us ? at_us : next_us;
    }
    if (server_lost(server)) {
        server_drain(server);
    }
    if (watch) {
        connection_watch_all(server, now_us);
        hold_expire(server, now_us);
        for (uint32_t i = 0; i < server->executor_count; i++) {
            server->hung |= !executor_watch(server, &server->executors[i], now_us);
        }
        server->watch_us = now_us + WATCH_US;
    }
    reply_send_all(server, now_us);
    if (transport_has_news(server->transport) || server->connections.behind) {
        return now_us; /* sends were over at once, or somebody has more to say */
    }
    return next_us < server->watch_us ? next_us : server->watch_us;
}

void server_measure(struct server *server, uint64_t now_us)
{
    struct stats *stats = &server->stats;
    stats_set(stats, STATS_UPTIME_US, (double)(now_us - server->started_us));
    stats_set(stats, STATS_CPU_US, (double)clock_cpu_us());
    stats_set(stats, STATS_READY, server->draining ? 0 : 1);
    stats_set(stats, STATS_CONNECTIONS, server->connections.open);
    stats_set(stats, STATS_REQUESTS_IN_FLIGHT, server->slots.count - server->slots.free_count);
    stats_set(stats, STATS_SLOTS, server->slots.count);
    stats_set(stats, STATS_NOTES_BYTES, (double)server->notes.bytes);
    stats_set(stats, STATS_NOTES_HIGH_BYTES, (double)server->notes.high_water_bytes);
    stats_set(stats, STATS_RETAINED_HANDLES, server->holds.count);
    stats_set(stats, STATS_RETAINED_BYTES, (double)server->holds.bytes);
    stats_set(stats, STATS_PLACES, server->places.count);
    stats_set(stats, STATS_MAPPINGS, server->places.mappings);
    stats_set(stats, STATS_REGION_BYTES, (double)server->places.bytes);
    stats_set(stats, STATS_LOG_LOST, (double)log_lost());
    for (uint32_t i = 0; i < server->executor_count; i++) {
        struct executor *e = &server->executors[i];
        stats_device_set(stats, i, STATS_DEVICE_UP, e->lost || e->stalled ? 0 : 1);
        stats_device_set(stats, i, STATS_DEVICE_ARENA_BYTES, (double)e->arena.bytes);
        stats_device_set(stats, i, STATS_DEVICE_ARENA_USED_BYTES, (double)e->arena.used_bytes);
        stats_device_set(stats, i, STATS_DEVICE_ARENA_HIGH_BYTES,
                         (double)e->arena.high_water_bytes);
        stats_device_set(stats, i, STATS_DEVICE_STAGING_BYTES, (double)staging_bytes(&e->staging));
        stats_device_set(stats, i, STATS_DEVICE_STAGING_HIGH_BYTES,
                         (double)staging_high_bytes(&e->staging));
        stats_device_set(stats, i, STATS_DEVICE_QUEUE_REQUESTS, e->queue.waiting.requests);
        stats_device_set(stats, i, STATS_DEVICE_QUEUE_TOKENS, (double)e->queue.waiting.tokens);
        stats_device_set(stats, i, STATS_DEVICE_QUEUE_FLOPS, e->queue.waiting.flops);
        stats_device_set(stats, i, STATS_DEVICE_BUSY_US, e->lane_us[DEVICE_LAUNCH]);
        stats_device_set(stats, i, STATS_DEVICE_UPLOAD_US, e->lane_us[DEVICE_UPLOAD]);
        stats_device_set(stats, i, STATS_DEVICE_DOWNLOAD_US, e->lane_us[DEVICE_DOWNLOAD]);
        stats_device_set(stats, i, STATS_DEVICE_FLOPS, e->flops_done);
        stats_device_set(stats, i, STATS_DEVICE_FLOP_RATE, e->rate.flops_per_us * 1e6);
    }
}

void server_drain(struct server *server)
{
    if (!server->draining) {
        server->draining = true;
        log_info("draining", log_u64("in_flight", server->slots.count - server->slots.free_count));
    }
}

bool server_lost(const struct server *server)
{
    for (uint32_t i = 0; i < server->executor_count; i++) {
        if (!server->executors[i].lost) {
            return false;
        }
    }
    return true;
}

bool server_stalled(const struct server *server)
{
    bool stalled = false;
    for (uint32_t i = 0; i < server->executor_count; i++) {
        stalled |= server->executors[i].stalled && !server->executors[i].lost;
    }
    return stalled;
}

void server_abandon(struct server *server)
{
    struct fas_error error;
    fas_fail(&error, FAS_UNAVAILABLE, "", "the daemon is stopping");
    for (uint32_t i = 0; i < server->slots.count; i++) {
        intake_end(server, &server->slots.entries[i], &error);
    }
}

bool server_drained(const struct server *server)
{
    if (!server->draining || server->slots.free_count < server->slots.count) {
        return false;
    }
    for (uint32_t i = 0; i < server->connections.count; i++) {
        const struct connection *connection = &server->connections.entries[i];
        if (connection->state == CONNECTION_OPEN && !connection_silent(connection)) {
            return false;
        }
    }
    return true;
}
