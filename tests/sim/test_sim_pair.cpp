/*
 * tcgen05 of a pair of blocks: layouts against plain products, and one broken rule each.
 */
#include <functional>
#include <stdlib.h>
#include <string.h>
#include <string>
#include <vector>

#include "gpu/barrier.cuh"
#include "gpu/cluster.cuh"
#include "gpu/fence.cuh"
#include "gpu/index.cuh"
#include "gpu/launch.cuh"
#include "gpu/math.cuh"
#include "gpu/mbarrier.cuh"
#include "gpu/smem.cuh"
#include "gpu/tcgen05_pair.cuh"
#include "gpu/tma.cuh"
#include "gpu/warp.cuh"

#include <check.h> /* last: it has a macro named fail */

using namespace gpu;

namespace
{

constexpr uint32_t A_TILE = sim::SMEM_BASE;
constexpr uint32_t B_TILE = A_TILE + 32 * 1024;
constexpr uint32_t DONE = A_TILE + 96 * 1024; /* commit -> both blocks */
constexpr uint32_t READY = DONE + 8;          /* operands of both blocks -> the even one */
constexpr uint32_t SLOT = READY + 8;
constexpr uint32_t BYTES = 97 * 1024;
constexpr uint64_t SEEDS = 8; /* a rule must be found by the first of them */
constexpr int LENGTH = 32;    /* two steps */
constexpr uint32_t BOTH = 3;

float small(int i)
{
    return static_cast<float>((i * 7 + i / 13 * 5) % 9 - 4) / 4;
}

/* Where element (outer, k) lies with the 128-byte swizzle: panels, 16-byte chunks XORed with the
 * row. */
uint32_t place(bool mn, int rows, int outer, int k)
{
    uint32_t row = static_cast<uint32_t>(mn ? k : outer), column = (mn ? outer : k) * 2u;
    uint32_t chunk = column % 128 / 16 ^ row % 8;
    return column / 128 * static_cast<uint32_t>(rows) * 128 + row * 128 + chunk * 16 + column % 16;
}

struct form {
    int m, n;
    major a, b;
    bool tensor_a;
};

int rank()
{
    return static_cast<int>(cluster_rank());
}

/* This block's half of the operand: outers [first, first + count). */
void write_operand(bool mn, uint32_t tile, int count, int salt)
{
    int rows = mn ? LENGTH : count, first = rank() * count;
    for (int o = 0; o < count; o += mn ? 2 : 1) {
        for (int k = 0; k < LENGTH; k += mn ? 1 : 2) {
            int one = salt + (first + o) * LENGTH + k;
            int two = mn ? one + LENGTH : one + 1;
            smem_store(tile + place(mn, rows, o, k), pack<bf16>(small(one), small(two)));
        }
    }
}

/* What a test leaves out. */
struct pair_rules {
    bool fence = true, tells = true, commits_to_both = true, waits_to_load = true;
    bool meets_at_end = true;
    int issuer = 0;
};

/* mbarriers and tensor memory of both; body(base); then memory goes back. */
void with_pair(const pair_rules &rules, const std::function<void(uint32_t base)> &body)
{
    if (thread_index() == 0) {
        mbarrier_init(DONE, 1);
        mbarrier_init(READY, 2);
        mbarrier_init_fence();
    }
    if (warp_index() == 0) {
        tmem_take_pair<512>(SLOT);
    }
    cluster_arrive();
    cluster_wait();
    tcgen05_fence_after();
    uint32_t base = smem_load<uint32_t>(SLOT);
    body(base);
    tcgen05_fence_before();
    if (rules.meets_at_end) {
        cluster_arrive();
        cluster_wait();
    } else {
        block_sync();
    }
    if (warp_index() == 0) {
        tmem_give_pair<512>(base);
    }
}

void issue(const form &f, uint32_t base, bool to_both)
{
    uint32_t instruction =
        tcgen05_instruction(true, static_cast<uint32_t>(f.m), static_cast<uint32_t>(f.n), f.a, f.b);
    uint32_t a_rows = f.a == major::mn ? LENGTH : f.m / 2;
    uint32_t b_rows = f.b == major::mn ? LENGTH : f.n / 2;
    swizzle s = swizzle::b128;
    uint64_t a = f.a == major::mn ? tcgen05_descriptor_mn(s, A_TILE, a_rows)
                                  : tcgen05_descriptor_k(s, A_TILE);
    uint64_t b = f.b == major::mn ? tcgen05_descriptor_mn(s, B_TILE, b_rows)
                                  : tcgen05_descriptor_k(s, B_TILE);
    for (uint32_t step = 0; step < 2; step++) {
        uint32_t in_a = f.a == major::mn ? step_bytes_mn(s, step) : step_bytes_k(s, a_rows, step);
        uint32_t in_b = f.b == major::mn ? step_bytes_mn(s, step) : step_bytes_k(s, b_rows, step);
        if (f.tensor_a) {
            tcgen05_multiply_tensor_pair(base, base + 256 + step * 8, descriptor_advance(b, in_b),
                                         instruction, step > 0);
        } else {
            tcgen05_multiply_pair(base, descriptor_advance(a, in_a), descriptor_advance(b, in_b),
                                  instruction, step > 0);
        }
    }
    tcgen05_commit_pair(DONE, to_both ? BOTH : 1);
}

/* Of M 128 lanes 64 and up have the right half of the columns. */
void check_result(const form &f, uint32_t lanes)
{
    int lane = thread_index(), rows = f.m / 2, width = f.m == 256 ? f.n : f.n / 2;
    int row = rank() * rows + lane % rows, left = lane / rows * width;
    for (int first = 0; first < width; first += 8) {
        float d[8];
        tmem_load(d, lanes + static_cast<uint32_t>(first));
        tmem_load_wait(d);
        for (int c = 0; c < 8; c++) {
            float want = 0;
            for (int k = 0; k < LENGTH; k++) {
                want += small(row * LENGTH + k) * small(5000 + (left + first + c) * LENGTH + k);
            }
            ck_assert_msg(d[c] == want, "d[%d][%d] is %g, not %g", row, left + first + c,
                          static_cast<double>(d[c]), static_cast<double>(want));
        }
    }
}

void store_a(const form &f, uint32_t lanes)
{
    uint32_t pairs[LENGTH / 2];
    for (int k = 0; k < LENGTH; k += 2) {
        int at = (rank() * f.m / 2 + thread_index() % (f.m / 2)) * LENGTH + k;
        pairs[k / 2] = pack<bf16>(small(at), small(at + 1));
    }
    tmem_store(lanes + 256, pairs);
    tmem_store_wait();
    tcgen05_fence_before();
}

/* Operands by all threads of both blocks; the even one's thread 32 issues. */
void product(const form &f, const pair_rules &rules)
{
    with_pair(rules, [&](uint32_t base) {
        uint32_t lanes = tmem_at(base, static_cast<uint32_t>(warp_index()) * 32, 0);
        if (thread_index() == 0) {
            write_operand(f.a == major::mn, A_TILE, f.m / 2, 0);
            write_operand(f.b == major::mn, B_TILE, f.n / 2, 5000);
        }
        if (rules.fence) {
            fence_async_smem();
        }
        if (f.tensor_a) {
            store_a(f, lanes);
        }
        block_sync();
        if (thread_index() == 0 && rules.tells) {
            mbarrier_arrive_cluster(cluster_map(READY, 0));
        }
        if (thread_index() == 32 && rank() == rules.issuer) {
            if (rules.tells) {
                mbarrier_wait_cluster(READY, 1);
            }
            tcgen05_fence_after();
            issue(f, base, rules.commits_to_both);
        }
        if (rules.waits_to_load) {
            mbarrier_wait(DONE, 1);
        }
        tcgen05_fence_after();
        check_result(f, lanes);
    });
}

std::vector<uint16_t> input(64 * 64);
tensor_map rows;

std::string objection(const std::function<void()> &kernel, uint64_t seed, int cluster = 2)
{
    sim::device d;
    d.seed = seed;
    sim::device_add(&d, "input", input.data(), input.size() * 2, sim::usage::input);
    sim::device_run(&d, {{cluster, 1, 1}, 128, BYTES, cluster}, kernel);
    return d.error;
}

void refuse(const char *what, const std::function<void()> &kernel, int cluster = 2)
{
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        std::string said = objection(kernel, seed, cluster);
        ck_assert_msg(strstr(said.c_str(), what) != nullptr, "seed %lu: wanted \"%s\", got \"%s\"",
                      static_cast<unsigned long>(seed), what, said.c_str());
    }
}

void accept(const std::function<void()> &kernel, uint64_t seeds = SEEDS)
{
    for (uint64_t seed = 1; seed <= seeds; seed++) {
        std::string said = objection(kernel, seed);
        ck_assert_msg(said.empty(), "seed %lu: %s", static_cast<unsigned long>(seed), said.c_str());
    }
}

START_TEST(every_layout_multiplies)
{
    for (int m : {128, 256}) {
        for (int n : {128, 256}) {
            for (major a : {major::k, major::mn}) {
                for (major b : {major::k, major::mn}) {
                    form f = {m, n, a, b, false};
                    accept([=] { product(f, {}); }, 2);
                }
            }
        }
    }
    for (int n : {64, 192, 256}) {
        form f = {256, n, major::k, major::k, true};
        accept([=] { product(f, {}); }, 2);
        f.b = major::mn;
        f.n = n == 192 ? 128 : n == 64 ? 128 : 256;
        accept([=] { product(f, {}); }, 2);
    }
}
END_TEST

const form PLAIN = {256, 128, major::k, major::k, false};

START_TEST(operands_of_both_blocks_are_ready)
{
    pair_rules r;
    accept([=] { product(PLAIN, r); });
    r.fence = false;
    refuse("ran no fence_async_smem", [=] { product(PLAIN, r); });
    r = {};
    r.tells = false; /* the other block's: written, or to be written */
    refuse("tcgen05", [=] { product(PLAIN, r); });
}
END_TEST

START_TEST(both_blocks_are_told_of_the_end)
{
    pair_rules r;
    r.commits_to_both = false;
    refuse("deadlock", [=] { product(PLAIN, r); });
    r = {};
    r.waits_to_load = false;
    refuse("tmem_load", [=] { product(PLAIN, r); });
    r = {};
    r.meets_at_end = false; /* each waits for the commit: nothing else uses the other's memory */
    accept([=] { product(PLAIN, r); });
}
END_TEST

START_TEST(the_even_block_issues)
{
    pair_rules r;
    r.issuer = 1;
    r.tells = false;
    refuse(
        "issued by its even block", [=] { product(PLAIN, r); }, 2);
    r = {};
    form f = PLAIN;
    f.m = 64;
    refuse("M is 64", [=] { product(f, r); });
    f = {128, 128, major::k, major::k, true};
    refuse("not modelled", [=] { product(f, r); });
    f = {256, 80, major::k, major::k, true};
    refuse("N is 80", [=] { product(f, r); });
}
END_TEST

START_TEST(both_blocks_take_and_give)
{
    accept([] { with_pair({}, [](uint32_t) {}); });
    refuse("tmem_take_pair of the other block", [] {
        if (warp_index() == 0 && rank() == 0) {
            tmem_take_pair<32>(SLOT);
        }
    });
    refuse("but the other block takes", [] {
        if (warp_index() == 0 && rank() == 0) {
            tmem_take_pair<32>(SLOT);
        } else if (warp_index() == 0) {
            tmem_take_pair<64>(SLOT);
        }
    });
    refuse("without giving its tensor memory back", [] {
        if (warp_index() == 0) {
            tmem_take_pair<32>(SLOT);
            uint32_t base = smem_load<uint32_t>(SLOT);
            if (rank() == 0) {
                tmem_give_pair<32>(base);
            }
        }
    });
    refuse(
        "cluster of one block",
        [] {
            if (warp_index() == 0) {
                tmem_take_pair<32>(SLOT);
            }
        },
        1);
    refuse("after tmem_take_no_more", [] {
        if (warp_index() == 0) {
            tmem_take_pair<32>(SLOT);
            tmem_take_no_more_pair();
            tmem_take_pair<32>(SLOT);
        }
    });
}
END_TEST

START_TEST(kinds_are_not_mixed)
{
    refuse("one kind in all of a kernel", [] {
        if (warp_index() == 0) {
            tmem_take<32>(SLOT);
            tmem_take_pair<32>(SLOT);
        }
    });
    refuse("one kind in all of a kernel", [] {
        with_pair({}, [](uint32_t base) {
            if (thread_index() == 0 && rank() == 0) {
                tcgen05_multiply(base, 0, 0, 0, false);
            }
        });
    });
    refuse("one kind in all of a kernel", [] {
        with_pair({}, [](uint32_t) {
            if (thread_index() == 0 && rank() == 0) {
                tcgen05_commit(DONE);
            }
        });
    });
    refuse("one kind in all of a kernel", [] {
        if (warp_index() == 0) {
            tmem_take_pair<32>(SLOT);
            tmem_give<32>(smem_load<uint32_t>(SLOT));
        }
    });
}
END_TEST

/* The odd block ends, or gives its memory back, while the even one's product uses it. */
START_TEST(the_odd_block_outlives_the_products)
{
    auto kernel = [](bool odd_waits, bool meets) {
        return [=] {
            pair_rules r;
            r.meets_at_end = meets;
            with_pair(r, [=](uint32_t base) {
                write_operand(false, A_TILE, thread_index() == 0 ? 128 : 0, 0);
                write_operand(false, B_TILE, thread_index() == 0 ? 64 : 0, 5000);
                fence_async_smem();
                cluster_arrive();
                cluster_wait();
                tcgen05_fence_after();
                if (rank() == 0 && thread_index() == 0) {
                    issue(PLAIN, base, odd_waits);
                }
                if (rank() == 0 || odd_waits) {
                    mbarrier_wait(DONE, 1);
                }
            });
        };
    };
    accept(kernel(true, false));
    accept(kernel(false, true)); /* the even block has waited when they meet */
    refuse("block 1", kernel(false, false));
}
END_TEST

/* Both blocks load; all bytes count on an mbarrier of the even one. */
void load(uint32_t of, uint32_t expected)
{
    if (thread_index() == 0) {
        mbarrier_init(READY, 1);
        mbarrier_init_fence();
    }
    cluster_arrive();
    cluster_wait();
    if (thread_index() == 0) {
        if (rank() % 2 == 0) {
            mbarrier_arrive_expect(READY, expected);
        }
        tma_load_pair(A_TILE, &rows, cluster_map(READY, of), l2::normal, 0, ragged_row(64, 0), 0,
                      ragged_shift(0, 64));
    }
    if (rank() % 2 == 0) {
        mbarrier_wait(READY, 1);
        smem_load<float>(A_TILE);
    }
    cluster_arrive();
    cluster_wait();
}

START_TEST(loads_of_both_count_on_one_mbarrier)
{
    accept([] { load(0, 2 * 8192); });
    refuse("mbarrier at 0x18408", [] { load(1, 2 * 8192); });
    refuse("bytes", [] { load(0, 3 * 8192); });
    refuse(
        "of another pair", [] { load(static_cast<uint32_t>(rank()) & 2 ? 0 : 2, 8192); }, 4);
}
END_TEST

} // namespace

int main()
{
    tensor_shape shape =
        tensor_rows(element::bf16, swizzle::b128, input.data(), 128, 8192, 64, 1, 64, 64);
    if (!tensor_map_encode(&rows, tensor_ragged(shape))) {
        return EXIT_FAILURE;
    }
    Suite *suite = suite_create("sim_pair");
    TCase *tests = tcase_create("pair");
    tcase_set_timeout(tests, 120);
    tcase_add_test(tests, every_layout_multiplies);
    tcase_add_test(tests, operands_of_both_blocks_are_ready);
    tcase_add_test(tests, both_blocks_are_told_of_the_end);
    tcase_add_test(tests, the_even_block_issues);
    tcase_add_test(tests, both_blocks_take_and_give);
    tcase_add_test(tests, kinds_are_not_mixed);
    tcase_add_test(tests, the_odd_block_outlives_the_products);
    tcase_add_test(tests, loads_of_both_count_on_one_mbarrier);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
