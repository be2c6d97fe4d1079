/*
 * The sm_100 backward in the simulator: every gradient against the fp64 answer, every gap and
 * neighbour NaN, every byte of scratch poisoned.
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
constexpr int HAZARDS = 2 * BACKWARD_HAZARDS; /* of d 64, of d 128 */

START_TEST(every_pair_of_features)
{
    std::vector<std::vector<int>> cases = covering_cases(backward_features(sm100_backward));
    for (size_t i = static_cast<size_t>(_i); i < cases.size(); i += COVERING_SEEDS) {
        for (uint64_t seed = 1; seed <= COVERING_SEEDS; seed++) {
            backward_check(backward_under(backward_feature_case(sm100_backward, cases[i]), seed),
                           seed);
        }
    }
}
END_TEST

START_TEST(hazards_under_many_schedules)
{
    backward_check_schedules(backward_hazards(sm100_backward)[static_cast<size_t>(_i)],
                             HAZARD_SEEDS);
}
END_TEST

const std::vector<spare_step> SPARE = {
    {"warp_sync(); /* the end wants", "the simulator lets lanes come to block_sync one by one", {}},
    {"mbarrier_wait(smem + S::MAY_DRAW",
     "tiles are drawn late for balance; where tiles of a group wait for each other (cyclic order) "
     "one CTA must not draw two of them",
     {"full in any order", "causal", "window"}},
    {"warp_sync(); /* all lanes have read",
     "there a tile is drawn when the next to last is done",
     {"full deterministic"}},
};

/* Each kernel, and each way in which turns are taken once. */
const size_t LEFT_OUT[] = {0, 2, 6, 8};
constexpr int LEFT_OUTS = 4;

START_TEST(every_left_out_step_is_caught)
{
    std::vector<backward_case> cases = backward_hazards(sm100_backward);
    cases = {cases[LEFT_OUT[_i]]};
    ck_assert_int_eq(mutations_missed(cases, SPARE), 0);
}
END_TEST

} // namespace

/* CK_RUN_CASE picks one of the cases. */
int main()
{
    Suite *suite = suite_create("sim_sm100_bwd");
    TCase *results = tcase_create("results");
    tcase_add_loop_test(results, every_pair_of_features, 0, COVERING_SEEDS);
    TCase *schedules = tcase_create("schedules");
    tcase_add_loop_test(schedules, hazards_under_many_schedules, 0, HAZARDS);
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
