/* Lists of processors as Linux writes them. */
#include "server/topology.h"

#include <sched.h>

#include "tests/support/check_main.h"

START_TEST(lists_are_read)
{
    unsigned long long bits[2];
    ck_assert(topology_parse_list("0-3,8\n", bits, 128));
    ck_assert_uint_eq(bits[0], 0x10f);
    ck_assert_uint_eq(bits[1], 0);
    ck_assert(topology_parse_list("64-66,127", bits, 128));
    ck_assert_uint_eq(bits[0], 0);
    ck_assert_uint_eq(bits[1], 1ull << 63 | 7);
}
END_TEST

START_TEST(anything_else_is_no_list)
{
    static const char *const wrong[] = {"", "\n", "-3", "3-", "5-3", "1,,2", "1,", "128", "0 1"};
    unsigned long long bits[2];
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        ck_assert_msg(!topology_parse_list(wrong[i], bits, 128), "\"%s\"", wrong[i]);
    }
}
END_TEST

START_TEST(a_device_that_is_not_there_moves_nobody)
{
    ck_assert(!topology_move_to_pci("ffff:ff:1f.7"));
}
END_TEST

START_TEST(processors_are_those_it_may_use)
{
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(sched_getcpu(), &one);
    ck_assert_int_ge(topology_processors(), 1);
    ck_assert_int_eq(sched_setaffinity(0, sizeof one, &one), 0);
    ck_assert_int_eq(topology_processors(), 1);
}
END_TEST

int main(void)
{
    static const struct check_row rows[] = {
        {"lists", &lists_are_read},
        {"wrong", &anything_else_is_no_list},
        {"processors", &processors_are_those_it_may_use},
        {"absent", &a_device_that_is_not_there_moves_nobody},
    };
    return check_main("topology", rows, sizeof rows / sizeof rows[0]);
}
