/*
 * tests/sim/mutations: a kernel with one protocol step left out, for each step that it has:
 * something must object, the simulator or the bits.
 */
#ifndef TESTS_SIM_MUTATIONS_H
#define TESTS_SIM_MUTATIONS_H

#include "tests/sim/attention.h"
#include "tests/sim/backward.h"

/*
 * A step that is there for speed, or doubles another: without it every result is right, so nothing
 * can object. Known by what the kernel's line says. in: parts of the names of the cases where it is
 * spare; none: it is in all.
 */
struct spare_step {
    const char *text, *why;
    std::vector<const char *> in;
};

/* Prints the steps that no seed of many showed to be missing, and a line of counts. */
int mutations_missed(const std::vector<attention_case> &cases,
                     const std::vector<spare_step> &spares);
/* Of a backward that is not deterministic bits say nothing: only the simulator can object. */
int mutations_missed(const std::vector<backward_case> &cases,
                     const std::vector<spare_step> &spares);

#endif
