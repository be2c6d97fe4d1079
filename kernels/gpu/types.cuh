/*
 * gpu/types: the element and vector types that kernels pass to the wrappers.
 *
 * kernels/gpu/ holds one function per GPU instruction or protocol step and is the only folder with
 * inline assembly, CUDA headers or intrinsics. kernels/sim/gpu/ holds the same functions for the
 * host simulator; the include path picks one (nvcc: -I kernels, g++: -I kernels/sim -I kernels), so
 * a kernel is one source without a preprocessor branch. Files that are plain arithmetic (this one,
 * descriptor.cuh, ragged.cuh) exist here only, and both builds read them.
 */
#ifndef GPU_TYPES_CUH
#define GPU_TYPES_CUH

#include <stdint.h>

#include "gpu/keywords.cuh"

namespace gpu
{

/* 16-bit elements travel in pairs, as the halves of a 32-bit register; these types only name them.
 */
struct bf16 {
    uint16_t bits;
};

struct fp16 {
    uint16_t bits;
};

struct alignas(8) f32x2 {
    float x, y;
};

struct alignas(16) f32x4 {
    float x, y, z, w;
};

struct alignas(8) u32x2 {
    uint32_t x, y;
};

struct alignas(16) u32x4 {
    uint32_t x, y, z, w;
};

struct alignas(16) s32x4 {
    int32_t x, y, z, w;
};

/* What an L2 line is worth after this access. The values are the hardware's cache policies. */
enum class l2 : uint64_t {
    normal = 0x1000000000000000,
    evict_first = 0x12F0000000000000,
    evict_last = 0x14F0000000000000,
};

/* The order of a matrix operand in shared memory: k_major has the reduction index contiguous. */
enum class major { k, mn };

/* XOR pattern of a shared memory tile: 16-byte chunks of a row of this many bytes are permuted. */
enum class swizzle { none, b32, b64, b128 };

/* A byte of the shared memory of any block of the cluster: cluster_map gives it, what takes one
 * says so by its type. */
struct cluster_address {
    uint32_t bits;
};

} // namespace gpu

#endif
