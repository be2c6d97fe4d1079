/* See backward_suite.h. */
#include "tests/sim/backward_suite.h"

#include <stdlib.h>

#include "tests/sim/covering.h"

namespace
{

constexpr uint64_t COVERING_SEEDS = 10, HAZARD_SEEDS = 20;
constexpr int TIMEOUT_S = 600;

const backward_suite *asked; /* Check's tests have no argument but a number */

START_TEST(every_pair_of_features)
{
    std::vector<std::vector<int>> cases = covering_cases(backward_features(*asked->space));
    for (size_t i = static_cast<size_t>(_i); i < cases.size();
         i += static_cast<size_t>(asked->parts)) {
        backward_case c = backward_feature_case(*asked->space, cases[i]);
        for (uint64_t seed = 1; seed <= COVERING_SEEDS; seed++) {
            backward_check(backward_under(c, seed), seed);
        }
    }
}
END_TEST

START_TEST(hazards_under_many_schedules)
{
    backward_check_schedules(backward_hazards(*asked->space)[static_cast<size_t>(_i)],
                             HAZARD_SEEDS);
}
END_TEST

START_TEST(every_left_out_step_is_caught)
{
    size_t hazard = asked->left_out[static_cast<size_t>(_i)];
    ck_assert_int_eq(mutations_missed({backward_hazards(*asked->space)[hazard]}, asked->spare), 0);
}
END_TEST

} // namespace

int backward_suite_main(const backward_suite &suite)
{
    asked = &suite;
    Suite *all = suite_create(suite.name);
    TCase *results = tcase_create("results");
    tcase_add_loop_test(results, every_pair_of_features, 0, suite.parts);
    for (const TTest *test : suite.more) {
        tcase_add_test(results, test);
    }
    TCase *schedules = tcase_create("schedules");
    tcase_add_loop_test(schedules, hazards_under_many_schedules, 0,
                        static_cast<int>(backward_hazards(*suite.space).size()));
    TCase *left_out = tcase_create("left_out");
    tcase_add_loop_test(left_out, every_left_out_step_is_caught, 0,
                        static_cast<int>(suite.left_out.size()));
    for (TCase *tests : {results, schedules, left_out}) {
        tcase_set_timeout(tests, TIMEOUT_S);
        suite_add_tcase(all, tests);
    }
    SRunner *runner = srunner_create(all);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
