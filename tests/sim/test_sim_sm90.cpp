/*
 * The sm_90a kernels, unchanged, in the simulator: every result against the fp64 answer, every gap
 * and neighbour NaN, every write counted, over seeds; and with any one protocol step left out,
 * something objects.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/attention.h"
#include "tests/sim/mutations.h"

namespace
{

constexpr uint64_t SEEDS = 20;
constexpr uint64_t IN_PARTS = 15; /* a seed with which attention_check launches three of them */

void nothing(sim::device &)
{
}

START_TEST(forward_of_ragged_batches_under_every_mask)
{
    const attention_row &row = attention_rows_sm90[static_cast<size_t>(_i)];
    for (const attn_mask &mask : attention_masks) {
        attention_case c = {row.name, &row, shape_of(ATTN_BF16, 4, 2, row.d, row.dv),
                            attention_ragged};
        c.shape.mask = mask;
        attention_check(c, 1);
    }
}
END_TEST

/* Tiles of two, four and eight heads, and of two where three share keys twice over. */
START_TEST(forward_of_heads_that_share_keys)
{
    const attention_row &row = attention_rows_sm90[static_cast<size_t>(_i)];
    const int heads[][2] = {{4, 1}, {8, 1}, {6, 1}, {8, 2}};
    for (const int(&pair)[2] : heads) {
        for (size_t mask = 0; mask < 3; mask++) {
            attention_case c = {row.name, &row,
                                shape_of(ATTN_BF16, pair[0], pair[1], row.d, row.dv),
                                attention_ragged};
            c.shape.mask = attention_masks[mask];
            c.shape.has_sink = mask == 1;
            attention_check(c, 4 + mask);
        }
    }
}
END_TEST

START_TEST(forward_with_softcap_and_sink)
{
    const attention_row &row = attention_rows_sm90[static_cast<size_t>(_i)];
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
    const attention_row &row = attention_rows_sm90[static_cast<size_t>(_i)];
    const int dims[][2] = {
        {row.d - 16, row.dv - 24}, {40, row.dv}, {row.d, 40}, {row.d / 2, row.dv}};
    for (const int(&pair)[2] : dims) {
        attention_case c = {row.name, &row, shape_of(ATTN_BF16, 2, 2, pair[0], pair[1]),
                            attention_few};
        attention_check(c, 3);
    }
}
END_TEST

START_TEST(forward_of_scores_that_outgrow_exp)
{
    const attention_row &row = attention_rows_sm90[static_cast<size_t>(_i)];
    for (size_t m = 0; m < attention_masks.size(); m++) {
        attn_shape shape =
            shape_of(m % 2 ? ATTN_FP16 : ATTN_BF16, 2, 1, row.d - m % 2 * 24, row.dv);
        shape.mask = attention_masks[m];
        shape.softcap = m == 1 ? 150.0f : 0.0f;
        attention_check_steep({"steep", &row, shape, attention_few}, m + 1);
    }
}
END_TEST

/* A NaN among the keys, in a block with and in one without a mask, costs the rows that see it and
 * no other; causal row 0 sees nothing but key 0. It costs no time: nothing is multiplied again. */
START_TEST(nan_costs_the_rows_that_see_it)
{
    const attention_row &row = attention_rows_sm90[static_cast<size_t>(_i)];
    for (size_t mask = 0; mask < 2; mask++) {
        attention_case c = {
            row.name, &row, shape_of(ATTN_BF16, 1, 1, row.d, row.dv), {{0, 400, 400, 0, 0, 1}}};
        c.shape.mask = attention_masks[mask];
        uint64_t multiplies = attention_run(c, 1, nothing).multiplies;
        for (int key : {0, 128 + 6, 398}) {
            ck_assert_uint_eq(attention_check_nan(c, 1, key), multiplies);
        }
    }
}
END_TEST

START_TEST(bits_do_not_depend_on_the_schedule)
{
    for (const attention_case &c : attention_hazards(attention_rows_sm90)) {
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

/* Without a mask 192 rows are a tile of three consumers, 256 two of two: kernels of their own. The
 * second overlaps the first of its own launch, never whatever ran before that: in parts that is the
 * same kernel, whose counter it shares. */
START_TEST(only_the_second_kernel_of_a_launch_overlaps)
{
    attn_shape shape = attention_hazards(attention_rows_sm90)[0].shape;
    shape.mask = attention_masks[0];
    for (const attention_row &row : attention_rows_sm90) {
        if (row.d != 128 && row.d != 192) {
            continue;
        }
        const item tall = {0, 192, 192, 0, 0, 1}, small = {0, 256, 256, 0, 0, 2};
        attention_case c = {row.name, &row, shape, {tall, small}};
        c.shape.d = row.d;
        c.shape.dv = row.dv;
        ck_assert_uint_eq(attention_run(c, 1, nothing).overlapping, 1);
        for (const item &alone : {tall, small}) {
            c.items = {alone};
            ck_assert_uint_eq(attention_run(c, 1, nothing).overlapping, 0);
            attention_check(c, IN_PARTS);
        }
    }
}
END_TEST

const std::vector<spare_step> SPARE = {
    {"warp_sync(); /* likewise",
     "V of a skipped tile: the same step for K, some lines above, and "
     "the shuffles ahead of the next "
     "tile's products nearly always cover it; K's is demanded",
     {}},
    {"warp_sync(); /* no lane is still in scores_again",
     "no score of these cases outgrows anything; forward_of_scores_that_outgrow_exp demands it",
     {}},
    {"bulk_wait<0>()",
     "at the end: the stores' sources were waited for, and the end of a kernel "
     "waits for the rest",
     {}},
};

START_TEST(every_left_out_step_is_caught)
{
    ck_assert_int_eq(mutations_missed(attention_hazards(attention_rows_sm90), SPARE), 0);
}
END_TEST

} // namespace

int main()
{
    int rows = static_cast<int>(attention_rows_sm90.size());
    Suite *suite = suite_create("sim_sm90");
    TCase *tests = tcase_create("forward");
    tcase_set_timeout(tests, 300);
    tcase_add_loop_test(tests, forward_of_ragged_batches_under_every_mask, 0, rows);
    tcase_add_loop_test(tests, forward_of_heads_that_share_keys, 0, rows);
    tcase_add_loop_test(tests, forward_with_softcap_and_sink, 0, rows);
    tcase_add_loop_test(tests, forward_of_odd_head_dims, 0, rows);
    tcase_add_loop_test(tests, forward_of_scores_that_outgrow_exp, 0, rows);
    tcase_add_loop_test(tests, nan_costs_the_rows_that_see_it, 0, rows);
    tcase_add_test(tests, bits_do_not_depend_on_the_schedule);
    tcase_add_test(tests, only_the_second_kernel_of_a_launch_overlaps);
    tcase_add_test(tests, every_left_out_step_is_caught);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
