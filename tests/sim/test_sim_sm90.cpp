/*
 * The sm_90a kernels, unchanged, in the simulator: every result against the fp64 answer, every gap
 * and neighbour NaN, every write counted, over seeds.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string>

#include "kernels/attn_cuda.h"
#include "kernels/sm90/rows.h"
#include "sim/device.h"

extern "C" {
#include "tests/kernels/problem.h"
}

namespace
{

size_t no_scratch(const attn_launch *)
{
    return 0;
}

struct named_row {
    attn_row row;
    int d, dv;
};

const named_row rows[] = {
    {{"sm90_fwd_64", ATTN_SM90, ATTN_FORWARD, 0, 8, 64, 8, 64, nullptr, no_scratch, sm90_fwd_64},
     64,
     64},
    {{"sm90_fwd_128", ATTN_SM90, ATTN_FORWARD, 0, 65, 128, 8, 128, nullptr, no_scratch,
      sm90_fwd_128},
     128,
     128},
};

/* Lengths around every tile edge, empty sides, unused rows, three sets of different layouts. */
const item ragged[] = {
    {0, 0, 37, 5, 0, 1},  {0, 129, 200, 0, 210, 2}, {1, 70, 21, 80, 0, 3}, {2, 1, 600, 0, 0, 4},
    {1, 0, 0, 0, 0, 5},   {2, 33, 0, 0, 9, 6},      {0, 1, 1, 0, 0, 7},    {2, 257, 130, 0, 0, 8},
    {0, 63, 64, 0, 0, 9}, {0, 65, 385, 0, 0, 10},
};
constexpr int RAGGED = sizeof ragged / sizeof ragged[0];

/* Small: some 20 tiles of work, for many seeds. */
const item few[] = {{0, 200, 333, 0, 0, 1}, {1, 77, 300, 90, 0, 2}, {0, 0, 5, 3, 0, 3}};
constexpr int FEW = sizeof few / sizeof few[0];

const attn_mask masks[] = {
    {false, false, 0, 0}, {false, true, 0, 0},  {true, true, 17, 0},
    {true, true, 0, 5},   {true, false, 40, 0},
};

void add_tensor(void *device, void *memory, size_t bytes, int written)
{
    sim::device_add(static_cast<sim::device *>(device), "a tensor", memory, bytes,
                    written ? sim::usage::output : sim::usage::input);
}

/* One launch and its answer; the message names what a rerun needs. */
void run(const named_row &row, const attn_shape &shape, const item *items, int count, uint64_t seed)
{
    sim::device device;
    device.seed = seed;
    device.resident = 1 + static_cast<int>(seed % sim::PROCESSORS);
    attn_context *context = attn_cuda_open(&device, 1 << 20);
    problem *p = problem_open(&shape, items, count);
    problem_visit(p, add_tensor, &device);
    p->rounding = shape.dtype == ATTN_BF16 ? 0x1p-8 : 0x1p-11;
    attn_row checked = row.row;
    static attn_status (*launch)(attn_context *, const attn_launch *);
    static sim::device *on;
    static std::string name;
    launch = row.row.launch;
    on = &device;
    name = std::string(row.row.name) + ", seed " + std::to_string(seed);
    checked.launch = [](attn_context *c, const attn_launch *l) {
        attn_status status = launch(c, l);
        ck_assert_msg(on->error.empty(), "%s: %s", name.c_str(), on->error.c_str());
        return status;
    };
    problem_run_row(p, &checked, context);
    problem_check(p);
    problem_close(p);
    attn_cuda_close(context);
}

START_TEST(forward_of_ragged_batches_under_every_mask)
{
    const named_row &row = rows[_i];
    for (const attn_mask &mask : masks) {
        attn_shape shape = shape_of(ATTN_BF16, 4, 2, row.d, row.dv);
        shape.mask = mask;
        run(row, shape, ragged, RAGGED, 1);
    }
}
END_TEST

START_TEST(forward_with_softcap_and_sink)
{
    const named_row &row = rows[_i];
    attn_shape shape = shape_of(ATTN_FP16, 3, 3, row.d, row.dv);
    shape.mask = masks[1];
    shape.softcap = 5.0f;
    shape.has_sink = true;
    run(row, shape, ragged, RAGGED, 2);
}
END_TEST

START_TEST(forward_over_seeds)
{
    const named_row &row = rows[_i];
    for (uint64_t seed = 1; seed <= 10; seed++) {
        attn_shape shape = shape_of(ATTN_BF16, 2, 1, row.d, row.dv);
        shape.mask = masks[seed % 2];
        run(row, shape, few, FEW, seed);
    }
}
END_TEST

} // namespace

int main()
{
    constexpr int ROWS = sizeof rows / sizeof rows[0];
    Suite *suite = suite_create("sim_sm90");
    TCase *tests = tcase_create("forward");
    tcase_set_timeout(tests, 300);
    tcase_add_loop_test(tests, forward_of_ragged_batches_under_every_mask, 0, ROWS);
    tcase_add_loop_test(tests, forward_with_softcap_and_sink, 0, ROWS);
    tcase_add_loop_test(tests, forward_over_seeds, 0, ROWS);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
