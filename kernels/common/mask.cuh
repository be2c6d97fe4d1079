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

/*
 * Scores of a 64 x N accumulator fragment outside the range become -inf. low and high are the
 * ranges of the thread's two rows (r and r + 8), relative to the block's first key.
 */
template <int N>
GPU_INLINE void mask_fragment(float (&s)[N / 2], int lane, key_range low, key_range high)
{
    int column = 2 * (lane % 4);
#pragma unroll
    for (int j = 0; j < N / 8; j++) {
#pragma unroll
        for (int e = 0; e < 4; e++) {
            int32_t key = column + 8 * j + e % 2;
            const key_range &range = e < 2 ? low : high;
            s[4 * j + e] = key >= range.first && key < range.last ? s[4 * j + e] : -gpu::infinity();
        }
    }
}

} // namespace attn

#endif
