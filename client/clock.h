/*
 * clock.h: the library's clock, CLOCK_MONOTONIC.
 */
#ifndef CLIENT_CLOCK_H
#define CLIENT_CLOCK_H

#include <stdint.h>
#include <time.h>

#define NS_PER_MS 1000000u

static inline uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* That many ms from now; more than a century is as good as for ever. */
static inline uint64_t ns_in_ms(uint64_t ms)
{
    const uint64_t most = UINT64_MAX / 4 / NS_PER_MS;
    return now_ns() + (ms < most ? ms : most) * NS_PER_MS;
}

/* For condition variables of client_cond_init. */
static inline struct timespec at_ns(uint64_t ns)
{
    return (struct timespec){.tv_sec = (time_t)(ns / 1000000000u),
                             .tv_nsec = (long)(ns % 1000000000u)};
}

#endif
