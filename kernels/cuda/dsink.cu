/*
 * cuda/dsink: attn_sum_dsink on the device: for each request the rows of its sequences, in order.
 *
 * Grid: (heads / 32 rounded up, requests), 32 threads; a thread owns a head and adds in fp64, as
 * the host does, so both give the same bits. Bound by the latency of one load after another, some
 * 0.5 us a sequence where nothing is unrolled: ordinary batches have tens.
 */
#include <string.h>

#include "cuda/context.cuh"
#include "gpu/global.cuh"
#include "gpu/index.cuh"
#include "gpu/launch.cuh"

namespace
{

static __global__ void sum_kernel(const attn_dsink_sum *sums)
{
    const attn_dsink_sum sum = sums[gpu::block_y()];
    int32_t head = gpu::block_x() * 32 + gpu::thread_index();
    if (head >= sum.hq) {
        return;
    }
    double total = 0.0;
#pragma unroll 8
    for (int64_t s = 0; s < sum.sequences; s++) {
        total += static_cast<double>(gpu::global_load<float>(sum.per_sequence + s * sum.hq + head));
    }
    gpu::global_store(sum.out + head, static_cast<float>(total));
}

} // namespace

enum attn_status attn_cuda_sum_dsink(struct attn_context *context,
                                     const struct attn_dsink_sum *sums, int32_t count)
{
    if (count == 0) {
        return ATTN_OK;
    }
    size_t bytes = static_cast<size_t>(count) * sizeof(*sums);
    cuda_piece piece = cuda_piece_take(context, bytes);
    int32_t hq_max = 0;
    for (int32_t i = 0; i < count; i++) {
        hq_max = sums[i].hq > hq_max ? sums[i].hq : hq_max;
    }
    if (piece.host == nullptr) {
        return ATTN_LAUNCH_FAILED;
    }
    memcpy(piece.host, sums, bytes);
    gpu::launch_config config = {(hq_max + 31) / 32, count, 1, 32, 0, 0, false, context->stream};
    bool done = cuda_piece_send(context, &piece) &&
                gpu::launch(config, sum_kernel,
                            reinterpret_cast<const attn_dsink_sum *>(piece.device)) == nullptr;
    return done ? ATTN_OK : ATTN_LAUNCH_FAILED;
}
