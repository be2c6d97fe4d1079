#include <string.h>

#include "sim/machine.h"
#include "sim/ops.h"
#include "sim/report.h"
#include "sim/shadow.h"

namespace sim
{

namespace
{

constexpr uint32_t ARRIVALS_MAX = (1u << 20) - 1;

/* The round is over: waiters know what all who arrived knew, and that its TMA data is there. */
void complete_round(block &b, mbarrier &m)
{
    m.rounds++;
    m.pending = m.arrivals;
    m.gathering.of[b.rank].barrier[mbarrier_number(b, m)] = m.rounds;
    m.complete = m.gathering;
    m.gathering = {};
    for (thread *t : m.waiting) {
        wake(t);
    }
    m.waiting.clear();
}

void settle(block &b, mbarrier &m)
{
    if (m.pending == 0 && m.missing_bytes == 0) {
        complete_round(b, m);
    }
}

} // namespace

int mbarrier_number(const block &b, const mbarrier &m)
{
    for (size_t i = 0; i < b.mbarriers.size(); i++) {
        if (b.mbarriers[i].get() == &m) {
            return static_cast<int>(i);
        }
    }
    return 0;
}

mbarrier &mbarrier_of(block &b, const char *what, uint32_t address, where at)
{
    thread &t = self();
    for (auto &m : b.mbarriers) {
        if (m->address != address) {
            continue;
        }
        bool mine = &b == t.owner && m->writer.agent == AGENT_GENERIC + t.of->index &&
                    m->writer.lane == t.lane;
        if (!mine && !t.known.of[b.rank].generic.covers(m->writer.agent - AGENT_GENERIC,
                                                        m->writer.stamp, 1u << m->writer.lane)) {
            fail_at(at,
                    "%s uses the mbarrier at 0x%x of block %d, but nothing it waited for says that "
                    "its init at %s is done (after the inits: block_sync, or cluster_arrive and "
                    "cluster_wait)",
                    what, address, b.index, where_text(where_of(m->writer.place)));
        }
        if (&b != t.owner && !m->visible) {
            fail_at(at,
                    "%s uses the mbarrier at 0x%x of block %d: the thread that made it at %s did "
                    "not run mbarrier_init_fence",
                    what, address, b.index, where_text(where_of(m->writer.place)));
        }
        return *m;
    }
    fail_at(at, "%s: there is no mbarrier at shared 0x%x of block %d", what, address, b.index);
    return *b.mbarriers[0]; /* not reached */
}

mbarrier &mbarrier_at(const char *what, uint32_t address, where at)
{
    return mbarrier_of(*self().owner, what, address, at);
}

void mbarrier_open(uint32_t address, uint32_t arrivals, where at)
{
    thread &t = self();
    block &b = *t.owner;
    smem_in_bounds("mbarrier_init", address, 8, 8, at);
    for (const auto &m : b.mbarriers) {
        if (m->address == address) {
            fail_at(at, "mbarrier_init of shared 0x%x, which is an mbarrier since %s", address,
                    where_text(where_of(m->writer.place)));
        }
    }
    if (arrivals < 1 || arrivals > ARRIVALS_MAX) {
        fail_at(at, "mbarrier_init with %u arrivals", arrivals);
    }
    if (b.mbarriers.size() >= BARRIERS_MAX) {
        fail_at(at, "more than %d mbarriers in a block: raise BARRIERS_MAX", BARRIERS_MAX);
    }
    generic_write(b, "mbarrier_init", address, 8, at);
    auto m = std::make_unique<mbarrier>();
    m->address = address;
    m->arrivals = m->pending = arrivals;
    m->missing_bytes = 0;
    m->rounds = 0;
    m->visible = false;
    m->writer = {t.of->now, static_cast<uint8_t>(AGENT_GENERIC + t.of->index),
                 static_cast<uint8_t>(t.lane), static_cast<uint8_t>(b.rank), where_number(at)};
    m->arrived_at = {nullptr, 0};
    b.mbarriers.push_back(std::move(m));
    reserve(address, at);
}

void mbarrier_fence(where at)
{
    if (dropped("mbarrier_init_fence", at)) {
        return;
    }
    (void)at;
    thread &t = self();
    for (auto &m : t.owner->mbarriers) {
        if (m->writer.agent == AGENT_GENERIC + t.of->index && m->writer.lane == t.lane) {
            m->visible = true;
        }
    }
}

void mbarrier_arrive(uint32_t address, uint32_t expected_bytes, where at)
{
    if (!dropped("mbarrier_arrive", at)) {
        mbarrier_arrive_at(*self().owner, "mbarrier_arrive", address, expected_bytes, at);
    }
}

void mbarrier_arrive_at(block &b, const char *what, uint32_t address, uint32_t expected_bytes,
                        where at)
{
    thread &t = self();
    mbarrier &m = mbarrier_of(b, what, address, at);
    if (m.pending == 0) {
        fail_at(at,
                "one arrival too many on the mbarrier at 0x%x: round %u has all %u and waits for "
                "%lld bytes",
                address, m.rounds + 1, m.arrivals, static_cast<long long>(m.missing_bytes));
    }
    m.missing_bytes += expected_bytes;
    m.pending--;
    m.arrived_at = at;
    publish(t, &m.gathering);
    settle(b, m);
}

void mbarrier_arrive_from(block &b, mbarrier &m, const clock &issuer, where at)
{
    if (m.pending == 0) {
        fail(
            "the tcgen05_commit at %s arrives once too often on the mbarrier at 0x%x: round %u has "
            "all %u",
            where_text(at), m.address, m.rounds + 1, m.arrivals);
    }
    m.pending--;
    m.arrived_at = at;
    clock_join(&m.gathering, issuer);
    settle(b, m);
}

void mbarrier_bytes(block &b, mbarrier &m, uint32_t bytes, uint32_t round, const clock &issuer,
                    where at)
{
    if (m.rounds + 1 != round) {
        fail(
            "the copy issued at %s brings %u bytes for round %u of the mbarrier at 0x%x, which has "
            "completed already: the round expected too few bytes",
            where_text(at), bytes, round, m.address);
    }
    m.missing_bytes -= bytes;
    clock_join(&m.gathering, issuer);
    settle(b, m);
}

namespace
{

/* Hardware sees the low bit of the round only: refuse what would be taken for another round. */
void check_alias(const mbarrier &m, uint32_t rounds, where at)
{
    if (rounds + 1 < m.rounds + 1) {
        fail_at(at,
                "waits for round %u of the mbarrier at 0x%x, but %u are complete: hardware takes "
                "the parity for round %u and waits on",
                rounds, m.address, m.rounds, m.rounds + 1);
    }
    if (rounds > m.rounds + 1) {
        fail_at(at,
                "waits for round %u of the mbarrier at 0x%x, but only %u are complete: hardware "
                "takes the parity for round %u and passes at once",
                rounds, m.address, m.rounds, m.rounds);
    }
}

} // namespace

namespace
{

/*
 * A wait of the block's own scope sees what copies and commits report and what its own threads did;
 * what threads of other blocks stored or loaded it sees only with the cluster's scope.
 */
void learn(thread &t, const mbarrier &m, bool of_cluster)
{
    t.tensor_fenced = false;
    if (of_cluster || t.owner->in->blocks.size() == 1) {
        clock_join(&t.known, m.complete);
        return;
    }
    clock seen = m.complete;
    for (size_t rank = 0; rank < t.owner->in->blocks.size(); rank++) {
        if (static_cast<int>(rank) != t.owner->rank) {
            seen.of[rank].generic = {};
            seen.of[rank].fenced = {};
        }
    }
    clock_join(&t.known, seen);
}

void wait_for(const char *what, uint32_t address, uint32_t rounds, bool of_cluster, where at)
{
    if (dropped(what, at)) {
        return;
    }
    thread &t = self();
    mbarrier &m = mbarrier_at(what, address, at);
    check_alias(m, rounds, at);
    while (m.rounds != rounds) {
        m.waiting.push_back(&t);
        sleep_until_woken("the mbarrier at", at, address, rounds);
        check_alias(m, rounds, at);
    }
    t.wait_address = 0;
    learn(t, m, of_cluster);
}

} // namespace

bool mbarrier_try(uint32_t address, uint32_t rounds, where at)
{
    mbarrier &m = mbarrier_at("mbarrier_test", address, at);
    check_alias(m, rounds, at);
    if (m.rounds != rounds || random_below(4) == 0) {
        yield(); /* a caller may ask again and again */
        return false;
    }
    learn(self(), m, false);
    return true;
}

void mbarrier_wait(uint32_t address, uint32_t rounds, where at)
{
    wait_for("mbarrier_wait", address, rounds, false, at);
}

void mbarrier_wait_cluster(uint32_t address, uint32_t rounds, where at)
{
    wait_for("mbarrier_wait_cluster", address, rounds, true, at);
}

} // namespace sim
