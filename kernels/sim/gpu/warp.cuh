/* gpu/warp on the host: see kernels/gpu/warp.cuh for what each function means. */
#ifndef SIM_GPU_WARP_CUH
#define SIM_GPU_WARP_CUH

#include <string.h>

#include "gpu/types.cuh"
#include "sim/machine.h"
#include "sim/ops.h"

namespace gpu
{

constexpr uint32_t ALL_LANES = 0xffffffffu;

/* Every lane's value as bits, then the value that this lane asks for. */
template <typename T>
GPU_INLINE T shuffle_from(const char *name, T value, int source_lane, sim::where at)
{
    static_assert(sizeof(T) == 4, "float, int32_t or uint32_t");
    uint32_t bits;
    memcpy(&bits, &value, 4);
    sim::warp_meet(name, at, bits, sim::meet::values_only,
                   [](sim::warp &, sim::collective &c) { memcpy(c.out, c.in, sizeof c.out); });
    bits = static_cast<uint32_t>(sim::self().of->meeting.out[source_lane]);
    memcpy(&value, &bits, 4);
    return value;
}

template <typename T>
GPU_INLINE T shuffle_xor(T value, int lane_mask, sim::where at = SIM_HERE)
{
    return shuffle_from("shuffle_xor", value, (sim::self().lane ^ lane_mask) & 31, at);
}

template <typename T>
GPU_INLINE T shuffle(T value, int source_lane, sim::where at = SIM_HERE)
{
    return shuffle_from("shuffle", value, source_lane & 31, at);
}

template <typename T>
GPU_INLINE T shuffle_up(T value, int delta, sim::where at = SIM_HERE)
{
    int lane = sim::self().lane;
    return shuffle_from("shuffle_up", value, lane >= delta ? lane - delta : lane, at);
}

template <typename T>
GPU_INLINE T shuffle_down(T value, int delta, sim::where at = SIM_HERE)
{
    int lane = sim::self().lane;
    return shuffle_from("shuffle_down", value, lane + delta < 32 ? lane + delta : lane, at);
}

GPU_INLINE uint32_t vote_mask(bool predicate, sim::where at = SIM_HERE)
{
    return static_cast<uint32_t>(sim::warp_meet("vote", at, predicate, sim::meet::values_only,
                                                [](sim::warp &, sim::collective &c) {
                                                    uint64_t mask = 0;
                                                    for (int i = 0; i < sim::LANES; i++) {
                                                        mask |= c.in[i] << i;
                                                    }
                                                    for (uint64_t &out : c.out) {
                                                        out = mask;
                                                    }
                                                }));
}

GPU_INLINE bool vote_any(bool predicate, sim::where at = SIM_HERE)
{
    return vote_mask(predicate, at) != 0;
}

GPU_INLINE bool vote_all(bool predicate, sim::where at = SIM_HERE)
{
    return vote_mask(predicate, at) == ALL_LANES;
}

GPU_INLINE void warp_sync(sim::where at = SIM_HERE)
{
    if (!sim::dropped("warp_sync", at)) {
        sim::warp_meet("warp_sync", at, 0, sim::meet::orders_memory);
    }
}

GPU_INLINE bool elect_one(sim::where at = SIM_HERE)
{
    return sim::warp_elect(at);
}

} // namespace gpu

#endif
