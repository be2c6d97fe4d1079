#include <string.h>

#include "sim/machine.h"
#include "sim/ops.h"

namespace sim
{

namespace
{

/* Count a write; an output takes each word once. */
bool count_write(buffer &b, uintptr_t address, size_t bytes, std::string *why)
{
    if (b.use != usage::output) {
        return true;
    }
    for (size_t word = (address - b.base) / 4; word < (address - b.base + bytes + 3) / 4; word++) {
        uint8_t &n = b.writes[word];
        n = static_cast<uint8_t>(n == 255 ? 255 : n + 1);
        if (n > 1) {
            *why = std::string("writes byte ") + std::to_string(word * 4) + " of \"" + b.name +
                   "\" a second time";
            return false;
        }
    }
    return true;
}

/*
 * The launch ahead of one that overlaps it may still run: what it has written is not there, and
 * what both write is whose comes last. For these words, in which their writers are noted.
 */
bool settled(uint64_t *writers, uintptr_t address, size_t bytes, bool write)
{
    const machine &m = the_machine();
    bool waited = m.in_engine ? m.stepping->waited : m.running->waited;
    for (size_t i = 0; i < (address % 4 + bytes + 3) / 4; i++) {
        if (writers[i] >= m.on->ahead && writers[i] < m.on->launches && !waited) {
            return false;
        }
        writers[i] = write ? m.on->launches : writers[i];
    }
    return true;
}

void check(const char *what, const void *at_address, size_t bytes, bool write, where at)
{
    std::string why;
    if (reinterpret_cast<uintptr_t>(at_address) % (bytes < 16 ? bytes : 16) != 0) {
        fail_at(at, "%s of %zu bytes at %p is not aligned", what, bytes, at_address);
    }
    if (!global_usable(at_address, bytes, write, &why)) {
        fail_at(at, "%s %s", what, why.c_str());
    }
}

void wake_pollers()
{
    machine &m = the_machine();
    for (thread *t : m.polling) {
        wake(t);
    }
    m.polling.clear();
}

} // namespace

buffer *global_buffer(uintptr_t address, size_t bytes)
{
    for (buffer &b : the_machine().on->buffers) {
        if (address >= b.base && address - b.base <= b.bytes &&
            bytes <= b.bytes - (address - b.base)) {
            return &b;
        }
    }
    return nullptr;
}

bool global_usable(const void *at_address, size_t bytes, bool write, std::string *why)
{
    uintptr_t address = reinterpret_cast<uintptr_t>(at_address);
    buffer *b = global_buffer(address, bytes);
    uint64_t *writers =
        b != nullptr ? &b->writers[(address - b->base) / 4] : memory_use(address, bytes, write);
    if (writers == nullptr) {
        *why = "touches global memory outside every registered buffer";
        for (const buffer &near : the_machine().on->buffers) {
            if (address + bytes + 4096 > near.base && address < near.base + near.bytes + 4096) {
                *why += std::string(", byte ") +
                        std::to_string(static_cast<int64_t>(address - near.base)) + " of \"" +
                        near.name + "\" (" + std::to_string(near.bytes) + " bytes)";
            }
        }
        return false;
    }
    if (write && b != nullptr && b->use == usage::input) {
        *why = std::string("writes the input \"") + b->name + "\"";
        return false;
    }
    if (!settled(writers, address, bytes, write)) {
        *why = "touches what the launch ahead has written, which may still run: no "
               "grid_wait_previous";
        return false;
    }
    return !write || b == nullptr || count_write(*b, address, bytes, why);
}

void grid_wait_previous(where at)
{
    machine &m = the_machine();
    if (m.shape.overlaps && !dropped("grid_wait_previous", at)) {
        self().waited = true;
        m.waited = true;
    }
}

void global_read(const void *from, void *to, size_t bytes, where at)
{
    check("global_load", from, bytes, false, at);
    order_access("global_load", from, bytes, false, 0, at);
    memcpy(to, from, bytes);
}

void global_write(void *to, const void *from, size_t bytes, where at)
{
    check("global_store", to, bytes, true, at);
    order_access("global_store", to, bytes, true, 0, at);
    memcpy(to, from, bytes);
}

void global_discard(void *line, where at)
{
    constexpr size_t LINE = 128;
    if (reinterpret_cast<uintptr_t>(line) % LINE != 0) {
        fail_at(at, "global_discard at %p is not aligned", line);
    }
    check("global_discard", line, LINE, true, at);
    order_access("global_discard", line, LINE, true, 0, at);
    memset(line, 0xff, LINE);
}

int32_t global_fetch_add(int32_t *at_address, int32_t value, bool orders, where at)
{
    check("atomic_add", at_address, 4, true, at);
    if (orders) {
        order_acquire(at_address);
        order_release(at_address);
    }
    int32_t before = *at_address;
    *at_address += value;
    wake_pollers();
    return before;
}

void global_add(float *at_address, const float *values, int count, where at)
{
    check("red_add", at_address, static_cast<size_t>(count) * 4, true, at);
    order_access("red_add", at_address, static_cast<size_t>(count) * 4, true, 0, at);
    for (int i = 0; i < count; i++) {
        at_address[i] += values[i];
    }
}

int32_t flag_load(const int32_t *flag, where at)
{
    check("flag_load", flag, 4, false, at);
    yield(); /* callers spin */
    order_acquire(flag);
    return *flag;
}

void flag_store(int32_t *flag, int32_t value, where at)
{
    if (dropped("flag_store", at)) {
        return;
    }
    check("flag_store", flag, 4, true, at);
    order_release(flag);
    *flag = value;
    wake_pollers();
}

void flag_wait(const int32_t *flag, int32_t value, where at)
{
    if (dropped("flag_wait", at)) {
        return;
    }
    check("flag_wait", flag, 4, false, at);
    while (*flag < value) {
        the_machine().polling.push_back(&self());
        sleep_until_woken("a flag in global memory", at);
    }
    order_acquire(flag);
}

} // namespace sim
