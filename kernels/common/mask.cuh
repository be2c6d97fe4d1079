/*
 * common/mask: which keys a query row sees, as one interval per row. The plan says which blocks
 * need the test at all.
 */
#ifndef COMMON_MASK_CUH
#define COMMON_MASK_CUH

#include "gpu/math.cuh"
#include "gpu/types.cuh"

namespace attn
{

/* Longest reach of a window that a kernel is given; any longer one sees everything. Lengths are at
 * most 2^24 (ragged maps), so sums of both stay far inside 32 bits. */
constexpr int32_t MASK_ENDLESS = 1 << 28;

/* left and right: MASK_ENDLESS for none. */
struct mask_reach {
    int32_t left, right;
};

/* Keys [first, last) of the sequence. */
struct key_range {
    int32_t first, last;
};

GPU_INLINE key_range mask_row(mask_reach reach, int32_t row, int32_t q_len, int32_t k_len)
{
    int32_t diagonal = row + k_len - q_len;
    int32_t last = diagonal + reach.right + 1;
    return {diagonal - reach.left, last < k_len ? last : k_len};
}

/* A thread has two of each eight neighbouring keys: as bits, which of them lie before `keys`. */
GPU_INLINE uint32_t mask_prefix(int32_t keys)
{
    int32_t count = keys <= 0 ? 0 : 2 * (keys / 8) + (keys % 8 < 2 ? keys % 8 : 2);
    return count > 31 ? 0xffffffffu : (1u << count) - 1;
}

/*
 * Scores of a 64 x N accumulator fragment outside the range become -inf. low and high are the
 * ranges of the thread's two rows (r and r + 8), relative to the block's first key. By words of
 * bits, which the compiler moves to predicates seven at a time: two comparisons a score were three
 * times the instructions.
 */
template <int N>
GPU_INLINE void mask_fragment(float (&s)[N / 2], int lane, key_range low, key_range high)
{
    constexpr int PART = 128; /* keys of a word of bits */
#pragma unroll
    for (int row = 0; row < 2; row++) {
        const key_range &range = row == 0 ? low : high;
#pragma unroll
        for (int part = 0; part < N; part += PART) {
            int32_t column = part + 2 * (lane % 4);
            uint32_t bits = mask_prefix(range.last - column) & ~mask_prefix(range.first - column);
#pragma unroll
            for (int i = 0; i < 32 && part + 4 * i < N; i++) {
                float &x = s[4 * (part / 8 + i / 2) + 2 * row + i % 2];
                x = (bits >> i & 1) != 0 ? x : -gpu::infinity();
            }
        }
    }
}

} // namespace attn

#endif
