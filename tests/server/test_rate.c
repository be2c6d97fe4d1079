/* rate: launches teach it, and those that say nothing about it do not move it. */
#include "server/rate.h"

#include "tests/support/check_main.h"

#define FIRST 1e4 /* FLOPs a us */

static struct rate learned(double flops_per_us)
{
    struct rate rate;
    rate_open(&rate, FIRST);
    for (int i = 0; i < 100; i++) {
        rate_measure(&rate, flops_per_us * 1000, 1000);
    }
    return rate;
}

START_TEST(it_begins_with_the_guess_and_follows_the_launches)
{
    struct rate rate;
    rate_open(&rate, FIRST);
    ck_assert_double_eq(rate.flops_per_us, FIRST);
    rate = learned(6e4);
    ck_assert_double_eq_tol(rate.flops_per_us, 6e4, 1);
    for (int i = 0; i < 100; i++) {
        rate_measure(&rate, 2e4 * 1000, 1000); /* the device became slower */
    }
    ck_assert_double_eq_tol(rate.flops_per_us, 2e4, 1);
}
END_TEST

START_TEST(launches_that_only_move_memory_do_not_move_it)
{
    struct rate rate = learned(6e4);
    for (int i = 0; i < 1000; i++) {
        rate_measure(&rate, 0, 5000);
        rate_measure(&rate, FIRST / 100 * 5000, 5000);
    }
    ck_assert_double_eq_tol(rate.flops_per_us, 6e4, 1);
}
END_TEST

START_TEST(short_launches_raise_it_together_and_never_lower_it)
{
    struct rate rate = learned(6e4);
    for (int i = 0; i < 1000; i++) {
        rate_measure(&rate, 1e4 * 10, 10);
    }
    ck_assert_double_eq_tol(rate.flops_per_us, 6e4, 1);
    rate_open(&rate, FIRST);
    for (int i = 0; i < 2000; i++) { /* a wide machine, where each slice by the guess is short */
        rate_measure(&rate, 6e6 * 20, 20);
    }
    ck_assert_double_eq_tol(rate.flops_per_us, 6e6, 1e3);
}
END_TEST

START_TEST(a_clock_read_late_is_no_rate)
{
    struct rate rate = learned(6e4);
    for (int i = 0; i < 100; i++) { /* two ends seen by one wake */
        rate_measure(&rate, 6e4 * 100, 199);
        rate_measure(&rate, 6e4 * 100, 1);
    }
    ck_assert_double_eq_tol(rate.flops_per_us, 6e4, 1);
}
END_TEST

static const struct check_row tests[] = {
    {"learns", &it_begins_with_the_guess_and_follows_the_launches},
    {"memory", &launches_that_only_move_memory_do_not_move_it},
    {"short", &short_launches_raise_it_together_and_never_lower_it},
    {"late", &a_clock_read_late_is_no_rate},
};

CHECK_MAIN("rate", tests)
