/* A wire request becomes a shape, sequences and a layout that overlap nowhere. */
#include "server/request.h"

#include <stdlib.h>
#include <string.h>

#include "server/arena.h"
#include "tests/support/check_main.h"

static const int32_t cu_q[] = {0, 5, 5, 12}, cu_k[] = {0, 3, 10, 10};
static const int32_t used_k[] = {2, 7, 0};

static struct wire_request backward(void)
{
    return (struct wire_request){.pass = FAS_BACKWARD,
                                 .dims = {FAS_BF16, 4, 2, 64, 32, 12, 10},
                                 .batch = 3,
                                 .q.has_cu_seqlens = true,
                                 .k = {.has_cu_seqlens = true, .has_seqused = true},
                                 .mask = {.has_right = true},
                                 .has_sink = true,
                                 .deterministic = true};
}

static struct attn_sequence sequences[3];

static void plan(struct request *request, const struct wire_request *wire)
{
    struct fas_error error;
    const struct wire_lengths lengths = {
        .batch = 3, .cu_seqlens_q = cu_q, .cu_seqlens_k = cu_k, .seqused_k = used_k};
    ck_assert_int_eq(request_shape(request, wire, ATTN_CPU, &error), FAS_OK);
    ck_assert_uint_eq(request_sequences_bytes(request), sizeof sequences);
    request_sequences(request, &lengths, sequences);
    request_layout(request);
}

START_TEST(shape_and_sequences_are_what_was_asked)
{
    struct wire_request wire = backward();
    struct request request;
    plan(&request, &wire);
    ck_assert_int_eq(request.shape.pass, ATTN_BACKWARD);
    ck_assert_int_eq(request.shape.hkv, 2);
    ck_assert(request.shape.mask.has_right && !request.shape.mask.has_left);
    ck_assert_float_eq(request.shape.softmax_scale, 0.125f);
    ck_assert_int_eq(sequences[2].q_first, 5);
    ck_assert_int_eq(sequences[2].q_len, 7);
    ck_assert_int_eq(sequences[1].k_first, 3);
    ck_assert_int_eq(sequences[0].k_len, 2);
    ck_assert_int_eq(sequences[0].k_span, 3);
    ck_assert_int_eq(sequences[2].index, 2);
    ck_assert_uint_eq(request.cost.tokens, 22);
    ck_assert_uint_eq(request.cost.sequences, 3);
    ck_assert_double_eq(request.cost.flops, attn_flops(&request.shape, 5, 2));
}
END_TEST

/* Past that a launch on a GPU is refused, which there looks like a lost device. */
START_TEST(a_sequence_is_as_long_as_its_device_reaches)
{
    const struct attn_row cpu = {.arch = ATTN_CPU}, gpu = {.arch = ATTN_SM90};
    const struct request here = {.row = &cpu}, there = {.row = &gpu};
    struct wire_lengths lengths = {.batch = 3,
                                   .cu_seqlens_q = cu_q,
                                   .max_len_q = ATTN_GPU_SPAN_MAX,
                                   .max_len_k = ATTN_GPU_SPAN_MAX};
    struct fas_error error = {0};
    ck_assert_int_eq(request_check_spans(&there, &lengths, &error), FAS_OK);
    lengths.max_len_k++;
    ck_assert_int_eq(request_check_spans(&there, &lengths, &error), FAS_UNSUPPORTED);
    ck_assert_str_eq(error.field, "k.max_len");
    lengths.max_len_q++;
    ck_assert_int_eq(request_check_spans(&there, &lengths, &error), FAS_UNSUPPORTED);
    ck_assert_str_eq(error.field, "cu_seqlens_q");
    ck_assert_int_eq(request_check_spans(&here, &lengths, &error), FAS_OK);
}
END_TEST

START_TEST(tensors_lie_apart_and_aligned)
{
    struct wire_request wire = backward();
    struct request request;
    uint64_t end[FAS_TENSOR_COUNT];
    plan(&request, &wire);
    uint32_t tensors = request.inputs | request.outputs;
    for (int a = 0; a < FAS_TENSOR_COUNT; a++) {
        end[a] = request.layout.offsets[a] + fas_tensor_bytes(&wire.dims, (enum fas_tensor)a);
        ck_assert(!(tensors >> a & 1) || end[a] <= request.layout.bytes);
        ck_assert_uint_eq(request.layout.offsets[a] % ARENA_ALIGN, 0);
    }
    for (int a = 0; a < FAS_TENSOR_COUNT; a++) {
        for (int b = 0; b < a; b++) {
            ck_assert(!(tensors >> a & 1) || !(tensors >> b & 1) ||
                      request.layout.offsets[a] >= end[b] || request.layout.offsets[b] >= end[a]);
        }
    }
    ck_assert_uint_ge(request.layout.dsink_rows_offset, end[FAS_DSINK]);
    ck_assert_uint_eq(request.cost.bytes, request.layout.bytes);
}
END_TEST

START_TEST(the_kernels_see_the_layout)
{
    static uint8_t memory[1 << 16];
    struct wire_request wire = backward();
    struct request request;
    plan(&request, &wire);
    struct attn_set set = request_bind(&request, memory, NULL, NULL);
    ck_assert_ptr_eq(set.q.data, memory + request.layout.offsets[FAS_Q]);
    ck_assert_int_eq(set.q.row_stride, 4 * 64 * 2);
    ck_assert_int_eq(set.q.head_stride, 64 * 2);
    ck_assert_int_eq(set.dv.row_stride, 2 * 32 * 2);
    ck_assert_int_eq(set.lse.row_stride, 4);
    ck_assert_int_eq(set.lse.head_stride, 4 * 12);
    ck_assert_ptr_null(set.dlse.data);
    ck_assert_ptr_nonnull(set.sink);
    ck_assert_ptr_eq(set.dsink, (void *)(memory + request.layout.dsink_rows_offset));
}
END_TEST

/* k with the strides it was sent with, lse packed: neither has room in the span. */
START_TEST(tensors_in_place_are_bound_where_they_are)
{
    static uint8_t memory[1 << 16], place[1 << 16];
    struct wire_request wire = backward();
    struct request all, request;
    struct fas_error error;
    plan(&all, &wire);
    wire.tensors[FAS_K] = (struct wire_tensor){FAS_PLACE_REGION, 1, 64, 512, 128};
    wire.tensors[FAS_LSE] = (struct wire_tensor){FAS_PLACE_REGION, 1, 0, 0, 0};
    ck_assert_int_eq(request_shape(&request, &wire, ATTN_CPU, &error), FAS_OK);
    ck_assert_uint_eq(request.travelling,
                      (request.inputs | request.outputs) & ~(1u << FAS_K | 1u << FAS_LSE));
    request.sequence_count = 0;
    request_place(&request, FAS_K, place + 64, false);
    request_place(&request, FAS_LSE, place, false);
    request_layout(&request);
    uint64_t room = fas_tensor_bytes(&wire.dims, FAS_K) + fas_tensor_bytes(&wire.dims, FAS_LSE);
    ck_assert_uint_le(request.layout.bytes + room, all.layout.bytes);
    struct attn_set set = request_bind(&request, memory, NULL, NULL);
    ck_assert_ptr_eq(set.k.data, place + 64);
    ck_assert_int_eq(set.k.row_stride, 512);
    ck_assert_int_eq(set.k.head_stride, 128);
    ck_assert_ptr_eq(set.lse.data, place);
    ck_assert_int_eq(set.lse.head_stride, 4 * 12);
    ck_assert_ptr_eq(set.q.data, memory + request.layout.offsets[FAS_Q]);
}
END_TEST

static void check_copy(const struct request *request, enum fas_tensor tensor,
                       struct device_copy expected)
{
    const struct request_rows all = {0, fas_tensor_rows(&request->wire.dims, tensor)};
    struct device_copy copy = request_copy(request, tensor, all, 4096);
    ck_assert_uint_eq(copy.arena_offset, 4096 + request->layout.offsets[tensor]);
    ck_assert_uint_eq(copy.width, expected.width);
    ck_assert_uint_eq(copy.height, expected.height);
    ck_assert_uint_eq(copy.depth, expected.depth);
    ck_assert(copy.height == 1 ||
              (copy.arena_pitch == expected.arena_pitch && copy.host_pitch == expected.host_pitch));
    ck_assert(copy.depth == 1 ||
              (copy.arena_plane == expected.arena_plane && copy.host_plane == expected.host_plane));
}

/* 10 rows of 2 heads of 64 bf16; lse of 4 heads and 12 rows. */
START_TEST(copies_are_as_few_as_the_strides_allow)
{
    static uint8_t place[1 << 16];
    struct wire_request wire = backward();
    struct fas_error error;
    const struct {
        enum fas_tensor tensor;
        int64_t row_stride, head_stride;
        struct device_copy copy;
    } rows[] = {
        {FAS_K, 0, 0, {.width = 2560, .height = 1, .depth = 1}},
        {FAS_K, 256, 128, {.width = 2560, .height = 1, .depth = 1}},
        {FAS_K,
         768,
         128,
         {.width = 256, .height = 10, .depth = 1, .arena_pitch = 256, .host_pitch = 768}},
        {FAS_K,
         128,
         1280,
         {.width = 128,
          .height = 10,
          .depth = 2,
          .arena_pitch = 256,
          .arena_plane = 128,
          .host_pitch = 128,
          .host_plane = 1280}},
        {FAS_LSE, 0, 0, {.width = 192, .height = 1, .depth = 1}},
        {FAS_LSE,
         4,
         64,
         {.width = 48, .height = 4, .depth = 1, .arena_pitch = 48, .host_pitch = 64}},
        {FAS_LSE,
         16,
         4,
         {.width = 4,
          .height = 12,
          .depth = 4,
          .arena_pitch = 4,
          .arena_plane = 48,
          .host_pitch = 16,
          .host_plane = 4}},
        {FAS_SINK, 0, 0, {.width = 16, .height = 1, .depth = 1}},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct request request;
        struct wire_tensor *at = &wire.tensors[rows[i].tensor];
        *at = (struct wire_tensor){FAS_PLACE_REGION, 1, 0, rows[i].row_stride, rows[i].head_stride};
        ck_assert_int_eq(request_shape(&request, &wire, ATTN_CPU, &error), FAS_OK);
        request_place(&request, rows[i].tensor, place, true);
        ck_assert_uint_eq(request.in_place, 0);
        request_layout(&request);
        check_copy(&request, rows[i].tensor, rows[i].copy);
        *at = (struct wire_tensor){0};
    }
}
END_TEST

/* Rows 3 to 7: of k as many bytes, further on at both ends; of lse a strip per head. */
START_TEST(some_rows_are_copied_from_where_they_are)
{
    static uint8_t place[1 << 16];
    struct wire_request wire = backward();
    struct fas_error error;
    struct request request;
    const struct request_rows some = {3, 4};
    wire.tensors[FAS_K] = (struct wire_tensor){FAS_PLACE_REGION, 1, 0, 768, 128};
    wire.tensors[FAS_LSE] = (struct wire_tensor){FAS_PLACE_REGION, 1, 0, 0, 0};
    ck_assert_int_eq(request_shape(&request, &wire, ATTN_CPU, &error), FAS_OK);
    request_place(&request, FAS_K, place, true);
    request_place(&request, FAS_LSE, place, true);
    request_layout(&request);
    struct device_copy k = request_copy(&request, FAS_K, some, 4096);
    ck_assert_uint_eq(k.arena_offset, 4096 + request.layout.offsets[FAS_K] + 3 * 256);
    ck_assert_ptr_eq(k.host, place + 3 * 768);
    ck_assert(k.width == 256 && k.height == 4 && k.depth == 1 && k.host_pitch == 768);
    struct device_copy lse = request_copy(&request, FAS_LSE, some, 4096);
    ck_assert_uint_eq(lse.arena_offset, 4096 + request.layout.offsets[FAS_LSE] + 3 * 4);
    ck_assert_ptr_eq(lse.host, place + 3 * 4);
    ck_assert(lse.width == 16 && lse.height == 4 && lse.depth == 1);
    ck_assert(lse.arena_pitch == 48 && lse.host_pitch == 48);
}
END_TEST

START_TEST(a_forward_without_lse_still_has_room_for_it)
{
    struct wire_request wire = backward();
    struct request request;
    wire.pass = FAS_FORWARD;
    wire.deterministic = false;
    wire.no_lse = true;
    plan(&request, &wire);
    ck_assert(!(request.outputs >> FAS_LSE & 1));
    static uint8_t memory[1 << 16];
    struct attn_set set = request_bind(&request, memory, NULL, NULL);
    ck_assert_ptr_nonnull(set.lse.data);
    ck_assert_ptr_ne(set.lse.data, set.o.data);
}
END_TEST

START_TEST(ranges_of_results_end_at_sequences)
{
    struct wire_request wire = backward();
    struct request request;
    plan(&request, &wire);
    ck_assert_int_eq(request_rows_before(&request, FAS_DQ, 0), 0);
    ck_assert_int_eq(request_rows_before(&request, FAS_DQ, 2), 5);
    ck_assert_int_eq(request_rows_before(&request, FAS_DQ, 3), 12);
    ck_assert_int_eq(request_rows_before(&request, FAS_DK, 1), 3);
    ck_assert_int_eq(request_rows_before(&request, FAS_DSINK, 2), 0);
    ck_assert_int_eq(request_rows_before(&request, FAS_DSINK, 3), 1);
}
END_TEST

START_TEST(a_backward_names_what_its_handle_does_not_have)
{
    struct wire_request wire = backward();
    struct request request, kept;
    plan(&request, &wire);
    kept = request;
    ck_assert_ptr_null(request_handle_mismatch(&request, &kept));
    kept.wire.softcap = 2;
    ck_assert_str_eq(request_handle_mismatch(&request, &kept), "softcap");
    kept = request;
    kept.wire.mask.right = 1;
    ck_assert_str_eq(request_handle_mismatch(&request, &kept), "mask");
    struct attn_sequence others[3];
    kept = request;
    memcpy(others, sequences, sizeof others);
    others[1].k_len = 1;
    kept.sequences = others;
    ck_assert_str_eq(request_handle_mismatch(&request, &kept), "cu_seqlens");
}
END_TEST

START_TEST(an_unknown_arch_is_unsupported)
{
    struct wire_request wire = backward();
    struct request request;
    struct fas_error error;
    wire.dims.d = 256;
    wire.dims.dv = 8;
    ck_assert_int_eq(request_shape(&request, &wire, ATTN_SM100, &error), FAS_UNSUPPORTED);
    ck_assert_str_ne(error.field, "");
}
END_TEST

int main(void)
{
    static const struct check_row rows[] = {
        {"sequences", &shape_and_sequences_are_what_was_asked},
        {"spans", &a_sequence_is_as_long_as_its_device_reaches},
        {"layout", &tensors_lie_apart_and_aligned},
        {"bind", &the_kernels_see_the_layout},
        {"in_place", &tensors_in_place_are_bound_where_they_are},
        {"copies", &copies_are_as_few_as_the_strides_allow},
        {"some_rows", &some_rows_are_copied_from_where_they_are},
        {"no_lse", &a_forward_without_lse_still_has_room_for_it},
        {"ranges", &ranges_of_results_end_at_sequences},
        {"handle", &a_backward_names_what_its_handle_does_not_have},
        {"arch", &an_unknown_arch_is_unsupported},
    };
    return check_main("request", rows, sizeof rows / sizeof rows[0]);
}
