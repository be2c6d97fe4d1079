/* stats: counters, levels and quantiles, by name. */
#include "server/stats.h"

#include <stdio.h>
#include <string.h>

#include "tests/support/check_main.h"
#include "tests/support/random.h"

static struct stats stats;
static struct stats_value values[FAS_STATS_MAX];

static double value_of(const char *name)
{
    size_t count = stats_snapshot(&stats, values, FAS_STATS_MAX);
    ck_assert_uint_le(count, FAS_STATS_MAX);
    for (size_t i = 0; i < count; i++) {
        if (strcmp(values[i].name, name) == 0) {
            return values[i].value;
        }
    }
    ck_abort_msg("no row %s", name);
}

START_TEST(a_snapshot_names_every_number_once)
{
    stats_open(&stats);
    for (int i = 0; i < (int)FAS_DEVICES_MAX; i++) {
        stats_device_add(&stats, i % 2 ? "cpu:1" : "cuda:0");
    }
    stats.device_count = 2;
    size_t count = stats_snapshot(&stats, values, FAS_STATS_MAX);
    for (size_t i = 0; i < count; i++) {
        ck_assert_ptr_null(strstr(values[i].name, "(null)"));
        ck_assert_uint_gt(strlen(values[i].name), 0);
        for (size_t j = 0; j < i; j++) {
            ck_assert_str_ne(values[i].name, values[j].name);
        }
    }
    ck_assert_uint_eq(stats_snapshot(&stats, NULL, 0), count);
}
END_TEST

START_TEST(counters_add_and_gauges_replace)
{
    stats_open(&stats);
    uint32_t device = stats_device_add(&stats, "cpu:0");
    stats_add(&stats, STATS_BATCHES, 2);
    stats_add(&stats, STATS_BATCHES, 3);
    stats_set(&stats, STATS_CONNECTIONS, 9);
    stats_set(&stats, STATS_CONNECTIONS, 4);
    stats_device_set(&stats, device, STATS_DEVICE_ARENA_USED_BYTES, 1e12);
    ck_assert_double_eq(value_of("batches"), 5);
    ck_assert_double_eq(value_of("connections"), 4);
    ck_assert_double_eq(value_of("cpu:0.arena_used_bytes"), 1e12);
}
END_TEST

START_TEST(requests_count_by_pass_and_by_the_status_of_their_answer)
{
    stats_open(&stats);
    stats_answer(&stats, STATS_FORWARD, FAS_OK);
    stats_answer(&stats, STATS_BACKWARD, FAS_OK);
    stats_answer(&stats, STATS_UNREAD, FAS_INVALID_ARGUMENT);
    stats_work(&stats, STATS_FORWARD, 100, 1e9);
    stats_work(&stats, STATS_BACKWARD, 10, 3e9);
    stats_payload(&stats, STATS_OUT, FAS_PLACE_REGION, 4096);
    ck_assert_double_eq(value_of("requests_ok"), 2);
    ck_assert_double_eq(value_of("requests_invalid_argument"), 1);
    ck_assert_double_eq(value_of("requests_device_fault"), 0);
    ck_assert_double_eq(value_of("forward.requests"), 1);
    ck_assert_double_eq(value_of("forward.tokens"), 100);
    ck_assert_double_eq(value_of("tokens"), 110);
    ck_assert_double_eq(value_of("backward.flops"), 3e9);
    ck_assert_double_eq(value_of("flops"), 4e9);
    ck_assert_double_eq(value_of("bytes_out.region"), 4096);
    ck_assert_double_eq(value_of("bytes_in.region"), 0);
}
END_TEST

START_TEST(counts_below_a_power_of_two_are_exact)
{
    struct random random = random_open(3);
    uint64_t below[50] = {0};
    stats_open(&stats);
    for (int i = 0; i < 5000; i++) {
        uint64_t value = random_next(&random) >> (17 + random_below(&random, 47));
        stats_record(&stats, STATS_TOTAL_US, value);
        for (uint32_t exponent = 0; exponent < 40; exponent++) {
            below[exponent] += value < UINT64_C(1) << exponent;
        }
    }
    for (uint32_t exponent = 0; exponent < 40; exponent++) {
        ck_assert_uint_eq(stats_below(&stats.histograms[STATS_TOTAL_US], exponent),
                          below[exponent]);
    }
}
END_TEST

START_TEST(small_values_are_exact)
{
    stats_open(&stats);
    for (uint64_t v = 0; v < 10; v++) {
        stats_record(&stats, STATS_BATCH_REQUESTS, v);
    }
    ck_assert_double_eq(value_of("batch_requests.p50"), 4);
    ck_assert_double_eq(value_of("batch_requests.p90"), 8);
    ck_assert_double_eq(value_of("batch_requests.p99"), 9);
    ck_assert_double_eq(value_of("batch_requests.mean"), 4.5);
    ck_assert_double_eq(value_of("queue_us.p50"), 0);
}
END_TEST

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a;
    uint64_t y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

START_TEST(quantiles_are_within_a_sixteenth)
{
    enum { COUNT = 5000 };
    static uint64_t recorded[COUNT];
    struct random random = random_open(2);
    stats_open(&stats);
    for (int i = 0; i < COUNT; i++) {
        recorded[i] = random_next(&random) >> (17 + random_below(&random, 47));
        stats_record(&stats, STATS_TOTAL_US, recorded[i]);
    }
    qsort(recorded, COUNT, sizeof(recorded[0]), by_value);
    for (int percent = 1; percent <= 100; percent++) {
        uint64_t exact = recorded[COUNT * percent / 100 - 1];
        uint64_t seen = stats_quantile(&stats.histograms[STATS_TOTAL_US], percent / 100.0);
        ck_assert_uint_ge(seen, exact);
        ck_assert_uint_le(seen - exact, exact / 16 + 1);
    }
    ck_assert_double_eq(value_of("total_us.max"), (double)recorded[COUNT - 1]);
}
END_TEST

START_TEST(no_value_is_too_large)
{
    stats_open(&stats);
    stats_record(&stats, STATS_TOTAL_US, UINT64_MAX);
    stats_record(&stats, STATS_TOTAL_US, UINT64_C(1) << 60);
    ck_assert_double_eq(value_of("total_us.count"), 2);
    ck_assert_uint_gt(stats_quantile(&stats.histograms[STATS_TOTAL_US], 0.5), 0);
}
END_TEST

/* Names in backticks that have an underscore; "*." stands for a device. Metrics are test_metrics'.
 */
START_TEST(the_operators_guide_names_what_is_there)
{
    char line[1024];
    int seen = 0;
    stats_open(&stats);
    stats_device_add(&stats, "*");
    FILE *guide = fopen(FAS_OPERATORS_GUIDE, "r");
    ck_assert_ptr_nonnull(guide);
    while (fgets(line, sizeof(line), guide)) {
        char *save = NULL;
        char *part = line[0] == '|' ? strtok_r(line, "`", &save) : NULL;
        for (int i = 0; part; part = strtok_r(NULL, "`", &save), i++) {
            if (i % 2 == 1 && strchr(part, '_') && !strstr(part, "faserved_")) {
                value_of(part);
                seen++;
            }
        }
    }
    fclose(guide);
    ck_assert_int_ge(seen, 8);
}
END_TEST

static const struct check_row tests[] = {
    {"names", &a_snapshot_names_every_number_once},
    {"levels", &counters_add_and_gauges_replace},
    {"answers", &requests_count_by_pass_and_by_the_status_of_their_answer},
    {"below", &counts_below_a_power_of_two_are_exact},
    {"small", &small_values_are_exact},
    {"quantiles", &quantiles_are_within_a_sixteenth},
    {"large", &no_value_is_too_large},
    {"guide", &the_operators_guide_names_what_is_there},
};

CHECK_MAIN("stats", tests)
