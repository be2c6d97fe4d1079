/*
 * baseline.h: the same work in process, as the daemon's own program does it: kernels without a
 * service around them. fasctl has no kernels; it runs `faserved --baseline FILE`.
 *
 * FILE holds what to compute, as JSON:
 *   {"pass": "forward", "dtype": "bf16", "hq": 8, "hkv": 2, "d": 64, "dv": 64, "causal": true,
 *    "lengths": [128], "seconds": 2}
 * and the program prints, after at least that many seconds of one launch after another:
 *   {"launches": 20000, "p50_us": 93.1, "p90_us": 95.0, "p99_us": 120.4, "device": "cpu:0",
 *    "kernel": "cpu_fwd"}
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
