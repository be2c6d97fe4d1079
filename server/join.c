/* join.c: see join.h. */
#include "server/join.h"

#include <assert.h>
#include <string.h>
#include <sys/random.h>

#include "server/intake.h"
#include "server/log.h"
#include "server/server.h"

void join_begin(struct connection *connection)
{
    connection->leader = connection;
    connection->lane = 0;
    connection->join = (struct join){.lanes = {connection}};
}

void join_offer(struct connection *connection, uint64_t until_us, uint8_t nonce[FAS_NONCE_BYTES])
{
    struct join *join = &connection->join;
    bool random = getrandom(join->nonce, FAS_NONCE_BYTES, GRND_NONBLOCK) == FAS_NONCE_BYTES;
    join->until_us = random ? until_us : 0;
    if (random) {
        memcpy(nonce, join->nonce, FAS_NONCE_BYTES);
    }
}

/* 0 if equal; takes the same time for all. */
static unsigned difference(const uint8_t a[FAS_NONCE_BYTES], const uint8_t b[FAS_NONCE_BYTES])
{
    unsigned different = 0;
    for (uint32_t i = 0; i < FAS_NONCE_BYTES; i++) {
        different |= (unsigned)(a[i] ^ b[i]);
    }
    return different;
}

/* Whose nonce it is, if it may still be used, and by this principal; NULL: nobody's. */
static struct connection *find_leader(struct server *server, uint32_t principal,
                                      const uint8_t nonce[FAS_NONCE_BYTES], uint64_t now_us)
{
    struct connection *found = NULL;
    for (uint32_t i = 0; i < server->connections.count; i++) {
        struct connection *leader = &server->connections.entries[i];
        bool open = leader->state == CONNECTION_OPEN && leader->leader == leader &&
                    now_us < leader->join.until_us && leader->principal == principal;
        found = open && difference(leader->join.nonce, nonce) == 0 ? leader : found;
    }
    return found;
}

enum fas_status join_enter(struct server *server, struct connection *connection,
                           const uint8_t nonce[FAS_NONCE_BYTES], uint64_t now_us,
                           struct fas_error *error)
{
    struct connection *leader = find_leader(server, connection->principal, nonce, now_us);
    if (!leader) { /* wrong, too late, somebody else's: the answer does not tell which */
        return fas_fail(error, FAS_UNAUTHENTICATED, "join", "no connection to be joined by it");
    }
    uint32_t lane = 1;
    while (lane < FAS_LANES_MAX && leader->join.lanes[lane]) {
        lane++;
    }
    if (lane == FAS_LANES_MAX) {
        return fas_fail(error, FAS_RESOURCE_EXHAUSTED, "join",
                        "a client has %u connections at most", FAS_LANES_MAX);
    }
    leader->join.lanes[lane] = connection;
    connection->leader = leader;
    connection->lane = lane;
    reader_join(stream_reader(connection->stream), stream_reader(leader->stream));
    log_info("connection_joined", log_u64("connection", connection->number),
             log_u64("leader", leader->number));
    return FAS_OK;
}

void join_leave(struct server *server, struct connection *connection)
{
    struct connection *leader = connection->leader;
    uint32_t lane = connection->lane, index = leader->first_slot;
    assert(lane > 0 && leader->state >= CONNECTION_LEAVING);
    leader->join.lanes[lane] = NULL;
    for (uint32_t count = leader->slot_count; count > 0; count--) {
        struct slot *slot = &server->slots.entries[index];
        index = slot->next;
        slot->landing &= ~(1u << lane);
        slot->sends[lane] = 0;
        staging_forget(slot, connection);
        intake_settle(server, slot);
    }
}

bool join_alone(const struct connection *leader)
{
    for (uint32_t lane = 1; lane < FAS_LANES_MAX; lane++) {
        if (leader->join.lanes[lane]) {
            return false;
        }
    }
    return true;
}

void join_decided(struct connection *leader)
{
    for (uint32_t lane = 1; lane < FAS_LANES_MAX; lane++) {
        struct connection *joined = leader->join.lanes[lane];
        if (joined && joined->state == CONNECTION_OPEN) {
            reader_feed(stream_reader(joined->stream));
            stream_resume(joined->stream);
        }
    }
}

uint32_t join_landing(const struct connection *leader, uint64_t request)
{
    uint32_t lanes = 0;
    for (uint32_t lane = 1; lane < FAS_LANES_MAX; lane++) {
        struct connection *joined = leader->join.lanes[lane];
        if (joined && reader_lands(stream_reader(joined->stream), request)) {
            lanes |= 1u << lane;
        }
    }
    return lanes;
}
