/*
 * options.h: the options of a subcommand as rows of a table: parsing, checking and help follow from
 * the rows. Values are written where the row points; what stands there before is the default.
 */
#ifndef FASCTL_OPTIONS_H
#define FASCTL_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>

enum option_kind {
    OPTION_FLAG, /* bool: --name */
    OPTION_TEXT, /* const char *: --name=ARGUMENT */
    OPTION_INT,  /* int64_t, within min..max */
    OPTION_REAL  /* double, finite, within min..max */
};

struct option_row {
    const char *name;
    enum option_kind kind;
    void *value;
    const char *argument; /* its name in the help; NULL for flags */
    const char *help;
    double min, max; /* numbers; both 0: any */
};

/*
 * Parses argv[1..]; rows end with a NULL name. *rest is the index of the first operand. False when
 * something is wrong, which stderr then says, naming the option.
 */
bool options_parse(const struct option_row *rows, int argc, char **argv, int *rest);

/* The rows as a block of --help. */
void options_help(const struct option_row *rows);

#endif
