/*
 * option.h: one option as a row: its name, how its value is written, where the value lives, within
 * what bounds, and what an operator should know. Text in, field out, and back. Pure.
 */
#ifndef SERVER_OPTION_H
#define SERVER_OPTION_H

#include <stdbool.h>
#include <stddef.h>

enum option_kind {
    OPTION_BOOL,
    OPTION_U32,
    OPTION_U64,
    OPTION_FLOPS,    /* double */
    OPTION_BYTES,    /* uint64_t */
    OPTION_BYTES32,  /* uint32_t */
    OPTION_DURATION, /* uint64_t, microseconds */
    OPTION_MODE,     /* uint32_t */
    OPTION_STRING    /* char[room] */
};

struct option_row {
    const char *name;
    enum option_kind kind;
    size_t offset;      /* of the field, in the struct that holds all options' values */
    size_t room;        /* of a string */
    const char *preset; /* as an operator would write it */
    double min, max;    /* of numbers, in the field's own unit */
    const char *help;
};

/* Sets the row's field in `values`; false, with the error naming the option, if the text is of the
 * wrong kind, out of range or too long. */
bool option_set(const struct option_row *row, void *values, const char *text, char *error,
                size_t error_bytes);

/* The row's field as text that option_set reads back the same. */
void option_format(const struct option_row *row, const void *values, char *out, size_t bytes);

#endif
