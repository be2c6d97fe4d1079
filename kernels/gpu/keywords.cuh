/* gpu/keywords: the compiler knows __global__ and its kin; the host build defines them empty. */
#ifndef GPU_KEYWORDS_CUH
#define GPU_KEYWORDS_CUH

#define GPU_INLINE static __device__ __forceinline__
/* Arithmetic both sides run: descriptors on the device, tile plans and tests on the host. */
#define GPU_BOTH static constexpr __host__ __device__ __forceinline__

#endif
