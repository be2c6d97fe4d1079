/*
 * fasctl.h: what the subcommands share. main.c holds their table; each is one file.
 */
#ifndef FASCTL_FASCTL_H
#define FASCTL_FASCTL_H

#include "client/fasctl/options.h"
#include "client/faserve.h"

/* Exit codes, also in --help. */
enum { EXIT_OK = 0, EXIT_FAILED = 1, EXIT_USAGE = 2, EXIT_NO_SERVER = 3 };

/* Options every subcommand that talks to a daemon has. */
struct target {
    const char *url, *token_file, *ca_file;
    int64_t timeout_ms;
    uint32_t cuda_device; /* as fas_connect takes it */
    char token[257];
    char url_room[160];
};

extern struct target target;

/* A row for each, for the subcommands' tables. */
#define TARGET_ROWS                                                                                \
    {"url",                                                                                        \
     OPTION_TEXT,                                                                                  \
     &target.url,                                                                                  \
     "URL",                                                                                        \
     "the daemon (default: $FASERVE_URL, or this node's)",                                         \
     0,                                                                                            \
     0},                                                                                           \
        {"token-file",                                                                             \
         OPTION_TEXT,                                                                              \
         &target.token_file,                                                                       \
         "FILE",                                                                                   \
         "file with the shared secret (default: $FASERVE_TOKEN_FILE)",                             \
         0,                                                                                        \
         0},                                                                                       \
        {"tls-ca", OPTION_TEXT, &target.ca_file, "FILE", "PEM of the authorities to trust", 0, 0}, \
    {                                                                                              \
        "timeout-ms", OPTION_INT, &target.timeout_ms, "MS",                                        \
            "for connecting and for questions (default 5000)", 1, 3600000                          \
    }

/* Of the target: by option, environment, or where this user's daemon listens. */
const char *target_url(void);

/* Connects to the target, by so many connections (0: one); on failure says why on stderr and
 * returns NULL. */
struct fas_client *target_connect(uint32_t calls_max, uint32_t connections);

/* Prints "fasctl: what: STATUS field: text". */
void complain(const char *what, const struct fas_error *error);

int command_ping(int argc, char **argv);
int command_stats(int argc, char **argv);
int command_top(int argc, char **argv);
int command_drain(int argc, char **argv);
int command_forward(int argc, char **argv);
int command_backward(int argc, char **argv);
int command_demo(int argc, char **argv);
int command_bench(int argc, char **argv);

/* Parses with `rows`; --help and errors are handled: false means return *code. */
bool command_options(const char *usage, const struct option_row *rows, int argc, char **argv,
                     int *code);

#endif
