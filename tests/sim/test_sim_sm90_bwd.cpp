/*
 * The sm_90a backward, unchanged, in the simulator: every gradient against the fp64 answer, every
 * gap and neighbour NaN, every byte of scratch poisoned, over masks, features and seeds.
 */
#include <check.h>
#include <stdlib.h>

#include "kernels/sm90/rows.h"
#include "tests/sim/backward.h"
#include "tests/sim/mutations.h"

namespace
{

const attn_row ROWS[] = {ATTN_SM90_ROWS};
constexpr size_t ROW_COUNT = sizeof ROWS / sizeof *ROWS;
/* Kernels differ in the queries of a step, and in the keys of a tile. */
const backward_kind OF_64 = {ROWS, ROW_COUNT, 128, true, 1, sim::PROCESSORS},
                    OF_128 = {ROWS, ROW_COUNT, 64, false, 1, sim::PROCESSORS, 1024},
                    OF_256 = {ROWS, ROW_COUNT, 0, false, 1, sim::PROCESSORS};

/* At most three key blocks of 128 each, because a group of a deterministic backward
 * without mask needs as many CTAs at a time as it has blocks, and three is what the simulator has.
 */
const std::vector<item> ITEMS = {{0, 170, 333, 0, 0, 1},
                                 {1, 77, 380, 90, 0, 2},
                                 {0, 0, 5, 3, 0, 3},
                                 {1, 300, 40, 0, 50, 4},
                                 {0, 65, 0, 0, 7, 5}};
const std::vector<item> SHORT_ITEMS = {
    {0, 170, 133, 0, 0, 1}, {1, 77, 190, 90, 0, 2}, {0, 0, 5, 3, 0, 3}, {1, 150, 40, 0, 50, 4}};

const attn_mask FULL = {false, false, 0, 0}, CAUSAL = {false, true, 0, 0};
const attn_mask MASKS[] = {
    FULL, CAUSAL, {true, true, 100, 0}, {true, true, 17, 30}, {true, false, 40, 0}};
constexpr int MASK_COUNT = 5;

backward_case case_of(const attn_shape &shape)
{
    bool wide = shape.d > 128 || shape.dv > 128;
    bool narrow = shape.d <= 64 && shape.dv <= 64 && shape.softcap == 0.0f;
    const backward_kind &kind = narrow ? OF_64 : wide ? OF_256 : OF_128;
    return backward_case_of(kind, "", shape, wide ? SHORT_ITEMS : ITEMS);
}

void check(const attn_shape &shape, uint64_t seed, int resident)
{
    backward_case c = case_of(shape);
    c.resident = resident;
    backward_check(c, seed);
}

/* The head dims of the rows. */
const int ROW_DIMS[][2] = {{64, 64}, {128, 128}, {192, 128}, {256, 256}};

START_TEST(every_mask)
{
    for (const int *dims : ROW_DIMS) {
        attn_shape shape = backward_shape(ATTN_BF16, 2, 1, dims[0], dims[1]);
        shape.mask = MASKS[_i];
        for (bool deterministic : {false, true}) {
            shape.deterministic = deterministic;
            check(shape, 1, sim::PROCESSORS);
        }
    }
}
END_TEST

START_TEST(softcap_sink_dlse_and_delta)
{
    for (const int *dims : ROW_DIMS) {
        attn_shape shape = backward_shape(ATTN_FP16, 2, 2, dims[0], dims[1]);
        shape.mask = CAUSAL;
        shape.has_sink = true;
        shape.has_dlse = true;
        check(shape, 2, 2);
        shape.has_delta = true;
        shape.softcap = 5.0f;
        check(shape, 3, 2);
    }
}
END_TEST

START_TEST(odd_head_dims)
{
    check(backward_shape(ATTN_BF16, 2, 2, 40, 56), 4, 2);
    check(backward_shape(ATTN_BF16, 2, 2, 104, 72), 5, 2);
    check(backward_shape(ATTN_BF16, 2, 2, 168, 104), 6, 2);
    check(backward_shape(ATTN_BF16, 2, 2, 200, 232), 7, 2);
}
END_TEST

/* d and dv have different numbers of panels: some of the kernel's lie outside the tensors. */
START_TEST(head_dims_far_apart)
{
    check(backward_shape(ATTN_BF16, 2, 1, 40, 128), 8, 2);
    check(backward_shape(ATTN_BF16, 2, 1, 128, 8), 9, 2);
    check(backward_shape(ATTN_BF16, 2, 1, 136, 64), 10, 2);
    check(backward_shape(ATTN_BF16, 2, 1, 64, 256), 11, 2);
    check(backward_shape(ATTN_BF16, 2, 1, 256, 16), 12, 2);
}
END_TEST

START_TEST(deterministic_bits_do_not_depend_on_the_schedule)
{
    attn_shape shape = backward_shape(ATTN_BF16, 2, 1, 128, 128);
    shape.deterministic = true;
    shape.mask = _i == 0 ? FULL : CAUSAL;
    backward_check_schedules(case_of(shape), 8);
}
END_TEST

/* Past d 128 a launch is deterministic whether asked to be or not. */
START_TEST(wide_bits_never_depend_on_the_schedule)
{
    for (int d : {192, 256}) {
        attn_shape shape = backward_shape(ATTN_BF16, 2, 1, d, d == 192 ? 128 : d);
        shape.mask = _i == 0 ? FULL : CAUSAL;
        shape.deterministic = true;
        uint64_t first = backward_check(case_of(shape), 1);
        shape.deterministic = false;
        backward_case c = case_of(shape);
        for (uint64_t seed = 2; seed <= 4; seed++) {
            c.resident = 1 + static_cast<int>(seed) % sim::PROCESSORS;
            ck_assert_msg(backward_check(c, seed) == first, "%s, seed %lu gives other bits",
                          c.name.c_str(), static_cast<unsigned long>(seed));
        }
    }
}
END_TEST

/* In a launch of mostly short sequences tiles of the long one add to sums that begin with zero,
 * those of short ones write dQ themselves, one alone, two in turn; else all of them add. Where bits
 * are asked for all of them write, unless most is longer by far. With any number of CTAs at a time.
 */
START_TEST(short_sequences_beside_a_long_one)
{
    const struct {
        int q_len, k_len; /* of the long one */
        bool causal, deterministic;
    } loop[] = {{40, 1100, false, false}, {40, 1100, true, false},   {40, 1100, false, false},
                {40, 1100, true, true},   {170, 1030, false, false}, {170, 1030, true, true},
                {21, 7200, false, true},  {21, 7200, true, true}};
    const auto &now = loop[_i];
    const std::vector<item> items = {{0, now.q_len, now.k_len, 0, 0, 1},
                                     {1, 200, 300, 0, 0, 2},
                                     {0, 65, 128, 0, 0, 3},
                                     {1, 5, 129, 0, 0, 4}};
    attn_shape shape = backward_shape(ATTN_BF16, 2, 1, 128, 120);
    shape.mask = now.causal ? CAUSAL : FULL;
    shape.deterministic = now.deterministic;
    backward_case c = backward_case_of(OF_128, "", shape, items);
    c.resident = shape.deterministic ? sim::PROCESSORS : 1 + _i % sim::PROCESSORS;
    backward_check(c, static_cast<uint64_t>(_i) + 1);
}
END_TEST

const std::vector<spare_step> SPARE = {
    {"fence_async_smem(); /* zeros",
     "of panels that the tensor has not: demanded where there are some",
     {"64 ", "128 causal", "128 full", "192 ", "256 "}},
    {"mbarrier_wait(smem + S::MAY_DRAW",
     "tiles are drawn late for balance; where tiles of a group wait for each other (cyclic order) "
     "one CTA must not draw two of them, but it draws after its last loads: in batches as small as "
     "these the others have drawn by then",
     {}},
    {"bulk_wait<0>(); /* spare",
     "sources were waited for before, and the end of a kernel waits for the rest",
     {}},
};

/* Each kernel; each way in which turns are taken; a tensor narrower than its kernel. */
std::vector<backward_case> left_out_cases()
{
    attn_shape narrow = backward_shape(ATTN_BF16, 2, 1, 40, 128);
    attn_shape halves = backward_shape(ATTN_BF16, 2, 1, 192, 128);
    attn_shape roles = backward_shape(ATTN_BF16, 2, 1, 256, 256);
    halves.mask = roles.mask = CAUSAL;
    halves.deterministic = roles.deterministic = true;
    return {backward_hazards(OF_64, 64, 64)[2],
            backward_hazards(OF_128, 128, 128)[1],
            backward_hazards(OF_128, 128, 128)[2],
            backward_case_of(OF_128, "narrow", narrow, ITEMS),
            backward_case_of(OF_256, "causal deterministic", halves, SHORT_ITEMS),
            backward_case_of(OF_256, "causal deterministic", roles, SHORT_ITEMS)};
}
constexpr int LEFT_OUTS = 6;

START_TEST(every_left_out_step_is_caught)
{
    std::vector<backward_case> cases = left_out_cases();
    cases = {cases[static_cast<size_t>(_i)]};
    ck_assert_int_eq(mutations_missed(cases, SPARE), 0);
}
END_TEST

} // namespace

/* CK_RUN_CASE picks one of the cases. */
int main()
{
    Suite *suite = suite_create("sim_sm90_bwd");
    TCase *tests = tcase_create("backward");
    tcase_set_timeout(tests, 300);
    tcase_add_loop_test(tests, every_mask, 0, MASK_COUNT);
    tcase_add_test(tests, softcap_sink_dlse_and_delta);
    tcase_add_test(tests, odd_head_dims);
    tcase_add_test(tests, head_dims_far_apart);
    tcase_add_loop_test(tests, deterministic_bits_do_not_depend_on_the_schedule, 0, 2);
    tcase_add_loop_test(tests, wide_bits_never_depend_on_the_schedule, 0, 2);
    tcase_add_loop_test(tests, short_sequences_beside_a_long_one, 0, 8);
    TCase *left_out = tcase_create("left_out");
    tcase_set_timeout(left_out, 600);
    tcase_add_loop_test(left_out, every_left_out_step_is_caught, 0, LEFT_OUTS);
    suite_add_tcase(suite, tests);
    suite_add_tcase(suite, left_out);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
