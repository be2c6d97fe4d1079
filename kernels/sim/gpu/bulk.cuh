/* gpu/bulk on the host: see kernels/gpu/bulk.cuh for what each function means. */
#ifndef SIM_GPU_BULK_CUH
#define SIM_GPU_BULK_CUH

#include "gpu/types.cuh"
#include "sim/ops.h"

namespace gpu
{

GPU_INLINE void bulk_load(uint32_t target, const void *source, uint32_t bytes, uint32_t barrier,
                          l2 hint = l2::normal, sim::where at = SIM_HERE)
{
    (void)hint;
    sim::bulk_load(target, source, bytes, barrier, at);
}

GPU_INLINE void bulk_load_multicast(uint32_t target, const void *source, uint32_t bytes,
                                    uint32_t barrier, uint32_t mask, l2 hint = l2::normal,
                                    sim::where at = SIM_HERE)
{
    (void)hint;
    sim::bulk_load_multicast(target, source, bytes, barrier, mask, at);
}

GPU_INLINE void bulk_store(void *target, uint32_t source, uint32_t bytes, l2 hint = l2::normal,
                           sim::where at = SIM_HERE)
{
    (void)hint;
    sim::bulk_store(target, source, bytes, false, at);
}

GPU_INLINE void bulk_reduce_add(float *target, uint32_t source, uint32_t bytes,
                                l2 hint = l2::normal, sim::where at = SIM_HERE)
{
    (void)hint;
    sim::bulk_store(target, source, bytes, true, at);
}

GPU_INLINE void bulk_commit(sim::where at = SIM_HERE)
{
    sim::bulk_commit(at);
}

template <int PENDING>
GPU_INLINE void bulk_wait_read(sim::where at = SIM_HERE)
{
    sim::bulk_wait(PENDING, true, at);
}

template <int PENDING>
GPU_INLINE void bulk_wait(sim::where at = SIM_HERE)
{
    sim::bulk_wait(PENDING, false, at);
}

} // namespace gpu

#endif
