/*
 * gpu/tensor_shape: what a tensor map says, before it is encoded, and the two tricks we play with
 * it. Plain arithmetic, one copy for both builds.
 *
 * Panels: a box is at most one swizzle width wide, so a row of d elements is cut into panels and
 *   the panel number is a dimension of its own; one instruction then loads rows x d elements into
 *   the layout that gpu/descriptor describes.
 *
 * Ragged: rows of many sequences are packed, and a box that ends past its sequence must read zeros
 *   and write nothing. The row dimension gets a fixed extent R (RAGGED_ROWS), a further dimension
 *   has the same stride, and the base is moved back by R rows. A sequence of `length` rows that
 *   starts at row `first` is then addressed with
 *       row coordinate   R - length + i      (i >= length is out of bounds: clipped by hardware)
 *       shift coordinate first + length
 *   since base - R rows + (R - length + i) rows + (first + length) rows = base + (first + i) rows.
 */
#ifndef GPU_TENSOR_SHAPE_CUH
#define GPU_TENSOR_SHAPE_CUH

#include <stddef.h>

#include "gpu/descriptor.cuh"
#include "gpu/types.cuh"

namespace gpu
{

enum class element { bf16, fp16, f32 };

template <typename T>
struct element_of;

template <>
struct element_of<bf16> {
    static constexpr element value = element::bf16;
};

template <>
struct element_of<fp16> {
    static constexpr element value = element::fp16;
};

template <>
struct element_of<float> {
    static constexpr element value = element::f32;
};

constexpr int TENSOR_RANK_MAX = 5;
constexpr uint32_t TENSOR_BOX_MAX = 256; /* elements of a box in any dimension */

/* Dimension 0 is contiguous; stride_bytes[0] is not used. The base may lie outside any memory. */
struct tensor_shape {
    element type;
    int rank;
    swizzle pattern;
    uint64_t base;
    uint64_t extent[TENSOR_RANK_MAX];
    uint64_t stride_bytes[TENSOR_RANK_MAX];
    uint32_t box[TENSOR_RANK_MAX];
};

GPU_BOTH uint32_t element_bytes(element e)
{
    return e == element::f32 ? 4 : 2;
}

/* Bytes that one load of a box adds to its barrier, out-of-bounds part included. */
GPU_BOTH uint32_t tensor_box_bytes(const tensor_shape &s)
{
    uint32_t bytes = element_bytes(s.type);
    for (int i = 0; i < s.rank; i++) {
        bytes *= s.box[i];
    }
    return bytes;
}

/* NULL, or the rule of cuTensorMapEncodeTiled that the shape breaks. */
inline const char *tensor_shape_error(const tensor_shape &s)
{
    if (s.rank < 1 || s.rank > TENSOR_RANK_MAX) {
        return "rank is 1 to 5";
    }
    if (s.base % 16 != 0) {
        return "base is a multiple of 16";
    }
    uint32_t inner = s.box[0] * element_bytes(s.type);
    if (inner % 16 != 0) {
        return "the box's inner row is a multiple of 16 bytes";
    }
    if (s.pattern != swizzle::none && inner > swizzle_width(s.pattern)) {
        return "the box's inner row is wider than the swizzle";
    }
    for (int i = 0; i < s.rank; i++) {
        if (s.box[i] < 1 || s.box[i] > TENSOR_BOX_MAX) {
            return "a box has 1 to 256 elements in each dimension";
        }
        if (s.extent[i] < 1 || s.extent[i] > (uint64_t{1} << 32)) {
            return "an extent is 1 to 2^32";
        }
        if (i > 0 && (s.stride_bytes[i] % 16 != 0 || s.stride_bytes[i] >= (uint64_t{1} << 40))) {
            return "a stride is a multiple of 16 below 2^40";
        }
    }
    return nullptr;
}

/*
 * (columns, rows, heads) with boxes of one panel x box_rows rows of one head. One load per panel;
 * columns past the tensor's read zero and are not written. Coordinates: column, row, head.
 */
inline tensor_shape tensor_rows(element type, swizzle pattern, const void *data, int64_t row_stride,
                                int64_t head_stride, int64_t rows, int32_t heads, int32_t columns,
                                int32_t box_rows)
{
    tensor_shape s = {};
    s.type = type;
    s.rank = 3;
    s.pattern = pattern;
    s.base = reinterpret_cast<uint64_t>(data);
    s.extent[0] = static_cast<uint64_t>(columns);
    s.extent[1] = rows > 0 ? static_cast<uint64_t>(rows) : 1;
    s.extent[2] = static_cast<uint64_t>(heads);
    s.stride_bytes[1] = static_cast<uint64_t>(row_stride);
    s.stride_bytes[2] = static_cast<uint64_t>(head_stride);
    s.box[0] = swizzle_width(pattern) / element_bytes(type);
    s.box[1] = static_cast<uint32_t>(box_rows);
    s.box[2] = 1;
    return s;
}

/*
 * (panel, rows, panels, heads) with boxes of all panels x box_rows rows of one head: one load per
 * tile. columns must be a multiple of the panel. Coordinates: 0, row, panel, head.
 */
inline tensor_shape tensor_panels(element type, swizzle pattern, const void *data,
                                  int64_t row_stride, int64_t head_stride, int64_t rows,
                                  int32_t heads, int32_t columns, int32_t box_rows)
{
    tensor_shape s =
        tensor_rows(type, pattern, data, row_stride, head_stride, rows, heads, columns, box_rows);
    s.rank = 4;
    s.extent[3] = s.extent[2];
    s.stride_bytes[3] = s.stride_bytes[2];
    s.extent[0] = s.box[0];
    s.extent[2] = static_cast<uint64_t>(columns) / s.box[0];
    s.stride_bytes[2] = swizzle_width(pattern);
    s.box[2] = static_cast<uint32_t>(s.extent[2]);
    s.box[3] = 1;
    return s;
}

constexpr int32_t RAGGED_ROWS = 1 << 24; /* longest sequence that a ragged map can hold */

/*
 * Make a shape of tensor_rows or tensor_panels ragged: one more dimension, the shift, after the
 * last. Coordinates: column or 0, ragged_row, (panel,) head, ragged_shift.
 */
inline tensor_shape tensor_ragged(const tensor_shape &rows)
{
    tensor_shape s = rows;
    uint64_t row_stride = s.stride_bytes[1];
    s.base -= static_cast<uint64_t>(RAGGED_ROWS) * row_stride;
    s.extent[1] = static_cast<uint64_t>(RAGGED_ROWS);
    s.extent[s.rank] = 0x7fffffff;
    s.stride_bytes[s.rank] = row_stride;
    s.box[s.rank] = 1;
    s.rank++;
    return s;
}

/*
 * Make a ragged shape of tensor_rows one whose boxes are of `heads` neighbouring heads: box_rows /
 * heads rows of each, the heads of a row next to each other. Coordinates: column, head, ragged_row,
 * ragged_shift.
 */
inline tensor_shape tensor_packed(const tensor_shape &ragged, int32_t heads)
{
    tensor_shape s = ragged;
    s.extent[1] = ragged.extent[2];
    s.extent[2] = ragged.extent[1];
    s.stride_bytes[1] = ragged.stride_bytes[2];
    s.stride_bytes[2] = ragged.stride_bytes[1];
    s.box[1] = static_cast<uint32_t>(heads);
    s.box[2] = ragged.box[1] / static_cast<uint32_t>(heads);
    return s;
}

GPU_BOTH int32_t ragged_row(int32_t length, int32_t i)
{
    return RAGGED_ROWS - length + i;
}

/* first + length < 2^31: rows of one tensor. */
GPU_BOTH int32_t ragged_shift(int64_t first, int32_t length)
{
    return static_cast<int32_t>(first + length);
}

} // namespace gpu

#endif
