/*
 * retry.h: when to come back: what RESOURCE_EXHAUSTED advises (retry_after_ms). Pure.
 *
 * What is held comes back as work is answered. So if a part of it (say a tenth of the bytes in use)
 * stands in a request's way, that part of all work in flight has to end first, and how long all of
 * it takes is known: outstanding FLOPs at the measured rate, or, where moving tensors takes longer
 * than computing, what requests took lately.
 */
#ifndef SERVER_RETRY_H
#define SERVER_RETRY_H

#include <stddef.h>
#include <stdint.h>

/* Sooner is asking in vain, later leaves devices idle when the estimate is wrong. */
#define RETRY_MS_MIN 1u
#define RETRY_MS_MAX 10000u

/* One thing that is bounded: so much of it is held, so much is wanted, so much there is. */
struct retry_use {
    double held, wanted, limit;
};

/* The part of what is held that stands in the way, of the scarcest: 0 (nothing) to 1 (all). */
double retry_part(const struct retry_use *uses, size_t count);

/* When that part of the work is done that takes work_us in all. */
uint32_t retry_after_ms(double part, double work_us);

#endif
