#include "tests/sim/mutations.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

namespace
{

constexpr uint64_t SEEDS = 200;

bool is_spare(const sim::step &step, const std::vector<spare_step> &spares)
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
        if (strstr(line, spare.text) != nullptr) {
            return true;
        }
    }
    return false;
}

/* The first seed that objects, 0 if none does. */
uint64_t caught(const attention_case &c, const sim::step &step, uint64_t bits, std::string *message)
{
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        attention_outcome o = attention_run(c, seed, [&](sim::device &d) { d.dropped = step; });
        *message = o.error.empty() ? "other bits" : o.error;
        if (!o.error.empty() || o.bits != bits) {
            return seed;
        }
    }
    return 0;
}

} // namespace

int mutations_missed(const std::vector<attention_case> &cases,
                     const std::vector<spare_step> &spares)
{
    int made = 0, missed = 0, spare = 0;
    for (const attention_case &c : cases) {
        attention_outcome clean = attention_run(c, 1, [](sim::device &d) { d.record = true; });
        ck_assert_msg(clean.error.empty(), "%s: %s", c.name.c_str(), clean.error.c_str());
        for (const sim::step &step : clean.steps) {
            std::string message;
            if (is_spare(step, spares)) {
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
    return missed;
}
