/*
 * One broken rule each: the simulator stops, and its message says which. Small kernels are written
 * out in the tests; kernel(...) is run by every thread of one block.
 */
#include <functional>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <string>
#include <vector>

#include "gpu/barrier.cuh"
#include "gpu/bulk.cuh"
#include "gpu/descriptor.cuh"
#include "gpu/fence.cuh"
#include "gpu/global.cuh"
#include "gpu/grid.cuh"
#include "gpu/index.cuh"
#include "gpu/launch.cuh"
#include "gpu/mbarrier.cuh"
#include "gpu/registers.cuh"
#include "gpu/smem.cuh"
#include "gpu/tma.cuh"
#include "gpu/warp.cuh"
#include "gpu/wgmma.cuh"

#include <check.h> /* last: it has a macro named fail */

using namespace gpu;

namespace
{

constexpr uint32_t BASE = sim::SMEM_BASE;
constexpr uint32_t BAR = BASE + 32768;
constexpr uint32_t BYTES = 65536;
constexpr uint64_t SEEDS = 8; /* a rule must be found by the first of them */

std::vector<f32x4> input(1024), output(1024), sums(64);
int32_t turns;        /* the flag of sums */
tensor_map map_64x64; /* of output, as 64 columns of bf16 */

/* What the simulator says under each seed; empty if it never objects. */
std::string objection(int threads, const std::function<void()> &kernel, uint64_t seed)
{
    sim::device d;
    d.seed = seed;
    sim::device_add(&d, "input", input.data(), input.size() * 16, sim::usage::input);
    sim::device_add(&d, "output", output.data(), output.size() * 16, sim::usage::output);
    sim::device_add(&d, "sums", sums.data(), sums.size() * 16, sim::usage::ordered);
    sim::device_add(&d, "turns", &turns, sizeof turns, sim::usage::scratch);
    turns = 0;
    sim::device_run(&d, {{1, 1, 1}, threads, BYTES, 0}, kernel);
    return d.error;
}

void refuse(const char *what, int threads, const std::function<void()> &kernel)
{
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        std::string said = objection(threads, kernel, seed);
        ck_assert_msg(strstr(said.c_str(), what) != nullptr, "seed %lu: wanted \"%s\", got \"%s\"",
                      static_cast<unsigned long>(seed), what, said.c_str());
    }
}

void accept(int threads, const std::function<void()> &kernel)
{
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        std::string said = objection(threads, kernel, seed);
        ck_assert_msg(said.empty(), "seed %lu: %s", static_cast<unsigned long>(seed), said.c_str());
    }
}

void make_barrier(uint32_t arrivals)
{
    if (thread_index() == 0) {
        mbarrier_init(BAR, arrivals);
        mbarrier_init_fence();
    }
    block_sync();
}

uint32_t mine()
{
    return BASE + static_cast<uint32_t>(thread_index()) * 4;
}

uint32_t neighbour()
{
    return BASE + static_cast<uint32_t>(thread_index() ^ 33) * 4;
}

START_TEST(shared_memory_is_ordered_by_barriers)
{
    accept(64, [] {
        smem_store(mine(), 1.0f);
        block_sync();
        smem_load<float>(neighbour());
    });
    refuse("smem_load reads shared", 64, [] {
        smem_store(mine(), 1.0f);
        warp_sync(); /* the neighbour is in the other warp */
        smem_load<float>(neighbour());
    });
    refuse("shared 0x", 64, [] { /* the store is too early, or the load too late */
                                 smem_store(mine(), 1.0f);
                                 block_sync();
                                 smem_load<float>(neighbour());
                                 smem_store(mine(), 2.0f);
    });
    refuse("never written", 32, [] { smem_load<float>(BASE + 4096); });
    refuse("outside the block's", 32, [] { smem_load<float>(BASE + BYTES); });
    refuse("outside the block's", 32, [] { smem_store(0, 1.0f); });
    refuse("must be aligned", 32, [] { smem_store(BASE + 4, f32x4{1, 2, 3, 4}); });
}
END_TEST

START_TEST(lanes_of_a_warp_are_not_ordered_by_themselves)
{
    accept(32, [] {
        smem_store(mine(), 1.0f);
        warp_sync();
        smem_load<float>(BASE + static_cast<uint32_t>(thread_index() ^ 1) * 4);
    });
    refuse("smem_load reads shared", 32, [] {
        smem_store(mine(), 1.0f);
        smem_load<float>(BASE + static_cast<uint32_t>(thread_index() ^ 1) * 4);
    });
}
END_TEST

START_TEST(warp_wide_calls_are_made_by_all_lanes)
{
    refuse("deadlock", 32, [] {
        make_barrier(1);
        if (lane_index() != 5) {
            warp_sync();
        } else {
            mbarrier_wait(BAR, 1);
        }
    });
}
END_TEST

START_TEST(mbarriers_count_rounds)
{
    accept(64, [] {
        make_barrier(64);
        for (uint32_t round = 1; round < 5; round++) {
            mbarrier_arrive(BAR);
            mbarrier_wait(BAR, round);
        }
    });
    refuse("there is no mbarrier", 32, [] { mbarrier_wait(BAR, 1); });
    refuse("since", 32, [] {
        if (thread_index() == 0) {
            mbarrier_init(BAR, 1);
            mbarrier_init(BAR, 1);
        }
    });
    refuse("one arrival too many", 32, [] {
        make_barrier(1);
        if (thread_index() == 0) {
            mbarrier_arrive_expect(BAR, 16);
            mbarrier_arrive(BAR);
        }
    });
    refuse("passes at once", 32, [] {
        make_barrier(1);
        mbarrier_wait(BAR, 2);
    });
    refuse("waits on", 32, [] {
        make_barrier(1);
        if (thread_index() == 0) {
            mbarrier_arrive(BAR);
            mbarrier_arrive(BAR);
            mbarrier_wait(BAR, 1);
        }
    });
    refuse("deadlock", 32, [] {
        make_barrier(2);
        if (thread_index() == 0) {
            mbarrier_arrive(BAR);
        }
        mbarrier_wait(BAR, 1);
    });
    refuse("an mbarrier made at", 32, [] {
        make_barrier(1);
        if (thread_index() == 0) {
            smem_store(BAR, 1.0f);
        }
    });
}
END_TEST

START_TEST(an_init_must_be_seen)
{
    refuse("mbarrier", 64, [] {
        if (thread_index() == 0) {
            mbarrier_init(BAR, 1);
        }
        if (thread_index() >= 32) {
            mbarrier_arrive(BAR);
        }
    });
    refuse("mbarrier_init_fence", 32, [] {
        if (thread_index() == 0) {
            mbarrier_init(BAR, 1);
            mbarrier_arrive_expect(BAR, 256);
            bulk_load(BASE, input.data(), 256, BAR);
        }
    });
}
END_TEST

/* Thread 0 loads 256 bytes; then the rest of the kernel. */
void loaded(uint32_t expected, const std::function<void()> &rest)
{
    make_barrier(1);
    if (thread_index() == 0) {
        mbarrier_arrive_expect(BAR, expected);
        bulk_load(BASE, input.data(), 256, BAR);
    }
    rest();
}

START_TEST(loads_are_waited_for)
{
    accept(64, [] {
        loaded(256, [] {
            mbarrier_wait(BAR, 1);
            smem_load<float>(mine());
        });
    });
    refuse("smem_load reads shared", 64, [] {
        loaded(256, [] {
            if (thread_index() == 0) {
                smem_load<float>(BASE);
            }
        });
    });
    refuse("-128 bytes", 32, [] { /* too few expected */
                                  loaded(128, [] { mbarrier_wait(BAR, 1); });
    });
    refuse("block 0 ends", 32, [] { /* none: the round is over before they arrive */
                                    loaded(0, [] { mbarrier_wait(BAR, 1); });
    });
    refuse("misses 0 of 1 arrivals, 256 bytes", 32,
           [] { loaded(512, [] { mbarrier_wait(BAR, 1); }); });
    refuse("smem_store overwrites shared", 32, [] {
        loaded(256, [] {
            if (thread_index() == 0) {
                smem_store(BASE, 1.0f);
            }
        });
    });
    refuse("outside every registered buffer", 32, [] {
        make_barrier(1);
        if (thread_index() == 0) {
            mbarrier_arrive_expect(BAR, 256);
            bulk_load(BASE, input.data() + input.size() - 1, 256, BAR);
        }
        mbarrier_wait(BAR, 1);
    });
    refuse("multiples of 16", 32, [] {
        make_barrier(1);
        if (thread_index() == 0) {
            bulk_load(BASE, input.data(), 100, BAR);
        }
    });
}
END_TEST

START_TEST(stores_need_a_fence_a_commit_and_a_wait)
{
    auto store = [](bool fence, bool commit, bool wait) {
        return [=] {
            smem_store(mine(), 1.0f);
            if (fence) {
                fence_async_smem();
            }
            block_sync();
            if (thread_index() == 0) {
                bulk_store(output.data(), BASE, 256);
                if (commit) {
                    bulk_commit();
                }
                if (wait) {
                    bulk_wait_read<0>();
                }
            }
        };
    };
    accept(64, store(true, true, true));
    refuse("ran no fence_async_smem", 64, store(false, true, true));
    refuse("never committed", 64, store(true, false, true));
    refuse("no longer reads shared memory", 64, store(true, true, false));
    refuse("no longer reads shared memory", 64, [=] { /* also if it has long been over */
                                                      store(true, true, false)();
                                                      for (int i = 0; i < 20; i++) {
                                                          block_sync();
                                                      }
    });
    refuse("a second time", 64, [] { global_store(&output[0].x, 1.0f); });
    refuse("writes the input", 32, [] { global_store(&input[0].x, 1.0f); });
    refuse("outside every registered buffer", 32, [] { global_load<float>(&output[1024]); });
}
END_TEST

START_TEST(a_source_in_use_is_not_overwritten)
{
    refuse("a bulk store of warp 0", 64, [] {
        smem_store(mine(), 1.0f);
        fence_async_smem();
        block_sync();
        if (thread_index() == 0) {
            bulk_store(output.data(), BASE, 256);
            bulk_commit();
        }
        block_sync();
        smem_store(mine(), 2.0f);
        if (thread_index() == 0) {
            bulk_wait_read<0>();
        }
    });
}
END_TEST

/* Operands of ones in two tiles, then `rest`. */
void with_operands(const std::function<void(uint64_t a, uint64_t b)> &rest)
{
    for (uint32_t i = 0; i < 16384; i += 128 * 16) {
        smem_store(BASE + i + static_cast<uint32_t>(thread_index()) * 16,
                   u32x4{0x3f803f80, 0x3f803f80, 0x3f803f80, 0x3f803f80});
    }
    fence_async_smem();
    block_sync();
    rest(wgmma_descriptor_k(swizzle::b128, BASE), wgmma_descriptor_k(swizzle::b128, BASE + 8192));
}

START_TEST(wgmma_needs_its_fence_commit_and_wait)
{
    accept(128, [] {
        with_operands([](uint64_t a, uint64_t b) {
            float d[32];
            wgmma_fence(d);
            wgmma<64, bf16>(d, a, b, false);
            wgmma_commit();
            wgmma_wait<0>(d);
            ck_assert_float_eq(d[7], 16);
        });
    });
    refuse("without a wgmma_fence", 128, [] {
        with_operands([](uint64_t a, uint64_t b) {
            float d[32];
            wgmma<64, bf16>(d, a, b, false);
            wgmma_commit();
            wgmma_wait<0>(d);
        });
    });
    refuse("without a wgmma_wait", 128, [] {
        with_operands([](uint64_t a, uint64_t b) {
            float d[32];
            wgmma_fence(d);
            wgmma<64, bf16>(d, a, b, false);
            wgmma_commit();
        });
    });
    refuse("not among its arguments", 128, [] {
        with_operands([](uint64_t a, uint64_t b) {
            float d[32], other[4];
            wgmma_fence(d);
            wgmma<64, bf16>(d, a, b, false);
            wgmma_commit();
            wgmma_wait<0>(other);
        });
    });
    refuse("the accumulator was written", 128, [] {
        with_operands([](uint64_t a, uint64_t b) {
            float d[32];
            wgmma_fence(d);
            wgmma<64, bf16>(d, a, b, false);
            wgmma_commit();
            d[3] = 1;
            wgmma_wait<0>(d);
        });
    });
    refuse("accumulator of this wgmma is not", 128, [] {
        with_operands([](uint64_t a, uint64_t b) {
            float d[32] = {};
            wgmma_fence(d);
            d[3] = 1;
            wgmma<64, bf16>(d, a, b, true);
            wgmma_commit();
            wgmma_wait<0>(d);
        });
    });
    refuse("A registers of this wgmma are not", 128, [] {
        with_operands([](uint64_t, uint64_t b) {
            float d[32];
            uint32_t a[4] = {1, 2, 3, 4};
            wgmma_fence(d, a);
            a[0] = 5;
            wgmma<64, bf16>(d, a, b, false);
            wgmma_commit();
            wgmma_wait<0>(d, a);
        });
    });
    refuse("A registers", 128, [] {
        with_operands([](uint64_t, uint64_t b) {
            float d[32];
            uint32_t a[4] = {1, 2, 3, 4};
            wgmma_fence(d, a);
            wgmma<64, bf16>(d, a, b, false);
            wgmma_commit();
            a[0] = 5;
            wgmma_wait<0>(d, a);
        });
    });
}
END_TEST

START_TEST(wgmma_operands_are_ready_and_stay)
{
    refuse("a wgmma of warp", 128, [] {
        with_operands([](uint64_t a, uint64_t b) {
            float d[32];
            wgmma_fence(d);
            wgmma<64, bf16>(d, a, b, false);
            wgmma_commit();
            block_sync();
            smem_store(BASE + static_cast<uint32_t>(thread_index()) * 16, f32x4{});
            wgmma_wait<0>(d);
        });
    });
    refuse("ran no fence_async_smem", 128, [] {
        with_operands([](uint64_t a, uint64_t b) {
            float d[32];
            smem_store(BASE + static_cast<uint32_t>(thread_index()) * 16, f32x4{});
            block_sync();
            wgmma_fence(d);
            wgmma<64, bf16>(d, a, b, false);
            wgmma_commit();
            wgmma_wait<0>(d);
        });
    });
    refuse("reserved bits", 128, [] {
        with_operands([](uint64_t a, uint64_t b) {
            float d[32];
            wgmma_fence(d);
            wgmma<64, bf16>(d, a | 1u << 15, b, false);
            wgmma_commit();
            wgmma_wait<0>(d);
        });
    });
    refuse("first row of a swizzle atom", 128, [] {
        with_operands([](uint64_t a, uint64_t b) {
            float d[32];
            wgmma_fence(d);
            wgmma<64, bf16>(d, descriptor_advance(a, 128), b, false);
            wgmma_commit();
            wgmma_wait<0>(d);
        });
    });
    refuse("different descriptors", 128, [] {
        with_operands([](uint64_t a, uint64_t b) {
            float d[32];
            wgmma_fence(d);
            wgmma<64, bf16>(d, a, descriptor_advance(b, thread_index() == 40 ? 32 : 0), false);
            wgmma_commit();
            wgmma_wait<0>(d);
        });
    });
}
END_TEST

START_TEST(named_barriers_count_threads)
{
    accept(128, [] {
        if (warp_index() == 0) {
            smem_store(mine(), 1.0f);
            barrier_arrive<3>(64);
        } else if (warp_index() == 1) {
            barrier_sync<3>(64);
            smem_load<float>(BASE);
        }
    });
    refuse("but at", 128, [] {
        if (warp_index() == 0) {
            barrier_sync<3>(64);
        } else if (warp_index() == 1) {
            barrier_sync<3>(96);
        }
    });
    refuse("named barrier 3: 32 of 64", 128, [] {
        if (warp_index() == 0) {
            barrier_sync<3>(64);
        }
    });
    refuse("not a multiple of 32", 32, [] { barrier_sync<3>(33); });
}
END_TEST

START_TEST(registers_are_a_budget)
{
    accept(384, [] {
        if (warpgroup_index() == 0) {
            registers_give<24>();
        } else {
            registers_take<240>();
        }
    });
    refuse("free registers", 384, [] { /* 32 + 240 + 240 hung an H200 */
                                       if (warpgroup_index() == 0) {
                                           registers_give<32>();
                                       } else {
                                           registers_take<240>();
                                       }
    });
    refuse("registers_take<40>", 384, [] { registers_take<40>(); });
}
END_TEST

START_TEST(bad_tensor_maps_are_refused)
{
    tensor_map map;
    ck_assert(!tensor_map_encode(
        &map, tensor_rows(element::bf16, swizzle::b128, &output[0].y, 256, 256, 8, 1, 64, 8)));
    ck_assert(!tensor_map_encode(
        &map, tensor_rows(element::bf16, swizzle::b128, &output[0], 24, 256, 8, 1, 64, 8)));
    ck_assert(!tensor_map_encode(
        &map, tensor_rows(element::bf16, swizzle::b128, &output[0], 128, 256, 8, 1, 64, 257)));
    ck_assert(tensor_map_encode(&map_64x64, tensor_rows(element::bf16, swizzle::b128, &output[0],
                                                        128, 256, 64, 1, 64, 64)));
    refuse("aligned to 1024", 32, [] {
        make_barrier(1);
        if (thread_index() == 0) {
            tma_load(BASE + 128, &map_64x64, BAR, l2::normal, 0, 0, 0);
        }
    });
    refuse("rank", 32, [] {
        make_barrier(1);
        if (thread_index() == 0) {
            tma_load(BASE, &map_64x64, BAR, l2::normal, 0, 0);
        }
    });
    refuse("begins at column 64 of 64", 32, [] {
        make_barrier(1);
        if (thread_index() == 0) {
            mbarrier_arrive_expect(BAR, 64 * 128);
            tma_load(BASE, &map_64x64, BAR, l2::normal, 64, 0, 0);
        }
    });
    refuse("begins at row 64 of 64", 32, [] {
        make_barrier(1);
        if (thread_index() == 0) {
            mbarrier_arrive_expect(BAR, 64 * 128);
            tma_load(BASE, &map_64x64, BAR, l2::normal, 0, 64, 0);
        }
    });
}
END_TEST

/* Two threads of a block add to the same sums, one after the other by a flag alone. */
START_TEST(a_flag_orders_threads_of_a_block_too)
{
    auto add = [] {
        bulk_reduce_add(&sums[0].x, BASE, 256, l2::evict_last);
        bulk_commit();
    };
    auto turn = [=](bool wait_done, bool wait_flag, bool fence) {
        return [=] {
            smem_store(mine(), 1.0f);
            fence_async_smem();
            block_sync();
            if (thread_index() == 0) {
                add();
                if (wait_done) {
                    bulk_wait<0>();
                }
                fence_async_global();
                flag_add(&turns, 1);
                bulk_wait<0>();
            } else if (thread_index() == 32) {
                if (wait_flag) {
                    flag_wait(&turns, 1);
                }
                if (fence) {
                    fence_async_global();
                }
                add();
                bulk_wait<0>();
            }
        };
    };
    accept(64, turn(true, true, true));
    refuse("is known to be done", 64, turn(false, true, true));
    refuse("is known to be done", 64, turn(true, false, true));
    refuse("no fence_async_global between", 64, turn(true, true, false));
}
END_TEST

START_TEST(what_is_discarded_is_gone)
{
    size_t beyond = reinterpret_cast<uintptr_t>(sums.data()) % 128;
    f32x4 *line = sums.data() + (128 - beyond) / 16;
    auto discard = [=](f32x4 *at) {
        return [=] {
            if (thread_index() == 0) {
                global_store(at, f32x4{1, 2, 3, 4});
                global_discard(at);
            }
        };
    };
    line[8].x = 5;
    accept(32, discard(line));
    ck_assert(isnan(line[0].x) && isnan(line[7].w) && line[8].x == 5);
    refuse("global_discard", 32, discard(line + 1));
}
END_TEST

START_TEST(flags_that_never_come_are_a_deadlock)
{
    static int32_t flag;
    flag = 0;
    sim::device d;
    sim::device_add(&d, "flag", &flag, 4, sim::usage::scratch);
    sim::device_run(&d, {{1, 1, 1}, 32, BYTES, 0}, [] {
        if (thread_index() == 0) {
            flag_wait(&flag, 1);
        }
    });
    ck_assert_ptr_nonnull(strstr(d.error.c_str(), "a flag in global memory"));
}
END_TEST

/* What is said of a second launch that overlaps a first one, which adds to a counter. */
std::string overlap(const std::function<void(int32_t *counters)> &second)
{
    static int32_t counters[2];
    sim::device d;
    sim::device_add(&d, "counters", counters, sizeof counters, sim::usage::scratch);
    auto first = [] {
        if (thread_index() == 0) {
            atomic_add(counters, 1);
        }
    };
    sim::device_run(&d, {{1, 1, 1}, 32, BYTES, 0}, first);
    sim::device_run(&d, {{1, 1, 1}, 32, BYTES, 0, true}, [&] {
        if (thread_index() == 0) {
            second(counters);
        }
    });
    return d.error;
}

START_TEST(a_launch_that_overlaps_waits_for_the_one_ahead)
{
    std::string early = overlap([](int32_t *counters) {
        atomic_add(counters, 1);
        grid_wait_previous();
    });
    std::string never = overlap([](int32_t *counters) { atomic_add(counters + 1, 1); });
    std::string late = overlap([](int32_t *counters) {
        atomic_add(counters + 1, 1);
        grid_wait_previous();
        atomic_add(counters, 1);
    });
    ck_assert_ptr_nonnull(strstr(early.c_str(), "what the launch ahead has written"));
    ck_assert_ptr_nonnull(strstr(never.c_str(), "no thread of a launch"));
    ck_assert_msg(late.empty(), "%s", late.c_str());
}
END_TEST

START_TEST(a_copy_waits_for_kernels_that_read_there)
{
    constexpr size_t PIECE = 256;
    uint8_t *memory = static_cast<uint8_t *>(sim::memory_take(2 * PIECE));
    const uint8_t news[2 * PIECE] = {};
    sim::device d;
    sim::device_run(&d, {{1, 1, 1}, 32, BYTES, 0}, [=] { global_load<float>(memory + PIECE); });
    ck_assert(sim::memory_copy(memory, news, PIECE));
    ck_assert(!sim::memory_copy(memory, news, PIECE + 1));
    ck_assert_ptr_nonnull(strstr(d.error.c_str(), "what a kernel may still read"));
    sim::memory_settle();
    ck_assert(sim::memory_copy(memory, news, 2 * PIECE));
    sim::memory_give(memory);
}
END_TEST

} // namespace

int main()
{
    Suite *suite = suite_create("sim_rules");
    TCase *tests = tcase_create("rules");
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, shared_memory_is_ordered_by_barriers);
    tcase_add_test(tests, lanes_of_a_warp_are_not_ordered_by_themselves);
    tcase_add_test(tests, warp_wide_calls_are_made_by_all_lanes);
    tcase_add_test(tests, mbarriers_count_rounds);
    tcase_add_test(tests, an_init_must_be_seen);
    tcase_add_test(tests, loads_are_waited_for);
    tcase_add_test(tests, stores_need_a_fence_a_commit_and_a_wait);
    tcase_add_test(tests, a_source_in_use_is_not_overwritten);
    tcase_add_test(tests, wgmma_needs_its_fence_commit_and_wait);
    tcase_add_test(tests, wgmma_operands_are_ready_and_stay);
    tcase_add_test(tests, named_barriers_count_threads);
    tcase_add_test(tests, registers_are_a_budget);
    tcase_add_test(tests, bad_tensor_maps_are_refused);
    tcase_add_test(tests, a_flag_orders_threads_of_a_block_too);
    tcase_add_test(tests, what_is_discarded_is_gone);
    tcase_add_test(tests, flags_that_never_come_are_a_deadlock);
    tcase_add_test(tests, a_launch_that_overlaps_waits_for_the_one_ahead);
    tcase_add_test(tests, a_copy_waits_for_kernels_that_read_there);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
