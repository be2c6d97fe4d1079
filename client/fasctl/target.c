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

/* What a user of the command line can do about it. */
static const char *advice(const struct fas_error *error)
{
    static const struct {
        enum fas_status status;
        const char *field, *text;
    } rows[] = {
        {FAS_UNAVAILABLE, "url", "is faserved running? --url or $FASERVE_URL names another one"},
        {FAS_UNAUTHENTICATED, "url", "whom the daemon's ipc-mode and ipc-group let in may open it"},
        {FAS_UNAUTHENTICATED, "token",
         "--token-file or $FASERVE_TOKEN_FILE names a file with it, and nothing else in its line"},
        {FAS_INVALID_ARGUMENT, "tls_ca_file", "--tls-ca names it"},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        if (error->status == rows[i].status && strcmp(error->field, rows[i].field) == 0) {
            return rows[i].text;
        }
    }
    return NULL;
}

/* Errors of the URL name it themselves. */
static void complain_of_connecting(const struct fas_error *error)
{
    complain(strcmp(error->field, "url") == 0 ? "no connection" : target.url, error);
    if (advice(error)) {
        fprintf(stderr, "fasctl: %s\n", advice(error));
    }
}

const char *target_url(void)
{
    target.url = target.url ? target.url : default_url();
    return target.url;
}

struct fas_client *target_connect(uint32_t calls_max, uint32_t connections)
{
    if (!target.token_file) {
        target.token_file = getenv("FASERVE_TOKEN_FILE");
    }
    if (target.token_file && !read_token(target.token_file)) {
        return NULL;
    }
    struct fas_connect_options options = {.url = target_url(),
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
        complain_of_connecting(&error);
        return NULL;
    }
    return client;
}

static bool asks_for_help(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0) {
            return true;
        }
    }
    return false;
}

bool command_options(const char *usage, const struct option_row *rows, int argc, char **argv,
                     int *code)
{
    int rest;
    if (asks_for_help(argc, argv)) {
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
