/*
 * tcgen05: descriptors and layouts against plain products, and one broken rule each.
 */
#include <functional>
#include <stdlib.h>
#include <string.h>
#include <string>

#include "gpu/barrier.cuh"
#include "gpu/fence.cuh"
#include "gpu/index.cuh"
#include "gpu/launch.cuh"
#include "gpu/math.cuh"
#include "gpu/mbarrier.cuh"
#include "gpu/smem.cuh"
#include "gpu/tcgen05.cuh"
#include "gpu/warp.cuh"

#include <check.h> /* last: it has a macro named fail */

using namespace gpu;

namespace
{

constexpr uint32_t A_TILE = sim::SMEM_BASE;
constexpr uint32_t B_TILE = A_TILE + 32 * 1024;
constexpr uint32_t BARRIER = A_TILE + 96 * 1024;
constexpr uint32_t SLOT = BARRIER + 16;
constexpr uint32_t BYTES = 97 * 1024;
constexpr uint64_t SEEDS = 8;
constexpr int LENGTH = 32; /* two steps */

float small(int i)
{
    return static_cast<float>((i * 7 + i / 13 * 5) % 9 - 4) / 4;
}

/* Where element (outer, k) lies: panels of the swizzle's width, 16-byte chunks XORed with the row.
 */
uint32_t place(swizzle s, bool mn, int rows, int outer, int k)
{
    uint32_t width = s == swizzle::b128 ? 128 : s == swizzle::b64 ? 64 : 32;
    uint32_t row = static_cast<uint32_t>(mn ? k : outer), column = (mn ? outer : k) * 2u;
    uint32_t with = s == swizzle::b128 ? row % 8 : s == swizzle::b64 ? row / 2 % 4 : row / 4 % 2;
    uint32_t chunk = column % width / 16 ^ with;
    return column / width * static_cast<uint32_t>(rows) * width + row * width + chunk * 16 +
           column % 16;
}

void write_operand(swizzle s, bool mn, uint32_t tile, int rows, int outers, int salt)
{
    for (int o = 0; o < outers; o += mn ? 2 : 1) {
        for (int k = 0; k < LENGTH; k += mn ? 1 : 2) {
            int o2 = mn ? o + 1 : o, k2 = mn ? k : k + 1;
            smem_store(tile + place(s, mn, rows, o, k),
                       pack<bf16>(small(salt + o * LENGTH + k), small(salt + o2 * LENGTH + k2)));
        }
    }
}

struct form {
    swizzle s;
    int m, n;
    major a, b;
    bool tensor_a;
};

/* Barrier and tensor memory; then body(base); then memory goes back. */
void with_tensor(const std::function<void(uint32_t base)> &body)
{
    if (thread_index() == 0) {
        mbarrier_init(BARRIER, 1);
        mbarrier_init_fence();
    }
    if (warp_index() == 0) {
        tmem_take<512>(SLOT);
    }
    block_sync();
    tcgen05_fence_after();
    uint32_t base = smem_load<uint32_t>(SLOT);
    body(base);
    tcgen05_fence_before();
    block_sync();
    if (warp_index() == 0) {
        tmem_give<512>(base);
    }
}

void issue(const form &f, uint32_t base)
{
    uint32_t instruction =
        tcgen05_instruction(true, static_cast<uint32_t>(f.m), static_cast<uint32_t>(f.n), f.a, f.b);
    uint32_t a_rows = f.a == major::mn ? LENGTH : f.m, b_rows = f.b == major::mn ? LENGTH : f.n;
    uint64_t a = f.a == major::mn ? tcgen05_descriptor_mn(f.s, A_TILE, a_rows)
                                  : tcgen05_descriptor_k(f.s, A_TILE);
    uint64_t b = f.b == major::mn ? tcgen05_descriptor_mn(f.s, B_TILE, b_rows)
                                  : tcgen05_descriptor_k(f.s, B_TILE);
    for (uint32_t step = 0; step < 2; step++) {
        uint32_t in_a =
            f.a == major::mn ? step_bytes_mn(f.s, step) : step_bytes_k(f.s, a_rows, step);
        uint32_t in_b =
            f.b == major::mn ? step_bytes_mn(f.s, step) : step_bytes_k(f.s, b_rows, step);
        if (f.tensor_a) {
            tcgen05_multiply_tensor(base, base + 256 + step * 8, descriptor_advance(b, in_b),
                                    instruction, step > 0);
        } else {
            tcgen05_multiply(base, descriptor_advance(a, in_a), descriptor_advance(b, in_b),
                             instruction, step > 0);
        }
    }
    tcgen05_commit(BARRIER);
}

/* Row of D that this lane of tensor memory holds, or -1. */
int row_held(int m)
{
    int lane = thread_index();
    return m == 128 ? lane : lane % 32 < 16 ? lane / 32 * 16 + lane % 32 : -1;
}

void product(const form &f)
{
    if (thread_index() == 0) {
        write_operand(f.s, f.a == major::mn, A_TILE, f.a == major::mn ? LENGTH : f.m, f.m, 0);
        write_operand(f.s, f.b == major::mn, B_TILE, f.b == major::mn ? LENGTH : f.n, f.n, 5000);
    }
    fence_async_smem();
    with_tensor([&](uint32_t base) {
        uint32_t lanes = tmem_at(base, static_cast<uint32_t>(warp_index()) * 32, 0);
        int row = row_held(f.m);
        uint32_t pairs[LENGTH / 2];
        for (int k = 0; k < LENGTH; k += 2) {
            int at = (row < 0 ? 0 : row) * LENGTH + k;
            pairs[k / 2] = pack<bf16>(small(at), small(at + 1));
        }
        tmem_store(lanes + 256, pairs);
        tmem_store_wait();
        tcgen05_fence_before();
        block_sync();
        tcgen05_fence_after();
        if (thread_index() == 32) {
            issue(f, base);
        }
        mbarrier_wait(BARRIER, 1);
        tcgen05_fence_after();
        for (int first = 0; first < f.n; first += 8) {
            float d[8];
            tmem_load(d, lanes + static_cast<uint32_t>(first));
            tmem_load_wait(d);
            for (int c = 0; c < 8 && row >= 0; c++) {
                float want = 0;
                for (int k = 0; k < LENGTH; k++) {
                    want += small(row * LENGTH + k) * small(5000 + (first + c) * LENGTH + k);
                }
                ck_assert_msg(d[c] == want, "d[%d][%d] is %g, not %g", row, first + c,
                              static_cast<double>(d[c]), static_cast<double>(want));
            }
        }
    });
}

std::string objection(int threads, const std::function<void()> &kernel, uint64_t seed)
{
    sim::device d;
    d.seed = seed;
    sim::device_run(&d, {{1, 1, 1}, threads, BYTES, 0}, kernel);
    return d.error;
}

void refuse(const char *what, const std::function<void()> &kernel)
{
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        std::string said = objection(128, kernel, seed);
        ck_assert_msg(strstr(said.c_str(), what) != nullptr, "seed %lu: wanted \"%s\", got \"%s\"",
                      static_cast<unsigned long>(seed), what, said.c_str());
    }
}

void check_form(const form &f)
{
    std::string said = objection(
        128, [&] { product(f); }, 1);
    ck_assert_msg(said.empty(), "%s", said.c_str());
}

START_TEST(every_layout_multiplies)
{
    for (swizzle s : {swizzle::b128, swizzle::b64, swizzle::b32}) {
        for (int m : {64, 128}) {
            for (int n : {64, 128, 192, 256}) {
                check_form({s, m, n, major::k, major::k, false});
                check_form({s, m, n, major::k, major::mn, false});
                check_form({s, m, n, major::mn, major::k, false});
                check_form({s, m, n, major::mn, major::mn, false});
                check_form({s, m, n, major::k, major::k, true});
                check_form({s, m, n, major::k, major::mn, true});
            }
        }
    }
}
END_TEST

START_TEST(descriptors_are_the_published_ones)
{
    ck_assert_uint_eq(tcgen05_instruction(true, 128, 128, major::k, major::k), 0x08200490);
    ck_assert_uint_eq(tcgen05_instruction(true, 128, 128, major::k, major::mn), 0x08210490);
    ck_assert_uint_eq(tcgen05_instruction(true, 128, 128, major::mn, major::mn), 0x08218490);
    ck_assert_uint_eq(tcgen05_instruction(false, 128, 128, major::k, major::k), 0x08200010);
    ck_assert_uint_eq(tcgen05_instruction(true, 128, 64, major::k, major::k), 0x08100490);
    ck_assert_uint_eq(tcgen05_instruction(true, 64, 128, major::k, major::k), 0x04200490);
    ck_assert_uint_eq(tcgen05_descriptor_k(swizzle::b128, 1024) >> 32, 0x40004040);
}
END_TEST

/* A stored tile of 32 columns in this warp's quarter. */
void store_mine(uint32_t base)
{
    uint32_t ones[32] = {};
    tmem_store(tmem_at(base, static_cast<uint32_t>(warp_index()) * 32, 0), ones);
    tmem_store_wait();
}

START_TEST(loads_and_stores_obey_the_rules)
{
    refuse("never written", [] {
        with_tensor([](uint32_t base) {
            float d[8];
            tmem_load(d, tmem_at(base, static_cast<uint32_t>(warp_index()) * 32, 0));
            tmem_load_wait(d);
        });
    });
    refuse("reaches lanes", [] {
        with_tensor([](uint32_t base) {
            uint32_t ones[8] = {};
            tmem_store(base, ones);
        });
    });
    refuse("not among the arguments", [] {
        with_tensor([](uint32_t base) {
            float d[8], other[8];
            store_mine(base);
            tmem_load(d, tmem_at(base, static_cast<uint32_t>(warp_index()) * 32, 0));
            tmem_load_wait(other);
        });
    });
    refuse("the tmem_store of warp", [] {
        with_tensor([](uint32_t base) {
            float d[8];
            uint32_t at = tmem_at(base, static_cast<uint32_t>(warp_index()) * 32, 0);
            uint32_t ones[8] = {};
            tmem_store(at, ones); /* no tmem_store_wait */
            tmem_load(d, at);
            tmem_load_wait(d);
        });
    });
    refuse("tcgen05_fence_after", [] {
        with_tensor([](uint32_t base) {
            block_sync();
            store_mine(base);
        });
    });
}
END_TEST

START_TEST(memory_is_taken_and_given_back)
{
    refuse("did not take", [] {
        if (warp_index() == 0) {
            tmem_take<32>(SLOT);
        }
        block_sync();
        tcgen05_fence_after();
        uint32_t base = smem_load<uint32_t>(SLOT) ^ 32;
        store_mine(base);
    });
    refuse("without giving its tensor memory back", [] {
        if (warp_index() == 0) {
            tmem_take<32>(SLOT);
        }
    });
    refuse("waits for ever", [] {
        if (warp_index() == 0) {
            tmem_take<512>(SLOT);
            tmem_take<32>(SLOT);
        }
    });
    refuse("after tmem_take_no_more", [] {
        if (warp_index() == 0) {
            tmem_take<32>(SLOT);
            tmem_take_no_more();
            tmem_take<32>(SLOT);
        }
    });
}
END_TEST

/* A commit that nobody waits for may arrive in the shared memory of the next block. */
START_TEST(commits_do_not_outlive_their_block)
{
    int objections = 0;
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        std::string said = objection(
            128,
            [] {
                with_tensor([](uint32_t) {
                    if (thread_index() == 0) {
                        tcgen05_commit(BARRIER);
                    }
                });
            },
            seed);
        ck_assert(said.empty() || strstr(said.c_str(), "commits are in flight") != nullptr);
        objections += !said.empty();
    }
    ck_assert_int_gt(objections, 0);
}
END_TEST

START_TEST(bad_instructions_are_refused)
{
    auto multiply = [](uint32_t instruction, uint64_t bits) {
        return [=] {
            with_tensor([=](uint32_t base) {
                if (thread_index() == 0) {
                    tcgen05_multiply(base, tcgen05_descriptor_k(swizzle::b128, A_TILE) ^ bits,
                                     tcgen05_descriptor_k(swizzle::b128, B_TILE), instruction,
                                     false);
                }
            });
        };
    };
    uint32_t good = tcgen05_instruction(true, 128, 128, major::k, major::k);
    refuse("never written", multiply(good, 0)); /* the operands: the descriptors are fine */
    refuse("not 16-bit operands", multiply(good | 1u << 13, 0));
    refuse("M is 256", multiply(good + (8u << 24), 0));
    refuse("reserved bits", multiply(good, uint64_t{1} << 46));
    refuse("reserved bits", multiply(good, uint64_t{1} << 61));
}
END_TEST

} // namespace

int main()
{
    Suite *suite = suite_create("sim_tcgen05");
    TCase *tests = tcase_create("tcgen05");
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, every_layout_multiplies);
    tcase_add_test(tests, descriptors_are_the_published_ones);
    tcase_add_test(tests, loads_and_stores_obey_the_rules);
    tcase_add_test(tests, memory_is_taken_and_given_back);
    tcase_add_test(tests, commits_do_not_outlive_their_block);
    tcase_add_test(tests, bad_instructions_are_refused);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
