#include <algorithm>
#include <string.h>

#include "sim/half.h"
#include "sim/machine.h"
#include "sim/operand.h"
#include "sim/ops.h"
#include "sim/shadow.h"
#include "sim/vector.h"

/*
 * Each lane brings its registers; the 32nd issues the warp's quarter of the instruction: operands
 * are judged then, the product is computed now or at the latest when a wait retires its group.
 * Between issue and wait an accumulator lives in a side tile and the kernel's array holds NaN.
 */
namespace sim
{

namespace
{

constexpr uint32_t GROUP_ROWS = 64;        /* of a warpgroup's A */
constexpr uint32_t IN_FLIGHT = 0x7fcbadad; /* a quiet NaN that no product gives */

float in_flight_value()
{
    float f;
    memcpy(&f, &IN_FLIGHT, 4);
    return f;
}

bool still_in_flight(const float *d, int count)
{
    uint32_t different = 0;
    for (int i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, &d[i], 4);
        different |= bits ^ IN_FLIGHT;
    }
    return different == 0;
}

/* Registers of lane t <-> rows t / 4 and t / 4 + 8 of the warp's 16. */
template <typename Move>
void each_register(int lane, int columns, Move move)
{
    int row = lane / 4, column = 2 * (lane % 4);
    for (int j = 0; j < columns / 8; j++) {
        int low = row * COLUMNS_MAX + 8 * j + column;
        int high = low + 8 * COLUMNS_MAX;
        move(4 * j, low);
        move(4 * j + 1, low + 1);
        move(4 * j + 2, high);
        move(4 * j + 3, high + 1);
    }
}

accumulator *find_accumulator(warp &w, const float *d, int lane)
{
    for (auto &a : w.accumulators) {
        if ((a->taken >> lane & 1) && !(a->given >> lane & 1) && a->at[lane] == d) {
            return a.get();
        }
    }
    return nullptr;
}

/* Fences name what a product will use, to the compiler as well: these were, and are as they were.
 */
bool as_fenced(const thread &t, const void *registers, size_t bytes)
{
    const uint8_t *at = static_cast<const uint8_t *>(registers);
    for (const fenced_registers &f : t.fenced) {
        if (at >= f.at && at + bytes <= f.at + f.copy.size()) {
            return memcmp(at, &f.copy[static_cast<size_t>(at - f.at)], bytes) == 0;
        }
    }
    return false;
}

/* The accumulator of this deposit: in flight already, or taken over from the lane's registers. */
void take(accumulator &a, float *d, int lane, where at)
{
    uint32_t bit = 1u << lane;
    if ((a.taken & bit) && !(a.given & bit)) {
        if (a.at[lane] != d) {
            fail_at(at, "the lanes of the warp disagree on which wgmma accumulator this is");
        }
        if (!still_in_flight(d, a.columns / 2)) {
            fail_at(at, "the accumulator was written while the wgmma issued at %s is in flight",
                    where_text(a.last));
        }
        return;
    }
    if (!as_fenced(self(), d, sizeof(float) * static_cast<size_t>(a.columns / 2))) {
        fail_at(at, "the accumulator of this wgmma is not as a wgmma_fence that names it saw it");
    }
    a.taken |= bit;
    a.given &= ~bit;
    a.at[lane] = d;
    each_register(lane, a.columns, [&](int r, int place) { a.tile[place] = d[r]; });
    std::fill(d, d + a.columns / 2, in_flight_value());
}

multiply &deposit_slot(thread &t, const multiply_call &call, where at)
{
    warp &w = *t.of;
    size_t i = t.multiply_next - w.multiplies_base;
    if (i < w.multiplies.size()) {
        return *w.multiplies[i];
    }
    auto m = std::make_unique<multiply>();
    m->d = find_accumulator(w, call.d, t.lane);
    if (m->d == nullptr) {
        w.accumulators.push_back(std::make_unique<accumulator>());
        m->d = w.accumulators.back().get();
        m->d->taken = m->d->given = 0;
        m->d->columns = call.columns;
    }
    m->a_descriptor = call.a_descriptor;
    m->b_descriptor = call.b_descriptor;
    m->a_in_registers = call.a_registers != nullptr;
    m->bf16 = call.bf16;
    m->a_mn = call.a_mn;
    m->b_mn = call.b_mn;
    m->add = call.add;
    m->columns = call.columns;
    m->deposits = 0;
    m->done = false;
    m->at = at;
    w.multiplies.push_back(std::move(m));
    return *w.multiplies.back();
}

void check_agreement(const multiply &m, const multiply_call &call, where at)
{
    if (m.at.line != at.line || m.columns != call.columns) {
        fail_at(at, "other lanes of the warp issue the wgmma at %s here: the warp has diverged",
                where_text(m.at));
    }
    if (m.a_descriptor != call.a_descriptor || m.b_descriptor != call.b_descriptor ||
        m.add != call.add) {
        fail_at(at, "the lanes of the warp give this wgmma different descriptors or predicates");
    }
}

/* ------------------------------------------------------------------ the product */

struct decoded {
    uint64_t descriptor, version;
    const block *of;
    int columns;
    bool mn, bf16;
    alignas(32) float b[MULTIPLY_STEP * COLUMNS_MAX];
};

/* Eight warps read the same B one after another: decode it once. Versions are unique over all
 * blocks, so an entry can not be taken for a neighbour's. */
const float *decode_b(block &b, const multiply &m, const operand &o)
{
    constexpr size_t ENTRIES = 32;
    static thread_local std::vector<decoded> cache(ENTRIES);
    size_t slot = static_cast<size_t>(m.b_descriptor ^ m.b_descriptor >> 7) % ENTRIES;
    decoded &e = cache[slot];
    operand_read r = {0, static_cast<uint32_t>(m.columns), m.bf16, 0, 0, m.at};
    if (e.of != &b || e.descriptor != m.b_descriptor || e.mn != m.b_mn || e.bf16 != m.bf16 ||
        e.columns != m.columns || e.version < operand_version(b, o, r)) {
        e.of = &b;
        e.descriptor = m.b_descriptor;
        e.mn = m.b_mn;
        e.bf16 = m.bf16;
        e.columns = m.columns;
        e.version = version_now();
        operand_decode(b, o, r, e.b, 1, COLUMNS_MAX);
    }
    return e.b;
}

void registers_to_a(const multiply &m, float *a)
{
    for (int lane = 0; lane < LANES; lane++) {
        for (int i = 0; i < 4; i++) {
            int row = lane / 4 + (i & 1) * 8, k = 2 * (lane % 4) + (i >> 1) * 8;
            uint32_t pair = m.a_registers[lane][i];
            a[row * MULTIPLY_STEP + k] = half_to_float(static_cast<uint16_t>(pair), m.bf16);
            a[row * MULTIPLY_STEP + k + 1] =
                half_to_float(static_cast<uint16_t>(pair >> 16), m.bf16);
        }
    }
}

operand_read a_rows(const warp &w, const multiply &m)
{
    return {static_cast<uint32_t>(w.index % 4 * 16), 16, m.bf16, w.index, m.group, m.at};
}

void compute(warp &w, multiply &m)
{
    alignas(32) float a[MULTIPLY_ROWS * MULTIPLY_STEP];
    block &b = *w.owner;
    if (m.a_in_registers) {
        registers_to_a(m, a);
    } else {
        operand o = decode_wgmma("A", m.a_descriptor, m.a_mn, m.at);
        operand_decode(b, o, a_rows(w, m), a, MULTIPLY_STEP, 1);
    }
    operand o = decode_wgmma("B", m.b_descriptor, m.b_mn, m.at);
    if (!m.add) {
        std::fill(m.d->tile, m.d->tile + MULTIPLY_ROWS * COLUMNS_MAX, 0.0f);
    }
    multiply_add(m.d->tile, a, decode_b(b, m, o), m.columns, COLUMNS_MAX);
    m.done = true;
    the_machine().on->multiplies++;
}

/* In order: results of the stream up to here. */
void compute_through(warp &w, uint32_t group)
{
    for (auto &m : w.multiplies) {
        if (m->group > group || m->deposits < LANES) {
            break;
        }
        if (!m->done) {
            compute(w, *m);
        }
    }
}

/* The last lane is there: judge the operands, then run now or later. */
void issue(warp &w, multiply &m)
{
    if (!m.a_in_registers) {
        /* The instruction belongs to the warpgroup: nothing promises that a warp's quarter reads
         * only its own 16 rows. */
        operand_read all = {0, GROUP_ROWS, m.bf16, w.index, m.group, m.at};
        operand_check(*w.owner, "wgmma A", decode_wgmma("A", m.a_descriptor, m.a_mn, m.at), all);
    }
    operand_read r = {0, static_cast<uint32_t>(m.columns), m.bf16, w.index, m.group, m.at};
    operand_check(*w.owner, "wgmma B", decode_wgmma("B", m.b_descriptor, m.b_mn, m.at), r);
    w.multiplies_issued++;
    if (static_cast<int>(random_below(100)) < the_machine().eagerness) {
        compute_through(w, m.group);
    }
    for (thread *t : w.lanes) {
        if (t->waits_for != nullptr && strcmp(t->waits_for, "the other lanes' wgmma") == 0) {
            wake(t);
        }
    }
}

/* ------------------------------------------------------------------ the wait */

bool covered(const register_array *arrays, int count, const void *p, size_t bytes)
{
    const char *first = static_cast<const char *>(p);
    for (int i = 0; i < count; i++) {
        const char *base = static_cast<const char *>(arrays[i].at);
        if (first >= base && first + bytes <= base + arrays[i].bytes) {
            return true;
        }
    }
    return false;
}

void give(thread &t, accumulator &a, const register_array *arrays, int count, where at)
{
    float *d = a.at[t.lane];
    size_t bytes = static_cast<size_t>(a.columns) / 2 * sizeof(float);
    if (!covered(arrays, count, d, bytes)) {
        fail_at(at,
                "this wgmma_wait retires the accumulator of the wgmma issued at %s, which is not "
                "among its arguments: the compiler may use its registers too early",
                where_text(a.last));
    }
    if (!still_in_flight(d, a.columns / 2)) {
        fail_at(at, "the accumulator was written while the wgmma issued at %s was in flight",
                where_text(a.last));
    }
    each_register(t.lane, a.columns, [&](int r, int place) { d[r] = a.tile[place]; });
    a.given |= 1u << t.lane;
}

/* A fragments that are passed to the wait must be as they were at the issue. */
void check_a(const thread &t, const multiply &m, const register_array *arrays, int count, where at)
{
    if (m.a_in_registers && covered(arrays, count, m.a_at[t.lane], 16) &&
        memcmp(m.a_at[t.lane], m.a_registers[t.lane], 16) != 0) {
        fail_at(at, "the A registers of the wgmma issued at %s were changed before this wait",
                where_text(m.at));
    }
}

/* Entries that no lane needs any more. */
void forget_retired(warp &w)
{
    uint32_t retired = UINT32_MAX;
    for (const thread *t : w.lanes) {
        retired = std::min(retired, own(*t).multiply[w.index]);
    }
    size_t drop = 0;
    while (drop < w.multiplies.size() && w.multiplies[drop]->done &&
           w.multiplies[drop]->group <= retired) {
        drop++;
    }
    w.multiplies.erase(w.multiplies.begin(), w.multiplies.begin() + static_cast<long>(drop));
    w.multiplies_base += drop;
    w.accumulators.erase(std::remove_if(w.accumulators.begin(), w.accumulators.end(),
                                        [](const std::unique_ptr<accumulator> &a) {
                                            return a->given == 0xffffffffu;
                                        }),
                         w.accumulators.end());
}

} // namespace

void wgmma_fence(const register_array *arrays, int count)
{
    thread &t = self();
    if (dropped("wgmma_fence", t.multiply_at)) {
        return;
    }
    warp_trace("wgmma_fence", t.multiply_at);
    t.multiply_fenced = true;
    for (int i = 0; i < count; i++) {
        const uint8_t *from = static_cast<const uint8_t *>(arrays[i].at);
        auto known = std::find_if(t.fenced.begin(), t.fenced.end(),
                                  [from](const fenced_registers &f) { return f.at == from; });
        if (known == t.fenced.end()) {
            known = t.fenced.insert(known, {from, {}});
        }
        known->copy.assign(from, from + arrays[i].bytes);
    }
}

void wgmma_issue(const multiply_call &call, where at)
{
    thread &t = self();
    warp &w = *t.of;
    t.multiply_at = at;
    warp_trace("wgmma", at);
    if (!t.multiply_fenced) {
        fail_at(at, "wgmma without a wgmma_fence since the last wait: registers that ordinary code "
                    "touched may not be seen");
    }
    multiply &m = deposit_slot(t, call, at);
    check_agreement(m, call, at);
    t.multiply_next++;
    m.group = t.multiply_groups + 1;
    m.d->last_group = m.group;
    m.d->last = at;
    take(*m.d, call.d, t.lane, at);
    if (call.a_registers != nullptr) {
        if (!as_fenced(t, call.a_registers, 16)) {
            fail_at(at,
                    "the A registers of this wgmma are not as a wgmma_fence that names them saw "
                    "them");
        }
        m.a_at[t.lane] = call.a_registers;
        memcpy(m.a_registers[t.lane], call.a_registers, 16);
    }
    if (++m.deposits == LANES) {
        issue(w, m);
    }
}

void wgmma_commit(where at)
{
    if (dropped("wgmma_commit", at)) {
        return;
    }
    thread &t = self();
    t.multiply_at = at;
    warp_trace("wgmma_commit", at);
    t.multiply_groups++;
}

void wgmma_wait(int pending, const register_array *arrays, int count)
{
    thread &t = self();
    warp &w = *t.of;
    where at = t.multiply_at; /* a variadic wrapper has no room for its own line */
    if (dropped("wgmma_wait", at)) {
        return;
    }
    warp_trace("wgmma_wait", at);
    t.multiply_fenced = false;
    uint32_t groups = t.multiply_groups;
    if (groups <= static_cast<uint32_t>(pending)) {
        return;
    }
    uint32_t retired = groups - static_cast<uint32_t>(pending);
    for (size_t i = 0; i < w.multiplies.size();) { /* wait for lanes that are behind */
        multiply &m = *w.multiplies[i];
        if (m.group <= retired && m.deposits < LANES && m.deposits > 0) {
            sleep_until_woken("the other lanes' wgmma", at);
            i = 0;
            continue;
        }
        i++;
    }
    compute_through(w, retired);
    own(t).multiply[w.index] = std::max(own(t).multiply[w.index], retired);
    for (auto &m : w.multiplies) {
        if (m->group <= retired) {
            check_a(t, *m, arrays, count, at);
        }
    }
    for (auto &a : w.accumulators) {
        bool mine = (a->taken >> t.lane & 1) && !(a->given >> t.lane & 1);
        if (mine && a->last_group <= retired) {
            give(t, *a, arrays, count, at);
        }
    }
    forget_retired(w);
}

} // namespace sim
