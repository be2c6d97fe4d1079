/*
 * stats.h: what the daemon counts. One row per number (stats.c): its name in a STATS reply, its
 * name and labels as a metric, its help.
 *
 *   counter    only rises                            stats_add, and what counts events by it
 *   gauge      a level                               stats_set
 *   histogram  of values such as microseconds        stats_record
 *
 * A snapshot is name and value pairs for STATS (here); metrics.h writes the same numbers for
 * Prometheus. Histograms have 16 buckets per power of two: a quantile is right within 1/16 (6 %),
 * at 5 KiB each and a few instructions per value. Gauges of devices exist once per device. Owner:
 * the loop thread; nothing here is atomic.
 */
#ifndef SERVER_STATS_H
#define SERVER_STATS_H

#include <stddef.h>
#include <stdint.h>

#include "proto/limits.h"
#include "proto/status.h"
#include "proto/tensor.h"

enum stats_counter {
    STATS_CONNECTIONS_ACCEPTED,
    STATS_CONNECTIONS_REFUSED, /* too many, bad hello, bad token */
    STATS_CONNECTIONS_LOST,    /* without a goodbye, or for want of progress */
    STATS_REQUESTS_RECEIVED,
    STATS_BATCHES,
    STATS_SLICES,
    STATS_COUNTERS
};

enum stats_gauge {
    STATS_UPTIME_US,
    STATS_CPU_US,
    STATS_READY, /* 1: accepts requests */
    STATS_CONNECTIONS,
    STATS_REQUESTS_IN_FLIGHT,
    STATS_SLOTS,
    STATS_NOTES_BYTES,
    STATS_NOTES_HIGH_BYTES,
    STATS_RETAINED_HANDLES,
    STATS_RETAINED_BYTES,
    STATS_PLACES,   /* open: regions, CUDA allocations, events */
    STATS_MAPPINGS, /* of those, CUDA allocations whose memory is mapped */
    STATS_REGION_BYTES,
    STATS_LOG_LOST,
    STATS_GAUGES
};

enum stats_device_gauge {
    STATS_DEVICE_UP, /* 1: it works */
    STATS_DEVICE_ARENA_BYTES,
    STATS_DEVICE_ARENA_USED_BYTES,
    STATS_DEVICE_ARENA_HIGH_BYTES,
    STATS_DEVICE_STAGING_BYTES, /* pinned slabs */
    STATS_DEVICE_STAGING_HIGH_BYTES,
    STATS_DEVICE_QUEUE_REQUESTS,
    STATS_DEVICE_QUEUE_TOKENS,
    STATS_DEVICE_QUEUE_FLOPS,
    STATS_DEVICE_BUSY_US,   /* time with a launch running, since the start */
    STATS_DEVICE_UPLOAD_US, /* with a copy to it under way */
    STATS_DEVICE_DOWNLOAD_US,
    STATS_DEVICE_FLOPS, /* computed, since the start */
    STATS_DEVICE_FLOP_RATE,
    STATS_DEVICE_GAUGES
};

enum stats_histogram {
    STATS_TOTAL_US,
    STATS_QUEUE_US,
    STATS_COPY_IN_US,
    STATS_COMPUTE_US,
    STATS_COPY_OUT_US,
    STATS_BATCH_REQUESTS,
    STATS_BATCH_TOKENS,
    STATS_SLICE_US,
    STATS_HISTOGRAMS
};

/* What a request asked for; UNREAD: it was refused before its header said. */
enum stats_pass {
    STATS_FORWARD = FAS_FORWARD,
    STATS_BACKWARD = FAS_BACKWARD,
    STATS_UNREAD,
    STATS_PASSES
};

enum stats_direction { STATS_IN, STATS_OUT, STATS_DIRECTIONS };

/* One number. `metric` is what follows "faserved_", a counter if it ends in _total; it counts base
 * units: seconds where `name` says _us. Rows of one metric stand together. */
struct stats_row {
    const char *name;
    const char *metric, *labels; /* labels: phase="queue"; NULL: none */
    const char *help;            /* the first row of a metric has it, the others NULL */
};

#define STATS_BUCKETS_PER_OCTAVE 16u
#define STATS_OCTAVES 44u /* 16 us * 2^40: half a year in microseconds */

struct stats_distribution {
    uint64_t count;
    double sum;
    uint64_t max;
    uint64_t buckets[STATS_OCTAVES * STATS_BUCKETS_PER_OCTAVE];
};

struct stats_device {
    char name[16]; /* "cpu:0" */
    double gauges[STATS_DEVICE_GAUGES];
};

struct stats {
    double counters[STATS_COUNTERS];
    double gauges[STATS_GAUGES];
    double answers[STATS_PASSES][FAS_STATUS_COUNT];   /* requests, by the status of their answer */
    double tokens[STATS_PASSES], flops[STATS_PASSES]; /* of those answered OK */
    double payload_bytes[STATS_DIRECTIONS][FAS_PLACE_COUNT];
    struct stats_distribution histograms[STATS_HISTOGRAMS];
    struct stats_device devices[FAS_DEVICES_MAX];
    uint32_t device_count;
};

extern const struct stats_row stats_counter_rows[STATS_COUNTERS];
extern const struct stats_row stats_gauge_rows[STATS_GAUGES];
extern const struct stats_row stats_device_rows[STATS_DEVICE_GAUGES];
extern const struct stats_row stats_histogram_rows[STATS_HISTOGRAMS];

const char *stats_pass_name(enum stats_pass pass);                /* "forward" */
const char *stats_direction_name(enum stats_direction direction); /* "in" */

void stats_open(struct stats *stats);

/* Adds a device; its number counts from 0 in the order of calls. */
uint32_t stats_device_add(struct stats *stats, const char *name);

void stats_add(struct stats *stats, enum stats_counter counter, double value);
void stats_set(struct stats *stats, enum stats_gauge gauge, double value);
void stats_device_set(struct stats *stats, uint32_t device, enum stats_device_gauge gauge,
                      double value);
void stats_record(struct stats *stats, enum stats_histogram histogram, uint64_t value);

/* A request has its answer. */
void stats_answer(struct stats *stats, enum stats_pass pass, enum fas_status status);
/* Work that was delivered. */
void stats_work(struct stats *stats, enum stats_pass pass, double tokens, double flops);
/* Tensors of a request, by where they were: copied, or used in place. */
void stats_payload(struct stats *stats, enum stats_direction direction, enum fas_place place,
                   double bytes);

/* The value that a share `q` (0 to 1) of the recorded values does not exceed; 0 if there are none.
 */
uint64_t stats_quantile(const struct stats_distribution *distribution, double q);

/* How many of the recorded values are below 2^exponent. Exact. */
uint64_t stats_below(const struct stats_distribution *distribution, uint32_t exponent);

struct stats_value {
    char name[FAS_NAME_BYTES_MAX]; /* "requests_ok", "queue_us.p99", "cpu:0.arena_used_bytes" */
    double value;
};

/* Fills out with at most `room` values and returns how many there are in all. */
size_t stats_snapshot(const struct stats *stats, struct stats_value *out, size_t room);

#endif
