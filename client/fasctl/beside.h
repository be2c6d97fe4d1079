/*
 * beside.h: a closed load on the daemon and the same work in process, turn and turn about: a GPU's
 * clock moves by 5 to 10 % between one minute and the next, so only neighbours in time compare. And
 * who is second finds a warmer GPU, which at its power cap is up to 3 % slower: so two turns, one
 * begun by either, are one measurement, and a GPU that has rested is not measured at all.
 *
 * A request's time in process is that of its launches back to back, as many ahead as a daemon that
 * is kept busy has; with more than two callers also that of all their requests as one launch, of
 * the same with tensors of their own for each, and of launches of as many as the daemon's batches
 * have: that says what of a crowd's loss is the kernel's, and what the daemon's. With parts also
 * that of the request cut. Then the bound of what is copied: the bus one way, the bus the other
 * way, the kernel, whichever takes longest; and, since a bus that is busy both ways is slower each
 * way, what the copies take with nothing else running.
 */
#ifndef FASCTL_BESIDE_H
#define FASCTL_BESIDE_H

#include "client/fasctl/baseline.h"
#include "client/fasctl/load.h"

#define BESIDE_ROUNDS_MAX 32

/* Of the pairs of turns. */
struct spread {
    double median, min, max;
};

enum beside_lane { BESIDE_UPLOAD, BESIDE_COMPUTE, BESIDE_DOWNLOAD, BESIDE_LANES };

struct beside {
    int rounds;                                                /* 0: nothing was in process */
    double in_process_us, in_process_p50_us, union_us, cut_us; /* of a request; medians */
    struct spread of_in_process, of_union; /* tokens/s served, as parts of those in process */
    struct spread sets_of_union, batches_of_union; /* in process, as parts of the union's */
    struct spread cut_over;                        /* time in process, cut over uncut */
    double bound_us, over_bound, copies_us;        /* 0: nothing is copied */
    struct spread over_copies;                     /* time served, over that of the copies alone */
    double busy[BESIDE_LANES];                     /* part of the time, of all devices */
};

struct beside_options {
    struct baseline *baseline; /* NULL: none */
    int rounds;                /* 1 to BESIDE_ROUNDS_MAX */
    int parts;
};

/* Runs the open load. False: load->error says what failed. */
bool beside_run(struct load *load, const struct beside_options *options, struct outcome *outcome,
                struct beside *beside);

#endif
