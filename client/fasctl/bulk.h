/*
 * bulk.h: bulk through the daemon in one direction, and through plain sockets of the same kind and
 * number, turn and turn about.
 */
#ifndef FASCTL_BULK_H
#define FASCTL_BULK_H

#include "client/fasctl/load.h"
#include "client/fasctl/plain.h"

/* What plain_open should be given: as much memory as the requests in flight take. */
#define BULK_BUFFER_BYTES ((uint64_t)2 * (16u << 20))

struct bulk {
    struct fas_client *client;
    enum fas_place place;
    struct plain *plain;
    bool up; /* tensors travel to the daemon; else from it */

    double bytes; /* out: of one round, both ways */
    struct outcome outcome;
    double plain_gbytes_per_s; /* 0: they failed */
    struct fas_error error;    /* when it failed */
};

/* False: it failed. */
bool bulk_run(struct bulk *bulk);

#endif
