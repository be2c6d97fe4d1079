/*
 * config_table.h: the table of options, as the files around config.c share it: config_read.c sets
 * rows from the file and the flags, config_print.c writes them.
 */
#ifndef SERVER_CONFIG_TABLE_H
#define SERVER_CONFIG_TABLE_H

#include "server/config.h"
#include "server/option.h"

#define CONFIG_FILE "/etc/faserve/faserved.conf"
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

extern const struct option_row config_rows[];
extern const size_t config_row_count;

const struct option_row *config_row(const char *name);

/* The title of the section that begins with this row; NULL: none does. */
const char *config_section(const struct option_row *row);

/* Flags that do something else than set an option. */
struct action_row {
    const char *flag;
    enum config_action action;
    const char *argument; /* name of its argument, or NULL */
    const char *help;
};

extern const struct action_row config_actions[];
extern const size_t config_action_count;

#endif
