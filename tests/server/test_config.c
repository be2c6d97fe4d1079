/* config: every option is a row; what is wrong is refused where it stands. */
#include "server/config.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/support/check_main.h"

static struct config config;
static char error[512];

static bool set(const char *name, const char *value)
{
    return config_set(&config, name, value, error, sizeof(error));
}

/* Writes a file and opens the daemon's options with it and with more flags. */
static struct config_command open_with(const char *text, const char *flag1, const char *flag2)
{
    char path[] = "test_config.XXXXXX";
    int fd = mkstemp(path);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(write(fd, text, strlen(text)), (int)strlen(text));
    close(fd);
    char name[] = "faserved";
    char option[] = "--config";
    char *argv[] = {name, option, path, (char *)(size_t)flag1, (char *)(size_t)flag2, NULL};
    int argc = 3 + (flag1 != NULL) + (flag2 != NULL);
    struct config_command command = config_open(&config, argc, argv);
    unlink(path);
    return command;
}

static void refused(struct config_command command, const char *why)
{
    ck_assert_int_eq(command.action, CONFIG_REFUSED);
    ck_assert_msg(strstr(command.error, why) != NULL, "\"%s\" in \"%s\"", why, command.error);
}

START_TEST(defaults_obey_the_rules)
{
    config_default(&config);
    ck_assert_msg(config_check(&config, error, sizeof(error)), "%s", error);
    ck_assert_str_eq(config.listen_ipc, "auto");
    ck_assert_uint_eq(config.ipc_mode, 0660);
    ck_assert_uint_eq(config.slice_us, 25000);
    ck_assert_uint_eq(config.chunk_bytes, 1u << 20);
    ck_assert_str_eq(config.listen_tcp, "");
}
END_TEST

START_TEST(numbers_have_units)
{
    config_default(&config);
    ck_assert(set("arena-bytes", "1.5GiB"));
    ck_assert_uint_eq(config.arena_bytes, UINT64_C(3) << 29);
    ck_assert(set("arena-bytes", "4096"));
    ck_assert_uint_eq(config.arena_bytes, 4096);
    ck_assert(set("batch-delay", "250us"));
    ck_assert_uint_eq(config.batch_delay_us, 250);
    ck_assert(set("drain-timeout", "2min"));
    ck_assert_uint_eq(config.drain_timeout_us, 120000000);
    ck_assert(set("batch-tokens-max", "64k"));
    ck_assert_uint_eq(config.batch_tokens_max, 64000);
    ck_assert(set("queue-flops-max", "2e15"));
    ck_assert_double_eq(config.queue_flops_max, 2e15);
    ck_assert(set("ipc-mode", "0600"));
    ck_assert_uint_eq(config.ipc_mode, 0600);
    ck_assert(set("batch-delay", "0"));
    ck_assert_uint_eq(config.batch_delay_us, 0);
}
END_TEST

START_TEST(what_is_no_number_is_refused)
{
    static const char *const bad[][2] = {
        {"slots", ""},
        {"slots", "ten"},
        {"slots", "-1"},
        {"slots", " 7"},
        {"slots", "1.5"},
        {"slots", "7x"},
        {"slots", "0x10"},
        {"slots", "inf"},
        {"slots", "nan"},
        {"slots", "1e999"},
        {"arena-bytes", "1GB"},
        {"arena-bytes", "0.3B"},
        {"batch-delay", "25"},
        {"batch-delay", "25 ms"},
        {"insecure", "yes"},
        {"ipc-mode", "660"},
        {"ipc-mode", "0999"},
        {"ipc-mode", "01777"},
        {"slots", "0"},
        {"slots", "65537"},
        {"chunk-bytes", "5MiB"},
        {"spin-time", "50"},
        {"spin-time", "11ms"},
        {"hello-timeout", "0"},
        {"log-level", "a very long level"},
    };
    config_default(&config);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct config before = config;
        ck_assert_msg(!set(bad[i][0], bad[i][1]), "%s=%s", bad[i][0], bad[i][1]);
        ck_assert_msg(strstr(error, bad[i][0]) != NULL, "%s", error);
        ck_assert_mem_eq(&before, &config, sizeof(config));
    }
    ck_assert(!set("slot", "1"));
    ck_assert_ptr_nonnull(strstr(error, "no such option"));
}
END_TEST

START_TEST(flags_win_over_the_file)
{
    struct config_command command = open_with(
        "# comment\n\n slots = 512   # of all\nlisten-ipc=/tmp/#x.sock\ninsecure = true\n",
        "--slots=300", "--requests-per-connection=9");
    ck_assert_msg(command.action == CONFIG_RUN, "%s", command.error);
    ck_assert_uint_eq(config.slots, 300);
    ck_assert_uint_eq(config.requests_per_connection, 9);
    ck_assert_uint_eq(config.requests_per_principal, 75);
    ck_assert_str_eq(config.listen_ipc, "/tmp/#x.sock");
    ck_assert(config.insecure);
}
END_TEST

START_TEST(a_wrong_line_is_named)
{
    refused(open_with("slots = 8\n\nslotz = 8\n", NULL, NULL), ":3: slotz: no such option");
    refused(open_with("slots = many\n", NULL, NULL), ":1: slots: \"many\" is not a count");
    refused(open_with("slots\n", NULL, NULL), ":1: \"slots\" is not name = value");
    char longest[1200];
    memset(longest, 'x', sizeof(longest) - 1);
    longest[sizeof(longest) - 1] = '\0';
    refused(open_with(longest, NULL, NULL), ":1: line longer");
}
END_TEST

START_TEST(a_wrong_flag_is_named)
{
    refused(open_with("", "--slotz=1", NULL), "--slotz: no such option");
    refused(open_with("", "--slots=many", NULL), "--slots: \"many\"");
    refused(open_with("", "--slots", NULL), "--slots: needs a value");
    refused(open_with("", "slots=3", NULL), "\"slots=3\" is not an option");
    refused(open_with("", "--help=3", NULL), "--help: takes no value");
    char name[] = "faserved";
    char option[] = "--config=/nowhere/faserved.conf";
    char *argv[] = {name, option, NULL};
    refused(config_open(&config, 2, argv), "/nowhere/faserved.conf: No such file");
}
END_TEST

START_TEST(flags_choose_what_to_do)
{
    ck_assert_int_eq(open_with("", "--check-config", NULL).action, CONFIG_CHECK);
    ck_assert_int_eq(open_with("", "--print-config", NULL).action, CONFIG_PRINT);
    ck_assert_int_eq(open_with("nonsense\n", "--help", NULL).action, CONFIG_HELP);
    ck_assert_int_eq(open_with("", "--version", NULL).action, CONFIG_VERSION);
    struct config_command command = open_with("", "--baseline", "spec.json");
    ck_assert_int_eq(command.action, CONFIG_BASELINE);
    ck_assert_str_eq(command.baseline, "spec.json");
    ck_assert_int_eq(open_with("", "--insecure", "--slots=2000").action, CONFIG_RUN);
    ck_assert(config.insecure);
    refused(open_with("slots = x\n", "--check-config", NULL), ":1: slots");
}
END_TEST

START_TEST(tcp_needs_tokens_and_beyond_loopback_more)
{
    refused(open_with("listen-tcp = 127.0.0.1:7447\n", NULL, NULL), "token-file");
    refused(open_with("listen-tcp = 7447\n", "--token-file=t", NULL), "not host:port");
    refused(open_with("listen-tcp = 0.0.0.0:7447\n", "--token-file=t", NULL), "insecure");
    ck_assert_int_eq(open_with("listen-tcp = 127.0.0.1:7447\n", "--token-file=t", NULL).action,
                     CONFIG_RUN);
    ck_assert_int_eq(
        open_with("listen-tcp = 0.0.0.0:7447\ninsecure = true\n", "--token-file=t", NULL).action,
        CONFIG_RUN);
    refused(open_with("listen-tls = 0.0.0.0:7447\n", "--token-file=t", NULL), "tls-cert");
    refused(open_with("listen-ipc =\n", NULL, NULL), "nothing to listen on");
}
END_TEST

START_TEST(options_that_contradict_each_other_are_refused)
{
    refused(open_with("", "--slice-time=1s", NULL), "slice-time");
    refused(open_with("", "--slots=100", "--requests-per-principal=101"), "requests-per-principal");
    refused(open_with("", "--arena-bytes=1MiB", "--scratch-bytes=1MiB"), "scratch-bytes");
    refused(open_with("", "--log-level=loud", NULL), "log-level");
}
END_TEST

/* config_print into memory. */
static const char *printed(void)
{
    static char text[32768];
    FILE *out = fmemopen(text, sizeof(text), "w");
    ck_assert_ptr_nonnull(out);
    config_print(&config, out);
    fclose(out);
    return text;
}

START_TEST(what_is_printed_reads_back_the_same)
{
    config_default(&config);
    ck_assert(set("arena-bytes", "123456789"));
    ck_assert(set("queue-flops-max", "1.2345678901234567e18"));
    ck_assert(set("progress-timeout", "1500ms"));
    ck_assert(set("listen-ipc", "/tmp/x#y.sock"));
    struct config before = config;
    char first[32768];
    snprintf(first, sizeof(first), "%s", printed());
    struct config_command command = open_with(first, "--print-config", NULL);
    ck_assert_msg(command.action == CONFIG_PRINT, "%s", command.error);
    ck_assert_mem_eq(&before, &config, sizeof(config));
    ck_assert_str_eq(printed(), first);
}
END_TEST

/* FAS_UPDATE=1 rewrites the file. */
START_TEST(the_shipped_file_is_the_printed_defaults)
{
    static char shipped[32768];
    config_default(&config);
    const char *text = printed();
    FILE *file = fopen(FAS_SHIPPED_CONFIG, getenv("FAS_UPDATE") ? "w+" : "r");
    ck_assert_ptr_nonnull(file);
    if (getenv("FAS_UPDATE")) {
        fputs(text, file);
        rewind(file);
    }
    shipped[fread(shipped, 1, sizeof(shipped) - 1, file)] = '\0';
    fclose(file);
    ck_assert_str_eq(shipped, text);
}
END_TEST

START_TEST(the_socket_has_a_place)
{
    char path[CONFIG_TEXT_BYTES_MAX];
    config_default(&config);
    setenv("RUNTIME_DIRECTORY", "/run/other", 1);
    ck_assert(config_ipc_path(&config, path, sizeof(path)));
    ck_assert_str_eq(path, "/run/other/faserved.sock");
    ck_assert(!config_ipc_path(&config, path, 10));
    unsetenv("RUNTIME_DIRECTORY");
    unsetenv("XDG_RUNTIME_DIR");
    ck_assert(config_ipc_path(&config, path, sizeof(path)) == (geteuid() == 0));
    ck_assert(set("listen-ipc", "/x/y"));
    ck_assert(config_ipc_path(&config, path, sizeof(path)));
    ck_assert_str_eq(path, "/x/y");
}
END_TEST

START_TEST(help_names_every_option)
{
    static char text[32768];
    FILE *out = fmemopen(text, sizeof(text), "w");
    config_help(out);
    fclose(out);
    char all[32768];
    config_default(&config);
    snprintf(all, sizeof(all), "%s", printed());
    int seen = 0;
    char *save = NULL;
    for (char *line = strtok_r(all, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        char flag[80];
        if (*line != '#') {
            snprintf(flag, sizeof(flag), "  --%.*s=", (int)strcspn(line, " "), line);
            ck_assert_msg(strstr(text, flag) != NULL, "%s", flag);
            seen++;
        }
    }
    ck_assert_int_gt(seen, 40);
    ck_assert_ptr_nonnull(strstr(text, "--check-config"));
}
END_TEST

static const struct check_row tests[] = {
    {"defaults", &defaults_obey_the_rules},
    {"units", &numbers_have_units},
    {"ill-typed", &what_is_no_number_is_refused},
    {"precedence", &flags_win_over_the_file},
    {"lines", &a_wrong_line_is_named},
    {"flags", &a_wrong_flag_is_named},
    {"actions", &flags_choose_what_to_do},
    {"tcp", &tcp_needs_tokens_and_beyond_loopback_more},
    {"rules", &options_that_contradict_each_other_are_refused},
    {"print", &what_is_printed_reads_back_the_same},
    {"shipped", &the_shipped_file_is_the_printed_defaults},
    {"socket", &the_socket_has_a_place},
    {"help", &help_names_every_option},
};

CHECK_MAIN("config", tests)
