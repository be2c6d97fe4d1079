#include "tests/support/daemon.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define ARGUMENTS_MAX 64
#define START_MS_MAX 20000
#define STATUS_LINE_BYTES 256

const char *daemon_device_kind(void)
{
    const char *chosen = getenv("FASERVED_KIND");
    return chosen ? chosen : "cpu";
}

int daemon_port(void)
{
    return 10000 + getpid() % 20000;
}

const char *daemon_arena_stat(void)
{
    static char name[64];
    snprintf(name, sizeof name, "%s:0.arena_used_bytes", daemon_device_kind());
    return name;
}

uint32_t daemon_connections(void)
{
    const char *chosen = getenv("FASERVED_CONNECTIONS");
    return chosen ? (uint32_t)strtoul(chosen, NULL, 10) : 0;
}

/* "cpu:0,cpu:1" -> "far:0,far:1". */
static const char *translate(const char *devices)
{
    static char list[256];
    size_t used = 0;
    for (const char *at = devices; *at && used + 16 < sizeof list; at++) {
        if (strncmp(at, "cpu:", 4) == 0) {
            used += (size_t)snprintf(list + used, sizeof list - used, "%s", daemon_device_kind());
            at += 3;
        }
        list[used++] = *at;
    }
    list[used] = '\0';
    return list;
}

static void run(const struct daemon *daemon, const char *const *arguments)
{
    const char *chosen = getenv("FASERVED"), *program = chosen ? chosen : FASERVED_PATH;
    const char *argv[ARGUMENTS_MAX] = {program, "--listen-ipc", daemon->socket};
    int count = 3;
    if (daemon_connections() > 0) {
        argv[count++] = "--chunk-bytes";
        argv[count++] = "128KiB";
    }
    for (int i = 0; arguments && arguments[i] && count + 3 < ARGUMENTS_MAX; i++) {
        bool devices = i > 0 && strcmp(arguments[i - 1], "--device") == 0;
        argv[count++] = devices ? translate(arguments[i]) : arguments[i];
    }
    int log = open(daemon->log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    dup2(log, STDERR_FILENO);
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* no test leaves a daemon behind */
    execv(program, (char *const *)argv);
    perror(program);
    _exit(127);
}

static int log_has(const struct daemon *daemon, const char *text)
{
    char line[4096];
    int found = 0;
    FILE *file = fopen(daemon->log, "re");
    while (file && !found && fgets(line, sizeof line, file)) {
        found = strstr(line, text) != NULL;
    }
    if (file) {
        fclose(file);
    }
    return found;
}

void daemon_start(struct daemon *daemon, const char *const *arguments)
{
    snprintf(daemon->folder, sizeof daemon->folder, "/tmp/faserved-test-XXXXXX");
    if (!mkdtemp(daemon->folder)) {
        perror("mkdtemp");
        exit(EXIT_FAILURE);
    }
    snprintf(daemon->socket, sizeof daemon->socket, "%s/socket", daemon->folder);
    snprintf(daemon->log, sizeof daemon->log, "%s/log", daemon->folder);
    snprintf(daemon->url, sizeof daemon->url, "ipc://%s", daemon->socket);
    daemon->pid = fork();
    if (daemon->pid == 0) {
        run(daemon, arguments);
    }
    for (int waited_ms = 0; waited_ms < START_MS_MAX; waited_ms += 10) {
        if (log_has(daemon, "event=ready")) {
            return;
        }
        if (waitpid(daemon->pid, NULL, WNOHANG) != 0) {
            break;
        }
        usleep(10000);
    }
    fprintf(stderr, "faserved did not start\n");
    daemon_print_log(daemon);
    exit(EXIT_FAILURE);
}

int daemon_wait(struct daemon *daemon)
{
    int status = 0;
    waitpid(daemon->pid, &status, 0);
    if (status != 0 && !(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)) {
        daemon_print_log(daemon); /* a sanitizer's report or what was asserted is in it */
    }
    unlink(daemon->socket);
    unlink(daemon->log);
    rmdir(daemon->folder);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

int daemon_stop(struct daemon *daemon)
{
    kill(daemon->pid, SIGTERM);
    return daemon_wait(daemon);
}

/* The rest of the line of /proc/PID/status that begins with `name`; empty: no such process. */
static void read_status(const struct daemon *daemon, const char *name,
                        char value[STATUS_LINE_BYTES])
{
    char path[64], line[STATUS_LINE_BYTES];
    *value = '\0';
    snprintf(path, sizeof path, "/proc/%d/status", (int)daemon->pid);
    FILE *file = fopen(path, "re");
    while (file && !*value && fgets(line, sizeof line, file)) {
        if (strncmp(line, name, strlen(name)) == 0) {
            snprintf(value, STATUS_LINE_BYTES, "%s", line + strlen(name));
        }
    }
    if (file) {
        fclose(file);
    }
}

bool daemon_alive(const struct daemon *daemon)
{
    char state[STATUS_LINE_BYTES];
    read_status(daemon, "State:\t", state);
    return *state && *state != 'Z';
}

long daemon_resident_kib(const struct daemon *daemon)
{
    char kib[STATUS_LINE_BYTES];
    read_status(daemon, "VmRSS:", kib);
    return strtol(kib, NULL, 10);
}

long daemon_sleeps(const struct daemon *daemon)
{
    char switches[STATUS_LINE_BYTES];
    read_status(daemon, "voluntary_ctxt_switches:", switches);
    return strtol(switches, NULL, 10);
}

int daemon_descriptors(const struct daemon *daemon)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/fd", (int)daemon->pid);
    DIR *folder = opendir(path);
    int count = 0;
    while (folder && readdir(folder)) {
        count++;
    }
    if (folder) {
        closedir(folder);
    }
    return count - 2; /* . and .. */
}

void daemon_print_log(const struct daemon *daemon)
{
    char line[4096];
    FILE *file = fopen(daemon->log, "re");
    while (file && fgets(line, sizeof line, file)) {
        fputs(line, stderr);
    }
    if (file) {
        fclose(file);
    }
}
