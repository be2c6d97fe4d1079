/*
 * bad_client.h: what test_bad_input.c and test_bad_requests.c share: a live daemon, a client that
 * breaks rules over a plain socket, and a good one beside it. Every test begins with both connected
 * and the good one served; it ends with the good one served again, and with the daemon's own
 * numbers saying that nothing of the bad one is held: no connection, no request, no byte of the
 * arena.
 */
#ifndef TESTS_BAD_CLIENT_H
#define TESTS_BAD_CLIENT_H

#include "tests/proto/check_error.h"
#include "tests/support/daemon.h"
#include "tests/support/exchange.h"
#include "tests/support/peer.h"

enum { ANSWER_MS = 10000, ID = 5 };

extern struct daemon server;
extern struct exchange small, large; /* one chunk a tensor; several of q and v */
extern struct peer good, bad;        /* bad is connected and has said nothing */
extern struct exchange_message message;

/* The bad client comes over tcp, with a token; before the fixtures. */
void use_tcp(void);
bool over_tcp(void);

/* A connection of the bad client that has said nothing. */
void connect_bad(void);

/* Another one, by the same way. */
bool connect_like_bad(struct peer *peer);

/* Over tcp a HELLO needs it. */
void show_token(struct wire_hello *hello);

/* Fixtures: of all tests, and of each. */
void start_daemon(void);
void stop_daemon(void);
void connect_both(void);
void served_as_before(void);

/* ---- what the bad client says ---- */

void say(const void *bytes, size_t count);
void say_sp_hello(void); /* and hears the daemon's */
void say_message(enum frame_type type, uint64_t request, const void *header, size_t bytes);
void say_hello(const struct wire_hello *hello);

/* Message `index` of the exchange, as it should be; it stays in `message`. */
void say_part(const struct exchange *exchange, uint32_t index);

/* A head whose bytes are changed afterwards: what our encoder would never write. offset: as on a
 * unix socket. */
void say_head(struct frame frame, size_t offset, const void *change, size_t bytes);

/* ---- what it must hear ---- */

void check_answer(uint64_t id, enum fas_status expected, const char *field);
void check_closed(void);

/* The connection is at fault: told once, then closed. */
void check_connection_refused(enum fas_status expected, const char *field);

/* The request ID is at fault: its connection goes on. */
void check_request_refused(enum fas_status expected, const char *field);

/* Whatever the daemon still says (its hello, an ERROR), it closes; Check's time limit watches. */
void check_ends(void);

void check_served(struct peer *peer, uint64_t id);
double daemon_requests(void); /* as the daemon counts them */

#endif
