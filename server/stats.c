/*
 * stats.c: the rows, and buckets by powers of two. What stands in the rows is the documentation
 * operators see; the names in deploy/operations.md are tested to be among them.
 */
#include "server/stats.h"

#include <assert.h>
#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

const struct stats_row stats_counter_rows[STATS_COUNTERS] = {
    [STATS_CONNECTIONS_ACCEPTED] = {"connections_accepted", "connections_accepted_total", NULL,
                                    "Connections accepted."},
    [STATS_CONNECTIONS_REFUSED] = {"connections_refused", "connections_refused_total", NULL,
                                   "Connections refused: too many, a bad hello or a bad token."},
    [STATS_CONNECTIONS_LOST] = {"connections_lost", "connections_lost_total", NULL,
                                "Connections that ended without a goodbye or for want of "
                                "progress."},
    [STATS_REQUESTS_RECEIVED] = {"requests_received", "requests_received_total", NULL,
                                 "Requests received, whatever became of them."},
    [STATS_BATCHES] = {"batches", "batches_total", NULL, "Batches formed."},
    [STATS_SLICES] = {"slices", "slices_total", NULL, "Launches: a batch is one or more slices."},
};

const struct stats_row stats_gauge_rows[STATS_GAUGES] = {
    [STATS_UPTIME_US] = {"uptime_us", "uptime_seconds", NULL, "Time since the start."},
    [STATS_CPU_US] = {"cpu_us", "cpu_seconds_total", NULL,
                      "Processor time of all the daemon's threads."},
    [STATS_READY] = {"ready", "ready", NULL, "1 while requests are accepted, 0 when draining."},
    [STATS_CONNECTIONS] = {"connections", "connections", NULL, "Connections now."},
    [STATS_REQUESTS_IN_FLIGHT] = {"requests_in_flight", "requests_in_flight", NULL,
                                  "Requests held now, from REQUEST to DONE."},
    [STATS_SLOTS] = {"slots", "slots", NULL, "Requests that can be held at once."},
    [STATS_NOTES_BYTES] = {"notes_bytes", "notes_bytes", NULL,
                           "Host memory for sequences and chunk maps."},
    [STATS_NOTES_HIGH_BYTES] = {"notes_high_bytes", "notes_high_bytes", NULL,
                                "The most of it that was ever in use."},
    [STATS_RETAINED_HANDLES] = {"retained_handles", "retained_handles", NULL,
                                "Retained forwards now."},
    [STATS_RETAINED_BYTES] = {"retained_bytes", "retained_bytes", NULL,
                              "Arena that retained forwards take, over all devices."},
    [STATS_PLACES] = {"places", "places", NULL, "Regions, CUDA allocations and events open now."},
    [STATS_MAPPINGS] =
        {"mappings", "cuda_mappings", NULL,
         "CUDA allocations of clients that are mapped now: each keeps its memory from "
         "being freed for good."},
    [STATS_REGION_BYTES] = {"region_bytes", "region_bytes", NULL,
                            "Shared memory of all clients, touched or not."},
    [STATS_LOG_LOST] = {"log_lost", "log_lines_lost_total", NULL,
                        "Log lines that could not be written."},
};

const struct stats_row stats_device_rows[STATS_DEVICE_GAUGES] = {
    [STATS_DEVICE_UP] = {"up", "device_up", NULL,
                         "1 while the device works, 0 once it failed "
                         "and while a launch takes far too long."},
    [STATS_DEVICE_ARENA_BYTES] = {"arena_bytes", "device_arena_bytes", NULL,
                                  "Memory that holds requests, taken at start."},
    [STATS_DEVICE_ARENA_USED_BYTES] = {"arena_used_bytes", "device_arena_used_bytes", NULL,
                                       "Arena in use now."},
    [STATS_DEVICE_ARENA_HIGH_BYTES] = {"arena_high_bytes", "device_arena_high_bytes", NULL,
                                       "The most of the arena that was ever in use."},
    [STATS_DEVICE_STAGING_BYTES] = {"staging_bytes", "device_staging_bytes", NULL,
                                    "Pinned host memory that inline payloads pass through."},
    [STATS_DEVICE_STAGING_HIGH_BYTES] = {"staging_high_bytes", "device_staging_high_bytes", NULL,
                                         "The most of it that was ever in use."},
    [STATS_DEVICE_QUEUE_REQUESTS] = {"queue_requests", "device_queue_requests", NULL,
                                     "Complete requests that wait for the device."},
    [STATS_DEVICE_QUEUE_TOKENS] = {"queue_tokens", "device_queue_tokens", NULL,
                                   "Rows of q and of k of the requests that wait."},
    [STATS_DEVICE_QUEUE_FLOPS] = {"queue_flops", "device_queue_flops", NULL,
                                  "FLOPs of the requests that wait."},
    [STATS_DEVICE_BUSY_US] = {"busy_us", "device_busy_seconds_total", NULL,
                              "Time with a launch running."},
    [STATS_DEVICE_UPLOAD_US] = {"upload_us", "device_upload_seconds_total", NULL,
                                "Time with a copy of inputs to the device under way."},
    [STATS_DEVICE_DOWNLOAD_US] = {"download_us", "device_download_seconds_total", NULL,
                                  "Time with a copy of results from it under way."},
    [STATS_DEVICE_FLOPS] = {"flops", "device_flops_total", NULL,
                            "FLOPs computed; over device_busy_seconds_total it is the achieved "
                            "rate."},
    [STATS_DEVICE_FLOP_RATE] = {"flop_rate", "device_flops_per_second", NULL,
                                "Achieved rate of the last launches, smoothed."},
};

const struct stats_row stats_histogram_rows[STATS_HISTOGRAMS] = {
    [STATS_TOTAL_US] = {"total_us", "request_seconds", NULL,
                        "From REQUEST to DONE, of requests answered OK."},
    [STATS_QUEUE_US] = {"queue_us", "request_phase_seconds", "phase=\"queue\"",
                        "Parts of request_seconds: inputs arrive, the request waits, it computes, "
                        "results leave."},
    [STATS_COPY_IN_US] = {"copy_in_us", "request_phase_seconds", "phase=\"copy_in\"", NULL},
    [STATS_COMPUTE_US] = {"compute_us", "request_phase_seconds", "phase=\"compute\"", NULL},
    [STATS_COPY_OUT_US] = {"copy_out_us", "request_phase_seconds", "phase=\"copy_out\"", NULL},
    [STATS_BATCH_REQUESTS] = {"batch_requests", "batch_requests", NULL, "Requests of a batch."},
    [STATS_BATCH_TOKENS] = {"batch_tokens", "batch_tokens", NULL, "Rows of q and of k of a batch."},
    [STATS_SLICE_US] = {"slice_us", "slice_seconds", NULL, "How long a launch ran."},
};

static const char *const pass_names[STATS_PASSES] = {"forward", "backward", "unread"};
static const char *const direction_names[STATS_DIRECTIONS] = {"in", "out"};

const char *stats_pass_name(enum stats_pass pass)
{
    return pass_names[pass];
}

const char *stats_direction_name(enum stats_direction direction)
{
    return direction_names[direction];
}

static const struct quantile_row {
    const char *name;
    double q;
} quantiles[] = {{"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}, {"p999", 0.999}};

/* count, mean, max and the quantiles. */
#define VALUES_PER_HISTOGRAM (3u + sizeof(quantiles) / sizeof(quantiles[0]))

/* Per pass: requests, tokens and flops; and sums of the latter two. */
#define VALUES_OF_WORK (3u * STATS_UNREAD + 2u)

static_assert(STATS_COUNTERS + STATS_GAUGES + FAS_STATUS_COUNT + VALUES_OF_WORK +
                      STATS_DIRECTIONS * FAS_PLACE_COUNT + STATS_HISTOGRAMS * VALUES_PER_HISTOGRAM +
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

void stats_answer(struct stats *stats, enum stats_pass pass, enum fas_status status)
{
    assert(pass < STATS_PASSES && status < FAS_STATUS_COUNT);
    stats->answers[pass][status]++;
}

void stats_work(struct stats *stats, enum stats_pass pass, double tokens, double flops)
{
    assert(pass < STATS_UNREAD);
    stats->tokens[pass] += tokens;
    stats->flops[pass] += flops;
}

void stats_payload(struct stats *stats, enum stats_direction direction, enum fas_place place,
                   double bytes)
{
    assert(direction < STATS_DIRECTIONS && place < FAS_PLACE_COUNT);
    stats->payload_bytes[direction][place] += bytes;
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

uint64_t stats_below(const struct stats_distribution *distribution, uint32_t exponent)
{
    uint64_t below = 0;
    uint32_t end = bucket_of(UINT64_C(1) << exponent);
    for (uint32_t i = 0; i < end; i++) {
        below += distribution->buckets[i];
    }
    return below;
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

/* "requests_resource_exhausted": answers of all passes. */
static void emit_answers(struct snapshot *snapshot, const struct stats *stats)
{
    char name[FAS_NAME_BYTES_MAX];
    for (int status = 0; status < FAS_STATUS_COUNT; status++) {
        double sum = 0;
        for (int pass = 0; pass < STATS_PASSES; pass++) {
            sum += stats->answers[pass][status];
        }
        snprintf(name, sizeof(name), "requests_%s", fas_status_name((enum fas_status)status));
        for (char *c = name; *c; c++) {
            *c = (char)tolower((unsigned char)*c);
        }
        emit(snapshot, "", name, sum);
    }
}

static void emit_work(struct snapshot *snapshot, const struct stats *stats)
{
    double tokens = 0;
    double flops = 0;
    for (int pass = 0; pass < STATS_UNREAD; pass++) {
        emit(snapshot, pass_names[pass], "requests", stats->answers[pass][FAS_OK]);
        emit(snapshot, pass_names[pass], "tokens", stats->tokens[pass]);
        emit(snapshot, pass_names[pass], "flops", stats->flops[pass]);
        tokens += stats->tokens[pass];
        flops += stats->flops[pass];
    }
    emit(snapshot, "", "tokens", tokens);
    emit(snapshot, "", "flops", flops);
}

/* "bytes_in.inline" */
static void emit_payload(struct snapshot *snapshot, const struct stats *stats)
{
    static const char *const prefixes[STATS_DIRECTIONS] = {"bytes_in", "bytes_out"};
    for (int direction = 0; direction < STATS_DIRECTIONS; direction++) {
        for (int place = 0; place < FAS_PLACE_COUNT; place++) {
            emit(snapshot, prefixes[direction], fas_place_name((enum fas_place)place),
                 stats->payload_bytes[direction][place]);
        }
    }
}

size_t stats_snapshot(const struct stats *stats, struct stats_value *out, size_t room)
{
    struct snapshot snapshot = {.out = out, .room = room};
    for (int i = 0; i < STATS_GAUGES; i++) {
        emit(&snapshot, "", stats_gauge_rows[i].name, stats->gauges[i]);
    }
    for (int i = 0; i < STATS_COUNTERS; i++) {
        emit(&snapshot, "", stats_counter_rows[i].name, stats->counters[i]);
    }
    emit_answers(&snapshot, stats);
    emit_work(&snapshot, stats);
    emit_payload(&snapshot, stats);
    for (int i = 0; i < STATS_HISTOGRAMS; i++) {
        emit_histogram(&snapshot, stats_histogram_rows[i].name, &stats->histograms[i]);
    }
    for (uint32_t d = 0; d < stats->device_count; d++) {
        for (int i = 0; i < STATS_DEVICE_GAUGES; i++) {
            emit(&snapshot, stats->devices[d].name, stats_device_rows[i].name,
                 stats->devices[d].gauges[i]);
        }
    }
    return snapshot.count;
}
