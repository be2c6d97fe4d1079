/*
 * The sm_100 backward of head dims over 128 in the simulator (pairs of CTAs): every gradient
 * against the fp64 answer, every gap and neighbour NaN, every byte of scratch poisoned.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/sm100/bwd_rows.h"
#include "tests/sim/backward.h"
#include "tests/sim/covering.h"
#include "tests/sim/features.h"
#include "tests/sim/mutations.h"

namespace
{

constexpr uint64_t COVERING_SEEDS = 10, HAZARD_SEEDS = 20;
constexpr int COVERING_PARTS = 5, HAZARDS = 2 * BACKWARD_HAZARDS;

START_TEST(every_pair_of_features)
{
    std::vector<std::vector<int>> cases = covering_cases(backward_features(sm100_backward_wide));
    for (size_t i = static_cast<size_t>(_i); i < cases.size(); i += COVERING_PARTS) {
        backward_case c = backward_feature_case(sm100_backward_wide, cases[i]);
        for (uint64_t seed = 1; seed <= COVERING_SEEDS; seed++) {
            backward_check(backward_under(c, seed), seed);
        }
    }
}
END_TEST

START_TEST(hazards_under_many_schedules)
{
    backward_check_schedules(backward_hazards(sm100_backward_wide)[static_cast<size_t>(_i)],
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

START_TEST(every_left_out_step_is_caught)
{
    std::vector<backward_case> cases = backward_hazards(sm100_backward_wide);
    cases = {cases[2]}; /* full deterministic; of the others the notes tell */
    ck_assert_int_eq(mutations_missed(cases, SPARE), 0);
}
END_TEST

/* With the rows before these, in the order of the table, every head dim is served. */
START_TEST(no_head_dim_is_refused)
{
    const attn_row rows[] = {SM100_BACKWARD_PAIR_ROW, SM100_BACKWARD_ROWS SM100_BACKWARD_WIDE_ROWS};
    for (int d = ATTN_HEAD_DIM_STEP; d <= ATTN_HEAD_DIM_MAX; d += ATTN_HEAD_DIM_STEP) {
        for (int dv = ATTN_HEAD_DIM_STEP; dv <= ATTN_HEAD_DIM_MAX; dv += ATTN_HEAD_DIM_STEP) {
            const char *name = "";
            for (const attn_row &row : rows) {
                bool fits =
                    d >= row.d_min && d <= row.d_max && dv >= row.dv_min && dv <= row.dv_max;
                name = fits && *name == '\0' ? row.name : name;
            }
            const char *wide = d <= 192 && dv <= 128 ? "sm100_bwd_192" : "sm100_bwd_256";
            ck_assert_str_ne(name, "");
            ck_assert_int_eq(strcmp(name, wide) == 0, d > 128 || dv > 128);
        }
    }
}
END_TEST

} // namespace

/* CK_RUN_CASE picks one of the cases. */
int main()
{
    Suite *suite = suite_create("sim_sm100_wide");
    TCase *results = tcase_create("results");
    tcase_add_loop_test(results, every_pair_of_features, 0, COVERING_PARTS);
    tcase_add_test(results, no_head_dim_is_refused);
    TCase *schedules = tcase_create("schedules");
    tcase_add_loop_test(schedules, hazards_under_many_schedules, 0, HAZARDS);
    TCase *left_out = tcase_create("left_out");
    tcase_add_test(left_out, every_left_out_step_is_caught);
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
