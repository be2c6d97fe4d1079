/*
 * tensor.h: the words of a request: pass, dtype, tensors, places. One row per tensor says which
 * side's rows it has, how many heads and how wide a row is; sizes, checks and loops on both ends of
 * the wire follow from the rows. Which pass takes and gives which tensors: wire.h. Installed with
 * the client library.
 *
 * Packed layout (what travels inline): row-major, (rows, heads, width), no gaps. The fp32
 * statistics are (heads, rows): all rows of head 0, then of head 1, ...
 */
#ifndef FAS_TENSOR_H
#define FAS_TENSOR_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum fas_pass { FAS_FORWARD = 0, FAS_BACKWARD = 1 };

enum fas_dtype { FAS_BF16 = 0, FAS_FP16 = 1, FAS_FP32 = 2, FAS_DTYPE_COUNT };

/* Numbers are part of the protocol (DATA and RESULT carry them in the preamble's flags). */
enum fas_tensor {
    FAS_Q = 0,
    FAS_K = 1,
    FAS_V = 2,
    FAS_O = 3,
    FAS_LSE = 4,
    FAS_DO = 5,
    FAS_DQ = 6,
    FAS_DK = 7,
    FAS_DV = 8,
    FAS_DLSE = 9,
    FAS_DELTA = 10,
    FAS_SINK = 11,
    FAS_DSINK = 12,
    FAS_TENSOR_COUNT
};

/* Where a tensor's bytes are. */
enum fas_place {
    FAS_PLACE_INLINE = 0, /* in the messages themselves */
    FAS_PLACE_REGION = 1, /* shared memory made by the server */
    FAS_PLACE_CUDA = 2,   /* a CUDA allocation opened by IPC handle */
    FAS_PLACE_COUNT
};

/* Rows of which side; a per-head tensor has one row. */
enum fas_side { FAS_SIDE_Q, FAS_SIDE_K, FAS_SIDE_NONE };

/* Elements per row and head. */
enum fas_width { FAS_WIDTH_D, FAS_WIDTH_DV, FAS_WIDTH_ONE };

struct fas_tensor_row {
    const char *name; /* "q", "lse", "do": as in safetensors files and error fields */
    enum fas_tensor tensor;
    enum fas_side side;
    enum fas_width width;
    bool kv_heads;   /* hkv heads instead of hq */
    bool statistics; /* fp32, (heads, rows) */
};

/* The numbers that size every tensor of a request. */
struct fas_dims {
    enum fas_dtype dtype;
    int32_t hq, hkv, d, dv;
    int64_t total_q, total_k;
};

const struct fas_tensor_row *fas_tensor_row(enum fas_tensor tensor);
const char *fas_dtype_name(enum fas_dtype dtype); /* "bf16" */
const char *fas_place_name(enum fas_place place); /* "inline" */
uint32_t fas_dtype_bytes(enum fas_dtype dtype);

/* Rows, heads and bytes of the packed tensor; dims obey limits.h, so nothing overflows. */
int64_t fas_tensor_rows(const struct fas_dims *dims, enum fas_tensor tensor);
int32_t fas_tensor_heads(const struct fas_dims *dims, enum fas_tensor tensor);
int32_t fas_tensor_width(const struct fas_dims *dims, enum fas_tensor tensor);
uint32_t fas_tensor_element_bytes(const struct fas_dims *dims, enum fas_tensor tensor);
uint64_t fas_tensor_bytes(const struct fas_dims *dims, enum fas_tensor tensor);

/* Bytes of one row over all heads: what RESULT chunks are cut by. */
uint32_t fas_tensor_row_bytes(const struct fas_dims *dims, enum fas_tensor tensor);

#ifdef __cplusplus
}
#endif

#endif
