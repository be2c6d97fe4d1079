/*
 * with_daemon.c: usage: with_daemon PROGRAM [ARGUMENT...]: runs a program beside a faserved of its
 * own; an argument of SOCKET becomes the daemon's socket, FASERVE_URL names it too. Fails if either
 * of them does.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/support/daemon.h"

static int run(char **arguments)
{
    int status = 0;
    pid_t pid = fork();
    if (pid == 0) {
        execv(arguments[0], arguments);
        _exit(127);
    }
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : EXIT_FAILURE;
}

int main(int argc, char **argv)
{
    static const char *const options[] = {"--device", "cpu:0", "--arena-bytes", "64MiB", NULL};
    struct daemon daemon;
    if (argc < 2) {
        fprintf(stderr, "usage: with_daemon PROGRAM [ARGUMENT...]\n");
        return 2;
    }
    daemon_start(&daemon, options);
    for (int i = 2; i < argc; i++) {
        argv[i] = strcmp(argv[i], "SOCKET") == 0 ? daemon.socket : argv[i];
    }
    setenv("FASERVE_URL", daemon.url, 1);
    int status = run(argv + 1);
    int ended = daemon_stop(&daemon);
    if (status != 0 || ended != 0) {
        fprintf(stderr, "%s ended with %d, faserved with %d\n", argv[1], status, ended);
    }
    return status != 0 ? status : ended;
}
