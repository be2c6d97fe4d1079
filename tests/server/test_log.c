/* log: one line per event, whatever a client puts into its strings. */
#include "server/log.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/support/check_main.h"

static int ends[2];
static char text[16384];

static void capture(enum log_level level)
{
    ck_assert_int_eq(pipe(ends), 0);
    unsetenv("JOURNAL_STREAM");
    log_open(level, ends[1]);
}

/* What was written since capture. */
static const char *captured(void)
{
    close(ends[1]);
    ssize_t used = 0;
    for (ssize_t n = 1; n > 0; used += n) {
        n = read(ends[0], text + used, sizeof(text) - 1 - (size_t)used);
        ck_assert_int_ge(n, 0);
    }
    text[used] = '\0';
    return text;
}

START_TEST(a_line_is_key_value_pairs)
{
    capture(LOG_LEVEL_INFO);
    log_info("request_done", log_u64("request", 7), log_i64("left", -3), log_f64("ms", 0.25),
             log_str("client", "trainer 1"));
    const char *line = captured();
    ck_assert_int_eq(strncmp(line, "ts=20", 5), 0);
    ck_assert_ptr_nonnull(strstr(line, " mono_us="));
    ck_assert_ptr_nonnull(strstr(line, " level=info event=request_done request=7 left=-3 ms=0.25 "
                                       "client=\"trainer 1\"\n"));
}
END_TEST

START_TEST(an_event_needs_no_field)
{
    capture(LOG_LEVEL_INFO);
    log_info("ready");
    ck_assert_ptr_nonnull(strstr(captured(), "event=ready\n"));
}
END_TEST

START_TEST(strings_can_not_forge_lines_or_keys)
{
    capture(LOG_LEVEL_INFO);
    const char evil[] = "x\" level=error\nevent=fake\t\\\x1b[31m\xff";
    log_warn("hello", log_str("client", evil), log_bytes("raw", "a\0b", 3), log_str("none", NULL));
    const char *line = captured();
    ck_assert_ptr_nonnull(strstr(line,
                                 "client=\"x\\\" level=error\\nevent=fake\\t\\\\\\x1b[31m\\xff\""
                                 " raw=\"a\\x00b\" none=\"\"\n"));
    ck_assert_ptr_eq(strchr(line, '\n'), line + strlen(line) - 1);
}
END_TEST

START_TEST(events_below_the_level_are_dropped)
{
    capture(LOG_LEVEL_WARN);
    log_info("quiet", log_u64("n", 1));
    log_error("loud", log_errno(2));
    const char *line = captured();
    ck_assert_ptr_null(strstr(line, "quiet"));
    ck_assert_ptr_nonnull(
        strstr(line, "level=error event=loud error=\"No such file or directory\""));
}
END_TEST

START_TEST(a_long_line_is_cut_at_a_field_and_says_so)
{
    capture(LOG_LEVEL_INFO);
    char big[4000];
    memset(big, 'x', sizeof(big) - 1);
    big[sizeof(big) - 1] = '\0';
    log_info("big", log_u64("before", 1), log_str("big", big), log_u64("after", 2));
    const char *line = captured();
    ck_assert_uint_le(strlen(line), LOG_LINE_BYTES_MAX);
    ck_assert_ptr_nonnull(strstr(line, "event=big before=1 cut=true\n"));
}
END_TEST

START_TEST(the_journal_gets_a_priority)
{
    ck_assert_int_eq(pipe(ends), 0);
    setenv("JOURNAL_STREAM", "8:1234", 1);
    log_open(LOG_LEVEL_DEBUG, ends[1]);
    log_error("fault", log_u64("n", 1));
    ck_assert_int_eq(strncmp(captured(), "<3>ts=", 6), 0);
}
END_TEST

START_TEST(a_line_that_can_not_be_written_is_counted)
{
    log_open(LOG_LEVEL_INFO, -1);
    log_info("lost", log_u64("n", 1));
    log_info("lost", log_u64("n", 2));
    ck_assert_uint_eq(log_lost(), 2);
}
END_TEST

START_TEST(levels_have_names)
{
    ck_assert_int_eq(log_level_parse("debug"), LOG_LEVEL_DEBUG);
    ck_assert_int_eq(log_level_parse("error"), LOG_LEVEL_ERROR);
    ck_assert_int_eq(log_level_parse("loud"), -1);
}
END_TEST

static const struct check_row tests[] = {
    {"pairs", &a_line_is_key_value_pairs},
    {"no fields", &an_event_needs_no_field},
    {"escaping", &strings_can_not_forge_lines_or_keys},
    {"level", &events_below_the_level_are_dropped},
    {"cut", &a_long_line_is_cut_at_a_field_and_says_so},
    {"journal", &the_journal_gets_a_priority},
    {"lost", &a_line_that_can_not_be_written_is_counted},
    {"names", &levels_have_names},
};

CHECK_MAIN("log", tests)
