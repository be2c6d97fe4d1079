/*
 * reply.h: what goes out to a peer: control messages first, then results of its requests by turns,
 * a chunk of whole rows each, as far as the peer's credit goes; DONE or ERROR last.
 *
 * One send is composed at a time, of up to 8 pieces; chunks are sent from where the device left
 * them. Requests of a connection take turns by chunk; connections do not know each other.
 * Owner: the loop thread.
 */
#ifndef SERVER_REPLY_H
#define SERVER_REPLY_H

#include "server/connection.h"

/* Starts a send on every connection that has something to say, behind the one under way if need
 * be. */
void reply_send_all(struct server *server, uint64_t now_us);

/* Sends are over: what they referred to is free. */
void reply_sent(struct server *server, struct connection *connection);

#endif
