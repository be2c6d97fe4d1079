/*
 * tests/sim/backward: backward launches in the simulator, for the tests and the soak run.
 */
#ifndef TESTS_SIM_BACKWARD_H
#define TESTS_SIM_BACKWARD_H

#include <functional>
#include <string>
#include <vector>

#include "kernels/attn_cuda.h"
#include "sim/device.h"

extern "C" {
#include "tests/kernels/problem.h"
}

/*
 * A batch and what is computed on it; resident: CTAs at a time. q_block: rows of a step of the
 * kernel, for which the sums of dQ have panels of 64 columns; the simulator watches their order
 * where they are to be deterministic.
 */
struct backward_case {
    std::string name;
    const attn_row *row;
    attn_shape shape;
    std::vector<item> items;
    int resident;
    int q_block;
};

attn_shape backward_shape(attn_dtype dtype, int hq, int hkv, int d, int dv);

/* The row of these that serves the shape, as the table says; NULL: none. */
const attn_row *backward_row(const attn_row *rows, size_t count, const attn_shape &shape);

/*
 * The hazard cases: head dims of 64 and 128, GQA, full, causal and windowed, deterministic and not;
 * empty sides among long ones, odd numbers of key blocks, tiles of few steps. At most three of
 * these, because a group of a deterministic backward without mask needs as many CTAs at a time as
 * it has blocks, and three is what the simulator has.
 */
std::vector<backward_case> backward_hazards(const attn_row *rows, size_t count, int q_block);

/* CTAs at a time: any number by the seed, where the order allows it. */
int backward_resident(const attn_shape &shape, uint64_t seed);

struct backward_outcome {
    std::string error;            /* of the simulator; empty: it ran through */
    uint64_t bits;                /* of all results */
    std::vector<sim::step> steps; /* if recorded */
    uint64_t multiplies;
};

/* One launch; results are not judged, only their bits are taken. */
backward_outcome backward_run(const backward_case &c, uint64_t seed,
                              const std::function<void(sim::device &)> &setup);

/* One launch against the fp64 answer, every gap and neighbour NaN, every byte of scratch poisoned;
 * for Check tests. Returns the bits of the results. */
uint64_t backward_check(const backward_case &c, uint64_t seed);

#endif
