/*
 * The few runtime calls that the host side of a kernel makes, for the simulator: device memory is
 * host memory that kernels may touch, a stream is a sim::device, and copies happen at once. It
 * bears the name of the CUDA header so that kernels/cuda compiles unchanged.
 */
#ifndef SIM_CUDA_RUNTIME_API_H
#define SIM_CUDA_RUNTIME_API_H

#include <stddef.h>
#include <string.h>

#include "sim/device.h"

using cudaStream_t = sim::device *;

enum cudaError_t { cudaSuccess, cudaErrorMemoryAllocation, cudaErrorLaunchFailure };
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice };
enum cudaDeviceAttr {
    cudaDevAttrMultiProcessorCount,
    cudaDevAttrComputeCapabilityMajor,
    cudaDevAttrComputeCapabilityMinor,
};

template <typename T>
inline cudaError_t cudaMalloc(T **memory, size_t bytes)
{
    *memory = static_cast<T *>(sim::memory_take(bytes));
    return *memory != nullptr ? cudaSuccess : cudaErrorMemoryAllocation;
}

template <typename T>
inline cudaError_t cudaMallocHost(T **memory, size_t bytes)
{
    return cudaMalloc(memory, bytes);
}

inline cudaError_t cudaFree(void *memory)
{
    sim::memory_give(memory);
    return cudaSuccess;
}

inline cudaError_t cudaFreeHost(void *memory)
{
    return cudaFree(memory);
}

inline cudaError_t cudaMemset(void *memory, int value, size_t bytes)
{
    memset(memory, value, bytes);
    return cudaSuccess;
}

inline cudaError_t cudaMemsetAsync(void *memory, int value, size_t bytes, cudaStream_t)
{
    return cudaMemset(memory, value, bytes);
}

/* Copies happen at once, but one that is not on the stream of kernels waits for none of them. */
inline cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind,
                                   cudaStream_t stream)
{
    if (stream == nullptr) {
        return sim::memory_copy(to, from, bytes) ? cudaSuccess : cudaErrorLaunchFailure;
    }
    memcpy(to, from, bytes);
    return cudaSuccess;
}

inline cudaError_t cudaStreamSynchronize(cudaStream_t)
{
    sim::memory_settle();
    return cudaSuccess;
}

/* Streams and events of the host side's own: copies happen at once, so nothing waits for them. */
enum { cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2 };
using cudaEvent_t = void *;

inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned)
{
    *stream = nullptr;
    return cudaSuccess;
}

inline cudaError_t cudaStreamDestroy(cudaStream_t)
{
    return cudaSuccess;
}

inline cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned)
{
    *event = nullptr;
    return cudaSuccess;
}

inline cudaError_t cudaEventDestroy(cudaEvent_t)
{
    return cudaSuccess;
}

inline cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t)
{
    return cudaSuccess;
}

inline cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned)
{
    return cudaSuccess;
}

inline cudaError_t cudaGetLastError()
{
    return cudaSuccess;
}

inline cudaError_t cudaGetDevice(int *device)
{
    *device = 0;
    return cudaSuccess;
}

/* A small chip, so that persistent kernels take several tiles each. */
inline cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int)
{
    *value = attribute == cudaDevAttrMultiProcessorCount      ? sim::processors
             : attribute == cudaDevAttrComputeCapabilityMajor ? 9
                                                              : 0;
    return cudaSuccess;
}

#endif
