#include "tests/sim/attention.h"

#include <check.h>
#include <math.h>

#include "kernels/sm100/rows.h"
#include "kernels/sm90/rows.h"

const std::vector<attention_row> attention_rows_sm90 = {
    {"sm90_fwd_64", sm90_fwd_64, 64, 64},     {"sm90_fwd_96", sm90_fwd_96, 96, 96},
    {"sm90_fwd_128", sm90_fwd_128, 128, 128}, {"sm90_fwd_192", sm90_fwd_192, 192, 128},
    {"sm90_fwd_256", sm90_fwd_256, 256, 256},
};

const std::vector<attention_row> attention_rows_sm100 = {
    {"sm100_fwd_64", sm100_fwd_64, 64, 64},
    {"sm100_fwd_128", sm100_fwd_128, 128, 128},
    {"sm100_fwd_192", sm100_fwd_192, 192, 128},
    {"sm100_fwd_256", sm100_fwd_256, 256, 256},
};

const std::vector<item> attention_ragged = {
    {0, 0, 37, 5, 0, 1},  {0, 129, 200, 0, 210, 2}, {1, 70, 21, 80, 0, 3}, {2, 1, 600, 0, 0, 4},
    {1, 0, 0, 0, 0, 5},   {2, 33, 0, 0, 9, 6},      {0, 1, 1, 0, 0, 7},    {2, 257, 130, 0, 0, 8},
    {0, 63, 64, 0, 0, 9}, {0, 65, 385, 0, 0, 10},
};

const std::vector<item> attention_few = {
    {0, 400, 700, 0, 0, 1},
    {1, 140, 333, 150, 0, 2},
    {0, 0, 5, 3, 0, 3},
};

const std::vector<attn_mask> attention_masks = {
    {false, false, 0, 0}, {false, true, 0, 0},  {true, true, 17, 0},
    {true, true, 0, 5},   {true, false, 40, 0},
};

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

void prepare(sim::device *device, problem *p, const attn_shape &shape, uint64_t seed)
{
    device->seed = seed;
    device->resident = 1 + static_cast<int>(seed % sim::PROCESSORS);
    problem_visit(p, add_tensor, device);
    p->parts = static_cast<int>(seed / 5 % 4); /* apart from `resident` */
    p->rounding = shape.dtype == ATTN_BF16 ? 0x1p-8 : 0x1p-11;
}

size_t no_scratch(const attn_launch *)
{
    return 0;
}

/* problem_run_row calls a plain function: what it is to launch, and where errors are read. */
struct {
    const attention_case *of;
    const sim::device *on;
    uint64_t seed;
} running;

attn_status launch_running(attn_context *context, const attn_launch *launch)
{
    attn_status status = running.of->row->launch(context, launch);
    ck_assert_msg(running.on->error.empty(), "%s, seed %lu: %s", running.of->name.c_str(),
                  static_cast<unsigned long>(running.seed), running.on->error.c_str());
    return status;
}

attn_status launch(const attention_case &c, const problem &p, attn_context *context)
{
    attn_launch launch = {};
    launch.shape = p.shape;
    launch.sets = p.sets;
    launch.sequences = p.sequences;
    launch.set_count = p.set_count;
    launch.sequence_count = p.count;
    return c.row->launch(context, &launch);
}

void lose_key(problem *p, const attn_sequence &s, int key)
{
    for (int head = 0; head < p->shape.hkv; head++) {
        set_element(p->shape.dtype, &p->sets[s.set].k, s.k_first + key, head, 0, NAN);
    }
}

void check_lost(const attention_case &c, const problem &p, const attn_sequence &s, int key)
{
    const attn_set &set = p.sets[s.set];
    for (int head = 0; head < p.shape.hq; head++) {
        for (int i = 0; i < s.q_len; i++) {
            bool lost = !p.shape.mask.has_right || key <= i + s.k_len - s.q_len;
            bool right = isnan(element(ATTN_FP32, &set.lse, s.q_first + i, head, 0)) == lost;
            for (int column = 0; column < p.shape.dv; column++) {
                double o = element(p.shape.dtype, &set.o, s.q_first + i, head, column);
                right = right && isnan(o) == lost;
            }
            ck_assert_msg(right, "%s: key %d is NaN, row %d of head %d %s", c.name.c_str(), key, i,
                          head, lost ? "sees it and has numbers" : "does not see it and has NaN");
        }
    }
}

} // namespace

std::vector<attention_case> attention_hazards(const std::vector<attention_row> &rows,
                                              const std::vector<item> &items)
{
    std::vector<attention_case> cases;
    for (const attention_row &row : rows) {
        for (size_t mask = 0; mask < 2; mask++) {
            attn_shape shape = shape_of(ATTN_BF16, 2, 1, row.d, row.dv);
            shape.mask = attention_masks[mask];
            cases.push_back(
                {std::string(row.name) + (mask ? " causal" : " full"), &row, shape, items});
        }
    }
    return cases;
}

attention_outcome attention_run(const attention_case &c, uint64_t seed,
                                const std::function<void(sim::device &)> &setup)
{
    sim::device device;
    attn_context *context = attn_cuda_open(&device, PLAN_BYTES);
    problem *p = problem_open(&c.shape, c.items.data(), static_cast<int>(c.items.size()));
    prepare(&device, p, c.shape, seed);
    setup(device);
    attn_status status = launch(c, *p, context);
    attention_outcome outcome = {device.error, 0, device.recorded, device.multiplies,
                                 device.overlapping};
    if (status != ATTN_OK && outcome.error.empty()) {
        outcome.error = "the launch was refused";
    }
    problem_visit(p, add_bits, &outcome.bits);
    problem_close(p);
    attn_cuda_close(context);
    return outcome;
}

uint64_t attention_check_nan(const attention_case &c, uint64_t seed, int key)
{
    sim::device device;
    attn_context *context = attn_cuda_open(&device, PLAN_BYTES);
    problem *p = problem_open(&c.shape, c.items.data(), static_cast<int>(c.items.size()));
    prepare(&device, p, c.shape, seed);
    for (int i = 0; i < p->count; i++) {
        lose_key(p, p->sequences[i], key);
    }
    ck_assert_int_eq(launch(c, *p, context), ATTN_OK);
    ck_assert_msg(device.error.empty(), "%s: %s", c.name.c_str(), device.error.c_str());
    for (int i = 0; i < p->count; i++) {
        check_lost(c, *p, p->sequences[i], key);
    }
    problem_close(p);
    attn_cuda_close(context);
    return device.multiplies;
}

namespace
{

void check(const attention_case &c, uint64_t seed, bool steep)
{
    sim::device device;
    attn_context *context = attn_cuda_open(&device, PLAN_BYTES);
    problem *p = problem_open(&c.shape, c.items.data(), static_cast<int>(c.items.size()));
    prepare(&device, p, c.shape, seed);
    if (steep) {
        problem_steepen(p);
    }
    running = {&c, &device, seed};
    attn_row row = {};
    row.name = c.row->name;
    row.scratch_bytes = no_scratch;
    row.launch = launch_running;
    problem_run_row(p, &row, context);
    problem_check(p);
    problem_close(p);
    attn_cuda_close(context);
}

} // namespace

void attention_check(const attention_case &c, uint64_t seed)
{
    check(c, seed, false);
}

void attention_check_steep(const attention_case &c, uint64_t seed)
{
    check(c, seed, true);
}
