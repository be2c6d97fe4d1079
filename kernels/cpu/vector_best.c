/* vector_best.c: which of vector.c's tables this machine can run; __builtin_cpu_supports also asks
 * whether the kernel saves the wide registers. */
#include "kernels/cpu/vector.h"

#include <stddef.h>

extern const struct vector vector_plain;

#if defined(__x86_64__)

extern const struct vector vector_avx2, vector_avx512;

const struct vector *vector_best(void)
{
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
        return &vector_avx512;
    }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        return &vector_avx2;
    }
    return &vector_plain;
}

#else

const struct vector *vector_best(void)
{
    return &vector_plain;
}

#endif
