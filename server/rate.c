/*
 * rate.c: see rate.h.
 */
#include "server/rate.h"

#include <stdbool.h>

/* Weight of a new measurement. */
#define SMOOTHING 0.2
/* Shorter launches say more about launching, so they may raise the rate but not lower it: several
 * together, since clocks are read when a thread wakes. */
#define LAUNCH_US_MIN 200u
/* A launch so many times slower than the first guess, which is low, moved memory: rows without keys
 * are written at no FLOP. A few dozen of those once took the rate to nothing, and the requests
 * after them were cut to slices of microseconds. */
#define FLOOR_PART 16

void rate_open(struct rate *rate, double first_flops_per_us)
{
    *rate =
        (struct rate){.flops_per_us = first_flops_per_us, .floor = first_flops_per_us / FLOOR_PART};
}

void rate_measure(struct rate *rate, double flops, uint64_t took_us)
{
    bool may_lower = took_us >= LAUNCH_US_MIN;
    if (!may_lower) {
        flops += rate->short_flops;
        took_us += rate->short_us;
        bool enough = took_us >= LAUNCH_US_MIN;
        rate->short_flops = enough ? 0 : flops;
        rate->short_us = enough ? 0 : took_us;
        if (!enough) {
            return;
        }
    }
    double measured = flops / (double)took_us;
    if (measured > rate->flops_per_us || (may_lower && measured >= rate->floor)) {
        rate->flops_per_us += SMOOTHING * (measured - rate->flops_per_us);
    }
}
