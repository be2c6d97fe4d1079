/* status.c: one row per status. What is not in a row is not said anywhere else. */
#include "proto/status.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

struct status_row {
    const char *name, *phrase;
    bool retryable;
};

static const struct status_row status_rows[FAS_STATUS_COUNT] = {
    [FAS_OK] = {"OK", "done", false},
    [FAS_INVALID_ARGUMENT] = {"INVALID_ARGUMENT", "the request breaks a rule", false},
    [FAS_UNSUPPORTED] = {"UNSUPPORTED", "this server can not do it", false},
    [FAS_RESOURCE_EXHAUSTED] = {"RESOURCE_EXHAUSTED", "no room now, try again later", true},
    [FAS_DEADLINE_EXCEEDED] = {"DEADLINE_EXCEEDED", "the deadline passed first", true},
    [FAS_CANCELLED] = {"CANCELLED", "cancelled by the caller", true},
    [FAS_UNAVAILABLE] = {"UNAVAILABLE", "the server is draining or gone", true},
    [FAS_UNAUTHENTICATED] = {"UNAUTHENTICATED", "the peer may not do this", false},
    [FAS_NOT_FOUND] = {"NOT_FOUND", "a handle or region is gone, send the tensors again", false},
    [FAS_DEVICE_FAULT] = {"DEVICE_FAULT", "the device failed, safe to send again", true},
    [FAS_INTERNAL] = {"INTERNAL", "a bug in faserve", false},
};

static const struct status_row unknown_row = {"UNKNOWN", "a status of a newer version", false};

static const struct status_row *row_of(enum fas_status status)
{
    return (unsigned)status < FAS_STATUS_COUNT ? &status_rows[status] : &unknown_row;
}

const char *fas_status_name(enum fas_status status)
{
    return row_of(status)->name;
}

const char *fas_status_phrase(enum fas_status status)
{
    return row_of(status)->phrase;
}

bool fas_status_retryable(enum fas_status status)
{
    return row_of(status)->retryable;
}

#undef fas_fail
enum fas_status fas_fail(struct fas_error *error, enum fas_status status, const char *field,
                         const char *format, ...)
{
    if (error == NULL) {
        return status;
    }
    va_list arguments;
    va_start(arguments, format);
    error->status = status;
    error->retry_after_ms = 0;
    snprintf(error->field, sizeof error->field, "%s", field == NULL ? "" : field);
    vsnprintf(error->text, sizeof error->text, format, arguments);
    va_end(arguments);
    return status;
}
