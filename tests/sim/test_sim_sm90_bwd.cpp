/*
 * The sm_90a backward, unchanged, in the simulator: every gradient against the fp64 answer, every
 * gap and neighbour NaN, every byte of scratch poisoned, over masks, features and seeds.
 */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include <string>
#include <vector>

#include "kernels/attn_cuda.h"
#include "kernels/sm90/rows.h"
#include "sim/device.h"

extern "C" {
#include "tests/kernels/problem.h"
}

namespace
{

constexpr size_t PLAN_BYTES = 1 << 20;

/* At most three key blocks of 128, or of 64, each, because a group of a deterministic backward
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

/* The row serves the shape as the table says. */
const attn_row *row_for(const attn_shape &shape)
{
    static const attn_row rows[] = {ATTN_SM90_ROWS};
    for (const attn_row &row : rows) {
        bool fits = row.pass == shape.pass && shape.d <= row.d_max && shape.dv <= row.dv_max;
        if (fits && (row.refuse == nullptr || row.refuse(&shape) == nullptr)) {
            return &row;
        }
    }
    return nullptr;
}

void add_tensor(void *device, void *memory, size_t bytes, int written)
{
    sim::device_add(static_cast<sim::device *>(device), "a tensor", memory, bytes,
                    written ? sim::usage::output : sim::usage::input);
}

void add_bits(void *bits, void *memory, size_t bytes, int written)
{
    uint64_t &hash = *static_cast<uint64_t *>(bits);
    const unsigned char *at = static_cast<const unsigned char *>(memory);
    for (size_t i = 0; written && i < bytes; i++) {
        hash = (hash ^ at[i]) * 0x100000001b3u;
    }
}

/* problem_run_row calls a plain function: what it is to launch. */
struct {
    const attn_row *row;
    sim::device *device;
} running;

attn_status launch_running(attn_context *context, const attn_launch *launch)
{
    if (launch->part == 0) {
        sim::device_add(running.device, "scratch", launch->scratch, launch->scratch_bytes,
                        sim::usage::scratch);
    }
    attn_status status = running.row->launch(context, launch);
    ck_assert_msg(running.device->error.empty(), "%s, seed %lu: %s", running.row->name,
                  static_cast<unsigned long>(running.device->seed), running.device->error.c_str());
    return status;
}

/* Runs and checks one launch; returns the bits of its results. */
uint64_t check(const attn_shape &shape, uint64_t seed, int resident)
{
    sim::device device;
    attn_context *context = attn_cuda_open(&device, PLAN_BYTES);
    const std::vector<item> &items = shape.d > 128 || shape.dv > 128 ? SHORT_ITEMS : ITEMS;
    problem *p = problem_open(&shape, items.data(), static_cast<int>(items.size()));
    device.seed = seed;
    device.resident = resident;
    problem_visit(p, add_tensor, &device);
    p->parts = static_cast<int>(seed % 4);
    p->rounding = shape.dtype == ATTN_BF16 ? 0x1p-8 : 0x1p-11;
    running = {row_for(shape), &device};
    attn_row row = *running.row;
    row.launch = launch_running;
    problem_run_row(p, &row, context);
    problem_check(p);
    uint64_t bits = 0;
    problem_visit(p, add_bits, &bits);
    problem_close(p);
    attn_cuda_close(context);
    return bits;
}

attn_shape backward_of(attn_dtype dtype, int hq, int hkv, int d, int dv)
{
    attn_shape shape = shape_of(dtype, hq, hkv, d, dv);
    shape.pass = ATTN_BACKWARD;
    return shape;
}

/* The head dims of the rows. */
const int ROW_DIMS[][2] = {{64, 64}, {128, 128}, {192, 128}, {256, 256}};

START_TEST(every_mask)
{
    for (const int *dims : ROW_DIMS) {
        attn_shape shape = backward_of(ATTN_BF16, 2, 1, dims[0], dims[1]);
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
        attn_shape shape = backward_of(ATTN_FP16, 2, 2, dims[0], dims[1]);
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
    check(backward_of(ATTN_BF16, 2, 2, 40, 56), 4, 2);
    check(backward_of(ATTN_BF16, 2, 2, 104, 72), 5, 2);
    check(backward_of(ATTN_BF16, 2, 2, 168, 104), 6, 2);
    check(backward_of(ATTN_BF16, 2, 2, 200, 232), 7, 2);
}
END_TEST

/* d and dv have different numbers of panels: some of the kernel's lie outside the tensors. */
START_TEST(head_dims_far_apart)
{
    check(backward_of(ATTN_BF16, 2, 1, 40, 128), 8, 2);
    check(backward_of(ATTN_BF16, 2, 1, 128, 8), 9, 2);
    check(backward_of(ATTN_BF16, 2, 1, 136, 64), 10, 2);
    check(backward_of(ATTN_BF16, 2, 1, 64, 256), 11, 2);
    check(backward_of(ATTN_BF16, 2, 1, 256, 16), 12, 2);
}
END_TEST

/* Whatever the order in which things complete. Causal: with any number of CTAs at a time. */
START_TEST(deterministic_bits_do_not_depend_on_the_schedule)
{
    attn_shape shape = backward_of(ATTN_BF16, 2, 1, 128, 128);
    shape.deterministic = true;
    shape.mask = _i == 0 ? FULL : CAUSAL;
    uint64_t first = check(shape, 1, sim::PROCESSORS);
    for (uint64_t seed = 2; seed <= 8; seed++) {
        int resident = _i == 0 ? sim::PROCESSORS : 1 + static_cast<int>(seed) % sim::PROCESSORS;
        ck_assert_msg(check(shape, seed, resident) == first, "seed %lu gives other bits",
                      static_cast<unsigned long>(seed));
    }
}
END_TEST

} // namespace

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
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
