/*
 * strided.h: bytes of the packed form of a tensor <-> the caller's strided tensor. Pure.
 *
 * The packed form is segments in order of (outer, inner): rows then heads for ordinary tensors,
 * heads then rows for the statistics; a segment is the part without gaps on both sides.
 */
#ifndef CLIENT_STRIDED_H
#define CLIENT_STRIDED_H

#include <stdbool.h>
#include <stdint.h>

#include "client/faserve.h"

struct strided {
    uint8_t *data;
    int64_t inner_count; /* segments per outer step */
    int64_t segment_bytes;
    int64_t outer_stride, inner_stride;
    bool packed; /* the caller's tensor is the packed form */
};

struct strided strided_of(const struct fas_dims *dims, enum fas_tensor tensor,
                          const struct fas_buffer *buffer);

/* Copies bytes [offset, offset + bytes) of the packed form out of, or into, the tensor. */
void strided_gather(const struct strided *s, uint64_t offset, uint64_t bytes, uint8_t *out);
void strided_scatter(const struct strided *s, uint64_t offset, uint64_t bytes, const uint8_t *in);

#endif
