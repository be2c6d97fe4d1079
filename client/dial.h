/*
 * dial.h: a URL becomes a connected nng stream. Knows the transports and their options, TLS among
 * them; used by connection.c only.
 */
#ifndef CLIENT_DIAL_H
#define CLIENT_DIAL_H

#include <nng/nng.h>

#include "client/faserve.h"

enum fas_status dial(const struct fas_connect_options *options, nng_stream **stream,
                     struct fas_error *error);

#endif
