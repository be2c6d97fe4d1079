/*
 * test_attn_cpu.c: the CPU kernels compute what attn.h says, for every feature, in surroundings
 * full of NaN, and with bits that do not depend on what else is in the launch.
 */
#include <check.h>
#include <math.h>
#include <stdlib.h>

#include "problem.h"

#define COUNT_OF(array) ((int)(sizeof(array) / sizeof((array)[0])))

static struct attn_context *context;

static void open_context(void)
{
    context = attn_cpu_open(3);
    ck_assert_ptr_nonnull(context);
}

static void close_context(void)
{
    attn_cpu_close(context);
}

/* Both passes; the backward in its three forms: from o, with the gradient of lse, from delta. */
static void run_and_check(const struct attn_shape *wanted, const struct item *items, int count)
{
    for (int form = 0; form < 4; form++) {
        struct attn_shape shape = *wanted;
        shape.pass = form ? ATTN_BACKWARD : ATTN_FORWARD;
        shape.has_dlse = form > 1;
        shape.has_delta = form > 2;
        struct problem *p = problem_open(&shape, items, count);
        problem_run(p, context);
        problem_check(p);
        problem_close(p);
    }
}

/* Lengths that cross every tile edge, both ways unequal, empty on either side, with unused rows, in
 * three sets of different layouts. */
static const struct item mixed[] = {
    {.set = 0, .q_len = 0, .k_len = 37, .q_span = 5, .seed = 1},
    {.set = 0, .q_len = 129, .k_len = 200, .k_span = 210, .seed = 2},
    {.set = 1, .q_len = 70, .k_len = 21, .q_span = 80, .seed = 3},
    {.set = 2, .q_len = 1, .k_len = 600, .seed = 4},
    {.set = 1, .q_len = 0, .k_len = 0, .seed = 5},
    {.set = 2, .q_len = 33, .k_len = 0, .k_span = 9, .seed = 6},
    {.set = 0, .q_len = 1, .k_len = 1, .seed = 7},
    {.set = 2, .q_len = 257, .k_len = 130, .seed = 8},
    {.set = 0, .q_len = 0, .k_len = 0, .q_span = 4, .k_span = 3, .seed = 9},
};

static const struct attn_mask masks[] = {
    {0},
    {.has_right = true, .right = 0},
    {.has_right = true, .right = 0, .has_left = true, .left = 17},
    {.has_right = true, .right = 5, .has_left = true, .left = 0},
    {.has_left = true, .left = 40},
    {.has_right = true, .right = 100},
    {.has_right = true, .right = INT32_MAX, .has_left = true, .left = INT32_MAX},
};

START_TEST(masks_and_lengths)
{
    struct attn_shape shape = shape_of(ATTN_FP32, 2, 1, 16, 24);
    shape.mask = masks[_i];
    run_and_check(&shape, mixed, COUNT_OF(mixed));
}
END_TEST

START_TEST(dtypes_and_dims)
{
    static const struct {
        enum attn_dtype dtype;
        int hq, hkv, d, dv;
    } rows[] = {
        {ATTN_BF16, 4, 4, 64, 64}, {ATTN_FP16, 6, 2, 8, 256},   {ATTN_FP32, 5, 1, 256, 8},
        {ATTN_BF16, 3, 1, 96, 40}, {ATTN_FP16, 1, 1, 192, 128}, {ATTN_FP32, 12, 4, 72, 72},
    };
    struct attn_shape shape =
        shape_of(rows[_i].dtype, rows[_i].hq, rows[_i].hkv, rows[_i].d, rows[_i].dv);
    shape.mask = masks[1];
    run_and_check(&shape, mixed, COUNT_OF(mixed));
}
END_TEST

START_TEST(softcap_and_sink)
{
    static const float softcaps[] = {0, 2.5f, 30};
    for (int m = 0; m < COUNT_OF(masks); m += 2) {
        struct attn_shape shape = shape_of(ATTN_FP32, 3, 1, 16, 16);
        shape.mask = masks[m];
        shape.softcap = softcaps[_i % 3];
        shape.has_sink = _i / 3;
        run_and_check(&shape, mixed, COUNT_OF(mixed));
    }
}
END_TEST

/* What a sequence gets alone in a launch, on one thread, it gets among others, in any order, in any
 * set, on any number of threads. */
START_TEST(bits_do_not_depend_on_the_batch)
{
    struct attn_shape shape = shape_of(_i % 3, 4, 2, 64, 32);
    shape.mask = masks[_i % COUNT_OF(masks)];
    shape.pass = _i / COUNT_OF(masks) ? ATTN_BACKWARD : ATTN_FORWARD;
    shape.has_sink = true;
    struct problem *together[3];
    for (int threads = 1; threads <= 3; threads++) {
        struct item shuffled[COUNT_OF(mixed)];
        for (int i = 0; i < COUNT_OF(mixed); i++) {
            shuffled[i] = mixed[(i * 4 + threads) % COUNT_OF(mixed)];
            shuffled[i].set = (i + threads) % 3;
        }
        struct attn_context *other = attn_cpu_open(threads);
        together[threads - 1] = problem_open(&shape, shuffled, COUNT_OF(shuffled));
        problem_run(together[threads - 1], other);
        attn_cpu_close(other);
    }
    for (int i = 0; i < COUNT_OF(mixed); i++) {
        struct problem *alone = problem_open(&shape, &mixed[i], 1);
        problem_run(alone, context);
        for (int threads = 1; threads <= 3; threads++)
            for (int j = 0; j < COUNT_OF(mixed); j++)
                if (together[threads - 1]->items[j].seed == mixed[i].seed)
                    problem_check_same(alone, 0, together[threads - 1], j);
        problem_close(alone);
    }
    for (int i = 0; i < 3; i++)
        problem_close(together[i]);
}
END_TEST

START_TEST(an_empty_launch_is_done)
{
    struct attn_shape shape = shape_of(ATTN_BF16, 2, 2, 8, 8);
    run_and_check(&shape, NULL, 0);
}
END_TEST

int main(void)
{
    /* Loads the BLAS once, before the tests fork. */
    attn_cpu_close(attn_cpu_open(1));
    Suite *suite = suite_create("attn_cpu");
    TCase *tcase = tcase_create("attn_cpu");
    tcase_set_timeout(tcase, 60);
    tcase_add_checked_fixture(tcase, open_context, close_context);
    tcase_add_loop_test(tcase, masks_and_lengths, 0, COUNT_OF(masks));
    tcase_add_loop_test(tcase, dtypes_and_dims, 0, 6);
    tcase_add_loop_test(tcase, softcap_and_sink, 0, 6);
    tcase_add_loop_test(tcase, bits_do_not_depend_on_the_batch, 0, 14);
    tcase_add_test(tcase, an_empty_launch_is_done);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
