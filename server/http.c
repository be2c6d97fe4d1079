/*
 * http.c: our own listening socket (so that what is wrong with the address is told in our words), a
 * libmicrohttpd daemon on it in its external epoll mode, and the clock that no request outlives:
 * the library's own timeout counts from the last byte, so one byte a second would hold a connection
 * for ever.
 */
#include "server/http.h"

#include <errno.h>
#include <microhttpd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "server/clock.h"
#include "server/listener.h"

struct http_connection {
    int descriptor; /* -1: free */
    uint64_t since_us;
};

struct http {
    struct MHD_Daemon *daemon;
    http_find *find;
    void *context;
    struct http_connection connections[HTTP_CONNECTIONS_MAX];
};

/* ---- one request ---- */

static enum MHD_Result answer(struct MHD_Connection *connection, const struct http_page *page)
{
    struct MHD_Response *response = MHD_create_response_from_buffer(
        page->bytes, (void *)(uintptr_t)page->text, MHD_RESPMEM_MUST_COPY);
    if (!response) {
        return MHD_NO; /* no memory: the connection is closed */
    }
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, page->type);
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONNECTION, "close");
    MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
    if (page->status == MHD_HTTP_METHOD_NOT_ALLOWED) {
        MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, "GET, HEAD");
    }
    enum MHD_Result queued = MHD_queue_response(connection, page->status, response);
    MHD_destroy_response(response);
    return queued;
}

static enum MHD_Result on_request(void *context, struct MHD_Connection *connection,
                                  const char *path, const char *method, const char *version,
                                  const char *upload, size_t *upload_bytes, void **state)
{
    struct http *http = context;
    struct http_page page = {0};
    (void)version;
    (void)upload;
    (void)upload_bytes;
    (void)state;
    if (strcmp(method, MHD_HTTP_METHOD_GET) != 0 && strcmp(method, MHD_HTTP_METHOD_HEAD) != 0) {
        page = (struct http_page){MHD_HTTP_METHOD_NOT_ALLOWED, "text/plain", "GET or HEAD\n", 12};
    } else if (!http->find(http->context, path, &page)) {
        page = (struct http_page){MHD_HTTP_NOT_FOUND, "text/plain", "no such page\n", 13};
    }
    return answer(connection, &page);
}

/* Keeps book of who is there, and since when. */
static void on_connection(void *context, struct MHD_Connection *connection, void **state,
                          enum MHD_ConnectionNotificationCode code)
{
    struct http *http = context;
    if (code == MHD_CONNECTION_NOTIFY_CLOSED) {
        struct http_connection *entry = *state;
        if (entry) {
            entry->descriptor = -1;
        }
        return;
    }
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    for (uint32_t i = 0; info && i < HTTP_CONNECTIONS_MAX; i++) {
        if (http->connections[i].descriptor < 0) {
            http->connections[i] = (struct http_connection){info->connect_fd, clock_us()};
            *state = &http->connections[i];
            return;
        }
    }
}

/* ---- turns ---- */

enum fas_status http_open(struct http **http, const char *address, http_find *find, void *context,
                          struct fas_error *error)
{
    int listener = -1;
    enum fas_status status = listener_open_address(address, "metrics-address",
                                                   (int)HTTP_CONNECTIONS_MAX, &listener, error);
    if (status != FAS_OK) {
        return status;
    }
    struct http *opened = calloc(1, sizeof(*opened));
    if (opened) {
        opened->find = find;
        opened->context = context;
        for (uint32_t i = 0; i < HTTP_CONNECTIONS_MAX; i++) {
            opened->connections[i].descriptor = -1;
        }
        opened->daemon = MHD_start_daemon(
            MHD_USE_EPOLL, 0, NULL, NULL, on_request, opened, MHD_OPTION_LISTEN_SOCKET, listener,
            MHD_OPTION_CONNECTION_LIMIT, HTTP_CONNECTIONS_MAX, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
            (size_t)HTTP_HEADER_BYTES_MAX, MHD_OPTION_CONNECTION_TIMEOUT,
            (unsigned)(HTTP_CONNECTION_US / 1000000u), MHD_OPTION_NOTIFY_CONNECTION, on_connection,
            opened, MHD_OPTION_END);
    }
    if (!opened || !opened->daemon) {
        free(opened);
        close(listener);
        return fas_fail(error, FAS_RESOURCE_EXHAUSTED, "metrics-address", "no memory for it");
    }
    *http = opened;
    return FAS_OK;
}

void http_close(struct http *http)
{
    MHD_stop_daemon(http->daemon);
    free(http);
}

int http_descriptor(const struct http *http)
{
    return MHD_get_daemon_info(http->daemon, MHD_DAEMON_INFO_EPOLL_FD)->epoll_fd;
}

/* Shuts down who had its time; the library then sees the end and closes. When the next one has. */
static uint64_t end_old(struct http *http, uint64_t now_us)
{
    uint64_t next_us = HTTP_NEVER;
    for (uint32_t i = 0; i < HTTP_CONNECTIONS_MAX; i++) {
        const struct http_connection *connection = &http->connections[i];
        if (connection->descriptor < 0) {
            continue;
        }
        uint64_t end_us = connection->since_us + HTTP_CONNECTION_US;
        if (now_us >= end_us) {
            shutdown(connection->descriptor, SHUT_RDWR);
        } else if (end_us < next_us) {
            next_us = end_us;
        }
    }
    return next_us;
}

uint64_t http_turn(struct http *http, uint64_t now_us)
{
    MHD_UNSIGNED_LONG_LONG timeout_ms;
    uint64_t next_us = end_old(http, now_us);
    MHD_run(http->daemon);
    if (MHD_get_timeout(http->daemon, &timeout_ms) == MHD_YES) {
        uint64_t at_us = now_us + (uint64_t)timeout_ms * 1000u;
        next_us = at_us < next_us ? at_us : next_us;
    }
    return next_us;
}
