/*
 * tests/sim/mutations: a kernel with one protocol step left out, for each step that it has:
 * something must object, the simulator or the bits.
 */
#ifndef TESTS_SIM_MUTATIONS_H
#define TESTS_SIM_MUTATIONS_H

#include "tests/sim/attention.h"

/*
 * A step that is there for speed, or doubles another: without it every result is right, so nothing
 * can object. Known by what the kernel's line says.
 */
struct spare_step {
    const char *text, *why;
};

/* Prints the steps that no seed of many showed to be missing, and a line of counts. */
int mutations_missed(const std::vector<attention_case> &cases,
                     const std::vector<spare_step> &spares);

#endif
