/*
 * A kernel for the simulator's own tests: C = A B^T, fp16 or bf16 in and out.
 *
 * Grid: (columns / TILE_N, rows / TILE_M). A block has two math warpgroups of 64 rows each and one
 * producer warp. Waits: the producer waits for an empty stage (one arrival per math warp), math
 * warps wait for a full stage (TMA bytes); the store waits for its warpgroup at a named barrier. It
 * is as a real kernel in everything that can go wrong, and small: 2 stages, so that five steps of
 * 64 go round the ring more than twice.
 */
#ifndef TESTS_SIM_MULTIPLY_CUH
#define TESTS_SIM_MULTIPLY_CUH

#include "gpu/barrier.cuh"
#include "gpu/bulk.cuh"
#include "gpu/descriptor.cuh"
#include "gpu/fence.cuh"
#include "gpu/index.cuh"
#include "gpu/launch.cuh"
#include "gpu/math.cuh"
#include "gpu/mbarrier.cuh"
#include "gpu/registers.cuh"
#include "gpu/smem.cuh"
#include "gpu/tma.cuh"
#include "gpu/warp.cuh"
#include "gpu/wgmma.cuh"

namespace multiply_test
{

using namespace gpu;

constexpr int TILE_M = 128, TILE_N = 64, TILE_K = 64;
constexpr int STAGES = 2;
constexpr int MATH_WARPS = 8;
constexpr int THREADS = (MATH_WARPS + 4) * 32; /* the producer has a warpgroup to itself */
constexpr int ROW_BYTES = TILE_K * 2;          /* one 128-byte swizzle row */
constexpr int STORE_BARRIER = 1;               /* + warpgroup: ids are immediates */

struct plan {
    uint32_t a[STAGES], b[STAGES], c, full[STAGES], empty[STAGES], bytes;
};

GPU_BOTH plan lay_out(uint32_t base)
{
    plan p = {};
    uint32_t at = base;
    for (int s = 0; s < STAGES; s++) {
        p.a[s] = at;
        p.b[s] = at + TILE_M * ROW_BYTES;
        at += (TILE_M + TILE_N) * ROW_BYTES;
    }
    p.c = at;
    at += TILE_M * TILE_N * 2;
    for (int s = 0; s < STAGES; s++) {
        p.full[s] = at + s * 2 * MBARRIER_BYTES;
        p.empty[s] = p.full[s] + MBARRIER_BYTES;
    }
    p.bytes = at + STAGES * 2 * MBARRIER_BYTES - base;
    return p;
}

GPU_INLINE void make_barriers(const plan &p)
{
    if (warp_index() == 0 && elect_one()) {
        for (int s = 0; s < STAGES; s++) {
            mbarrier_init(p.full[s], 1);
            mbarrier_init(p.empty[s], MATH_WARPS);
        }
        mbarrier_init_fence();
    }
    block_sync();
}

GPU_INLINE void produce(const plan &p, const tensor_map *a, const tensor_map *b, int steps)
{
    if (warp_index() != MATH_WARPS || !elect_one()) {
        return;
    }
    for (int i = 0; i < steps; i++) {
        int s = i % STAGES;
        mbarrier_wait(p.empty[s], i / STAGES);
        mbarrier_arrive_expect(p.full[s], (TILE_M + TILE_N) * ROW_BYTES);
        tma_load(p.a[s], a, p.full[s], l2::evict_first, i * TILE_K, block_y() * TILE_M, 0);
        tma_load(p.b[s], b, p.full[s], l2::evict_last, i * TILE_K, block_x() * TILE_N, 0);
    }
}

template <typename T>
GPU_INLINE void multiply_steps(const plan &p, float (&d)[TILE_N / 2], int steps)
{
    for (int i = 0; i < steps; i++) {
        int s = i % STAGES;
        mbarrier_wait(p.full[s], i / STAGES + 1);
        uint32_t rows = p.a[s] + warpgroup_index() * 64 * ROW_BYTES;
        uint64_t left = wgmma_descriptor_k(swizzle::b128, rows);
        uint64_t right = wgmma_descriptor_k(swizzle::b128, p.b[s]);
        wgmma_fence(d);
#pragma unroll
        for (int k = 0; k < TILE_K / 16; k++) {
            wgmma<TILE_N, T>(d, descriptor_advance(left, k * 32), descriptor_advance(right, k * 32),
                             i > 0 || k > 0);
        }
        wgmma_commit();
        wgmma_wait<0>(d);
        if (elect_one()) {
            mbarrier_arrive(p.empty[s]);
        }
    }
}

/* Each warp writes its 16 rows of the staging tile, then one thread of the warpgroup stores 64. */
template <typename T>
GPU_INLINE void store(const plan &p, const tensor_map *c, const float (&d)[TILE_N / 2])
{
    int group = warpgroup_index();
    uint32_t tile = p.c + group * 64 * ROW_BYTES;
    int row = warp_index() % 4 * 16 + lane_index() % 16;
#pragma unroll
    for (int j = 0; j < TILE_N / 16; j++) {
        uint32_t r[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            r[i] = pack<T>(d[8 * j + 2 * i], d[8 * j + 2 * i + 1]);
        }
        uint32_t column = (2 * j + lane_index() / 16) * 16;
        stmatrix(tile_address(swizzle::b128, tile, 64, row, column), r);
    }
    fence_async_smem();
    if (group == 0) {
        barrier_sync<STORE_BARRIER>(128);
    } else {
        barrier_sync<STORE_BARRIER + 1>(128);
    }
    if (warp_index() % 4 == 0 && elect_one()) {
        tma_store(c, tile, l2::evict_first, block_x() * TILE_N, block_y() * TILE_M + group * 64, 0);
        bulk_commit();
        bulk_wait_read<0>();
    }
}

template <typename T>
__global__ void __launch_bounds__(THREADS, 1)
    multiply_kernel(const __grid_constant__ tensor_map a, const __grid_constant__ tensor_map b,
                    const __grid_constant__ tensor_map c, int steps)
{
    plan p = lay_out(smem_base());
    make_barriers(p);
    if (warpgroup_index() == MATH_WARPS / 4) {
        registers_give<24>();
        produce(p, &a, &b, steps);
    } else {
        registers_take<240>();
        float d[TILE_N / 2];
        multiply_steps<T>(p, d, steps);
        store<T>(p, &c, d);
    }
}

/* a: m x k, b: n x k, c: m x n, packed; m, n, k multiples of the tile. */
template <typename T>
inline const char *start(stream on, const void *a, const void *b, void *c, int m, int n, int k)
{
    tensor_map maps[3];
    element e = element_of<T>::value;
    int64_t row = k * 2, out = n * 2;
    bool good =
        tensor_map_encode(&maps[0], tensor_rows(e, swizzle::b128, a, row, 16, m, 1, k, TILE_M)) &&
        tensor_map_encode(&maps[1], tensor_rows(e, swizzle::b128, b, row, 16, n, 1, k, TILE_N)) &&
        tensor_map_encode(&maps[2], tensor_rows(e, swizzle::b128, c, out, 16, m, 1, n, 64));
    if (!good) {
        return "a tensor map can not be encoded";
    }
    launch_config config = {};
    config.grid_x = n / TILE_N;
    config.grid_y = m / TILE_M;
    config.threads = THREADS;
    config.smem_bytes = lay_out(0).bytes;
    config.on = on;
    return launch(config, multiply_kernel<T>, maps[0], maps[1], maps[2], k / TILE_K);
}

} // namespace multiply_test

#endif
