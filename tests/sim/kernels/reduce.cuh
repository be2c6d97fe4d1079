/*
 * A kernel for the simulator's own tests: out[i] = sum over blocks b of (b + 1) * in[i], first
 * block first, as a deterministic backward sums its gradients.
 *
 * Grid: BLOCKS. Warp 0 is the producer (bulk loads into a ring of two), warps 1-4 scale into a
 * staging buffer, warp 1 issues the bulk reduction and passes a flag on to the next block. Waits: a
 * block waits for its turn in flags[chunk] before it reduces a chunk.
 */
#ifndef TESTS_SIM_REDUCE_CUH
#define TESTS_SIM_REDUCE_CUH

#include "gpu/barrier.cuh"
#include "gpu/bulk.cuh"
#include "gpu/fence.cuh"
#include "gpu/global.cuh"
#include "gpu/index.cuh"
#include "gpu/launch.cuh"
#include "gpu/mbarrier.cuh"
#include "gpu/smem.cuh"
#include "gpu/warp.cuh"

namespace reduce_test
{

using namespace gpu;

constexpr int BLOCKS = 3, CHUNKS = 5, CHUNK = 512, STAGES = 2;
constexpr int WORKERS = 4; /* warps */
constexpr int THREADS = 256;
constexpr uint32_t CHUNK_BYTES = CHUNK * 4;
constexpr int READY = 1, STORED = 2; /* named barriers of the workers */

struct plan {
    uint32_t in[STAGES], staging, full[STAGES], empty[STAGES], bytes;
};

GPU_BOTH plan lay_out(uint32_t base)
{
    plan p = {};
    for (int s = 0; s < STAGES; s++) {
        p.in[s] = base + s * CHUNK_BYTES;
        p.full[s] = base + 3 * CHUNK_BYTES + s * 2 * MBARRIER_BYTES;
        p.empty[s] = p.full[s] + MBARRIER_BYTES;
    }
    p.staging = base + 2 * CHUNK_BYTES;
    p.bytes = 3 * CHUNK_BYTES + STAGES * 2 * MBARRIER_BYTES;
    return p;
}

GPU_INLINE void produce(const plan &p, const float *in)
{
    if (!elect_one()) {
        return;
    }
    for (int i = 0; i < CHUNKS; i++) {
        int s = i % STAGES;
        mbarrier_wait(p.empty[s], i / STAGES);
        mbarrier_arrive_expect(p.full[s], CHUNK_BYTES);
        bulk_load(p.in[s], in + i * CHUNK, CHUNK_BYTES, p.full[s]);
    }
}

GPU_INLINE void pass_on(const plan &p, float *out, int32_t *flags, int chunk)
{
    flag_wait(flags + chunk, block_x());
    fence_async_global();
    bulk_reduce_add(out + chunk * CHUNK, p.staging, CHUNK_BYTES);
    bulk_commit();
    bulk_wait<0>();
    fence_async_global();
    flag_store(flags + chunk, block_x() + 1);
}

GPU_INLINE void work(const plan &p, float *out, int32_t *flags)
{
    int worker = thread_index() - 32;
    float factor = static_cast<float>(block_x() + 1);
    for (int i = 0; i < CHUNKS; i++) {
        int s = i % STAGES;
        mbarrier_wait(p.full[s], i / STAGES + 1);
        f32x4 x = smem_load<f32x4>(p.in[s] + worker * 16);
        warp_sync();
        if (elect_one()) {
            mbarrier_arrive(p.empty[s]);
        }
        x = {x.x * factor, x.y * factor, x.z * factor, x.w * factor};
        smem_store(p.staging + worker * 16, x);
        fence_async_smem();
        barrier_sync<READY>(WORKERS * 32);
        if (warp_index() == 1 && elect_one()) {
            pass_on(p, out, flags, i);
        }
        barrier_sync<STORED>(WORKERS * 32);
    }
}

__global__ void __launch_bounds__(THREADS, 1)
    reduce_kernel(const float *in, float *out, int32_t *flags)
{
    plan p = lay_out(smem_base());
    if (thread_index() == 0) {
        for (int s = 0; s < STAGES; s++) {
            mbarrier_init(p.full[s], 1);
            mbarrier_init(p.empty[s], WORKERS);
        }
        mbarrier_init_fence();
    }
    block_sync();
    if (warp_index() == 0) {
        produce(p, in);
    } else if (warp_index() <= WORKERS) {
        work(p, out, flags);
    }
}

inline const char *start(stream on, const float *in, float *out, int32_t *flags)
{
    launch_config config = {};
    config.grid_x = BLOCKS;
    config.threads = THREADS;
    config.smem_bytes = lay_out(0).bytes;
    config.on = on;
    return launch(config, reduce_kernel, in, out, flags);
}

} // namespace reduce_test

#endif
