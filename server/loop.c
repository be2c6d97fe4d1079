/*
 * loop.c: one turn per wake. Whatever happens between two turns is told by flags and queues of the
 * modules, never by the wake itself, so wakes may coalesce.
 *
 * After news the loop stays awake for spin-time (an idle handle keeps libuv from sleeping): a
 * thread that is woken runs some 10 us later, and a short request wakes this one twice.
 */
#include "server/loop.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>
#include <uv.h>

#include "server/clock.h"
#include "server/exit.h"
#include "server/http.h"
#include "server/log.h"
#include "server/monitor.h"
#include "server/server.h"
#include "server/topology.h"

/* After the drain's own limit: time for the last errors to go out. */
#define EXIT_LIMIT_MS 2000u

/* Between turns of HTTP: 100 a second are plenty for scrapes, and all that the busiest of clients
 * can make of them. A turn takes some 0.1 ms. */
#define HTTP_REST_MS 10u

/* Longer than a short launch takes, and than a client from a result to its next request. */
#define SPIN_US 50u
/* Besides the loop the device's thread stays awake, and the client has to run. */
#define SPIN_PROCESSORS_MIN 4

struct loop {
    struct server *server;
    uv_loop_t uv;
    uv_async_t wake;
    uv_idle_t look; /* active while awake, and for a turn that is due at once */
    atomic_bool awake, told;
    uint64_t spin_us, news_us; /* how long to stay awake; since when */
    uv_poll_t peers;
    uv_timer_t timer, watchdog, drain_limit;
    uv_signal_t sigterm, sigint;
    struct monitor monitor;
    struct http *http; /* NULL: off */
    uint64_t http_next_us;
    uv_poll_t http_poll;
    uv_timer_t http_timer;
    bool stopping;
    int signals;
};

static void turn(struct loop *loop);
static void begin_drain(struct loop *loop);

static void on_timer(uv_timer_t *timer)
{
    turn(timer->data);
}

static void on_look(uv_idle_t *look);

/* Something has happened: a turn, and more may follow soon. */
static void on_news(struct loop *loop)
{
    if (loop->spin_us > 0) {
        atomic_store(&loop->awake, true);
        uv_idle_start(&loop->look, on_look);
    }
    turn(loop);
    loop->news_us = clock_us();
}

static void on_wake(uv_async_t *wake)
{
    on_news(wake->data);
}

static void on_peers(uv_poll_t *peers, int status, int events)
{
    (void)status, (void)events;
    on_news(peers->data);
}

/* While awake, before each look at descriptors. Who told before `awake` was cleared is seen here,
 * who tells afterwards wakes. */
static void on_look(uv_idle_t *look)
{
    struct loop *loop = look->data;
    bool late = clock_us() - loop->news_us > loop->spin_us;
    if (late) {
        atomic_store(&loop->awake, false);
        uv_idle_stop(look);
    }
    if (atomic_load(&loop->told)) {
        on_news(loop);
    }
}

/* From any thread. */
static void wake(void *context)
{
    struct loop *loop = context;
    atomic_store(&loop->told, true);
    if (!atomic_load(&loop->awake)) {
        uv_async_send(&loop->wake);
    }
}

/* One turn, then sleep until woken, at the latest until the server asked for. */
static void turn(struct loop *loop)
{
    uint64_t now_us = clock_us();
    atomic_store(&loop->told, false);
    uint64_t next_us = server_turn(loop->server, now_us);
    if (loop->server->draining && !loop->stopping) {
        begin_drain(loop);
    }
    if (loop->server->hung) { /* its memory is with the device: only the process's end frees it */
        _exit(EXIT_DEVICE);
    }
    if (server_drained(loop->server)) {
        uv_stop(&loop->uv);
        return;
    }
    if (next_us <= now_us) { /* not by the timer: libuv goes on with those that are due, and would
                              * look at neither signals nor the watchdog as long as there are any */
        atomic_store(&loop->told, true);
        uv_idle_start(&loop->look, on_look);
        return;
    }
    uv_timer_start(&loop->timer, on_timer, (next_us - now_us + 999) / 1000, 0);
}

static void on_watchdog(uv_timer_t *timer)
{
    (void)timer;
    sd_notify(0, "WATCHDOG=1");
}

static void on_exit_limit(uv_timer_t *timer)
{
    (void)timer;
    log_error("exit_timeout", log_str("consequence", "exiting with answers unsent"));
    _exit(EXIT_UNAVAILABLE);
}

/* What is still in flight is answered UNAVAILABLE; a peer that does not even read that is left. */
static void on_drain_limit(uv_timer_t *timer)
{
    struct loop *loop = timer->data;
    log_warn("drain_timeout", log_str("consequence", "ending what is in flight"));
    server_abandon(loop->server);
    uv_timer_start(timer, on_exit_limit, EXIT_LIMIT_MS, 0);
    turn(loop);
}

/* A signal or a client asked for it. */
static void begin_drain(struct loop *loop)
{
    loop->stopping = true;
    sd_notify(0, "STOPPING=1");
    transport_stop_accepting(loop->server->transport);
    server_drain(loop->server);
    uv_timer_start(&loop->drain_limit, on_drain_limit, loop->server->config.drain_timeout_us / 1000,
                   0);
}

static void on_signal(uv_signal_t *handle, int number)
{
    struct loop *loop = handle->data;
    log_info("signal", log_i64("number", number));
    if (++loop->signals > 1) {
        _exit(EXIT_UNAVAILABLE);
    }
    server_drain(loop->server);
    turn(loop);
}

/* ---- HTTP: a turn, a rest, then a turn when the descriptor or the time says so ---- */

static void http_step(struct loop *loop);

static void on_http_due(uv_timer_t *timer)
{
    http_step(timer->data);
}

static void on_http_ready(uv_poll_t *poll, int status, int events)
{
    (void)status;
    (void)events;
    http_step(poll->data);
}

static void on_http_rested(uv_timer_t *timer)
{
    struct loop *loop = timer->data;
    uv_poll_start(&loop->http_poll, UV_READABLE, on_http_ready);
    if (loop->http_next_us != HTTP_NEVER) {
        uint64_t now_us = clock_us();
        uint64_t delay_us = loop->http_next_us > now_us ? loop->http_next_us - now_us : 0;
        uv_timer_start(timer, on_http_due, delay_us / 1000, 0);
    }
}

static void http_step(struct loop *loop)
{
    uv_poll_stop(&loop->http_poll);
    loop->http_next_us = http_turn(loop->http, clock_us());
    uv_timer_start(&loop->http_timer, on_http_rested, HTTP_REST_MS, 0);
}

static enum fas_status open_http(struct loop *loop, struct fas_error *error)
{
    const char *address = loop->server->config.metrics_address;
    if (*address == '\0') {
        return FAS_OK;
    }
    if (!monitor_open(&loop->monitor, loop->server)) {
        return fas_fail(error, FAS_RESOURCE_EXHAUSTED, "metrics-address", "no memory for it");
    }
    enum fas_status status = http_open(&loop->http, address, monitor_find, &loop->monitor, error);
    if (status == FAS_OK) {
        uv_poll_init(&loop->uv, &loop->http_poll, http_descriptor(loop->http));
        uv_timer_init(&loop->uv, &loop->http_timer);
        loop->http_poll.data = loop->http_timer.data = loop;
        http_step(loop);
        log_info("listening", log_str("option", "metrics-address"), log_str("at", address));
    }
    return status;
}

/* ---- the loop ---- */

static void open_handles(struct loop *loop)
{
    uv_loop_init(&loop->uv);
    uv_async_init(&loop->uv, &loop->wake, on_wake);
    uv_idle_init(&loop->uv, &loop->look);
    uv_timer_init(&loop->uv, &loop->timer);
    uv_timer_init(&loop->uv, &loop->watchdog);
    uv_timer_init(&loop->uv, &loop->drain_limit);
    uv_signal_init(&loop->uv, &loop->sigterm);
    uv_signal_init(&loop->uv, &loop->sigint);
    loop->wake.data = loop->look.data = loop->timer.data = loop->drain_limit.data =
        loop->sigterm.data = loop->sigint.data = loop;
    uv_signal_start(&loop->sigterm, on_signal, SIGTERM);
    uv_signal_start(&loop->sigint, on_signal, SIGINT);
}

/* Unix sockets are read by the loop itself. */
static void watch_peers(struct loop *loop)
{
    int fd = transport_fd(loop->server->transport);
    if (fd >= 0) {
        uv_poll_init(&loop->uv, &loop->peers, fd);
        loop->peers.data = loop;
        uv_poll_start(&loop->peers, UV_READABLE, on_peers);
    }
}

/* Half of the interval systemd asks for. */
static void start_watchdog(struct loop *loop)
{
    uint64_t interval_us;
    if (sd_watchdog_enabled(0, &interval_us) > 0) {
        uv_timer_start(&loop->watchdog, on_watchdog, 0, interval_us / 2000);
    }
}

/* A CPU device has every processor for its kernels. */
static uint64_t spin_us(const struct server *server)
{
    bool gpu = false;
    for (uint32_t i = 0; i < server->executor_count; i++) {
        gpu |= !server->executors[i].device.host_reaches_arena;
    }
    uint64_t usual_us = gpu && topology_processors() >= SPIN_PROCESSORS_MIN ? SPIN_US : 0;
    return server->config.spin_us ? server->config.spin_us : usual_us;
}

int loop_run(struct server *server)
{
    static struct loop loop;
    struct fas_error error = {0};
    signal(SIGPIPE, SIG_IGN);
    loop.server = server;
    open_handles(&loop);
    server->started_us = clock_us();
    if (server_open(server, wake, &loop, &error) != FAS_OK || open_http(&loop, &error) != FAS_OK) {
        log_error("not_started", log_str("option", error.field), log_str("text", error.text));
        return EXIT_USAGE;
    }
    watch_peers(&loop);
    loop.spin_us = spin_us(server);
    sd_notify(0, "READY=1");
    start_watchdog(&loop);
    log_info("ready", log_u64("after_us", clock_us() - server->started_us));
    turn(&loop);
    uv_run(&loop.uv, UV_RUN_DEFAULT);
    log_info("stopped",
             log_f64("requests_received", server->stats.counters[STATS_REQUESTS_RECEIVED]));
    return server_lost(server) ? EXIT_DEVICE : EXIT_SUCCESS;
}
