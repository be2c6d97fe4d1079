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

/* What a test must know of a kernel. */
struct backward_kind {
    const attn_row *rows; /* the first that serves a shape is taken */
    size_t count;
    int q_block;    /* queries of a step, for which the sums of dQ have panels of 64 columns; the
                       simulator watches their order where they are to be deterministic; 0: dQ is
                       a launch of its own, without sums */
    bool cyclic;    /* turns without a mask go round (common/turn): not if N > M */
    int cluster;    /* CTAs that work on a tile together */
    int processors; /* that the host side is told of */
    int ordered_keys = 0; /* without a softcap dQ of launches of sequences of up to so many keys is
                             added in order, deterministic or not */
};

/* A batch and what is computed on it; resident: CTAs at a time. */
struct backward_case {
    std::string name;
    const backward_kind *kind;
    const attn_row *row;
    attn_shape shape;
    std::vector<item> items;
    int resident;
};

attn_shape backward_shape(attn_dtype dtype, int hq, int hkv, int d, int dv);

/* With the row that serves the shape, as the table says, and all CTAs at a time. */
backward_case backward_case_of(const backward_kind &kind, const std::string &name,
                               const attn_shape &shape, const std::vector<item> &items);

/*
 * The hazard cases of a head dim: GQA, full, causal and windowed, deterministic and not; empty
 * sides among long ones, odd numbers of key blocks, tiles of few steps. At most three of these,
 * because a group of tiles in the cyclic order needs as many CTAs at a time as it has tiles, and
 * three is what the simulator has. The lengths are backward_few, or others as mixed.
 */
constexpr int BACKWARD_HAZARDS = 5;
extern const std::vector<item> backward_few;
std::vector<backward_case> backward_hazards(const backward_kind &kind, int d, int dv,
                                            const std::vector<item> &items = backward_few);

/* The case with CTAs at a time by the seed, where the order allows any number of them. */
backward_case backward_under(const backward_case &c, uint64_t seed);

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

/* Under seeds 1 to `seeds`: deterministic gradients are the same bits, others right each time. */
void backward_check_schedules(const backward_case &c, uint64_t seeds);

#endif
