/*
 * sim/block: threads, warps and the shared memory of one block, with the shadow that remembers who
 * wrote and who read what. Owner: the machine; everything runs on one host thread.
 */
#ifndef SIM_BLOCK_H
#define SIM_BLOCK_H

#include <array>
#include <map>
#include <memory>
#include <stdint.h>
#include <vector>

#include "sim/clock.h"
#include "sim/fiber.h"
#include "sim/where.h"

namespace sim
{

constexpr int LANES = 32;
constexpr uint32_t SMEM_BASE = 1024; /* not 0, so that an address 0 is a found bug */
constexpr uint32_t SMEM_MAX = 227 * 1024;
constexpr int NAMED_BARRIERS = 16;

struct block;
struct cluster;
struct warp;
struct machine;

/* ------------------------------------------------------------------ shadow of shared memory */

/* Who wrote these four bytes last: an agent of the clock's part of block `rank` of the cluster, its
 * stamp, lane and source line. */
struct tag {
    uint32_t stamp;
    uint8_t agent;
    uint8_t lane;
    uint8_t rank;
    uint16_t place;

    uint64_t bits() const
    {
        return static_cast<uint64_t>(place) << 48 | static_cast<uint64_t>(rank) << 45 |
               static_cast<uint64_t>(lane) << 40 | static_cast<uint64_t>(agent) << 32 | stamp;
    }
    static tag of(uint64_t bits)
    {
        return {static_cast<uint32_t>(bits), static_cast<uint8_t>(bits >> 32),
                static_cast<uint8_t>(bits >> 40 & 31), static_cast<uint8_t>(bits >> 45 & 7),
                static_cast<uint16_t>(bits >> 48)};
    }
};
static_assert(LANES <= 32 && CLUSTER_MAX <= 8, "the bits of a tag");

constexpr uint8_t AGENT_NONE = 0;       /* never written */
constexpr uint8_t AGENT_GENERIC = 1;    /* + warp */
constexpr uint8_t AGENT_BARRIER = 64;   /* + mbarrier: TMA data */
constexpr uint8_t AGENT_RESERVED = 255; /* an mbarrier lives here */

/* Ordinary readers of 16 bytes, per warp. */
struct read_mark {
    uint32_t stamp, lanes;
    uint16_t place;
};

struct read_marks {
    read_mark of[WARPS_MAX];
};

/* Asynchronous readers of 128 bytes: newest group of each wgmma, then bulk, then tcgen05 stream.
 */
struct async_marks {
    uint32_t group[3 * WARPS_MAX];
    uint16_t place[3 * WARPS_MAX];
};

/* A load by a thread of another block of the cluster. */
struct remote_read {
    uint32_t address, bytes;
    int rank, warp, lane;
    uint32_t stamp;
    uint16_t place;
};

/* A copy to another block reads these bytes until this round of that block's mbarrier. */
struct copy_read {
    uint32_t address, bytes;
    int rank, barrier;
    uint32_t round;
    uint16_t place;
};

struct shadow {
    std::vector<uint64_t> writers;     /* per 4 bytes: tag */
    std::vector<uint16_t> reader_slot; /* per 16 bytes: index into readers, 0 none */
    std::vector<read_marks> readers;
    std::vector<async_marks> async;  /* per 128 bytes */
    std::vector<uint8_t> async_used; /* per 128 bytes */
    std::vector<remote_read> remote_reads;
    std::vector<copy_read> copies;
    std::vector<uint64_t> version; /* per 1024 bytes: when it last changed, for decoded operands */
};

/* ------------------------------------------------------------------ barriers */

struct mbarrier {
    uint32_t address;
    uint32_t arrivals, pending;
    int64_t missing_bytes; /* of the current round */
    uint32_t rounds;       /* completed */
    bool visible;          /* mbarrier_init_fence ran after the init: TMA and the cluster see it */
    tag writer;            /* the init, as a write that users must know of */
    clock gathering, complete;
    std::vector<struct thread *> waiting;
    where arrived_at; /* the newest arrival, for reports */
};

struct named_barrier {
    int expected, arrived;
    clock gathering;
    std::vector<warp *> waiting;
    where at;
};

/* ------------------------------------------------------------------ wgmma, one stream per warp */

constexpr int COLUMNS_MAX = 256;

/* A warp's 16 rows of an accumulator that is in flight. */
struct accumulator {
    float *at[LANES];      /* each lane's register array */
    uint32_t taken, given; /* lanes whose registers were taken, given back */
    int columns;
    uint32_t last_group;
    where last;
    alignas(32) float tile[16 * COLUMNS_MAX];
};

struct multiply {
    accumulator *d;
    uint64_t a_descriptor, b_descriptor;
    bool a_in_registers, bf16, a_mn, b_mn, add;
    int columns;
    uint32_t a_registers[LANES][4];
    const uint32_t *a_at[LANES];
    int deposits;
    uint32_t group;
    bool done;
    where at;
};

/* ------------------------------------------------------------------ wgmma_fence, per thread */

/* An array of the thread as the newest fence that named it saw it. */
struct fenced_registers {
    const uint8_t *at;
    std::vector<uint8_t> copy;
};

/* ------------------------------------------------------------------ bulk groups, per thread */

struct bulk_group {
    struct thread *owner;
    uint32_t number;      /* in the warp's bulk stream; 0 while open */
    int reading, writing; /* operations that still do */
};

/* ------------------------------------------------------------------ threads and warps */

/* Registers that a tensor memory load promised this lane. */
struct tensor_delivery {
    uint32_t *registers;
    std::vector<uint32_t> values;
    where at;
};

struct thread {
    block *owner;
    warp *of;
    int lane, index;
    fiber context;
    bool done, asleep;
    bool waited; /* for the launch ahead: grid_wait_previous */
    clock known;
    uint32_t trace; /* of warp-wide calls; lanes that meet must agree */

    const char *waits_for; /* while blocked */
    where waits_at;
    uint32_t wait_address, wait_value;

    bool multiply_fenced;
    std::vector<fenced_registers> fenced; /* arrays that a wgmma_fence named */
    where multiply_at;                    /* the newest wgmma or commit */
    uint32_t multiply_groups;             /* committed */
    size_t multiply_next; /* index into the warp's queue of this lane's next deposit */
    uint32_t tensor_loads_waited, tensor_stores_waited; /* own warp's, by number */
    uint32_t tensor_loads_fenced, tensor_stores_fenced; /* others may be told of */
    bool tensor_fenced; /* tcgen05_fence_after ran since this thread last met others */
    std::vector<tensor_delivery> deliveries;
    uint32_t bulk_waited; /* newest own group whose writes were waited for */
    std::vector<std::shared_ptr<bulk_group>> bulk; /* oldest first; the last may be open */
};

struct collective {
    const char *name;
    where at;
    int arrived;
    uint64_t in[LANES], out[LANES];
};

struct warp {
    block *owner;
    int index;
    thread *lanes[LANES];
    uint32_t ready; /* lanes that can run */
    bool queued;    /* in the machine's ready list */
    int elected;
    int live;
    uint32_t now;    /* stamp of its accesses; moves on at each release */
    uint32_t synced; /* stamp when its lanes last met */
    collective meeting;
    std::vector<std::unique_ptr<multiply>> multiplies; /* not retired by all lanes */
    size_t multiplies_base;                            /* number of the queue's first entry */
    size_t multiplies_issued;                          /* numbers below this are issued */
    std::vector<std::unique_ptr<accumulator>> accumulators;
    uint32_t bulk_groups;                                    /* closed */
    int registers;                                           /* per thread */
    uint32_t tensor_multiplies, tensor_loads, tensor_stores; /* issued */
    int tensor_lane;         /* that issued the multiplications since the last commit; -1 none */
    bool at_cluster_barrier; /* arrived in the round that gathers */
    uint32_t cluster_rounds; /* of the cluster's barrier that it has waited for or arrived in */
    bool cluster_owes_wait;  /* arrived and has not waited */
};

struct tensor_memory; /* sim/tensor.h */

/* What other clusters had published in a flag when a thread of this one acquired it. */
using published = std::map<int, clock>; /* by cluster */
struct learned {
    std::shared_ptr<const published> what;
    int rank, warp, lane; /* who acquired, and when */
    uint32_t stamp;
    bool fenced; /* fence_async_global ran since: bulk operations come after it, too */
};

/* Blocks that run together and reach each other's shared memory; without clusters, one block. */
struct cluster {
    int index; /* of the grid */
    std::vector<block *> blocks;
    std::vector<learned> from_others;
    /* its barrier: cluster_arrive, cluster_wait */
    int arrived, ended; /* warps */
    uint32_t rounds;    /* completed */
    clock gathering, complete;
    std::vector<thread *> waiting;
};

/* A thread of another block arrived on an mbarrier of this one. */
struct remote_arrival {
    int barrier;
    uint32_t round;
    int rank, warp, lane;
    uint32_t stamp;
    uint16_t place;
};

/*
 * What other blocks did to this one, as newest stamps: before the last of its threads ends, one
 * of them must know that it is done.
 */
struct visits {
    clock by;
    std::vector<remote_arrival> arrivals; /* of the newest round of each mbarrier */
    uint16_t generic[CLUSTER_MAX][WARPS_MAX], tensor[CLUSTER_MAX][WARPS_MAX]; /* places */
    uint16_t barrier[BARRIERS_MAX];
};

struct block {
    block();
    ~block();
    machine *owner;
    int index; /* of the grid, x fastest */
    int at[3];
    uint32_t smem_bytes;
    std::vector<uint8_t> data; /* address - SMEM_BASE */
    shadow marks;
    std::vector<std::unique_ptr<mbarrier>> mbarriers;
    std::array<named_barrier, NAMED_BARRIERS> named;
    std::unique_ptr<tensor_memory> tensor;
    std::shared_ptr<cluster> in;
    int rank; /* in the cluster */
    visits visited;
    std::vector<std::unique_ptr<thread>> threads;
    std::vector<std::unique_ptr<warp>> warps;
    int live;       /* threads */
    int loads;      /* asynchronous copies on their way into this block */
    int from_peers; /* copies and arrivals on their way from other blocks */
    int registers_free;
    std::vector<thread *> waiting_for_registers;
};

/* What the thread knows of its own block. */
inline clock_part &own(thread &t)
{
    return t.known.of[t.owner->rank];
}
inline const clock_part &own(const thread &t)
{
    return t.known.of[t.owner->rank];
}

} // namespace sim

#endif
