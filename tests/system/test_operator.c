/*
 * test_operator.c: what whoever runs the daemon relies on: the service manager is told how it goes,
 * who may drain, and that no secret is in the log.
 */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/support/check_main.h"
#include "tests/support/daemon.h"
#include "tests/support/job.h"

#define TRAINER "0123456789abcdef0123456789abcdef"
#define ADMIN "fedcba9876543210fedcba9876543210"
#define WRONG "00112233445566778899aabbccddeeff"

enum { NOBODY = 65534, REFUSED = 7 };

static const struct job_shape small = {FAS_BF16, 2, 1, 64, 64, 3, 40, true, false};
static char token_file[] = "/tmp/faserved-tokens-XXXXXX", address[32], url[64];

static void start_with_tokens(struct daemon *daemon)
{
    int fd = mkstemp(token_file);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_gt(dprintf(fd, "trainer " TRAINER "\nboss " ADMIN " admin\n"), 0);
    close(fd);
    snprintf(address, sizeof address, "127.0.0.1:%d", daemon_port());
    snprintf(url, sizeof url, "tcp://%s", address);
    const char *const arguments[] = {"--device",
                                     "cpu:0",
                                     "--cpu-threads",
                                     "1",
                                     "--arena-bytes",
                                     "64MiB",
                                     "--listen-tcp",
                                     address,
                                     "--token-file",
                                     token_file,
                                     "--log-level",
                                     "debug",
                                     NULL};
    daemon_start(daemon, arguments);
}

static enum fas_status connect_with(const char *to, const char *token, struct fas_client **client)
{
    struct fas_connect_options options = {.url = to, .token = token};
    struct fas_error error;
    return fas_connect(&options, client, &error);
}

static bool served(struct fas_client *client)
{
    struct random random = random_open(9);
    struct job job;
    job_forward(&job, &small, &random);
    bool good = fas_run(client, &job.request, NULL) == FAS_OK && job_right(&job);
    job_close(&job);
    return good;
}

START_TEST(an_admin_token_drains_and_another_does_not)
{
    struct daemon daemon;
    struct fas_client *trainer, *boss;
    struct fas_error error;
    start_with_tokens(&daemon);
    ck_assert_int_eq(connect_with(url, TRAINER, &trainer), FAS_OK);
    ck_assert_int_eq(fas_drain(trainer, 5000, &error), FAS_UNAUTHENTICATED);
    ck_assert(served(trainer));
    fas_close(trainer);
    ck_assert_int_eq(connect_with(url, ADMIN, &boss), FAS_OK);
    ck_assert_int_eq(fas_drain(boss, 5000, &error), FAS_OK);
    fas_close(boss);
    ck_assert_int_eq(daemon_wait(&daemon), 0);
    unlink(token_file);
}
END_TEST

/* In a process of its own, as another user: 0 if all went as it should. */
static int ask_as_nobody(const char *to)
{
    struct fas_client *client;
    struct fas_error error;
    if (setgid(NOBODY) != 0 || setuid(NOBODY) != 0) {
        return 1;
    }
    if (connect_with(to, NULL, &client) != FAS_OK) {
        return 2;
    }
    if (!served(client)) {
        return 3;
    }
    return fas_drain(client, 5000, &error) == FAS_UNAUTHENTICATED ? REFUSED : 4;
}

/* Whoever may connect may compute; the daemon's end is not theirs to decide. */
START_TEST(another_user_is_served_and_does_not_drain)
{
    struct daemon daemon;
    int status;
    daemon_start(&daemon,
                 (const char *const[]){"--device", "cpu:0", "--cpu-threads", "1", "--arena-bytes",
                                       "64MiB", "--ipc-mode", "0666", NULL});
    ck_assert_int_eq(chmod(daemon.folder, 0755), 0);
    pid_t pid = fork();
    if (pid == 0) {
        _exit(ask_as_nobody(daemon.url));
    }
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == REFUSED, "%d", status);
    ck_assert_int_eq(daemon_stop(&daemon), 0);
}
END_TEST

static size_t read_log(const struct daemon *daemon, char *text, size_t room)
{
    FILE *file = fopen(daemon->log, "re");
    ck_assert_ptr_nonnull(file);
    size_t bytes = fread(text, 1, room - 1, file);
    text[bytes] = '\0';
    fclose(file);
    return bytes;
}

/* With everything logged that can be: good tokens, wrong ones, and one in the wrong place. */
START_TEST(no_token_is_in_the_log)
{
    static char text[1 << 20];
    struct daemon daemon;
    struct fas_client *client;
    start_with_tokens(&daemon);
    ck_assert_int_eq(connect_with(url, WRONG, &client), FAS_UNAUTHENTICATED);
    ck_assert_int_eq(connect_with(daemon.url, WRONG, &client), FAS_UNAUTHENTICATED);
    ck_assert_int_eq(connect_with(url, ADMIN, &client), FAS_OK);
    fas_close(client);
    ck_assert_int_eq(connect_with(daemon.url, TRAINER, &client), FAS_OK);
    ck_assert(served(client));
    fas_close(client);
    ck_assert_uint_gt(read_log(&daemon, text, sizeof text), 0);
    ck_assert_ptr_nonnull(strstr(text, "token:trainer")); /* who it was is there */
    ck_assert_ptr_null(strstr(text, TRAINER));
    ck_assert_ptr_null(strstr(text, ADMIN));
    ck_assert_ptr_null(strstr(text, WRONG));
    ck_assert_int_eq(daemon_stop(&daemon), 0);
    unlink(token_file);
}
END_TEST

/* ---- the service manager ---- */

/* The socket of a service manager. */
static int open_manager(struct sockaddr_un *at)
{
    char path[] = "/tmp/faserved-notify-XXXXXX";
    ck_assert_ptr_nonnull(mkdtemp(path));
    *at = (struct sockaddr_un){.sun_family = AF_UNIX};
    snprintf(at->sun_path, sizeof at->sun_path, "%s/notify", path);
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(bind(fd, (struct sockaddr *)at, sizeof *at), 0);
    const struct timeval patience = {.tv_sec = 20};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    return fd;
}

/* Waits until it is told `what`; how often it was told something else before. */
static int told_before(int manager, const char *what)
{
    char text[256];
    for (int others = 0;; others++) {
        ssize_t bytes = recv(manager, text, sizeof text - 1, 0);
        ck_assert_msg(bytes > 0, "never told %s", what);
        text[bytes] = '\0';
        if (strcmp(text, what) == 0) {
            return others;
        }
    }
}

START_TEST(the_service_manager_is_told)
{
    struct sockaddr_un at;
    struct daemon daemon;
    int manager = open_manager(&at);
    setenv("NOTIFY_SOCKET", at.sun_path, 1);
    setenv("WATCHDOG_USEC", "100000", 1);
    daemon_start(&daemon, (const char *const[]){"--device", "cpu:0", "--cpu-threads", "1",
                                                "--arena-bytes", "16MiB", NULL});
    ck_assert_int_eq(told_before(manager, "READY=1"), 0);
    for (int i = 0; i < 5; i++) { /* again and again, not once */
        ck_assert_int_eq(told_before(manager, "WATCHDOG=1"), 0);
    }
    kill(daemon.pid, SIGTERM);
    told_before(manager, "STOPPING=1");
    ck_assert_int_eq(daemon_wait(&daemon), 0);
    close(manager);
    unlink(at.sun_path);
    *strrchr(at.sun_path, '/') = '\0';
    rmdir(at.sun_path);
}
END_TEST

int main(void)
{
    static const struct check_row rows[] = {
        {"admin", &an_admin_token_drains_and_another_does_not},
        {"secrets", &no_token_is_in_the_log},
        {"manager", &the_service_manager_is_told},
        {"nobody", &another_user_is_served_and_does_not_drain}, /* root alone can be another */
    };
    size_t count = sizeof rows / sizeof rows[0];
    return check_main("operator", rows, geteuid() == 0 ? count : count - 1);
}
