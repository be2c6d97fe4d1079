#include "sim/machine.h"
#include "sim/ops.h"

/*
 * Order through flags, between clusters and between threads of one. A release puts what its thread
 * knows into the flag; an acquire gives it to the acquiring thread's cluster, where it counts for
 * every thread that knows of the acquire.
 */
namespace sim
{

namespace
{

bool covers(const clock_part &c, const global_tag &w)
{
    return w.bulk ? c.bulk_done[w.warp] >= w.stamp
                  : c.generic.covers(w.warp, w.stamp, 1u << w.lane);
}

bool knows_acquire(const thread &t, const learned &l)
{
    return (l.rank == t.owner->rank && l.warp == t.of->index && l.lane == t.lane) ||
           t.known.of[l.rank].generic.covers(l.warp, l.stamp, 1u << l.lane);
}

/* bulk: a bulk operation of the thread, for which an acquire counts once it is fenced. */
bool knows(const thread &t, const global_tag &w, bool bulk)
{
    const cluster &c = *t.owner->in;
    int blocks = static_cast<int>(c.blocks.size()), rank = w.block % blocks;
    if (w.block / blocks == c.index) {
        bool mine = rank == t.owner->rank && w.warp == t.of->index && w.lane == t.lane;
        if ((mine && (!w.bulk || t.bulk_waited >= w.stamp)) || covers(t.known.of[rank], w)) {
            return true;
        }
    }
    for (size_t i = c.from_others.size(); i-- > 0;) {
        const learned &l = c.from_others[i];
        auto of = l.what->find(w.block / blocks);
        if (of != l.what->end() && covers(of->second.of[rank], w) && knows_acquire(t, l) &&
            (l.fenced || !bulk)) {
            return true;
        }
    }
    return false;
}

} // namespace

void order_access(const char *what, const void *at_address, size_t bytes, bool writes,
                  uint32_t bulk_number, where at)
{
    uintptr_t address = reinterpret_cast<uintptr_t>(at_address);
    buffer *b = global_buffer(address, bytes);
    if (b == nullptr || b->use != usage::ordered) {
        return;
    }
    thread &t = self();
    uint64_t launch = the_machine().on->launches;
    global_tag mine = {launch,           t.owner->index,
                       t.of->index,      t.lane,
                       bulk_number != 0, bulk_number != 0 ? bulk_number : t.of->now,
                       where_number(at)};
    for (size_t i = (address - b->base) / 16; i <= (address - b->base + bytes - 1) / 16; i++) {
        global_tag &w = b->tags[i];
        if (w.launch == launch && mine.bulk && !knows(t, w, true) && knows(t, w, false)) {
            fail_at(at,
                    "%s at byte %zu of \"%s\" after the write of block %d warp %d at %s: the order "
                    "is there, but no fence_async_global between the flag and this bulk operation",
                    what, i * 16, b->name, w.block, w.warp, where_text(where_of(w.place)));
        }
        if (w.launch == launch && !knows(t, w, mine.bulk)) {
            fail_at(
                at,
                "%s at byte %zu of \"%s\" before the write of block %d warp %d at %s is known to "
                "be done: no flag or barrier that this thread waited for says so",
                what, i * 16, b->name, w.block, w.warp, where_text(where_of(w.place)));
        }
        if (writes) {
            w = mine;
        }
    }
}

void order_release(const int32_t *flag)
{
    thread &t = self();
    auto &slot = the_machine().flags[flag];
    auto next =
        slot != nullptr ? std::make_shared<published>(*slot) : std::make_shared<published>();
    for (const learned &l : t.owner->in->from_others) {
        if (knows_acquire(t, l)) {
            for (const auto &[index, c] : *l.what) {
                clock_join(&(*next)[index], c);
            }
        }
    }
    publish(t, &(*next)[t.owner->in->index]);
    slot = next;
}

void order_acquire(const int32_t *flag)
{
    thread &t = self();
    auto slot = the_machine().flags.find(flag);
    if (slot != the_machine().flags.end()) {
        t.owner->in->from_others.push_back(
            {slot->second, t.owner->rank, t.of->index, t.lane, t.of->now, false});
    }
}

void fence_async_global(where at)
{
    thread &t = self();
    if (dropped("fence_async_global", at)) {
        return;
    }
    own(t).bulk_done[t.of->index] = t.bulk_waited;
    for (learned &l : t.owner->in->from_others) {
        l.fenced |= l.rank == t.owner->rank && l.warp == t.of->index && l.lane == t.lane;
    }
}

} // namespace sim
