/*
 * tests/sim/bed: one simulated multiplication, the same in the tests, the soak run and the bench.
 */
#ifndef TESTS_SIM_BED_H
#define TESTS_SIM_BED_H

#include <string>
#include <vector>

#include "sim/device.h"

/* Called before the launch, to choose a mutation and the like. */
using bed_setup = std::function<void(sim::device &)>;

struct bed_result {
    std::string error; /* of the simulator, or what is wrong with the product; empty: fine */
    std::vector<sim::step> steps; /* recorded */
    uint64_t switches, multiplies;
};

/* C = A B^T by tests/sim/kernels/multiply.cuh; k 320: five steps through two stages. */
bed_result bed_multiply(uint64_t seed, const bed_setup &setup);

/* Copies and sums by tests/sim/kernels/reduce.cuh: bulk loads, bulk reduction, flags between
 * blocks. */
bed_result bed_reduce(uint64_t seed, const bed_setup &setup);

/* Two chained products in tensor memory by tests/sim/kernels/tensor.cuh; five steps, two stages. */
bed_result bed_tensor(uint64_t seed, const bed_setup &setup);

struct bed_case {
    const char *name;
    bed_result (*run)(uint64_t seed, const bed_setup &setup);
};

/* Every kernel that the simulator's own tests run. */
extern const std::vector<bed_case> bed_cases;

#endif
