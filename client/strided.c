/*
 * strided.c: see strided.h.
 */
#include "client/strided.h"

#include <string.h>

struct strided strided_of(const struct fas_dims *dims, enum fas_tensor tensor,
                          const struct fas_buffer *buffer)
{
    const struct fas_tensor_row *row = fas_tensor_row(tensor);
    int64_t heads = fas_tensor_heads(dims, tensor);
    int64_t rows = fas_tensor_rows(dims, tensor);
    bool given = buffer->row_stride != 0 || buffer->head_stride != 0;
    struct strided s = {.data = buffer->data};
    if (row->statistics) {
        int64_t row_stride = given ? buffer->row_stride : 4;
        int64_t head_stride = given ? buffer->head_stride : 4 * rows;
        s.inner_count = rows;
        s.segment_bytes = 4;
        s.outer_stride = head_stride;
        s.inner_stride = row_stride;
        s.packed = row_stride == 4 && (heads == 1 || head_stride == 4 * rows);
        if (row_stride == 4) { /* a head's rows are one piece */
            s.inner_count = 1;
            s.segment_bytes = 4 * rows;
        }
        return s;
    }
    int64_t row_bytes = fas_tensor_row_bytes(dims, tensor);
    s.segment_bytes = row_bytes / heads;
    s.inner_count = heads;
    s.outer_stride = given ? buffer->row_stride : row_bytes;
    s.inner_stride = given ? buffer->head_stride : s.segment_bytes;
    s.packed = s.outer_stride == row_bytes && (heads == 1 || s.inner_stride == s.segment_bytes);
    if (!s.packed && s.inner_stride == s.segment_bytes) { /* only rows are apart */
        s.segment_bytes = row_bytes;
        s.inner_count = 1;
    }
    return s;
}

/* The part of one segment from packed offset on, at most `bytes`: where it is, and how long. */
static uint8_t *strided_piece(const struct strided *s, uint64_t offset, uint64_t bytes,
                              uint64_t *piece)
{
    int64_t segment = (int64_t)(offset / (uint64_t)s->segment_bytes);
    int64_t within = (int64_t)(offset % (uint64_t)s->segment_bytes);
    int64_t left = s->segment_bytes - within;
    *piece = (uint64_t)left < bytes ? (uint64_t)left : bytes;
    return s->data + (segment / s->inner_count) * s->outer_stride +
           (segment % s->inner_count) * s->inner_stride + within;
}

void strided_gather(const struct strided *s, uint64_t offset, uint64_t bytes, uint8_t *out)
{
    while (bytes > 0) {
        uint64_t piece;
        const uint8_t *at = strided_piece(s, offset, bytes, &piece);
        memcpy(out, at, piece);
        out += piece;
        offset += piece;
        bytes -= piece;
    }
}

void strided_scatter(const struct strided *s, uint64_t offset, uint64_t bytes, const uint8_t *in)
{
    while (bytes > 0) {
        uint64_t piece;
        uint8_t *at = strided_piece(s, offset, bytes, &piece);
        memcpy(at, in, piece);
        in += piece;
        offset += piece;
        bytes -= piece;
    }
}
