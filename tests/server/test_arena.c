/* arena: a block is handed out in pieces that never overlap, and comes back whole. */
#include "server/arena.h"
#include "tests/support/check_main.h"
#include "tests/support/random.h"

#define MIB (UINT64_C(1) << 20)

START_TEST(spans_are_aligned_and_rounded_up)
{
    struct arena arena;
    struct arena_span span;
    ck_assert(arena_open(&arena, MIB + 17, 8));
    ck_assert_uint_eq(arena.bytes, MIB);
    ck_assert_int_eq(arena_take(&arena, 1, &span), ARENA_OK);
    ck_assert_uint_eq(span.bytes, ARENA_ALIGN);
    ck_assert_int_eq(arena_take(&arena, 1000, &span), ARENA_OK);
    ck_assert_uint_eq(span.bytes, 1024);
    ck_assert_uint_eq(span.offset % ARENA_ALIGN, 0);
    ck_assert_uint_eq(arena.used_bytes, 1024 + ARENA_ALIGN);
    arena_close(&arena);
}
END_TEST

START_TEST(full_is_not_never)
{
    struct arena arena;
    struct arena_span all;
    struct arena_span more;
    ck_assert(arena_open(&arena, MIB, 8));
    ck_assert_int_eq(arena_take(&arena, MIB, &all), ARENA_OK);
    ck_assert_int_eq(arena_take(&arena, 1, &more), ARENA_FULL);
    ck_assert_int_eq(arena_take(&arena, MIB + 1, &more), ARENA_NEVER);
    ck_assert_int_eq(arena_take(&arena, UINT64_MAX, &more), ARENA_NEVER);
    ck_assert_uint_eq(more.bytes, 0);
    arena_give(&arena, &all);
    ck_assert_uint_eq(all.bytes, 0);
    ck_assert_int_eq(arena_take(&arena, MIB, &all), ARENA_OK);
    ck_assert_uint_eq(arena.high_water_bytes, MIB);
    arena_close(&arena);
}
END_TEST

START_TEST(nothing_takes_nothing)
{
    struct arena arena;
    struct arena_span span = {.bytes = 99};
    ck_assert(arena_open(&arena, 0, 1));
    ck_assert_int_eq(arena_take(&arena, 0, &span), ARENA_OK);
    ck_assert_uint_eq(span.bytes, 0);
    arena_give(&arena, &span);
    ck_assert_int_eq(arena_take(&arena, 1, &span), ARENA_NEVER);
    ck_assert_uint_eq(arena_largest_free(&arena), 0);
    arena_close(&arena);
}
END_TEST

START_TEST(spans_in_use_are_bounded)
{
    struct arena arena;
    struct arena_span spans[3];
    ck_assert(arena_open(&arena, MIB, 2));
    ck_assert_int_eq(arena_take(&arena, 256, &spans[0]), ARENA_OK);
    ck_assert_int_eq(arena_take(&arena, 256, &spans[1]), ARENA_OK);
    ck_assert_int_eq(arena_take(&arena, 256, &spans[2]), ARENA_FULL);
    arena_give(&arena, &spans[0]);
    ck_assert_int_eq(arena_take(&arena, 256, &spans[2]), ARENA_OK);
    arena_close(&arena);
}
END_TEST

#define SPANS 64u

/* Whether no span overlaps another or the end, and their sum is what the arena says. */
static bool all_well(const struct arena *arena, const struct arena_span *spans)
{
    uint64_t used = 0;
    bool well = true;
    for (uint32_t i = 0; i < SPANS; i++) {
        used += spans[i].bytes;
        well &= spans[i].offset % ARENA_ALIGN == 0;
        well &= spans[i].offset + spans[i].bytes <= arena->bytes;
        for (uint32_t j = 0; j < i && spans[i].bytes > 0; j++) {
            well &= spans[j].bytes == 0 || spans[i].offset + spans[i].bytes <= spans[j].offset ||
                    spans[j].offset + spans[j].bytes <= spans[i].offset;
        }
    }
    return well && used == arena->used_bytes;
}

/* The largest gap between taken spans, found without the arena's tables. */
static uint64_t largest_gap(const struct arena *arena, const struct arena_span *spans)
{
    uint64_t best = 0;
    uint64_t at = 0;
    while (at < arena->bytes) {
        uint64_t end = arena->bytes;
        uint64_t skip = 0;
        for (uint32_t i = 0; i < SPANS; i++) {
            if (spans[i].bytes > 0 && spans[i].offset == at) {
                skip = spans[i].bytes;
            } else if (spans[i].bytes > 0 && spans[i].offset > at && spans[i].offset < end) {
                end = spans[i].offset;
            }
        }
        if (skip == 0) {
            best = end - at > best ? end - at : best;
            skip = end - at;
        }
        at += skip;
    }
    return best;
}

START_TEST(any_order_keeps_spans_apart_and_grants_whatever_fits)
{
    struct random random = random_open(1);
    for (int round = 0; round < 10; round++) {
        struct arena arena;
        struct arena_span spans[SPANS] = {0};
        uint64_t bytes = ARENA_ALIGN * (1 + random_below(&random, 20000));
        ck_assert(arena_open(&arena, bytes, SPANS));
        for (int step = 0; step < 2000; step++) {
            struct arena_span *span = &spans[random_below(&random, SPANS)];
            if (span->bytes > 0) {
                arena_give(&arena, span);
                continue;
            }
            uint64_t wanted = 1 + random_below(&random, bytes >> random_below(&random, 12));
            uint64_t gap = largest_gap(&arena, spans);
            ck_assert_uint_eq(arena_largest_free(&arena), gap);
            enum arena_status status = arena_take(&arena, wanted, span);
            ck_assert_int_eq(status, wanted <= gap ? ARENA_OK : ARENA_FULL);
            ck_assert(all_well(&arena, spans));
        }
        for (uint32_t i = 0; i < SPANS; i++) {
            arena_give(&arena, &spans[i]);
        }
        ck_assert_uint_eq(arena_largest_free(&arena), arena.bytes);
        ck_assert_uint_eq(arena.spans, 0);
        arena_close(&arena);
    }
}
END_TEST

START_TEST(terabytes_are_only_numbers)
{
    struct arena arena;
    struct arena_span span;
    ck_assert(arena_open(&arena, UINT64_C(1) << 44, 4));
    ck_assert_int_eq(arena_take(&arena, UINT64_C(3) << 42, &span), ARENA_OK);
    ck_assert_uint_eq(arena_largest_free(&arena), UINT64_C(1) << 42);
    arena_close(&arena);
}
END_TEST

static const struct check_row tests[] = {
    {"rounding", &spans_are_aligned_and_rounded_up},
    {"full", &full_is_not_never},
    {"nothing", &nothing_takes_nothing},
    {"bounded", &spans_in_use_are_bounded},
    {"random", &any_order_keeps_spans_apart_and_grants_whatever_fits},
    {"huge", &terabytes_are_only_numbers},
};

CHECK_MAIN("arena", tests)
