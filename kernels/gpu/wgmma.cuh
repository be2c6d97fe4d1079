/*
 * gpu/wgmma: D (64 x N, fp32, in registers of one warpgroup) += A (64 x 16) B (16 x N).
 *
 * All 128 threads call it together with equal descriptors. It runs asynchronously: between the call
 * and a wgmma_wait that retires its group the accumulator (and a register A) must not be touched,
 * and the wait takes them as arguments, which is what keeps the compiler from moving uses above it.
 *   wgmma_fence(acc)   before the first wgmma after ordinary code touched acc or A
 *   wgmma<..>(acc, ..) any number
 *   wgmma_commit()     closes the group
 *   wgmma_wait<P>(acc, a)  at most P younger groups unfinished
 * Fragment: thread t of warp w holds d[4 j + 0, 1] = row 16 w + t / 4, columns 8 j + 2 (t % 4) and
 * + 1; d[4 j + 2, 3] = the same columns of row + 8. A in registers, one k-step: a[0] = (row, k 2 (t
 * % 4) and + 1), a[1] = row + 8, a[2] = k + 8, a[3] = both. So the groups 2 k and 2 k + 1 of an
 * accumulator, packed pairwise, are the A fragment of k-step k.
 */
#ifndef GPU_WGMMA_CUH
#define GPU_WGMMA_CUH

#include "gpu/types.cuh"

namespace gpu
{

/* Pins: the compiler must have the register's value here and may not keep an older copy. */
GPU_INLINE void wgmma_pin(float &r)
{
    asm volatile("" : "+f"(r)::"memory");
}

GPU_INLINE void wgmma_pin(uint32_t &r)
{
    asm volatile("" : "+r"(r)::"memory");
}

template <typename T, int COUNT>
GPU_INLINE void wgmma_pin(T (&array)[COUNT])
{
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
        wgmma_pin(array[i]);
    }
}

template <typename... Arrays>
GPU_INLINE void wgmma_fence(Arrays &...arrays)
{
    (wgmma_pin(arrays), ...);
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

GPU_INLINE void wgmma_commit()
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

/* Pass every accumulator and A array of the groups that this retires. */
template <int PENDING, typename... Arrays>
GPU_INLINE void wgmma_wait(Arrays &...arrays)
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
    (wgmma_pin(arrays), ...);
}

/* One instruction per N; the register lists below are cumulative. */
template <int N>
struct wgmma_shape;

#define WGMMA_TEXT_8 "%0, %1, %2, %3"
#define WGMMA_TEXT_16 WGMMA_TEXT_8 ", %4, %5, %6, %7"
#define WGMMA_TEXT_24 WGMMA_TEXT_16 ", %8, %9, %10, %11"
#define WGMMA_TEXT_32 WGMMA_TEXT_24 ", %12, %13, %14, %15"
#define WGMMA_TEXT_40 WGMMA_TEXT_32 ", %16, %17, %18, %19"
#define WGMMA_TEXT_48 WGMMA_TEXT_40 ", %20, %21, %22, %23"
#define WGMMA_TEXT_56 WGMMA_TEXT_48 ", %24, %25, %26, %27"
#define WGMMA_TEXT_64 WGMMA_TEXT_56 ", %28, %29, %30, %31"
#define WGMMA_TEXT_72 WGMMA_TEXT_64 ", %32, %33, %34, %35"
#define WGMMA_TEXT_80 WGMMA_TEXT_72 ", %36, %37, %38, %39"
#define WGMMA_TEXT_88 WGMMA_TEXT_80 ", %40, %41, %42, %43"
#define WGMMA_TEXT_96 WGMMA_TEXT_88 ", %44, %45, %46, %47"
#define WGMMA_TEXT_104 WGMMA_TEXT_96 ", %48, %49, %50, %51"
#define WGMMA_TEXT_112 WGMMA_TEXT_104 ", %52, %53, %54, %55"
#define WGMMA_TEXT_120 WGMMA_TEXT_112 ", %56, %57, %58, %59"
#define WGMMA_TEXT_128 WGMMA_TEXT_120 ", %60, %61, %62, %63"
#define WGMMA_TEXT_136 WGMMA_TEXT_128 ", %64, %65, %66, %67"
#define WGMMA_TEXT_144 WGMMA_TEXT_136 ", %68, %69, %70, %71"
#define WGMMA_TEXT_152 WGMMA_TEXT_144 ", %72, %73, %74, %75"
#define WGMMA_TEXT_160 WGMMA_TEXT_152 ", %76, %77, %78, %79"
#define WGMMA_TEXT_168 WGMMA_TEXT_160 ", %80, %81, %82, %83"
#define WGMMA_TEXT_176 WGMMA_TEXT_168 ", %84, %85, %86, %87"
#define WGMMA_TEXT_184 WGMMA_TEXT_176 ", %88, %89, %90, %91"
#define WGMMA_TEXT_192 WGMMA_TEXT_184 ", %92, %93, %94, %95"
#define WGMMA_TEXT_200 WGMMA_TEXT_192 ", %96, %97, %98, %99"
#define WGMMA_TEXT_208 WGMMA_TEXT_200 ", %100, %101, %102, %103"
#define WGMMA_TEXT_216 WGMMA_TEXT_208 ", %104, %105, %106, %107"
#define WGMMA_TEXT_224 WGMMA_TEXT_216 ", %108, %109, %110, %111"
#define WGMMA_TEXT_232 WGMMA_TEXT_224 ", %112, %113, %114, %115"
#define WGMMA_TEXT_240 WGMMA_TEXT_232 ", %116, %117, %118, %119"
#define WGMMA_TEXT_248 WGMMA_TEXT_240 ", %120, %121, %122, %123"
#define WGMMA_TEXT_256 WGMMA_TEXT_248 ", %124, %125, %126, %127"
#define WGMMA_DATA_8 "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
#define WGMMA_DATA_16 WGMMA_DATA_8, "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7])
#define WGMMA_DATA_24 WGMMA_DATA_16, "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11])
#define WGMMA_DATA_32 WGMMA_DATA_24, "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15])
#define WGMMA_DATA_40 WGMMA_DATA_32, "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19])
#define WGMMA_DATA_48 WGMMA_DATA_40, "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23])
#define WGMMA_DATA_56 WGMMA_DATA_48, "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27])
#define WGMMA_DATA_64 WGMMA_DATA_56, "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
#define WGMMA_DATA_72 WGMMA_DATA_64, "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35])
#define WGMMA_DATA_80 WGMMA_DATA_72, "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39])
#define WGMMA_DATA_88 WGMMA_DATA_80, "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43])
#define WGMMA_DATA_96 WGMMA_DATA_88, "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47])
#define WGMMA_DATA_104 WGMMA_DATA_96, "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51])
#define WGMMA_DATA_112 WGMMA_DATA_104, "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55])
#define WGMMA_DATA_120 WGMMA_DATA_112, "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59])
#define WGMMA_DATA_128 WGMMA_DATA_120, "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
#define WGMMA_DATA_136 WGMMA_DATA_128, "+f"(d[64]), "+f"(d[65]), "+f"(d[66]), "+f"(d[67])
#define WGMMA_DATA_144 WGMMA_DATA_136, "+f"(d[68]), "+f"(d[69]), "+f"(d[70]), "+f"(d[71])
#define WGMMA_DATA_152 WGMMA_DATA_144, "+f"(d[72]), "+f"(d[73]), "+f"(d[74]), "+f"(d[75])
#define WGMMA_DATA_160 WGMMA_DATA_152, "+f"(d[76]), "+f"(d[77]), "+f"(d[78]), "+f"(d[79])
#define WGMMA_DATA_168 WGMMA_DATA_160, "+f"(d[80]), "+f"(d[81]), "+f"(d[82]), "+f"(d[83])
#define WGMMA_DATA_176 WGMMA_DATA_168, "+f"(d[84]), "+f"(d[85]), "+f"(d[86]), "+f"(d[87])
#define WGMMA_DATA_184 WGMMA_DATA_176, "+f"(d[88]), "+f"(d[89]), "+f"(d[90]), "+f"(d[91])
#define WGMMA_DATA_192 WGMMA_DATA_184, "+f"(d[92]), "+f"(d[93]), "+f"(d[94]), "+f"(d[95])
#define WGMMA_DATA_200 WGMMA_DATA_192, "+f"(d[96]), "+f"(d[97]), "+f"(d[98]), "+f"(d[99])
#define WGMMA_DATA_208 WGMMA_DATA_200, "+f"(d[100]), "+f"(d[101]), "+f"(d[102]), "+f"(d[103])
#define WGMMA_DATA_216 WGMMA_DATA_208, "+f"(d[104]), "+f"(d[105]), "+f"(d[106]), "+f"(d[107])
#define WGMMA_DATA_224 WGMMA_DATA_216, "+f"(d[108]), "+f"(d[109]), "+f"(d[110]), "+f"(d[111])
#define WGMMA_DATA_232 WGMMA_DATA_224, "+f"(d[112]), "+f"(d[113]), "+f"(d[114]), "+f"(d[115])
#define WGMMA_DATA_240 WGMMA_DATA_232, "+f"(d[116]), "+f"(d[117]), "+f"(d[118]), "+f"(d[119])
#define WGMMA_DATA_248 WGMMA_DATA_240, "+f"(d[120]), "+f"(d[121]), "+f"(d[122]), "+f"(d[123])
#define WGMMA_DATA_256 WGMMA_DATA_248, "+f"(d[124]), "+f"(d[125]), "+f"(d[126]), "+f"(d[127])

/* I0..I6 are the numbers of the input operands: they follow the N / 2 accumulators. */
#define WGMMA_OPCODE(N, TYPE) "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE "." TYPE
#define WGMMA_SS(N, TYPE, I0, I1, I2, I3, I4)                                                      \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #I2                                          \
                 ", 0;\n" WGMMA_OPCODE(N, TYPE) " {" WGMMA_TEXT_##N                                \
                 "}, %" #I0 ", %" #I1 ", p, 1, 1, %" #I3 ", %" #I4 ";\n}\n"                        \
                 : WGMMA_DATA_##N                                                                  \
                 : "l"(a), "l"(b), "r"(add), "n"(TA), "n"(TB)                                      \
                 : "memory")
#define WGMMA_RS(N, TYPE, I0, I1, I2, I3, I4, I5, I6)                                              \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #I5                                          \
                 ", 0;\n" WGMMA_OPCODE(N, TYPE) " {" WGMMA_TEXT_##N                                \
                 "}, {%" #I0 ", %" #I1 ", %" #I2 ", %" #I3 "}, %" #I4 ", p, 1, 1, %" #I6 ";\n}\n"  \
                 : WGMMA_DATA_##N                                                                  \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add), "n"(TB)           \
                 : "memory")
#define WGMMA_SHAPE(N, I0, I1, I2, I3, I4, I5, I6)                                                 \
    template <>                                                                                    \
    struct wgmma_shape<N> {                                                                        \
        template <bool BF16, int TA, int TB>                                                       \
        static __device__ __forceinline__ void ss(float (&d)[N / 2], uint64_t a, uint64_t b,       \
                                                  int add)                                         \
        {                                                                                          \
            if constexpr (BF16) {                                                                  \
                WGMMA_SS(N, "bf16", I0, I1, I2, I3, I4);                                           \
            } else {                                                                               \
                WGMMA_SS(N, "f16", I0, I1, I2, I3, I4);                                            \
            }                                                                                      \
        }                                                                                          \
        template <bool BF16, int TB>                                                               \
        static __device__ __forceinline__ void rs(float (&d)[N / 2], const uint32_t (&a)[4],       \
                                                  uint64_t b, int add)                             \
        {                                                                                          \
            if constexpr (BF16) {                                                                  \
                WGMMA_RS(N, "bf16", I0, I1, I2, I3, I4, I5, I6);                                   \
            } else {                                                                               \
                WGMMA_RS(N, "f16", I0, I1, I2, I3, I4, I5, I6);                                    \
            }                                                                                      \
        }                                                                                          \
    };
WGMMA_SHAPE(8, 4, 5, 6, 7, 8, 9, 10)
WGMMA_SHAPE(16, 8, 9, 10, 11, 12, 13, 14)
WGMMA_SHAPE(24, 12, 13, 14, 15, 16, 17, 18)
WGMMA_SHAPE(32, 16, 17, 18, 19, 20, 21, 22)
WGMMA_SHAPE(40, 20, 21, 22, 23, 24, 25, 26)
WGMMA_SHAPE(48, 24, 25, 26, 27, 28, 29, 30)
WGMMA_SHAPE(56, 28, 29, 30, 31, 32, 33, 34)
WGMMA_SHAPE(64, 32, 33, 34, 35, 36, 37, 38)
WGMMA_SHAPE(72, 36, 37, 38, 39, 40, 41, 42)
WGMMA_SHAPE(80, 40, 41, 42, 43, 44, 45, 46)
WGMMA_SHAPE(88, 44, 45, 46, 47, 48, 49, 50)
WGMMA_SHAPE(96, 48, 49, 50, 51, 52, 53, 54)
WGMMA_SHAPE(104, 52, 53, 54, 55, 56, 57, 58)
WGMMA_SHAPE(112, 56, 57, 58, 59, 60, 61, 62)
WGMMA_SHAPE(120, 60, 61, 62, 63, 64, 65, 66)
WGMMA_SHAPE(128, 64, 65, 66, 67, 68, 69, 70)
WGMMA_SHAPE(136, 68, 69, 70, 71, 72, 73, 74)
WGMMA_SHAPE(144, 72, 73, 74, 75, 76, 77, 78)
WGMMA_SHAPE(152, 76, 77, 78, 79, 80, 81, 82)
WGMMA_SHAPE(160, 80, 81, 82, 83, 84, 85, 86)
WGMMA_SHAPE(168, 84, 85, 86, 87, 88, 89, 90)
WGMMA_SHAPE(176, 88, 89, 90, 91, 92, 93, 94)
WGMMA_SHAPE(184, 92, 93, 94, 95, 96, 97, 98)
WGMMA_SHAPE(192, 96, 97, 98, 99, 100, 101, 102)
WGMMA_SHAPE(200, 100, 101, 102, 103, 104, 105, 106)
WGMMA_SHAPE(208, 104, 105, 106, 107, 108, 109, 110)
WGMMA_SHAPE(216, 108, 109, 110, 111, 112, 113, 114)
WGMMA_SHAPE(224, 112, 113, 114, 115, 116, 117, 118)
WGMMA_SHAPE(232, 116, 117, 118, 119, 120, 121, 122)
WGMMA_SHAPE(240, 120, 121, 122, 123, 124, 125, 126)
WGMMA_SHAPE(248, 124, 125, 126, 127, 128, 129, 130)
WGMMA_SHAPE(256, 128, 129, 130, 131, 132, 133, 134)

template <typename T>
struct wgmma_is_bf16;

template <>
struct wgmma_is_bf16<bf16> {
    static constexpr bool value = true;
};

template <>
struct wgmma_is_bf16<fp16> {
    static constexpr bool value = false;
};

/* Both operands in shared memory. T: bf16 or fp16; add false: D = A B, the old D is not read. */
template <int N, typename T, major A = major::k, major B = major::k>
GPU_INLINE void wgmma(float (&d)[N / 2], uint64_t a, uint64_t b, bool add)
{
    wgmma_shape<N>::template ss<wgmma_is_bf16<T>::value, A == major::mn, B == major::mn>(d, a, b,
                                                                                         add);
}

/* A in registers. */
template <int N, typename T, major B = major::k>
GPU_INLINE void wgmma(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b, bool add)
{
    wgmma_shape<N>::template rs<wgmma_is_bf16<T>::value, B == major::mn>(d, a, b, add);
}

} // namespace gpu

#endif
