#include "sim/where.h"

#include <stdio.h>
#include <string.h>
#include <vector>

namespace sim
{

namespace
{

constexpr unsigned SLOTS = 1u << 16; /* open addressing; kernels have some hundred call sites */

struct table {
    std::vector<uint16_t> slots = std::vector<uint16_t>(SLOTS, 0);
    std::vector<where> places = {{"nowhere", 0}};
};

table &places()
{
    static thread_local table t;
    return t;
}

} // namespace

uint16_t where_number(where at)
{
    table &t = places();
    unsigned slot = (static_cast<unsigned>(at.line) * 2654435761u +
                     static_cast<unsigned>(reinterpret_cast<uintptr_t>(at.file) >> 3) * 40503u) %
                    SLOTS;
    for (;; slot = (slot + 1) % SLOTS) {
        uint16_t number = t.slots[slot];
        if (number == 0) {
            break;
        }
        if (t.places[number].line == at.line && t.places[number].file == at.file) {
            return number;
        }
    }
    if (t.places.size() >= SLOTS - 1) {
        return 0;
    }
    t.slots[slot] = static_cast<uint16_t>(t.places.size());
    t.places.push_back(at);
    return t.slots[slot];
}

where where_of(uint16_t number)
{
    return places().places[number];
}

const char *where_text(where at)
{
    static thread_local char texts[8][96];
    static thread_local int next = 0;
    char *text = texts[next++ % 8];
    const char *slash = strrchr(at.file, '/');
    snprintf(text, sizeof texts[0], "%s:%d", slash ? slash + 1 : at.file, at.line);
    return text;
}

} // namespace sim
