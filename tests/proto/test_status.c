/* test_status.c: every status has its words, and an error is never longer than its arrays. */
#include "proto/status.h"

#include <string.h>

#include "tests/proto/check_error.h"

START_TEST(every_status_has_a_name_and_a_phrase_of_its_own)
{
    for (int a = 0; a < FAS_STATUS_COUNT; a++) {
        const char *name = fas_status_name((enum fas_status)a);
        ck_assert_str_ne(name, "UNKNOWN");
        ck_assert_uint_gt(strlen(fas_status_phrase((enum fas_status)a)), 0);
        for (int b = 0; b < a; b++) {
            ck_assert_str_ne(name, fas_status_name((enum fas_status)b));
        }
    }
}
END_TEST

START_TEST(a_newer_peers_status_is_unknown_and_not_retryable)
{
    enum fas_status newer[] = {FAS_STATUS_COUNT, (enum fas_status)1000, (enum fas_status) - 1};
    for (size_t i = 0; i < COUNT_OF(newer); i++) {
        ck_assert_str_eq(fas_status_name(newer[i]), "UNKNOWN");
        ck_assert_uint_gt(strlen(fas_status_phrase(newer[i])), 0);
        ck_assert(!fas_status_retryable(newer[i]));
    }
}
END_TEST

START_TEST(only_what_may_succeed_unchanged_is_retryable)
{
    enum fas_status never[] = {FAS_OK,          FAS_INVALID_ARGUMENT,
                               FAS_UNSUPPORTED, FAS_UNAUTHENTICATED,
                               FAS_NOT_FOUND,   FAS_INTERNAL};
    for (size_t i = 0; i < COUNT_OF(never); i++) {
        ck_assert(!fas_status_retryable(never[i]));
    }
    enum fas_status again[] = {FAS_RESOURCE_EXHAUSTED, FAS_UNAVAILABLE, FAS_DEVICE_FAULT};
    for (size_t i = 0; i < COUNT_OF(again); i++) {
        ck_assert(fas_status_retryable(again[i]));
    }
}
END_TEST

START_TEST(fail_fills_every_field_and_returns_the_status)
{
    struct fas_error error = fresh_error();
    error.retry_after_ms = 7;
    ck_assert_int_eq(fas_fail(&error, FAS_NOT_FOUND, "handle", "%d is gone", 12), FAS_NOT_FOUND);
    ck_assert_int_eq(error.status, FAS_NOT_FOUND);
    ck_assert_str_eq(error.field, "handle");
    ck_assert_str_eq(error.text, "12 is gone");
    ck_assert_uint_eq(error.retry_after_ms, 0);
    ck_assert_int_eq(fas_fail(NULL, FAS_INTERNAL, "x", "nobody listens"), FAS_INTERNAL);
    fas_fail(&error, FAS_INTERNAL, NULL, "no field");
    ck_assert_str_eq(error.field, "");
}
END_TEST

START_TEST(long_texts_are_cut_not_overrun)
{
    struct {
        struct fas_error error;
        char canary[16];
    } guarded = {.canary = "still here"};
    char word[1000];
    memset(word, 'a', sizeof word - 1);
    word[sizeof word - 1] = '\0';
    fas_fail(&guarded.error, FAS_INTERNAL, word, "%s", word);
    ck_assert_uint_eq(strlen(guarded.error.field), sizeof guarded.error.field - 1);
    ck_assert_uint_eq(strlen(guarded.error.text), sizeof guarded.error.text - 1);
    ck_assert_str_eq(guarded.canary, "still here");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("status");
    TCase *tcase = tcase_create("status");
    tcase_add_test(tcase, every_status_has_a_name_and_a_phrase_of_its_own);
    tcase_add_test(tcase, a_newer_peers_status_is_unknown_and_not_retryable);
    tcase_add_test(tcase, only_what_may_succeed_unchanged_is_retryable);
    tcase_add_test(tcase, fail_fills_every_field_and_returns_the_status);
    tcase_add_test(tcase, long_texts_are_cut_not_overrun);
    suite_add_tcase(suite, tcase);
    return run_suite(suite);
}
