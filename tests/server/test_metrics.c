/* metrics: a page of families, each told once, with labels nobody can forge. */
#include "server/metrics.h"

#include <stdio.h>
#include <string.h>

#include "tests/support/check_main.h"

static struct stats stats;
static struct principals principals;
static char page[METRICS_BYTES_MAX];

static void open_all(uint32_t count)
{
    stats_open(&stats);
    stats_device_add(&stats, "cpu:0");
    ck_assert(principals_open(&principals, count));
}

static uint32_t add_principal(const char *name)
{
    bool fresh;
    return principal_take(&principals, name, 1, &fresh);
}

static void write_page(void)
{
    size_t bytes = metrics_write(&stats, &principals, "1.2.3", page, sizeof(page));
    ck_assert_uint_eq(bytes, strlen(page));
}

/* A whole line is there. */
static void expect(const char *line)
{
    char wanted[256];
    snprintf(wanted, sizeof(wanted), "\n%s\n", line);
    ck_assert_msg(strstr(page, wanted) != NULL, "no line %s", line);
}

START_TEST(numbers_stand_under_their_names_in_base_units)
{
    open_all(4);
    stats_set(&stats, STATS_UPTIME_US, 1500000);
    stats_add(&stats, STATS_BATCHES, 3);
    stats_answer(&stats, STATS_BACKWARD, FAS_DEADLINE_EXCEEDED);
    stats_work(&stats, STATS_FORWARD, 9007199254740991.0, 1e30);
    stats_payload(&stats, STATS_IN, FAS_PLACE_CUDA, 4096);
    stats_device_set(&stats, 0, STATS_DEVICE_BUSY_US, 250000);
    write_page();
    expect("faserved_info{version=\"1.2.3\"} 1");
    expect("faserved_uptime_seconds 1.5");
    expect("# TYPE faserved_batches_total counter");
    expect("faserved_batches_total 3");
    expect("faserved_requests_total{pass=\"backward\",status=\"DEADLINE_EXCEEDED\"} 1");
    expect("faserved_tokens_total{pass=\"forward\"} 9007199254740991");
    expect("faserved_flops_total{pass=\"forward\"} 1e+30");
    expect("faserved_payload_bytes_total{direction=\"in\",place=\"cuda\"} 4096");
    expect("faserved_device_busy_seconds_total{device=\"cpu:0\"} 0.25");
    principals_close(&principals);
}
END_TEST

START_TEST(a_bound_counts_what_is_not_above_it)
{
    open_all(1);
    stats_record(&stats, STATS_QUEUE_US, 15);
    stats_record(&stats, STATS_QUEUE_US, 16);
    stats_record(&stats, STATS_QUEUE_US, UINT64_C(1) << 40);
    stats_record(&stats, STATS_BATCH_REQUESTS, 1);
    stats_record(&stats, STATS_BATCH_REQUESTS, 2);
    write_page();
    expect("faserved_request_phase_seconds_bucket{phase=\"queue\",le=\"1.6e-05\"} 1");
    expect("faserved_request_phase_seconds_bucket{phase=\"queue\",le=\"3.2e-05\"} 2");
    expect("faserved_request_phase_seconds_bucket{phase=\"queue\",le=\"67.108864\"} 2");
    expect("faserved_request_phase_seconds_bucket{phase=\"queue\",le=\"+Inf\"} 3");
    expect("faserved_request_phase_seconds_count{phase=\"queue\"} 3");
    expect("faserved_batch_requests_bucket{le=\"1\"} 1");
    expect("faserved_batch_requests_bucket{le=\"3\"} 2");
    expect("faserved_batch_requests_sum 3");
    principals_close(&principals);
}
END_TEST

START_TEST(a_label_can_not_break_out)
{
    open_all(2);
    add_principal("token:a\"b\\c\nd");
    write_page();
    expect("faserved_principal_held_requests{principal=\"token:a\\\"b\\\\c\\nd\"} 0");
    principals_close(&principals);
}
END_TEST

START_TEST(past_the_limit_principals_are_one)
{
    char name[FAS_NAME_BYTES_MAX];
    const struct cost cost = {.requests = 1, .tokens = 10, .flops = 100};
    open_all(METRICS_PRINCIPALS_MAX + 3);
    for (uint32_t i = 0; i < METRICS_PRINCIPALS_MAX + 3; i++) {
        snprintf(name, sizeof(name), "uid:%u", i);
        principal_serve(&principals, add_principal(name), &cost);
    }
    write_page();
    expect("faserved_principal_flops_total{principal=\"uid:63\"} 100");
    ck_assert_ptr_null(strstr(page, "uid:64"));
    expect("faserved_principal_flops_total{principal=\"other\"} 300");
    principals_close(&principals);
}
END_TEST

/* Every label at its longest, every number at its longest. */
START_TEST(no_page_is_longer_than_its_room)
{
    char name[FAS_NAME_BYTES_MAX];
    open_all(2 * METRICS_PRINCIPALS_MAX);
    for (uint32_t i = 1; i < FAS_DEVICES_MAX; i++) {
        stats_device_add(&stats, "\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"");
    }
    for (uint32_t i = 0; i < 2 * METRICS_PRINCIPALS_MAX; i++) {
        memset(name, '"', sizeof(name) - 1);
        snprintf(name + sizeof(name) - 5, 5, "%04u", i);
        struct principal *principal = &principals.entries[add_principal(name)];
        principal->served = (struct principal_work){1.0 / 3e99, 1.0 / 3e99, 1.0 / 3e99};
        principal->held = (struct cost){UINT64_MAX, UINT64_MAX, UINT32_MAX, UINT32_MAX, 1.0 / 3e99};
    }
    for (int i = 0; i < STATS_HISTOGRAMS; i++) {
        stats.histograms[i].buckets[0] = stats.histograms[i].count = UINT64_MAX;
        stats.histograms[i].sum = 1.0 / 3e99;
    }
    for (uint32_t d = 0; d < FAS_DEVICES_MAX; d++) {
        for (int i = 0; i < STATS_DEVICE_GAUGES; i++) {
            stats_device_set(&stats, d, (enum stats_device_gauge)i, 1.0 / 3e99);
        }
    }
    write_page();
    ck_assert_uint_lt(strlen(page), METRICS_BYTES_MAX * 9 / 10);
    principals_close(&principals);
}
END_TEST

/* Every faserved_ word of the guide is a family of the page, or a histogram's part. */
START_TEST(the_operators_guide_names_what_is_there)
{
    static const char *const parts[] = {"", "_bucket", "_sum", "_count"};
    static const char letters[] = "abcdefghijklmnopqrstuvwxyz_";
    char line[1024];
    int seen = 0;
    open_all(1);
    write_page();
    FILE *guide = fopen(FAS_OPERATORS_GUIDE, "r");
    ck_assert_ptr_nonnull(guide);
    while (fgets(line, sizeof(line), guide)) {
        for (char *word = strstr(line, "faserved_"); word; word = strstr(word, "faserved_")) {
            size_t length = strspn(word, letters);
            bool found = false;
            for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
                char wanted[256];
                int cut = (int)length - (int)strlen(parts[i]);
                bool ends = cut > 0 && strncmp(word + cut, parts[i], strlen(parts[i])) == 0;
                snprintf(wanted, sizeof(wanted), "# TYPE %.*s %s", ends ? cut : 0, word,
                         *parts[i] ? "histogram" : "");
                found = found || (ends && strstr(page, wanted));
            }
            ck_assert_msg(found, "%.*s is no metric", (int)length, word);
            word += length;
            seen++;
        }
    }
    fclose(guide);
    ck_assert_int_ge(seen, 10);
    principals_close(&principals);
}
END_TEST

static const struct check_row tests[] = {
    {"units", &numbers_stand_under_their_names_in_base_units},
    {"histogram", &a_bound_counts_what_is_not_above_it},
    {"escape", &a_label_can_not_break_out},
    {"principals", &past_the_limit_principals_are_one},
    {"guide", &the_operators_guide_names_what_is_there},
    {"room", &no_page_is_longer_than_its_room},
};

CHECK_MAIN("metrics", tests)
