#include <algorithm>
#include <string.h>

#include "sim/copy.h"
#include "sim/machine.h"
#include "sim/ops.h"
#include "sim/shadow.h"

/*
 * Blocks of a cluster. A thread reaches another block's shared memory only while that block runs:
 * it must know that it has begun (of anything it did: a cluster barrier at the start), and the
 * other block must not end before it knows that the access is done.
 */
namespace sim
{

uint32_t cluster_rank()
{
    return static_cast<uint32_t>(self().owner->rank);
}

uint32_t cluster_blocks()
{
    return static_cast<uint32_t>(self().owner->in->blocks.size());
}

/* ------------------------------------------------------------------ the cluster's barrier */

namespace
{

/* Warps that ended count as arrived. */
void settle(cluster &c)
{
    size_t warps = c.blocks.size() * c.blocks[0]->warps.size();
    if (c.arrived == 0 || static_cast<size_t>(c.arrived + c.ended) < warps) {
        return;
    }
    c.rounds++;
    c.complete = c.gathering;
    c.gathering = clock();
    c.arrived = 0;
    for (block *b : c.blocks) {
        for (auto &w : b->warps) {
            c.ended += w->at_cluster_barrier && w->live == 0;
            w->at_cluster_barrier = false;
        }
    }
    for (thread *t : c.waiting) {
        wake(t);
    }
    c.waiting.clear();
}

} // namespace

void cluster_arrive(where at)
{
    if (dropped("cluster_arrive", at)) {
        return;
    }
    thread &t = self();
    warp &w = *t.of;
    warp_meet("cluster_arrive", at, 0, meet::orders_memory);
    if (t.lane == 0) {
        cluster &c = *t.owner->in;
        if (w.cluster_owes_wait) {
            fail_at(at, "cluster_arrive a second time without a cluster_wait between");
        }
        w.cluster_owes_wait = w.at_cluster_barrier = true;
        w.cluster_rounds = c.rounds + 1;
        for (thread *lane : w.lanes) {
            clock_join(&c.gathering, lane->known);
        }
        c.arrived++;
        settle(c);
    }
    warp_meet("cluster_arrive", at, 0, meet::values_only);
}

void cluster_wait(where at)
{
    if (dropped("cluster_wait", at)) {
        return;
    }
    thread &t = self();
    warp &w = *t.of;
    cluster &c = *t.owner->in;
    warp_meet("cluster_wait", at, 0, meet::values_only);
    if (!w.cluster_owes_wait) {
        fail_at(at, "cluster_wait without a cluster_arrive before it");
    }
    while (c.rounds < w.cluster_rounds) {
        c.waiting.push_back(&t);
        sleep_until_woken("the cluster's barrier", at);
    }
    t.tensor_fenced = false;
    clock_join(&t.known, c.complete);
    warp_meet("cluster_wait", at, 0, meet::values_only);
    w.cluster_owes_wait = false;
}

void cluster_warp_exit(warp &w)
{
    cluster &c = *w.owner->in;
    if (!w.at_cluster_barrier) {
        c.ended++;
    }
    settle(c);
}

/* ------------------------------------------------------------------ reaching another block */

block &cluster_peer(const char *what, uint32_t rank, where at)
{
    thread &t = self();
    cluster &c = *t.owner->in;
    if (rank >= c.blocks.size()) {
        fail_at(at, "%s reaches rank %u of a cluster of %zu blocks", what, rank, c.blocks.size());
    }
    block &b = *c.blocks[rank];
    if (&b == t.owner) {
        return b;
    }
    const clock_part &known = t.known.of[rank];
    bool begun = false;
    for (int w = 0; w < WARPS_MAX; w++) {
        begun = begun || known.generic.full[w] > 0 || known.generic.part[w] > 0;
    }
    if (!begun) {
        fail_at(at,
                "%s reaches block %d, but nothing this thread waited for says that it has begun "
                "(cluster_arrive and cluster_wait at the start)",
                what, b.index);
    }
    if (b.live == 0) {
        fail_at(at, "%s reaches block %d, which has ended", what, b.index);
    }
    return b;
}

void cluster_each(const char *what, uint32_t mask, where at,
                  const std::function<void(block &)> &visit_block)
{
    if (mask == 0 || mask > 0xffff) {
        fail_at(at, "%s with the mask 0x%x: one bit for each block, 16 at most", what, mask);
    }
    for (uint32_t rest = mask; rest != 0; rest &= rest - 1) {
        visit_block(cluster_peer(what, static_cast<uint32_t>(__builtin_ctz(rest)), at));
    }
}

void cluster_visit(block &b, visit how, uint32_t stamp, where at)
{
    const thread &t = self();
    if (&b == t.owner) {
        return;
    }
    int rank = t.owner->rank, w = t.of->index;
    clock_part &by = b.visited.by.of[rank];
    if (how == visit::by_tensor_stream) {
        by.tensor[w] = stamp;
        b.visited.tensor[rank][w] = where_number(at);
        return;
    }
    uint32_t others = by.generic.part[w] == stamp ? by.generic.lanes[w] : 0;
    by.generic.part[w] = stamp;
    by.generic.lanes[w] = others | 1u << t.lane;
    b.visited.generic[rank][w] = where_number(at);
}

void cluster_visit_barrier(block &b, const mbarrier &m, uint32_t round, where at)
{
    if (&b != self().owner) {
        int n = mbarrier_number(b, m);
        b.visited.by.of[b.rank].barrier[n] = round;
        b.visited.barrier[n] = where_number(at);
    }
}

void cluster_check_round(const char *what, const block &b, const mbarrier &m, where at)
{
    const thread &t = self();
    if (&b != t.owner && t.known.of[b.rank].barrier[mbarrier_number(b, m)] < m.rounds) {
        fail_at(at,
                "%s counts on the mbarrier at 0x%x of block %d, but nothing this thread waited for "
                "says that its round %u is complete: the bytes may count for that one",
                what, m.address, b.index, m.rounds);
    }
}

namespace
{

/* What one of the block's threads knew at its end. */
clock known_at_end(const block &b)
{
    clock all;
    for (const auto &t : b.threads) {
        clock_join(&all, t->known);
    }
    return all;
}

void refuse_end(const block &b, const char *what, uint16_t place)
{
    fail("block %d ends, but nothing that its threads waited for says that the %s at %s is done: "
         "it would reach memory that is the next block's",
         b.index, what, where_text(where_of(place)));
}

} // namespace

void cluster_block_exit(const block &b)
{
    size_t blocks = b.in->blocks.size();
    if (blocks == 1) {
        return;
    }
    if (b.from_peers > 0) {
        fail("block %d ends while arrivals from other blocks are in flight to it", b.index);
    }
    clock all = known_at_end(b);
    const visits &v = b.visited;
    for (size_t rank = 0; rank < blocks; rank++) {
        for (int w = 0; w < WARPS_MAX; w++) {
            const knowledge &g = v.by.of[rank].generic;
            if (g.part[w] > 0 && !all.of[rank].generic.covers(w, g.part[w], g.lanes[w])) {
                refuse_end(b, "access from another block", v.generic[rank][w]);
            }
            if (v.by.of[rank].tensor[w] > all.of[rank].tensor[w]) {
                refuse_end(b, "pair's multiplication", v.tensor[rank][w]);
            }
        }
    }
    for (const remote_arrival &a : v.arrivals) {
        if (a.round > all.of[b.rank].barrier[a.barrier] &&
            !all.of[a.rank].generic.covers(a.warp, a.stamp, 1u << a.lane)) {
            refuse_end(b, "mbarrier_arrive_cluster", a.place);
        }
    }
    for (const copy_read &r : b.marks.copies) {
        if (r.round > all.of[r.rank].barrier[r.barrier]) {
            refuse_end(b, "bulk_copy_cluster", r.place);
        }
    }
    for (int i = 0; i < BARRIERS_MAX; i++) {
        if (v.by.of[b.rank].barrier[i] > all.of[b.rank].barrier[i]) {
            refuse_end(b, "copy from another block", v.barrier[i]);
        }
    }
}

/* ------------------------------------------------------------------ what threads do there */

namespace
{

constexpr uint32_t RANK_SHIFT = 24; /* as in the hardware's addresses */

} // namespace

uint32_t cluster_rank_of(gpu::cluster_address a)
{
    return a.bits >> RANK_SHIFT;
}

uint32_t cluster_offset_of(gpu::cluster_address a)
{
    return a.bits & ((1u << RANK_SHIFT) - 1);
}

namespace
{

void note_arrival(block &b, const mbarrier &m, where at)
{
    const thread &t = self();
    std::vector<remote_arrival> &all = b.visited.arrivals;
    int n = mbarrier_number(b, m);
    uint32_t round = m.rounds + 1;
    auto older = [=](const remote_arrival &a) { return a.barrier == n && a.round < round; };
    all.erase(std::remove_if(all.begin(), all.end(), older), all.end());
    if (&b != t.owner) {
        all.push_back({n, round, t.owner->rank, t.of->index, t.lane, t.of->now, where_number(at)});
    }
}

struct copy_operation : pending {
    block *from, *to;
    mbarrier *barrier;
    uint32_t source, target, bytes, round;
    clock issuer;
    where at;

    bool step() override
    {
        memcpy(smem_data(*to, target), smem_data(*from, source), bytes);
        touch(*to, target, bytes);
        to->loads--;
        mbarrier_bytes(*to, *barrier, bytes, round, issuer, at);
        return true;
    }
};

} // namespace

gpu::cluster_address cluster_map(uint32_t address, uint32_t rank)
{
    return {rank << RANK_SHIFT | address};
}

void mbarrier_arrive_cluster(gpu::cluster_address barrier, uint32_t expected_bytes, where at)
{
    const char *what = "mbarrier_arrive_cluster";
    if (dropped(what, at)) {
        return;
    }
    block &b = cluster_peer(what, cluster_rank_of(barrier), at);
    note_arrival(b, mbarrier_of(b, what, cluster_offset_of(barrier), at), at);
    mbarrier_arrive_at(b, what, cluster_offset_of(barrier), expected_bytes, at);
}

void smem_read_cluster(gpu::cluster_address from, void *to, uint32_t bytes, where at)
{
    block &b = cluster_peer("smem_load_cluster", cluster_rank_of(from), at);
    generic_read(b, "smem_load_cluster", cluster_offset_of(from), bytes, at);
    cluster_visit(b, visit::by_thread, self().of->now, at);
    memcpy(to, smem_data(b, cluster_offset_of(from)), bytes);
}

void smem_write_cluster(gpu::cluster_address to, const void *from, uint32_t bytes, where at)
{
    block &b = cluster_peer("smem_store_cluster", cluster_rank_of(to), at);
    generic_write(b, "smem_store_cluster", cluster_offset_of(to), bytes, at);
    cluster_visit(b, visit::by_thread, self().of->now, at);
    memcpy(smem_data(b, cluster_offset_of(to)), from, bytes);
}

void bulk_copy_cluster(gpu::cluster_address target, uint32_t source, uint32_t bytes,
                       gpu::cluster_address barrier, where at)
{
    const char *what = "bulk_copy_cluster";
    if (bytes == 0 || bytes % 16 != 0) {
        fail_at(at, "%s of %u bytes: must be a multiple of 16", what, bytes);
    }
    if (cluster_rank_of(target) != cluster_rank_of(barrier)) {
        fail_at(at, "%s to rank %u with an mbarrier of rank %u: both lie in one block", what,
                cluster_rank_of(target), cluster_rank_of(barrier));
    }
    smem_in_bounds(what, source, bytes, 16, at);
    smem_in_bounds(what, cluster_offset_of(target), bytes, 16, at);
    auto c = std::make_unique<copy_operation>();
    c->from = self().owner;
    c->to = &cluster_peer(what, cluster_rank_of(target), at);
    c->barrier = &tma_barrier(*c->to, what, cluster_offset_of(barrier), at);
    cluster_check_round(what, *c->to, *c->barrier, at);
    c->source = source;
    c->target = cluster_offset_of(target);
    c->bytes = bytes;
    c->round = c->barrier->rounds + 1;
    c->issuer = self().known;
    c->at = at;
    int number = mbarrier_number(*c->to, *c->barrier);
    copy_reads(what, source, bytes, *c->to, number, c->round, at);
    async_write(*c->to, what, c->target, bytes, *c->to, number, c->round, at);
    cluster_visit_barrier(*c->to, *c->barrier, c->round, at);
    c->to->loads++;
    start(std::move(c));
}

} // namespace sim
