/*
 * random.h: numbers for property tests: seeded, the same everywhere. FAS_SEED in the environment
 * replaces a test's seed, so that a failure seen elsewhere can be run here.
 */
#ifndef TESTS_RANDOM_H
#define TESTS_RANDOM_H

#include <stdint.h>
#include <stdlib.h>

struct random {
    uint64_t state;
};

static inline struct random random_open(uint64_t seed)
{
    const char *other = getenv("FAS_SEED");
    return (struct random){other ? strtoull(other, NULL, 0) : seed};
}

/* splitmix64 (Steele, Lea, Flood, OOPSLA 2014). */
static inline uint64_t random_next(struct random *random)
{
    uint64_t z = random->state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/* 0 to count - 1. */
static inline uint64_t random_below(struct random *random, uint64_t count)
{
    return random_next(random) % count;
}

/* 0 to 1, without 1. */
static inline double random_unit(struct random *random)
{
    return (double)(random_next(random) >> 11) * 0x1p-53;
}

#endif
