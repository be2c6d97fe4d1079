/*
 * gpu/descriptor: how a matrix tile lies in shared memory, and the 64-bit word that tells wgmma.
 * Plain arithmetic, one copy for both builds.
 *
 * A tile is stored as column panels of one swizzle width (128, 64 or 32 bytes); a panel is rows of
 * that width, and inside a row the 16-byte chunks are permuted by an XOR with address bits, exactly
 * as TMA writes a box whose inner extent is the panel's width. Atoms (8 rows) start at multiples of
 * their size: 1024, 512, 256 bytes.
 *
 *   k-major   (the reduction index runs along the row):  SBO = 8 rows; a step of 16 along k is +32
 *             bytes inside the panel, the next panel is + rows * width.
 *   mn-major  (rows are the reduction index):  SBO = 8 rows, LBO = distance between panels; a step
 *             of 16 along k is 16 rows.
 */
#ifndef GPU_DESCRIPTOR_CUH
#define GPU_DESCRIPTOR_CUH

#include "gpu/types.cuh"

namespace gpu
{

/* Bytes of one row of a panel. */
GPU_BOTH uint32_t swizzle_width(swizzle s)
{
    return s == swizzle::b128 ? 128 : s == swizzle::b64 ? 64 : s == swizzle::b32 ? 32 : 16;
}

/* Where the byte with this address before swizzling lies; panels start at multiples of an atom. */
GPU_BOTH uint32_t swizzled(swizzle s, uint32_t address)
{
    uint32_t chunks = swizzle_width(s) / 16 - 1;
    return address ^ (((address >> 7) & chunks) << 4);
}

/* Address of element (row, byte column) of a tile stored as panels of `rows` rows. */
GPU_BOTH uint32_t tile_address(swizzle s, uint32_t tile, uint32_t rows, uint32_t row,
                               uint32_t byte_column)
{
    uint32_t width = swizzle_width(s);
    return swizzled(s, tile + byte_column / width * (rows * width) + row * width +
                           byte_column % width);
}

/* Bits 62-63 of the sm90 descriptor. */
GPU_BOTH uint64_t wgmma_swizzle_code(swizzle s)
{
    return s == swizzle::b128 ? 1 : s == swizzle::b64 ? 2 : s == swizzle::b32 ? 3 : 0;
}

/* address, leading, stride: bytes, multiples of 16. */
GPU_BOTH uint64_t wgmma_descriptor(swizzle s, uint32_t address, uint32_t leading, uint32_t stride)
{
    return static_cast<uint64_t>((address & 0x3ffff) >> 4) |
           static_cast<uint64_t>((leading & 0x3ffff) >> 4) << 16 |
           static_cast<uint64_t>((stride & 0x3ffff) >> 4) << 32 | wgmma_swizzle_code(s) << 62;
}

/* Operand with the reduction index along its rows (Q and K for Q K^T). */
GPU_BOTH uint64_t wgmma_descriptor_k(swizzle s, uint32_t tile)
{
    return wgmma_descriptor(s, tile, 16, 8 * swizzle_width(s));
}

/* Operand whose rows are the reduction index (V for P V); rows: of the stored tile. */
GPU_BOTH uint64_t wgmma_descriptor_mn(swizzle s, uint32_t tile, uint32_t rows)
{
    return wgmma_descriptor(s, tile, rows * swizzle_width(s), 8 * swizzle_width(s));
}

/* Move a descriptor on by bytes (a multiple of 16); the 14-bit field never carries below 256 KiB.
 */
GPU_BOTH uint64_t descriptor_advance(uint64_t descriptor, uint32_t bytes)
{
    return descriptor + (bytes >> 4);
}

/* Bytes from the start of a k-major tile to its k-th step of 16 elements. */
GPU_BOTH uint32_t step_bytes_k(swizzle s, uint32_t rows, uint32_t step)
{
    uint32_t per_panel = swizzle_width(s) / 32;
    return step / per_panel * (rows * swizzle_width(s)) + step % per_panel * 32;
}

/* The same for an mn-major tile: 16 rows further. */
GPU_BOTH uint32_t step_bytes_mn(swizzle s, uint32_t step)
{
    return step * 16 * swizzle_width(s);
}

} // namespace gpu

#endif
