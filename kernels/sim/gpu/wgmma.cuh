/* gpu/wgmma on the host: see kernels/gpu/wgmma.cuh for what each function means. */
#ifndef SIM_GPU_WGMMA_CUH
#define SIM_GPU_WGMMA_CUH

#include "gpu/types.cuh"
#include "sim/ops.h"

namespace gpu
{

template <typename T>
struct wgmma_is_bf16;

template <>
struct wgmma_is_bf16<bf16> {
    static constexpr bool value = true;
};

template <>
struct wgmma_is_bf16<fp16> {
    static constexpr bool value = false;
};

/* A variadic function has no room for a defaulted place: the simulator takes the lane's last. */
template <typename... Arrays>
GPU_INLINE void wgmma_fence(Arrays &...arrays)
{
    const sim::register_array all[] = {{&arrays, sizeof arrays}..., {nullptr, 0}};
    sim::wgmma_fence(all, sizeof...(arrays));
}

GPU_INLINE void wgmma_commit(sim::where at = SIM_HERE)
{
    sim::wgmma_commit(at);
}

template <int PENDING, typename... Arrays>
GPU_INLINE void wgmma_wait(Arrays &...arrays)
{
    const sim::register_array all[] = {{&arrays, sizeof arrays}..., {nullptr, 0}};
    sim::wgmma_wait(PENDING, all, sizeof...(arrays));
}

template <int N, typename T, major A = major::k, major B = major::k>
GPU_INLINE void wgmma(float (&d)[N / 2], uint64_t a, uint64_t b, bool add, sim::where at = SIM_HERE)
{
    static_assert(N % 8 == 0 && N >= 8 && N <= 256, "N is 8..256 by 8");
    sim::wgmma_issue(
        {d, N, nullptr, a, b, wgmma_is_bf16<T>::value, A == major::mn, B == major::mn, add}, at);
}

template <int N, typename T, major B = major::k>
GPU_INLINE void wgmma(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b, bool add,
                      sim::where at = SIM_HERE)
{
    static_assert(N % 8 == 0 && N >= 8 && N <= 256, "N is 8..256 by 8");
    sim::wgmma_issue({d, N, a, 0, b, wgmma_is_bf16<T>::value, false, B == major::mn, add}, at);
}

} // namespace gpu

#endif
