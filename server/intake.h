/*
 * intake.h: from REQUEST to a complete slot: admission, arrival of the inputs, and every way a
 * request can end early.
 *
 * Whatever is admitted has all it needs reserved: arena space for inputs and outputs, host memory
 * for its sequences, a slot. What does not fit now is refused at once with RESOURCE_EXHAUSTED and a
 * time to try again, what never will with INVALID_ARGUMENT and both numbers.
 * Owner: the loop thread.
 */
#ifndef SERVER_INTAKE_H
#define SERVER_INTAKE_H

#include "server/connection.h"
#include "server/inbox.h"
#include "server/stats.h"

/* A REQUEST: admitted (its DATA has places), or answered with an ERROR. */
void intake_request(struct server *server, struct connection *connection,
                    const struct inbox_record *record, uint64_t now_us);

/* A DATA payload landed, was dropped, or was refused. */
void intake_data(struct server *server, struct connection *connection,
                 const struct inbox_record *record, uint64_t now_us);

/* So many bytes of its inputs have come to the arena; with the last of them, and its wait event
 * come to pass, it is complete. */
void intake_uploaded(struct server *server, struct slot *slot, uint64_t bytes, uint64_t now_us);

/* Ends a request early with *error; its answer goes out as soon as the device has let go of it. A
 * request that is over already is left alone. */
void intake_end(struct server *server, struct slot *slot, const struct fas_error *error);

/* Its peer is gone: as above, and nobody is answered. */
void intake_orphan(struct server *server, struct slot *slot);

/* Gives everything a slot holds back if nothing can touch its memory any more; else does nothing:
 * whoever lets go of it last calls again. */
void intake_settle(struct server *server, struct slot *slot);

#endif
