/*
 * metrics.h: what the daemon counts, as Prometheus' text format 0.0.4 has it: one family per metric
 * of stats.h's rows, and one per principal's numbers. All names begin with "faserved_"; units are
 * base units (seconds, bytes, FLOPs) and counters end in _total.
 *
 * Cardinality is bounded and nobody but the operator chooses a label: devices, passes, statuses,
 * places and phases come from fixed lists; a principal is a uid or a name of the token file, and
 * past METRICS_PRINCIPALS_MAX of them the rest are one, "other". Pure. Owner: the loop thread.
 */
#ifndef SERVER_METRICS_H
#define SERVER_METRICS_H

#include <stddef.h>

#include "server/principal.h"
#include "server/stats.h"

#define METRICS_PRINCIPALS_MAX 64u

/* No page is longer: test_metrics fills every label with its longest value. */
#define METRICS_BYTES_MAX (160u << 10)

/* Writes the page, terminated, and returns its length, which is below `room` (at least
 * METRICS_BYTES_MAX). */
size_t metrics_write(const struct stats *stats, const struct principals *principals,
                     const char *version, char *out, size_t room);

#endif
