/* option.c: kinds as rows: how each is written, and what its field is. */
#include "server/option.h"

#include <assert.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "server/unit.h"

static const struct kind_row {
    enum unit unit;
    enum { FIELD_BOOL, FIELD_U32, FIELD_U64, FIELD_DOUBLE, FIELD_TEXT } field;
} kinds[] = {
    [OPTION_BOOL] = {UNIT_BOOL, FIELD_BOOL},    [OPTION_U32] = {UNIT_COUNT, FIELD_U32},
    [OPTION_U64] = {UNIT_COUNT, FIELD_U64},     [OPTION_FLOPS] = {UNIT_REAL, FIELD_DOUBLE},
    [OPTION_BYTES] = {UNIT_BYTES, FIELD_U64},   [OPTION_BYTES32] = {UNIT_BYTES, FIELD_U32},
    [OPTION_DURATION] = {UNIT_TIME, FIELD_U64}, [OPTION_MODE] = {UNIT_MODE, FIELD_U32},
    [OPTION_STRING] = {UNIT_COUNT, FIELD_TEXT},
};

/* Reads a number's field as a double: exact, as rows stay below 2^53 or are doubles. */
static double load(const struct option_row *row, const void *values)
{
    const void *field = (const char *)values + row->offset;
    switch (kinds[row->kind].field) {
    case FIELD_BOOL:
        return *(const bool *)field;
    case FIELD_U32:
        return *(const uint32_t *)field;
    case FIELD_U64:
        return (double)*(const uint64_t *)field;
    case FIELD_DOUBLE:
        return *(const double *)field;
    case FIELD_TEXT:
        break;
    }
    assert(!"a text is no number");
    return 0;
}

static void store(const struct option_row *row, void *values, double number)
{
    void *field = (char *)values + row->offset;
    switch (kinds[row->kind].field) {
    case FIELD_BOOL:
        *(bool *)field = number != 0;
        break;
    case FIELD_U32:
        *(uint32_t *)field = (uint32_t)number;
        break;
    case FIELD_U64:
        *(uint64_t *)field = (uint64_t)number;
        break;
    case FIELD_DOUBLE:
        *(double *)field = number;
        break;
    case FIELD_TEXT:
        assert(!"a text is no number");
        break;
    }
}

void option_format(const struct option_row *row, const void *values, char *out, size_t bytes)
{
    if (row->kind == OPTION_STRING) {
        snprintf(out, bytes, "%s", (const char *)values + row->offset);
    } else {
        unit_format(kinds[row->kind].unit, load(row, values), out, bytes);
    }
}

static bool set_string(const struct option_row *row, void *values, const char *value, char *error,
                       size_t error_bytes)
{
    size_t length = strlen(value);
    if (length >= row->room) {
        snprintf(error, error_bytes, "%s: %zu characters, at most %zu", row->name, length,
                 row->room - 1);
        return false;
    }
    memcpy((char *)values + row->offset, value, length + 1);
    return true;
}

bool option_set(const struct option_row *row, void *values, const char *value, char *error,
                size_t error_bytes)
{
    if (row->kind == OPTION_STRING) {
        return set_string(row, values, value, error, error_bytes);
    }
    enum unit unit = kinds[row->kind].unit;
    double number;
    if (!unit_parse(unit, value, &number)) {
        snprintf(error, error_bytes, "%s: \"%.64s\" is not %s", row->name, value,
                 unit_example(unit));
        return false;
    }
    if (number < row->min || number > row->max) {
        char min[40];
        char max[40];
        unit_format(unit, row->min, min, sizeof(min));
        unit_format(unit, row->max, max, sizeof(max));
        snprintf(error, error_bytes, "%s: %.64s is not between %s and %s", row->name, value, min,
                 max);
        return false;
    }
    store(row, values, number);
    return true;
}
