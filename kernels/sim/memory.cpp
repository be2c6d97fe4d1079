#include <map>
#include <stdlib.h>
#include <string.h>

#include "sim/device.h"

namespace sim
{

thread_local int processors = PROCESSORS;

namespace
{

constexpr size_t ALIGNMENT = 256;

std::map<uintptr_t, size_t> &taken()
{
    static thread_local std::map<uintptr_t, size_t> t;
    return t;
}

} // namespace

void *memory_take(size_t bytes)
{
    size_t all = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    void *memory = aligned_alloc(ALIGNMENT, all > 0 ? all : ALIGNMENT);
    if (memory != nullptr) {
        memset(memory, 0xff, all);
        taken()[reinterpret_cast<uintptr_t>(memory)] = bytes;
    }
    return memory;
}

void memory_give(void *memory)
{
    taken().erase(reinterpret_cast<uintptr_t>(memory));
    free(memory);
}

bool memory_holds(uintptr_t address, size_t bytes)
{
    auto next = taken().upper_bound(address);
    if (next == taken().begin()) {
        return false;
    }
    auto piece = std::prev(next);
    return bytes <= piece->second && address - piece->first <= piece->second - bytes;
}

} // namespace sim
