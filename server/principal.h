/*
 * principal.h: whoever is accounted for: a user of this node (uid of the unix socket's peer) or the
 * name of a token. Shares, quotas and fair queues count principals, never connections, so opening
 * more connections gains nobody anything.
 *
 * A fixed table, found by identity. An entry stays while a connection or a request refers to it,
 * and after that until its place is needed for somebody new (the longest absent goes first): coming
 * back forgives nothing that was used, and what a principal was served keeps counting. Admission is
 * a pure decision on what the principal and all together hold already. Owner: the loop thread.
 */
#ifndef SERVER_PRINCIPAL_H
#define SERVER_PRINCIPAL_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/limits.h"
#include "proto/status.h"
#include "server/cost.h"
#include "server/retry.h"

#define PRINCIPAL_NONE UINT32_MAX

/* Doubles: years of it do not overflow. */
struct principal_work {
    double requests, tokens, flops;
};

struct principal {
    char name[FAS_NAME_BYTES_MAX]; /* "uid:1000", "token:trainer" */
    double weight;                 /* of its share; 1 unless the token file says otherwise */
    uint32_t references;           /* connections and requests; 0: it is absent */
    uint64_t left;                 /* how many departures there had been when it left */
    struct cost held;              /* admitted, not yet done */
    struct principal_work served;  /* answered OK */
};

struct principal_limits {
    uint32_t requests; /* of one principal */
    uint64_t bytes;    /* of one principal */
    struct cost all; /* of all together: requests (slots), tokens, flops; bytes: the arena's say */
};

struct principals {
    struct principal *entries;
    uint32_t count;
    struct cost held; /* by all */
    uint64_t departures;
};

bool principals_open(struct principals *principals, uint32_t count);
void principals_close(struct principals *principals);

/*
 * The entry of that name, made if need be, with one reference more; PRINCIPAL_NONE if all are in
 * use (one entry per connection and slot always suffices). *fresh: the number now means somebody
 * else than before.
 */
uint32_t principal_take(struct principals *principals, const char *name, double weight,
                        bool *fresh);
void principal_keep(struct principals *principals, uint32_t principal);
void principal_give(struct principals *principals, uint32_t principal);

/*
 * Whether the cost fits beside what is held; FAS_OK also books it. RESOURCE_EXHAUSTED if it does
 * not fit now, INVALID_ARGUMENT if it never will, with both numbers.
 */
enum fas_status principal_admit(struct principals *principals, uint32_t principal,
                                const struct cost *cost, const struct principal_limits *limits,
                                struct fas_error *error);

/* What the rules of admission compare, for retry.h. */
#define PRINCIPAL_USES 5u
void principal_uses(const struct principals *principals, uint32_t principal,
                    const struct cost *cost, const struct principal_limits *limits,
                    struct retry_use uses[PRINCIPAL_USES]);

void principal_release(struct principals *principals, uint32_t principal, const struct cost *cost);

/* A request was answered OK. */
void principal_serve(struct principals *principals, uint32_t principal, const struct cost *cost);

#endif
