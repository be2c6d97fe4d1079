/*
 * target.c: which daemon, and how to reach it: options, then the environment, then the daemon's own
 * default for this user.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client/fasctl/fasctl.h"

struct target target;

void complain(const char *what, const struct fas_error *error)
{
    fprintf(stderr, "fasctl: %s: %s%s%s: %s\n", what, fas_status_name(error->status),
            error->field[0] ? " " : "", error->field, error->text);
    if (error->retry_after_ms > 0) {
        fprintf(stderr, "fasctl: try again in %u ms\n", error->retry_after_ms);
    }
}

static const char *default_url(void)
{
    const char *given = getenv("FASERVE_URL"), *runtime = getenv("XDG_RUNTIME_DIR");
    if (given) {
        return given;
    }
    bool own = geteuid() != 0 && runtime && access("/run/faserved/faserved.sock", R_OK) != 0;
    snprintf(target.url_room, sizeof(target.url_room), "ipc://%s/faserved.sock",
             own ? runtime : "/run/faserved");
    return target.url_room;
}

/* The file's first line. */
static bool read_token(const char *path)
{
    FILE *file = fopen(path, "re");
    if (!file || !fgets(target.token, sizeof(target.token), file)) {
        fprintf(stderr, "fasctl: --token-file: %s can not be read or is empty\n", path);
        if (file) {
            fclose(file);
        }
        return false;
    }
    fclose(file);
    target.token[strcspn(target.token, "\r\n")] = 0;
    return true;
}

struct fas_client *target_connect(uint32_t calls_max, uint32_t connections)
{
    if (!target.url) {
        target.url = default_url();
    }
    if (!target.token_file) {
        target.token_file = getenv("FASERVE_TOKEN_FILE");
    }
    if (target.token_file && !read_token(target.token_file)) {
        return NULL;
    }
    struct fas_connect_options options = {.url = target.url,
                                          .token = target.token_file ? target.token : NULL,
                                          .name = "fasctl",
                                          .tls_ca_file = target.ca_file,
                                          .connect_timeout_ms = (uint32_t)target.timeout_ms,
                                          .calls_max = calls_max,
                                          .connections = connections,
                                          .cuda_device = target.cuda_device};
    struct fas_client *client;
    struct fas_error error;
    if (fas_connect(&options, &client, &error) != FAS_OK) {
        complain(target.url, &error);
        return NULL;
    }
    return client;
}

bool command_options(const char *usage, const struct option_row *rows, int argc, char **argv,
                     int *code)
{
    int rest;
    if (argc > 1 && strcmp(argv[1], "--help") == 0) {
        printf("usage: fasctl %s\n", usage);
        options_help(rows);
        *code = EXIT_OK;
        return false;
    }
    *code = EXIT_USAGE;
    if (!options_parse(rows, argc, argv, &rest)) {
        return false;
    }
    if (rest < argc) {
        fprintf(stderr, "fasctl: %s takes no \"%s\"\n", argv[0], argv[rest]);
        return false;
    }
    return true;
}
