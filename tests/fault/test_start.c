/*
 * Start-up without memory: whichever allocation fails, the daemon refuses to start and names the
 * option that asked for too much; it neither crashes nor comes up half open.
 */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "server/log.h"
#include "server/server.h"
#include "tests/support/alloc.h"
#include "tests/support/check_main.h"

/* What a child's start came to, as its exit status. */
enum outcome { REFUSED = 1, STARTED, WRONG };

static void wake(void *context)
{
    (void)context;
}

static void configure(struct config *config)
{
    char error[256];
    static const char *const options[][2] = {
        {"arena-bytes", "4MiB"},          {"slots", "8"},       {"connections-max", "4"},
        {"device", "cpu:0,cpu:1"},        {"cpu-threads", "1"}, {"requests-per-principal", "8"},
        {"batch-sequences-max", "65536"},
    };
    config_default(config);
    for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++) {
        ck_assert_msg(config_set(config, options[i][0], options[i][1], error, sizeof(error)), "%s",
                      error);
    }
    snprintf(config->listen_ipc, sizeof(config->listen_ipc), "test_start.%d.sock", (int)getpid());
}

/* In a process of its own: a refused start ends in exit, nothing is taken down. */
static enum outcome start_without(long n)
{
    static struct server server;
    struct fas_error error = {0};
    log_open(LOG_LEVEL_WARN, STDERR_FILENO);
    configure(&server.config);
    alloc_fail_at(n);
    enum fas_status status = server_open(&server, wake, NULL, &error);
    int failed = alloc_failed();
    alloc_fail_at(-1);
    unlink(server.config.listen_ipc);
    if (status == FAS_OK) {
        return failed ? WRONG : STARTED;
    }
    bool says_why = error.status == status && error.field[0] != '\0' && error.text[0] != '\0';
    return failed && says_why ? REFUSED : WRONG;
}

START_TEST(every_allocation_that_fails_is_a_clean_refusal)
{
    int refused = 0;
    int status = 0;
    for (long n = 0; status == 0 || WEXITSTATUS(status) == REFUSED; n++) {
        fflush(NULL);
        pid_t child = fork();
        if (child == 0) {
            alarm(20);
            _exit((int)start_without(n));
        }
        ck_assert_int_eq(waitpid(child, &status, 0), child);
        ck_assert_msg(WIFEXITED(status), "allocation %ld: signal %d", n, WTERMSIG(status));
        ck_assert_msg(WEXITSTATUS(status) != WRONG, "allocation %ld: neither refused nor started",
                      n);
        refused++;
    }
    ck_assert_int_eq(WEXITSTATUS(status), STARTED);
    ck_assert_int_gt(refused, 20);
}
END_TEST

static const struct check_row tests[] = {
    {"start", &every_allocation_that_fails_is_a_clean_refusal},
};

CHECK_MAIN("start", tests)
