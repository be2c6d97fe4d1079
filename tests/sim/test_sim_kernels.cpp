/*
 * Whole kernels in the simulator: correct ones run without a false alarm under every seed, and with
 * any one protocol step left out something objects, with the first seed tried or the next few.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/sim/bed.h"

namespace
{

constexpr uint64_t CLEAN_SEEDS = 40;
constexpr uint64_t MUTATION_SEEDS = 20;

void nothing(sim::device &)
{
}

START_TEST(correct_kernels_run_clean)
{
    for (const bed_case &c : bed_cases) {
        for (uint64_t seed = 1; seed <= CLEAN_SEEDS; seed++) {
            bed_result r = c.run(seed, nothing);
            ck_assert_msg(r.error.empty(), "%s, seed %lu: %s", c.name,
                          static_cast<unsigned long>(seed), r.error.c_str());
        }
    }
}
END_TEST

START_TEST(same_seed_same_run)
{
    for (const bed_case &c : bed_cases) {
        ck_assert_uint_eq(c.run(7, nothing).switches, c.run(7, nothing).switches);
    }
}
END_TEST

/* The first seed that objects, 0 if none does. */
uint64_t caught(const bed_case &c, const sim::step &step, std::string *message)
{
    for (uint64_t seed = 1; seed <= MUTATION_SEEDS; seed++) {
        bed_result r = c.run(seed, [&](sim::device &d) { d.dropped = step; });
        if (!r.error.empty()) {
            *message = r.error;
            return seed;
        }
    }
    return 0;
}

START_TEST(every_left_out_step_is_caught)
{
    int made = 0, missed = 0;
    for (const bed_case &c : bed_cases) {
        bed_result clean = c.run(1, [](sim::device &d) { d.record = true; });
        for (const sim::step &step : clean.steps) {
            std::string message;
            uint64_t seed = caught(c, step, &message);
            made++;
            missed += seed == 0;
            if (seed == 0 || getenv("SIM_VERBOSE") != nullptr) {
                printf("%s without %s at %s, first seed that objects: %lu\n    %s\n", c.name,
                       step.name, sim::where_text(step.at), static_cast<unsigned long>(seed),
                       message.c_str());
            }
        }
    }
    printf("mutations: %d made, %d caught\n", made, made - missed);
    ck_assert_int_eq(missed, 0);
}
END_TEST

} // namespace

int main()
{
    Suite *suite = suite_create("sim_kernels");
    TCase *tests = tcase_create("kernels");
    tcase_set_timeout(tests, 120);
    tcase_add_test(tests, correct_kernels_run_clean);
    tcase_add_test(tests, same_seed_same_run);
    tcase_add_test(tests, every_left_out_step_is_caught);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
