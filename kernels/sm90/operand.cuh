/*
 * sm90/operand: a 16-bit matrix tile in shared memory as a wgmma operand, and products over a whole
 * reduction. Tiles are column panels of 64 elements with the 128-byte swizzle, as TMA writes them.
 */
#ifndef SM90_OPERAND_CUH
#define SM90_OPERAND_CUH

#include "gpu/descriptor.cuh"
#include "gpu/warp.cuh"
#include "gpu/wgmma.cuh"

namespace sm90
{

using gpu::major;

constexpr gpu::swizzle SWIZZLE = gpu::swizzle::b128;
constexpr int PANEL = 64;           /* columns of a panel */
constexpr uint32_t PANEL_ROW = 128; /* bytes of a row of a panel */
constexpr int K_STEP = 16;          /* reduction length of one wgmma */

/* Bytes of a tile of rows x columns, columns rounded up to panels. */
GPU_BOTH uint32_t tile_bytes(int rows, int columns)
{
    return static_cast<uint32_t>((columns + PANEL - 1) / PANEL * rows) * PANEL_ROW;
}

/*
 * A tile's address as the descriptors of one group of products need it: ptxas takes what a loop
 * counts, or memory said, for different in each lane, builds each descriptor in vector registers
 * and moves it over in front of its wgmma: some 130 instructions a step. Call it right before the
 * group: carried over a loop's end the knowledge is lost again.
 */
GPU_INLINE uint32_t uniform_tile(uint32_t tile)
{
    return gpu::shuffle(tile, 0);
}

/* Where the first operand row of a k-major tile of ROWS rows lies; row: a multiple of 8. */
GPU_INLINE uint64_t operand_k(uint32_t tile, int row = 0)
{
    return gpu::wgmma_descriptor_k(SWIZZLE, tile + static_cast<uint32_t>(row) * PANEL_ROW);
}

template <int ROWS>
GPU_INLINE uint64_t operand_mn(uint32_t tile)
{
    return gpu::wgmma_descriptor_mn(SWIZZLE, tile, ROWS);
}

template <int ROWS>
GPU_INLINE uint64_t step_k(uint64_t operand, int step)
{
    return gpu::descriptor_advance(operand, gpu::step_bytes_k(SWIZZLE, ROWS, step));
}

GPU_INLINE uint64_t step_mn(uint64_t operand, int step)
{
    return gpu::descriptor_advance(operand, gpu::step_bytes_mn(SWIZZLE, step));
}

/* d (+)= A B^T over LENGTH columns; both tiles k-major, of A_ROWS and B_ROWS rows. */
template <typename T, int N, int LENGTH, int A_ROWS, int B_ROWS>
GPU_INLINE void multiply_kk(float (&d)[N / 2], uint64_t a, uint64_t b, bool add = false)
{
#pragma unroll
    for (int k = 0; k < LENGTH / K_STEP; k++) {
        gpu::wgmma<N, T>(d, step_k<A_ROWS>(a, k), step_k<B_ROWS>(b, k), add || k > 0);
    }
}

/* d (+)= A B; A: fragments of LENGTH / 16 steps in registers, B: rows are the reduction. */
template <typename T, int N, int LENGTH>
GPU_INLINE void multiply_rn(float (&d)[N / 2], const uint32_t (&a)[LENGTH / K_STEP][4], uint64_t b,
                            bool add)
{
#pragma unroll
    for (int k = 0; k < LENGTH / K_STEP; k++) {
        gpu::wgmma<N, T, major::mn>(d, a[k], step_mn(b, k), add || k > 0);
    }
}

/* An accumulator fragment as the A fragments of the next product. */
template <typename T, int N>
GPU_INLINE void pack_fragment(uint32_t (&a)[N / K_STEP][4], const float (&s)[N / 2])
{
#pragma unroll
    for (int k = 0; k < N / K_STEP; k++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            a[k][i] = gpu::pack<T>(s[8 * k + 2 * i], s[8 * k + 2 * i + 1]);
        }
    }
}

/* Of four lanes in a row, each holds a row of a matrix of words; afterwards each a column. */
GPU_INLINE void quad_transpose(uint32_t (&words)[4], int lane)
{
#pragma unroll
    for (int distance = 1; distance < 4; distance *= 2) {
        bool up = (lane & distance) != 0;
#pragma unroll
        for (int i = 0; i < 4; i += distance == 1 ? 2 : 1) {
            if (i + distance > 3) {
                break;
            }
            uint32_t got = gpu::shuffle_xor(up ? words[i] : words[i + distance], distance);
            words[i] = up ? got : words[i];
            words[i + distance] = up ? words[i + distance] : got;
        }
    }
}

} // namespace sm90

#endif
