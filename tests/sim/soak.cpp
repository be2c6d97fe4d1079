/*
 * soak --seeds N [--first F] [--case text]: every kernel that runs in the simulator, under seeds F
 * to F + N - 1. Prints a line for each case; stops at the first objection or differing bit, with
 * the seed that shows it again. The figures are the simulator's cost on one core.
 *
 * soak --grid C/N [--case text]: part C, from 0 on, of N of the grid of the sm_100 kernels
 * (features.h), each case once against the fp64 answer, its number as the seed. N has no factor in
 * common with how many values a feature has, or a part has few of these: take a prime.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tests/sim/attention.h"
#include "tests/sim/backward.h"
#include "tests/sim/bed.h"
#include "tests/sim/features.h"

namespace
{

struct options {
    unsigned long seeds = 100, first = 1;
    const char *only = "";
    int part = 0, parts = 0; /* of the grid; 0 parts: seeds */
};

struct outcome {
    std::string error;
    uint64_t bits, multiplies;
};

struct soak_case {
    std::string name;
    int step_products; /* warp products of one tile step of 128 x 128; 0: there is no such thing */
    std::function<outcome(uint64_t seed)> run;
};

void nothing(sim::device &)
{
}

/* Where bits are not fixed results are judged, which costs more. */
outcome run_backward(const backward_case &c, uint64_t seed)
{
    backward_case now = backward_under(c, seed);
    if (!c.shape.deterministic) {
        backward_check(now, seed);
        return {"", 0, 0};
    }
    backward_outcome o = backward_run(now, seed, nothing);
    return {o.error, o.bits, o.multiplies};
}

std::vector<soak_case> all_cases()
{
    std::vector<soak_case> cases;
    for (const bed_case &c : bed_cases) {
        cases.push_back({c.name, 0, [&c](uint64_t seed) {
                             bed_result r = c.run(seed, nothing);
                             return outcome{r.error, 0, r.multiplies};
                         }});
    }
    std::vector<attention_case> attention = attention_hazards(attention_rows_sm90);
    for (attention_case &c : attention_hazards(attention_rows_sm100)) {
        attention.push_back(c);
    }
    for (const attention_case &c : attention) {
        int products = 8 * (c.row->d + 128) / 16; /* eight warps, Q K^T then P V, 16 at a time */
        cases.push_back({c.name, products, [c](uint64_t seed) {
                             attention_outcome o = attention_run(c, seed, nothing);
                             return outcome{o.error, o.bits, o.multiplies};
                         }});
    }
    for (const backward_space *space :
         {&sm100_backward, &sm100_backward_pairs, &sm100_backward_wide}) {
        for (const backward_case &c : backward_hazards(*space)) {
            int products = 8 * (c.shape.d + c.shape.dv + 3 * 128) / 16; /* S, dP; dV, dK, dQ */
            cases.push_back({c.name, c.shape.deterministic ? products : 0,
                             [c](uint64_t seed) { return run_backward(c, seed); }});
        }
    }
    return cases;
}

bool soak(const soak_case &c, const options &o)
{
    clock_t start = clock();
    uint64_t bits = 0, multiplies = 0;
    for (uint64_t seed = o.first; seed < o.first + o.seeds; seed++) {
        outcome got = c.run(seed);
        if (!got.error.empty() || (seed > o.first && got.bits != bits)) {
            printf("%s, seed %lu: %s\n", c.name.c_str(), static_cast<unsigned long>(seed),
                   got.error.empty() ? "other bits than the seed before" : got.error.c_str());
            return false;
        }
        bits = got.bits;
        multiplies += got.multiplies;
    }
    double seconds = static_cast<double>(clock() - start) / CLOCKS_PER_SEC; /* of this core */
    printf("%-24s %6lu seeds %8.1f seeds/s", c.name.c_str(), o.seeds,
           static_cast<double>(o.seeds) / seconds);
    if (c.step_products > 0) {
        printf(" %8.0f tile steps/s", static_cast<double>(multiplies) / c.step_products / seconds);
    }
    printf(bits != 0 ? "  bits %016lx\n" : "\n", static_cast<unsigned long>(bits));
    fflush(stdout);
    return true;
}

bool asked_for(const options &o, const std::string &name)
{
    return strstr(name.c_str(), o.only) != nullptr;
}

/* The case that is running, and the part of so many that is this one alone. */
std::string running;

void enter(const std::string &name, int number, int count)
{
    running = name + ": --grid " + std::to_string(number) + "/" + std::to_string(count) +
              " --case '" + name + "'";
}

/* How many cases it were. */
int soak_forward_grid(const options &o)
{
    int done = 0;
    for (int i = o.part; i < forward_grid_count(); i += o.parts) {
        attention_case c = forward_grid_case(i);
        if (asked_for(o, c.name)) {
            enter(c.name, i, forward_grid_count());
            attention_check(c, static_cast<uint64_t>(i) + 1);
            done++;
        }
    }
    return done;
}

int soak_backward_grid(const options &o, const backward_space &space)
{
    int done = 0;
    for (int i = o.part; i < backward_grid_count(space); i += o.parts) {
        backward_case c = backward_grid_case(space, i);
        uint64_t seed = static_cast<uint64_t>(i) + 1;
        if (asked_for(o, c.name)) {
            enter(c.name, i, backward_grid_count(space));
            backward_check(backward_under(c, seed), seed);
            done++;
        }
    }
    return done;
}

void soak_grid(const options &o)
{
    int forward = soak_forward_grid(o), backward = soak_backward_grid(o, sm100_backward);
    int pairs = soak_backward_grid(o, sm100_backward_pairs);
    int wide = soak_backward_grid(o, sm100_backward_wide);
    printf(
        "grid part %d of %d: %d of %d forward, %d of %d backward, %d of %d of pairs and %d of %d "
        "wide cases, %.0f core seconds\n",
        o.part, o.parts, forward, forward_grid_count(), backward,
        backward_grid_count(sm100_backward), pairs, backward_grid_count(sm100_backward_pairs), wide,
        backward_grid_count(sm100_backward_wide), static_cast<double>(clock()) / CLOCKS_PER_SEC);
}

bool read_options(int count, char **words, options *o)
{
    for (int i = 1; i + 1 < count; i += 2) {
        if (strcmp(words[i], "--seeds") == 0) {
            o->seeds = strtoul(words[i + 1], nullptr, 10);
        } else if (strcmp(words[i], "--first") == 0) {
            o->first = strtoul(words[i + 1], nullptr, 10);
        } else if (strcmp(words[i], "--case") == 0) {
            o->only = words[i + 1];
        } else if (strcmp(words[i], "--grid") == 0) {
            char *slash;
            o->part = static_cast<int>(strtol(words[i + 1], &slash, 10));
            o->parts = *slash == '/' ? atoi(slash + 1) : 0;
            if (o->part < 0 || o->part >= o->parts) {
                return false;
            }
        } else {
            return false;
        }
    }
    return count % 2 == 1 && o->seeds > 0;
}

options asked;

/* Check's assertions, which the problems use, want to be called from a test. */
START_TEST(soak_all)
{
    if (asked.parts > 0) {
        soak_grid(asked);
        return;
    }
    for (const soak_case &c : all_cases()) {
        if (asked_for(asked, c.name)) {
            ck_assert(soak(c, asked));
        }
    }
}
END_TEST

} // namespace

int main(int count, char **words)
{
    if (!read_options(count, words, &asked)) {
        fprintf(stderr, "usage: soak [--seeds N] [--first F] [--grid C/N] [--case text]\n");
        return 2;
    }
    Suite *suite = suite_create("soak");
    TCase *tests = tcase_create("soak");
    tcase_add_test(tests, soak_all);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_set_fork_status(runner, CK_NOFORK);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    if (failed > 0 && !running.empty()) {
        printf("that was %s\n", running.c_str());
    }
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
