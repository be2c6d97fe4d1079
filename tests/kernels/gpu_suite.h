/*
 * A Check suite that runs each of its tests on every row of the kernel table that this machine's
 * GPU can run: a test case a row, named after it. From the shell:
 *   PROGRAM                              all rows, one after the other
 *   CK_RUN_CASE=sm90_fwd_128 PROGRAM     that row alone
 *   PROGRAM --rows                       the names of the rows, one a line
 * 77 (skipped) on a machine without such a GPU.
 */
#ifndef FAS_TESTS_GPU_SUITE_H
#define FAS_TESTS_GPU_SUITE_H

#include <check.h>
#include <stdbool.h>

#include "kernels/attn_cuda.h"

struct gpu_test {
    const TTest *test; /* START_TEST's name; its _i is what gpu_suite_row takes */
    bool forward_only;
};

/* The row that a test is to run on. */
const struct attn_row *gpu_suite_row(int i);

/* Returned: main's exit status. No test has a time limit of its own. */
int gpu_suite_main(const char *name, const struct gpu_test *tests, int count, int argc,
                   char **argv);

#endif
