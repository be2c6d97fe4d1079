/* Slabs: who may have how many, and who gets them back. */
#include "server/slab.h"

#include <stdlib.h>

#include "tests/support/check_main.h"
#include "tests/support/random.h"

enum { OWNERS = 6, BYTES = 32 };

static struct slab_pool pool;

static void setup(void)
{
    uint8_t *memory = malloc((size_t)slab_count(OWNERS) * BYTES);
    ck_assert_ptr_nonnull(memory);
    ck_assert(slab_open(&pool, memory, BYTES, OWNERS));
}

static void teardown(void)
{
    free(pool.memory);
    slab_close(&pool);
}

START_TEST(an_owner_gets_no_more_than_its_part)
{
    setup();
    uint8_t *last = NULL;
    for (uint32_t i = 0; i < SLAB_OWNER_MAX; i++) {
        last = slab_take(&pool, 0);
        ck_assert_ptr_nonnull(last);
    }
    ck_assert_ptr_null(slab_take(&pool, 0));
    ck_assert_uint_eq(slab_next_waiting(&pool), SLAB_NONE);
    slab_give(&pool, last);
    ck_assert_uint_eq(slab_next_waiting(&pool), 0);
    ck_assert_uint_eq(slab_next_waiting(&pool), SLAB_NONE); /* said once */
    ck_assert_ptr_nonnull(slab_take(&pool, 0));
    ck_assert_uint_eq(slab_high_water(&pool), SLAB_OWNER_MAX);
    teardown();
}
END_TEST

START_TEST(however_many_others_hold_each_owner_can_have_one)
{
    setup();
    struct random random = random_open(1);
    for (int round = 0; round < 2000; round++) {
        uint32_t owner = (uint32_t)random_below(&random, OWNERS);
        uint8_t *slab = slab_take(&pool, owner);
        if (!slab || random_below(&random, 3) == 0) {
            slab_reclaim(&pool, (uint32_t)random_below(&random, OWNERS));
        }
        for (uint32_t i = 0; i < OWNERS; i++) { /* those without can all have one, at once */
            if (pool.owned[i] == 0) {
                ck_assert_ptr_nonnull(slab_take(&pool, i));
            }
        }
    }
    teardown();
}
END_TEST

START_TEST(the_end_of_an_owner_leaves_what_the_device_holds)
{
    setup();
    uint8_t *landing = slab_take(&pool, 1), *held = slab_take(&pool, 1);
    slab_hold(&pool, held);
    slab_reclaim(&pool, 1);
    ck_assert_uint_eq(pool.free_count, pool.count - 1);
    slab_give(&pool, held);
    ck_assert_uint_eq(pool.free_count, pool.count);
    ck_assert_uint_ne(slab_index(&pool, landing), slab_index(&pool, held));
    ck_assert_uint_eq(slab_index(&pool, pool.memory + pool.count * BYTES), SLAB_NONE);
    teardown();
}
END_TEST

START_TEST(what_was_given_back_is_left_alone)
{
    setup();
    uint8_t *given[SLAB_LEFT_ALONE + 1];
    for (uint32_t i = 0; i <= SLAB_LEFT_ALONE; i++) {
        given[i] = slab_take(&pool, 0);
        slab_give(&pool, given[i]);
        for (uint32_t before = 0; before < i; before++) {
            ck_assert_ptr_ne(given[before], given[i]);
        }
    }
    ck_assert_ptr_eq(slab_take(&pool, 0), given[0]); /* and then it is, as its pages are there */
    teardown();
}
END_TEST

int main(void)
{
    static const struct check_row rows[] = {
        {"given", &what_was_given_back_is_left_alone},
        {"part", &an_owner_gets_no_more_than_its_part},
        {"one", &however_many_others_hold_each_owner_can_have_one},
        {"end", &the_end_of_an_owner_leaves_what_the_device_holds},
    };
    return check_main("slab", rows, sizeof rows / sizeof rows[0]);
}
