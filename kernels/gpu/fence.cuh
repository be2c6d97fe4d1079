/* gpu/fence: order between this thread's accesses and the asynchronous engines. */
#ifndef GPU_FENCE_CUH
#define GPU_FENCE_CUH

#include "gpu/types.cuh"

namespace gpu
{

/*
 * Shared memory written by st.shared or stmatrix is seen by wgmma and TMA only after the writer
 * ran this and then met the issuing thread at a barrier.
 */
GPU_INLINE void fence_async_smem()
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/* The same for global memory that TMA reads or reduces into. */
GPU_INLINE void fence_async_global()
{
    asm volatile("fence.proxy.async.global;" ::: "memory");
}

/* Order all of this thread's memory accesses for the whole GPU. */
GPU_INLINE void fence_gpu()
{
    asm volatile("fence.acq_rel.gpu;" ::: "memory");
}

} // namespace gpu

#endif
