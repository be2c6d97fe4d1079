/*
 * check_main.h: a test program is its test cases: CHECK_MAIN("arena", tests) with an array of
 * { name, &function } rows; each runs in its own process (Check forks) unless CK_FORK=no.
 * Each ck_assert costs a write(2): inner loops gather a bool and assert it once.
 */
#ifndef TESTS_CHECK_MAIN_H
#define TESTS_CHECK_MAIN_H

#include <check.h>
#include <stdlib.h>

struct check_row {
    const char *name;
    const TTest *const *test; /* START_TEST declares a pointer */
};

static inline int check_main(const char *suite_name, const struct check_row *rows, size_t count)
{
    Suite *suite = suite_create(suite_name);
    for (size_t i = 0; i < count; i++) {
        TCase *tcase = tcase_create(rows[i].name);
        tcase_set_timeout(tcase, 60);
        tcase_add_test(tcase, *rows[i].test);
        suite_add_tcase(suite, tcase);
    }
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

#define CHECK_MAIN(suite, rows)                                                                    \
    int main(void)                                                                                 \
    {                                                                                              \
        return check_main(suite, rows, sizeof(rows) / sizeof((rows)[0]));                          \
    }

#endif
