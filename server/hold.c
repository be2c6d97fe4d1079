/*
 * hold.c: a plain table, walked only while something is retained. The walk is some 10 us for the
 * full table; every retained forward moves megabytes.
 */
#include "server/hold.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>

#include "server/log.h"
#include "server/server.h"

bool holds_open(struct holds *holds)
{
    *holds = (struct holds){.entries = calloc(HOLDS_MAX, sizeof *holds->entries)};
    return holds->entries != NULL;
}

/* ---- quotas ---- */

/* Whose bytes count: NULL and PRINCIPAL_NONE mean everybody's. */
static uint64_t bytes_of(const struct server *server, uint32_t executor, uint32_t principal,
                         const struct connection *connection)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < HOLDS_MAX && server->holds.count > 0; i++) {
        const struct hold *hold = &server->holds.entries[i];
        if (hold->used && hold->executor == executor &&
            (principal == PRINCIPAL_NONE || hold->principal == principal) &&
            (!connection || hold->connection == connection)) {
            bytes += hold->span.bytes;
        }
    }
    return bytes;
}

static uint64_t device_quota(const struct server *server, uint32_t executor)
{
    uint64_t arena_bytes = server->executors[executor].arena.bytes;
    return server->config.retain_bytes ? server->config.retain_bytes : arena_bytes / 2;
}

static uint64_t principal_quota(const struct server *server, uint32_t executor)
{
    uint64_t device = device_quota(server, executor);
    uint64_t own = server->config.retain_bytes_per_principal;
    return own ? (own < device ? own : device) : device / 2;
}

uint64_t hold_quota(const struct server *server)
{
    uint64_t most = 0;
    for (uint32_t i = 0; i < server->executor_count; i++) {
        uint64_t quota = principal_quota(server, i);
        most = quota > most ? quota : most;
    }
    return most;
}

enum fas_status hold_check(const struct server *server, const struct connection *connection,
                           uint32_t executor, uint64_t bytes, struct fas_error *error)
{
    uint64_t quota = principal_quota(server, executor);
    if (quota > connection->limits.retain_bytes) {
        quota = connection->limits.retain_bytes;
    }
    if (bytes > quota) {
        return fas_fail(error, FAS_INVALID_ARGUMENT, "retain",
                        "%" PRIu64 " bytes, the quota is %" PRIu64, bytes, quota);
    }
    return FAS_OK;
}

/* ---- giving up ---- */

static void give_memory_back(struct server *server, struct hold *hold)
{
    assert(hold->used && hold->readers == 0 && hold->handle == 0);
    server->holds.bytes -= hold->span.bytes;
    server->holds.count--;
    arena_give(&server->executors[hold->executor].arena, &hold->span);
    arena_give(&server->notes, &hold->notes);
    principal_give(&server->principals, hold->principal);
    hold->used = false;
}

/* Its name is gone; its memory with it, or after its last reader. */
static void forget(struct server *server, struct hold *hold, const char *reason)
{
    log_debug("hold_gone", log_u64("handle", hold->handle), log_str("reason", reason));
    hold->handle = 0;
    hold->connection = NULL;
    if (hold->readers == 0) {
        give_memory_back(server, hold);
    }
}

static struct hold *least_recently_used(struct server *server, uint32_t principal,
                                        uint32_t executor)
{
    struct hold *oldest = NULL;
    for (uint32_t i = 0; i < HOLDS_MAX && server->holds.count > 0; i++) {
        struct hold *hold = &server->holds.entries[i];
        if (hold->used && hold->handle != 0 && hold->readers == 0 && hold->executor == executor &&
            (principal == PRINCIPAL_NONE || hold->principal == principal) &&
            (!oldest || hold->used_us < oldest->used_us)) {
            oldest = hold;
        }
    }
    return oldest;
}

bool hold_evict(struct server *server, uint32_t principal, uint32_t executor)
{
    struct hold *hold = least_recently_used(server, principal, executor);
    if (hold) {
        forget(server, hold, "room was needed");
    }
    return hold != NULL;
}

void hold_release(struct server *server, const struct connection *connection, uint64_t handle)
{
    struct hold *hold = hold_find(server, connection, handle);
    if (hold) {
        forget(server, hold, "released");
    }
}

void hold_release_all(struct server *server, const struct connection *connection)
{
    for (uint32_t i = 0; i < HOLDS_MAX && server->holds.count > 0; i++) {
        struct hold *hold = &server->holds.entries[i];
        if (hold->used && hold->handle != 0 && hold->connection == connection) {
            forget(server, hold, "connection closed");
        }
    }
}

void hold_expire(struct server *server, uint64_t now_us)
{
    for (uint32_t i = 0; i < HOLDS_MAX && server->holds.count > 0; i++) {
        struct hold *hold = &server->holds.entries[i];
        if (hold->used && hold->handle != 0 && hold->readers == 0 &&
            now_us > hold->used_us + server->config.retain_ttl_us) {
            forget(server, hold, "not used in time");
        }
    }
}

/* ---- keeping and reading ---- */

static struct hold *unused(struct holds *holds)
{
    for (uint32_t i = 0; i < HOLDS_MAX; i++) {
        if (!holds->entries[i].used) {
            return &holds->entries[i];
        }
    }
    return NULL;
}

/* Older ones of the same owner go first; past the device's quota, anybody's oldest. False: what is
 * being read leaves no room. */
static bool make_room(struct server *server, const struct slot *slot)
{
    uint32_t executor = slot->executor, principal = slot->principal;
    uint64_t bytes = slot->span.bytes;
    uint64_t own_quota = principal_quota(server, executor);
    while (bytes_of(server, executor, principal, NULL) + bytes > own_quota ||
           bytes_of(server, executor, PRINCIPAL_NONE, slot->connection) + bytes >
               slot->connection->limits.retain_bytes) {
        if (!hold_evict(server, principal, executor)) {
            return false;
        }
    }
    while (bytes_of(server, executor, PRINCIPAL_NONE, NULL) + bytes >
           device_quota(server, executor)) {
        if (!hold_evict(server, PRINCIPAL_NONE, executor)) {
            return false;
        }
    }
    return true;
}

uint64_t hold_keep(struct server *server, struct slot *slot, uint64_t now_us)
{
    struct hold *hold = make_room(server, slot) ? unused(&server->holds) : NULL;
    if (!hold) {
        return 0;
    }
    *hold = (struct hold){.used = true,
                          .handle = ++server->holds.last_handle,
                          .connection = slot->connection,
                          .executor = slot->executor,
                          .principal = slot->principal,
                          .readers = 1, /* the forward's results are still on their way out */
                          .used_us = now_us,
                          .span = slot->span,
                          .notes = slot->notes,
                          .request = slot->request};
    slot->span = slot->notes = (struct arena_span){0};
    slot->hold = (uint32_t)(hold - server->holds.entries);
    principal_keep(&server->principals, hold->principal);
    server->holds.count++;
    server->holds.bytes += hold->span.bytes;
    return hold->handle;
}

struct hold *hold_find(struct server *server, const struct connection *connection, uint64_t handle)
{
    for (uint32_t i = 0; i < HOLDS_MAX && server->holds.count > 0 && handle != 0; i++) {
        struct hold *hold = &server->holds.entries[i];
        if (hold->used && hold->handle == handle) {
            return hold->connection == connection ? hold : NULL;
        }
    }
    return NULL;
}

void hold_read(struct server *server, struct slot *slot, struct hold *hold, uint64_t now_us)
{
    hold->readers++;
    hold->used_us = now_us;
    slot->hold = (uint32_t)(hold - server->holds.entries);
}

void hold_unread(struct server *server, struct slot *slot)
{
    if (slot->hold == SLOT_NONE) {
        return;
    }
    struct hold *hold = &server->holds.entries[slot->hold];
    slot->hold = SLOT_NONE;
    assert(hold->readers > 0);
    if (--hold->readers == 0 && hold->handle == 0) {
        give_memory_back(server, hold);
    }
}
