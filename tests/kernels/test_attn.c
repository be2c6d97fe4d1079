/* test_attn.c: what all kernels share: which row is chosen and why not, equality, FLOPs, dsink. */
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/attn.h"

#define COUNT_OF(array) ((int)(sizeof(array) / sizeof((array)[0])))

static const struct attn_shape good = {.pass = ATTN_BACKWARD,
                                       .dtype = ATTN_BF16,
                                       .hq = 6,
                                       .hkv = 2,
                                       .d = 64,
                                       .dv = 128,
                                       .softmax_scale = 0.125f};

static void expect_reason(const struct attn_shape *shape, const char *field)
{
    const char *reason = NULL;
    ck_assert_ptr_null(attn_select(ATTN_CPU, shape, &reason));
    ck_assert_msg(reason && strncmp(reason, field, strlen(field)) == 0, "%s, not %s",
                  reason ? reason : "no reason", field);
}

#define REFUSED(field, change)                                                                     \
    do {                                                                                           \
        struct attn_shape shape = good;                                                            \
        shape.change;                                                                              \
        expect_reason(&shape, field);                                                              \
    } while (0)

START_TEST(a_bad_shape_is_refused_naming_the_field)
{
    REFUSED("pass:", pass = (enum attn_pass)2);
    REFUSED("dtype:", dtype = (enum attn_dtype)3);
    REFUSED("hq:", hq = 0);
    REFUSED("hq:", hq = 5);
    REFUSED("hkv:", hkv = 0);
    REFUSED("d:", d = 0);
    REFUSED("d:", d = 60);
    REFUSED("dv:", dv = 264);
    REFUSED("mask.left:", mask = ((struct attn_mask){.has_left = true, .left = -1}));
    REFUSED("mask.right:", mask = ((struct attn_mask){.has_right = true, .right = -1}));
    REFUSED("softmax_scale:", softmax_scale = 0);
    REFUSED("softmax_scale:", softmax_scale = NAN);
    REFUSED("softmax_scale:", softmax_scale = INFINITY);
    REFUSED("softcap:", softcap = -1);
    REFUSED("softcap:", softcap = NAN);
}
END_TEST

START_TEST(every_row_is_found_by_the_shapes_it_serves)
{
    size_t count;
    const struct attn_row *rows = attn_rows(&count);
    ck_assert_uint_ge(count, 2);
    for (size_t i = 0; i < count; i++) {
        for (int dtype = ATTN_BF16; dtype <= ATTN_FP32; dtype++) {
            if (!(rows[i].dtypes & (1u << dtype))) {
                continue;
            }
            struct attn_shape shape = good;
            shape.pass = rows[i].pass;
            shape.dtype = (enum attn_dtype)dtype;
            shape.d = rows[i].d_max;
            shape.dv = rows[i].dv_max;
            const char *reason = NULL;
            if (rows[i].refuse && rows[i].refuse(&shape)) {
                continue;
            }
            ck_assert_ptr_nonnull(attn_select(rows[i].arch, &shape, &reason));
            ck_assert_ptr_null(reason);
        }
    }
}
END_TEST

START_TEST(a_window_that_is_off_does_not_make_shapes_differ)
{
    struct attn_shape a = good;
    struct attn_shape b = good;
    a.mask.left = 5;
    ck_assert(attn_shape_equal(&a, &b));
    a.mask.has_left = b.mask.has_left = true;
    ck_assert(!attn_shape_equal(&a, &b));
    b.mask.left = 5;
    ck_assert(attn_shape_equal(&a, &b));
    b.has_dlse = true;
    ck_assert(!attn_shape_equal(&a, &b));
    a.pass = b.pass = ATTN_FORWARD; /* which has no dlse */
    ck_assert(attn_shape_equal(&a, &b));
    b.softcap = 1;
    ck_assert(!attn_shape_equal(&a, &b));
}
END_TEST

static double pairs_counted(const struct attn_mask *mask, int q_len, int k_len)
{
    double pairs = 0;
    for (int i = 0; i < q_len; i++) {
        for (int j = 0; j < k_len; j++) {
            pairs += (!mask->has_right || j <= i + k_len - q_len + mask->right) &&
                     (!mask->has_left || j >= i + k_len - q_len - mask->left);
        }
    }
    return pairs;
}

START_TEST(flops_count_the_visible_pairs)
{
    static const int lengths[] = {0, 1, 2, 7, 30, 64};
    static const int sides[] = {0, 1, 5, 29, 64, 1000};
    for (int q = 0; q < COUNT_OF(lengths); q++) {
        for (int k = 0; k < COUNT_OF(lengths); k++) {
            for (int w = 0; w < 4 * COUNT_OF(sides); w++) {
                struct attn_shape shape = good;
                shape.mask.has_left = w & 1;
                shape.mask.has_right = w & 2;
                shape.mask.left = sides[w / 4];
                shape.mask.right = sides[COUNT_OF(sides) - 1 - w / 4];
                double per_pair = 2.5 * 2 * (shape.d + shape.dv) * shape.hq;
                double want = per_pair * pairs_counted(&shape.mask, lengths[q], lengths[k]);
                double got = attn_flops(&shape, lengths[q], lengths[k]);
                ck_assert(fabs(got - want) <= 1e-9 * want);
            }
        }
    }
}
END_TEST

START_TEST(dsink_is_summed_per_head)
{
    const float per_sequence[] = {1, 2, 3, 10, 20, 30, 100, 200, 300};
    float out[3];
    attn_sum_dsink(per_sequence, 3, 3, out);
    ck_assert(out[0] == 111 && out[1] == 222 && out[2] == 333);
    attn_sum_dsink(per_sequence, 0, 3, out);
    ck_assert(out[0] == 0 && out[1] == 0 && out[2] == 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("attn");
    TCase *tcase = tcase_create("attn");
    tcase_add_test(tcase, a_bad_shape_is_refused_naming_the_field);
    tcase_add_test(tcase, every_row_is_found_by_the_shapes_it_serves);
    tcase_add_test(tcase, a_window_that_is_off_does_not_make_shapes_differ);
    tcase_add_test(tcase, flops_count_the_visible_pairs);
    tcase_add_test(tcase, dsink_is_summed_per_head);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
