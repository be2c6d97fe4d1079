/* gpu/tensor_map on the host: see kernels/gpu/tensor_map.cuh for what each function means. */
#ifndef SIM_GPU_TENSOR_MAP_CUH
#define SIM_GPU_TENSOR_MAP_CUH

#include "gpu/tensor_shape.cuh"

namespace gpu
{

struct tensor_map {
    tensor_shape shape;
};

inline bool tensor_map_encode(tensor_map *map, const tensor_shape &shape)
{
    map->shape = shape;
    return tensor_shape_error(shape) == nullptr;
}

} // namespace gpu

#endif
