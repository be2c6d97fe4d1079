/*
 * faserved: attention as a service of this machine.
 *
 * main reads the options and starts the loop; the story goes on in loop.c (the thread), server.h
 * (the parts and the way through them) and connection.c (what peers say).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "server/baseline.h"
#include "server/config.h"
#include "server/exit.h"
#include "server/log.h"
#include "server/loop.h"
#include "server/server.h"
#include "server/tls.h"
#include "server/token.h"

/* The one daemon of this process. */
static struct server server;

static int refuse(const char *error)
{
    fprintf(stderr, "faserved: %s\n", error);
    return EXIT_USAGE;
}

static int run(void)
{
    log_open((enum log_level)log_level_parse(server.config.log_level), STDERR_FILENO);
    log_info("starting", log_str("version", FAS_SERVER_VERSION), log_i64("pid", getpid()));
    return loop_run(&server);
}

/* The files that options name are read, nothing is opened to anybody. */
static int check(const struct config *config)
{
    struct fas_error error;
    struct tls_files files;
    struct tokens tokens;
    enum fas_status status = FAS_OK;
    if (config->listen_tls[0] != '\0' && (status = tls_read(&files, config, &error)) == FAS_OK) {
        tls_forget(&files);
    }
    if (status == FAS_OK && config->token_file[0] != '\0') {
        status = tokens_open(&tokens, config->token_file, &error);
    }
    if (status != FAS_OK) {
        fprintf(stderr, "faserved: %s: %s\n", error.field, error.text);
        return EXIT_USAGE;
    }
    return EXIT_SUCCESS;
}

static int act(const struct config_command *command)
{
    switch (command->action) {
    case CONFIG_RUN:
        return run();
    case CONFIG_PRINT:
        config_print(&server.config, stdout);
        return EXIT_SUCCESS;
    case CONFIG_CHECK:
        return check(&server.config);
    case CONFIG_HELP:
        config_help(stdout);
        return EXIT_SUCCESS;
    case CONFIG_VERSION:
        printf("faserved %s\n", FAS_SERVER_VERSION);
        return EXIT_SUCCESS;
    case CONFIG_BASELINE:
        return baseline_run(&server.config, command->baseline);
    default:
        return refuse(command->error);
    }
}

int main(int argc, char **argv)
{
    struct config_command command = config_open(&server.config, argc, argv);
    int status = act(&command);
    fflush(stdout);
    /* nng 1.5.2 can hang when it is taken down; the kernel takes everything down at once. */
    _exit(status);
}
