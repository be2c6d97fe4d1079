/*
 * status.h: how a call ended. One list for the wire, the daemon and the client; numbers are part of
 * the protocol and never change meaning. The phrase and the advice to the caller stand in status.c,
 * one row each. Installed with the client library.
 */
#ifndef FAS_STATUS_H
#define FAS_STATUS_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum fas_status {
    FAS_OK = 0,
    FAS_INVALID_ARGUMENT = 1,   /* the request breaks a rule; sending it again can not help */
    FAS_UNSUPPORTED = 2,        /* well formed, but this server can not do it */
    FAS_RESOURCE_EXHAUSTED = 3, /* no room now; try again after retry_after_ms */
    FAS_DEADLINE_EXCEEDED = 4,  /* the request's own deadline passed */
    FAS_CANCELLED = 5,          /* the caller asked for it, or its connection went */
    FAS_UNAVAILABLE = 6,        /* draining, or the connection is lost: try another server */
    FAS_UNAUTHENTICATED = 7,    /* missing or wrong token, or a peer that may not do this */
    FAS_NOT_FOUND = 8,          /* a handle or region is gone: send the tensors again */
    FAS_DEVICE_FAULT = 9,       /* the device failed under the request: safe to resubmit */
    FAS_INTERNAL = 10,          /* a bug in faserve */
    FAS_STATUS_COUNT
};

/* Why. `field` is the name of the field at fault as the client header spells it, or empty. */
struct fas_error {
    enum fas_status status;
    uint32_t retry_after_ms; /* RESOURCE_EXHAUSTED: when trying again may help; else 0 */
    char field[48];
    char text[208];
};

/* "INVALID_ARGUMENT"; "UNKNOWN" for a number that is not in the list (a newer peer's). Static. */
const char *fas_status_name(enum fas_status status);

/* "the request breaks a rule": one phrase for people. Static. */
const char *fas_status_phrase(enum fas_status status);

/* Whether the same request may succeed when sent again, unchanged. */
bool fas_status_retryable(enum fas_status status);

/*
 * Fills *error (which may be NULL) and returns status, so that a check is one line:
 *     return fas_fail(error, FAS_INVALID_ARGUMENT, "hq", "%d is not a multiple of %d", hq, hkv);
 * Long texts are cut, never overrun.
 */
enum fas_status fas_fail(struct fas_error *error, enum fas_status status, const char *field,
                         const char *format, ...) __attribute__((format(printf, 4, 5)));

/* clang's analyzer reads one file at a time: it does not see that the status comes back. */
#ifdef __clang_analyzer__
#define fas_fail(error, status, ...) (fas_fail(error, status, __VA_ARGS__), (status))
#endif

#ifdef __cplusplus
}
#endif

#endif
