#include "tests/sim/covering.h"

#include <set>
#include <stddef.h>

namespace
{

/* Value x of feature a meets value y of feature b; a < b. */
struct meeting {
    size_t a;
    int x;
    size_t b;
    int y;

    bool operator<(const meeting &other) const
    {
        return a != other.a   ? a < other.a
               : b != other.b ? b < other.b
               : x != other.x ? x < other.x
                              : y < other.y;
    }
};

std::set<meeting> all_meetings(const std::vector<int> &values)
{
    std::set<meeting> all;
    for (size_t b = 0; b < values.size(); b++) {
        for (size_t a = 0; a < b; a++) {
            for (int x = 0; x < values[a]; x++) {
                for (int y = 0; y < values[b]; y++) {
                    all.insert({a, x, b, y});
                }
            }
        }
    }
    return all;
}

/* How many of the open meetings value v of feature f brings to a case; -1: not chosen yet. */
size_t gain(const std::set<meeting> &open, const std::vector<int> &chosen, size_t f, int v)
{
    size_t count = 0;
    for (size_t other = 0; other < chosen.size(); other++) {
        if (chosen[other] >= 0 && other != f) {
            count += other < f ? open.count({other, chosen[other], f, v})
                               : open.count({f, v, other, chosen[other]});
        }
    }
    return count;
}

} // namespace

std::vector<std::vector<int>> covering_cases(const std::vector<int> &values)
{
    std::vector<std::vector<int>> cases;
    std::set<meeting> open = all_meetings(values);
    while (!open.empty()) {
        std::vector<int> chosen(values.size(), -1);
        chosen[open.begin()->a] = open.begin()->x;
        chosen[open.begin()->b] = open.begin()->y;
        for (size_t f = 0; f < values.size(); f++) {
            int best = chosen[f];
            for (int i = 0; chosen[f] < 0 && i < values[f]; i++) {
                int v = (i + static_cast<int>(cases.size())) % values[f]; /* ties go round */
                best =
                    best < 0 || gain(open, chosen, f, v) > gain(open, chosen, f, best) ? v : best;
            }
            chosen[f] = best;
        }
        for (size_t b = 0; b < values.size(); b++) {
            for (size_t a = 0; a < b; a++) {
                open.erase({a, chosen[a], b, chosen[b]});
            }
        }
        cases.push_back(chosen);
    }
    return cases;
}
