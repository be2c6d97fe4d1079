/*
 * test_start_up.c: memory that is not there at start-up. Whichever allocation or mapping fails, the
 * daemon says which option asked for it and does not come up; it neither crashes nor serves with
 * half of its parts. Each attempt is a process of its own, because a daemon is opened once in a
 * process.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "server/log.h"
#include "server/server.h"
#include "tests/support/alloc.h"
#include "tests/support/check_main.h"

enum { ATTEMPTS_MAX = 400, SECONDS_MAX = 60 };

/* How one attempt ended: its process's exit status. */
enum ending { OPENED = 0, REFUSED = 1, SILENT = 2, WRONG = 3 };

static struct server server;
static long mappings_left; /* the mapping that fails is the one that makes it 0 */
static bool mapping_failed;

void *__real_mmap(void *address, size_t bytes, int protection, int flags, int fd, off_t offset);
void *__wrap_mmap(void *address, size_t bytes, int protection, int flags, int fd, off_t offset);

void *__wrap_mmap(void *address, size_t bytes, int protection, int flags, int fd, off_t offset)
{
    if (mappings_left > 0 && --mappings_left == 0) {
        mapping_failed = true;
        errno = ENOMEM;
        return MAP_FAILED;
    }
    return __real_mmap(address, bytes, protection, flags, fd, offset);
}

static void wake(void *context)
{
    (void)context;
}

static void configure(const char *socket)
{
    char *arguments[] = {"faserved",
                         "--listen-ipc",
                         (char *)socket,
                         "--device",
                         "cpu:0,cpu:1",
                         "--arena-bytes",
                         "8MiB",
                         "--cpu-threads",
                         "2",
                         "--slots",
                         "64",
                         "--connections-max",
                         "8",
                         NULL};
    struct config_command command =
        config_open(&server.config, (int)(sizeof arguments / sizeof *arguments) - 1, arguments);
    if (command.action != CONFIG_RUN) {
        fprintf(stderr, "%s\n", command.error);
        _exit(WRONG);
    }
}

/* In a child. fail_at: the allocation, or the mapping, that fails; from 1. */
static void attempt(const char *socket, long fail_at, bool mappings)
{
    alarm(SECONDS_MAX);
    log_open(LOG_LEVEL_ERROR, STDERR_FILENO);
    configure(socket);
    struct fas_error error = {.status = FAS_OK};
    mappings_left = mappings ? fail_at : 0;
    alloc_fail_at(mappings ? -1 : fail_at - 1);
    enum fas_status status = server_open(&server, wake, NULL, &error);
    bool failed = mappings ? mapping_failed : alloc_failed();
    alloc_fail_at(-1);
    unlink(socket);
    if (status == FAS_OK) {
        _exit(failed ? SILENT : OPENED);
    }
    if (failed && error.field[0] != '\0' && error.text[0] != '\0') {
        _exit(REFUSED);
    }
    fprintf(stderr, "failed %d: %s, \"%s\": %s\n", failed, fas_status_name(status), error.field,
            error.text);
    _exit(WRONG);
}

static int ending_of(const char *socket, long fail_at, bool mappings)
{
    int status = 0;
    pid_t pid = fork();
    if (pid == 0) {
        attempt(socket, fail_at, mappings);
    }
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static void check_all(bool mappings, int at_least)
{
    char folder[] = "/tmp/faserved-start-XXXXXX", socket[64];
    ck_assert_ptr_nonnull(mkdtemp(folder));
    snprintf(socket, sizeof socket, "%s/socket", folder);
    int ending = REFUSED, refused = 0;
    for (long n = 1; ending == REFUSED && n < ATTEMPTS_MAX; n++) {
        ending = ending_of(socket, n, mappings);
        refused += ending == REFUSED;
    }
    rmdir(folder);
    ck_assert_msg(ending == OPENED, "failure %d ended with %d", refused + 1, ending);
    ck_assert_int_ge(refused, at_least);
}

START_TEST(whichever_allocation_fails_start_up_is_refused_by_name)
{
    check_all(false, 30);
}
END_TEST

START_TEST(whichever_mapping_fails_start_up_is_refused_by_name)
{
    check_all(true, 4);
}
END_TEST

static const struct check_row tests[] = {
    {"allocations", &whichever_allocation_fails_start_up_is_refused_by_name},
    {"mappings", &whichever_mapping_fails_start_up_is_refused_by_name},
};

CHECK_MAIN("start_up", tests)
