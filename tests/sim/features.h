/*
 * tests/sim/features: what a batch of the sm_100 kernels can be. A case is one value, from 0 on, of
 * each feature; the tests run few in which all pairs of values meet (covering.h), soak the grid.
 */
#ifndef TESTS_SIM_FEATURES_H
#define TESTS_SIM_FEATURES_H

#include <vector>

#include "tests/sim/attention.h"
#include "tests/sim/backward.h"

/* What a batch of a backward kernel can be. */
struct backward_space {
    backward_kind kind;
    struct pair {
        int first, second;
    };
    std::vector<pair> hazard_dims, dims, heads; /* d, dv; of q, of k and v */
    std::vector<std::vector<item>> lengths;
    std::vector<item> hazard_lengths; /* none: backward_few */
};
/* One CTA to a tile; pairs of them, for d and dv over 64; and for what is over 128. */
extern const backward_space sm100_backward, sm100_backward_pairs, sm100_backward_wide;

/* How many values each feature has. */
std::vector<int> forward_features();
std::vector<int> backward_features(const backward_space &space);

attention_case forward_feature_case(const std::vector<int> &values);
backward_case backward_feature_case(const backward_space &space, const std::vector<int> &values);

std::vector<backward_case> backward_hazards(const backward_space &space);

/*
 * The grid crosses all features of the forward, and all of the backward but the last three, of
 * which each case has some mix.
 */
int forward_grid_count();
int backward_grid_count(const backward_space &space);
attention_case forward_grid_case(int number);
backward_case backward_grid_case(const backward_space &space, int number);

#endif
