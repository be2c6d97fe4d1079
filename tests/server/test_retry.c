/* retry: the advice follows what is in the way and how long it takes, and is bounded. */
#include "server/retry.h"

#include <math.h>

#include "tests/support/check_main.h"

START_TEST(the_scarcest_thing_decides)
{
    const struct retry_use uses[] = {
        {.held = 10, .wanted = 1, .limit = 100},      /* there is room */
        {.held = 100, .wanted = 10, .limit = 100},    /* a tenth has to go */
        {.held = 1000, .wanted = 500, .limit = 1000}, /* half */
    };
    ck_assert_double_eq(retry_part(uses, 1), 0);
    ck_assert_double_eq_tol(retry_part(uses, 2), 0.1, 1e-12);
    ck_assert_double_eq_tol(retry_part(uses, 3), 0.5, 1e-12);
}
END_TEST

START_TEST(no_more_than_all_of_it_can_go)
{
    const struct retry_use never = {.held = 10, .wanted = 1000, .limit = 100};
    const struct retry_use nothing_held = {.held = 0, .wanted = 10, .limit = 5};
    ck_assert_double_eq(retry_part(&never, 1), 1);
    ck_assert_double_eq(retry_part(&nothing_held, 1), 0);
}
END_TEST

START_TEST(advice_is_that_part_of_the_work)
{
    ck_assert_uint_eq(retry_after_ms(0.1, 1e6), 100);
    ck_assert_uint_eq(retry_after_ms(1, 1e6), 1000);
    ck_assert_uint_eq(retry_after_ms(0.5, 2.5e3), 2); /* rounded up */
}
END_TEST

START_TEST(advice_is_bounded)
{
    ck_assert_uint_eq(retry_after_ms(0, 1e6), RETRY_MS_MIN);
    ck_assert_uint_eq(retry_after_ms(0.5, 0), RETRY_MS_MIN);
    ck_assert_uint_eq(retry_after_ms(1, 1e18), RETRY_MS_MAX);
    ck_assert_uint_eq(retry_after_ms(1, HUGE_VAL), RETRY_MS_MAX);
}
END_TEST

static const struct check_row tests[] = {
    {"scarcest", &the_scarcest_thing_decides},
    {"all", &no_more_than_all_of_it_can_go},
    {"advice", &advice_is_that_part_of_the_work},
    {"bounds", &advice_is_bounded},
};

CHECK_MAIN("retry", tests)
