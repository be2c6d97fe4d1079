/* test_pool.c: items are run once each, in order, by no more threads than wanted; turns are taken
 * in order, whoever comes first. */
#include <check.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/cpu/pool.h"
#include "kernels/cpu/turn.h"

enum { ITEMS = 1000, THREADS = 4 };

struct tally {
    atomic_int runs[ITEMS];
    atomic_int by_worker[THREADS];
    atomic_int inside[THREADS]; /* two items at once on one worker would meet here */
};

static void count_item(void *job, int worker, int64_t item)
{
    struct tally *tally = job;
    ck_assert_int_eq(atomic_fetch_add(&tally->inside[worker], 1), 0);
    atomic_fetch_add(&tally->runs[item], 1);
    atomic_fetch_add(&tally->by_worker[worker], 1);
    atomic_fetch_sub(&tally->inside[worker], 1);
}

START_TEST(every_item_runs_once)
{
    struct pool *pool = pool_open(THREADS);
    for (int round = 0; round < 50; round++) {
        struct tally tally;
        memset(&tally, 0, sizeof tally);
        int64_t items = round * 20;
        pool_run(pool, count_item, &tally, items, round % (THREADS + 2));
        for (int64_t i = 0; i < ITEMS; i++) {
            ck_assert_int_eq(atomic_load(&tally.runs[i]), i < items);
        }
    }
    pool_close(pool);
}
END_TEST

START_TEST(no_helper_wakes_when_none_is_wanted)
{
    struct pool *pool = pool_open(THREADS);
    struct tally tally;
    memset(&tally, 0, sizeof tally);
    pool_run(pool, count_item, &tally, ITEMS, 0);
    ck_assert_int_eq(atomic_load(&tally.by_worker[0]), ITEMS);
    pool_close(pool);
}
END_TEST

struct relay {
    struct turn_room room;
    turn its;
    int order[THREADS];
    int passed;
};

/* The first to start is the last in turn, and each starts well after the one before. */
static void take_turn(void *job, int worker, int64_t item)
{
    (void)worker;
    struct relay *relay = job;
    const struct timespec pause = {0, 10000000 * (long)item};
    nanosleep(&pause, NULL);
    int number = THREADS - 1 - (int)item;
    turn_wait(&relay->room, &relay->its, number);
    relay->order[relay->passed++] = number;
    turn_pass(&relay->room, &relay->its);
}

START_TEST(turns_are_taken_in_order)
{
    struct pool *pool = pool_open(THREADS);
    struct relay relay;
    memset(&relay, 0, sizeof relay);
    ck_assert(turn_room_open(&relay.room));
    atomic_init(&relay.its, 0);
    pool_run(pool, take_turn, &relay, THREADS, THREADS - 1);
    for (int i = 0; i < THREADS; i++) {
        ck_assert_int_eq(relay.order[i], i);
    }
    turn_room_close(&relay.room);
    pool_close(pool);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("pool");
    TCase *tcase = tcase_create("pool");
    tcase_set_timeout(tcase, 20);
    tcase_add_test(tcase, every_item_runs_once);
    tcase_add_test(tcase, no_helper_wakes_when_none_is_wanted);
    tcase_add_test(tcase, turns_are_taken_in_order);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
