/*
 * log.c: builds a line in a buffer on the stack, then one write(2). The buffer keeps room for the
 * tail, so that a cut line still ends well.
 */
#include "server/log.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* " cut=true\n" and the terminator fit behind what is written. */
#define LOG_TAIL_BYTES 12u

struct line {
    char text[LOG_LINE_BYTES_MAX];
    size_t used;
    bool cut;
};

static const struct level_row {
    const char *name;
    const char *journal; /* sd-daemon(3): priorities of syslog(3) */
} levels[] = {
    [LOG_LEVEL_DEBUG] = {"debug", "<7>"},
    [LOG_LEVEL_INFO] = {"info", "<6>"},
    [LOG_LEVEL_WARN] = {"warn", "<4>"},
    [LOG_LEVEL_ERROR] = {"error", "<3>"},
};

static enum log_level threshold = LOG_LEVEL_INFO;
static int descriptor = STDERR_FILENO;
static bool journal;
static atomic_uint_fast64_t lost;

struct log_field log_i64(const char *key, int64_t value)
{
    return (struct log_field){.key = key, .kind = LOG_KIND_I64, .value.i64 = value};
}

struct log_field log_u64(const char *key, uint64_t value)
{
    return (struct log_field){.key = key, .kind = LOG_KIND_U64, .value.u64 = value};
}

struct log_field log_f64(const char *key, double value)
{
    return (struct log_field){.key = key, .kind = LOG_KIND_F64, .value.f64 = value};
}

struct log_field log_bytes(const char *key, const void *data, size_t bytes)
{
    return (struct log_field){
        .key = key, .kind = LOG_KIND_STR, .value.str = {.data = data, .bytes = bytes}};
}

struct log_field log_str(const char *key, const char *value)
{
    return log_bytes(key, value ? value : "", value ? strlen(value) : 0);
}

struct log_field log_errno(int error)
{
    return log_str("error", strerrordesc_np(error)); /* static text, unlike strerror's */
}

void log_open(enum log_level level, int fd)
{
    threshold = level;
    descriptor = fd;
    journal = getenv("JOURNAL_STREAM") != NULL;
}

int log_level_parse(const char *name)
{
    for (int level = 0; level < (int)(sizeof(levels) / sizeof(levels[0])); level++) {
        if (strcmp(levels[level].name, name) == 0) {
            return level;
        }
    }
    return -1;
}

uint64_t log_lost(void)
{
    return atomic_load_explicit(&lost, memory_order_relaxed);
}

/* Appends bytes as a whole, or cuts the line here. */
static void put(struct line *line, const char *bytes, size_t count)
{
    if (line->cut || count > sizeof(line->text) - LOG_TAIL_BYTES - line->used) {
        line->cut = true;
        return;
    }
    memcpy(line->text + line->used, bytes, count);
    line->used += count;
}

static void put_text(struct line *line, const char *text)
{
    put(line, text, strlen(text));
}

/* Printable ASCII as it is; quote and backslash escaped; every other byte as \n, \t or \xNN. */
static void put_quoted(struct line *line, const char *data, size_t bytes)
{
    put(line, "\"", 1);
    for (size_t i = 0; i < bytes; i++) {
        unsigned char byte = (unsigned char)data[i];
        char escaped[5] = {'\\', (char)byte};
        if (byte == '"' || byte == '\\') {
            put(line, escaped, 2);
        } else if (byte == '\n' || byte == '\t') {
            escaped[1] = byte == '\n' ? 'n' : 't';
            put(line, escaped, 2);
        } else if (byte < 0x20 || byte >= 0x7f) {
            snprintf(escaped, sizeof(escaped), "\\x%02x", byte);
            put(line, escaped, 4);
        } else {
            put(line, (const char *)&byte, 1);
        }
    }
    put(line, "\"", 1);
}

static void put_field(struct line *line, const struct log_field *field)
{
    char number[32];
    size_t before = line->used;
    put(line, " ", 1);
    put_text(line, field->key);
    put(line, "=", 1);
    switch (field->kind) {
    case LOG_KIND_I64:
        snprintf(number, sizeof(number), "%" PRId64, field->value.i64);
        put_text(line, number);
        break;
    case LOG_KIND_U64:
        snprintf(number, sizeof(number), "%" PRIu64, field->value.u64);
        put_text(line, number);
        break;
    case LOG_KIND_F64:
        snprintf(number, sizeof(number), "%.6g", field->value.f64);
        put_text(line, number);
        break;
    case LOG_KIND_STR:
        put_quoted(line, field->value.str.data, field->value.str.bytes);
        break;
    }
    if (line->cut) {
        line->used = before; /* no half fields */
    }
}

/* Wall time to match other logs, monotonic time to measure with: clocks are set, time is not. */
static void put_head(struct line *line, enum log_level level)
{
    struct timespec wall;
    struct timespec mono;
    struct tm date;
    char text[128];
    clock_gettime(CLOCK_REALTIME, &wall);
    clock_gettime(CLOCK_MONOTONIC, &mono);
    gmtime_r(&wall.tv_sec, &date);
    if (journal) {
        put_text(line, levels[level].journal);
    }
    size_t used = strftime(text, sizeof(text), "ts=%Y-%m-%dT%H:%M:%S", &date);
    snprintf(text + used, sizeof(text) - used,
             ".%06ldZ mono_us=%" PRIu64 " level=%s event=", wall.tv_nsec / 1000,
             (uint64_t)mono.tv_sec * 1000000u + (uint64_t)mono.tv_nsec / 1000u, levels[level].name);
    put_text(line, text);
}

void log_write(enum log_level level, const char *event, const struct log_field *fields,
               size_t count)
{
    if (level < threshold) {
        return;
    }
    struct line line = {.used = 0};
    put_head(&line, level);
    put_text(&line, event);
    for (size_t i = 0; i < count; i++) {
        put_field(&line, &fields[i]);
    }
    const char *tail = line.cut ? " cut=true\n" : "\n";
    memcpy(line.text + line.used, tail, strlen(tail));
    line.used += strlen(tail);
    if (write(descriptor, line.text, line.used) != (ssize_t)line.used) {
        atomic_fetch_add_explicit(&lost, 1, memory_order_relaxed);
    }
}
