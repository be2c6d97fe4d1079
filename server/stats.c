/*
 * stats.c: the rows, and buckets by powers of two. What stands in the rows is the documentation
 * operators see; the names in deploy/operations.md are tested to be among them.
 */
#include "server/stats.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static const char *const counter_names[STATS_COUNTERS] = {
    [STATS_CONNECTIONS_ACCEPTED] = "connections_accepted",
    [STATS_CONNECTIONS_REFUSED] = "connections_refused",
    [STATS_CONNECTIONS_LOST] = "connections_lost",
    [STATS_REQUESTS_RECEIVED] = "requests_received",
    [STATS_REQUESTS_OK] = "requests_ok",
    [STATS_REQUESTS_INVALID] = "requests_invalid",
    [STATS_REQUESTS_UNSUPPORTED] = "requests_unsupported",
    [STATS_REQUESTS_EXHAUSTED] = "requests_exhausted",
    [STATS_REQUESTS_DEADLINE] = "requests_deadline",
    [STATS_REQUESTS_CANCELLED] = "requests_cancelled",
    [STATS_REQUESTS_UNAVAILABLE] = "requests_unavailable",
    [STATS_REQUESTS_FAULTED] = "requests_faulted",
    [STATS_TOKENS] = "tokens",
    [STATS_FLOPS] = "flops",
    [STATS_BATCHES] = "batches",
    [STATS_SLICES] = "slices",
    [STATS_BYTES_IN] = "bytes_in",
    [STATS_BYTES_OUT] = "bytes_out",
    [STATS_BYTES_REGION] = "bytes_region",
    [STATS_BYTES_CUDA] = "bytes_cuda",
};

static const char *const gauge_names[STATS_GAUGES] = {
    [STATS_UPTIME_US] = "uptime_us",
    [STATS_READY] = "ready",
    [STATS_CONNECTIONS] = "connections",
    [STATS_REQUESTS_IN_FLIGHT] = "requests_in_flight",
    [STATS_RETAINED_HANDLES] = "retained_handles",
    [STATS_RETAINED_BYTES] = "retained_bytes",
    [STATS_LOG_LOST] = "log_lost",
};

static const char *const device_gauge_names[STATS_DEVICE_GAUGES] = {
    [STATS_DEVICE_ARENA_BYTES] = "arena_bytes",
    [STATS_DEVICE_ARENA_USED_BYTES] = "arena_used_bytes",
    [STATS_DEVICE_ARENA_HIGH_BYTES] = "arena_high_bytes",
    [STATS_DEVICE_QUEUE_REQUESTS] = "queue_requests",
    [STATS_DEVICE_QUEUE_TOKENS] = "queue_tokens",
    [STATS_DEVICE_QUEUE_FLOPS] = "queue_flops",
    [STATS_DEVICE_BUSY_US] = "busy_us",
    [STATS_DEVICE_FLOPS] = "flops",
    [STATS_DEVICE_FLOP_RATE] = "flop_rate",
};

static const char *const histogram_names[STATS_HISTOGRAMS] = {
    [STATS_TOTAL_US] = "total_us",         [STATS_QUEUE_US] = "queue_us",
    [STATS_COPY_IN_US] = "copy_in_us",     [STATS_COMPUTE_US] = "compute_us",
    [STATS_COPY_OUT_US] = "copy_out_us",   [STATS_BATCH_REQUESTS] = "batch_requests",
    [STATS_BATCH_TOKENS] = "batch_tokens", [STATS_SLICE_US] = "slice_us",
};

static const struct quantile_row {
    const char *name;
    double q;
} quantiles[] = {{"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}, {"p999", 0.999}};

/* count, mean, max and the quantiles. */
#define VALUES_PER_HISTOGRAM (3u + sizeof(quantiles) / sizeof(quantiles[0]))

static_assert(STATS_COUNTERS + STATS_GAUGES + STATS_HISTOGRAMS * VALUES_PER_HISTOGRAM +
                      FAS_DEVICES_MAX * STATS_DEVICE_GAUGES <=
                  FAS_STATS_MAX,
              "a snapshot fits a STATS reply");

void stats_open(struct stats *stats)
{
    memset(stats, 0, sizeof(*stats));
}

uint32_t stats_device_add(struct stats *stats, const char *name)
{
    assert(stats->device_count < FAS_DEVICES_MAX);
    struct stats_device *device = &stats->devices[stats->device_count];
    snprintf(device->name, sizeof(device->name), "%s", name);
    return stats->device_count++;
}

void stats_add(struct stats *stats, enum stats_counter counter, double value)
{
    assert(value >= 0);
    stats->counters[counter] += value;
}

void stats_set(struct stats *stats, enum stats_gauge gauge, double value)
{
    stats->gauges[gauge] = value;
}

void stats_device_set(struct stats *stats, uint32_t device, enum stats_device_gauge gauge,
                      double value)
{
    assert(device < stats->device_count);
    stats->devices[device].gauges[gauge] = value;
}

/*
 * Values below 16 have a bucket each; above, the bucket is the position of the highest bit and the
 * four bits below it. Values past the last octave share its last bucket.
 */
static uint32_t bucket_of(uint64_t value)
{
    if (value < STATS_BUCKETS_PER_OCTAVE) {
        return (uint32_t)value;
    }
    uint32_t top = 63u - (uint32_t)__builtin_clzll(value);
    uint32_t octave = top - 3u;
    if (octave >= STATS_OCTAVES) {
        return STATS_OCTAVES * STATS_BUCKETS_PER_OCTAVE - 1u;
    }
    return octave * STATS_BUCKETS_PER_OCTAVE +
           (uint32_t)((value >> (top - 4u)) % STATS_BUCKETS_PER_OCTAVE);
}

/* The largest value that falls into the bucket; the last one has no end. */
static uint64_t bucket_last(uint32_t bucket)
{
    if (bucket == STATS_OCTAVES * STATS_BUCKETS_PER_OCTAVE - 1u) {
        return UINT64_MAX;
    }
    uint32_t octave = bucket / STATS_BUCKETS_PER_OCTAVE;
    uint64_t step = bucket % STATS_BUCKETS_PER_OCTAVE;
    if (octave == 0) {
        return step;
    }
    return ((STATS_BUCKETS_PER_OCTAVE + step + 1u) << (octave - 1u)) - 1u;
}

void stats_record(struct stats *stats, enum stats_histogram histogram, uint64_t value)
{
    struct stats_distribution *distribution = &stats->histograms[histogram];
    distribution->count++;
    distribution->sum += (double)value;
    distribution->max = value > distribution->max ? value : distribution->max;
    distribution->buckets[bucket_of(value)]++;
}

uint64_t stats_quantile(const struct stats_distribution *distribution, double q)
{
    if (distribution->count == 0) {
        return 0;
    }
    double rank = ceil(q * (double)distribution->count);
    uint64_t wanted = rank < 1 ? 1 : (uint64_t)rank;
    uint64_t seen = 0;
    for (uint32_t i = 0; i < STATS_OCTAVES * STATS_BUCKETS_PER_OCTAVE; i++) {
        seen += distribution->buckets[i];
        if (seen >= wanted) {
            uint64_t last = bucket_last(i);
            return last < distribution->max ? last : distribution->max;
        }
    }
    return distribution->max;
}

/* Where a snapshot goes: counts all, writes what fits. */
struct snapshot {
    struct stats_value *out;
    size_t room, count;
};

static void emit(struct snapshot *snapshot, const char *prefix, const char *name, double value)
{
    if (snapshot->count < snapshot->room) {
        struct stats_value *row = &snapshot->out[snapshot->count];
        snprintf(row->name, sizeof(row->name), "%s%s%s", prefix, *prefix ? "." : "", name);
        row->value = value;
    }
    snapshot->count++;
}

static void emit_histogram(struct snapshot *snapshot, const char *name,
                           const struct stats_distribution *distribution)
{
    double count = (double)distribution->count;
    emit(snapshot, name, "count", count);
    emit(snapshot, name, "mean", count > 0 ? distribution->sum / count : 0);
    for (size_t i = 0; i < sizeof(quantiles) / sizeof(quantiles[0]); i++) {
        emit(snapshot, name, quantiles[i].name,
             (double)stats_quantile(distribution, quantiles[i].q));
    }
    emit(snapshot, name, "max", (double)distribution->max);
}

size_t stats_snapshot(const struct stats *stats, struct stats_value *out, size_t room)
{
    struct snapshot snapshot = {.out = out, .room = room};
    for (int i = 0; i < STATS_GAUGES; i++) {
        emit(&snapshot, "", gauge_names[i], stats->gauges[i]);
    }
    for (int i = 0; i < STATS_COUNTERS; i++) {
        emit(&snapshot, "", counter_names[i], stats->counters[i]);
    }
    for (int i = 0; i < STATS_HISTOGRAMS; i++) {
        emit_histogram(&snapshot, histogram_names[i], &stats->histograms[i]);
    }
    for (uint32_t d = 0; d < stats->device_count; d++) {
        for (int i = 0; i < STATS_DEVICE_GAUGES; i++) {
            emit(&snapshot, stats->devices[d].name, device_gauge_names[i],
                 stats->devices[d].gauges[i]);
        }
    }
    return snapshot.count;
}
