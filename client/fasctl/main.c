/*
 * fasctl: the command line of faserve. One row per subcommand; each has its own file and --help.
 */
#include <stdio.h>
#include <string.h>

#include "client/fasctl/fasctl.h"

static const struct command {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *summary;
} commands[] = {
    {"ping", command_ping, "is the daemon there, and how far away"},
    {"stats", command_stats, "the daemon's counters"},
    {"top", command_top, "the same live: rates, devices, latencies"},
    {"forward", command_forward, "attention of a safetensors file"},
    {"backward", command_backward, "its gradients"},
    {"demo", command_demo, "real texts through the daemon, checked against this process"},
    {"bench", command_bench, "latency and throughput, beside the same work in process"},
    {"drain", command_drain, "the daemon finishes what it has, and exits"},
};

static void help(void)
{
    printf("usage: fasctl COMMAND [OPTIONS]      (fasctl COMMAND --help tells more)\n\n");
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
        printf("  %-10s %s\n", commands[i].name, commands[i].summary);
    }
    printf("\nexit: 0 done, 1 failed or out of tolerance, 2 bad usage, 3 no connection\n");
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        help();
        return EXIT_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "help") == 0) {
        help();
        return EXIT_OK;
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("fasctl %s\n", fas_version());
        return EXIT_OK;
    }
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
        if (strcmp(argv[1], commands[i].name) == 0) {
            return commands[i].run(argc - 1, argv + 1);
        }
    }
    fprintf(stderr, "fasctl: \"%s\" is no command; fasctl --help lists them\n", argv[1]);
    return EXIT_USAGE;
}
