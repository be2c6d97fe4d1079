/* tensor.c: the tensors of a request, one row each, and the sizes that follow from the rows. */
#include "proto/tensor.h"

#include <assert.h>

#define STATISTICS_BYTES 4u /* fp32, whatever the request's dtype */

static const struct fas_tensor_row rows[FAS_TENSOR_COUNT] = {
    /* name, tensor, side, width, kv_heads, statistics */
    [FAS_Q] = {"q", FAS_Q, FAS_SIDE_Q, FAS_WIDTH_D, false, false},
    [FAS_K] = {"k", FAS_K, FAS_SIDE_K, FAS_WIDTH_D, true, false},
    [FAS_V] = {"v", FAS_V, FAS_SIDE_K, FAS_WIDTH_DV, true, false},
    [FAS_O] = {"o", FAS_O, FAS_SIDE_Q, FAS_WIDTH_DV, false, false},
    [FAS_LSE] = {"lse", FAS_LSE, FAS_SIDE_Q, FAS_WIDTH_ONE, false, true},
    [FAS_DO] = {"do", FAS_DO, FAS_SIDE_Q, FAS_WIDTH_DV, false, false},
    [FAS_DQ] = {"dq", FAS_DQ, FAS_SIDE_Q, FAS_WIDTH_D, false, false},
    [FAS_DK] = {"dk", FAS_DK, FAS_SIDE_K, FAS_WIDTH_D, true, false},
    [FAS_DV] = {"dv", FAS_DV, FAS_SIDE_K, FAS_WIDTH_DV, true, false},
    [FAS_DLSE] = {"dlse", FAS_DLSE, FAS_SIDE_Q, FAS_WIDTH_ONE, false, true},
    [FAS_DELTA] = {"delta", FAS_DELTA, FAS_SIDE_Q, FAS_WIDTH_ONE, false, true},
    [FAS_SINK] = {"sink", FAS_SINK, FAS_SIDE_NONE, FAS_WIDTH_ONE, false, true},
    [FAS_DSINK] = {"dsink", FAS_DSINK, FAS_SIDE_NONE, FAS_WIDTH_ONE, false, true},
};

static const struct {
    const char *name;
    uint32_t bytes;
} dtypes[FAS_DTYPE_COUNT] = {
    [FAS_BF16] = {"bf16", 2},
    [FAS_FP16] = {"fp16", 2},
    [FAS_FP32] = {"fp32", 4},
};

static const char *const places[FAS_PLACE_COUNT] = {
    [FAS_PLACE_INLINE] = "inline",
    [FAS_PLACE_REGION] = "region",
    [FAS_PLACE_CUDA] = "cuda",
};

const struct fas_tensor_row *fas_tensor_row(enum fas_tensor tensor)
{
    assert((unsigned)tensor < FAS_TENSOR_COUNT);
    return &rows[tensor];
}

const char *fas_dtype_name(enum fas_dtype dtype)
{
    assert((unsigned)dtype < FAS_DTYPE_COUNT);
    return dtypes[dtype].name;
}

uint32_t fas_dtype_bytes(enum fas_dtype dtype)
{
    assert((unsigned)dtype < FAS_DTYPE_COUNT);
    return dtypes[dtype].bytes;
}

const char *fas_place_name(enum fas_place place)
{
    assert((unsigned)place < FAS_PLACE_COUNT);
    return places[place];
}

int64_t fas_tensor_rows(const struct fas_dims *dims, enum fas_tensor tensor)
{
    switch (fas_tensor_row(tensor)->side) {
    case FAS_SIDE_Q:
        return dims->total_q;
    case FAS_SIDE_K:
        return dims->total_k;
    case FAS_SIDE_NONE:
        break;
    }
    return 1;
}

int32_t fas_tensor_heads(const struct fas_dims *dims, enum fas_tensor tensor)
{
    return fas_tensor_row(tensor)->kv_heads ? dims->hkv : dims->hq;
}

int32_t fas_tensor_width(const struct fas_dims *dims, enum fas_tensor tensor)
{
    switch (fas_tensor_row(tensor)->width) {
    case FAS_WIDTH_D:
        return dims->d;
    case FAS_WIDTH_DV:
        return dims->dv;
    case FAS_WIDTH_ONE:
        break;
    }
    return 1;
}

uint32_t fas_tensor_element_bytes(const struct fas_dims *dims, enum fas_tensor tensor)
{
    return fas_tensor_row(tensor)->statistics ? STATISTICS_BYTES : fas_dtype_bytes(dims->dtype);
}

uint32_t fas_tensor_row_bytes(const struct fas_dims *dims, enum fas_tensor tensor)
{
    return (uint32_t)fas_tensor_heads(dims, tensor) * (uint32_t)fas_tensor_width(dims, tensor) *
           fas_tensor_element_bytes(dims, tensor);
}

uint64_t fas_tensor_bytes(const struct fas_dims *dims, enum fas_tensor tensor)
{
    return (uint64_t)fas_tensor_rows(dims, tensor) * fas_tensor_row_bytes(dims, tensor);
}
