/*
 * unit.h: numbers as operators write them <-> numbers. What format writes, parse reads back as the
 * same number. Pure.
 */
#ifndef SERVER_UNIT_H
#define SERVER_UNIT_H

#include <stdbool.h>
#include <stddef.h>

enum unit {
    UNIT_COUNT, /* 64, 10k, 1M: whole */
    UNIT_REAL,  /* 2e15, 3T */
    UNIT_BYTES, /* 4096, 64KiB, 1.5GiB: whole bytes */
    UNIT_TIME,  /* 250us, 25ms, 5s, 10min: whole microseconds; only 0 goes without a unit */
    UNIT_MODE,  /* 0660: octal */
    UNIT_BOOL   /* true, false */
};

/* False if the text is anything else: no sign, blank, hex, inf or nan. */
bool unit_parse(enum unit unit, const char *text, double *number);

/* In the largest unit that divides it. 40 bytes always suffice. */
void unit_format(enum unit unit, double number, char *out, size_t bytes);

/* "a size such as 4096, 64KiB or 1GiB". Static. */
const char *unit_example(enum unit unit);

#endif
