/* gpu/global on the host: see kernels/gpu/global.cuh for what each function means. */
#ifndef SIM_GPU_GLOBAL_CUH
#define SIM_GPU_GLOBAL_CUH

#include "gpu/types.cuh"
#include "sim/ops.h"

namespace gpu
{

template <typename T>
GPU_INLINE T global_load(const void *source, sim::where at = SIM_HERE)
{
    T value;
    sim::global_read(source, &value, sizeof value, at);
    return value;
}

template <typename T>
GPU_INLINE T global_load_constant(const void *source, sim::where at = SIM_HERE)
{
    return global_load<T>(source, at);
}

template <typename T>
GPU_INLINE T global_load_if(bool wanted, const void *source, T otherwise, sim::where at = SIM_HERE)
{
    return wanted ? global_load<T>(source, at) : otherwise;
}

template <typename T>
GPU_INLINE void global_store(void *target, T value, sim::where at = SIM_HERE)
{
    sim::global_write(target, &value, sizeof value, at);
}

template <typename T>
GPU_INLINE void global_store_if(bool wanted, void *target, T value, sim::where at = SIM_HERE)
{
    if (wanted) {
        sim::global_write(target, &value, sizeof value, at);
    }
}

GPU_INLINE void global_discard(void *line, sim::where at = SIM_HERE)
{
    sim::global_discard(line, at);
}

GPU_INLINE int32_t atomic_add(int32_t *target, int32_t value, sim::where at = SIM_HERE)
{
    return sim::global_fetch_add(target, value, false, at);
}

GPU_INLINE void red_add(float *target, float value, sim::where at = SIM_HERE)
{
    sim::global_add(target, &value, 1, at);
}

GPU_INLINE void red_add(float *target, f32x4 value, sim::where at = SIM_HERE)
{
    sim::global_add(target, &value.x, 4, at);
}

GPU_INLINE int32_t flag_load(const int32_t *flag, sim::where at = SIM_HERE)
{
    return sim::flag_load(flag, at);
}

GPU_INLINE void flag_store(int32_t *flag, int32_t value, sim::where at = SIM_HERE)
{
    sim::flag_store(flag, value, at);
}

GPU_INLINE void flag_add(int32_t *flag, int32_t value, sim::where at = SIM_HERE)
{
    sim::global_fetch_add(flag, value, true, at);
}

GPU_INLINE int32_t flag_fetch_add(int32_t *flag, int32_t value, sim::where at = SIM_HERE)
{
    return sim::global_fetch_add(flag, value, true, at);
}

GPU_INLINE void flag_wait(const int32_t *flag, int32_t value, sim::where at = SIM_HERE)
{
    sim::flag_wait(flag, value, at);
}

} // namespace gpu

#endif
