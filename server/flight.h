/*
 * flight.h: a batch on its way through a device: laid out once, launched step by step, done in the
 * same order. A step is one part of one slice (batch.h). Steps that were launched and are not done
 * are with the device; those still to come can be changed: who drops out then is not in them.
 * Owner: the loop thread; the device reads what was launched.
 */
#ifndef SERVER_FLIGHT_H
#define SERVER_FLIGHT_H

#include <stdbool.h>
#include <stdint.h>

#include "server/batch.h"
#include "server/device.h"

struct flight_step {
    int32_t slice, part;
};

struct flight {
    struct batch batch;
    const struct attn_row *row;
    struct attn_dsink_sum *sums;   /* one per request at most, as they end */
    int32_t sum_count;             /* of those, launched */
    struct device_record *records; /* the same of done events */
    int32_t record_count;
    struct flight_step launched; /* the next to launch */
    struct flight_step done;     /* the next to be done */
    struct flight_step *dropped; /* per request: it is in no step from this one on */
};

bool flight_open(struct flight *flight, int32_t requests_max, int32_t sequences_max);

/* After batch_layout. */
void flight_begin(struct flight *flight, const struct attn_row *row);

bool flight_all_launched(const struct flight *flight);
bool flight_all_done(const struct flight *flight);

/* Whether the next step to launch is the last that has sequences of the request. */
bool flight_launch_ends(const struct flight *flight, int32_t request);

/* The next step, with the sums and records that were put behind flight->sums + flight->sum_count
 * and flight->records + flight->record_count. */
struct device_launch flight_launch(struct flight *flight, const struct device *device,
                                   int32_t sum_count, int32_t record_count);

/* The step flight->done is over: which slice is complete with it, -1: there are more parts of it.
 * Then flight_advance. */
int32_t flight_completes(const struct flight *flight);
void flight_advance(struct flight *flight);
double flight_step_flops(const struct flight *flight);

/* The request is in no step that is still to launch. */
void flight_drop(struct flight *flight, int32_t request);

/* A dropped request: with the step flight->done over, no launch refers to it. */
bool flight_left(const struct flight *flight, int32_t request);

#endif
