#include <map>
#include <stdlib.h>
#include <string.h>
#include <vector>

#include "sim/machine.h"

namespace sim
{

thread_local int processors = PROCESSORS;

namespace
{

constexpr size_t ALIGNMENT = 256;

struct piece {
    size_t bytes;
    std::vector<uint64_t> read;    /* per ALIGNMENT bytes: in which period a kernel last did */
    std::vector<uint64_t> writers; /* per 4 bytes */
};

std::map<uintptr_t, piece> &taken()
{
    static thread_local std::map<uintptr_t, piece> t;
    return t;
}

thread_local uint64_t period = 1; /* from one memory_settle to the next */
thread_local device *reader;      /* the newest */

/* The piece that has these bytes, or nullptr. */
piece *piece_of(uintptr_t address, size_t bytes, size_t *offset)
{
    auto next = taken().upper_bound(address);
    if (next == taken().begin()) {
        return nullptr;
    }
    auto at = std::prev(next);
    piece &p = at->second;
    *offset = address - at->first;
    return bytes <= p.bytes && *offset <= p.bytes - bytes ? &p : nullptr;
}

} // namespace

void *memory_take(size_t bytes)
{
    size_t all = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    void *memory = aligned_alloc(ALIGNMENT, all > 0 ? all : ALIGNMENT);
    if (memory != nullptr) {
        memset(memory, 0xff, all);
        taken()[reinterpret_cast<uintptr_t>(memory)] = {
            bytes, std::vector<uint64_t>(all / ALIGNMENT + 1), std::vector<uint64_t>(all / 4 + 1)};
    }
    return memory;
}

void memory_give(void *memory)
{
    taken().erase(reinterpret_cast<uintptr_t>(memory));
    free(memory);
}

uint64_t *memory_use(uintptr_t address, size_t bytes, bool write)
{
    size_t offset = 0;
    piece *p = piece_of(address, bytes, &offset);
    if (p != nullptr && !write) {
        for (size_t i = offset / ALIGNMENT; i <= (offset + bytes - 1) / ALIGNMENT; i++) {
            p->read[i] = period;
        }
        reader = the_machine().on;
    }
    return p != nullptr ? &p->writers[offset / 4] : nullptr;
}

bool memory_copy(void *to, const void *from, size_t bytes)
{
    size_t offset = 0;
    piece *p = piece_of(reinterpret_cast<uintptr_t>(to), bytes, &offset);
    for (size_t i = offset; p != nullptr && i < offset + bytes; i++) {
        if (p->read[i / ALIGNMENT] == period) {
            reader->error = "a copy overwrites what a kernel may still read: byte " +
                            std::to_string(i) + " of memory";
            return false;
        }
    }
    memcpy(to, from, bytes);
    return true;
}

void memory_settle()
{
    period++;
}

} // namespace sim
