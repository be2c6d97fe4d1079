/*
 * baseline.h: the same work in process, as the daemon's own program does it: kernels without a
 * service around them. fasctl has no kernels; it runs `faserved --baseline FILE`.
 *
 * FILE holds one request as JSON, and so is the answer; server/baseline.h describes both.
 */
#ifndef FASCTL_BASELINE_H
#define FASCTL_BASELINE_H

#include <stdbool.h>

#include "client/fasctl/workload.h"

struct baseline {
    double p50_us, p90_us, p99_us;
};

/* False when the program can not be run or does not answer like that; stderr says why. */
bool baseline_run(const char *program, const struct shape *shape, double seconds,
                  struct baseline *baseline);

#endif
