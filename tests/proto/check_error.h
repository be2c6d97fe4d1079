/*
 * check_error.h: what the tests of proto/ say most often: this fails, with that status, and the
 * error names that field; and the end of every test program.
 */
#ifndef CHECK_ERROR_H
#define CHECK_ERROR_H

#include <check.h>
#include <stdlib.h>

#include "proto/status.h"

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

/* An error as it was before the call: whatever the call does not write shows up. */
static inline struct fas_error fresh_error(void)
{
    return (struct fas_error){.field = "untouched", .text = "untouched"};
}

static inline void check_error(enum fas_status status, const struct fas_error *error,
                               enum fas_status expected, const char *field)
{
    ck_assert_msg(status == expected, "%s, not %s (field %s: %s)", fas_status_name(status),
                  fas_status_name(expected), error->field, error->text);
    ck_assert_int_eq(error->status, expected);
    ck_assert_str_eq(error->field, field);
    ck_assert_str_ne(error->text, "untouched");
    ck_assert_str_ne(error->text, "");
}

static inline int run_suite(Suite *suite)
{
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

#endif
