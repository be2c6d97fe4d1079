/*
 * gpu/launch: start a kernel from the host. The launch returns before the kernel ends; errors of
 * the launch itself come back, nothing aborts.
 */
#ifndef GPU_LAUNCH_CUH
#define GPU_LAUNCH_CUH

#include <cuda_runtime_api.h>

#include "gpu/types.cuh"

namespace gpu
{

using stream = cudaStream_t;

struct launch_config {
    int grid_x, grid_y, grid_z; /* blocks; 0 counts as 1 */
    int threads;
    uint32_t smem_bytes;    /* dynamic shared memory */
    int cluster;            /* blocks of a cluster along x; 0: none */
    bool overlaps_previous; /* may start before the kernel ahead of it ends: grid_wait_previous */
    stream on;
};

/* NULL, or the runtime's name of the error. */
template <typename... Parameters, typename... Arguments>
inline const char *launch(const launch_config &config, void (*kernel)(Parameters...),
                          const Arguments &...arguments)
{
    auto at_least_one = [](int n) { return static_cast<unsigned>(n > 0 ? n : 1); };
    cudaLaunchAttribute attributes[2] = {};
    unsigned count = 0;
    if (config.overlaps_previous) {
        attributes[count].id = cudaLaunchAttributeProgrammaticStreamSerialization;
        attributes[count++].val.programmaticStreamSerializationAllowed = 1;
    }
    if (config.cluster > 1) {
        attributes[count].id = cudaLaunchAttributeClusterDimension;
        attributes[count++].val.clusterDim = {static_cast<unsigned>(config.cluster), 1, 1};
    }
    cudaLaunchConfig_t c = {};
    c.gridDim =
        dim3(at_least_one(config.grid_x), at_least_one(config.grid_y), at_least_one(config.grid_z));
    c.blockDim = dim3(at_least_one(config.threads), 1, 1);
    c.dynamicSmemBytes = config.smem_bytes;
    c.stream = config.on;
    c.attrs = attributes;
    c.numAttrs = count;
    cudaError_t error = cudaSuccess;
    if (config.smem_bytes > 48 * 1024) { /* past this a kernel has to ask */
        error = cudaFuncSetAttribute(reinterpret_cast<const void *>(kernel),
                                     cudaFuncAttributeMaxDynamicSharedMemorySize,
                                     static_cast<int>(config.smem_bytes));
    }
    if (error == cudaSuccess) {
        error = cudaLaunchKernelEx(&c, kernel, Parameters(arguments)...);
    }
    return error == cudaSuccess ? nullptr : cudaGetErrorName(error);
}

} // namespace gpu

#endif
