/* metrics.c: a page is families, a family is HELP, TYPE and samples. Families follow the rows. */
#include "server/metrics.h"

#include <assert.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* "faserved_" names are ours; a page is written front to back. */
struct page {
    char *out;
    size_t bytes, room;
};

static void put(struct page *page, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void put(struct page *page, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int written = vsnprintf(page->out + page->bytes, page->room - page->bytes, format, arguments);
    va_end(arguments);
    assert(written >= 0 && (size_t)written < page->room - page->bytes && "METRICS_BYTES_MAX");
    page->bytes += (size_t)written;
}

static bool ends_with(const char *text, const char *end)
{
    size_t length = strlen(text);
    return length >= strlen(end) && strcmp(text + length - strlen(end), end) == 0;
}

static void put_family(struct page *page, const char *metric, const char *type, const char *help)
{
    put(page, "# HELP faserved_%s %s\n# TYPE faserved_%s %s\n", metric, help, metric, type);
}

/* `labels`: with their braces, or empty. Whole numbers are written whole up to 2^53. */
static void put_sample(struct page *page, const char *metric, const char *labels, double value)
{
    put(page, "faserved_%s%s %.16g\n", metric, labels, value);
}

/* A quoted label value: backslash, quote and newline escaped. */
static void put_value(struct page *page, const char *value)
{
    put(page, "\"");
    for (; *value; value++) {
        switch (*value) {
        case '\\':
        case '"':
            put(page, "\\%c", *value);
            break;
        case '\n':
            put(page, "\\n");
            break;
        default:
            put(page, "%c", *value);
        }
    }
    put(page, "\"");
}

/* ---- rows ---- */

static const char *type_of(const struct stats_row *row)
{
    return ends_with(row->metric, "_total") ? "counter" : "gauge";
}

/* The daemon counts microseconds, Prometheus seconds. */
static double scale_of(const struct stats_row *row)
{
    return ends_with(row->name, "_us") ? 1e-6 : 1;
}

static void put_rows(struct page *page, const struct stats_row *rows, const double *values,
                     size_t count)
{
    for (size_t i = 0; i < count; i++) {
        put_family(page, rows[i].metric, type_of(&rows[i]), rows[i].help);
        put_sample(page, rows[i].metric, "", values[i] * scale_of(&rows[i]));
    }
}

static void put_devices(struct page *page, const struct stats *stats)
{
    for (int i = 0; i < STATS_DEVICE_GAUGES; i++) {
        const struct stats_row *row = &stats_device_rows[i];
        put_family(page, row->metric, type_of(row), row->help);
        for (uint32_t d = 0; d < stats->device_count; d++) {
            put(page, "faserved_%s{device=", row->metric);
            put_value(page, stats->devices[d].name);
            put(page, "} %.16g\n", stats->devices[d].gauges[i] * scale_of(row));
        }
    }
}

/* ---- histograms ---- */

/* Upper bounds are powers of two, where stats.h's counts are exact: 16 us to 67 s, 1 to 2^24. */
static const struct bounds {
    uint32_t first, last;
} duration_bounds = {4, 26}, count_bounds = {1, 24};

/*
 * A duration below 2^e us is at most 2^e us, as durations are cut to whole microseconds; a count
 * below 2^e is at most 2^e - 1.
 */
static void put_histogram(struct page *page, const struct stats_row *row,
                          const struct stats_distribution *distribution)
{
    bool duration = ends_with(row->name, "_us");
    const struct bounds *bounds = duration ? &duration_bounds : &count_bounds;
    const char *labels = row->labels ? row->labels : "", *comma = row->labels ? "," : "";
    for (uint32_t e = bounds->first; e <= bounds->last; e++) {
        double power = (double)(UINT64_C(1) << e);
        put(page, "faserved_%s_bucket{%s%sle=\"%.9g\"} %" PRIu64 "\n", row->metric, labels, comma,
            duration ? power * 1e-6 : power - 1, stats_below(distribution, e));
    }
    put(page, "faserved_%s_bucket{%s%sle=\"+Inf\"} %" PRIu64 "\n", row->metric, labels, comma,
        distribution->count);
    const char *open = row->labels ? "{" : "", *close = row->labels ? "}" : "";
    put(page, "faserved_%s_sum%s%s%s %.16g\n", row->metric, open, labels, close,
        distribution->sum * scale_of(row));
    put(page, "faserved_%s_count%s%s%s %" PRIu64 "\n", row->metric, open, labels, close,
        distribution->count);
}

static void put_histograms(struct page *page, const struct stats *stats)
{
    for (int i = 0; i < STATS_HISTOGRAMS; i++) {
        const struct stats_row *row = &stats_histogram_rows[i];
        if (row->help) {
            put_family(page, row->metric, "histogram", row->help);
        }
        put_histogram(page, row, &stats->histograms[i]);
    }
}

/* ---- by pass, status and place ---- */

static void put_answers(struct page *page, const struct stats *stats)
{
    put_family(page, "requests_total", "counter",
               "Requests that have their answer, by pass (unread: refused before it was known) and "
               "by status.");
    for (int pass = 0; pass < STATS_PASSES; pass++) {
        for (int status = 0; status < FAS_STATUS_COUNT; status++) {
            put(page, "faserved_requests_total{pass=\"%s\",status=\"%s\"} %.16g\n",
                stats_pass_name((enum stats_pass)pass), fas_status_name((enum fas_status)status),
                stats->answers[pass][status]);
        }
    }
}

static void put_by_pass(struct page *page, const char *metric, const char *help,
                        const double values[STATS_PASSES])
{
    put_family(page, metric, "counter", help);
    for (int pass = 0; pass < STATS_UNREAD; pass++) {
        put(page, "faserved_%s{pass=\"%s\"} %.16g\n", metric,
            stats_pass_name((enum stats_pass)pass), values[pass]);
    }
}

static void put_payload(struct page *page, const struct stats *stats)
{
    put_family(page, "payload_bytes_total", "counter",
               "Tensor bytes of requests, by direction and by place: copied through messages "
               "(inline), or in shared memory (region) or CUDA allocations (cuda).");
    for (int direction = 0; direction < STATS_DIRECTIONS; direction++) {
        for (int place = 0; place < FAS_PLACE_COUNT; place++) {
            put(page, "faserved_payload_bytes_total{direction=\"%s\",place=\"%s\"} %.16g\n",
                stats_direction_name((enum stats_direction)direction),
                fas_place_name((enum fas_place)place), stats->payload_bytes[direction][place]);
        }
    }
}

/* ---- principals ---- */

static double held_requests(const struct principal *p)
{
    return p->held.requests;
}

static double held_bytes(const struct principal *p)
{
    return (double)p->held.bytes;
}

static double held_flops(const struct principal *p)
{
    return p->held.flops;
}

static double served_requests(const struct principal *p)
{
    return p->served.requests;
}

static double served_tokens(const struct principal *p)
{
    return p->served.tokens;
}

static double served_flops(const struct principal *p)
{
    return p->served.flops;
}

static const struct principal_row {
    const char *metric, *type, *help;
    double (*value)(const struct principal *principal);
} principal_rows[] = {
    {"principal_held_requests", "gauge", "Requests a principal has in flight.", held_requests},
    {"principal_held_bytes", "gauge", "Arena its requests hold.", held_bytes},
    {"principal_held_flops", "gauge", "FLOPs of its requests in flight.", held_flops},
    {"principal_requests_total", "counter", "Its requests answered OK.", served_requests},
    {"principal_tokens_total", "counter", "Rows of q and of k of them.", served_tokens},
    {"principal_flops_total", "counter",
     "FLOPs of them: shares of a busy device are shares of this.", served_flops},
};

/* One number of all principals; those past the limit are one. */
static void put_principals(struct page *page, const struct principals *principals,
                           const struct principal_row *row)
{
    double other = 0;
    put_family(page, row->metric, row->type, row->help);
    for (uint32_t i = 0; i < principals->count; i++) {
        const struct principal *principal = &principals->entries[i];
        if (principal->name[0] == '\0') {
            continue;
        }
        if (i >= METRICS_PRINCIPALS_MAX) {
            other += row->value(principal);
            continue;
        }
        put(page, "faserved_%s{principal=", row->metric);
        put_value(page, principal->name);
        put(page, "} %.16g\n", row->value(principal));
    }
    if (principals->count > METRICS_PRINCIPALS_MAX) {
        put_sample(page, row->metric, "{principal=\"other\"}", other);
    }
}

size_t metrics_write(const struct stats *stats, const struct principals *principals,
                     const char *version, char *out, size_t room)
{
    struct page page = {.out = out, .room = room};
    assert(room >= METRICS_BYTES_MAX);
    put_family(&page, "info", "gauge", "Always 1; the daemon's version.");
    put(&page, "faserved_info{version=");
    put_value(&page, version);
    put(&page, "} 1\n");
    put_rows(&page, stats_gauge_rows, stats->gauges, STATS_GAUGES);
    put_rows(&page, stats_counter_rows, stats->counters, STATS_COUNTERS);
    put_answers(&page, stats);
    put_by_pass(&page, "tokens_total", "Rows of q and of k of requests answered OK.",
                stats->tokens);
    put_by_pass(&page, "flops_total", "FLOPs of requests answered OK.", stats->flops);
    put_payload(&page, stats);
    put_devices(&page, stats);
    put_histograms(&page, stats);
    for (size_t i = 0; i < COUNT(principal_rows); i++) {
        put_principals(&page, principals, &principal_rows[i]);
    }
    return page.bytes;
}
