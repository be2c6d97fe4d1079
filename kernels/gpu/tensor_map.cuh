/*
 * gpu/tensor_map: a tensor as TMA sees it. The host encodes a shape into 128 opaque bytes, which
 * reach the kernel as a const __grid_constant__ parameter or in global memory.
 */
#ifndef GPU_TENSOR_MAP_CUH
#define GPU_TENSOR_MAP_CUH

#include <cuda.h>
#include <cuda_runtime_api.h>

#include "gpu/tensor_shape.cuh"

namespace gpu
{

struct tensor_map {
    CUtensorMap opaque;
};

inline CUtensorMapDataType tensor_map_type(element e)
{
    return e == element::bf16   ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
           : e == element::fp16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16
                                : CU_TENSOR_MAP_DATA_TYPE_FLOAT32;
}

inline CUtensorMapSwizzle tensor_map_swizzle(swizzle s)
{
    return s == swizzle::b128  ? CU_TENSOR_MAP_SWIZZLE_128B
           : s == swizzle::b64 ? CU_TENSOR_MAP_SWIZZLE_64B
           : s == swizzle::b32 ? CU_TENSOR_MAP_SWIZZLE_32B
                               : CU_TENSOR_MAP_SWIZZLE_NONE;
}

using tensor_map_encoder = CUresult (*)(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *,
                                        const cuuint64_t *, const cuuint64_t *, const cuuint32_t *,
                                        const cuuint32_t *, CUtensorMapInterleave,
                                        CUtensorMapSwizzle, CUtensorMapL2promotion,
                                        CUtensorMapFloatOOBfill);

/* The driver's encoder, asked for once; NULL without a driver that has it. */
inline tensor_map_encoder tensor_map_driver()
{
    static const tensor_map_encoder found = [] {
        void *entry = nullptr;
        cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
        cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry,
                                                             12000, cudaEnableDefault, &result);
        bool usable = error == cudaSuccess && result == cudaDriverEntryPointSuccess;
        return reinterpret_cast<tensor_map_encoder>(usable ? entry : nullptr);
    }();
    return found;
}

/* Host. False if the shape breaks a TMA rule (see tensor_shape) or there is no driver. */
inline bool tensor_map_encode(tensor_map *map, const tensor_shape &shape)
{
    tensor_map_encoder encode = tensor_map_driver();
    if (encode == nullptr || tensor_shape_error(shape) != nullptr) {
        return false;
    }
    cuuint64_t extents[TENSOR_RANK_MAX], strides[TENSOR_RANK_MAX];
    cuuint32_t box[TENSOR_RANK_MAX], steps[TENSOR_RANK_MAX];
    for (int i = 0; i < shape.rank; i++) {
        extents[i] = shape.extent[i];
        strides[i] = i + 1 < shape.rank ? shape.stride_bytes[i + 1] : 0;
        box[i] = shape.box[i];
        steps[i] = 1;
    }
    return encode(&map->opaque, tensor_map_type(shape.type), static_cast<cuuint32_t>(shape.rank),
                  reinterpret_cast<void *>(shape.base), extents, strides, box, steps,
                  CU_TENSOR_MAP_INTERLEAVE_NONE, tensor_map_swizzle(shape.pattern),
                  CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                  CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

} // namespace gpu

#endif
