/* Each table of the pure half that allocates: all or nothing, and everything comes back. */
#include "server/arena.h"
#include "server/batch.h"
#include "server/principal.h"
#include "server/queue.h"
#include "tests/support/alloc.h"
#include "tests/support/check_main.h"

static struct arena arena;
static struct batch batch;
static struct principals principals;
static struct queue queue;

static bool open_arena(void)
{
    return arena_open(&arena, 1 << 20, 64);
}

static void close_arena(void)
{
    arena_close(&arena);
}

static bool open_batch(void)
{
    return batch_open(&batch, 16, 64);
}

static void close_batch(void)
{
    batch_close(&batch);
}

static bool open_principals(void)
{
    return principals_open(&principals, 16);
}

static void close_principals(void)
{
    principals_close(&principals);
}

static bool open_queue(void)
{
    return queue_open(&queue, 64, 16);
}

static void close_queue(void)
{
    queue_close(&queue);
}

static const struct table {
    bool (*open)(void);
    void (*close)(void);
} tables[] = {
    {open_arena, close_arena},
    {open_batch, close_batch},
    {open_principals, close_principals},
    {open_queue, close_queue},
};

START_TEST(a_failed_open_leaves_nothing_behind)
{
    for (size_t t = 0; t < sizeof(tables) / sizeof(tables[0]); t++) {
        bool clean = true;
        bool opened = false;
        long before = alloc_live();
        long n = -1;
        while (!opened) {
            alloc_fail_at(++n);
            opened = tables[t].open();
            clean &= opened != alloc_failed();
            clean &= opened || alloc_live() == before;
            tables[t].close(); /* also of something that never opened */
            clean &= alloc_live() == before;
        }
        alloc_fail_at(-1);
        ck_assert(clean);
        ck_assert_int_ge(n, 1);
    }
}
END_TEST

START_TEST(nothing_allocates_after_open)
{
    struct arena_span span;
    bool opened = open_arena() && open_queue();
    alloc_fail_from(0);
    bool took = arena_take(&arena, 1000, &span) == ARENA_OK;
    arena_give(&arena, &span);
    for (uint32_t slot = 0; slot < 64; slot++) {
        struct queue_item item = {
            .principal = slot % 16,
            .shape = {.hq = 1, .softmax_scale = 1 + (float)slot},
            .cost = {.requests = 1, .flops = 1},
        };
        queue_push(&queue, slot, &item);
    }
    long made = alloc_count();
    alloc_fail_at(-1);
    ck_assert(opened && took);
    ck_assert_int_eq(made, 0);
    close_arena();
    close_queue();
}
END_TEST

static const struct check_row tests[] = {
    {"open", &a_failed_open_leaves_nothing_behind},
    {"after", &nothing_allocates_after_open},
};

CHECK_MAIN("memory", tests)
