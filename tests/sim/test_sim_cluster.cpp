/*
 * Clusters: blocks that reach each other's shared memory. Each rule once kept, and broken in one
 * place: the simulator stops, and its message says which. A kernel is written out in its test and
 * run by every thread of two blocks, or as many as it says.
 */
#include <functional>
#include <stdlib.h>
#include <string.h>
#include <string>
#include <vector>

#include "gpu/barrier.cuh"
#include "gpu/bulk.cuh"
#include "gpu/cluster.cuh"
#include "gpu/fence.cuh"
#include "gpu/global.cuh"
#include "gpu/index.cuh"
#include "gpu/launch.cuh"
#include "gpu/mbarrier.cuh"
#include "gpu/smem.cuh"
#include "gpu/tma.cuh"
#include "gpu/warp.cuh"

#include <check.h> /* last: it has a macro named fail */

using namespace gpu;

namespace
{

constexpr uint32_t BASE = sim::SMEM_BASE;
constexpr uint32_t BAR = BASE + 32768, EMPTY = BAR + 8;
constexpr uint32_t BYTES = 65536;
constexpr uint64_t SEEDS = 8; /* a rule must be found by the first of them */
constexpr int THREADS = 64;
constexpr uint32_t ONES = 0x3f803f80; /* two of bf16 */

std::vector<f32x4> input(1024), output(1024);
tensor_map rows; /* of input: 64 x 64 bf16 */

struct shape {
    int blocks, cluster;
};

std::string objection(const shape &s, const std::function<void()> &kernel, uint64_t seed)
{
    sim::device d;
    d.seed = seed;
    sim::device_add(&d, "input", input.data(), input.size() * 16, sim::usage::input);
    sim::device_add(&d, "output", output.data(), output.size() * 16, sim::usage::scratch);
    sim::device_run(&d, {{s.blocks, 1, 1}, THREADS, BYTES, s.cluster}, kernel);
    return d.error;
}

void refuse(const char *what, const std::function<void()> &kernel, const shape &s = {2, 2})
{
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        std::string said = objection(s, kernel, seed);
        ck_assert_msg(strstr(said.c_str(), what) != nullptr, "seed %lu: wanted \"%s\", got \"%s\"",
                      static_cast<unsigned long>(seed), what, said.c_str());
    }
}

void accept(const std::function<void()> &kernel, const shape &s = {2, 2})
{
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        std::string said = objection(s, kernel, seed);
        ck_assert_msg(said.empty(), "seed %lu: %s", static_cast<unsigned long>(seed), said.c_str());
    }
}

void cluster_sync()
{
    cluster_arrive();
    cluster_wait();
}

/* An mbarrier for one arrival, or as many as it says, and EMPTY for one of each block; then the
 * cluster meets. */
void begin(uint32_t arrivals = 1, bool fence = true, bool meet = true)
{
    if (thread_index() == 0) {
        mbarrier_init(BAR, arrivals);
        mbarrier_init(EMPTY, 2);
        if (fence) {
            mbarrier_init_fence();
        }
    }
    if (meet) {
        cluster_sync();
    } else {
        block_sync();
    }
}

uint32_t peer_rank()
{
    return cluster_rank() ^ 1;
}

uint32_t slot()
{
    return BASE + static_cast<uint32_t>(thread_index()) * 16;
}

cluster_address there(uint32_t address)
{
    return cluster_map(address, peer_rank());
}

START_TEST(blocks_know_their_place)
{
    accept(
        [] {
            ck_assert_uint_eq(cluster_rank(), static_cast<uint32_t>(block_x()) % 4);
            ck_assert_uint_eq(cluster_blocks(), 4);
        },
        {12, 4});
    refuse("multiple of it", [] {}, {3, 2});
    refuse("at most 4", [] {}, {8, 8});
}
END_TEST

START_TEST(loads_and_stores_reach_the_peer)
{
    accept([] {
        cluster_sync();
        smem_store_cluster(there(slot()), static_cast<float>(block_x()));
        cluster_sync();
        ck_assert_float_eq(smem_load<float>(slot()), static_cast<float>(peer_rank()));
        smem_store(slot(), f32x4{1, 2, 3, static_cast<float>(thread_index())});
        cluster_sync();
        f32x4 v = smem_load_cluster<f32x4>(there(slot()));
        ck_assert_float_eq(v.w, static_cast<float>(thread_index()));
        cluster_sync();
        smem_store(slot(), 5.0f);
    });
    refuse("it has begun", [] { smem_store_cluster(there(slot()), 1.0f); });
    refuse("rank 2 of a cluster of 2", [] {
        cluster_sync();
        smem_store_cluster(cluster_map(slot(), 2), 1.0f);
    });
    refuse("outside the block's", [] {
        cluster_sync();
        smem_store_cluster(there(BASE + BYTES), 1.0f);
        cluster_sync();
    });
}
END_TEST

START_TEST(the_clusters_barrier_orders_memory)
{
    refuse("smem_load reads shared", [] {
        cluster_sync();
        smem_store_cluster(there(slot()), 1.0f);
        block_sync(); /* of this block only */
        smem_load<float>(slot());
        cluster_sync();
    });
    refuse("nothing this thread waited for says",
           [] { /* the load too late, or the store too early */
                smem_store(slot(), 1.0f);
                cluster_sync();
                smem_load_cluster<float>(there(slot()));
                block_sync();
                smem_store(slot(), 2.0f);
                cluster_sync();
           });
    refuse("smem_load_cluster reads shared", [] {
        cluster_sync();
        smem_store(slot(), 1.0f);
        block_sync();
        smem_load_cluster<float>(there(slot()));
        cluster_sync();
    });
    refuse("without a cluster_wait between", [] {
        cluster_arrive();
        cluster_arrive();
    });
    refuse("without a cluster_arrive before", [] { cluster_wait(); });
    refuse("cluster 0: 2 of 4 warps", [] {
        if (cluster_rank() == 0) {
            cluster_sync();
        } else if (thread_index() == 0) { /* never arrives, and does not end */
            mbarrier_init(BAR, 1);
            mbarrier_wait(BAR, 1);
        }
    });
    accept([] { /* who ended counts as arrived */
                if (cluster_rank() == 0 && warp_index() == 0) {
                    cluster_sync();
                    cluster_sync();
                }
    });
}
END_TEST

/* Each block stores into the other, arrives there, and waits for its own round. */
void exchange(bool fence, bool meet, bool of_cluster)
{
    begin(THREADS, fence, meet);
    smem_store_cluster(there(slot()), static_cast<float>(block_x()));
    mbarrier_arrive_cluster(there(BAR));
    if (of_cluster) {
        mbarrier_wait_cluster(BAR, 1);
    } else {
        mbarrier_wait(BAR, 1);
    }
    ck_assert_float_eq(smem_load<float>(slot()), static_cast<float>(peer_rank()));
}

START_TEST(arrivals_reach_the_peers_mbarrier)
{
    accept([] { exchange(true, true, true); });
    refuse("did not run mbarrier_init_fence", [] { exchange(false, true, true); });
    refuse("it has begun", [] { exchange(true, false, true); });
    refuse("smem_load reads shared", [] { exchange(true, true, false); });
    refuse("there is no mbarrier", [] {
        begin();
        mbarrier_arrive_cluster(there(BAR + 64));
        cluster_sync();
    });
    refuse("mbarrier_arrive_cluster", [] { /* made after the cluster met */
                                           cluster_sync();
                                           if (thread_index() == 0) {
                                               mbarrier_init(BAR, 1);
                                               mbarrier_init_fence();
                                           }
                                           cluster_arrive();
                                           if (thread_index() == 0) {
                                               mbarrier_arrive_cluster(there(BAR));
                                           }
                                           cluster_wait();
    });
    refuse("round 1 misses 1 of 2", [] {
        begin(2);
        if (thread_index() == 0) {
            mbarrier_arrive_cluster(there(BAR));
        }
        mbarrier_wait(BAR, 1);
    });
}
END_TEST

/* Block 0 uses the mbarrier of block 1, which does not wait before it ends. */
START_TEST(a_block_outlives_what_others_do_to_it)
{
    auto last = [](void (*use)(), bool meet) {
        return [=] {
            begin();
            if (cluster_rank() == 0 && thread_index() == 0) {
                use();
            }
            if (meet) {
                cluster_sync();
            }
        };
    };
    auto arrive = [] { mbarrier_arrive_cluster(there(BAR)); };
    auto load = [] { smem_load_cluster<float>(there(BASE)); };
    auto store = [] { smem_store_cluster(there(BASE), 1.0f); };
    auto copy = [] {
        smem_store(BASE, f32x4{});
        fence_async_smem();
        mbarrier_arrive_expect_cluster(there(BAR), 16);
        bulk_copy_cluster(there(BASE), BASE, 16, there(BAR));
    };
    accept(last(arrive, true));
    refuse("block 1", last(arrive, false)); /* "has ended", or "ends, but nothing ..." */
    accept(last(store, true));
    refuse("block 1", last(store, false));
    refuse("never written", last(load, true));
    refuse("is done", last(copy, true)); /* the cluster's barrier says nothing of a copy */
}
END_TEST

/* A block without work goes on; the other one still loads into it. */
START_TEST(a_block_that_ended_gets_nothing)
{
    int ended = 0;
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        std::string said = objection(
            {2, 2},
            [] {
                begin();
                if (cluster_rank() == 0 && thread_index() == 0) {
                    bulk_load_multicast(BASE, input.data(), 256, BAR, 2);
                }
            },
            seed);
        ck_assert_msg(strstr(said.c_str(), "block 1") != nullptr, "%s", said.c_str());
        ended += strstr(said.c_str(), "which has ended") != nullptr;
    }
    ck_assert_int_gt(ended, 0);
}
END_TEST

enum class room { of_cluster, of_block, none }; /* how a block waits for it */

struct multicast {
    uint32_t mask = 3, expected = 2 * 8192;
    bool expects_all = true, right = false;
    room waits = room::of_cluster;
    int rounds = 1;
};

/* Each block loads half of a tile into both; a slot is free when both have read it. */
void halves(const multicast &m)
{
    begin();
    for (int i = 0; i < m.rounds; i++) {
        uint32_t round = static_cast<uint32_t>(i);
        if (thread_index() == 0) {
            if (m.waits == room::of_cluster) {
                mbarrier_wait_cluster(EMPTY, round);
            } else if (m.waits == room::of_block) {
                mbarrier_wait(EMPTY, round);
            }
            if (m.expects_all || cluster_rank() == 0) {
                mbarrier_arrive_expect(BAR, m.expected);
            }
            tma_load_multicast(BASE + cluster_rank() * 8192, &rows, BAR, m.mask, l2::normal, 0, 0,
                               0);
        }
        mbarrier_wait(BAR, round + 1);
        uint32_t pair = smem_load<uint32_t>(slot());
        ck_assert(pair == ONES || !m.right);
        block_sync();
        if (thread_index() == 0) {
            mbarrier_arrive(EMPTY);
            mbarrier_arrive_cluster(there(EMPTY));
        }
    }
    cluster_sync();
}

START_TEST(multicasts_fill_both)
{
    multicast m;
    m.rounds = 3;
    m.right = true;
    accept([=] { halves(m); });
    m.right = false;
    m.waits = room::none;
    refuse("nothing this thread waited for", [=] { halves(m); });
    m.waits = room::of_block; /* loads by threads of the other block are not of its scope */
    refuse("a load of warp", [=] { halves(m); });
    m = {};
    accept([=] { halves(m); });
    m.expected = 8192;
    refuse(" 0x", [=] { halves(m); }); /* bytes too many, or data that is not there */
    m = {};
    m.mask = 1;
    refuse("deadlock", [=] { halves(m); });
    m.mask = 0;
    refuse("mask 0x0", [=] { halves(m); });
    m.mask = 7;
    refuse("rank 2 of a cluster of 2", [=] { halves(m); });
    m = {};
    m.expects_all = false;
    refuse("deadlock", [=] { halves(m); });
}
END_TEST

struct passing {
    bool fence = true, waits_for_room = true, waits_for_copy = true;
    uint32_t from = 1; /* rank of the mbarrier that counts, from block 0 */
};

/* Block 0 writes a tile and copies it to block 1, twice through the same places. */
void pass_on(const passing &p)
{
    begin();
    for (uint32_t round = 0; round < 2; round++) {
        if (cluster_rank() == 0) {
            if (p.waits_for_room) {
                mbarrier_wait_cluster(EMPTY, round);
            }
            smem_store(slot(), f32x4{1, 2, 3, static_cast<float>(round)});
            if (p.fence) {
                fence_async_smem();
            }
            block_sync();
            if (thread_index() == 0) {
                bulk_copy_cluster(there(BASE + 4096), BASE, 1024, cluster_map(BAR, p.from));
                mbarrier_arrive(EMPTY);
            }
        } else {
            if (thread_index() == 0) {
                mbarrier_arrive_expect(BAR, 1024);
            }
            if (p.waits_for_copy) {
                mbarrier_wait(BAR, round + 1);
            }
            ck_assert_float_eq(smem_load<f32x4>(slot() + 4096).w, static_cast<float>(round));
            block_sync();
            if (thread_index() == 0) {
                mbarrier_arrive_cluster(there(EMPTY));
            }
        }
    }
    cluster_sync();
}

START_TEST(copies_go_from_block_to_block)
{
    accept([] { pass_on({}); });
    passing p;
    p.fence = false;
    refuse("ran no fence_async_smem", [=] { pass_on(p); });
    p = {};
    p.waits_for_room = false; /* overwrites the source, before it is known to have arrived */
    refuse("bulk_copy_cluster", [=] { pass_on(p); });
    p = {};
    p.waits_for_copy = false;
    refuse("smem_load reads shared", [=] { pass_on(p); });
    p = {};
    p.from = 0;
    refuse("both lie in one block", [=] { pass_on(p); });
}
END_TEST

/* Bytes that come too soon would count for the round before. */
START_TEST(bytes_count_for_the_round_that_is_meant)
{
    refuse("mbarrier at", [] {
        begin();
        if (thread_index() == 0 && cluster_rank() == 1) {
            mbarrier_arrive(BAR); /* round 1 */
            mbarrier_wait(BAR, 1);
            mbarrier_arrive_expect(BAR, 256);
            mbarrier_wait(BAR, 2);
        } else if (thread_index() == 0) {
            bulk_load_multicast(BASE, input.data(), 256, BAR, 2);
        }
        cluster_sync();
    });
}
END_TEST

} // namespace

int main()
{
    for (f32x4 &v : input) {
        memcpy(&v.x, &ONES, 4);
        v.y = v.z = v.w = v.x;
    }
    if (!tensor_map_encode(&rows, tensor_rows(element::bf16, swizzle::b128, input.data(), 128, 256,
                                              64, 1, 64, 64))) {
        return EXIT_FAILURE;
    }
    Suite *suite = suite_create("sim_cluster");
    TCase *tests = tcase_create("cluster");
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, blocks_know_their_place);
    tcase_add_test(tests, loads_and_stores_reach_the_peer);
    tcase_add_test(tests, the_clusters_barrier_orders_memory);
    tcase_add_test(tests, arrivals_reach_the_peers_mbarrier);
    tcase_add_test(tests, a_block_outlives_what_others_do_to_it);
    tcase_add_test(tests, a_block_that_ended_gets_nothing);
    tcase_add_test(tests, multicasts_fill_both);
    tcase_add_test(tests, copies_go_from_block_to_block);
    tcase_add_test(tests, bytes_count_for_the_round_that_is_meant);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
