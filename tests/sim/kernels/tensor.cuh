/*
 * A kernel for the simulator's own tests, on tensor memory: O = sum over i of round(Q K_i^T / 8)
 * K_i, the shape of attention without its softmax.
 *
 * Grid: (query tiles of 128). Warps 0-3 turn S into P, warp 4 issues multiplications, warp 5 loads.
 * Waits: full[s] TMA -> multiplier; empty[s] commit -> loader; scores commit -> math (S is there,
 * and with it every product before: P may be written); probabilities 4 math warps -> multiplier (S
 * is read, P is there); result commit -> math.
 */
#ifndef TESTS_SIM_TENSOR_CUH
#define TESTS_SIM_TENSOR_CUH

#include "gpu/barrier.cuh"
#include "gpu/global.cuh"
#include "gpu/index.cuh"
#include "gpu/launch.cuh"
#include "gpu/math.cuh"
#include "gpu/mbarrier.cuh"
#include "gpu/smem.cuh"
#include "gpu/tcgen05.cuh"
#include "gpu/tma.cuh"
#include "gpu/warp.cuh"

namespace tensor_test
{

using namespace gpu;

constexpr int ROWS = 128, KEYS = 64, DIM = 64, STAGES = 2;
constexpr int MATH_WARPS = 4, THREADS = 192;
constexpr uint32_t Q_BYTES = ROWS * DIM * 2, K_BYTES = KEYS * DIM * 2;
constexpr uint32_t S_COLUMN = 0, P_COLUMN = 64, O_COLUMN = 128, COLUMNS = 256;
constexpr float SCALE = 0.125f;

struct plan {
    uint32_t q, k[STAGES], full[STAGES], empty[STAGES], q_full, scores, probabilities, result, base;
    uint32_t bytes;
};

GPU_BOTH plan lay_out(uint32_t base)
{
    plan p = {};
    uint32_t at = base + Q_BYTES;
    p.q = base;
    for (int s = 0; s < STAGES; s++, at += K_BYTES) {
        p.k[s] = at;
    }
    for (int s = 0; s < STAGES; s++, at += 2 * MBARRIER_BYTES) {
        p.full[s] = at;
        p.empty[s] = at + MBARRIER_BYTES;
    }
    p.q_full = at;
    p.scores = at + 8;
    p.probabilities = at + 16;
    p.result = at + 24;
    p.base = at + 32;
    p.bytes = at + 48 - base;
    return p;
}

GPU_INLINE void make_barriers(const plan &p)
{
    if (thread_index() == 0) {
        for (int s = 0; s < STAGES; s++) {
            mbarrier_init(p.full[s], 1);
            mbarrier_init(p.empty[s], 1);
        }
        mbarrier_init(p.q_full, 1);
        mbarrier_init(p.scores, 1);
        mbarrier_init(p.probabilities, MATH_WARPS);
        mbarrier_init(p.result, 1);
        mbarrier_init_fence();
    }
    if (warp_index() == MATH_WARPS) {
        tmem_take<COLUMNS>(p.base);
        tmem_take_no_more();
    }
    block_sync();
}

GPU_INLINE void load(const plan &p, const tensor_map *q, const tensor_map *k, int steps)
{
    mbarrier_arrive_expect(p.q_full, Q_BYTES);
    tma_load(p.q, q, p.q_full, l2::evict_first, 0, block_x() * ROWS, 0);
    for (int i = 0; i < steps; i++) {
        int s = i % STAGES;
        mbarrier_wait(p.empty[s], i / STAGES);
        mbarrier_arrive_expect(p.full[s], K_BYTES);
        tma_load(p.k[s], k, p.full[s], l2::evict_last, 0, i * KEYS, 0);
    }
}

GPU_INLINE void multiply(const plan &p, uint32_t tensor, int steps)
{
    uint32_t qk = tcgen05_instruction(true, ROWS, KEYS, major::k, major::k);
    uint32_t pk = tcgen05_instruction(true, ROWS, DIM, major::k, major::mn);
    uint64_t q = tcgen05_descriptor_k(swizzle::b128, p.q);
    mbarrier_wait(p.q_full, 1);
    for (int i = 0; i < steps; i++) {
        int s = i % STAGES;
        uint64_t k = tcgen05_descriptor_k(swizzle::b128, p.k[s]);
        uint64_t v = tcgen05_descriptor_mn(swizzle::b128, p.k[s], KEYS);
        mbarrier_wait(p.full[s], i / STAGES + 1);
        tcgen05_fence_after();
        for (uint32_t j = 0; j < DIM / 16; j++) {
            tcgen05_multiply(tensor + S_COLUMN, descriptor_advance(q, j * 32),
                             descriptor_advance(k, j * 32), qk, j > 0);
        }
        tcgen05_commit(p.scores);
        mbarrier_wait(p.probabilities, i + 1);
        tcgen05_fence_after();
        for (uint32_t j = 0; j < KEYS / 16; j++) {
            tcgen05_multiply_tensor(tensor + O_COLUMN, tensor + P_COLUMN + j * 8,
                                    descriptor_advance(v, step_bytes_mn(swizzle::b128, j)), pk,
                                    i > 0 || j > 0);
        }
        tcgen05_commit(p.empty[s]);
    }
    tcgen05_commit(p.result);
}

GPU_INLINE void soften(const plan &p, uint32_t lanes, int steps)
{
    for (int i = 0; i < steps; i++) {
        float s[KEYS];
        uint32_t pairs[KEYS / 2];
        mbarrier_wait(p.scores, i + 1);
        tcgen05_fence_after();
        tmem_load(s, lanes + S_COLUMN);
        tmem_load_wait(s);
        for (int j = 0; j < KEYS / 2; j++) {
            pairs[j] = pack<bf16>(s[2 * j] * SCALE, s[2 * j + 1] * SCALE);
        }
        tmem_store(lanes + P_COLUMN, pairs);
        tmem_store_wait();
        tcgen05_fence_before();
        warp_sync();
        if (elect_one()) {
            mbarrier_arrive(p.probabilities);
        }
    }
}

GPU_INLINE void store(const plan &p, uint32_t lanes, float *out)
{
    float o[DIM];
    mbarrier_wait(p.result, 1);
    tcgen05_fence_after();
    tmem_load(o, lanes + O_COLUMN);
    tmem_load_wait(o);
    tcgen05_fence_before();
    float *row = out + (block_x() * ROWS + thread_index()) * DIM;
    for (int j = 0; j < DIM; j += 4) {
        global_store(row + j, f32x4{o[j], o[j + 1], o[j + 2], o[j + 3]});
    }
}

static __global__ void __launch_bounds__(THREADS, 1)
    tensor_kernel(const __grid_constant__ tensor_map q, const __grid_constant__ tensor_map k,
                  float *out, int steps)
{
    plan p = lay_out(smem_base());
    make_barriers(p);
    uint32_t tensor = smem_load<uint32_t>(p.base);
    if (warp_index() < MATH_WARPS) {
        uint32_t lanes = tmem_at(tensor, warp_index() * 32, 0);
        soften(p, lanes, steps);
        store(p, lanes, out);
    } else if (elect_one()) {
        if (warp_index() == MATH_WARPS) {
            multiply(p, tensor, steps);
        } else {
            load(p, &q, &k, steps);
        }
    }
    block_sync();
    if (warp_index() == MATH_WARPS) {
        tmem_give<COLUMNS>(tensor);
    }
}

/* q: rows x 64, k: 64 steps x 64, packed bf16; out: rows x 64 floats; rows a multiple of 128. */
inline const char *start(stream on, const void *q, const void *k, float *out, int rows, int steps)
{
    tensor_map maps[2];
    int64_t row = DIM * 2;
    if (!tensor_map_encode(
            &maps[0], tensor_rows(element::bf16, swizzle::b128, q, row, 16, rows, 1, DIM, ROWS)) ||
        !tensor_map_encode(&maps[1], tensor_rows(element::bf16, swizzle::b128, k, row, 16,
                                                 steps * KEYS, 1, DIM, KEYS))) {
        return "a tensor map can not be encoded";
    }
    launch_config config = {};
    config.grid_x = rows / ROWS;
    config.threads = THREADS;
    config.smem_bytes = lay_out(0).bytes;
    config.on = on;
    return launch(config, tensor_kernel, maps[0], maps[1], out, steps);
}

} // namespace tensor_test

#endif
