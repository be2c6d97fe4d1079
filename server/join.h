/*
 * join.h: further connections of one client. The first one, the leader, has all that a client has
 * (limits, requests, places); the others only carry payloads for it (frame.h). A connection that
 * nobody joined is its own leader, in lane 0.
 *
 * Joined connections come and go with their leader: it is closed last, so what reads or writes the
 * memory of its requests is over before they are.
 *
 * Owner: the loop thread.
 */
#ifndef SERVER_JOIN_H
#define SERVER_JOIN_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/wire.h"

struct connection;
struct server;
struct slot;

/* A client's connections by lane; NULL: none in that lane. Of the leader. */
struct join {
    struct connection *lanes[FAS_LANES_MAX];
    uint8_t nonce[FAS_NONCE_BYTES];
    uint64_t until_us; /* the nonce joins; 0: never */
};

/* A new connection leads itself. */
void join_begin(struct connection *connection);

/* It is greeted: the nonce by which others join it, until then. */
void join_offer(struct connection *connection, uint64_t until_us, uint8_t nonce[FAS_NONCE_BYTES]);

/* `connection`, whose principal is known, joins whose nonce it shows. Field of errors: "join". */
enum fas_status join_enter(struct server *server, struct connection *connection,
                           const uint8_t nonce[FAS_NONCE_BYTES], uint64_t now_us,
                           struct fas_error *error);

/* A joined connection's stream is closed: nothing of it reads or writes memory any more. */
void join_leave(struct server *server, struct connection *connection);

/* Nobody has joined it, or nobody any more. */
bool join_alone(const struct connection *leader);

/* A REQUEST was decided: DATA that came ahead of it need not wait any longer. */
void join_decided(struct connection *leader);

/* The lanes, as a bit set, in which a payload of an ended request is still being received. */
uint32_t join_landing(const struct connection *leader, uint64_t request);

#endif
