/*
 * test_attn_cpu.c: the CPU kernels compute what attn.h says, for every feature, in surroundings
 * full of NaN, and with bits that do not depend on what else is in the launch.
 */
#include <check.h>
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "kernels/cpu/tile.h"
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
    {.set = 1, .q_len = 40, .k_len = 530, .seed = 10},
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

/* Long enough for every size of tile; one head and small dims keep the fp64 answer quick. */
START_TEST(long_sequences)
{
    static const struct item items[] = {{.q_len = 2100, .k_len = 700, .seed = 1},
                                        {.set = 1, .q_len = 1030, .k_len = 1100, .seed = 2}};
    struct attn_shape shape = shape_of(ATTN_FP32, 1, 1, 8, 8);
    shape.mask = masks[_i];
    run_and_check(&shape, items, COUNT_OF(items));
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
        for (int threads = 1; threads <= 3; threads++) {
            for (int j = 0; j < COUNT_OF(mixed); j++) {
                if (together[threads - 1]->items[j].seed == mixed[i].seed) {
                    problem_check_same(alone, 0, together[threads - 1], j);
                }
            }
        }
        problem_close(alone);
    }
    for (int i = 0; i < 3; i++) {
        problem_close(together[i]);
    }
}
END_TEST

/* More parts than there are items is fine too: some are empty. */
START_TEST(parts_change_no_bit)
{
    static const int parts[] = {2, 3, 7, 400};
    static const struct item one = {.q_len = 400, .k_len = 600, .q_span = 430, .seed = 1};
    struct attn_shape shape = shape_of(ATTN_BF16, 4, 2, 64, 32);
    shape.mask = masks[_i % COUNT_OF(masks)];
    shape.pass = _i / COUNT_OF(masks) ? ATTN_BACKWARD : ATTN_FORWARD;
    shape.has_sink = true;
    struct problem *whole = problem_open(&shape, &one, 1);
    problem_run(whole, context);
    for (int i = 0; i < COUNT_OF(parts); i++) {
        struct problem *cut = problem_open(&shape, &one, 1);
        cut->parts = parts[i];
        problem_run(cut, context);
        problem_check_same(whole, 0, cut, 0);
        problem_close(cut);
    }
    problem_close(whole);
}
END_TEST

/* Many tiles of keys add to the same rows of dq while threads race. */
START_TEST(sums_of_racing_threads_have_a_fixed_order)
{
    static const struct item one = {.q_len = 900, .k_len = 1100, .seed = 1};
    struct attn_shape shape = shape_of(ATTN_FP32, 1, 1, 8, 8);
    shape.pass = ATTN_BACKWARD;
    shape.mask = masks[_i];
    struct attn_context *alone = attn_cpu_open(1);
    struct problem *first = problem_open(&shape, &one, 1);
    problem_run(first, alone);
    attn_cpu_close(alone);
    struct attn_context *racing = attn_cpu_open(6);
    for (int i = 0; i < 10; i++) {
        struct problem *again = problem_open(&shape, &one, 1);
        problem_run(again, racing);
        problem_check_same(first, 0, again, 0);
        problem_close(again);
    }
    attn_cpu_close(racing);
    problem_close(first);
}
END_TEST

/* The vector table of this machine, but each thread sleeps before its first row of ds: the sooner
 * it came, and so the lower its tile of keys, the longer. */
static const struct vector *prompt;
static atomic_int arrivals;

enum { DAWDLERS = 6 };

static void dawdling_ds(float *dp, const float *p, float delta, int n)
{
    static _Thread_local bool slept;
    if (!slept) {
        int before = atomic_fetch_add(&arrivals, 1);
        slept = true;
        nanosleep(&(struct timespec){0, 15000000L * (DAWDLERS - before)}, NULL);
    }
    prompt->ds(dp, p, delta, n);
}

/* Tiles of keys are ready in the opposite of their order, whatever the machine's load: dq is summed
 * in their order all the same. */
START_TEST(who_is_ready_first_still_waits_its_turn)
{
    static const struct item one = {.q_len = 600, .k_len = DAWDLERS * BACKWARD_KEYS, .seed = 1};
    struct attn_shape shape = shape_of(ATTN_FP32, 1, 1, 16, 16);
    shape.pass = ATTN_BACKWARD;
    struct attn_context *alone = attn_cpu_open(1);
    struct problem *first = problem_open(&shape, &one, 1);
    problem_run(first, alone);
    attn_cpu_close(alone);
    struct attn_context *dawdling = attn_cpu_open(DAWDLERS);
    prompt = dawdling->vector;
    struct vector slow = *prompt;
    slow.ds = dawdling_ds;
    dawdling->vector = &slow;
    struct problem *again = problem_open(&shape, &one, 1);
    problem_run(again, dawdling);
    ck_assert_int_ge(atomic_load(&arrivals), 3); /* they did run side by side */
    problem_check_same(first, 0, again, 0);
    problem_close(again);
    attn_cpu_close(dawdling);
    problem_close(first);
}
END_TEST

static const struct item plain_item = {.q_len = 200, .k_len = 200, .seed = 3};

static struct problem *causal_problem(enum attn_pass pass)
{
    struct attn_shape shape = shape_of(ATTN_FP32, 1, 1, 16, 16);
    shape.mask = masks[1];
    shape.pass = pass;
    return problem_open(&shape, &plain_item, 1);
}

/* Row i of both tensors agrees, except where `spoilt` says it can not. */
static void check_rows_agree(const struct attn_tensor *a, const struct attn_tensor *b,
                             int64_t first, int spoilt)
{
    for (int i = 0; i < plain_item.q_len; i++) {
        for (int c = 0; c < 16; c++) {
            double x = element(ATTN_FP32, a, first + i, 0, c);
            double y = element(ATTN_FP32, b, first + i, 0, c);
            if (i == spoilt ? !isnan(y) : !(fabs(x - y) <= 1e-5)) {
                ck_abort_msg("row %d: %g, and %g with a NaN elsewhere", i, x, y);
            }
        }
    }
}

/* The last key is seen by the last query alone. */
START_TEST(an_unseen_key_of_nan_or_inf_does_not_count)
{
    struct problem *clean = causal_problem(ATTN_FORWARD);
    struct problem *dirty = causal_problem(ATTN_FORWARD);
    const struct attn_sequence *s = &clean->sequences[0];
    int last = plain_item.k_len - 1;
    set_element(ATTN_FP32, &dirty->sets[0].k, s->k_first + last, 0, 3, NAN);
    set_element(ATTN_FP32, &dirty->sets[0].v, s->k_first + last, 0, 3, INFINITY);
    problem_run(clean, context);
    problem_run(dirty, context);
    check_rows_agree(&clean->sets[0].o, &dirty->sets[0].o, s->q_first, last);
    problem_close(clean);
    problem_close(dirty);
}
END_TEST

/* The first query sees the first key alone; the last key is seen by the last query alone. */
START_TEST(an_unseen_row_of_nan_does_not_count_in_gradients)
{
    struct problem *clean = causal_problem(ATTN_BACKWARD);
    struct problem *dirty = causal_problem(ATTN_BACKWARD);
    const struct attn_sequence *s = &clean->sequences[0];
    struct attn_set *set = &dirty->sets[0];
    int last = plain_item.k_len - 1;
    for (int c = 0; c < 16; c++) {
        set_element(ATTN_FP32, &set->q, s->q_first, 0, c, NAN);
        set_element(ATTN_FP32, &set->do_, s->q_first, 0, c, -INFINITY);
    }
    problem_run(clean, context);
    problem_run(dirty, context);
    check_rows_agree(&clean->sets[0].dq, &set->dq, s->q_first, 0);
    check_rows_agree(&clean->sets[0].dk, &set->dk, s->k_first, 0);
    problem_close(dirty);
    dirty = causal_problem(ATTN_BACKWARD);
    set = &dirty->sets[0];
    for (int c = 0; c < 16; c++) {
        set_element(ATTN_FP32, &set->k, s->k_first + last, 0, c, NAN);
    }
    problem_run(dirty, context);
    check_rows_agree(&clean->sets[0].dq, &set->dq, s->q_first, last);
    check_rows_agree(&clean->sets[0].dv, &set->dv, s->k_first, last);
    problem_close(clean);
    problem_close(dirty);
}
END_TEST

/* The same tensor with rows `stride` bytes apart, in memory that exists only where it is touched.
 */
static struct attn_tensor spread(const struct attn_tensor *from, int64_t rows, int heads, int width,
                                 int64_t stride)
{
    size_t row_bytes = (size_t)(heads * width) * sizeof(float);
    void *memory = mmap(NULL, (size_t)(rows * stride), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    ck_assert_ptr_ne(memory, MAP_FAILED);
    for (int64_t row = 0; row < rows; row++) {
        memcpy((char *)memory + row * stride, (char *)from->data + row * from->row_stride,
               row_bytes);
    }
    return (struct attn_tensor){memory, stride, width * (int64_t)sizeof(float)};
}

static void check_same_and_unmap(const struct attn_tensor *near, struct attn_tensor *far,
                                 int64_t rows, int heads, int width)
{
    for (int64_t row = 0; row < rows; row++) {
        ck_assert_mem_eq((char *)near->data + row * near->row_stride,
                         (char *)far->data + row * far->row_stride,
                         (size_t)(heads * width) * sizeof(float));
    }
    munmap(far->data, (size_t)(rows * far->row_stride));
}

/* Without problem_run's look at the memory around, which is elsewhere now. */
static void launch_bare(const struct problem *p)
{
    const char *reason;
    const struct attn_row *row = attn_select(ATTN_CPU, &p->shape, &reason);
    struct attn_launch launch = {.shape = p->shape,
                                 .sets = p->sets,
                                 .sequences = p->sequences,
                                 .set_count = p->set_count,
                                 .sequence_count = p->count};
    launch.scratch_bytes = (row->scratch_bytes(&launch) + 255) / 256 * 256;
    launch.scratch = aligned_alloc(256, launch.scratch_bytes);
    ck_assert_int_eq(row->launch(context, &launch), ATTN_OK);
    free(launch.scratch);
}

/* Past 2^31 elements, and past what a BLAS can count between rows; the bits stay the same. */
START_TEST(strides_of_gigabytes_change_nothing)
{
    static const int64_t strides[] = {((int64_t)1 << 31) + 48, ((int64_t)1 << 33) + 16};
    static const struct item one = {.q_len = 6, .k_len = 5, .seed = 5};
    enum { HQ = 2, HKV = 1, D = 8, DV = 16, ROWS = 9 }; /* with the gap before them */
    struct attn_shape shape = shape_of(ATTN_FP32, HQ, HKV, D, DV);
    shape.pass = _i / 2 ? ATTN_BACKWARD : ATTN_FORWARD;
    struct problem *near = problem_open(&shape, &one, 1);
    struct attn_set *set = &near->sets[0];
    struct {
        struct attn_tensor *tensor;
        int heads, width;
    } all[] = {{&set->q, HQ, D},    {&set->k, HKV, D}, {&set->v, HKV, DV}, {&set->o, HQ, DV},
               {&set->do_, HQ, DV}, {&set->dq, HQ, D}, {&set->dk, HKV, D}, {&set->dv, HKV, DV}};
    int used = shape.pass == ATTN_FORWARD ? 4 : COUNT_OF(all);
    struct attn_tensor near_tensors[COUNT_OF(all)], far_tensors[COUNT_OF(all)];
    for (int t = 0; t < used; t++) {
        near_tensors[t] = *all[t].tensor;
        far_tensors[t] = spread(all[t].tensor, ROWS, all[t].heads, all[t].width, strides[_i % 2]);
    }
    problem_run(near, context);
    for (int t = 0; t < used; t++) {
        *all[t].tensor = far_tensors[t];
    }
    launch_bare(near);
    for (int t = 0; t < used; t++) {
        *all[t].tensor = near_tensors[t];
        check_same_and_unmap(&near_tensors[t], &far_tensors[t], ROWS, all[t].heads, all[t].width);
    }
    problem_close(near);
}
END_TEST

START_TEST(too_little_scratch_is_refused)
{
    struct problem *p = causal_problem(_i ? ATTN_BACKWARD : ATTN_FORWARD);
    const char *reason;
    const struct attn_row *row = attn_select(ATTN_CPU, &p->shape, &reason);
    struct attn_launch launch = {.shape = p->shape,
                                 .sets = p->sets,
                                 .sequences = p->sequences,
                                 .set_count = p->set_count,
                                 .sequence_count = p->count};
    launch.scratch_bytes = row->scratch_bytes(&launch) - 1;
    ck_assert_int_eq(row->launch(context, &launch), ATTN_INVALID);
    problem_close(p);
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
    TCase *threads = tcase_create("threads"); /* what the thread sanitizer is run on */
    tcase_set_timeout(threads, 60);
    tcase_add_checked_fixture(threads, open_context, close_context);
    tcase_add_loop_test(threads, bits_do_not_depend_on_the_batch, 0, 14);
    tcase_add_loop_test(threads, sums_of_racing_threads_have_a_fixed_order, 0, 3);
    tcase_add_test(threads, who_is_ready_first_still_waits_its_turn);
    suite_add_tcase(suite, threads);
    TCase *tcase = tcase_create("attn_cpu");
    tcase_set_timeout(tcase, 60);
    tcase_add_checked_fixture(tcase, open_context, close_context);
    tcase_add_loop_test(tcase, masks_and_lengths, 0, COUNT_OF(masks));
    tcase_add_loop_test(tcase, long_sequences, 0, 3);
    tcase_add_loop_test(tcase, dtypes_and_dims, 0, 6);
    tcase_add_loop_test(tcase, parts_change_no_bit, 0, 2 * COUNT_OF(masks));
    tcase_add_loop_test(tcase, softcap_and_sink, 0, 6);
    tcase_add_test(tcase, an_unseen_key_of_nan_or_inf_does_not_count);
    tcase_add_test(tcase, an_unseen_row_of_nan_does_not_count_in_gradients);
    tcase_add_loop_test(tcase, strides_of_gigabytes_change_nothing, 0, 4);
    tcase_add_loop_test(tcase, too_little_scratch_is_refused, 0, 2);
    tcase_add_test(tcase, an_empty_launch_is_done);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
