/* principal: quotas count who asks, not how often they connect. */
#include "server/principal.h"

#include <string.h>

#include "tests/support/check_main.h"

static struct principals all;
static const struct principal_limits limits = {
    .requests = 2,
    .bytes = 1000,
    .all = {.requests = 3, .tokens = 10000, .flops = 1e9},
};
static const struct cost small = {.bytes = 100, .tokens = 10, .requests = 1, .flops = 1e3};

static uint32_t take(const char *name)
{
    bool fresh;
    return principal_take(&all, name, 1, &fresh);
}

static bool is_fresh(const char *name)
{
    bool fresh;
    principal_give(&all, principal_take(&all, name, 1, &fresh));
    return fresh;
}

START_TEST(one_entry_per_name_while_it_is_referred_to)
{
    ck_assert(principals_open(&all, 2));
    uint32_t a = take("uid:1000");
    ck_assert_uint_eq(take("uid:1000"), a);
    uint32_t b = take("token:x");
    ck_assert_uint_ne(a, b);
    ck_assert_uint_eq(take("uid:3"), PRINCIPAL_NONE);
    principal_give(&all, a);
    ck_assert_uint_eq(take("uid:3"), PRINCIPAL_NONE);
    principal_give(&all, a);
    ck_assert_uint_ne(take("uid:3"), PRINCIPAL_NONE);
    principals_close(&all);
}
END_TEST

START_TEST(who_comes_back_is_no_stranger)
{
    ck_assert(principals_open(&all, 2));
    uint32_t a = take("uid:1");
    principal_serve(&all, a, &small);
    principal_give(&all, a);
    ck_assert(!is_fresh("uid:1"));
    ck_assert_double_eq(all.entries[a].served.flops, small.flops);
    ck_assert(is_fresh("uid:2"));
    ck_assert(!is_fresh("uid:1"));
    ck_assert(is_fresh("uid:3")); /* in place of uid:2, the longest absent */
    ck_assert(!is_fresh("uid:1"));
    ck_assert(is_fresh("uid:2"));
    principals_close(&all);
}
END_TEST

START_TEST(a_quota_holds_over_connections)
{
    struct fas_error error;
    ck_assert(principals_open(&all, 4));
    uint32_t first = take("uid:1");
    uint32_t second = take("uid:1");
    ck_assert_int_eq(principal_admit(&all, first, &small, &limits, &error), FAS_OK);
    ck_assert_int_eq(principal_admit(&all, second, &small, &limits, &error), FAS_OK);
    ck_assert_int_eq(principal_admit(&all, second, &small, &limits, &error),
                     FAS_RESOURCE_EXHAUSTED);
    ck_assert_str_eq(error.field, "requests");
    principal_release(&all, first, &small);
    ck_assert_int_eq(principal_admit(&all, second, &small, &limits, &error), FAS_OK);
    principals_close(&all);
}
END_TEST

START_TEST(all_together_are_bounded_too)
{
    struct fas_error error;
    ck_assert(principals_open(&all, 4));
    ck_assert_int_eq(principal_admit(&all, take("a"), &small, &limits, &error), FAS_OK);
    ck_assert_int_eq(principal_admit(&all, take("b"), &small, &limits, &error), FAS_OK);
    ck_assert_int_eq(principal_admit(&all, take("c"), &small, &limits, &error), FAS_OK);
    ck_assert_int_eq(principal_admit(&all, take("d"), &small, &limits, &error),
                     FAS_RESOURCE_EXHAUSTED);
    principals_close(&all);
}
END_TEST

START_TEST(what_never_fits_says_both_numbers)
{
    struct fas_error error;
    struct cost large = small;
    large.bytes = 1001;
    ck_assert(principals_open(&all, 1));
    uint32_t a = take("a");
    ck_assert_int_eq(principal_admit(&all, a, &large, &limits, &error), FAS_INVALID_ARGUMENT);
    ck_assert_str_eq(error.field, "bytes");
    ck_assert_ptr_nonnull(strstr(error.text, "1001"));
    ck_assert_ptr_nonnull(strstr(error.text, "1000"));
    large = small;
    large.flops = 2e9;
    ck_assert_int_eq(principal_admit(&all, a, &large, &limits, &error), FAS_INVALID_ARGUMENT);
    ck_assert_str_eq(error.field, "flops");
    ck_assert_uint_eq(all.held.requests, 0);
    principals_close(&all);
}
END_TEST

START_TEST(released_means_exactly_nothing_held)
{
    struct fas_error error;
    struct cost odd = small;
    odd.flops = 0.1;
    ck_assert(principals_open(&all, 1));
    uint32_t a = take("a");
    for (int i = 0; i < 1000; i++) {
        ck_assert_int_eq(principal_admit(&all, a, &odd, &limits, &error), FAS_OK);
        ck_assert_int_eq(principal_admit(&all, a, &small, &limits, &error), FAS_OK);
        principal_release(&all, a, &odd);
        principal_release(&all, a, &small);
    }
    ck_assert_double_eq(all.held.flops, 0);
    ck_assert_uint_eq(all.held.bytes, 0);
    principals_close(&all);
}
END_TEST

static const struct check_row tests[] = {
    {"identity", &one_entry_per_name_while_it_is_referred_to},
    {"return", &who_comes_back_is_no_stranger},
    {"quota", &a_quota_holds_over_connections},
    {"together", &all_together_are_bounded_too},
    {"never", &what_never_fits_says_both_numbers},
    {"release", &released_means_exactly_nothing_held},
};

CHECK_MAIN("principal", tests)
