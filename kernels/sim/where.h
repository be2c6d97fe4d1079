/*
 * sim/where: a place in a kernel's source. Wrappers take one as their last, defaulted argument, so
 * every message names the kernel's line; tags hold a 16-bit number of it.
 */
#ifndef SIM_WHERE_H
#define SIM_WHERE_H

#include <stdint.h>

namespace sim
{

struct where {
    const char *file;
    int line;

    /* As a default argument this gives the caller's place, in g++ and clang++; the builtins written
     * there directly do not. */
    static constexpr where here(const char *f = __builtin_FILE(), int l = __builtin_LINE())
    {
        return where{f, l};
    }
};

#define SIM_HERE (::sim::where::here())

/* The number of a place: equal places, equal numbers. 0 is "nowhere". One table per host thread. */
uint16_t where_number(where at);
where where_of(uint16_t number);

/* "fwd.cuh:120"; the text lives until the eighth call after this one. */
const char *where_text(where at);

} // namespace sim

#endif
