/*
 * The sm_100 backward by pairs of CTAs in the simulator (head dims over 64): every gradient against
 * the fp64 answer, every gap and neighbour NaN, every byte of scratch poisoned.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/sim/backward.h"
#include "tests/sim/covering.h"
#include "tests/sim/features.h"
#include "tests/sim/mutations.h"

namespace
{

constexpr uint64_t COVERING_SEEDS = 10, HAZARD_SEEDS = 20;
constexpr int COVERING_PARTS = 10;

START_TEST(every_pair_of_features)
{
    std::vector<std::vector<int>> cases = covering_cases(backward_features(sm100_backward_pairs));
    for (size_t i = static_cast<size_t>(_i); i < cases.size(); i += COVERING_PARTS) {
        backward_case c = backward_feature_case(sm100_backward_pairs, cases[i]);
        for (uint64_t seed = 1; seed <= COVERING_SEEDS; seed++) {
            backward_check(backward_under(c, seed), seed);
        }
    }
}
END_TEST

START_TEST(hazards_under_many_schedules)
{
    backward_check_schedules(backward_hazards(sm100_backward_pairs)[static_cast<size_t>(_i)],
                             HAZARD_SEEDS);
}
END_TEST

const std::vector<spare_step> SPARE = {
    {"warp_sync(); /* the end wants",
     "the simulator lets lanes come to cluster_arrive one by one",
     {}},
    {"mbarrier_wait(smem + S::MAY_DRAW",
     "tiles are drawn late for balance: pairs take no turns in the cyclic order",
     {}},
};

/* Each way in which turns are taken. */
const size_t LEFT_OUT[] = {0, 2, 3};
constexpr int LEFT_OUTS = 3;

START_TEST(every_left_out_step_is_caught)
{
    std::vector<backward_case> cases = backward_hazards(sm100_backward_pairs);
    cases = {cases[LEFT_OUT[_i]]};
    ck_assert_int_eq(mutations_missed(cases, SPARE), 0);
}
END_TEST

} // namespace

/* CK_RUN_CASE picks one of the cases. */
int main()
{
    Suite *suite = suite_create("sim_sm100_pair");
    TCase *results = tcase_create("results");
    tcase_add_loop_test(results, every_pair_of_features, 0, COVERING_PARTS);
    TCase *schedules = tcase_create("schedules");
    tcase_add_loop_test(schedules, hazards_under_many_schedules, 0, BACKWARD_HAZARDS);
    TCase *left_out = tcase_create("left_out");
    tcase_add_loop_test(left_out, every_left_out_step_is_caught, 0, LEFT_OUTS);
    for (TCase *tests : {results, schedules, left_out}) {
        tcase_set_timeout(tests, 600);
        suite_add_tcase(suite, tests);
    }
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
