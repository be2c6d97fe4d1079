/* See gpu_suite.h. */
#include "tests/kernels/gpu_suite.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const struct attn_row *gpu_suite_row(int i)
{
    size_t count;
    return attn_rows(&count) + i;
}

static TCase *case_of(const struct attn_row *row, int i, const struct gpu_test *tests, int count)
{
    TCase *tcase = tcase_create(row->name);
    for (int t = 0; t < count; t++) {
        if (row->pass == ATTN_FORWARD || !tests[t].forward_only) {
            tcase_add_loop_test(tcase, tests[t].test, i, i + 1);
        }
    }
    return tcase;
}

static int run(Suite *suite)
{
    SRunner *runner = srunner_create(suite);
    srunner_set_fork_status(runner, CK_NOFORK); /* a CUDA context does not survive a fork */
    srunner_run_all(runner, CK_ENV);
    bool right = srunner_ntests_run(runner) > 0 && srunner_ntests_failed(runner) == 0;
    srunner_free(runner);
    return right ? EXIT_SUCCESS : EXIT_FAILURE;
}

int gpu_suite_main(const char *name, const struct gpu_test *tests, int count, int argc, char **argv)
{
    enum attn_arch arch = attn_cuda_arch();
    if (arch == ATTN_CPU) {
        printf("no GPU with kernels of its own here\n");
        return 77;
    }
    size_t row_count;
    const struct attn_row *rows = attn_rows(&row_count);
    bool list = argc == 2 && strcmp(argv[1], "--rows") == 0;
    Suite *suite = suite_create(name);
    for (int i = 0; (size_t)i < row_count; i++) {
        if (rows[i].arch == arch && list) {
            printf("%s\n", rows[i].name);
        } else if (rows[i].arch == arch) {
            suite_add_tcase(suite, case_of(&rows[i], i, tests, count));
        }
    }
    return list ? EXIT_SUCCESS : run(suite);
}
