/*
 * baseline.h: the same work in process, as the daemon's own program does it: kernels without a
 * service around them. fasctl has no kernels; it runs `faserved --baseline -` beside its loads and
 * asks by turns. Specs and answers are JSON; server/baseline.h describes both.
 */
#ifndef FASCTL_BASELINE_H
#define FASCTL_BASELINE_H

#include <stdbool.h>
#include <stdio.h>
#include <sys/types.h>

#include "client/fasctl/workload.h"

struct baseline {
    pid_t child; /* 0: there is none */
    FILE *to, *from;
};

/* What is timed as one launch: `sets` requests with tensors of their own, of `copies` of the
 * shape's sequences each. */
struct baseline_load {
    const struct shape *shape;
    int copies, sets, in_flight, parts;
    double seconds;
    double in_bytes, out_bytes; /* of a request that are copied between host and device; or 0 */
};

struct baseline_times {
    double mean_us, p50_us; /* of the launch, with what lies between two; of it alone */
    double copies_us;       /* of copies of a request, beside nothing else; 0: there are none */
};

/* `program` may have options: "faserved --arena-bytes 4GiB". */
bool baseline_open(struct baseline *baseline, const char *program);

/* False when it does not answer; stderr says why. */
bool baseline_time(struct baseline *baseline, const struct baseline_load *load,
                   struct baseline_times *times);

void baseline_close(struct baseline *baseline);

#endif
