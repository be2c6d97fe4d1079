/* Every function of gpu/tcgen05, gpu/tcgen05_pair and gpu/pair, called once, so that both builds
 * are seen to have it. Never run.
 */
#ifndef EVERY_TCGEN05_CUH
#define EVERY_TCGEN05_CUH

#include "gpu/cluster.cuh"
#include "gpu/global.cuh"
#include "gpu/index.cuh"
#include "gpu/launch.cuh"
#include "gpu/pair.cuh"
#include "gpu/smem.cuh"
#include "gpu/tcgen05.cuh"
#include "gpu/tcgen05_pair.cuh"

namespace every_tcgen05
{

using namespace gpu;

template <int COUNT>
GPU_INLINE float there_and_back(uint32_t base)
{
    float f[COUNT];
    uint32_t u[COUNT];
    tmem_load(f, base);
    tmem_load(u, base);
    tmem_load_wait(f, u);
    tmem_store(base, f);
    tmem_store(base, u);
    tmem_store_wait();
    return f[COUNT - 1];
}

__global__ void __launch_bounds__(128, 1) tensor(float *out)
{
    uint32_t smem = smem_base();
    tmem_take<256>(smem);
    tmem_take_no_more();
    uint32_t base = smem_load<uint32_t>(smem);
    uint32_t instruction = tcgen05_instruction(true, 128, 128, major::k, major::mn);
    uint64_t a = tcgen05_descriptor_k(swizzle::b128, smem + 1024);
    uint64_t b = tcgen05_descriptor_mn(swizzle::b128, smem + 32768, 128);
    tcgen05_fence_before();
    tcgen05_fence_after();
    tcgen05_multiply(base, a, b, instruction, false);
    tcgen05_multiply_tensor(base, tmem_at(base, 0, 128), b, instruction, true);
    tcgen05_commit(smem + 8);
    tcgen05_commit_multicast(smem + 8, 3);
    float sum = there_and_back<1>(base) + there_and_back<2>(base) + there_and_back<4>(base) +
                there_and_back<8>(base) + there_and_back<16>(base) + there_and_back<32>(base) +
                there_and_back<64>(base) + there_and_back<128>(base);
    f32x2 pair = pair_mul(pair_add(pair_of(sum), pair_of(2.0f)), pair_of(sum));
    pair = pair_fma(pair, pair, pair);
    global_store(out + thread_index(), max3_nan_f32(sum, pair.x, pair.y));
    tmem_give<256>(base);
}

/* Of its own kind: ptxas refuses a kernel that has both. */
__global__ void __launch_bounds__(128, 1)
    tensor_pair(const __grid_constant__ tensor_map map, float *out)
{
    uint32_t smem = smem_base();
    tmem_take_pair<256>(smem);
    tmem_take_no_more_pair();
    uint32_t base = smem_load<uint32_t>(smem);
    uint32_t instruction = tcgen05_instruction(true, 256, 128, major::k, major::mn);
    uint64_t a = tcgen05_descriptor_k(swizzle::b128, smem + 1024);
    uint64_t b = tcgen05_descriptor_mn(swizzle::b128, smem + 32768, 64);
    tma_load_pair(smem + 1024, &map, cluster_map(smem + 8, cluster_rank() & ~1u), l2::normal, 0, 0,
                  0, 0);
    tcgen05_multiply_pair(base, a, b, instruction, false);
    tcgen05_multiply_tensor_pair(base, tmem_at(base, 0, 128), b, instruction, true);
    tcgen05_commit_pair(smem + 8, 3);
    global_store(out + thread_index(), there_and_back<32>(base));
    tmem_give_pair<256>(base);
}

inline const char *start(float *out)
{
    launch_config config = {2, 1, 1, 128, 65536, 2, false, stream{}};
    tensor_map map = {};
    const char *error = launch(config, tensor, out);
    return error ? error : launch(config, tensor_pair, map, out);
}

} // namespace every_tcgen05

#endif
