/*
 * unit.c: one row per suffix, largest first, so that printing finds the largest that divides.
 */
#include "server/unit.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct suffix {
    const char *text;
    double factor;
};

static const struct suffix counts[] = {{"P", 1e15}, {"T", 1e12}, {"G", 1e9},
                                       {"M", 1e6},  {"k", 1e3},  {"", 1}};
static const struct suffix bytes_of[] = {{"TiB", 0x1p40}, {"GiB", 0x1p30}, {"MiB", 0x1p20},
                                         {"KiB", 0x1p10}, {"", 1},         {"B", 1}};
static const struct suffix times[] = {
    {"h", 3600e6}, {"min", 60e6}, {"s", 1e6}, {"ms", 1e3}, {"us", 1}};

static const struct unit_row {
    const struct suffix *suffixes;
    size_t count;
    const char *example;
} rows[] = {
    [UNIT_COUNT] = {counts, 6, "a count such as 64, 10k or 1M"},
    [UNIT_REAL] = {counts, 6, "a number such as 2e15"},
    [UNIT_BYTES] = {bytes_of, 6, "a size such as 4096, 64KiB or 1GiB"},
    [UNIT_TIME] = {times, 5, "a time with its unit, such as 250us, 25ms, 5s or 10min"},
    [UNIT_MODE] = {NULL, 0, "an octal mode such as 0660"},
    [UNIT_BOOL] = {NULL, 0, "true or false"},
};

static bool parse_mode(const char *text, double *number)
{
    char *end;
    *number = (double)strtoul(text, &end, 8);
    return *text == '0' && *end == '\0';
}

static bool parse_bool(const char *text, double *number)
{
    *number = strcmp(text, "true") == 0;
    return *number == 1 || strcmp(text, "false") == 0;
}

static bool parse_suffixed(enum unit unit, const char *text, double *number)
{
    char *end;
    if (!isdigit((unsigned char)*text) || strncasecmp(text, "0x", 2) == 0) {
        return false;
    }
    errno = 0;
    double value = strtod(text, &end);
    if (errno != 0) {
        return false;
    }
    if (value == 0 && *end == '\0') {
        *number = 0;
        return true;
    }
    for (size_t i = 0; i < rows[unit].count; i++) {
        if (strcmp(rows[unit].suffixes[i].text, end) == 0) {
            *number = value * rows[unit].suffixes[i].factor;
            return isfinite(*number) && (unit == UNIT_REAL || *number == floor(*number));
        }
    }
    return false;
}

bool unit_parse(enum unit unit, const char *text, double *number)
{
    switch (unit) {
    case UNIT_MODE:
        return parse_mode(text, number);
    case UNIT_BOOL:
        return parse_bool(text, number);
    case UNIT_COUNT:
    case UNIT_REAL:
    case UNIT_BYTES:
    case UNIT_TIME:
        break;
    }
    return parse_suffixed(unit, text, number);
}

/* The shortest of two forms that reads back the same. */
static void format_real(double number, char *out, size_t bytes)
{
    snprintf(out, bytes, "%.15g", number);
    if (strtod(out, NULL) != number) {
        snprintf(out, bytes, "%.17g", number);
    }
}

static void format_suffixed(enum unit unit, double number, char *out, size_t bytes)
{
    const struct suffix *suffix = rows[unit].suffixes;
    while (suffix->factor > 1 && fmod(number, suffix->factor) != 0) {
        suffix++;
    }
    snprintf(out, bytes, "%.0f%s", number / suffix->factor, suffix->text);
}

void unit_format(enum unit unit, double number, char *out, size_t bytes)
{
    if (unit == UNIT_MODE) {
        snprintf(out, bytes, "0%o", (unsigned)number);
    } else if (unit == UNIT_BOOL) {
        snprintf(out, bytes, "%s", number != 0 ? "true" : "false");
    } else if (unit == UNIT_REAL || number == 0) {
        format_real(number, out, bytes);
    } else {
        format_suffixed(unit, number, out, bytes);
    }
}

const char *unit_example(enum unit unit)
{
    return rows[unit].example;
}
