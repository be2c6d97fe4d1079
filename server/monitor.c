/* monitor.c: one row per page. */
#include "server/monitor.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/clock.h"
#include "server/http.h"
#include "server/metrics.h"
#include "server/server.h"

#define PLAIN "text/plain; charset=utf-8"

bool monitor_open(struct monitor *monitor, struct server *server)
{
    *monitor = (struct monitor){.server = server, .text = calloc(1, METRICS_BYTES_MAX)};
    return monitor->text != NULL;
}

static void find_metrics(struct monitor *monitor, struct http_page *page)
{
    uint64_t now_us = clock_us();
    struct server *server = monitor->server;
    if (monitor->written_us == 0 || now_us - monitor->written_us >= MONITOR_PAGE_US) {
        server_measure(server, now_us);
        monitor->bytes = metrics_write(&server->stats, &server->principals, FAS_SERVER_VERSION,
                                       monitor->text, METRICS_BYTES_MAX);
        monitor->written_us = now_us;
    }
    *page = (struct http_page){200, "text/plain; version=0.0.4; charset=utf-8", monitor->text,
                               monitor->bytes};
}

static void find_health(struct monitor *monitor, struct http_page *page)
{
    (void)monitor;
    *page = (struct http_page){200, PLAIN, "ok\n", 3};
}

static void find_readiness(struct monitor *monitor, struct http_page *page)
{
    static char text[32 + FAS_DEVICES_MAX * 64]; /* the answer copies it */
    const struct server *server = monitor->server;
    const char *state = server->draining || server_lost(server) ? "draining"
                        : server_stalled(server)                ? "stalled"
                                                                : "ready";
    bool ready = strcmp(state, "ready") == 0;
    int bytes = snprintf(text, sizeof(text), "%s\n", state);
    for (uint32_t i = 0; i < server->executor_count; i++) {
        const struct executor *executor = &server->executors[i];
        bytes += snprintf(text + bytes, sizeof(text) - (size_t)bytes, "%.48s %s\n",
                          executor->device.name,
                          executor->lost      ? "failed"
                          : executor->stalled ? "stalled"
                                              : "ok");
    }
    *page = (struct http_page){ready ? 200 : 503, PLAIN, text, (size_t)bytes};
}

static const struct page_row {
    const char *path;
    void (*find)(struct monitor *monitor, struct http_page *page);
} pages[] = {
    {"/metrics", find_metrics},
    {"/healthz", find_health},
    {"/readyz", find_readiness},
};

bool monitor_find(void *context, const char *path, struct http_page *page)
{
    for (size_t i = 0; i < sizeof(pages) / sizeof(pages[0]); i++) {
        if (strcmp(pages[i].path, path) == 0) {
            pages[i].find(context, page);
            return true;
        }
    }
    return false;
}
