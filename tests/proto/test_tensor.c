/* test_tensor.c: the size of every tensor, against the shapes as written down in one place here. */
#include "proto/tensor.h"

#include <string.h>

#include "proto/limits.h"
#include "tests/proto/check_error.h"

/* 7 heads of q and so on: all numbers differ, so a swapped one shows. */
static const struct fas_dims dims = {
    .dtype = FAS_BF16, .hq = 6, .hkv = 2, .d = 24, .dv = 40, .total_q = 101, .total_k = 77};

static const struct {
    enum fas_tensor tensor;
    const char *name;
    int64_t rows;
    int32_t heads, width;
    uint32_t element_bytes;
} shapes[] = {
    {FAS_Q, "q", 101, 6, 24, 2},        {FAS_K, "k", 77, 2, 24, 2},
    {FAS_V, "v", 77, 2, 40, 2},         {FAS_O, "o", 101, 6, 40, 2},
    {FAS_LSE, "lse", 101, 6, 1, 4},     {FAS_DO, "do", 101, 6, 40, 2},
    {FAS_DQ, "dq", 101, 6, 24, 2},      {FAS_DK, "dk", 77, 2, 24, 2},
    {FAS_DV, "dv", 77, 2, 40, 2},       {FAS_DLSE, "dlse", 101, 6, 1, 4},
    {FAS_DELTA, "delta", 101, 6, 1, 4}, {FAS_SINK, "sink", 1, 6, 1, 4},
    {FAS_DSINK, "dsink", 1, 6, 1, 4},
};

START_TEST(every_tensor_has_its_shape)
{
    ck_assert_uint_eq(COUNT_OF(shapes), FAS_TENSOR_COUNT);
    for (size_t i = 0; i < COUNT_OF(shapes); i++) {
        enum fas_tensor tensor = shapes[i].tensor;
        ck_assert_uint_eq(tensor, i);
        ck_assert_int_eq(fas_tensor_row(tensor)->tensor, tensor);
        ck_assert_str_eq(fas_tensor_row(tensor)->name, shapes[i].name);
        ck_assert_int_eq(fas_tensor_rows(&dims, tensor), shapes[i].rows);
        ck_assert_int_eq(fas_tensor_heads(&dims, tensor), shapes[i].heads);
        ck_assert_int_eq(fas_tensor_width(&dims, tensor), shapes[i].width);
        ck_assert_uint_eq(fas_tensor_element_bytes(&dims, tensor), shapes[i].element_bytes);
        uint32_t row_bytes =
            (uint32_t)shapes[i].heads * (uint32_t)shapes[i].width * shapes[i].element_bytes;
        ck_assert_uint_eq(fas_tensor_row_bytes(&dims, tensor), row_bytes);
        ck_assert_uint_eq(fas_tensor_bytes(&dims, tensor), (uint64_t)shapes[i].rows * row_bytes);
    }
}
END_TEST

START_TEST(statistics_stay_fp32_whatever_the_dtype)
{
    struct fas_dims fp32 = dims;
    fp32.dtype = FAS_FP32;
    for (int tensor = 0; tensor < FAS_TENSOR_COUNT; tensor++) {
        bool statistics = fas_tensor_row((enum fas_tensor)tensor)->statistics;
        uint64_t narrow = fas_tensor_bytes(&dims, (enum fas_tensor)tensor);
        uint64_t wide = fas_tensor_bytes(&fp32, (enum fas_tensor)tensor);
        ck_assert_uint_eq(wide, statistics ? narrow : 2 * narrow);
    }
}
END_TEST

START_TEST(the_largest_request_does_not_overflow)
{
    struct fas_dims largest = {.dtype = FAS_FP32,
                               .hq = FAS_HEADS_MAX,
                               .hkv = FAS_HEADS_MAX,
                               .d = FAS_HEAD_DIM_MAX,
                               .dv = FAS_HEAD_DIM_MAX,
                               .total_q = FAS_ROWS_MAX,
                               .total_k = FAS_ROWS_MAX};
    ck_assert_uint_eq(fas_tensor_row_bytes(&largest, FAS_Q), 1u << 20);
    ck_assert_uint_eq(fas_tensor_bytes(&largest, FAS_DK), UINT64_C(1) << 50);
    largest.total_q = 0;
    ck_assert_uint_eq(fas_tensor_bytes(&largest, FAS_Q), 0);
}
END_TEST

START_TEST(words_of_dtypes_and_places)
{
    ck_assert_str_eq(fas_dtype_name(FAS_BF16), "bf16");
    ck_assert_str_eq(fas_dtype_name(FAS_FP16), "fp16");
    ck_assert_str_eq(fas_dtype_name(FAS_FP32), "fp32");
    ck_assert_uint_eq(fas_dtype_bytes(FAS_BF16), 2);
    ck_assert_uint_eq(fas_dtype_bytes(FAS_FP16), 2);
    ck_assert_uint_eq(fas_dtype_bytes(FAS_FP32), 4);
    ck_assert_str_eq(fas_place_name(FAS_PLACE_INLINE), "inline");
    ck_assert_str_eq(fas_place_name(FAS_PLACE_REGION), "region");
    ck_assert_str_eq(fas_place_name(FAS_PLACE_CUDA), "cuda");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("tensor");
    TCase *tcase = tcase_create("tensor");
    tcase_add_test(tcase, every_tensor_has_its_shape);
    tcase_add_test(tcase, statistics_stay_fp32_whatever_the_dtype);
    tcase_add_test(tcase, the_largest_request_does_not_overflow);
    tcase_add_test(tcase, words_of_dtypes_and_places);
    suite_add_tcase(suite, tcase);
    return run_suite(suite);
}
