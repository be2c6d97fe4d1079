/* flight: steps are launched and done in order; who drops out is in none of those still to come,
 * and is let go when the last one with it is over. */
#include "server/flight.h"

#include <pthread.h>

#include "tests/support/check_main.h"
#include "tests/support/random.h"

enum { REQUESTS = 8, SEQUENCES = 6, STEPS = 12 };

static const struct attn_shape shape = {
    .pass = ATTN_FORWARD, .hq = 1, .hkv = 1, .d = 8, .dv = 8, .softmax_scale = 1};
static const struct attn_row row = {.name = "none"};
static const struct device device = {.name = "none:0"};

static struct attn_set set;
static struct attn_sequence sequences[REQUESTS][SEQUENCES];
static struct batch_part parts[REQUESTS];
static struct flight flight;

static void lay_out(struct random *random, int count)
{
    for (int r = 0; r < count; r++) {
        parts[r] = (struct batch_part){.slot = (uint32_t)r,
                                       .set = &set,
                                       .sequences = sequences[r],
                                       .sequence_count = (int32_t)random_below(random, SEQUENCES)};
        for (int s = 0; s < parts[r].sequence_count; s++) {
            int32_t length = (int32_t)random_below(random, 300);
            sequences[r][s] = (struct attn_sequence){.index = s, .q_len = length, .k_len = length};
            parts[r].flops += attn_flops(&shape, length, length);
        }
    }
    batch_layout(&flight.batch, 1, &shape, parts, count,
                 &(struct batch_cut){3e4, 1e5}); /* a third are in parts */
    flight_begin(&flight, &row);
}

/* Sequences of a request in a launch. */
static int sequences_of(const struct device_launch *launch, int32_t request)
{
    int count = 0;
    for (int32_t i = 0; i < launch->launch.sequence_count; i++) {
        const struct attn_set *its = &launch->launch.sets[launch->launch.sequences[i].set];
        count += its == &flight.batch.sets[request];
    }
    return count;
}

START_TEST(every_step_is_launched_and_done_once)
{
    struct random random = random_open(1);
    ck_assert(flight_open(&flight, REQUESTS, REQUESTS * SEQUENCES));
    for (int round = 0; round < 300; round++) {
        int count = 1 + (int)random_below(&random, REQUESTS);
        int completed = 0, expected = 0, steps = 0;
        double flops = 0;
        lay_out(&random, count);
        while (!flight_all_launched(&flight)) {
            struct device_launch launch = flight_launch(&flight, &device, 0, 0);
            ck_assert(launch.row == &row);
            ck_assert(launch.launch.parts == 1 || launch.launch.sequence_count == 1);
            steps++;
        }
        for (; !flight_all_done(&flight); steps--) {
            flops += flight_step_flops(&flight);
            int32_t slice = flight_completes(&flight), first;
            for (int32_t i = 0; slice >= 0 && i < count; i++) {
                completed += batch_completed(&flight.batch, slice, i, &first);
            }
            flight_advance(&flight);
        }
        for (int r = 0; r < count; r++) {
            expected += parts[r].sequence_count;
        }
        ck_assert_int_eq(steps, 0);
        ck_assert_int_eq(completed, expected);
        ck_assert_double_eq_tol(flops, flight.batch.flops, 1e-6 * (flops + 1));
    }
}
END_TEST

START_TEST(who_drops_out_is_let_go_when_its_last_launch_is_over)
{
    struct random random = random_open(2);
    ck_assert(flight_open(&flight, REQUESTS, REQUESTS * SEQUENCES));
    for (int round = 0; round < 1000; round++) {
        int32_t victim = 0;
        int launched = 0, done = 0, last_with_victim = 0;
        bool dropped = false, left = false;
        lay_out(&random, REQUESTS);
        victim = (int32_t)random_below(&random, REQUESTS);
        while (!flight_all_done(&flight)) {
            if (!dropped && random_below(&random, 6) == 0) {
                flight_drop(&flight, victim);
                flight_drop(&flight, victim); /* twice is once */
                dropped = true;
            }
            bool full = launched - done == 2 || flight_all_launched(&flight);
            if (!full && (launched == done || random_below(&random, 2) == 0)) {
                struct device_launch launch = flight_launch(&flight, &device, 0, 0);
                int count = sequences_of(&launch, victim);
                ck_assert(!dropped || count == 0);
                last_with_victim = count > 0 ? launched : last_with_victim;
                launched++;
            } else {
                if (dropped && !left && flight_left(&flight, victim)) {
                    left = true;
                    ck_assert_int_ge(done, last_with_victim);
                }
                flight_advance(&flight);
                done++;
            }
        }
        ck_assert(!dropped || left);
    }
}
END_TEST

/* A device at work: it reads the sequences of every launch it was given. */
struct reader {
    struct device_launch launches[STEPS];
    int count;
    int64_t rows;
};

static void *read_launches(void *argument)
{
    struct reader *reader = argument;
    for (int i = 0; i < reader->count; i++) {
        const struct attn_launch *launch = &reader->launches[i].launch;
        for (int32_t s = 0; s < launch->sequence_count; s++) {
            reader->rows += launch->sequences[s].q_len;
        }
    }
    return NULL;
}

/* Thread sanitizer is the judge: parts of a slice may run while later ones are still to come. */
START_TEST(dropping_out_writes_nothing_that_a_launch_reads)
{
    static struct reader reader;
    struct random random = random_open(3);
    ck_assert(flight_open(&flight, REQUESTS, REQUESTS * SEQUENCES));
    for (int round = 0; round < 100; round++) {
        reader = (struct reader){.count = 0};
        int64_t rows = 0;
        lay_out(&random, REQUESTS);
        int steps = 1 + (int)random_below(&random, STEPS);
        while (reader.count < steps && !flight_all_launched(&flight)) {
            struct device_launch launch = flight_launch(&flight, &device, 0, 0);
            for (int32_t s = 0; s < launch.launch.sequence_count; s++) {
                rows += launch.launch.sequences[s].q_len;
            }
            reader.launches[reader.count++] = launch;
        }
        pthread_t thread;
        ck_assert_int_eq(pthread_create(&thread, NULL, read_launches, &reader), 0);
        flight_drop(&flight, (int32_t)random_below(&random, REQUESTS));
        pthread_join(thread, NULL);
        ck_assert_int_eq(reader.rows, rows);
    }
}
END_TEST

int main(void)
{
    static const struct check_row rows[] = {
        {"steps", &every_step_is_launched_and_done_once},
        {"drop", &who_drops_out_is_let_go_when_its_last_launch_is_over},
        {"drop beside a launch", &dropping_out_writes_nothing_that_a_launch_reads},
    };
    return check_main("flight", rows, sizeof rows / sizeof rows[0]);
}
