/*
 * The sm_100 forward, unchanged, in the simulator: every result against the fp64 answer, every gap
 * and neighbour NaN, every write counted, over seeds; and with any one protocol step left out,
 * something objects.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/attention.h"
#include "tests/sim/covering.h"
#include "tests/sim/features.h"
#include "tests/sim/mutations.h"

namespace
{

constexpr uint64_t SEEDS = 10;

/* Rings go round more than twice; tiles of two halves and of one; an empty sequence. */
const std::vector<item> FEW = {
    {0, 400, 700, 0, 0, 1}, {1, 140, 333, 150, 0, 2}, {0, 0, 5, 3, 0, 3}, {1, 100, 290, 0, 0, 4}};

void nothing(sim::device &)
{
}

START_TEST(forward_of_ragged_batches_under_every_mask)
{
    const attention_row &row = attention_rows_sm100[static_cast<size_t>(_i)];
    for (const attn_mask &mask : attention_masks) {
        attention_case c = {row.name, &row, shape_of(ATTN_BF16, 4, 2, row.d, row.dv),
                            attention_ragged};
        c.shape.mask = mask;
        attention_check(c, 1);
    }
}
END_TEST

START_TEST(every_pair_of_features)
{
    std::vector<std::vector<int>> cases = covering_cases(forward_features());
    for (size_t i = static_cast<size_t>(_i); i < cases.size(); i += SEEDS) {
        for (uint64_t seed = 1; seed <= SEEDS; seed++) {
            attention_check(forward_feature_case(cases[i]), seed);
        }
    }
}
END_TEST

START_TEST(forward_with_softcap_and_sink)
{
    const attention_row &row = attention_rows_sm100[static_cast<size_t>(_i)];
    attention_case c = {row.name, &row, shape_of(ATTN_FP16, 3, 3, row.d, row.dv), attention_ragged};
    c.shape.mask = attention_masks[1];
    c.shape.softcap = 5.0f;
    c.shape.has_sink = true;
    attention_check(c, 2);
}
END_TEST

/* Narrower than the row's, also by whole panels of 64 columns, on either side. */
START_TEST(forward_of_odd_head_dims)
{
    const attention_row &row = attention_rows_sm100[static_cast<size_t>(_i)];
    const int dims[][2] = {
        {row.d - 16, row.dv - 24}, {40, row.dv}, {row.d, 40}, {row.d / 2, row.dv}};
    for (const int(&pair)[2] : dims) {
        attention_case c = {row.name, &row, shape_of(ATTN_BF16, 2, 2, pair[0], pair[1]), FEW};
        attention_check(c, 3);
    }
}
END_TEST

/* A NaN among the keys, in columns whose exponentials either unit makes, in a block with and in one
 * without a mask, costs the rows that see it and no other. */
START_TEST(nan_costs_the_rows_that_see_it)
{
    const attention_row &row = attention_rows_sm100[static_cast<size_t>(_i)];
    for (bool capped : {false, true}) {
        for (size_t mask = 0; mask < 2; mask++) {
            attention_case c = {
                row.name, &row, shape_of(ATTN_BF16, 1, 1, row.d, row.dv), {{0, 400, 400, 0, 0, 1}}};
            c.shape.mask = attention_masks[mask];
            c.shape.softcap = capped ? 5.0f : 0.0f;
            for (int key : {0, 128 + 6, 128 + 64, 398}) {
                attention_check_nan(c, 1, key);
            }
        }
    }
}
END_TEST

START_TEST(bits_do_not_depend_on_the_schedule)
{
    for (const attention_case &c : attention_hazards(attention_rows_sm100, FEW)) {
        attention_check(c, 1);
        attention_outcome first = attention_run(c, 1, nothing);
        for (uint64_t seed = 2; seed <= SEEDS; seed++) {
            attention_outcome o = attention_run(c, seed, nothing);
            ck_assert_msg(o.error.empty(), "%s, seed %lu: %s", c.name.c_str(),
                          static_cast<unsigned long>(seed), o.error.c_str());
            ck_assert_msg(o.bits == first.bits, "%s: seed %lu gives other bits than seed 1",
                          c.name.c_str(), static_cast<unsigned long>(seed));
        }
    }
}
END_TEST

const std::vector<spare_step> SPARE = {
    {"warp_sync(); /* no lane still",
     "a record is filled again four tiles later at the earliest, "
     "and lanes have met since, for messages and arrivals",
     {}},
    {"warp_sync(); /* block_sync wants",
     "the simulator lets lanes come to block_sync one by one",
     {}},
};

START_TEST(every_left_out_step_is_caught)
{
    ck_assert_int_eq(mutations_missed(attention_hazards(attention_rows_sm100, FEW), SPARE), 0);
}
END_TEST

} // namespace

/* CK_RUN_CASE picks one of the cases. */
int main()
{
    int rows = static_cast<int>(attention_rows_sm100.size());
    Suite *suite = suite_create("sim_sm100");
    TCase *results = tcase_create("results");
    tcase_add_loop_test(results, forward_of_ragged_batches_under_every_mask, 0, rows);
    tcase_add_loop_test(results, every_pair_of_features, 0, SEEDS);
    tcase_add_loop_test(results, forward_with_softcap_and_sink, 0, rows);
    tcase_add_loop_test(results, forward_of_odd_head_dims, 0, rows);
    tcase_add_loop_test(results, nan_costs_the_rows_that_see_it, 0, rows);
    TCase *schedules = tcase_create("schedules");
    tcase_add_test(schedules, bits_do_not_depend_on_the_schedule);
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
