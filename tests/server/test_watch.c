/* watch: every event is asked in its turn, however many there are, and none after its end. */
#include <stdatomic.h>
#include <unistd.h>

#include "server/watch.h"
#include "tests/support/check_main.h"
#include "tests/support/random.h"

enum { ROOM = 100 };

static struct fake {
    enum watch_answer answer;
    int asked;
    bool ended;
} fakes[ROOM];
static struct watches watches;
static bool asked_after_its_end;

static enum watch_answer query(void *event)
{
    struct fake *fake = event;
    asked_after_its_end |= fake->ended;
    fake->asked++;
    return fake->answer;
}

static void add(int number)
{
    fakes[number] = (struct fake){.answer = WATCH_PENDING};
    watch_add(&watches, &fakes[number], (uint64_t)number);
}

START_TEST(all_are_asked_by_turns)
{
    struct watch_end ends[WATCH_ASKED];
    ck_assert(watch_open(&watches, ROOM));
    ck_assert(!watch_any(&watches));
    ck_assert_uint_eq(watch_ask(&watches, query, ends), 0);
    for (int i = 0; i < ROOM; i++) {
        add(i);
    }
    ck_assert(watch_any(&watches));
    for (int i = 0; i < 10 * ROOM / (int)WATCH_ASKED; i++) {
        ck_assert_uint_eq(watch_ask(&watches, query, ends), 0);
    }
    for (int i = 0; i < ROOM; i++) {
        ck_assert_int_ge(fakes[i].asked, 9);
        ck_assert_int_le(fakes[i].asked, 11);
    }
}
END_TEST

/* At random: begun, come to pass, broken, resigned. Each ends once, as it should. */
START_TEST(each_ends_once)
{
    struct random random = random_open(1);
    struct watch_end ends[WATCH_ASKED];
    bool in_it[ROOM] = {false}, resigned[ROOM] = {false}, good = true;
    int began = 0, ended = 0;
    ck_assert(watch_open(&watches, ROOM));
    for (int round = 0; round < 100000; round++) {
        int i = (int)random_below(&random, ROOM);
        if (!in_it[i] && round < 99000) {
            add(i);
            in_it[i] = true;
            resigned[i] = false;
            began++;
        } else if (in_it[i] && random_below(&random, 3) == 0) {
            fakes[i].answer = random_below(&random, 2) ? WATCH_OVER : WATCH_BROKEN;
        } else if (in_it[i] && random_below(&random, 3) == 0) {
            watch_resign(&watches, (uint64_t)i);
            resigned[i] = true;
        }
        uint32_t count = watch_ask(&watches, query, ends);
        for (uint32_t n = 0; n < count; n++) {
            struct fake *fake = &fakes[ends[n].tag];
            bool broken = resigned[ends[n].tag] || fake->answer == WATCH_BROKEN;
            good &= in_it[ends[n].tag] && ends[n].failed == broken;
            in_it[ends[n].tag] = false;
            fake->ended = true;
            ended++;
        }
    }
    ck_assert(good && !asked_after_its_end);
    ck_assert_int_gt(began, 1000);
    ck_assert_int_eq(began - ended, (int)watches.count);
}
END_TEST

static atomic_bool stop;

static void *ask_all_the_time(void *context)
{
    struct watch_end ends[WATCH_ASKED];
    atomic_int *ended = context;
    while (!atomic_load(&stop)) {
        atomic_fetch_add(ended, (int)watch_ask(&watches, query, ends));
    }
    return NULL;
}

/* The two threads there are. */
START_TEST(added_and_resigned_while_they_are_asked)
{
    enum { ROUNDS = 20000 };
    static atomic_int ended;
    pthread_t asker;
    ck_assert(watch_open(&watches, ROOM));
    for (int i = 0; i < ROOM; i++) {
        fakes[i].answer = WATCH_PENDING;
    }
    ck_assert_int_eq(pthread_create(&asker, NULL, ask_all_the_time, &ended), 0);
    for (int i = 0; i < ROUNDS; i++) {
        watch_add(&watches, &fakes[i % ROOM], (uint64_t)i);
        watch_resign(&watches, (uint64_t)i);
        while (i + 1 - atomic_load(&ended) >= ROOM) {
            usleep(10);
        }
    }
    for (int waited = 0; watch_any(&watches) && waited < 10000; waited++) {
        usleep(1000);
    }
    atomic_store(&stop, true);
    pthread_join(asker, NULL);
    ck_assert_int_eq(atomic_load(&ended), ROUNDS);
}
END_TEST

int main(void)
{
    static const struct check_row rows[] = {
        {"turns", &all_are_asked_by_turns},
        {"once", &each_ends_once},
        {"threads", &added_and_resigned_while_they_are_asked},
    };
    return check_main("watch", rows, sizeof rows / sizeof rows[0]);
}
