/* gpu/tcgen05 on the host: see kernels/gpu/tcgen05.cuh for what each function means. */
#ifndef SIM_GPU_TCGEN05_CUH
#define SIM_GPU_TCGEN05_CUH

#include <string.h>

#include "gpu/tcgen05_descriptor.cuh"
#include "gpu/types.cuh"
#include "sim/ops.h"

namespace gpu
{

template <int COLUMNS>
GPU_INLINE void tmem_take(uint32_t smem_target, sim::where at = SIM_HERE)
{
    static_assert(COLUMNS >= 32 && COLUMNS <= 512 && (COLUMNS & (COLUMNS - 1)) == 0,
                  "32..512, 2^n");
    sim::tensor_take(COLUMNS, smem_target, 1, at);
}

template <int COLUMNS>
GPU_INLINE void tmem_give(uint32_t base, sim::where at = SIM_HERE)
{
    sim::tensor_give(base, COLUMNS, 1, at);
}

GPU_INLINE void tmem_take_no_more(sim::where at = SIM_HERE)
{
    sim::tensor_take_no_more(1, at);
}

GPU_INLINE void tcgen05_fence_before(sim::where at = SIM_HERE)
{
    sim::tensor_fence_before(at);
}

GPU_INLINE void tcgen05_fence_after(sim::where at = SIM_HERE)
{
    sim::tensor_fence_after(at);
}

GPU_INLINE void tcgen05_multiply(uint32_t d, uint64_t a, uint64_t b, uint32_t instruction, bool add,
                                 sim::where at = SIM_HERE)
{
    sim::tensor_multiply({d, 0, false, a, b, instruction, add, 1}, at);
}

GPU_INLINE void tcgen05_multiply_tensor(uint32_t d, uint32_t a, uint64_t b, uint32_t instruction,
                                        bool add, sim::where at = SIM_HERE)
{
    sim::tensor_multiply({d, a, true, 0, b, instruction, add, 1}, at);
}

GPU_INLINE void tcgen05_commit(uint32_t barrier, sim::where at = SIM_HERE)
{
    sim::tensor_commit(barrier, 0, 1, at);
}

GPU_INLINE void tcgen05_commit_multicast(uint32_t barrier, uint32_t mask, sim::where at = SIM_HERE)
{
    sim::tensor_commit(barrier, mask, 1, at);
}

/* T: float or uint32_t, COUNT 1 to 128, a power of two. */
template <typename T, int COUNT>
GPU_INLINE void tmem_load(T (&r)[COUNT], uint32_t from, sim::where at = SIM_HERE)
{
    static_assert(sizeof(T) == 4 && COUNT <= 128 && (COUNT & (COUNT - 1)) == 0, "1..128, 2^n");
    sim::tensor_load(reinterpret_cast<uint32_t *>(r), COUNT, from, at);
}

template <typename... Arrays>
GPU_INLINE void tmem_load_wait(Arrays &...arrays)
{
    const sim::register_array all[] = {{&arrays, sizeof arrays}..., {nullptr, 0}};
    sim::tensor_load_wait(all, sizeof...(arrays));
}

template <typename T, int COUNT>
GPU_INLINE void tmem_store(uint32_t to, const T (&r)[COUNT], sim::where at = SIM_HERE)
{
    static_assert(sizeof(T) == 4 && COUNT <= 128 && (COUNT & (COUNT - 1)) == 0, "1..128, 2^n");
    uint32_t copy[COUNT];
    memcpy(copy, r, sizeof copy);
    sim::tensor_store(to, copy, COUNT, at);
}

GPU_INLINE void tmem_store_wait(sim::where at = SIM_HERE)
{
    sim::tensor_store_wait(at);
}

} // namespace gpu

#endif
