/*
 * tests/sim/backward_suite: what is asked of each backward of sm_100 in the simulator, every
 * gradient against the fp64 answer, every gap and neighbour NaN, every byte of scratch poisoned:
 *   results    batches in which each two features meet, under several schedules
 *   schedules  batches known to be hazardous, under many
 *   left_out   the same with each protocol step left out once: somebody has to notice
 */
#ifndef TESTS_SIM_BACKWARD_SUITE_H
#define TESTS_SIM_BACKWARD_SUITE_H

#include <check.h>

#include <vector>

#include "tests/sim/features.h"
#include "tests/sim/mutations.h"

struct backward_suite {
    const char *name;
    const backward_space *space;
    int parts;                       /* of the results, each a test of its own */
    std::vector<size_t> left_out;    /* hazards in whose runs steps are left out */
    std::vector<spare_step> spare;   /* steps that nobody misses there, and why */
    std::vector<const TTest *> more; /* results of the kernel's own */
};

/* Returned: main's exit status. CK_RUN_CASE picks one of the three. */
int backward_suite_main(const backward_suite &suite);

#endif
