/*
 * test_vector.c: the element-wise functions of every instruction set this machine can run, against
 * the C library and against all 65536 values of the small types.
 */
#include <check.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/vector.h"

extern const struct vector vector_plain;

enum { ALL = 65536 };

/* Test i runs on table i; there are at most two. */
static const struct vector *table(int i)
{
    return i == 0 ? &vector_plain : vector_best();
}

static uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static float float_of(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static double half_value(uint16_t h)
{
    int exponent = h >> 10 & 31;
    double mantissa = h & 1023;
    double magnitude = exponent == 31  ? (mantissa != 0 ? NAN : INFINITY)
                       : exponent == 0 ? ldexp(mantissa, -24)
                                       : ldexp(1024 + mantissa, exponent - 25);
    return h & 0x8000 ? -magnitude : magnitude;
}

static uint16_t all[ALL], back[ALL];
static float wide[ALL];

START_TEST(every_small_value_survives_the_way_there_and_back)
{
    const struct vector *v = table(_i);
    for (int i = 0; i < ALL; i++) {
        all[i] = (uint16_t)i;
    }
    v->from_fp16(wide, all, ALL);
    v->to_fp16(back, wide, ALL);
    for (int i = 0; i < ALL; i++) {
        double want = half_value(all[i]);
        bool same = isnan(want) ? isnan(wide[i]) : (double)wide[i] == want;
        if (!same || (isnan(want) ? !isnan(half_value(back[i])) : back[i] != all[i])) {
            ck_abort_msg("fp16 %04x: %g, back as %04x", all[i], (double)wide[i], back[i]);
        }
    }
    v->from_bf16(wide, all, ALL);
    v->to_bf16(back, wide, ALL);
    for (int i = 0; i < ALL; i++) {
        float want = float_of((uint32_t)i << 16);
        bool same = isnan(want) ? isnan(float_of((uint32_t)back[i] << 16)) : back[i] == all[i];
        if (!same || bits_of(wide[i]) != bits_of(want)) {
            ck_abort_msg("bf16 %04x: %g, back as %04x", all[i], (double)wide[i], back[i]);
        }
    }
}
END_TEST

/* Between two neighbours of the small type: the nearer one; in the middle, the even one. */
START_TEST(rounding_is_to_nearest_ties_to_even)
{
    const struct vector *v = table(_i);
    for (unsigned i = 0; i < 0x7c00; i++) {
        float low = (float)half_value((uint16_t)i);
        float high = i == 0x7bff ? 65536.0f : (float)half_value((uint16_t)(i + 1));
        float middle = (low + high) / 2;
        const float in[] = {middle, nextafterf(middle, 0), nextafterf(middle, INFINITY), -middle};
        uint16_t out[4];
        v->to_fp16(out, in, 4);
        unsigned even = i + (i & 1);
        if (out[0] != even || out[1] != i || out[2] != i + 1 || out[3] != (even | 0x8000)) {
            ck_abort_msg("fp16 after %04x: %04x %04x %04x %04x", i, out[0], out[1], out[2], out[3]);
        }
    }
    for (uint32_t i = 0; i < 0x7f80; i++) {
        const float in[] = {float_of(i << 16 | 0x8000), float_of(i << 16 | 0x7fff),
                            float_of(i << 16 | 0x8001)};
        uint16_t out[3];
        v->to_bf16(out, in, 3);
        if (out[0] != i + (i & 1) || out[1] != i || out[2] != i + 1) {
            ck_abort_msg("bf16 after %04x: %04x %04x %04x", i, out[0], out[1], out[2]);
        }
    }
}
END_TEST

START_TEST(exp_is_within_two_units)
{
    const struct vector *v = table(_i);
    double sum = 0;
    for (int i = 0; i < ALL; i++) {
        wide[i] = -87.0f + 100.0f * (float)i / ALL;
    }
    for (int i = 0; i < ALL; i++) {
        sum += exp((double)wide[i] - 3);
    }
    float got = v->exp_shifted(wide, 3, ALL);
    ck_assert_double_eq_tol(got, sum, 1e-5 * sum);
    for (int i = 0; i < ALL; i++) {
        double want = exp((double)(-87.0f + 100.0f * (float)i / ALL - 3.0f));
        if (want > 0x1p-126 && !(fabs(wide[i] - want) <= 0x1p-22 * want)) {
            ck_abort_msg("exp: %g, want %g", (double)wide[i], want);
        }
    }
    float special[] = {-INFINITY, INFINITY, NAN, -1000, 1000, 0};
    v->exp_shifted(special, 0, 6);
    ck_assert(special[0] == 0 && special[1] == INFINITY && isnan(special[2]));
    ck_assert(special[3] == 0 && special[4] == INFINITY && special[5] == 1);
}
END_TEST

START_TEST(softcap_is_tanh)
{
    const struct vector *v = table(_i);
    static float slope[ALL];
    for (int i = 0; i < ALL; i++) {
        wide[i] = 12.0f * ((float)i / ALL - 0.5f);
    }
    v->softcap_slope(wide, slope, 3, ALL);
    for (int i = 0; i < ALL; i++) {
        double t = tanh((double)(12.0f * ((float)i / ALL - 0.5f)));
        if (!(fabs(wide[i] - 3 * t) <= 3e-7 * 3 * fabs(t)) ||
            !(fabs(slope[i] - (1 - t * t)) <= 3e-7)) {
            ck_abort_msg("tanh: %g, want %g, slope %g", (double)wide[i], 3 * t, (double)slope[i]);
        }
    }
    float special[] = {INFINITY, -INFINITY, NAN};
    v->softcap(special, 2, 3);
    ck_assert(special[0] == 2 && special[1] == -2 && isnan(special[2]));
}
END_TEST

START_TEST(sums_and_maxima_of_every_length)
{
    const struct vector *v = table(_i);
    for (int n = 0; n < 70; n++) {
        float x[70], y[70];
        double dot = 0;
        float largest = -INFINITY;
        for (int i = 0; i < n; i++) {
            x[i] = (float)((i * 37 % 71) - 30);
            y[i] = (float)(i % 5);
            dot += (double)x[i] * y[i];
            largest = fmaxf(largest, x[i]);
        }
        ck_assert((double)v->dot(x, y, n) == dot);
        ck_assert(v->max(x, n) == largest);
        ck_assert(v->all_finite(x, n));
        for (int i = 0; i < n; i++) {
            float kept = x[i];
            x[i] = i % 2 ? NAN : -INFINITY;
            ck_assert(!v->all_finite(x, n));
            x[i] = kept;
        }
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("vector");
    TCase *tcase = tcase_create("vector");
    tcase_add_loop_test(tcase, every_small_value_survives_the_way_there_and_back, 0, 2);
    tcase_add_loop_test(tcase, rounding_is_to_nearest_ties_to_even, 0, 2);
    tcase_add_loop_test(tcase, exp_is_within_two_units, 0, 2);
    tcase_add_loop_test(tcase, softcap_is_tanh, 0, 2);
    tcase_add_loop_test(tcase, sums_and_maxima_of_every_length, 0, 2);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
