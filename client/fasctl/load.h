/*
 * load.h: load on a daemon, and what came of it.
 *
 * Closed loop: so many callers, each with one request in flight, the next when the last has ended:
 * what a trainer does. Open loop: requests arrive at random at a given rate whether or not earlier
 * ones have ended, and time counts from when a request was due, so that a daemon that stalls can
 * not hide the requests it held up.
 */
#ifndef FASCTL_LOAD_H
#define FASCTL_LOAD_H

#include "client/fasctl/workload.h"
#include "client/faserve.h"

struct load {
    struct shape shape;
    enum fas_place place; /* of its tensors */
    struct fas_client *const *clients;
    int client_count;
    int callers;            /* closed loop */
    double rate;            /* open loop, per second; 0: closed loop */
    int64_t requests;       /* at least so many after warming up, */
    double seconds;         /* and at least so long */
    struct fas_error error; /* of the first that failed */
    struct caller *opened;  /* private: closed loop */
    struct tally *tally;
    double seconds_run;
};

struct outcome {
    int64_t requests, failed;
    double seconds;
    double p50_us, p90_us, p99_us, p999_us;
    double queue_us, copy_in_us, compute_us, copy_out_us; /* means */
    double batch_requests;                                /* mean */
    double tokens_per_s, gbytes_per_s;                    /* bytes both ways */
    double bytes_in, bytes_out;                           /* of a request */
};

/* The callers' tensors. False: load->error says what failed; to be closed in any case. */
bool load_open(struct load *load);

/* Once or more; *outcome is of all runs. False: nothing succeeded; load->error says what failed. */
bool load_run(struct load *load, struct outcome *outcome);

void load_close(struct load *load);

#endif
