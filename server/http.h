/*
 * http.h: pages for monitoring over HTTP: GET and HEAD of small texts that are in memory. The only
 * file with libmicrohttpd, which brings no thread here: the loop watches http_descriptor and lets
 * it take turns.
 *
 * A client can cost little, however slow or hostile: HTTP_CONNECTIONS_MAX connections at once, one
 * request each, HTTP_CONNECTION_US from accept to close, HTTP_HEADER_BYTES_MAX of request, no body;
 * no call waits. A turn answers each connection at most once, and the loop spaces turns.
 * Owner: the loop thread.
 */
#ifndef SERVER_HTTP_H
#define SERVER_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/status.h"

#define HTTP_CONNECTIONS_MAX 16u
#define HTTP_CONNECTION_US UINT64_C(5000000)
#define HTTP_HEADER_BYTES_MAX (16u << 10)
#define HTTP_NEVER UINT64_MAX

struct http;

/* One answer. The text is copied. */
struct http_page {
    unsigned status;  /* 200 */
    const char *type; /* of the text: "text/plain" */
    const char *text;
    size_t bytes;
};

/* The page of that path; false: there is none. Called in http_turn. */
typedef bool http_find(void *context, const char *path, struct http_page *page);

/* Listens at "host:port", "[::1]:port", or "port" of 127.0.0.1. */
enum fas_status http_open(struct http **http, const char *address, http_find *find, void *context,
                          struct fas_error *error);
void http_close(struct http *http);

/* Readable: a turn is due. */
int http_descriptor(const struct http *http);

/* Accepts, reads, answers, closes what is ready. Returns when to take the next turn even if the
 * descriptor stays silent: clock_us. */
uint64_t http_turn(struct http *http, uint64_t now_us);

#endif
