#include "tests/sim/backward.h"

#include <check.h>

#include "kernels/plan.h"

namespace
{

constexpr size_t PLAN_BYTES = 1 << 20;

void add_tensor(void *device, void *memory, size_t bytes, int written)
{
    sim::device_add(static_cast<sim::device *>(device), "a tensor", memory, bytes,
                    written ? sim::usage::output : sim::usage::input);
}

void add_bits(void *bits, void *memory, size_t bytes, int written)
{
    uint64_t &hash = *static_cast<uint64_t *>(bits);
    const unsigned char *at = static_cast<const unsigned char *>(memory);
    for (size_t i = 0; written && i < bytes; i++) {
        hash = (hash ^ at[i]) * 0x100000001b3u;
    }
}

problem *prepare(const backward_case &c, uint64_t seed, sim::device *device)
{
    problem *p = problem_open(&c.shape, c.items.data(), static_cast<int>(c.items.size()));
    sim::processors = c.kind->processors;
    device->seed = seed;
    device->resident = c.resident;
    problem_visit(p, add_tensor, device);
    p->parts = static_cast<int>(seed % 4);
    p->rounding = c.shape.dtype == ATTN_BF16 ? 0x1p-8 : 0x1p-11;
    return p;
}

/* Sums that begin with zero and are added to in any order are not watched. */
bool adds_in_order(const backward_case &c, const attn_launch &launch)
{
    bool is_short = c.kind->ordered_keys > 0 && c.shape.softcap == 0.0f;
    for (int32_t i = 0; i < launch.sequence_count; i++) {
        is_short = is_short && launch.sequences[i].k_len <= c.kind->ordered_keys;
    }
    return c.shape.deterministic || is_short;
}

/* The sums of dQ come first in scratch; where the kernel's d is more than needed only some of them
 * are watched. */
void add_scratch(const backward_case &c, const attn_launch &launch, sim::device *device)
{
    uint8_t *scratch = static_cast<uint8_t *>(launch.scratch);
    size_t sums = 0;
    if (adds_in_order(c, launch) && c.kind->q_block > 0) {
        plan_shape shape = {};
        shape.pass = ATTN_BACKWARD;
        shape.q_block = c.kind->q_block;
        int64_t stripes = plan_stripe_count(&shape, launch.sequences, launch.sequence_count);
        sums = static_cast<size_t>(stripes * c.shape.hq * c.kind->q_block) *
               static_cast<size_t>((c.shape.d + 63) / 64 * 64) * sizeof(float);
        ck_assert_uint_le(sums, launch.scratch_bytes);
        sim::device_add(device, "sums of dQ", scratch, sums, sim::usage::ordered);
    }
    sim::device_add(device, "scratch", scratch + sums, launch.scratch_bytes - sums,
                    sim::usage::scratch);
}

/* problem_run_row calls a plain function: what it is to launch, and where errors are read. */
struct {
    const backward_case *of;
    sim::device *on;
} running;

attn_status launch_running(attn_context *context, const attn_launch *launch)
{
    if (launch->part == 0) {
        add_scratch(*running.of, *launch, running.on);
    }
    attn_status status = running.of->row->launch(context, launch);
    ck_assert_msg(running.on->error.empty(), "%s, seed %lu: %s", running.of->name.c_str(),
                  static_cast<unsigned long>(running.on->seed), running.on->error.c_str());
    return status;
}

} // namespace

const std::vector<item> backward_few = {{0, 300, 380, 0, 0, 1},
                                        {0, 0, 128, 0, 0, 2},
                                        {1, 130, 0, 0, 70, 3},
                                        {1, 129, 290, 150, 0, 4},
                                        {1, 60, 260, 0, 0, 5}};

attn_shape backward_shape(attn_dtype dtype, int hq, int hkv, int d, int dv)
{
    attn_shape shape = shape_of(dtype, hq, hkv, d, dv);
    shape.pass = ATTN_BACKWARD;
    return shape;
}

backward_case backward_case_of(const backward_kind &kind, const std::string &name,
                               const attn_shape &shape, const std::vector<item> &items)
{
    for (size_t i = 0; i < kind.count; i++) {
        const attn_row &row = kind.rows[i];
        bool fits = row.pass == shape.pass && shape.d <= row.d_max && shape.dv <= row.dv_max;
        if (fits && (row.refuse == nullptr || row.refuse(&shape) == nullptr)) {
            return {row.name + (" " + name), &kind, &row, shape, items, kind.processors};
        }
    }
    ck_abort_msg("no row for %s", name.c_str());
}

std::vector<backward_case> backward_hazards(const backward_kind &kind, int d, int dv,
                                            const std::vector<item> &items)
{
    const struct {
        const char *name;
        attn_mask mask;
        bool deterministic;
    } hazards[] = {{"full in any order", {false, false, 0, 0}, false},
                   {"causal in any order", {false, true, 0, 0}, false},
                   {"full deterministic", {false, false, 0, 0}, true},
                   {"causal deterministic", {false, true, 0, 0}, true},
                   {"window deterministic", {true, false, 40, 0}, true}};
    std::vector<backward_case> cases;
    for (const auto &hazard : hazards) {
        attn_shape shape = backward_shape(ATTN_BF16, 2, 1, d, dv);
        shape.mask = hazard.mask;
        shape.deterministic = hazard.deterministic;
        cases.push_back(backward_case_of(kind, hazard.name, shape, items));
    }
    return cases;
}

backward_case backward_under(const backward_case &c, uint64_t seed)
{
    const attn_shape &shape = c.shape;
    bool cyclic =
        c.kind->cyclic && shape.deterministic && !shape.mask.has_left && !shape.mask.has_right;
    backward_case now = c;
    if (!cyclic) {
        int clusters = c.kind->processors / c.kind->cluster;
        now.resident = c.kind->cluster * (1 + static_cast<int>(seed) % clusters);
    }
    return now;
}

backward_outcome backward_run(const backward_case &c, uint64_t seed,
                              const std::function<void(sim::device &)> &setup)
{
    sim::device device;
    attn_context *context = attn_cuda_open(&device, PLAN_BYTES);
    problem *p = prepare(c, seed, &device);
    setup(device);
    attn_launch launch = {};
    launch.shape = p->shape;
    launch.sets = p->sets;
    launch.sequences = p->sequences;
    launch.set_count = p->set_count;
    launch.sequence_count = p->count;
    launch.scratch_bytes = c.row->scratch_bytes(&launch);
    launch.scratch = sim::memory_take(launch.scratch_bytes);
    add_scratch(c, launch, &device);
    attn_status status = c.row->launch(context, &launch);
    backward_outcome outcome = {device.error, 0, device.recorded, device.multiplies};
    if (status != ATTN_OK && outcome.error.empty()) {
        outcome.error = "the launch was refused";
    }
    problem_visit(p, add_bits, &outcome.bits);
    sim::memory_give(launch.scratch);
    problem_close(p);
    attn_cuda_close(context);
    return outcome;
}

uint64_t backward_check(const backward_case &c, uint64_t seed)
{
    sim::device device;
    attn_context *context = attn_cuda_open(&device, PLAN_BYTES);
    problem *p = prepare(c, seed, &device);
    running = {&c, &device};
    attn_row row = *c.row;
    row.launch = launch_running;
    problem_run_row(p, &row, context);
    problem_check(p);
    uint64_t bits = 0;
    problem_visit(p, add_bits, &bits);
    problem_close(p);
    attn_cuda_close(context);
    return bits;
}

void backward_check_schedules(const backward_case &c, uint64_t seeds)
{
    backward_check(c, 1);
    uint64_t first = backward_run(c, 1, [](sim::device &) {}).bits;
    for (uint64_t seed = 2; seed <= seeds; seed++) {
        backward_case now = backward_under(c, seed);
        if (!c.shape.deterministic) {
            backward_check(now, seed);
            continue;
        }
        backward_outcome o = backward_run(now, seed, [](sim::device &) {});
        ck_assert_msg(o.error.empty(), "%s, seed %lu: %s", c.name.c_str(),
                      static_cast<unsigned long>(seed), o.error.c_str());
        ck_assert_msg(o.bits == first, "%s: seed %lu gives other bits than seed 1", c.name.c_str(),
                      static_cast<unsigned long>(seed));
    }
}
