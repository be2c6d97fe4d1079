/*
 * options.c: see options.h. getopt_long finds the options, the rows say what they mean.
 */
#include "client/fasctl/options.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

/* More than any subcommand has. */
#define ROWS_MAX 64

static bool within(const struct option_row *row, double value)
{
    if ((row->min == 0 && row->max == 0) || (value >= row->min && value <= row->max)) {
        return true;
    }
    fprintf(stderr, "fasctl: --%s: not within %.10g .. %.10g\n", row->name, row->min, row->max);
    return false;
}

static bool set_int(const struct option_row *row, const char *text)
{
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (errno != 0 || end == text || *end != 0) {
        fprintf(stderr, "fasctl: --%s: \"%s\" is not a whole number\n", row->name, text);
        return false;
    }
    *(int64_t *)row->value = value;
    return within(row, (double)value);
}

static bool set_real(const struct option_row *row, const char *text)
{
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end != 0 || !isfinite(value)) {
        fprintf(stderr, "fasctl: --%s: \"%s\" is not a number\n", row->name, text);
        return false;
    }
    *(double *)row->value = value;
    return within(row, value);
}

static bool set(const struct option_row *row, const char *text)
{
    switch (row->kind) {
    case OPTION_FLAG:
        *(bool *)row->value = true;
        return true;
    case OPTION_TEXT:
        *(const char **)row->value = text;
        return true;
    case OPTION_INT:
        return set_int(row, text);
    case OPTION_REAL:
        return set_real(row, text);
    }
    return false;
}

static bool parse(const struct option_row *rows, const struct option *options, int argc,
                  char **argv)
{
    int index = 0, found;
    optind = 1;
    opterr = 1;
    while ((found = getopt_long(argc, argv, "", options, &index)) != -1) {
        if (found == '?' || !set(&rows[index], optarg)) {
            return false;
        }
    }
    return true;
}

bool options_parse(const struct option_row *rows, int argc, char **argv, int *rest)
{
    struct option options[ROWS_MAX + 1] = {{0}};
    for (int i = 0; i < ROWS_MAX && rows[i].name; i++) {
        options[i].name = rows[i].name;
        options[i].has_arg = rows[i].kind == OPTION_FLAG ? no_argument : required_argument;
    }
    char *command = argv[0], program[32]; /* getopt complains in the name of argv[0] */
    snprintf(program, sizeof(program), "fasctl: %s", command);
    argv[0] = program;
    bool good = parse(rows, options, argc, argv);
    argv[0] = command;
    *rest = optind;
    return good;
}

void options_help(const struct option_row *rows)
{
    for (; rows->name; rows++) {
        char name[64];
        snprintf(name, sizeof(name), "--%s%s%s", rows->name, rows->argument ? "=" : "",
                 rows->argument ? rows->argument : "");
        printf("  %-24s %s\n", name, rows->help);
    }
}
