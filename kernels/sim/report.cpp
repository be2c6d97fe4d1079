#include "sim/report.h"

#include <map>
#include <stdarg.h>
#include <stdio.h>

namespace sim
{

namespace
{

void add(std::string *to, const char *format, ...) __attribute__((format(printf, 2, 3)));

void add(std::string *to, const char *format, ...)
{
    char text[400];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    *to += text;
}

std::string report_wait(const thread &t)
{
    std::string line;
    if (t.done) {
        return line;
    }
    add(&line, "waits at %s for %s", where_text(t.waits_at),
        t.waits_for ? t.waits_for : "the processor");
    if (t.wait_address != 0) {
        add(&line, " 0x%x, round %u", t.wait_address, t.wait_value);
    }
    return line;
}

/* Threads that wait for the same thing are one line. */
void report_threads(std::string *to, const block &b)
{
    std::map<std::string, std::map<int, uint32_t>> waits; /* line, warp, lanes */
    for (const auto &t : b.threads) {
        if (!t->done) {
            waits[report_wait(*t)][t->of->index] |= 1u << t->lane;
        }
    }
    for (const auto &[line, warps] : waits) {
        add(to, "  block %d", b.index);
        for (const auto &[warp, lanes] : warps) {
            add(to, " warp %d", warp);
            if (lanes != 0xffffffffu) {
                add(to, " (lanes 0x%08x)", lanes);
            }
        }
        add(to, " %s\n", line.c_str());
    }
}

} // namespace

std::string report_writer(const cluster &c, tag w)
{
    std::string text;
    const char *place = where_text(where_of(w.place));
    const block &b = *c.blocks[w.rank];
    if (w.agent >= AGENT_BARRIER && w.agent != AGENT_RESERVED) {
        const mbarrier &m = *b.mbarriers[static_cast<size_t>(w.agent - AGENT_BARRIER)];
        add(&text, "the TMA data of %s, for round %u of the mbarrier at 0x%x", place, w.stamp,
            m.address);
        if (c.blocks.size() > 1) {
            add(&text, " of block %d", b.index);
        }
    } else if (w.agent == AGENT_RESERVED) {
        add(&text, "an mbarrier made at %s", place);
    } else {
        add(&text, "the store of ");
        if (c.blocks.size() > 1) {
            add(&text, "block %d ", b.index);
        }
        add(&text, "warp %d lane %d at %s", w.agent - AGENT_GENERIC, w.lane, place);
    }
    return text;
}

std::string report_deadlock(const machine &m)
{
    std::string text = "deadlock: every thread waits and nothing is in flight\n";
    for (const auto &b : m.blocks) {
        report_threads(&text, *b);
        const cluster &c = *b->in;
        if (b->rank == 0 && c.arrived > 0) {
            add(&text, "  cluster %d: %d of %zu warps have arrived at its barrier, %d have ended\n",
                c.index, c.arrived, c.blocks.size() * b->warps.size(), c.ended);
        }
        for (const auto &k : b->mbarriers) {
            add(&text,
                "  block %d mbarrier 0x%x: %u rounds complete; round %u misses %u of %u arrivals, "
                "%lld bytes%s%s\n",
                b->index, k->address, k->rounds, k->rounds + 1, k->pending, k->arrivals,
                static_cast<long long>(k->missing_bytes),
                k->arrived_at.file ? "; newest arrival at " : "",
                k->arrived_at.file ? where_text(k->arrived_at) : "");
        }
        for (size_t id = 0; id < b->named.size(); id++) {
            const named_barrier &n = b->named[id];
            if (n.arrived > 0) {
                add(&text, "  block %d named barrier %zu: %d of %d threads are there\n", b->index,
                    id, n.arrived, n.expected);
            }
        }
    }
    return text;
}

} // namespace sim
