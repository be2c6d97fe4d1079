/*
 * The context's ring of lists, in the simulator: what launches of changing lengths take of rings of
 * every size is what plan_make says, all of it at once, however lists were found, forgotten and
 * made again before.
 */
#include <string.h>

#include <vector>

#include "gpu/global.cuh"
#include "gpu/launch.cuh"
#include "kernels/cuda/context.cuh"
#include "tests/sim/attention.h"
#include "tests/support/check_main.h"

namespace
{

constexpr size_t STEP = 256; /* bytes: what pieces of the ring are multiples of */
constexpr size_t LUGGAGE = 700;

/* As the two kernels of a backward take them. */
const plan_shape KEYS = {ATTN_BACKWARD, {}, 4, 4, 64, 64, 512, false, 0, 0, 0, 0, 0};
const plan_shape QUERIES = {ATTN_FORWARD, {}, 4, 4, 128, 64, 512, false, 0, 64, 0, 0, 0};

struct launch_case {
    attn_sequence sequence;
    attn_launch launch;
};

/* Few queries and many keys, and the other way round. */
std::vector<launch_case> cases_of(int count)
{
    std::vector<launch_case> cases(static_cast<size_t>(count));
    for (int i = 0; i < count; i++) {
        launch_case &c = cases[static_cast<size_t>(i)];
        c.sequence.q_len = c.sequence.q_span = i % 3 == 0 ? 8 + i : 100 * (i % 9);
        c.sequence.k_len = c.sequence.k_span = i % 3 == 1 ? 8 + i : 70 * (i % 9) + 1;
        c.launch.sequences = &c.sequence;
        c.launch.set_count = c.launch.sequence_count = 1;
    }
    return cases;
}

/* The lists are in the ring, as if newly made. */
void check_lists(const plan_shape &shape, const launch_case &c, const cuda_plan &plan)
{
    plan_size size = plan_measure(&shape, &c.sequence, 1);
    std::vector<plan_tile> tiles(static_cast<size_t>(size.tiles) + 1);
    std::vector<plan_fill> fills(static_cast<size_t>(size.fills) + 1);
    plan_make(&shape, &c.sequence, 1, tiles.data(), fills.data());
    ck_assert_int_eq(plan.tile_count, size.tiles);
    ck_assert_int_eq(plan.fill_count, size.fills);
    ck_assert_mem_eq(plan.tiles, tiles.data(), static_cast<size_t>(size.tiles) * sizeof(plan_tile));
    ck_assert_mem_eq(plan.fills, fills.data(), static_cast<size_t>(size.fills) * sizeof(plan_fill));
}

/* It reads its piece and both lists, and for all that the host knows still does when the next
 * launch is made. */
void reading_kernel(const uint8_t *piece, const plan_tile *keys, const plan_tile *queries)
{
    gpu::global_load<uint32_t>(piece);
    gpu::global_load<uint32_t>(keys);
    gpu::global_load<uint32_t>(queries);
}

/* A launch. False: it was refused. */
bool launch(attn_context *context, const launch_case &c)
{
    cuda_piece piece = {};
    cuda_plan keys = {}, queries = {};
    if (!cuda_take_together(context, LUGGAGE, &piece, [&] {
            return cuda_plan_take(context, &KEYS, &c.launch, &keys) &&
                   cuda_plan_take(context, &QUERIES, &c.launch, &queries);
        })) {
        return false;
    }
    memset(piece.host, 0xee, piece.bytes);
    if (!cuda_piece_send(context, &piece)) {
        return false;
    }
    check_lists(KEYS, c, keys);
    check_lists(QUERIES, c, queries);
    gpu::launch_config config = {1, 1, 1, 32, 0, 0, false, context->stream};
    return gpu::launch(config, reading_kernel, static_cast<const uint8_t *>(piece.device),
                       keys.tiles, queries.tiles) == nullptr;
}

/* The smallest ring that holds what the launch takes. */
size_t ring_of(const launch_case &c)
{
    for (size_t bytes = STEP;; bytes += STEP) {
        sim::device device;
        attn_context *context = attn_cuda_open(&device, bytes);
        bool taken = launch(context, c);
        attn_cuda_close(context);
        if (taken) {
            return bytes;
        }
    }
}

/* Launches by chance through rings from the smallest that holds each of them, `step` apart. */
void run_rings(int case_count, size_t step)
{
    constexpr int LAUNCHES = 1000, RINGS = 40;
    std::vector<launch_case> cases = cases_of(case_count);
    size_t least = 0;
    for (const launch_case &c : cases) {
        size_t bytes = ring_of(c);
        least = bytes > least ? bytes : least;
    }
    uint32_t random = 1;
    for (size_t i = 0; i < RINGS; i++) {
        sim::device device;
        attn_context *context = attn_cuda_open(&device, least + i * step);
        for (int n = 0; n < LAUNCHES; n++) {
            random = random * 1664525u + 1013904223u;
            ck_assert_msg(
                launch(context, cases[(random >> 16) % static_cast<unsigned>(case_count)]), "%s",
                device.error.c_str());
        }
        attn_cuda_close(context);
    }
}

START_TEST(what_a_launch_takes_is_there_at_once)
{
    run_rings(9, STEP);
}
END_TEST

/* More lists than a context remembers: those that are forgotten may still be read. */
START_TEST(forgotten_lists_are_not_overwritten_early)
{
    run_rings(CUDA_PLANS, 8 * STEP);
}
END_TEST

void add_tensor(void *device, void *memory, size_t bytes, int written)
{
    sim::device_add(static_cast<sim::device *>(device), "a tensor", memory, bytes,
                    written ? sim::usage::output : sim::usage::input);
}

/* A forward of two sets, with rows that no tile writes. False: it was refused. */
bool run_forward(sim::device *device, attn_context *context, const std::vector<item> &items)
{
    const attention_row &row = attention_rows_sm90[0];
    attn_shape shape = shape_of(ATTN_BF16, 4, 4, row.d, row.dv);
    problem *p = problem_open(&shape, items.data(), static_cast<int>(items.size()));
    device->buffers.clear();
    problem_visit(p, add_tensor, device);
    attn_launch launch = {};
    launch.shape = shape;
    launch.sets = p->sets;
    launch.sequences = p->sequences;
    launch.set_count = p->set_count;
    launch.sequence_count = p->count;
    attn_status status = row.launch(context, &launch);
    ck_assert_msg(device->error.empty(), "%s", device->error.c_str());
    if (status == ATTN_OK) {
        p->rounding = 0x1p-8;
        problem_check(p);
    }
    problem_close(p);
    return status == ATTN_OK;
}

START_TEST(a_forward_reads_its_own_sets_and_lists)
{
    const std::vector<item> small = {{1, 20, 24, 30, 30, 1}, {0, 9, 8, 0, 9, 2}};
    const std::vector<item> large = {{1, 500, 8, 530, 8, 3}, {0, 300, 8, 320, 8, 4}};
    constexpr size_t LEAST = 3072, MOST = 6144;
    int ran = 0;
    for (size_t bytes = LEAST; bytes <= MOST; bytes += STEP) {
        sim::device device;
        attn_context *context = attn_cuda_open(&device, bytes);
        for (const std::vector<item> *items : {&small, &large, &small, &large, &large}) {
            ran += run_forward(&device, context, *items);
        }
        attn_cuda_close(context);
    }
    ck_assert_int_ge(ran, 40); /* the first rings are too small for the large one */
}
END_TEST

const check_row tests[] = {
    {"together", &what_a_launch_takes_is_there_at_once},
    {"forgotten", &forgotten_lists_are_not_overwritten_early},
    {"own", &a_forward_reads_its_own_sets_and_lists},
};

} // namespace

CHECK_MAIN("sim_context", tests)
