/*
 * tests/sim/attention: attention launches in the simulator, for the tests, the soak run and the
 * bench.
 */
#ifndef TESTS_SIM_ATTENTION_H
#define TESTS_SIM_ATTENTION_H

#include <functional>
#include <string>
#include <vector>

#include "kernels/attn_cuda.h"
#include "sim/device.h"

extern "C" {
#include "tests/kernels/problem.h"
}

/* A kernel of the table, and the head dims that it is tried with. */
struct attention_row {
    const char *name;
    attn_status (*launch)(attn_context *, const attn_launch *);
    int d, dv;
};
extern const std::vector<attention_row> attention_rows_sm90, attention_rows_sm100;

/* A batch and what is computed on it. */
struct attention_case {
    std::string name;
    const attention_row *row;
    attn_shape shape;
    std::vector<item> items;
};

/* Lengths around every tile edge, empty sides, unused rows, three sets of different layouts. */
extern const std::vector<item> attention_ragged;
/* Some 20 tiles of work, for many seeds: rings go round more than twice, and there are tiles of
 * more and of less than one warpgroup. */
extern const std::vector<item> attention_few;
extern const std::vector<attn_mask> attention_masks;

/* The hazard cases: every one of the rows, full and causal. */
std::vector<attention_case> attention_hazards(const std::vector<attention_row> &rows,
                                              const std::vector<item> &items = attention_few);

struct attention_outcome {
    std::string error;            /* of the simulator; empty: it ran through */
    uint64_t bits;                /* of all results */
    std::vector<sim::step> steps; /* if recorded */
    uint64_t multiplies;
    uint64_t overlapping; /* kernels that might have begun before the one ahead had ended */
};

/* One launch; results are not judged, only their bits are taken. */
attention_outcome attention_run(const attention_case &c, uint64_t seed,
                                const std::function<void(sim::device &)> &setup);

/* One launch of a case without window whose sequences' key `key` is NaN: rows that see it are NaN,
 * o and lse, all others are numbers. For Check tests. Returns how many products it took. */
uint64_t attention_check_nan(const attention_case &c, uint64_t seed, int key);

/* One launch against the fp64 answer and with canaries; for Check tests. */
void attention_check(const attention_case &c, uint64_t seed);

/* The same with scores that outgrow the maxima of the blocks before by more than exp can hold. */
void attention_check_steep(const attention_case &c, uint64_t seed);

#endif
