/*
 * gpu/tcgen05_descriptor: the words that tell tcgen05.mma about its operands (sm_100). Plain
 * arithmetic, one copy for both builds. Tiles lie as gpu/descriptor says; only the bits differ.
 */
#ifndef GPU_TCGEN05_DESCRIPTOR_CUH
#define GPU_TCGEN05_DESCRIPTOR_CUH

#include "gpu/descriptor.cuh"

namespace gpu
{

/* Bits 61-63. */
GPU_BOTH uint64_t tcgen05_swizzle_code(swizzle s)
{
    return s == swizzle::b128 ? 2 : s == swizzle::b64 ? 4 : s == swizzle::b32 ? 6 : 0;
}

/* address, leading, stride: bytes, multiples of 16. Bit 46 is the format's version. */
GPU_BOTH uint64_t tcgen05_descriptor(swizzle s, uint32_t address, uint32_t leading, uint32_t stride)
{
    return static_cast<uint64_t>((address & 0x3ffff) >> 4) |
           static_cast<uint64_t>((leading & 0x3ffff) >> 4) << 16 |
           static_cast<uint64_t>((stride & 0x3ffff) >> 4) << 32 | uint64_t{1} << 46 |
           tcgen05_swizzle_code(s) << 61;
}

/* Operand with the reduction index along its rows. */
GPU_BOTH uint64_t tcgen05_descriptor_k(swizzle s, uint32_t tile)
{
    return tcgen05_descriptor(s, tile, 16, 8 * swizzle_width(s));
}

/* Operand whose rows are the reduction index; rows: of the stored tile. */
GPU_BOTH uint64_t tcgen05_descriptor_mn(swizzle s, uint32_t tile, uint32_t rows)
{
    return tcgen05_descriptor(s, tile, rows * swizzle_width(s), 8 * swizzle_width(s));
}

/*
 * The instruction descriptor of kind::f16 with fp32 results: M 64 or 128, N 8..256 by 8; of a pair
 * of blocks M 128 or 256, N by 16. (bf16, M = N = 128, both k-major: 0x08200490.)
 */
GPU_BOTH uint32_t tcgen05_instruction(bool is_bf16, uint32_t m, uint32_t n, major a, major b)
{
    uint32_t type = is_bf16 ? 1 : 0;
    return 1u << 4 | type << 7 | type << 10 | (a == major::mn ? 1u << 15 : 0) |
           (b == major::mn ? 1u << 16 : 0) | n / 8 << 17 | m / 16 << 24;
}

constexpr uint32_t TMEM_COLUMNS = 512;
constexpr uint32_t TMEM_LANES = 128;

/* Address of a cell: lane (row of an M = 128 accumulator), column of 32 bits. */
GPU_BOTH uint32_t tmem_at(uint32_t base, uint32_t lane, uint32_t column)
{
    return base + (lane << 16) + column;
}

} // namespace gpu

#endif
