/* config_read.c: options from the file, then from the flags. */
#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/config_table.h"

/* ---- the file ---- */

static char *trim(char *text)
{
    while (isspace((unsigned char)*text)) {
        text++;
    }
    char *end = text + strlen(text);
    while (end > text && isspace((unsigned char)end[-1])) {
        end--;
    }
    *end = '\0';
    return text;
}

/* One line of the file. A # starts a comment only at the line's start or after a blank. */
static bool read_line(struct config *config, char *line, char *error, size_t error_bytes)
{
    for (char *hash = strchr(line, '#'); hash; hash = strchr(hash + 1, '#')) {
        if (hash == line || isspace((unsigned char)hash[-1])) {
            *hash = '\0';
            break;
        }
    }
    char *name = trim(line);
    if (*name == '\0') {
        return true;
    }
    char *equals = strchr(name, '=');
    if (!equals) {
        snprintf(error, error_bytes, "\"%.64s\" is not name = value", name);
        return false;
    }
    *equals = '\0';
    return config_set(config, trim(name), trim(equals + 1), error, error_bytes);
}

/* `optional`: a file that is not there is no error. Errors are told as "path:line: ...". */
static bool read_file(struct config *config, const char *path, bool optional, char *error,
                      size_t error_bytes)
{
    FILE *file = fopen(path, "re");
    if (!file) {
        snprintf(error, error_bytes, "%s: %s", path, strerror(errno));
        return optional && errno == ENOENT;
    }
    char line[1024];
    char why[384];
    bool ok = true;
    for (int number = 1; ok && fgets(line, sizeof(line), file); number++) {
        if (!strchr(line, '\n') && !feof(file)) {
            snprintf(why, sizeof(why), "line longer than %zu characters", sizeof(line) - 2);
            ok = false;
        } else {
            ok = read_line(config, line, why, sizeof(why));
        }
        if (!ok) {
            snprintf(error, error_bytes, "%s:%d: %s", path, number, why);
        }
    }
    if (ok && ferror(file)) {
        snprintf(error, error_bytes, "%s: %s", path, strerror(errno));
        ok = false;
    }
    fclose(file);
    return ok;
}

/* ---- the command line ---- */

const struct action_row config_actions[] = {
    {"config", CONFIG_RUN, "FILE", "read options from FILE instead of " CONFIG_FILE},
    {"print-config", CONFIG_PRINT, NULL, "print the effective options as a file and exit"},
    {"check-config", CONFIG_CHECK, NULL,
     "check options and the files they name, exit 0 if all is well"},
    {"baseline", CONFIG_BASELINE, "SPEC", "time the kernels in this process, print JSON and exit"},
    {"help", CONFIG_HELP, NULL, "this text"},
    {"version", CONFIG_VERSION, NULL, "the version"},
};

const size_t config_action_count = COUNT(config_actions);

static const struct action_row *action_find(const char *flag)
{
    for (size_t i = 0; i < config_action_count; i++) {
        if (strcmp(config_actions[i].flag, flag) == 0) {
            return &config_actions[i];
        }
    }
    return NULL;
}

/* One flag of the command line, taken apart: --name, --name=value, --name value. */
struct flag {
    char name[64];
    const char *value; /* NULL: none given */
    int words;         /* of argv it took */
};

static bool flag_take(int argc, char **argv, int at, struct flag *flag, char *error,
                      size_t error_bytes)
{
    const char *text = argv[at];
    if (strncmp(text, "--", 2) != 0 || text[2] == '\0') {
        snprintf(error, error_bytes, "\"%.64s\" is not an option; see --help", text);
        return false;
    }
    const char *equals = strchr(text, '=');
    size_t length = equals ? (size_t)(equals - text) - 2 : strlen(text) - 2;
    snprintf(flag->name, sizeof(flag->name), "%.*s", (int)length, text + 2);
    flag->value = equals ? equals + 1 : NULL;
    flag->words = 1;
    const struct option_row *row = config_row(flag->name);
    const struct action_row *action = action_find(flag->name);
    bool needs_value = row ? row->kind != OPTION_BOOL : action && action->argument;
    if (!row && !action) {
        snprintf(error, error_bytes, "--%s: no such option; see --help", flag->name);
        return false;
    }
    if (needs_value && !flag->value) {
        if (at + 1 >= argc) {
            snprintf(error, error_bytes, "--%s: needs a value", flag->name);
            return false;
        }
        flag->value = argv[at + 1];
        flag->words = 2;
    }
    if (action && !action->argument && flag->value) {
        snprintf(error, error_bytes, "--%s: takes no value", flag->name);
        return false;
    }
    return true;
}

/* First walk: what to do, and from which file. Nothing is set yet. */
static bool read_actions(struct config_command *command, const char **path, int argc, char **argv)
{
    struct flag flag;
    for (int at = 1; at < argc; at += flag.words) {
        if (!flag_take(argc, argv, at, &flag, command->error, sizeof(command->error))) {
            return false;
        }
        const struct action_row *action = action_find(flag.name);
        if (!action) {
            continue;
        }
        if (action->action == CONFIG_RUN) {
            *path = flag.value;
        } else {
            command->action = action->action;
        }
        if (action->action == CONFIG_BASELINE) {
            command->baseline = flag.value;
        }
    }
    return true;
}

static bool read_flags(struct config *config, int argc, char **argv, char *error,
                       size_t error_bytes)
{
    struct flag flag;
    for (int at = 1; at < argc; at += flag.words) {
        bool ok = flag_take(argc, argv, at, &flag, error, error_bytes);
        assert(ok && "read_actions saw it");
        (void)ok;
        const char *value = flag.value ? flag.value : "true";
        char why[384];
        if (config_row(flag.name) && !config_set(config, flag.name, value, why, sizeof(why))) {
            snprintf(error, error_bytes, "--%s", why);
            return false;
        }
    }
    return true;
}

/* Zeros that stand for something else than a device's say. */
static void resolve(struct config *config)
{
    if (config->requests_per_principal == 0) {
        config->requests_per_principal = (config->slots + 3) / 4;
    }
}

struct config_command config_open(struct config *config, int argc, char **argv)
{
    struct config_command command = {.action = CONFIG_RUN};
    const char *path = NULL;
    config_default(config);
    if (!read_actions(&command, &path, argc, argv)) {
        command.action = CONFIG_REFUSED;
        return command;
    }
    if (command.action == CONFIG_HELP || command.action == CONFIG_VERSION) {
        return command;
    }
    if (!read_file(config, path ? path : CONFIG_FILE, !path, command.error,
                   sizeof(command.error)) ||
        !read_flags(config, argc, argv, command.error, sizeof(command.error)) ||
        !config_check(config, command.error, sizeof(command.error))) {
        command.action = CONFIG_REFUSED;
    } else if (command.action != CONFIG_PRINT) {
        resolve(config);
    }
    return command;
}
