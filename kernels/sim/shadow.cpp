#include "sim/shadow.h"

#include <algorithm>
#include <string.h>

#include "sim/machine.h"
#include "sim/ops.h"
#include "sim/report.h"
#include "sim/vector.h"

namespace sim
{

namespace
{

constexpr uint32_t NAN_WORD =
    0x7fcdfcdf; /* not a number as fp32, nor either half as bf16 or fp16 */

thread_local uint64_t newest = 0;

size_t word_of(uint32_t address)
{
    return (address - SMEM_BASE) / 4;
}

size_t line_of(uint32_t address)
{
    return (address - SMEM_BASE) / 128;
}

/* Does the thread know of this write? */
bool knows(const thread &t, tag w, bool async)
{
    const clock_part &known = t.known.of[w.rank];
    if (w.agent >= AGENT_BARRIER && w.agent != AGENT_RESERVED) {
        return known.barrier[w.agent - AGENT_BARRIER] >= w.stamp;
    }
    if (w.agent == AGENT_NONE || w.agent == AGENT_RESERVED) {
        return false;
    }
    int of = w.agent - AGENT_GENERIC;
    if (async) {
        return known.fenced.covers(of, w.stamp, 1u << w.lane);
    }
    return (w.rank == t.owner->rank && of == t.of->index && w.lane == t.lane) ||
           known.generic.covers(of, w.stamp, 1u << w.lane);
}

void refuse_read(const char *what, uint32_t address, tag w, bool async, where at)
{
    const thread &t = self();
    if (w.agent == AGENT_NONE) {
        fail_at(at, "%s reads shared 0x%x, which was never written", what, address);
    } else if (w.agent == AGENT_RESERVED) {
        fail_at(at, "%s reads shared 0x%x, where an mbarrier lives", what, address);
    } else if (async && w.agent < AGENT_BARRIER && knows(t, w, false)) {
        fail_at(at,
                "%s reads shared 0x%x, written by %s: the order is there, but the writer ran no "
                "fence_async_smem between its write and the barrier",
                what, address, report_writer(*t.owner->in, w).c_str());
    } else {
        fail_at(at,
                "%s reads shared 0x%x before %s is known to be done: nothing this thread "
                "waited for says so",
                what, address, report_writer(*t.owner->in, w).c_str());
    }
}

/* A write must come after the write before it. */
void check_writers(const block &b, const char *what, uint32_t address, uint32_t bytes, where at)
{
    thread &t = self();
    const uint64_t *w = &b.marks.writers[word_of(address)];
    uint64_t good = 0; /* unwritten */
    for (uint32_t i = 0; i < bytes / 4; i++) {
        if (w[i] == good) {
            continue;
        }
        tag g = tag::of(w[i]);
        /* Lanes of one warp are not ordered against each other by a stamp alone. */
        bool mine = g.rank == t.owner->rank && g.agent == AGENT_GENERIC + t.of->index;
        if (g.agent != AGENT_NONE && !mine && !knows(t, g, false)) {
            fail_at(at,
                    "%s overwrites shared 0x%x: %s, and nothing this thread waited for says "
                    "that it is done or read",
                    what, address + 4 * i, report_writer(*t.owner->in, g).c_str());
        }
        good = w[i];
    }
}

void refuse_overwrite(const char *what, uint32_t address, const char *reader, int of,
                      uint16_t place, where at)
{
    fail_at(at,
            "%s overwrites shared 0x%x while %s of warp %d at %s may still read it: nothing this "
            "thread waited for says that it is done",
            what, address, reader, of, where_text(where_of(place)));
}

size_t at_rank(int rank)
{
    return static_cast<size_t>(rank);
}

/* Reads of nothing but these bytes. */
template <typename Read>
void forget(std::vector<Read> *reads, uint32_t address, uint32_t bytes)
{
    auto inside = [=](const Read &r) {
        return r.address >= address && r.address + r.bytes <= address + bytes;
    };
    reads->erase(std::remove_if(reads->begin(), reads->end(), inside), reads->end());
}

/* A write must come after the ordinary reads before it. clear: it covers whole 16-byte pieces. */
void check_generic_readers(block &b, const char *what, uint32_t address, uint32_t bytes, bool clear,
                           where at)
{
    thread &t = self();
    shadow &s = b.marks;
    const clock_part &known = t.known.of[b.rank];
    for (uint32_t a = address & ~15u; a < address + bytes; a += 16) {
        uint16_t &slot = s.reader_slot[(a - SMEM_BASE) / 16];
        if (slot == 0) {
            continue;
        }
        read_marks &marks = s.readers[slot];
        for (int w = 0; w < WARPS_MAX; w++) {
            read_mark &r = marks.of[w];
            bool mine = &b == t.owner && w == t.of->index;
            uint32_t lanes = mine ? r.lanes & ~(1u << t.lane) : r.lanes;
            if (r.stamp != 0 && lanes != 0 && !known.generic.covers(w, r.stamp, lanes)) {
                refuse_overwrite(what, a, "a load", w, r.place, at);
            }
            if (clear) {
                r = {};
            }
        }
    }
}

/* The same for reads across blocks; what is known to be done is forgotten. */
void check_remote_readers(block &b, const char *what, uint32_t address, uint32_t bytes, where at)
{
    const thread &t = self();
    auto overlaps = [=](uint32_t a, uint32_t n) { return a < address + bytes && address < a + n; };
    for (const remote_read &r : b.marks.remote_reads) {
        bool mine = r.rank == t.owner->rank && r.warp == t.of->index && r.lane == t.lane;
        if (overlaps(r.address, r.bytes) && !mine &&
            !t.known.of[r.rank].generic.covers(r.warp, r.stamp, 1u << r.lane)) {
            fail_at(at,
                    "%s overwrites shared 0x%x of block %d while a load of block %d warp %d at %s "
                    "may still read it: nothing this thread waited for says that it is done",
                    what, r.address, b.index, t.owner->in->blocks[at_rank(r.rank)]->index, r.warp,
                    where_text(where_of(r.place)));
        }
    }
    for (const copy_read &r : b.marks.copies) {
        if (overlaps(r.address, r.bytes) && t.known.of[r.rank].barrier[r.barrier] < r.round) {
            fail_at(at,
                    "%s overwrites shared 0x%x while the bulk_copy_cluster issued at %s may still "
                    "read it: nothing this thread waited for says that it has arrived",
                    what, r.address, where_text(where_of(r.place)));
        }
    }
    forget(&b.marks.remote_reads, address, bytes);
    forget(&b.marks.copies, address, bytes);
}

void check_async_readers(block &b, const char *what, uint32_t address, uint32_t bytes, bool clear,
                         where at)
{
    thread &t = self();
    shadow &s = b.marks;
    const clock_part &known = t.known.of[b.rank], &issuer = t.known.of[tensor_issuer(b)];
    if (!s.remote_reads.empty() || !s.copies.empty()) {
        check_remote_readers(b, what, address, bytes, at);
    }
    for (size_t line = line_of(address); line <= line_of(address + bytes - 1); line++) {
        if (!s.async_used[line]) {
            continue;
        }
        async_marks &m = s.async[line];
        for (int i = 0; i < WARPS_MAX; i++) {
            if (m.group[i] > known.multiply[i]) {
                refuse_overwrite(what, SMEM_BASE + static_cast<uint32_t>(line) * 128, "a wgmma", i,
                                 m.place[i], at);
            }
            if (m.group[WARPS_MAX + i] > known.bulk[i]) {
                refuse_overwrite(what, SMEM_BASE + static_cast<uint32_t>(line) * 128,
                                 "a bulk store", i, m.place[WARPS_MAX + i], at);
            }
            if (m.group[2 * WARPS_MAX + i] > issuer.tensor[i]) {
                refuse_overwrite(what, SMEM_BASE + static_cast<uint32_t>(line) * 128,
                                 "a tcgen05_multiply", i, m.place[2 * WARPS_MAX + i], at);
            }
        }
        if (clear) {
            m = {};
            s.async_used[line] = 0;
        }
    }
}

void mark_generic_read(block &b, thread &t, uint32_t address, uint32_t bytes, where at)
{
    shadow &s = b.marks;
    if (&b != t.owner) {
        s.remote_reads.push_back(
            {address, bytes, t.owner->rank, t.of->index, t.lane, t.of->now, where_number(at)});
        return;
    }
    uint16_t &slot = s.reader_slot[(address - SMEM_BASE) / 16];
    if (slot == 0) {
        slot = static_cast<uint16_t>(s.readers.size());
        s.readers.push_back({});
    }
    read_mark &r = s.readers[slot].of[t.of->index];
    uint32_t others = r.stamp > t.of->synced || r.stamp == t.of->now ? r.lanes : 0;
    r = {t.of->now, others | 1u << t.lane, where_number(at)};
}

} // namespace

bool smem_in_bounds(const char *what, uint32_t address, uint32_t bytes, uint32_t alignment,
                    where at)
{
    const block &b = *self().owner;
    if (address < SMEM_BASE || bytes > b.smem_bytes || address - SMEM_BASE > b.smem_bytes - bytes) {
        fail_at(at, "%s of %u bytes at shared 0x%x is outside the block's 0x%x..0x%x", what, bytes,
                address, SMEM_BASE, SMEM_BASE + b.smem_bytes);
        return false;
    }
    if (address % alignment != 0) {
        fail_at(at, "%s at shared 0x%x must be aligned to %u bytes", what, address, alignment);
        return false;
    }
    return true;
}

uint8_t *smem_data(block &b, uint32_t address)
{
    return b.data.data() + (address - SMEM_BASE);
}

uint64_t version_now()
{
    return newest;
}

void touch(block &b, uint32_t address, uint32_t bytes)
{
    newest++;
    for (uint32_t p = (address - SMEM_BASE) / 1024; p <= (address + bytes - 1 - SMEM_BASE) / 1024;
         p++) {
        b.marks.version[p] = newest;
    }
}

uint64_t newest_version(const block &b, uint32_t address, uint32_t bytes)
{
    uint64_t v = 0;
    for (uint32_t p = (address - SMEM_BASE) / 1024; p <= (address + bytes - 1 - SMEM_BASE) / 1024;
         p++) {
        v = b.marks.version[p] > v ? b.marks.version[p] : v;
    }
    return v;
}

void generic_read(block &b, const char *what, uint32_t address, uint32_t bytes, where at)
{
    smem_in_bounds(what, address, bytes, bytes < 16 ? bytes : 16, at);
    thread &t = self();
    for (uint32_t a = address; a < address + bytes; a += 4) {
        tag w = tag::of(b.marks.writers[word_of(a)]);
        if (!knows(t, w, false)) {
            refuse_read(what, a, w, false, at);
        }
    }
    mark_generic_read(b, t, address, bytes, at);
}

void generic_write(block &b, const char *what, uint32_t address, uint32_t bytes, where at)
{
    smem_in_bounds(what, address, bytes, bytes < 16 ? bytes : 16, at);
    thread &t = self();
    check_writers(b, what, address, bytes, at);
    check_generic_readers(b, what, address, bytes, bytes == 16, at);
    check_async_readers(b, what, address, bytes, false, at);
    tag mine = {t.of->now, static_cast<uint8_t>(AGENT_GENERIC + t.of->index),
                static_cast<uint8_t>(t.lane), static_cast<uint8_t>(t.owner->rank),
                where_number(at)};
    for (uint32_t a = address; a < address + bytes; a += 4) {
        uint64_t &w = b.marks.writers[word_of(a)];
        if (tag::of(w).agent == AGENT_RESERVED) {
            fail_at(at, "%s overwrites an mbarrier at shared 0x%x", what, a);
        }
        w = mine.bits();
    }
    touch(b, address, bytes);
}

namespace
{

/* The asynchronous engines see what is there, and generic writes that were fenced. */
void check_async_read(block &b, const char *what, uint32_t address, uint32_t bytes, where at)
{
    thread &t = self();
    shadow &s = b.marks;
    const uint64_t *w = &s.writers[word_of(address)];
    uint64_t good = w[0];
    tag first = tag::of(good);
    if (!knows(t, first, true)) {
        refuse_read(what, address, first, true, at);
    }
    if (!all_equal(w, bytes / 4, good)) {
        for (uint32_t i = 0; i < bytes / 4; i++) {
            if (w[i] != good && !knows(t, tag::of(w[i]), true)) {
                refuse_read(what, address + 4 * i, tag::of(w[i]), true, at);
            }
            good = w[i];
        }
    }
}

} // namespace

void async_read(block &b, const char *what, uint32_t address, uint32_t bytes, int stream,
                uint32_t group, where at)
{
    shadow &s = b.marks;
    check_async_read(b, what, address, bytes, at);
    uint16_t place = where_number(at);
    for (size_t line = line_of(address); line <= line_of(address + bytes - 1); line++) {
        s.async[line].group[stream] = group;
        s.async[line].place[stream] = place;
        s.async_used[line] = 1;
    }
}

void copy_reads(const char *what, uint32_t address, uint32_t bytes, const block &to, int barrier,
                uint32_t round, where at)
{
    block &b = *self().owner;
    check_async_read(b, what, address, bytes, at);
    std::vector<copy_read> &all = b.marks.copies;
    auto done = [](const copy_read &r) { /* the same copy of rounds ago */
                                         return self().known.of[r.rank].barrier[r.barrier] >=
                                                r.round;
    };
    all.erase(std::remove_if(all.begin(), all.end(), done), all.end());
    all.push_back({address, bytes, to.rank, barrier, round, where_number(at)});
}

void async_write(block &b, const char *what, uint32_t address, uint32_t bytes, const block &with,
                 int barrier, uint32_t round, where at)
{
    shadow &s = b.marks;
    check_writers(b, what, address, bytes, at);
    check_generic_readers(b, what, address, bytes, true, at);
    check_async_readers(b, what, address, bytes, address % 128 == 0 && bytes % 128 == 0, at);
    tag mine = {round, static_cast<uint8_t>(AGENT_BARRIER + barrier), 0,
                static_cast<uint8_t>(with.rank), where_number(at)};
    for (uint32_t a = address; a < address + bytes; a += 4) {
        uint64_t &w = s.writers[word_of(a)];
        if (tag::of(w).agent == AGENT_RESERVED) {
            fail_at(at, "%s overwrites an mbarrier at shared 0x%x", what, a);
        }
        w = mine.bits();
        memcpy(smem_data(b, a), &NAN_WORD, 4);
    }
    touch(b, address, bytes);
}

void reserve(uint32_t address, where at)
{
    block &b = *self().owner;
    for (uint32_t a = address; a < address + 8; a += 4) {
        b.marks.writers[word_of(a)] = tag{0, AGENT_RESERVED, 0, 0, where_number(at)}.bits();
    }
}

} // namespace sim
