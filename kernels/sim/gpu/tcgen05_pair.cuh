/* gpu/tcgen05_pair on the host: see kernels/gpu/tcgen05_pair.cuh for what each function means. */
#ifndef SIM_GPU_TCGEN05_PAIR_CUH
#define SIM_GPU_TCGEN05_PAIR_CUH

#include "gpu/tcgen05.cuh"
#include "gpu/tensor_map.cuh"

namespace gpu
{

template <int COLUMNS>
GPU_INLINE void tmem_take_pair(uint32_t smem_target, sim::where at = SIM_HERE)
{
    static_assert(COLUMNS >= 32 && COLUMNS <= 512 && (COLUMNS & (COLUMNS - 1)) == 0,
                  "32..512, 2^n");
    sim::tensor_take(COLUMNS, smem_target, 2, at);
}

template <int COLUMNS>
GPU_INLINE void tmem_give_pair(uint32_t base, sim::where at = SIM_HERE)
{
    sim::tensor_give(base, COLUMNS, 2, at);
}

GPU_INLINE void tmem_take_no_more_pair(sim::where at = SIM_HERE)
{
    sim::tensor_take_no_more(2, at);
}

GPU_INLINE void tcgen05_multiply_pair(uint32_t d, uint64_t a, uint64_t b, uint32_t instruction,
                                      bool add, sim::where at = SIM_HERE)
{
    sim::tensor_multiply({d, 0, false, a, b, instruction, add, 2}, at);
}

GPU_INLINE void tcgen05_multiply_tensor_pair(uint32_t d, uint32_t a, uint64_t b,
                                             uint32_t instruction, bool add,
                                             sim::where at = SIM_HERE)
{
    sim::tensor_multiply({d, a, true, 0, b, instruction, add, 2}, at);
}

GPU_INLINE void tcgen05_commit_pair(uint32_t barrier, uint32_t mask, sim::where at = SIM_HERE)
{
    sim::tensor_commit(barrier, mask, 2, at);
}

GPU_INLINE void tma_load_pair(uint32_t target, const tensor_map *map, cluster_address barrier, l2,
                              int32_t c0, int32_t c1, int32_t c2, int32_t c3,
                              sim::where at = SIM_HERE)
{
    const int32_t c[] = {c0, c1, c2, c3};
    sim::tensor_load_pair(target, map->shape, barrier, c, 4, at);
}

} // namespace gpu

#endif
