#include <string.h>

#include "sim/copy.h"
#include "sim/machine.h"
#include "sim/ops.h"
#include "sim/shadow.h"

namespace sim
{

namespace
{

struct load_operation : pending {
    block *owner;
    mbarrier *barrier;
    const void *from;
    uint32_t to, bytes, round;
    clock issuer;
    where at;

    bool step() override
    {
        std::string why;
        if (!global_usable(from, bytes, false, &why)) {
            fail("the bulk_load issued at %s %s", where_text(at), why.c_str());
        }
        memcpy(smem_data(*owner, to), from, bytes);
        touch(*owner, to, bytes);
        owner->loads--;
        mbarrier_bytes(*owner, *barrier, bytes, round, issuer, at);
        return true;
    }
};

struct store_operation : pending {
    block *owner;
    uint8_t *to;
    uint32_t from, bytes;
    bool add;
    std::shared_ptr<bulk_group> group;
    std::vector<uint8_t> copy;
    where at;

    bool step() override
    {
        if (copy.empty()) {
            copy.assign(smem_data(*owner, from), smem_data(*owner, from) + bytes);
            bulk_read_done(*group);
            return false;
        }
        std::string why;
        if (!global_usable(to, bytes, true, &why)) {
            fail("the bulk copy issued at %s %s", where_text(at), why.c_str());
        }
        if (add) {
            add_floats(reinterpret_cast<float *>(to), copy.data(), bytes);
        } else {
            memcpy(to, copy.data(), bytes);
        }
        bulk_write_done(*group);
        return true;
    }
};

void check_copy(const char *what, const void *global, uint32_t smem, uint32_t bytes, where at)
{
    if (bytes == 0 || bytes % 16 != 0 || reinterpret_cast<uintptr_t>(global) % 16 != 0) {
        fail_at(at, "%s of %u bytes at global %p: both must be multiples of 16", what, bytes,
                global);
    }
    smem_in_bounds(what, smem, bytes, 16, at);
}

void wake_lane(thread &t)
{
    if (t.waits_for != nullptr && strcmp(t.waits_for, "its bulk groups") == 0) {
        wake(&t);
    }
}

} // namespace

void add_floats(float *to, const uint8_t *from, uint32_t bytes)
{
    for (uint32_t i = 0; i < bytes / 4; i++) {
        float x;
        memcpy(&x, from + 4 * i, 4);
        to[i] += x;
    }
}

mbarrier &tma_barrier(block &b, const char *what, uint32_t barrier, where at)
{
    mbarrier &m = mbarrier_of(b, what, barrier, at);
    if (!m.visible) {
        fail_at(at,
                "%s on the mbarrier at 0x%x: the thread that made it at %s did not run "
                "mbarrier_init_fence",
                what, barrier, where_text(where_of(m.writer.place)));
    }
    return m;
}

std::shared_ptr<bulk_group> bulk_open()
{
    thread &t = self();
    if (t.bulk.empty() || t.bulk.back()->number != 0) {
        t.bulk.push_back(std::make_shared<bulk_group>());
        t.bulk.back()->owner = &t;
    }
    bulk_group &g = *t.bulk.back();
    g.reading++;
    g.writing++;
    return t.bulk.back();
}

uint32_t bulk_next_number()
{
    return self().of->bulk_groups + 1;
}

void bulk_read_done(bulk_group &g)
{
    g.reading--;
    wake_lane(*g.owner);
}

void bulk_write_done(bulk_group &g)
{
    g.writing--;
    wake_lane(*g.owner);
}

namespace
{

/* Into `to`, which may be another block of the cluster. */
void load_into(block &to, const char *what, uint32_t target, const void *source, uint32_t bytes,
               uint32_t barrier, where at)
{
    auto c = std::make_unique<load_operation>();
    c->owner = &to;
    c->barrier = &tma_barrier(to, what, barrier, at);
    cluster_check_round(what, to, *c->barrier, at);
    c->from = source;
    c->to = target;
    c->bytes = bytes;
    c->round = c->barrier->rounds + 1;
    c->issuer = self().known;
    c->at = at;
    async_write(to, what, target, bytes, to, mbarrier_number(to, *c->barrier), c->round, at);
    cluster_visit_barrier(to, *c->barrier, c->round, at);
    to.loads++;
    start(std::move(c));
}

} // namespace

void bulk_load(uint32_t target, const void *source, uint32_t bytes, uint32_t barrier, where at)
{
    check_copy("bulk_load", source, target, bytes, at);
    load_into(*self().owner, "bulk_load", target, source, bytes, barrier, at);
}

void bulk_load_multicast(uint32_t target, const void *source, uint32_t bytes, uint32_t barrier,
                         uint32_t mask, where at)
{
    const char *what = "bulk_load_multicast";
    check_copy(what, source, target, bytes, at);
    cluster_each(what, mask, at,
                 [&](block &to) { load_into(to, what, target, source, bytes, barrier, at); });
}

void bulk_store(void *target, uint32_t source, uint32_t bytes, bool add, where at)
{
    check_copy(add ? "bulk_reduce_add" : "bulk_store", target, source, bytes, at);
    auto c = std::make_unique<store_operation>();
    c->owner = self().owner;
    c->to = static_cast<uint8_t *>(target);
    c->from = source;
    c->bytes = bytes;
    c->add = add;
    c->at = at;
    c->group = bulk_open();
    async_read(*c->owner, add ? "bulk_reduce_add" : "bulk_store", source, bytes,
               WARPS_MAX + self().of->index, bulk_next_number(), at);
    order_access(add ? "bulk_reduce_add" : "bulk_store", target, bytes, true, bulk_next_number(),
                 at);
    start(std::move(c));
}

void bulk_commit(where at)
{
    if (dropped("bulk_commit", at)) {
        return;
    }
    (void)at;
    thread &t = self();
    if (t.bulk.empty() || t.bulk.back()->number != 0) { /* an empty group is legal */
        t.bulk.push_back(std::make_shared<bulk_group>());
        t.bulk.back()->owner = &t;
    }
    t.bulk.back()->number = ++t.of->bulk_groups;
}

void bulk_wait(int pending, bool only_reads, where at)
{
    if (dropped("bulk_wait", at)) {
        return;
    }
    thread &t = self();
    size_t closed = t.bulk.size() - (!t.bulk.empty() && t.bulk.back()->number == 0);
    size_t retire =
        closed > static_cast<size_t>(pending) ? closed - static_cast<size_t>(pending) : 0;
    for (size_t i = 0; i < retire; i++) {
        bulk_group &g = *t.bulk[i];
        while (only_reads ? g.reading > 0 : g.writing > 0) {
            sleep_until_woken("its bulk groups", at);
        }
        if (g.number > own(t).bulk[t.of->index]) {
            own(t).bulk[t.of->index] = g.number;
        }
        if (!only_reads && g.number > t.bulk_waited) {
            t.bulk_waited = g.number;
        }
    }
    /* Groups that are done, but were not waited for, stay: a later wait is to count them. */
    while (!t.bulk.empty() && t.bulk.front()->number != 0 &&
           t.bulk.front()->number <= t.bulk_waited) {
        t.bulk.erase(t.bulk.begin());
    }
}

} // namespace sim
