/*
 * A strided tensor and its packed form are the same numbers: any part gathered and scattered again,
 * cut anywhere, arrives, and nothing between the rows is touched.
 */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "client/strided.h"
#include "tests/support/check_main.h"

static const struct fas_dims dims = {FAS_BF16, 4, 2, 16, 8, 10, 6};

struct layout {
    enum fas_tensor tensor;
    int64_t row_stride, head_stride;
    bool packed;
};

static const struct layout layouts[] = {
    {FAS_Q, 0, 0, true},       {FAS_Q, 128, 32, true},  {FAS_Q, 400, 32, false},
    {FAS_Q, 32, 320, false},   {FAS_Q, 200, 48, false}, {FAS_K, 64, 32, true},
    {FAS_K, 96, 32, false},    {FAS_O, 16, 160, false}, {FAS_LSE, 0, 0, true},
    {FAS_LSE, 4, 40, true},    {FAS_LSE, 4, 64, false}, {FAS_LSE, 16, 4, false},
    {FAS_DELTA, 32, 4, false},
};

enum { ROOM = 8192, MARK = 0xEE };

/* Where element byte `at` of the packed form is, from the definition. */
static size_t place(const struct layout *layout, size_t at)
{
    size_t rows = 10, heads = layout->tensor == FAS_K ? 2 : 4;
    rows = layout->tensor == FAS_K ? 6 : rows;
    bool statistics = layout->tensor == FAS_LSE || layout->tensor == FAS_DELTA;
    size_t width = statistics ? 4 : layout->tensor == FAS_O ? 16 : 32;
    size_t head = statistics ? at / (rows * 4) : at / width % heads;
    size_t row = statistics ? at / 4 % rows : at / width / heads;
    bool given = layout->row_stride || layout->head_stride;
    size_t row_stride = given ? (size_t)layout->row_stride : statistics ? 4 : width * heads;
    size_t head_stride = given ? (size_t)layout->head_stride : statistics ? 4 * rows : width;
    return row * row_stride + head * head_stride + at % width;
}

START_TEST(any_part_goes_and_comes)
{
    for (size_t l = 0; l < sizeof(layouts) / sizeof(layouts[0]); l++) {
        const struct layout *layout = &layouts[l];
        static uint8_t memory[ROOM], back[ROOM], out[ROOM];
        for (size_t i = 0; i < ROOM; i++) {
            memory[i] = (uint8_t)(i * 7 + (i >> 8));
        }
        struct fas_buffer buffer = {memory, layout->row_stride, layout->head_stride};
        struct strided from = strided_of(&dims, layout->tensor, &buffer);
        buffer.data = back;
        struct strided to = strided_of(&dims, layout->tensor, &buffer);
        ck_assert_int_eq(from.packed, layout->packed);
        size_t bytes = fas_tensor_bytes(&dims, layout->tensor);
        for (size_t offset = 0; offset < bytes; offset += 13) {
            size_t part = bytes - offset < 77 ? bytes - offset : 77;
            memset(back, MARK, ROOM);
            strided_gather(&from, offset, part, out);
            strided_scatter(&to, offset, part, out);
            bool right = true;
            size_t changed = 0;
            for (size_t i = 0; i < part; i++) {
                right &= out[i] == memory[place(layout, offset + i)];
                right &= back[place(layout, offset + i)] == out[i];
            }
            for (size_t i = 0; i < ROOM; i++) {
                changed += back[i] != MARK;
            }
            ck_assert_msg(right && changed <= part, "layout %zu, offset %zu", l, offset);
        }
    }
}
END_TEST

static const struct check_row rows[] = {{"any part goes and comes", &any_part_goes_and_comes}};

CHECK_MAIN("strided", rows)
