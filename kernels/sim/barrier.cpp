#include <string.h>

#include "sim/machine.h"
#include "sim/ops.h"

namespace sim
{

namespace
{

const char *barrier_name(int id)
{
    static const char *const NAMES[NAMED_BARRIERS] = {
        "block_sync",       "named barrier 1",  "named barrier 2",  "named barrier 3",
        "named barrier 4",  "named barrier 5",  "named barrier 6",  "named barrier 7",
        "named barrier 8",  "named barrier 9",  "named barrier 10", "named barrier 11",
        "named barrier 12", "named barrier 13", "named barrier 14", "named barrier 15"};
    return NAMES[id];
}

/* Everybody is there: the waiting warps go on and know what all who came knew. */
void complete(named_barrier &n)
{
    for (warp *w : n.waiting) {
        for (thread *t : w->lanes) {
            t->tensor_fenced = false;
            clock_join(&t->known, n.gathering);
        }
        for (thread *t : w->lanes) {
            if (t != &self()) {
                wake(t);
            }
        }
    }
    n.waiting.clear();
    n.arrived = 0;
    n.gathering = {};
}

/* One warp comes, with the clocks of its 32 lanes. */
void come(warp &w, int id, int threads, bool waits, where at)
{
    named_barrier &n = w.owner->named[static_cast<size_t>(id)];
    if (n.arrived > 0 && n.expected != threads) {
        fail_at(at, "%s for %d threads, but at %s it is for %d", barrier_name(id), threads,
                where_text(n.at), n.expected);
    }
    n.expected = threads;
    n.at = at;
    n.arrived += LANES;
    for (const thread *t : w.lanes) {
        clock_join(&n.gathering, t->known);
    }
    if (waits) {
        n.waiting.push_back(&w);
    }
    if (n.arrived > n.expected) {
        fail_at(at, "%s gets %d threads but is for %d", barrier_name(id), n.arrived, n.expected);
    }
    if (n.arrived == n.expected) {
        complete(n);
    }
}

} // namespace

/* The last lane brings its warp; all 32 sleep until the barrier completes. */
void named_sync(int id, int threads, where at)
{
    if (dropped("barrier_sync", at)) {
        return;
    }
    thread &t = self();
    warp &w = *t.of;
    collective &c = w.meeting;
    const char *name = barrier_name(id);
    if (id == 0 && w.owner->live < threads) {
        fail_at(at, "block_sync after a thread of the block has ended");
    }
    if (threads % LANES != 0 || threads < LANES) {
        fail_at(at, "%s for %d threads: not a multiple of 32", name, threads);
    }
    if (w.live < LANES) {
        fail_at(at, "%s needs all 32 lanes, but some have ended", name);
    }
    if (c.arrived > 0 && (c.name != name || c.at.line != at.line)) {
        fail_at(at, "%s, while other lanes of this warp are in %s at %s: the warp has diverged",
                name, c.name, where_text(c.at));
    }
    c.name = name;
    c.at = at;
    t.trace = t.trace * 31 + where_number(at);
    if (++c.arrived < LANES) {
        sleep_until_woken(name, at);
        return;
    }
    c.arrived = 0;
    check_traces(w, at);
    tensor_publish(t);
    for (thread *lane : w.lanes) {
        clock_join(&t.known, lane->known);
    }
    own(t).generic.add_all(w.index, w.now);
    w.synced = w.now++;
    for (thread *lane : w.lanes) {
        lane->known = t.known;
    }
    named_barrier &n = w.owner->named[static_cast<size_t>(id)];
    bool last = n.arrived + LANES == threads;
    come(w, id, threads, true, at);
    if (!last) {
        sleep_until_woken(name, at);
    }
}

void named_arrive(int id, int threads, where at)
{
    if (dropped("barrier_arrive", at)) {
        return;
    }
    thread &t = self();
    /* Memory is ordered for those who wait, not among the lanes that arrive; the meeting here is
     * only how the warp comes as one. */
    warp_meet(barrier_name(id), at, 0, meet::orders_memory);
    if (t.lane == 0) {
        come(*t.of, id, threads, false, at);
    }
}

void fence_async(where at)
{
    if (dropped("fence_async_smem", at)) {
        return;
    }
    (void)at;
    thread &t = self();
    warp &w = *t.of;
    own(t).fenced.add_lane(w.index, w.now, t.lane);
    w.now++; /* what is written from here on is not fenced */
}

/* ------------------------------------------------------------------ setmaxnreg */

namespace
{

void let_waiters_try(block &b)
{
    for (thread *t : b.waiting_for_registers) {
        wake(t);
    }
    b.waiting_for_registers.clear();
}

} // namespace

void registers_change(int count, bool take, where at)
{
    thread &t = self();
    warp &w = *t.of;
    block &b = *w.owner;
    const char *name = take ? "registers_take" : "registers_give";
    warp_meet(name, at, 0, meet::values_only);
    if (t.lane == 0) {
        int more = (count - w.registers) * LANES;
        if (take ? more < 0 : more > 0) {
            fail_at(at, "%s<%d> in a warp that has %d registers a thread", name, count,
                    w.registers);
        }
        while (more > b.registers_free) {
            b.waiting_for_registers.push_back(&t);
            sleep_until_woken("free registers", at);
        }
        b.registers_free -= more;
        w.registers = count;
        let_waiters_try(b);
    }
    warp_meet(name, at, 0, meet::values_only);
}

} // namespace sim
