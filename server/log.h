/*
 * log.h: one line per event on stderr, key=value, for people and for machines.
 *
 *   ts=2026-01-31T12:00:00.123456Z mono_us=512 level=info event=listening url="ipc:///run/x.sock"
 *
 * Values are typed, and a string is always quoted and escaped, so that nothing a client sends can
 * forge a line or a key. A line is built on the stack and leaves in one write(2): no allocation, no
 * lock, any thread, whole lines. A line longer than LOG_LINE_BYTES_MAX loses its last values and
 * says so (cut=true). A log that can not be written (full disk, closed pipe) is counted, never
 * waited for.
 *
 *   log_info("request_done", log_u64("request", id), log_str("client", name));
 */
#ifndef SERVER_LOG_H
#define SERVER_LOG_H

#include <stddef.h>
#include <stdint.h>

enum log_level { LOG_LEVEL_DEBUG, LOG_LEVEL_INFO, LOG_LEVEL_WARN, LOG_LEVEL_ERROR };

/* A write of at most PIPE_BUF (4096) bytes to a pipe is atomic: lines of threads do not mix. */
#define LOG_LINE_BYTES_MAX 2048u

enum log_kind { LOG_KIND_I64, LOG_KIND_U64, LOG_KIND_F64, LOG_KIND_STR };

struct log_field {
    const char *key; /* a literal of ours: not escaped */
    enum log_kind kind;
    union {
        int64_t i64;
        uint64_t u64;
        double f64;
        struct {
            const char *data;
            size_t bytes;
        } str;
    } value;
};

struct log_field log_i64(const char *key, int64_t value);
struct log_field log_u64(const char *key, uint64_t value);
struct log_field log_f64(const char *key, double value);
struct log_field log_str(const char *key, const char *value);                /* NULL reads as "" */
struct log_field log_bytes(const char *key, const void *data, size_t bytes); /* not terminated */
struct log_field log_errno(int error); /* error="No such file or directory" */

/*
 * Events below `level` are dropped from here on. `fd` is stderr, or a test's pipe. Under systemd
 * (JOURNAL_STREAM is set) a line starts with the journal's <priority>. Call before other threads.
 */
void log_open(enum log_level level, int fd);

/* Level by its name ("debug", "info", "warn", "error"); -1 for any other text. */
int log_level_parse(const char *name);

void log_write(enum log_level level, const char *event, const struct log_field *fields,
               size_t count);

/* Lines that could not be written since the start. */
uint64_t log_lost(void);

/* The array's first element is a filler, so that an event needs no field. */
#define LOG_EVENT(level, event, ...)                                                               \
    log_write(level, event, (const struct log_field[]){{0}, __VA_ARGS__} + 1,                      \
              sizeof((const struct log_field[]){{0}, __VA_ARGS__}) / sizeof(struct log_field) - 1)
#define log_debug(event, ...) LOG_EVENT(LOG_LEVEL_DEBUG, event, __VA_ARGS__)
#define log_info(event, ...) LOG_EVENT(LOG_LEVEL_INFO, event, __VA_ARGS__)
#define log_warn(event, ...) LOG_EVENT(LOG_LEVEL_WARN, event, __VA_ARGS__)
#define log_error(event, ...) LOG_EVENT(LOG_LEVEL_ERROR, event, __VA_ARGS__)

#endif
