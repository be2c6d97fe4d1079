/*
 * config.c: the table of options, and everything that follows from a row: flag, file line, help,
 * print. Values are texts in, fields of struct config out; a row says where and within what.
 */
#include "server/config.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "proto/limits.h"
#include "server/log.h"
#include "server/unit.h"

#define CONFIG_FILE "/etc/faserve/faserved.conf"

enum kind { BOOL, U32, U64, FLOPS, BYTES, BYTES32, DURATION, MODE, STRING };

/* How a kind is written, and what its field is. */
static const struct kind_row {
    enum unit unit;
    enum { FIELD_BOOL, FIELD_U32, FIELD_U64, FIELD_DOUBLE, FIELD_TEXT } field;
} kinds[] = {
    [BOOL] = {UNIT_BOOL, FIELD_BOOL},    [U32] = {UNIT_COUNT, FIELD_U32},
    [U64] = {UNIT_COUNT, FIELD_U64},     [FLOPS] = {UNIT_REAL, FIELD_DOUBLE},
    [BYTES] = {UNIT_BYTES, FIELD_U64},   [BYTES32] = {UNIT_BYTES, FIELD_U32},
    [DURATION] = {UNIT_TIME, FIELD_U64}, [MODE] = {UNIT_MODE, FIELD_U32},
    [STRING] = {UNIT_COUNT, FIELD_TEXT},
};

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

struct option_row {
    const char *name;
    enum kind kind;
    size_t offset;
    size_t room;        /* of a string */
    const char *preset; /* as an operator would write it */
    double min, max;    /* of numbers, in the field's own unit */
    const char *help;
};

struct section_row {
    const char *title;
    const char *first; /* the option it starts before */
};

#define AT(field) offsetof(struct config, field), sizeof(((struct config *)NULL)->field)
#define KIB 1024.0
#define MIB (1024.0 * KIB)
#define GIB (1024.0 * MIB)
#define TIB (1024.0 * GIB)
#define SECOND 1e6
#define DAY (86400 * SECOND)

static const struct option_row rows[] = {
    {"listen-ipc", STRING, AT(listen_ipc), "auto", 0, 0,
     "Path of the unix socket; auto is $RUNTIME_DIRECTORY/faserved.sock under systemd, else "
     "/run/faserved/faserved.sock for root, else $XDG_RUNTIME_DIR/faserved.sock; empty: off."},
    {"ipc-group", STRING, AT(ipc_group), "", 0, 0,
     "Group that owns the unix socket, by name; empty: the daemon's own."},
    {"ipc-mode", MODE, AT(ipc_mode), "0660", 0, 0777,
     "Mode of the unix socket: who may connect at all. Owner and group by default, because "
     "whoever connects may use the devices."},
    {"listen-tcp", STRING, AT(listen_tcp), "", 0, 0,
     "host:port, unencrypted; empty: off. Needs token-file even on 127.0.0.1, which every user of "
     "the machine reaches; any other address needs insecure too."},
    {"listen-tls", STRING, AT(listen_tls), "", 0, 0,
     "host:port with TLS; empty: off. Needs tls-cert, tls-key and token-file. About 0.14 GB/s a "
     "connection: for bulk on a trusted network prefer a tunnel such as WireGuard."},
    {"tls-cert", STRING, AT(tls_cert), "", 0, 0, "The server's certificate chain, PEM."},
    {"tls-key", STRING, AT(tls_key), "", 0, 0, "Its private key, PEM."},
    {"tls-ca", STRING, AT(tls_ca), "", 0, 0,
     "When set, a client must show a certificate signed by one of these authorities, PEM."},
    {"token-file", STRING, AT(token_file), "", 0, 0,
     "Tokens that let clients in over tcp and tls, one per line: NAME TOKEN [weight=N] [admin]. "
     "The file must be readable by the daemon's user only (mode 0600)."},
    {"insecure", BOOL, AT(insecure), "false", 0, 1,
     "Allow listen-tcp on an address other than loopback. Tokens and tensors then cross the "
     "network in clear."},

    {"device", STRING, AT(device), "all", 0, 0,
     "What computes: all (every GPU of the node, or cpu:0 where there is none), or a list such as "
     "cuda:0,cuda:1 or cpu:0,cpu:1."},
    {"cpu-threads", U32, AT(cpu_threads), "0", 0, 4096,
     "Threads of one CPU device; 0: the cores this process may use, divided by the CPU devices."},
    {"arena-bytes", BYTES, AT(arena_bytes), "0", 0, 16 * TIB,
     "Memory of one device that holds requests, taken at start and never grown; 0: an eighth of "
     "the host's memory but at most 4GiB for a CPU, 85 % of what is free for a GPU."},
    {"scratch-bytes", BYTES, AT(scratch_bytes), "0", 0, 4 * TIB,
     "Part of the arena kept for the kernels' scratch; 0: an eighth of the arena."},

    {"slots", U32, AT(slots), "1024", 1, 65536,
     "Requests the daemon holds at once, of all clients, from REQUEST to DONE; one more is "
     "RESOURCE_EXHAUSTED. A slot costs some KiB at start."},
    {"connections-max", U32, AT(connections_max), "256", 1, 16384,
     "Connections at once; one more is refused. Each costs some 100 KiB at start and two "
     "descriptors."},
    {"requests-per-connection", U32, AT(requests_per_connection), "64", 1, 65536,
     "Unfinished requests of one connection. Two keep a device busy; 64 let small ones batch."},
    {"requests-per-principal", U32, AT(requests_per_principal), "0", 0, 65536,
     "Unfinished requests of one principal (user or token), over all its connections; 0: a quarter "
     "of the slots, so that one client can not take them all."},
    {"bytes-per-principal", BYTES, AT(bytes_per_principal), "0", 0, 16 * TIB,
     "Arena one principal may hold on a device; 0: three quarters of the arena."},
    {"request-bytes-max", BYTES, AT(request_bytes_max), "0", 0, 16 * TIB,
     "Inputs and outputs of one request; 0: what the arena and bytes-per-principal allow."},
    {"sequences-max", U32, AT(sequences_max), "65536", 1, FAS_SEQUENCES_MAX,
     "Sequences of one request."},
    {"queue-tokens-max", U64, AT(queue_tokens_max), "64M", 1, 1e15,
     "Rows (of q and of k) held at once by all clients."},
    {"queue-flops-max", FLOPS, AT(queue_flops_max), "1e18", 1, 1e30,
     "FLOPs held at once by all clients: half an hour of an H200 at 600 TFLOP/s. Set it to the "
     "longest wait that makes sense times the device's rate."},
    {"chunk-bytes", BYTES32, AT(chunk_bytes), "1MiB", FAS_CHUNK_BYTES_MIN, FAS_CHUNK_BYTES_MAX,
     "Payload of one message. Streams are fastest from 1 to 4 MiB; larger delays a cancel more."},
    {"upload-credit-bytes", BYTES, AT(upload_credit_bytes), "64MiB", 4 * MIB, TIB,
     "What one connection may send ahead of the daemon's reading; bounds nothing but waiting, as "
     "payload lands in its final place."},

    {"batch-delay", DURATION, AT(batch_delay_us), "0", 0, SECOND,
     "How long a request may wait for others to share its launch. 0: the batch is what is there "
     "when the device becomes free, which is best while clients keep it busy."},
    {"batch-requests-max", U32, AT(batch_requests_max), "256", 1, 4096, "Requests of one batch."},
    {"batch-sequences-max", U32, AT(batch_sequences_max), "65536", 1, 1 << 20,
     "Sequences of one batch; at least sequences-max."},
    {"batch-tokens-max", U64, AT(batch_tokens_max), "1M", 1, 1e12,
     "Rows (of q and of k) of one batch. One request alone may exceed it."},
    {"batch-flops-max", FLOPS, AT(batch_flops_max), "0", 0, 1e30,
     "FLOPs of one batch; 0: batch-time at the rate the device was measured to have."},
    {"batch-time", DURATION, AT(batch_us), "50ms", 100, 60 * SECOND,
     "About how long a batch may run: what an urgent request waits for at worst."},
    {"slice-time", DURATION, AT(slice_us), "25ms", 100, 60 * SECOND,
     "About how long one launch may run. Between launches results leave, and cancels and "
     "deadlines take effect."},
    {"ageing-time", DURATION, AT(ageing_us), "1s", 0, DAY,
     "Waiting this long raises a request one priority among its principal's; 0: never."},

    {"hello-timeout", DURATION, AT(hello_timeout_us), "5s", 1000, DAY,
     "A connection must have said HELLO by then."},
    {"progress-timeout", DURATION, AT(progress_timeout_us), "30s", 1000, DAY,
     "A peer in the middle of a message must send some byte within this time, or is closed."},
    {"result-timeout", DURATION, AT(result_timeout_us), "60s", 1000, DAY,
     "A client must take some byte of a waiting result within this time, or is closed: its "
     "results hold arena that others wait for."},
    {"ping-interval", DURATION, AT(ping_us), "15s", 0, DAY,
     "A silent connection is pinged this often, and closed when two in a row stay unanswered: "
     "the only way to notice a peer whose machine is gone. 0: never."},
    {"drain-timeout", DURATION, AT(drain_timeout_us), "30s", 0, DAY,
     "After SIGTERM or DRAIN, how long accepted requests may take before they are answered "
     "UNAVAILABLE. Keep it below TimeoutStopSec of the unit."},

    {"retain-bytes", BYTES, AT(retain_bytes), "0", 0, 16 * TIB,
     "Part of the arena that retained forwards may take, so that a backward sends only its "
     "gradient; 0: half of the arena. Least recently used ones make room."},
    {"retain-bytes-per-principal", BYTES, AT(retain_bytes_per_principal), "0", 0, 16 * TIB,
     "Of that, for one principal; 0: half of it."},
    {"retain-ttl", DURATION, AT(retain_ttl_us), "10min", SECOND, 30 * DAY,
     "A retained forward not used for this long is given up: longer than a training step."},

    {"log-level", STRING, AT(log_level), "info", 0, 0, "debug, info, warn or error."},
};

static const struct section_row sections[] = {
    {"Who may connect", "listen-ipc"},
    {"What it runs on", "device"},
    {"How much is held at once", "slots"},
    {"How work is cut", "batch-delay"},
    {"How long is too long", "hello-timeout"},
    {"Retained forwards", "retain-bytes"},
    {"Log", "log-level"},
};

static const struct option_row *row_find(const char *name)
{
    for (size_t i = 0; i < COUNT(rows); i++) {
        if (strcmp(rows[i].name, name) == 0) {
            return &rows[i];
        }
    }
    return NULL;
}

/* Reads a number's field as a double: exact, as rows stay below 2^53 or are doubles. */
static double load(const struct option_row *row, const struct config *config)
{
    const void *field = (const char *)config + row->offset;
    switch (kinds[row->kind].field) {
    case FIELD_BOOL:
        return *(const bool *)field;
    case FIELD_U32:
        return *(const uint32_t *)field;
    case FIELD_U64:
        return (double)*(const uint64_t *)field;
    case FIELD_DOUBLE:
        return *(const double *)field;
    case FIELD_TEXT:
        break;
    }
    assert(!"a text is no number");
    return 0;
}

static void store(const struct option_row *row, struct config *config, double number)
{
    void *field = (char *)config + row->offset;
    switch (kinds[row->kind].field) {
    case FIELD_BOOL:
        *(bool *)field = number != 0;
        break;
    case FIELD_U32:
        *(uint32_t *)field = (uint32_t)number;
        break;
    case FIELD_U64:
        *(uint64_t *)field = (uint64_t)number;
        break;
    case FIELD_DOUBLE:
        *(double *)field = number;
        break;
    case FIELD_TEXT:
        assert(!"a text is no number");
        break;
    }
}

static void format_value(const struct option_row *row, const struct config *config, char *out,
                         size_t bytes)
{
    if (row->kind == STRING) {
        snprintf(out, bytes, "%s", (const char *)config + row->offset);
    } else {
        unit_format(kinds[row->kind].unit, load(row, config), out, bytes);
    }
}

static bool set_string(const struct option_row *row, struct config *config, const char *value,
                       char *error, size_t error_bytes)
{
    size_t length = strlen(value);
    if (length >= row->room) {
        snprintf(error, error_bytes, "%s: %zu characters, at most %zu", row->name, length,
                 row->room - 1);
        return false;
    }
    memcpy((char *)config + row->offset, value, length + 1);
    return true;
}

static bool row_set(const struct option_row *row, struct config *config, const char *value,
                    char *error, size_t error_bytes)
{
    if (row->kind == STRING) {
        return set_string(row, config, value, error, error_bytes);
    }
    enum unit unit = kinds[row->kind].unit;
    double number;
    if (!unit_parse(unit, value, &number)) {
        snprintf(error, error_bytes, "%s: \"%.64s\" is not %s", row->name, value,
                 unit_example(unit));
        return false;
    }
    if (number < row->min || number > row->max) {
        char min[40];
        char max[40];
        unit_format(unit, row->min, min, sizeof(min));
        unit_format(unit, row->max, max, sizeof(max));
        snprintf(error, error_bytes, "%s: %.64s is not between %s and %s", row->name, value, min,
                 max);
        return false;
    }
    store(row, config, number);
    return true;
}

bool config_set(struct config *config, const char *name, const char *value, char *error,
                size_t error_bytes)
{
    const struct option_row *row = row_find(name);
    if (!row) {
        snprintf(error, error_bytes, "%.64s: no such option", name);
        return false;
    }
    return row_set(row, config, value, error, error_bytes);
}

void config_default(struct config *config)
{
    char error[256];
    memset(config, 0, sizeof(*config));
    for (size_t i = 0; i < COUNT(rows); i++) {
        bool ok = row_set(&rows[i], config, rows[i].preset, error, sizeof(error));
        assert(ok && "presets are in range");
        (void)ok;
    }
}

static char *trim(char *text)
{
    while (isspace((unsigned char)*text)) {
        text++;
    }
    char *end = text + strlen(text);
    while (end > text && isspace((unsigned char)end[-1])) {
        end--;
    }
    *end = '\0';
    return text;
}

/* One line of the file. A # starts a comment only at the line's start or after a blank. */
static bool read_line(struct config *config, char *line, char *error, size_t error_bytes)
{
    for (char *hash = strchr(line, '#'); hash; hash = strchr(hash + 1, '#')) {
        if (hash == line || isspace((unsigned char)hash[-1])) {
            *hash = '\0';
            break;
        }
    }
    char *name = trim(line);
    if (*name == '\0') {
        return true;
    }
    char *equals = strchr(name, '=');
    if (!equals) {
        snprintf(error, error_bytes, "\"%.64s\" is not name = value", name);
        return false;
    }
    *equals = '\0';
    return config_set(config, trim(name), trim(equals + 1), error, error_bytes);
}

/* `optional`: a file that is not there is no error. Errors are told as "path:line: ...". */
static bool read_file(struct config *config, const char *path, bool optional, char *error,
                      size_t error_bytes)
{
    FILE *file = fopen(path, "re");
    if (!file) {
        snprintf(error, error_bytes, "%s: %s", path, strerror(errno));
        return optional && errno == ENOENT;
    }
    char line[1024];
    char why[384];
    bool ok = true;
    for (int number = 1; ok && fgets(line, sizeof(line), file); number++) {
        if (!strchr(line, '\n') && !feof(file)) {
            snprintf(why, sizeof(why), "line longer than %zu characters", sizeof(line) - 2);
            ok = false;
        } else {
            ok = read_line(config, line, why, sizeof(why));
        }
        if (!ok) {
            snprintf(error, error_bytes, "%s:%d: %s", path, number, why);
        }
    }
    if (ok && ferror(file)) {
        snprintf(error, error_bytes, "%s: %s", path, strerror(errno));
        ok = false;
    }
    fclose(file);
    return ok;
}

/* Flags that do something else than set an option. */
static const struct action_row {
    const char *flag;
    enum config_action action;
    const char *argument; /* name of its argument, or NULL */
    const char *help;
} actions[] = {
    {"config", CONFIG_RUN, "FILE", "read options from FILE instead of " CONFIG_FILE},
    {"print-config", CONFIG_PRINT, NULL, "print the effective options as a file and exit"},
    {"check-config", CONFIG_CHECK, NULL, "check options and file, exit 0 if all is well"},
    {"baseline", CONFIG_BASELINE, "SPEC", "time the kernels in this process, print JSON and exit"},
    {"help", CONFIG_HELP, NULL, "this text"},
    {"version", CONFIG_VERSION, NULL, "the version"},
};

static const struct action_row *action_find(const char *flag)
{
    for (size_t i = 0; i < COUNT(actions); i++) {
        if (strcmp(actions[i].flag, flag) == 0) {
            return &actions[i];
        }
    }
    return NULL;
}

/* One flag of the command line, taken apart: --name, --name=value, --name value. */
struct flag {
    char name[64];
    const char *value; /* NULL: none given */
    int words;         /* of argv it took */
};

static bool flag_take(int argc, char **argv, int at, struct flag *flag, char *error,
                      size_t error_bytes)
{
    const char *text = argv[at];
    if (strncmp(text, "--", 2) != 0 || text[2] == '\0') {
        snprintf(error, error_bytes, "\"%.64s\" is not an option; see --help", text);
        return false;
    }
    const char *equals = strchr(text, '=');
    size_t length = equals ? (size_t)(equals - text) - 2 : strlen(text) - 2;
    snprintf(flag->name, sizeof(flag->name), "%.*s", (int)length, text + 2);
    flag->value = equals ? equals + 1 : NULL;
    flag->words = 1;
    const struct option_row *row = row_find(flag->name);
    const struct action_row *action = action_find(flag->name);
    bool needs_value = row ? row->kind != BOOL : action && action->argument;
    if (!row && !action) {
        snprintf(error, error_bytes, "--%s: no such option; see --help", flag->name);
        return false;
    }
    if (needs_value && !flag->value) {
        if (at + 1 >= argc) {
            snprintf(error, error_bytes, "--%s: needs a value", flag->name);
            return false;
        }
        flag->value = argv[at + 1];
        flag->words = 2;
    }
    if (action && !action->argument && flag->value) {
        snprintf(error, error_bytes, "--%s: takes no value", flag->name);
        return false;
    }
    return true;
}

/* First walk: what to do, and from which file. Nothing is set yet. */
static bool read_actions(struct config_command *command, const char **path, int argc, char **argv)
{
    struct flag flag;
    for (int at = 1; at < argc; at += flag.words) {
        if (!flag_take(argc, argv, at, &flag, command->error, sizeof(command->error))) {
            return false;
        }
        const struct action_row *action = action_find(flag.name);
        if (!action) {
            continue;
        }
        if (action->action == CONFIG_RUN) {
            *path = flag.value;
        } else {
            command->action = action->action;
        }
        if (action->action == CONFIG_BASELINE) {
            command->baseline = flag.value;
        }
    }
    return true;
}

static bool read_flags(struct config *config, int argc, char **argv, char *error,
                       size_t error_bytes)
{
    struct flag flag;
    for (int at = 1; at < argc; at += flag.words) {
        bool ok = flag_take(argc, argv, at, &flag, error, error_bytes);
        assert(ok && "read_actions saw it");
        (void)ok;
        const char *value = flag.value ? flag.value : "true";
        char why[384];
        if (row_find(flag.name) && !config_set(config, flag.name, value, why, sizeof(why))) {
            snprintf(error, error_bytes, "--%s", why);
            return false;
        }
    }
    return true;
}

/* Zeros that stand for something else than a device's say. */
static void resolve(struct config *config)
{
    if (config->requests_per_principal == 0) {
        config->requests_per_principal = (config->slots + 3) / 4;
    }
}

struct config_command config_open(struct config *config, int argc, char **argv)
{
    struct config_command command = {.action = CONFIG_RUN};
    const char *path = NULL;
    config_default(config);
    if (!read_actions(&command, &path, argc, argv)) {
        command.action = CONFIG_REFUSED;
        return command;
    }
    if (command.action == CONFIG_HELP || command.action == CONFIG_VERSION) {
        return command;
    }
    if (!read_file(config, path ? path : CONFIG_FILE, !path, command.error,
                   sizeof(command.error)) ||
        !read_flags(config, argc, argv, command.error, sizeof(command.error)) ||
        !config_check(config, command.error, sizeof(command.error))) {
        command.action = CONFIG_REFUSED;
    } else if (command.action != CONFIG_PRINT) {
        resolve(config);
    }
    return command;
}

/* "127.0.0.1:80", "[::1]:80", "localhost:80" reach this machine only. */
static bool is_loopback(const char *address)
{
    return strncmp(address, "127.", 4) == 0 || strncmp(address, "[::1]:", 6) == 0 ||
           strncmp(address, "localhost:", 10) == 0;
}

static bool is_address(const char *address)
{
    const char *colon = strrchr(address, ':');
    char *end;
    if (!colon || colon == address || !isdigit((unsigned char)colon[1])) {
        return false;
    }
    unsigned long port = strtoul(colon + 1, &end, 10);
    return *end == '\0' && port >= 1 && port <= 65535;
}

bool config_check(const struct config *config, char *error, size_t error_bytes)
{
    const bool tcp = config->listen_tcp[0] != '\0';
    const bool tls = config->listen_tls[0] != '\0';
    const bool token = config->token_file[0] != '\0';
    const bool keys = config->tls_cert[0] != '\0' && config->tls_key[0] != '\0';
    const struct rule {
        bool broken;
        const char *text;
    } rules[] = {
        {tcp && !is_address(config->listen_tcp), "listen-tcp: not host:port"},
        {tls && !is_address(config->listen_tls), "listen-tls: not host:port"},
        {tcp && !token, "listen-tcp: needs token-file: every user of the machine reaches tcp"},
        {tcp && !is_loopback(config->listen_tcp) && !config->insecure,
         "listen-tcp: beyond loopback tokens and tensors cross the network in clear; use "
         "listen-tls, or say insecure"},
        {tls && !token, "listen-tls: needs token-file"},
        {tls && !keys, "listen-tls: needs tls-cert and tls-key"},
        {!tcp && !tls && config->listen_ipc[0] == '\0', "listen-ipc: nothing to listen on"},
        {config->device[0] == '\0', "device: empty"},
        {config->slice_us > config->batch_us, "slice-time: longer than batch-time"},
        {config->sequences_max > config->batch_sequences_max,
         "batch-sequences-max: less than sequences-max"},
        {config->requests_per_principal > config->slots, "requests-per-principal: more than slots"},
        {config->arena_bytes != 0 && config->scratch_bytes >= config->arena_bytes,
         "scratch-bytes: not less than arena-bytes"},
        {config->arena_bytes != 0 && config->bytes_per_principal > config->arena_bytes,
         "bytes-per-principal: more than arena-bytes"},
        {log_level_parse(config->log_level) < 0, "log-level: not debug, info, warn or error"},
    };
    for (size_t i = 0; i < COUNT(rules); i++) {
        if (rules[i].broken) {
            snprintf(error, error_bytes, "%s", rules[i].text);
            return false;
        }
    }
    return true;
}

bool config_ipc_path(const struct config *config, char *path, size_t bytes)
{
    const char *runtime = getenv("RUNTIME_DIRECTORY");
    const char *own = getenv("XDG_RUNTIME_DIR");
    int length = -1;
    if (strcmp(config->listen_ipc, "auto") != 0) {
        length = snprintf(path, bytes, "%s", config->listen_ipc);
    } else if (runtime && *runtime) {
        length = snprintf(path, bytes, "%s/faserved.sock", runtime);
    } else if (geteuid() == 0) {
        length = snprintf(path, bytes, "/run/faserved/faserved.sock");
    } else if (own && *own) {
        length = snprintf(path, bytes, "%s/faserved.sock", own);
    }
    return length >= 0 && (size_t)length < bytes;
}

/* Help, in lines of at most 96 columns behind `margin`. */
static void print_wrapped(FILE *out, const char *margin, const char *text)
{
    size_t width = 96 - strlen(margin);
    while (*text) {
        size_t length = strlen(text);
        if (length > width) {
            length = width;
            while (text[length] != ' ') {
                length--;
            }
        }
        fprintf(out, "%s%.*s\n", margin, (int)length, text);
        text += length + strspn(text + length, " ");
    }
}

static const char *section_before(const struct option_row *row)
{
    for (size_t i = 0; i < COUNT(sections); i++) {
        if (strcmp(sections[i].first, row->name) == 0) {
            return sections[i].title;
        }
    }
    return NULL;
}

void config_print(const struct config *config, FILE *out)
{
    char value[CONFIG_TEXT_BYTES_MAX];
    fputs(
        "# faserved's options: name = value, a # starts a comment. Flags of the same names win.\n",
        out);
    for (size_t i = 0; i < COUNT(rows); i++) {
        const char *section = section_before(&rows[i]);
        if (section) {
            fprintf(out, "\n# ---- %s ----\n", section);
        }
        format_value(&rows[i], config, value, sizeof(value));
        fputc('\n', out);
        print_wrapped(out, "# ", rows[i].help);
        fprintf(out, "%s =%s%s\n", rows[i].name, *value ? " " : "", value);
    }
}

void config_help(FILE *out)
{
    fputs("usage: faserved [--option=value ...]\n\n"
          "Computes attention, forward and backward, for whoever asks.\n\n",
          out);
    for (size_t i = 0; i < COUNT(actions); i++) {
        const char *argument = actions[i].argument ? actions[i].argument : "";
        fprintf(out, "  --%s%s%s\n", actions[i].flag, *argument ? " " : "", argument);
        print_wrapped(out, "        ", actions[i].help);
    }
    for (size_t i = 0; i < COUNT(rows); i++) {
        const char *section = section_before(&rows[i]);
        if (section) {
            fprintf(out, "\n%s:\n", section);
        }
        fprintf(out, "  --%s=%s\n", rows[i].name, rows[i].preset);
        print_wrapped(out, "        ", rows[i].help);
    }
}
