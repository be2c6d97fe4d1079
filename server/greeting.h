/*
 * greeting.h: how a connection begins: a peer says HELLO, and is either in, with its principal and
 * its limits, or told why not.
 *
 * Owner: the loop thread.
 */
#ifndef SERVER_GREETING_H
#define SERVER_GREETING_H

#include <stdint.h>

struct connection;
struct inbox_record;
struct server;

/* A HELLO from a connection that is GREETING: OPEN and HELLO_ACK, or connection_fail. */
void greeting_hello(struct server *server, struct connection *connection,
                    const struct inbox_record *record, uint64_t now_us);

#endif
