/*
 * tests/sim/features: what a batch of the sm_100 kernels can be. A case is one value, from 0 on, of
 * each feature; the tests run few in which all pairs of values meet (covering.h), soak the grid.
 */
#ifndef TESTS_SIM_FEATURES_H
#define TESTS_SIM_FEATURES_H

#include <vector>

#include "tests/sim/attention.h"
#include "tests/sim/backward.h"

constexpr int SM100_BACKWARD_BLOCK = 128; /* queries of a step */

/* How many values each feature has. */
std::vector<int> forward_features();
std::vector<int> backward_features();

attention_case forward_case(const std::vector<int> &values);
backward_case backward_case_of(const std::vector<int> &values);

/* The hazards of the sm_100 backward. */
std::vector<backward_case> sm100_backward_hazards();

/*
 * The grid crosses all features of the forward, and all of the backward but the last three, of
 * which each case has some mix.
 */
int forward_grid_count();
int backward_grid_count();
attention_case forward_grid_case(int number);
backward_case backward_grid_case(int number);

#endif
