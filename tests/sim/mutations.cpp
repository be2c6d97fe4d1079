#include "tests/sim/mutations.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

namespace
{

constexpr uint64_t SEEDS = 200;

bool is_spare(const std::string &name, const sim::step &step, const std::vector<spare_step> &spares)
{
    FILE *file = fopen(step.at.file, "r");
    if (file == nullptr) {
        return false; /* the first wgmma_fence of a kernel has no place of its own */
    }
    char line[256] = "";
    for (int i = 0; i < step.at.line && fgets(line, sizeof line, file) != nullptr; i++) {
    }
    fclose(file);
    for (const spare_step &spare : spares) {
        bool here = spare.in.empty();
        for (const char *part : spare.in) {
            here = here || name.find(part) != std::string::npos;
        }
        if (here && strstr(line, spare.text) != nullptr) {
            return true;
        }
    }
    return false;
}

struct mutation_outcome {
    std::string error;
    uint64_t bits; /* the same for every seed, or 0 */
    std::vector<sim::step> steps;
};

struct mutation_case {
    std::string name;
    std::function<mutation_outcome(uint64_t seed, const std::function<void(sim::device &)> &)> run;
};

/* The first seed that objects, 0 if none does. */
uint64_t caught(const mutation_case &c, const sim::step &step, uint64_t bits, std::string *message)
{
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        mutation_outcome o = c.run(seed, [&](sim::device &d) { d.dropped = step; });
        *message = o.error.empty() ? "other bits" : o.error;
        if (!o.error.empty() || o.bits != bits) {
            return seed;
        }
    }
    return 0;
}

int count_missed(const std::vector<mutation_case> &cases, const std::vector<spare_step> &spares)
{
    int made = 0, missed = 0, spare = 0;
    for (const mutation_case &c : cases) {
        mutation_outcome clean = c.run(1, [](sim::device &d) { d.record = true; });
        ck_assert_msg(clean.error.empty(), "%s: %s", c.name.c_str(), clean.error.c_str());
        for (const sim::step &step : clean.steps) {
            std::string message;
            if (is_spare(c.name, step, spares)) {
                spare++;
                continue;
            }
            uint64_t seed = caught(c, step, clean.bits, &message);
            made++;
            missed += seed == 0;
            if (seed == 0 || getenv("SIM_VERBOSE") != nullptr) {
                printf("%s without %s at %s, first seed that objects: %lu\n    %s\n",
                       c.name.c_str(), step.name, sim::where_text(step.at),
                       static_cast<unsigned long>(seed), message.c_str());
            }
        }
    }
    printf("mutations: %d made, %d caught; %d steps are spare\n", made, made - missed, spare);
    fflush(stdout); /* the test that calls this may end its process */
    return missed;
}

} // namespace

int mutations_missed(const std::vector<attention_case> &cases,
                     const std::vector<spare_step> &spares)
{
    std::vector<mutation_case> all;
    for (const attention_case &c : cases) {
        all.push_back({c.name, [c](uint64_t seed, const std::function<void(sim::device &)> &setup) {
                           attention_outcome o = attention_run(c, seed, setup);
                           return mutation_outcome{o.error, o.bits, o.steps};
                       }});
    }
    return count_missed(all, spares);
}

int mutations_missed(const std::vector<backward_case> &cases, const std::vector<spare_step> &spares)
{
    std::vector<mutation_case> all;
    for (const backward_case &c : cases) {
        all.push_back({c.name, [c](uint64_t seed, const std::function<void(sim::device &)> &setup) {
                           backward_outcome o = backward_run(backward_under(c, seed), seed, setup);
                           uint64_t bits = c.shape.deterministic ? o.bits : 0;
                           return mutation_outcome{o.error, bits, o.steps};
                       }});
    }
    return count_missed(all, spares);
}
