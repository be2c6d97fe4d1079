/* zero: all of a run and nothing beside it, at any alignment, short of the caches and past them. */
#include "kernels/cpu/zero.h"

#include <stdint.h>
#include <string.h>

#include "tests/support/check_main.h"
#include "tests/support/random.h"

enum { BYTES_MAX = 256 << 10, BEFORE_MAX = 256 };

static uint8_t memory[BEFORE_MAX + BYTES_MAX + BEFORE_MAX];

static void zero_and_look(size_t before, size_t bytes)
{
    memset(memory, 0xa5, sizeof memory);
    zero(memory + before, bytes);
    size_t i = 0; /* one check a run: Check makes a note of each, 30 s for one a byte */
    while (i < sizeof memory && memory[i] == (i >= before && i < before + bytes ? 0 : 0xa5)) {
        i++;
    }
    ck_assert_msg(i == sizeof memory, "byte %zu of run %zu + %zu", i, before, bytes);
}

START_TEST(a_run_is_zeroed_and_its_neighbours_are_not)
{
    struct random random = random_open(1);
    static const size_t edges[] = {0, 1, 63, 64, 65, ZERO_PAST_CACHES_BYTES};
    for (size_t i = 0; i < sizeof edges / sizeof edges[0]; i++) {
        for (size_t before = 0; before < 130; before += 13) {
            zero_and_look(before, edges[i]);
        }
    }
    for (int round = 0; round < 60; round++) {
        zero_and_look(random_below(&random, BEFORE_MAX), random_below(&random, BYTES_MAX));
    }
}
END_TEST

static const struct check_row tests[] = {
    {"runs", &a_run_is_zeroed_and_its_neighbours_are_not},
};

CHECK_MAIN("zero", tests)
