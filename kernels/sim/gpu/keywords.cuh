/* gpu/keywords on the host: see kernels/gpu/keywords.cuh for what each function means. */
#ifndef SIM_GPU_KEYWORDS_CUH
#define SIM_GPU_KEYWORDS_CUH

#define __device__
#define __host__
#define __global__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__

#define GPU_INLINE static inline __attribute__((unused))
#define GPU_BOTH static constexpr inline __attribute__((unused))

#endif
