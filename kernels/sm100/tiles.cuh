/*
 * sm100/tiles: 16-bit matrix tiles in shared and tensor memory as operands of tcgen05, and products
 * over a whole reduction.
 *
 * In shared memory a tile is column panels of 64 elements with the 128-byte swizzle, as TMA writes
 * them. In tensor memory a tile of 128 rows has a row per lane; scores and sums take a column per
 * element, probabilities a column per pair.
 */
#ifndef SM100_TILES_CUH
#define SM100_TILES_CUH

#include "gpu/descriptor.cuh"
#include "gpu/math.cuh"
#include "gpu/smem.cuh"
#include "gpu/tcgen05.cuh"

namespace sm100
{

using gpu::major;

constexpr gpu::swizzle SWIZZLE = gpu::swizzle::b128;
constexpr int PANEL = 64;                       /* columns of a panel */
constexpr uint32_t PANEL_ROW = 128;             /* bytes of a row of a panel */
constexpr int K_STEP = 16;                      /* reduction length of one multiplication */
constexpr int TILE_ROWS = 128;                  /* of an accumulator: one lane each */
constexpr uint32_t K_STEP_COLUMNS = K_STEP / 2; /* of an A operand in tensor memory */

/* Bytes of a tile of rows x columns, columns rounded up to panels. */
GPU_BOTH uint32_t tile_bytes(int rows, int columns)
{
    return static_cast<uint32_t>((columns + PANEL - 1) / PANEL * rows) * PANEL_ROW;
}

GPU_BOTH int steps_of(int length)
{
    return (length + K_STEP - 1) / K_STEP;
}

/* Rows are the operand's own index, columns the reduction; row: a multiple of 8. */
GPU_INLINE uint64_t operand_k(uint32_t tile, int row = 0)
{
    return gpu::tcgen05_descriptor_k(SWIZZLE, tile + static_cast<uint32_t>(row) * PANEL_ROW);
}

/* Rows are the reduction; ROWS: of the stored tile. */
template <int ROWS>
GPU_INLINE uint64_t operand_mn(uint32_t tile)
{
    return gpu::tcgen05_descriptor_mn(SWIZZLE, tile, ROWS);
}

/* Of the low word only, which never carries: the high one stays a constant of the code. */
GPU_INLINE uint64_t advance(uint64_t operand, uint32_t bytes)
{
    return operand >> 32 << 32 | (static_cast<uint32_t>(operand) + (bytes >> 4));
}

template <int ROWS>
GPU_INLINE uint64_t step_k(uint64_t operand, int step)
{
    return advance(operand, gpu::step_bytes_k(SWIZZLE, ROWS, step));
}

GPU_INLINE uint64_t step_mn(uint64_t operand, int step)
{
    return advance(operand, gpu::step_bytes_mn(SWIZZLE, step));
}

/* d (128 x n) = A B^T; tiles of A_ROWS and B_ROWS rows; the first `steps` of at most STEPS. */
template <int STEPS, int A_ROWS, int B_ROWS>
GPU_INLINE void multiply_kk(uint32_t d, uint64_t a, uint64_t b, uint32_t instruction, int steps)
{
#pragma unroll
    for (int k = 0; k < STEPS; k++) {
        if (k < steps) {
            gpu::tcgen05_multiply(d, step_k<A_ROWS>(a, k), step_k<B_ROWS>(b, k), instruction,
                                  k > 0);
        }
    }
}

/* The same, any number of steps. Panels are not unrolled: their operands, all constant for a tile,
 * would fill the registers of one thread. */
template <int A_ROWS, int B_ROWS>
GPU_INLINE void multiply_panels(uint32_t d, uint64_t a, uint64_t b, uint32_t instruction, int steps)
{
    constexpr int PANEL_STEPS = PANEL / K_STEP;
#pragma unroll 1
    for (int done = 0; done < steps; done += PANEL_STEPS) {
#pragma unroll
        for (int k = 0; k < PANEL_STEPS; k++) {
            if (done + k < steps) {
                gpu::tcgen05_multiply(d, step_k<A_ROWS>(a, k), step_k<B_ROWS>(b, k), instruction,
                                      done + k > 0);
            }
        }
        a = step_k<A_ROWS>(a, PANEL_STEPS);
        b = step_k<B_ROWS>(b, PANEL_STEPS);
    }
}

/* d (+)= A B; A: pairs in tensor memory, B: rows are the reduction. Steps [FIRST, LAST). */
template <int FIRST, int LAST>
GPU_INLINE void multiply_tensor(uint32_t d, uint32_t a, uint64_t b, uint32_t instruction, bool add)
{
#pragma unroll
    for (int k = FIRST; k < LAST; k++) {
        gpu::tcgen05_multiply_tensor(d, a + static_cast<uint32_t>(k) * K_STEP_COLUMNS,
                                     step_mn(b, k), instruction, add || k > 0);
    }
}

/* d (128 x n) = A B; rows of both tiles are the reduction. */
template <int STEPS>
GPU_INLINE void multiply_mm(uint32_t d, uint64_t a, uint64_t b, uint32_t instruction)
{
#pragma unroll
    for (int k = 0; k < STEPS; k++) {
        gpu::tcgen05_multiply(d, step_mn(a, k), step_mn(b, k), instruction, k > 0);
    }
}

/*
 * The 16 bytes that are `chunk` further in a row of a panel than these, in an aligned group of a
 * power of two: the swizzle is an XOR, so one register serves all stores to the group.
 */
GPU_BOTH uint32_t in_panel(uint32_t address, uint32_t chunk)
{
    return address ^ chunk * 16;
}

/* A lane's row of a panel of 32 rows, scaled. */
template <typename T>
GPU_INLINE void stage_row(const float (&row)[PANEL], float scale, uint32_t panel, int lane)
{
    uint32_t start = gpu::tile_address(SWIZZLE, panel, 32, static_cast<uint32_t>(lane), 0);
#pragma unroll
    for (uint32_t i = 0; i < PANEL / 8; i++) {
        const float *x = &row[8 * i];
        gpu::smem_store(in_panel(start, i), gpu::u32x4{gpu::pack<T>(x[0] * scale, x[1] * scale),
                                                       gpu::pack<T>(x[2] * scale, x[3] * scale),
                                                       gpu::pack<T>(x[4] * scale, x[5] * scale),
                                                       gpu::pack<T>(x[6] * scale, x[7] * scale)});
    }
}

} // namespace sm100

#endif
