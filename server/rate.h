/*
 * rate.h: how fast a device computes, learned from its launches. Slices, batches, routes and
 * retry_after_ms are FLOPs divided by it, so what says nothing about it must not move it.
 */
#ifndef SERVER_RATE_H
#define SERVER_RATE_H

#include <stdint.h>

struct rate {
    double flops_per_us;
    double floor;       /* slower launches were not bound by FLOPs */
    double short_flops; /* of launches too short to be believed one by one */
    uint64_t short_us;
};

/* From a first guess, which is low. */
void rate_open(struct rate *rate, double first_flops_per_us);

/* A launch of so many FLOPs took so long. */
void rate_measure(struct rate *rate, double flops, uint64_t took_us);

#endif
