/*
 * monitor.h: what monitoring asks of the daemon, as pages for http.h:
 *
 *   /metrics   metrics.h's page; not older than MONITOR_PAGE_US
 *   /healthz   200 while the loop turns: the process is alive
 *   /readyz    200 while requests are accepted and a device works, else 503; the text says which
 *              devices failed
 *
 * Owner: the loop thread.
 */
#ifndef SERVER_MONITOR_H
#define SERVER_MONITOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct http_page;
struct server;

/* A page takes some 0.1 ms to write: who asks all the time gets the last one again. */
#define MONITOR_PAGE_US 100000u

struct monitor {
    struct server *server;
    char *text; /* METRICS_BYTES_MAX */
    size_t bytes;
    uint64_t written_us; /* 0: never */
};

bool monitor_open(struct monitor *monitor, struct server *server);

/* An http_find; context is the monitor. */
bool monitor_find(void *context, const char *path, struct http_page *page);

#endif
