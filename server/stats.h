/*
 * stats.h: what the daemon counts. One row per number (stats.c): name, kind, unit, help; a snapshot
 * is name and value pairs for STATS and for logs.
 *
 *   counter    only rises                          stats_add
 *   gauge      a level                             stats_set
 *   histogram  of values such as microseconds      stats_record
 *
 * Histograms have 16 buckets per power of two: a quantile is right within 1/16 (6 %), at 5 KiB each
 * and a few instructions per value. Gauges of devices exist once per device.
 * Owner: the loop thread; nothing here is atomic.
 */
#ifndef SERVER_STATS_H
#define SERVER_STATS_H

#include <stddef.h>
#include <stdint.h>

#include "proto/limits.h"

enum stats_counter {
    STATS_CONNECTIONS_ACCEPTED,
    STATS_CONNECTIONS_REFUSED, /* too many, bad hello, bad token */
    STATS_CONNECTIONS_LOST,    /* without a goodbye, or for want of progress */
    STATS_REQUESTS_RECEIVED,
    STATS_REQUESTS_OK,
    STATS_REQUESTS_INVALID,
    STATS_REQUESTS_UNSUPPORTED,
    STATS_REQUESTS_EXHAUSTED,
    STATS_REQUESTS_DEADLINE,
    STATS_REQUESTS_CANCELLED,
    STATS_REQUESTS_UNAVAILABLE,
    STATS_REQUESTS_FAULTED, /* DEVICE_FAULT, NOT_FOUND, INTERNAL */
    STATS_TOKENS,
    STATS_FLOPS,
    STATS_BATCHES,
    STATS_SLICES,
    STATS_BYTES_IN, /* payload, by the place it came from */
    STATS_BYTES_OUT,
    STATS_BYTES_REGION,
    STATS_BYTES_CUDA,
    STATS_COUNTERS
};

enum stats_gauge {
    STATS_UPTIME_US,
    STATS_READY, /* 1: accepts requests */
    STATS_CONNECTIONS,
    STATS_REQUESTS_IN_FLIGHT,
    STATS_RETAINED_HANDLES,
    STATS_RETAINED_BYTES,
    STATS_LOG_LOST,
    STATS_GAUGES
};

enum stats_device_gauge {
    STATS_DEVICE_ARENA_BYTES,
    STATS_DEVICE_ARENA_USED_BYTES,
    STATS_DEVICE_ARENA_HIGH_BYTES,
    STATS_DEVICE_QUEUE_REQUESTS,
    STATS_DEVICE_QUEUE_TOKENS,
    STATS_DEVICE_QUEUE_FLOPS,
    STATS_DEVICE_BUSY_US, /* time with a launch running, since the start */
    STATS_DEVICE_FLOPS,   /* computed, since the start */
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
    struct stats_distribution histograms[STATS_HISTOGRAMS];
    struct stats_device devices[FAS_DEVICES_MAX];
    uint32_t device_count;
};

void stats_open(struct stats *stats);

/* Adds a device; its number counts from 0 in the order of calls. */
uint32_t stats_device_add(struct stats *stats, const char *name);

void stats_add(struct stats *stats, enum stats_counter counter, double value);
void stats_set(struct stats *stats, enum stats_gauge gauge, double value);
void stats_device_set(struct stats *stats, uint32_t device, enum stats_device_gauge gauge,
                      double value);
void stats_record(struct stats *stats, enum stats_histogram histogram, uint64_t value);

/* The value that a share `q` (0 to 1) of the recorded values does not exceed; 0 if there are none.
 */
uint64_t stats_quantile(const struct stats_distribution *distribution, double q);

struct stats_value {
    char name[FAS_NAME_BYTES_MAX]; /* "requests_ok", "queue_us.p99", "cpu:0.arena_used_bytes" */
    double value;
};

/* Fills out with at most `room` values and returns how many there are in all. */
size_t stats_snapshot(const struct stats *stats, struct stats_value *out, size_t room);

#endif
