/*
 * Every function of kernels/gpu/ is called once here, so that both builds are seen to have it under
 * the same name and with the same arguments. It is compiled, never run.
 */
#ifndef EVERY_WRAPPER_CUH
#define EVERY_WRAPPER_CUH

#include "gpu/barrier.cuh"
#include "gpu/bulk.cuh"
#include "gpu/cluster.cuh"
#include "gpu/descriptor.cuh"
#include "gpu/fence.cuh"
#include "gpu/global.cuh"
#include "gpu/grid.cuh"
#include "gpu/index.cuh"
#include "gpu/launch.cuh"
#include "gpu/math.cuh"
#include "gpu/mbarrier.cuh"
#include "gpu/mma.cuh"
#include "gpu/registers.cuh"
#include "gpu/smem.cuh"
#include "gpu/tensor_map.cuh"
#include "gpu/tma.cuh"
#include "gpu/warp.cuh"
#include "gpu/wgmma.cuh"

namespace every_wrapper
{

using namespace gpu;

__global__ void __launch_bounds__(256, 1)
    memory(const __grid_constant__ tensor_map map, float *out, int32_t *flag)
{
    uint32_t base = registers_forget(smem_base());
    uint32_t bar = base + 4096;
    registers_give<24>();
    registers_take<240>();
    if (warp_index() == 0 && elect_one()) {
        mbarrier_init(bar, 1);
        mbarrier_init_fence();
        tensor_map_prefetch(&map);
        tensor_map_acquire(&map);
    }
    block_sync();
    if (warpgroup_index() == 0 && elect_one()) {
        mbarrier_arrive_expect(bar, 4096);
        tma_load(base, &map, bar, l2::evict_first, 0, 0);
        tma_load(base, &map, bar, l2::evict_first, 0, 0, 0);
        tma_load(base, &map, bar, l2::evict_last, 0, 0, 0, 0);
        tma_load(base, &map, bar, l2::normal, 0, 0, 0, 0, 0);
        bulk_load(base, out, 1024, bar);
        mbarrier_arrive(bar);
    }
    if (!mbarrier_test(bar, 1)) {
        mbarrier_wait(bar, 1);
    }
    barrier_sync<1>(256);
    barrier_arrive<2>(256);
    uint32_t r[4] = {1, 2, 3, 4}, h[2] = {5, 6};
    stmatrix(base, r);
    stmatrix(base, h);
    stmatrix_transposed(base, r);
    stmatrix_transposed(base, h);
    ldmatrix(base, r);
    ldmatrix_transposed(base, r);
    uint32_t at = base + thread_index() * 16;
    smem_store(at, 1.0f);
    smem_store(at, f32x2{1, 2});
    smem_store(at, f32x4{1, 2, 3, 4});
    smem_store(at, r[0]);
    smem_store(at, -1);
    smem_store(at, u32x2{r[1], r[2]});
    smem_store(at, u32x4{r[0], r[1], r[2], r[3]});
    smem_store(at, s32x4{1, 2, 3, 4});
    float sum = smem_load<float>(at) + smem_load<f32x2>(at).y + smem_load<f32x4>(at).w +
                static_cast<float>(smem_load<uint32_t>(at) + smem_load<u32x2>(at).y +
                                   smem_load<u32x4>(at).z) +
                static_cast<float>(smem_load<int32_t>(at) + smem_load<s32x4>(at).x);
    fence_async_smem();
    fence_async_global();
    fence_gpu();
    block_sync();
    if (elect_one()) {
        tma_store(&map, base, l2::evict_first, 0, 0);
        tma_store(&map, base, l2::evict_first, 0, 0, 0);
        tma_store(&map, base, l2::evict_first, 0, 0, 0, 0);
        tma_store(&map, base, l2::evict_first, 0, 0, 0, 0, 0);
        tma_reduce_add(&map, base, l2::evict_last, 0, 0);
        tma_reduce_add(&map, base, l2::evict_last, 0, 0, 0);
        tma_reduce_add(&map, base, l2::evict_last, 0, 0, 0, 0);
        tma_reduce_add(&map, base, l2::evict_last, 0, 0, 0, 0, 0);
        bulk_store(out, base, 1024);
        bulk_reduce_add(out, base, 1024, l2::evict_last);
        bulk_commit();
        bulk_wait_read<1>();
        bulk_wait<0>();
    }
    warp_sync();
    sum += global_load<float>(out) + global_load<f32x4>(out).x +
           global_load_constant<f32x4>(out).y + global_load_constant<f32x2>(out).y +
           static_cast<float>(global_load_constant<int32_t>(out)) +
           global_load_if(sum > 0, out, 0.0f);
    global_store(out + block_x() + block_y() + block_z(), sum);
    global_store_if(sum > 1, out + grid_x() + grid_y() + grid_z(), f32x4{sum, 1, 2, 3});
    global_discard(out);
    red_add(out, sum);
    red_add(out, f32x4{sum, sum, sum, sum});
    flag_wait(flag, atomic_add(flag, 1));
    flag_add(flag, flag_load(flag));
    flag_store(flag, flag_fetch_add(flag, 1) + block_threads());
    grid_wait_previous();
    grid_start_next();
}

__global__ void __launch_bounds__(128, 1) warp(float *out)
{
    float x = global_load<float>(out + lane_index());
    x += shuffle_xor(x, 1) + shuffle(x, 3) + shuffle_up(x, 1) + shuffle_down(x, 2);
    x += vote_any(x > 1) ? 1.0f : 0.0f;
    x += vote_all(x > 1) ? 1.0f : 0.0f;
    x += static_cast<float>(vote_mask(x > 2));
    x = exp2_approx(x) + log2_approx(x) + rcp_approx(x) + tanh_approx(x) + max_f32(x, 1) +
        min_f32(x, 2) + fma_f32(x, x, x) + bits_float(float_bits(x) ^ 1);
    x += unpack<bf16>(pack<bf16>(x, 1)).y + unpack<fp16>(pack<fp16>(x, 1)).x;
    x = max_f32(x, -infinity());
    float d[4] = {x, x, x, x};
    mma_16x8x16<bf16>(d, {1, 2, 3, 4}, {5, 6});
    mma_16x8x16<fp16>(d, {1, 2, 3, 4}, {5, 6});
    global_store(out, d[0] + d[3]);
}

__global__ void __launch_bounds__(128, 1)
    cluster(const __grid_constant__ tensor_map map, float *out)
{
    cluster_arrive();
    cluster_wait();
    uint32_t mine = smem_base();
    cluster_address barrier = cluster_map(mine, cluster_rank() ^ 1);
    cluster_address peer = cluster_map(mine + 1024, cluster_rank() ^ 1);
    if (elect_one()) {
        mbarrier_arrive_cluster(barrier);
        mbarrier_arrive_expect_cluster(barrier, 1024);
        bulk_copy_cluster(peer, mine + 1024, 1024, barrier);
        bulk_load_multicast(mine, out, 1024, mine, 3);
        tma_load_multicast(mine, &map, mine, 3, l2::evict_last, 0, 0, 0);
        tma_load_multicast(mine, &map, mine, 3, l2::evict_last, 0, 0, 0, 0);
    }
    mbarrier_wait_cluster(mine, cluster_blocks());
    smem_store_cluster(peer, 1.0f);
    smem_store_cluster(peer, uint32_t{1});
    smem_store_cluster(peer, f32x4{1, 2, 3, 4});
    smem_store_cluster(peer, u32x4{1, 2, 3, 4});
    float sum =
        smem_load_cluster<float>(peer) + smem_load_cluster<f32x4>(peer).y +
        static_cast<float>(smem_load_cluster<uint32_t>(peer) + smem_load_cluster<u32x4>(peer).z);
    global_store(out, sum);
}

template <int N, typename T, major A, major B>
__global__ void __launch_bounds__(128, 1) multiply(float *out)
{
    float d[N / 2];
    uint32_t a[2][4] = {{1, 2, 3, 4}, {5, 6, 7, 8}};
    uint64_t left = wgmma_descriptor_k(swizzle::b128, smem_base());
    uint64_t right = wgmma_descriptor_mn(swizzle::b128, smem_base() + 16384, 128);
    wgmma_fence(d, a);
    wgmma<N, T, A, B>(d, left, right, false);
    wgmma<N, T, A, B>(d, descriptor_advance(left, 32), right, true);
    wgmma<N, T, B>(d, a[0], right, true);
    wgmma<N, T, B>(d, a[1], right, true);
    wgmma_commit();
    wgmma_wait<0>(d, a);
    float sum = 0;
    for (int i = 0; i < N / 2; i++) {
        sum += d[i];
    }
    global_store(out + thread_index(), sum);
}

inline const char *start(float *out, int32_t *flag)
{
    tensor_map map;
    tensor_shape shape = tensor_ragged(
        tensor_panels(element_of<bf16>::value, swizzle::b128, out, 256, 256, 1000, 1, 128, 64));
    if (!tensor_map_encode(&map, shape)) {
        return "encode";
    }
    launch_config config = {1, 1, 1, 256, SMEM_BYTES, 0, true, stream{}};
    const char *error = launch(config, memory, map, out, flag);
    error = error ? error : launch(config, warp, out);
    error = error ? error : launch(config, cluster, map, out);
#define EVERY_N(N)                                                                                 \
    error = error ? error : launch(config, multiply<N, bf16, major::k, major::mn>, out)
    EVERY_N(8), EVERY_N(16), EVERY_N(24), EVERY_N(32), EVERY_N(40), EVERY_N(48), EVERY_N(56),
        EVERY_N(64), EVERY_N(72), EVERY_N(80), EVERY_N(88), EVERY_N(96), EVERY_N(104), EVERY_N(112),
        EVERY_N(120), EVERY_N(128), EVERY_N(136), EVERY_N(144), EVERY_N(152), EVERY_N(160),
        EVERY_N(168), EVERY_N(176), EVERY_N(184), EVERY_N(192), EVERY_N(200), EVERY_N(208),
        EVERY_N(216), EVERY_N(224), EVERY_N(232), EVERY_N(240), EVERY_N(248), EVERY_N(256);
#undef EVERY_N
    error = error ? error : launch(config, multiply<64, fp16, major::k, major::k>, out);
    error = error ? error : launch(config, multiply<64, fp16, major::mn, major::k>, out);
    return error ? error : launch(config, multiply<64, bf16, major::mn, major::mn>, out);
}

} // namespace every_wrapper

#endif
