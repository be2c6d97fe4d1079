/* gpu/smem on the host: see kernels/gpu/smem.cuh for what each function means. */
#ifndef SIM_GPU_SMEM_CUH
#define SIM_GPU_SMEM_CUH

#include "gpu/types.cuh"
#include "sim/ops.h"

namespace gpu
{

constexpr uint32_t SMEM_ALIGNMENT = 1024;
constexpr uint32_t SMEM_BYTES = 227 * 1024;

GPU_INLINE uint32_t smem_base()
{
    return sim::SMEM_BASE;
}

template <typename T>
GPU_INLINE T smem_load(uint32_t address, sim::where at = SIM_HERE)
{
    T value;
    sim::smem_read(address, &value, sizeof value, at);
    return value;
}

/* The types of the device build, spelled out so that nothing converts on the way. */
#define SIM_SMEM_STORE(T)                                                                          \
    GPU_INLINE void smem_store(uint32_t address, T value, sim::where at = SIM_HERE)                \
    {                                                                                              \
        sim::smem_write(address, &value, sizeof value, at);                                        \
    }
SIM_SMEM_STORE(float)
SIM_SMEM_STORE(f32x2)
SIM_SMEM_STORE(f32x4)
SIM_SMEM_STORE(uint32_t)
SIM_SMEM_STORE(int32_t)
SIM_SMEM_STORE(u32x2)
SIM_SMEM_STORE(u32x4)
SIM_SMEM_STORE(s32x4)
#undef SIM_SMEM_STORE

GPU_INLINE void stmatrix(uint32_t row_address, const uint32_t (&r)[4], sim::where at = SIM_HERE)
{
    sim::matrix_store(row_address, r, 4, false, at);
}

GPU_INLINE void stmatrix(uint32_t row_address, const uint32_t (&r)[2], sim::where at = SIM_HERE)
{
    sim::matrix_store(row_address, r, 2, false, at);
}

GPU_INLINE void stmatrix_transposed(uint32_t row_address, const uint32_t (&r)[4],
                                    sim::where at = SIM_HERE)
{
    sim::matrix_store(row_address, r, 4, true, at);
}

GPU_INLINE void stmatrix_transposed(uint32_t row_address, const uint32_t (&r)[2],
                                    sim::where at = SIM_HERE)
{
    sim::matrix_store(row_address, r, 2, true, at);
}

GPU_INLINE void ldmatrix(uint32_t row_address, uint32_t (&r)[4], sim::where at = SIM_HERE)
{
    sim::matrix_load(row_address, r, 4, false, at);
}

GPU_INLINE void ldmatrix_transposed(uint32_t row_address, uint32_t (&r)[4],
                                    sim::where at = SIM_HERE)
{
    sim::matrix_load(row_address, r, 4, true, at);
}

} // namespace gpu

#endif
