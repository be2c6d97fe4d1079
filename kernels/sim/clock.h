/*
 * sim/clock: who knows what. Every thread carries a vector clock over the agents of its cluster's
 * blocks; an access is legal if the accessing thread knows the accesses it must come after. Judging
 * each access when it is issued finds a missing wait even on schedules where the data happened to
 * be there.
 *
 * Agents (few, so that a block's part is 1 KiB and a join some SIMD instructions):
 *   generic[w]   ordinary accesses of warp w. Stamps count releases of the warp; of the newest
 * stamp it also matters which lanes are known (full up to one stamp, `lanes` up to `part`).
 *   fenced[w]    the same, as far as fence_async_smem made the writes visible to the async proxy
 *   multiply[w]  wgmma groups of warp w that are known to be finished
 *   bulk[w]      bulk store groups of warp w that are known to have read their source
 *   bulk_done[w] bulk groups whose writes to global memory are known to be done
 *   tensor[w]    tcgen05 multiplications issued by warp w that are known to be finished
 *   tensor_load, tensor_store[w]   its loads and stores of tensor memory that are
 *   barrier[b]   rounds of mbarrier b that are known to be complete: TMA data carries such a stamp
 */
#ifndef SIM_CLOCK_H
#define SIM_CLOCK_H

#include <stdint.h>

namespace sim
{

constexpr int CLUSTER_MAX = 4;   /* blocks of a cluster */
constexpr int WARPS_MAX = 16;    /* of a block: 512 threads */
constexpr int BARRIERS_MAX = 64; /* mbarriers of a block */

/* Known of the lanes of each warp: everything up to full, and up to part from `lanes`. */
struct knowledge {
    uint32_t full[WARPS_MAX];
    uint32_t part[WARPS_MAX];
    uint32_t lanes[WARPS_MAX];

    bool covers(int warp, uint32_t stamp, uint32_t of_lanes) const
    {
        return full[warp] >= stamp || (part[warp] >= stamp && (of_lanes & ~lanes[warp]) == 0);
    }

    /* Learn that `lane` of the warp did everything up to stamp. */
    void add_lane(int warp, uint32_t stamp, int lane)
    {
        lanes[warp] = (part[warp] > full[warp] ? lanes[warp] : 0) | 1u << lane;
        part[warp] = stamp;
    }

    void add_all(int warp, uint32_t stamp)
    {
        full[warp] = full[warp] > stamp ? full[warp] : stamp;
    }
};

/* Of the agents of one block. */
struct clock_part {
    knowledge generic;
    knowledge fenced;
    uint32_t multiply[WARPS_MAX];
    uint32_t bulk[WARPS_MAX];
    uint32_t bulk_done[WARPS_MAX];
    uint32_t tensor[WARPS_MAX];
    uint32_t tensor_load[WARPS_MAX];
    uint32_t tensor_store[WARPS_MAX];
    uint32_t barrier[BARRIERS_MAX];
};

/* Only the parts of the blocks that a cluster of this launch has are set, copied and joined. */
struct alignas(32) clock {
    clock_part of[CLUSTER_MAX]; /* by rank */

    clock();
    clock(const clock &other);
    clock &operator=(const clock &other);
};

/* Before the clocks of a launch are made: how many blocks a cluster has. */
void clock_use(int blocks);

/* into = what either knows. */
void clock_join(clock *into, const clock &from);

} // namespace sim

#endif
