/*
 * top.c: fasctl top: what the daemon is doing, once a second. Two STATS replies make a frame:
 * levels are the newer one's, rates their difference.
 */
#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "client/fasctl/clock.h"
#include "client/fasctl/fasctl.h"
#include "client/fasctl/table.h"

#define STATS_MAX 512

struct sample {
    struct fas_stat stats[STATS_MAX];
    uint32_t count;
    uint64_t at_ns;
};

struct frame {
    const struct sample *before, *now;
    double seconds;
};

/* ---- numbers of a frame ---- */

/* "cpu:0", "busy_us" -> the value of "cpu:0.busy_us"; no prefix: of the name itself. 0 if an older
 * daemon does not tell it. */
static double find(const struct sample *sample, const char *prefix, const char *name)
{
    char wanted[2 * sizeof(sample->stats[0].name)];
    snprintf(wanted, sizeof(wanted), "%s%s%s", prefix, *prefix ? "." : "", name);
    for (uint32_t i = 0; i < sample->count; i++) {
        if (strcmp(sample->stats[i].name, wanted) == 0) {
            return sample->stats[i].value;
        }
    }
    return 0;
}

static double level(const struct frame *frame, const char *prefix, const char *name)
{
    return find(frame->now, prefix, name);
}

static double rate(const struct frame *frame, const char *prefix, const char *name)
{
    return (find(frame->now, prefix, name) - find(frame->before, prefix, name)) / frame->seconds;
}

/* Calls with the name of each device, which is what has an arena. */
static void each_device(const struct frame *frame, void *context,
                        void (*visit)(void *context, const struct frame *frame, const char *device))
{
    static const char mark[] = ".arena_bytes";
    for (uint32_t i = 0; i < frame->now->count; i++) {
        const char *name = frame->now->stats[i].name;
        size_t length = strlen(name), tail = sizeof(mark) - 1;
        if (length > tail && strcmp(name + length - tail, mark) == 0) {
            char device[sizeof(frame->now->stats[i].name)];
            snprintf(device, sizeof(device), "%.*s", (int)(length - tail), name);
            visit(context, frame, device);
        }
    }
}

/* "1.23 M": three digits and a power of 1000. Valid until this thread's eighth call after. */
static const char *short_number(double value)
{
    static _Thread_local char texts[8][24];
    static _Thread_local unsigned next;
    static const char *const powers[] = {"", " k", " M", " G", " T", " P", " E"};
    char *text = texts[next++ % 8];
    size_t power = 0;
    for (; value >= 999.5 && power + 1 < sizeof(powers) / sizeof(powers[0]); power++) {
        value /= 1000;
    }
    snprintf(text, sizeof(texts[0]), "%.*f%s", value < 9.995 ? 2 : value < 99.95, value,
             powers[power]);
    return text;
}

/* ---- a frame for people ---- */

static void print_head(const struct frame *frame, const char *server)
{
    uint64_t up_s = (uint64_t)(level(frame, "", "uptime_us") * 1e-6);
    double connections = level(frame, "", "connections");
    printf("%s, %s, up %llu:%02llu:%02llu\n", server,
           level(frame, "", "ready") > 0 ? "ready" : "draining", (unsigned long long)(up_s / 3600),
           (unsigned long long)(up_s / 60 % 60), (unsigned long long)(up_s % 60));
    printf("%.0f connection%s, %.0f of %.0f requests in flight, %.2f processors busy\n\n",
           connections, table_plural(connections), level(frame, "", "requests_in_flight"),
           level(frame, "", "slots"), rate(frame, "", "cpu_us") * 1e-6);
}

static void print_work(const struct frame *frame)
{
    static const char *const passes[] = {"forward", "backward"};
    struct table *table = table_open("answered OK|requests/s|tokens/s|FLOP/s");
    for (size_t i = 0; i < sizeof(passes) / sizeof(passes[0]); i++) {
        table_cell(table, "%s", passes[i]);
        table_cell(table, "%s", short_number(rate(frame, passes[i], "requests")));
        table_cell(table, "%s", short_number(rate(frame, passes[i], "tokens")));
        table_cell(table, "%s", short_number(rate(frame, passes[i], "flops")));
    }
    table_print(table);
    for (int status = FAS_OK + 1; status < FAS_STATUS_COUNT; status++) {
        char name[64];
        snprintf(name, sizeof(name), "requests_%s", fas_status_name((enum fas_status)status));
        for (char *c = name; *c; c++) {
            *c = (char)(*c >= 'A' && *c <= 'Z' ? *c - 'A' + 'a' : *c);
        }
        if (rate(frame, "", name) > 0) {
            printf("%s: %s a second\n", fas_status_name((enum fas_status)status),
                   short_number(rate(frame, "", name)));
        }
    }
    printf("\n");
}

static void print_payload(const struct frame *frame)
{
    struct table *table = table_open("payload|in, byte/s|out, byte/s");
    for (int place = 0; place < FAS_PLACE_COUNT; place++) {
        const char *name = fas_place_name((enum fas_place)place);
        table_cell(table, "%s", name);
        table_cell(table, "%s", short_number(rate(frame, "bytes_in", name)));
        table_cell(table, "%s", short_number(rate(frame, "bytes_out", name)));
    }
    table_print(table);
    printf("\n");
}

static void print_phases(const struct frame *frame)
{
    static const char *const phases[][2] = {{"copy in", "copy_in_us"},
                                            {"queue", "queue_us"},
                                            {"compute", "compute_us"},
                                            {"copy out", "copy_out_us"},
                                            {"in all", "total_us"}};
    static const char *const columns[] = {"p50", "p90", "p99", "p999", "max"};
    struct table *table = table_open("since the start|p50|p90|p99|p99.9|max");
    for (size_t i = 0; i < sizeof(phases) / sizeof(phases[0]); i++) {
        table_cell(table, "%s", phases[i][0]);
        for (size_t c = 0; c < sizeof(columns) / sizeof(columns[0]); c++) {
            table_cell(table, "%s", table_us(level(frame, phases[i][1], columns[c])));
        }
    }
    table_print(table);
    printf("\n");
}

static void add_device(void *context, const struct frame *frame, const char *device)
{
    struct table *table = context;
    double waiting = level(frame, device, "queue_flops"), flops = level(frame, device, "flop_rate");
    table_cell(table, "%s", device);
    table_cell(table, "%.0f %%", 100 * rate(frame, device, "busy_us") * 1e-6);
    table_cell(table, "%s", short_number(rate(frame, device, "flops")));
    table_cell(table, "%.0f", level(frame, device, "queue_requests"));
    table_cell(table, "%s", table_us(flops > 0 ? waiting / flops * 1e6 : 0));
    table_cell(table, "%s", short_number(level(frame, device, "arena_used_bytes")));
    table_cell(table, "%s", short_number(level(frame, device, "arena_high_bytes")));
    table_cell(table, "%s", short_number(level(frame, device, "arena_bytes")));
}

static void print_devices(const struct frame *frame)
{
    struct table *table = table_open("device|busy|FLOP/s|waiting|work|arena, byte|highest|of");
    each_device(frame, table, add_device);
    table_print(table);
}

static void print_frame(const struct frame *frame, const char *server)
{
    if (isatty(STDOUT_FILENO)) {
        printf("\033[H\033[J");
    }
    print_head(frame, server);
    print_work(frame);
    print_payload(frame);
    print_phases(frame);
    print_devices(frame);
    fflush(stdout);
}

/* ---- a frame for machines: one line, all levels and how fast each changed ---- */

static void print_json(const struct frame *frame)
{
    cJSON *object = cJSON_CreateObject();
    cJSON *levels = cJSON_AddObjectToObject(object, "levels");
    cJSON *rates = cJSON_AddObjectToObject(object, "per_second");
    cJSON_AddNumberToObject(object, "seconds", frame->seconds);
    for (uint32_t i = 0; i < frame->now->count; i++) {
        const char *name = frame->now->stats[i].name;
        cJSON_AddNumberToObject(levels, name, frame->now->stats[i].value);
        cJSON_AddNumberToObject(rates, name, rate(frame, "", name));
    }
    char *text = cJSON_PrintUnformatted(object);
    if (text) {
        puts(text);
        fflush(stdout);
    }
    free(text);
    cJSON_Delete(object);
}

/* ---- the command ---- */

static bool take(struct fas_client *client, struct sample *sample)
{
    struct fas_error error;
    sample->at_ns = clock_ns();
    if (fas_stats(client, (uint32_t)target.timeout_ms, sample->stats, STATS_MAX, &sample->count,
                  &error) != FAS_OK) {
        complain("top", &error);
        return false;
    }
    return true;
}

/* Frames until interrupted, or one. False: the daemon is gone. */
static bool watch(struct fas_client *client, double interval_s, bool once, bool json)
{
    static struct sample samples[2];
    if (!take(client, &samples[0])) {
        return false;
    }
    for (unsigned i = 1;; i++) {
        struct sample *now = &samples[i % 2], *before = &samples[(i + 1) % 2];
        clock_wait(interval_s);
        if (!take(client, now)) {
            return false;
        }
        const struct frame frame = {before, now, (double)(now->at_ns - before->at_ns) * 1e-9};
        if (json) {
            print_json(&frame);
        } else {
            print_frame(&frame, fas_server(client)->name);
        }
        if (once) {
            return true;
        }
    }
}

int command_top(int argc, char **argv)
{
    bool once = false, json = false;
    double interval_s = 1;
    const struct option_row rows[] = {
        {"interval", OPTION_REAL, &interval_s, "SECONDS", "between frames (default 1)", 0.05, 3600},
        {"once", OPTION_FLAG, &once, NULL, "one frame, then exit", 0, 0},
        {"json", OPTION_FLAG, &json, NULL, "a frame is one line of JSON", 0, 0},
        TARGET_ROWS,
        {0}};
    int code;
    if (!command_options("top [OPTIONS]      (Ctrl-C ends it)", rows, argc, argv, &code)) {
        return code;
    }
    struct fas_client *client = target_connect(0, 1);
    if (!client) {
        return EXIT_NO_SERVER;
    }
    bool watched = watch(client, interval_s, once, json);
    fas_close(client);
    return watched ? EXIT_OK : EXIT_FAILED;
}
