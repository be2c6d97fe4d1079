#include "sim/machine.h"

#include <algorithm>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "sim/ops.h"
#include "sim/report.h"
#include "sim/shadow.h"

namespace sim
{

namespace
{

thread_local machine *current = nullptr;

uint64_t mix(uint64_t x)
{
    x ^= x >> 30;
    x *= 0xbf58476d1ce4e5b9u;
    x ^= x >> 27;
    x *= 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

void queue(thread *t)
{
    warp *w = t->of;
    w->ready |= 1u << t->lane;
    if (!w->queued) {
        w->queued = true;
        current->ready.push_back(w);
    }
}

void to_scheduler(fiber *from)
{
    fiber_switch(from, &current->scheduler);
}

void thread_main(void *argument)
{
    thread *t = static_cast<thread *>(argument);
    (*current->body)();
    thread_exit(*t);
    t->done = true;
    if (--t->of->live == 0) {
        cluster_warp_exit(*t->of);
    }
    if (--t->owner->live == 0) {
        block_exit(*t->owner);
    }
    to_scheduler(&t->context);
}

/* Operations run on their own stack, so that fail() can abandon them like any thread. */
void engine_main(void *)
{
    for (;;) {
        current->step_result = current->stepping->step();
        to_scheduler(&current->engine);
    }
}

/* One part of a random operation. */
void progress(machine &m)
{
    size_t i = random_below(static_cast<uint32_t>(m.operations.size()));
    m.stepping = m.operations[i].get();
    m.in_engine = true;
    fiber_switch(&m.scheduler, &m.engine);
    m.in_engine = false;
    if (m.error.empty() && m.step_result) {
        std::swap(m.operations[i], m.operations.back());
        m.operations.pop_back();
    }
}

void run_warp(machine &m, warp *w)
{
    uint32_t lanes = w->ready;
    w->ready = 0;
    w->queued = false;
    if (m.lag > 0 && random_below(8) == 0) { /* some lanes fall far behind */
        uint32_t behind = static_cast<uint32_t>(random_bits()) & lanes;
        behind = behind == lanes ? 0 : behind;
        lanes &= ~behind;
        for (uint32_t rest = behind; rest != 0; rest &= rest - 1) {
            m.late.push_back(w->lanes[__builtin_ctz(rest)]);
        }
    }
    int first = static_cast<int>(random_below(LANES));
    for (int i = 0; i < LANES && m.error.empty(); i++) {
        int lane = (first + i) % LANES;
        if ((lanes >> lane & 1) == 0) {
            continue;
        }
        m.running = w->lanes[lane];
        m.on->switches++;
        fiber_switch(&m.scheduler, &m.running->context);
    }
    m.running = nullptr;
}

/* Lanes that fell behind go on: seldom while others can, at last when nobody else does. */
void release_late(machine &m)
{
    for (thread *t : m.late) {
        queue(t);
    }
    m.late.clear();
}

void open_block(machine &m, int index, const std::shared_ptr<cluster> &in)
{
    std::unique_ptr<block> b;
    if (!m.on->spare.empty()) {
        b = std::move(m.on->spare.back());
        m.on->spare.pop_back();
    } else {
        b = std::make_unique<block>();
    }
    block_reset(*b, m, index, in);
    for (auto &t : b->threads) {
        fiber_open(&t->context, thread_main, t.get());
        queue(t.get());
    }
    m.blocks.push_back(std::move(b));
}

void close_block(machine &m, std::unique_ptr<block> b)
{
    for (auto &t : b->threads) {
        fiber_close(&t->context);
    }
    b->in.reset();
    m.on->spare.push_back(std::move(b));
}

bool has_ended(const cluster &c)
{
    return std::all_of(c.blocks.begin(), c.blocks.end(),
                       [](const block *b) { return b->live == 0; });
}

/* Clusters that ended make room for the next ones; one at least runs. */
void turn_over(machine &m, int *next, int total)
{
    auto still =
        std::stable_partition(m.blocks.begin(), m.blocks.end(),
                              [](const std::unique_ptr<block> &b) { return !has_ended(*b->in); });
    std::vector<std::unique_ptr<block>> ended(std::make_move_iterator(still),
                                              std::make_move_iterator(m.blocks.end()));
    m.blocks.erase(still, m.blocks.end());
    for (auto &b : ended) {
        close_block(m, std::move(b));
    }
    int size = m.shape.cluster;
    while (*next < total &&
           (m.blocks.empty() || static_cast<int>(m.blocks.size()) + size <= m.on->resident)) {
        auto in = std::make_shared<cluster>();
        in->index = *next / size;
        for (int i = 0; i < size; i++) {
            open_block(m, (*next)++, in);
        }
    }
}

void run_grid(machine &m)
{
    int next = 0;
    int total = m.shape.grid[0] * m.shape.grid[1] * m.shape.grid[2];
    turn_over(m, &next, total);
    while (m.error.empty() && !(m.blocks.empty() && m.operations.empty())) {
        if (!m.late.empty() && random_below(m.lag) == 0) {
            release_late(m);
        }
        if (!m.ready.empty()) {
            size_t i = random_below(static_cast<uint32_t>(m.ready.size()));
            warp *w = m.ready[i];
            m.ready[i] = m.ready.back();
            m.ready.pop_back();
            run_warp(m, w);
            if (w->owner->live == 0 && m.error.empty()) {
                turn_over(m, &next, total);
            }
            while (m.error.empty() && !m.operations.empty() &&
                   static_cast<int>(random_below(100)) < m.eagerness) {
                progress(m);
            }
        } else if (!m.operations.empty()) {
            progress(m);
        } else if (!m.late.empty()) {
            release_late(m);
        } else {
            m.error = report_deadlock(m);
        }
    }
}

} // namespace

machine &the_machine()
{
    return *current;
}

thread &self()
{
    return *current->running;
}

bool inside_kernel()
{
    return current != nullptr && current->running != nullptr;
}

uint64_t random_bits()
{
    current->random_state += 0x9e3779b97f4a7c15u;
    return mix(current->random_state);
}

uint32_t random_below(uint32_t bound)
{
    return static_cast<uint32_t>((random_bits() >> 32) * bound >> 32);
}

void sleep_until_woken(const char *waits_for, where at, uint32_t address, uint32_t value)
{
    thread &t = self();
    t.waits_for = waits_for;
    t.waits_at = at;
    t.wait_address = address;
    t.wait_value = value;
    t.asleep = true;
    to_scheduler(&t.context);
    t.waits_for = nullptr;
}

void wake(thread *t)
{
    if (t->asleep) { /* else it was woken already and has not run since */
        t->asleep = false;
        queue(t);
    }
}

void yield()
{
    thread &t = self();
    queue(&t);
    to_scheduler(&t.context);
}

void start(std::unique_ptr<pending> operation)
{
    const machine &m = *current;
    operation->waited = m.in_engine ? m.stepping->waited : m.running->waited;
    current->operations.push_back(std::move(operation));
}

bool dropped(const char *name, where at)
{
    device &d = *current->on;
    auto same = [&](const step &s) {
        return s.at.line == at.line && strcmp(s.name, name) == 0 && strcmp(s.at.file, at.file) == 0;
    };
    if (d.record && std::none_of(d.recorded.begin(), d.recorded.end(), same)) {
        d.recorded.push_back({name, at});
    }
    return d.dropped.at.line == at.line && same(d.dropped);
}

std::string name_of(const thread &t)
{
    char text[64];
    snprintf(text, sizeof text, "block %d warp %d lane %d", t.owner->index, t.of->index, t.lane);
    return text;
}

namespace
{

void fail_text(const std::string &who, const char *format, va_list arguments)
{
    char text[1500];
    vsnprintf(text, sizeof text, format, arguments);
    if (current->error.empty()) {
        current->error = who + text;
    }
    to_scheduler(current->in_engine ? &current->engine : &self().context);
}

} // namespace

void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fail_text("", format, arguments);
    va_end(arguments);
}

void fail_at(where at, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fail_text(name_of(self()) + " at " + where_text(at) + ": ", format, arguments);
    va_end(arguments);
}

device::device() = default;
device::~device() = default;

void device_add(device *d, const char *name, const void *base, size_t bytes, usage use)
{
    d->buffers.push_back({name, reinterpret_cast<uintptr_t>(base), bytes, use,
                          std::vector<uint8_t>(use == usage::output ? (bytes + 3) / 4 : 0),
                          std::vector<uint64_t>(bytes / 4 + 2),
                          std::vector<global_tag>(use == usage::ordered ? bytes / 16 + 2 : 0)});
}

int64_t device_unwritten(const device *d, const void *base)
{
    for (const buffer &b : d->buffers) {
        if (b.base == reinterpret_cast<uintptr_t>(base)) {
            auto gap = std::find(b.writes.begin(), b.writes.end(), 0);
            return gap == b.writes.end() ? -1 : 4 * (gap - b.writes.begin());
        }
    }
    return 0;
}

bool device_run(device *d, const launch_shape &shape, const std::function<void()> &body)
{
    if (shape.threads < 1 || shape.threads > WARPS_MAX * LANES || shape.threads % LANES != 0) {
        d->error = "a block has 32 to 512 threads, whole warps";
        return false;
    }
    int cluster = shape.cluster > 1 ? shape.cluster : 1;
    if (cluster > CLUSTER_MAX || shape.grid[0] % cluster != 0) {
        d->error = "a cluster has at most 4 blocks, and x of the grid is a multiple of it";
        return false;
    }
    if (shape.smem_bytes > SMEM_MAX) {
        d->error = "a block has at most 227 KiB of shared memory";
        return false;
    }
    static const int EAGERNESS[] = {0, 10, 50, 95}; /* the lazy one finds nearly everything */
    static const uint32_t LAGS[] = {0, 50, 2000, 1u << 30}; /* none, short, long, to the end */
    d->launches++;
    d->ahead = shape.overlaps ? d->ahead : d->launches;
    d->overlapping += shape.overlaps ? 1 : 0;
    clock_use(cluster);
    machine m = {};
    m.on = d;
    m.shape = shape;
    m.shape.cluster = cluster;
    m.body = &body;
    m.random_state = mix(d->seed);
    m.version = 1;
    current = &m;
    m.eagerness = EAGERNESS[random_below(4)];
    m.lag = LAGS[random_below(4)];
    fiber_open(&m.engine, engine_main, nullptr);
    run_grid(m);
    if (m.error.empty() && shape.overlaps && !m.waited) {
        m.error = "no thread of a launch that overlaps the one ahead has called "
                  "grid_wait_previous: what comes after it does not wait for that one either";
    }
    fiber_close(&m.engine);
    for (auto &b : m.blocks) {
        close_block(m, std::move(b));
    }
    current = nullptr;
    d->error = m.error;
    return m.error.empty();
}

} // namespace sim
