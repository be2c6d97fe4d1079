/*
 * The sm_100 backward in the simulator: every gradient against the fp64 answer, every gap and
 * neighbour NaN, every byte of scratch poisoned.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>

#include "kernels/sm100/bwd_rows.h"
#include "tests/sim/backward.h"
#include "tests/sim/covering.h"
#include "tests/sim/mutations.h"

namespace
{

constexpr uint64_t COVERING_SEEDS = 10, HAZARD_SEEDS = 20;
constexpr int HAZARDS = 10, Q_BLOCK = 128;

const attn_row ROWS[] = {SM100_BACKWARD_ROWS};

/* Features of the covering set. */
const struct {
    int d, dv;
} DIMS[] = {{64, 64}, {128, 128}, {40, 56}, {104, 72}, {128, 64}, {64, 128}};
const struct {
    int hq, hkv;
} HEADS[] = {{1, 1}, {2, 1}, {2, 2}, {6, 1}, {6, 2}, {6, 3}};
const attn_mask FULL = {false, false, 0, 0}, CAUSAL = {false, true, 0, 0},
                LEFT = {true, false, 40, 0};
const attn_mask MASKS[] = {FULL, CAUSAL, {true, true, 100, 0}, {true, true, 17, 30}, LEFT};
/* Lengths around every edge; at most three key blocks, because a group of a deterministic backward
 * without mask needs as many CTAs at a time as it has blocks, and three is what the simulator has.
 */
const std::vector<item> LENGTHS[] = {
    {{0, 1, 1, 0, 0, 1}, {0, 63, 129, 0, 0, 2}, {1, 129, 63, 0, 0, 3}, {1, 64, 64, 0, 0, 4}},
    {{0, 255, 257, 0, 0, 1}, {0, 0, 65, 0, 0, 2}, {1, 65, 0, 0, 0, 3}, {0, 127, 128, 0, 0, 4}},
    {{0, 257, 255, 0, 0, 1}, {1, 128, 127, 0, 0, 2}, {2, 0, 0, 0, 0, 3}},
    {{0, 65, 1, 70, 0, 1}, {1, 1, 65, 0, 90, 2}, {0, 257, 64, 0, 0, 3}, {1, 129, 129, 140, 150, 4}},
};

enum feature { DIM, HEAD, MASK, LENGTH, FP16, DETERMINISTIC, SOFTCAP, SINK, DLSE, DELTA, FEATURES };

template <typename T, size_t COUNT>
constexpr int count_of(const T (&)[COUNT])
{
    return COUNT;
}

backward_case case_of(const char *name, const attn_shape &shape, const std::vector<item> &items)
{
    return {name,   backward_row(ROWS, count_of(ROWS), shape), shape, items, sim::PROCESSORS,
            Q_BLOCK};
}

backward_case covering_case(const std::vector<int> &v)
{
    attn_shape shape = backward_shape(v[FP16] ? ATTN_FP16 : ATTN_BF16, HEADS[v[HEAD]].hq,
                                      HEADS[v[HEAD]].hkv, DIMS[v[DIM]].d, DIMS[v[DIM]].dv);
    shape.mask = MASKS[v[MASK]];
    shape.deterministic = v[DETERMINISTIC];
    shape.softcap = v[SOFTCAP] ? 5.0f : 0.0f;
    shape.has_sink = v[SINK];
    shape.has_dlse = v[DLSE];
    shape.has_delta = v[DELTA];
    return case_of("covering", shape, LENGTHS[v[LENGTH]]);
}

START_TEST(every_pair_of_features)
{
    std::vector<int> values = {
        count_of(DIMS), count_of(HEADS), count_of(MASKS), count_of(LENGTHS), 2, 2, 2, 2, 2, 2};
    std::vector<std::vector<int>> cases = covering_cases(values);
    for (size_t i = static_cast<size_t>(_i); i < cases.size(); i += COVERING_SEEDS) {
        for (uint64_t seed = 1; seed <= COVERING_SEEDS; seed++) {
            backward_case c = covering_case(cases[i]);
            c.name += " " + std::to_string(i);
            c.resident = backward_resident(c.shape, seed);
            backward_check(c, seed);
        }
    }
}
END_TEST

void nothing(sim::device &)
{
}

/* Deterministic gradients are the same bits; others are right each time. */
START_TEST(hazards_under_many_schedules)
{
    backward_case c = backward_hazards(ROWS, count_of(ROWS), Q_BLOCK)[static_cast<size_t>(_i)];
    backward_check(c, 1);
    uint64_t first = backward_run(c, 1, nothing).bits;
    for (uint64_t seed = 2; seed <= HAZARD_SEEDS; seed++) {
        c.resident = backward_resident(c.shape, seed);
        if (!c.shape.deterministic) {
            backward_check(c, seed);
            continue;
        }
        backward_outcome o = backward_run(c, seed, nothing);
        ck_assert_msg(o.error.empty(), "%s, seed %lu: %s", c.name.c_str(),
                      static_cast<unsigned long>(seed), o.error.c_str());
        ck_assert_msg(o.bits == first, "%s: seed %lu gives other bits than seed 1", c.name.c_str(),
                      static_cast<unsigned long>(seed));
    }
}
END_TEST

const std::vector<spare_step> SPARE = {
    {"warp_sync(); /* block_sync wants",
     "the simulator lets lanes come to block_sync one by one",
     {}},
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

START_TEST(every_left_out_step_is_caught)
{
    std::vector<backward_case> cases = backward_hazards(ROWS, count_of(ROWS), Q_BLOCK);
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
    tcase_add_loop_test(left_out, every_left_out_step_is_caught, 0, count_of(LEFT_OUT));
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
