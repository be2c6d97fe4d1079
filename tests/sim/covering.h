/*
 * tests/sim/covering: few cases in which each value of a feature meets each value of every other.
 */
#ifndef TESTS_SIM_COVERING_H
#define TESTS_SIM_COVERING_H

#include <vector>

/* values[f]: how many values feature f has. A case has one value, from 0 on, for each feature.
 * Always the same cases for the same question. */
std::vector<std::vector<int>> covering_cases(const std::vector<int> &values);

#endif
