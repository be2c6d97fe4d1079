/* flight.c: two cursors over the steps of a batch. */
#include "server/flight.h"

#include <assert.h>
#include <limits.h>
#include <stdlib.h>

static const struct flight_step never = {INT32_MAX, 0};

bool flight_open(struct flight *flight, int32_t requests_max, int32_t sequences_max)
{
    *flight = (struct flight){0};
    flight->sums = calloc((size_t)requests_max, sizeof *flight->sums);
    flight->records = calloc((size_t)requests_max, sizeof *flight->records);
    flight->dropped = calloc((size_t)requests_max, sizeof *flight->dropped);
    return flight->sums && flight->records && flight->dropped &&
           batch_open(&flight->batch, requests_max, sequences_max);
}

void flight_begin(struct flight *flight, const struct attn_row *row)
{
    flight->row = row;
    flight->sum_count = flight->record_count = 0;
    flight->launched = flight->done = (struct flight_step){0, 0};
    for (int32_t i = 0; i < flight->batch.request_count; i++) {
        flight->dropped[i] = never;
    }
}

bool flight_all_launched(const struct flight *flight)
{
    return flight->launched.slice == flight->batch.slice_count;
}

bool flight_all_done(const struct flight *flight)
{
    return flight->done.slice == flight->batch.slice_count;
}

static bool last_part(const struct flight *flight, struct flight_step step)
{
    return step.part + 1 == flight->batch.slices[step.slice].parts;
}

static struct flight_step after(const struct flight *flight, struct flight_step step)
{
    return last_part(flight, step) ? (struct flight_step){step.slice + 1, 0}
                                   : (struct flight_step){step.slice, step.part + 1};
}

static bool before(struct flight_step a, struct flight_step b)
{
    return a.slice < b.slice || (a.slice == b.slice && a.part < b.part);
}

bool flight_launch_ends(const struct flight *flight, int32_t request)
{
    return last_part(flight, flight->launched) &&
           batch_ends(&flight->batch, flight->launched.slice, request);
}

struct device_launch flight_launch(struct flight *flight, const struct device *device,
                                   int32_t sum_count, int32_t record_count)
{
    const struct flight_step step = flight->launched;
    struct device_launch launch = {
        .row = flight->row,
        .launch = batch_launch(&flight->batch, step.slice, device->scratch, device->scratch_bytes),
        .sums = flight->sums + flight->sum_count,
        .sum_count = sum_count,
        .records = flight->records + flight->record_count,
        .record_count = record_count};
    launch.launch.part = step.part;
    launch.launch.parts = flight->batch.slices[step.slice].parts;
    flight->sum_count += sum_count;
    flight->record_count += record_count;
    flight->launched = after(flight, step);
    return launch;
}

int32_t flight_completes(const struct flight *flight)
{
    assert(before(flight->done, flight->launched));
    return last_part(flight, flight->done) ? flight->done.slice : -1;
}

void flight_advance(struct flight *flight)
{
    flight->done = after(flight, flight->done);
}

double flight_step_flops(const struct flight *flight)
{
    const struct batch_slice *slice = &flight->batch.slices[flight->done.slice];
    return slice->flops / slice->parts;
}

/* A slice of several parts has one sequence, so that the parts still to come can be emptied. */
void flight_drop(struct flight *flight, int32_t request)
{
    if (!flight->batch.requests[request].dropped) {
        flight->dropped[request] = flight->launched;
        batch_drop(&flight->batch, request, flight->launched.slice);
    }
}

bool flight_left(const struct flight *flight, int32_t request)
{
    return !before(after(flight, flight->done), flight->dropped[request]);
}
