/*
 * common/forward: what a forward kernel is given, on every arch. cuda/forward fills it in.
 */
#ifndef COMMON_FORWARD_CUH
#define COMMON_FORWARD_CUH

#include "common/mask.cuh"
#include "gpu/tensor_map.cuh"
#include "gpu/types.cuh"
#include "kernels/plan.h"

namespace attn
{

/* Tensors of one request. Maps are ragged (gpu/tensor_shape); their boxes are one panel wide. */
struct forward_set {
    gpu::tensor_map q, k, v, o;
    const uint8_t *keys;                       /* what k maps, with its strides */
    int64_t keys_row_stride, keys_head_stride; /* bytes, as all strides here */
    uint8_t *out;                              /* what o maps, likewise */
    int64_t out_row_stride, out_head_stride;
    uint8_t *lse;
    int64_t lse_row_stride, lse_head_stride;
    const float *sink; /* per q head, or NULL */
};

struct forward_params {
    forward_set first;       /* set 0 */
    const forward_set *more; /* sets 1 and up */
    const plan_tile *tiles;  /* tile_count of them, then an end mark for each CTA */
    int32_t *counter;        /* 0 before and after a launch */
    int32_t tile_count;
    int32_t group;      /* q heads per kv head */
    int32_t heads_log2; /* of the neighbouring q heads of a tile (sm90) */
    int32_t d, dv;      /* columns of the tensors, at most the kernel's */
    mask_reach reach;
    float scale_log2; /* of the scores, after the softcap if there is one */
    float cap_inner;  /* softmax scale / softcap */
};

GPU_INLINE const forward_set *forward_set_of(const forward_params &p, int32_t set)
{
    return set == 0 ? &p.first : p.more + (set - 1);
}

} // namespace attn

#endif
