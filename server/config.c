/*
 * config.c: the table of options and the rules between them. All else follows from a row: flag and
 * line of the file (config_read.c), help and print (config_print.c).
 */
#include "server/config.h"

#include <assert.h>
#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "proto/limits.h"
#include "server/config_table.h"
#include "server/log.h"

#define AT(field) offsetof(struct config, field), sizeof(((struct config *)NULL)->field)
#define KIB 1024.0
#define MIB (1024.0 * KIB)
#define GIB (1024.0 * MIB)
#define TIB (1024.0 * GIB)
#define SECOND 1e6
#define DAY (86400 * SECOND)

const struct option_row config_rows[] = {
    {"listen-ipc", OPTION_STRING, AT(listen_ipc), "auto", 0, 0,
     "Path of the unix socket; auto is $RUNTIME_DIRECTORY/faserved.sock under systemd, else "
     "/run/faserved/faserved.sock for root, else $XDG_RUNTIME_DIR/faserved.sock; empty: off."},
    {"ipc-group", OPTION_STRING, AT(ipc_group), "", 0, 0,
     "Group that owns the unix socket, by name; empty: the daemon's own."},
    {"ipc-mode", OPTION_MODE, AT(ipc_mode), "0660", 0, 0777,
     "Mode of the unix socket: who may connect at all. Owner and group by default, because "
     "whoever connects may use the devices."},
    {"listen-tcp", OPTION_STRING, AT(listen_tcp), "", 0, 0,
     "host:port, unencrypted; empty: off. Needs token-file even on 127.0.0.1, which every user of "
     "the machine reaches; any other address needs insecure too."},
    {"listen-tls", OPTION_STRING, AT(listen_tls), "", 0, 0,
     "host:port with TLS; empty: off. Needs tls-cert, tls-key and token-file. About 0.14 GB/s a "
     "connection: for bulk on a trusted network prefer a tunnel such as WireGuard."},
    {"tls-cert", OPTION_STRING, AT(tls_cert), "", 0, 0, "The server's certificate chain, PEM."},
    {"tls-key", OPTION_STRING, AT(tls_key), "", 0, 0, "Its private key, PEM."},
    {"tls-ca", OPTION_STRING, AT(tls_ca), "", 0, 0,
     "When set, a client must show a certificate signed by one of these authorities, PEM."},
    {"token-file", OPTION_STRING, AT(token_file), "", 0, 0,
     "Tokens that let clients in over tcp and tls, one per line: NAME TOKEN [weight=N] [admin]. "
     "The file must be readable by the daemon's user only (mode 0600)."},
    {"share-with", OPTION_STRING, AT(share_with), "", 0, 0,
     "Users and @groups, by name or number, whose clients may share memory with the daemon over "
     "the "
     "unix socket instead of sending tensors; all: whoever may connect. Root and the daemon's own "
     "user always may."},
    {"insecure", OPTION_BOOL, AT(insecure), "false", 0, 1,
     "Allow listen-tcp on an address other than loopback. Tokens and tensors then cross the "
     "network in clear."},
    {"metrics-address", OPTION_STRING, AT(metrics_address), "", 0, 0,
     "host:port, or a port of 127.0.0.1, for /metrics (Prometheus), /healthz and /readyz over "
     "HTTP; "
     "empty: off. Whoever reaches it reads numbers, uids and names of tokens, and nothing else."},

    {"device", OPTION_STRING, AT(device), "all", 0, 0,
     "What computes: all (every GPU of the node, or cpu:0 where there is none), or a list such as "
     "cuda:0,cuda:1 or cpu:0,cpu:1."},
    {"cpu-threads", OPTION_U32, AT(cpu_threads), "0", 0, 4096,
     "Threads of one CPU device; 0: the cores this process may use, divided by the CPU devices."},
    {"arena-bytes", OPTION_BYTES, AT(arena_bytes), "0", 0, 16 * TIB,
     "Memory of one device that holds requests, taken at start and never grown; 0: an eighth of "
     "the host's memory but at most 4GiB for a CPU, 85 % of what is free for a GPU."},
    {"scratch-bytes", OPTION_BYTES, AT(scratch_bytes), "0", 0, 4 * TIB,
     "Part of the arena kept for the kernels' scratch; 0: an eighth of the arena."},
    {"plan-bytes", OPTION_BYTES, AT(plan_bytes), "128MiB", MIB, 16 * GIB,
     "Memory of a GPU, and as much pinned memory of the host, for the kernels' tile lists: 64 "
     "bytes for each 64 rows of a head of a sequence. A request that needs more is refused."},
    {"spin-time", OPTION_DURATION, AT(spin_us), "0", 0, 10000,
     "After news the daemon looks for more this long before it sleeps: short requests, one after "
     "the other, are answered sooner for the price of a core. 0: 50us with a GPU where the daemon "
     "may use 4 processors or more, else never; 1us: as good as never."},

    {"slots", OPTION_U32, AT(slots), "1024", 1, 65536,
     "Requests the daemon holds at once, of all clients, from REQUEST to DONE; one more is "
     "RESOURCE_EXHAUSTED. A slot costs some KiB at start."},
    {"connections-max", OPTION_U32, AT(connections_max), "256", 1, 16384,
     "Connections at once; one more is refused. Each costs some 100 KiB at start and two "
     "descriptors."},
    {"io-threads", OPTION_U32, AT(io_threads), "8", 1, 256,
     "Threads that move payloads of 256 KiB and more over unix sockets and tcp, at some 5 GB/s "
     "each; the loop moves smaller ones itself. Each direction of a connection in bulk keeps one."},
    {"requests-per-connection", OPTION_U32, AT(requests_per_connection), "64", 1, 65536,
     "Unfinished requests of one connection. Two keep a device busy; 64 let small ones batch."},
    {"requests-per-principal", OPTION_U32, AT(requests_per_principal), "0", 0, 65536,
     "Unfinished requests of one principal (user or token), over all its connections; 0: a quarter "
     "of the slots, so that one client can not take them all."},
    {"bytes-per-principal", OPTION_BYTES, AT(bytes_per_principal), "0", 0, 16 * TIB,
     "Arena one principal may hold on a device; 0: three quarters of the arena."},
    {"request-bytes-max", OPTION_BYTES, AT(request_bytes_max), "0", 0, 16 * TIB,
     "Inputs and outputs of one request; 0: what the arena and bytes-per-principal allow."},
    {"sequences-max", OPTION_U32, AT(sequences_max), "65536", 1, FAS_SEQUENCES_MAX,
     "Sequences of one request."},
    {"queue-tokens-max", OPTION_U64, AT(queue_tokens_max), "64M", 1, 1e15,
     "Rows (of q and of k) held at once by all clients."},
    {"queue-flops-max", OPTION_FLOPS, AT(queue_flops_max), "1e18", 1, 1e30,
     "FLOPs held at once by all clients: half an hour of an H200 at 600 TFLOP/s. Set it to the "
     "longest wait that makes sense times the device's rate."},
    {"chunk-bytes", OPTION_BYTES32, AT(chunk_bytes), "1MiB", FAS_CHUNK_BYTES_MIN,
     FAS_CHUNK_BYTES_MAX,
     "Payload of one message. Streams are fastest from 1 to 4 MiB; larger delays a cancel more."},
    {"upload-credit-bytes", OPTION_BYTES, AT(upload_credit_bytes), "64MiB", 4 * MIB, TIB,
     "What one connection may send ahead of the daemon's reading; bounds nothing but waiting, as "
     "payload lands in its final place."},
    {"region-bytes", OPTION_BYTES, AT(region_bytes), "0", 0, 16 * TIB,
     "Shared memory of all clients together; 0: a quarter of the host's. Its pages are taken when "
     "they are first used, and count on top of the arena."},
    {"region-bytes-per-principal", OPTION_BYTES, AT(region_bytes_per_principal), "0", 0, 16 * TIB,
     "Of that, for one principal; 0: three quarters of it."},
    {"cuda-mappings-max", OPTION_U32, AT(cuda_mappings_max), "256", 1, 4096,
     "CUDA allocations of clients mapped at once. Each keeps its memory from being freed for good, "
     "so past this number the least recently used is unmapped; a request that names it again "
     "waits for it."},

    {"batch-delay", OPTION_DURATION, AT(batch_delay_us), "0", 0, SECOND,
     "How long a request may wait for others to share its launch. 0: the batch is what is there "
     "when the device becomes free, which is best while clients keep it busy."},
    {"batch-requests-max", OPTION_U32, AT(batch_requests_max), "256", 1, 4096,
     "Requests of one batch."},
    {"batch-sequences-max", OPTION_U32, AT(batch_sequences_max), "65536", 1, 1 << 20,
     "Sequences of one batch; at least sequences-max."},
    {"batch-tokens-max", OPTION_U64, AT(batch_tokens_max), "1M", 1, 1e12,
     "Rows (of q and of k) of one batch. One request alone may exceed it."},
    {"batch-flops-max", OPTION_FLOPS, AT(batch_flops_max), "0", 0, 1e30,
     "FLOPs of one batch; 0: batch-time at the rate the device was measured to have."},
    {"batch-time", OPTION_DURATION, AT(batch_us), "50ms", 100, 60 * SECOND,
     "About how long a batch may run: what an urgent request waits for at worst."},
    {"slice-time", OPTION_DURATION, AT(slice_us), "25ms", 100, 60 * SECOND,
     "About how long one launch may run. Between launches results leave, and cancels and "
     "deadlines take effect."},
    {"ageing-time", OPTION_DURATION, AT(ageing_us), "1s", 0, DAY,
     "Waiting this long raises a request one priority among its principal's; 0: never."},

    {"hello-timeout", OPTION_DURATION, AT(hello_timeout_us), "5s", 1000, DAY,
     "A connection must have said HELLO by then."},
    {"progress-timeout", OPTION_DURATION, AT(progress_timeout_us), "30s", 1000, DAY,
     "A peer in the middle of a message must send some byte within this time, or is closed; a "
     "request whose tensors do not come, or whose wait event does not come to pass, is ended."},
    {"result-timeout", OPTION_DURATION, AT(result_timeout_us), "60s", 1000, DAY,
     "A client must take some byte of a waiting result within this time, or is closed: its "
     "results hold arena that others wait for."},
    {"ping-interval", OPTION_DURATION, AT(ping_us), "15s", 0, DAY,
     "A silent connection is pinged this often, and closed when two in a row stay unanswered: "
     "the only way to notice a peer whose machine is gone. 0: never."},
    {"drain-timeout", OPTION_DURATION, AT(drain_timeout_us), "30s", 0, DAY,
     "After SIGTERM or DRAIN, how long accepted requests may take before they are answered "
     "UNAVAILABLE. Keep it below TimeoutStopSec of the unit."},
    {"launch-timeout", OPTION_DURATION, AT(launch_timeout_us), "30s", 0, DAY,
     "A launch that has not ended after this long, and a hundred times its estimate, means a "
     "device "
     "that hangs: the daemon exits, to be started again. After a tenth of it the daemon is not "
     "ready. 0: never."},

    {"retain-bytes", OPTION_BYTES, AT(retain_bytes), "0", 0, 16 * TIB,
     "Part of the arena that retained forwards may take, so that a backward sends only its "
     "gradient; 0: half of the arena. Least recently used ones make room."},
    {"retain-bytes-per-principal", OPTION_BYTES, AT(retain_bytes_per_principal), "0", 0, 16 * TIB,
     "Of that, for one principal; 0: half of it."},
    {"retain-ttl", OPTION_DURATION, AT(retain_ttl_us), "10min", SECOND, 30 * DAY,
     "A retained forward not used for this long is given up: longer than a training step."},

    {"log-level", OPTION_STRING, AT(log_level), "info", 0, 0, "debug, info, warn or error."},
};

const size_t config_row_count = COUNT(config_rows);

static const struct section_row {
    const char *title;
    const char *first; /* the option it starts before */
} sections[] = {
    {"Who may connect", "listen-ipc"},
    {"What it runs on", "device"},
    {"How much is held at once", "slots"},
    {"How work is cut", "batch-delay"},
    {"How long is too long", "hello-timeout"},
    {"Retained forwards", "retain-bytes"},
    {"Log", "log-level"},
};

const struct option_row *config_row(const char *name)
{
    for (size_t i = 0; i < config_row_count; i++) {
        if (strcmp(config_rows[i].name, name) == 0) {
            return &config_rows[i];
        }
    }
    return NULL;
}

const char *config_section(const struct option_row *row)
{
    for (size_t i = 0; i < COUNT(sections); i++) {
        if (strcmp(sections[i].first, row->name) == 0) {
            return sections[i].title;
        }
    }
    return NULL;
}

bool config_set(struct config *config, const char *name, const char *value, char *error,
                size_t error_bytes)
{
    const struct option_row *row = config_row(name);
    if (!row) {
        snprintf(error, error_bytes, "%.64s: no such option", name);
        return false;
    }
    return option_set(row, config, value, error, error_bytes);
}

void config_default(struct config *config)
{
    char error[256];
    memset(config, 0, sizeof(*config));
    for (size_t i = 0; i < config_row_count; i++) {
        bool ok = option_set(&config_rows[i], config, config_rows[i].preset, error, sizeof(error));
        assert(ok && "presets are in range");
        (void)ok;
    }
}

/* "127.0.0.1:80", "[::1]:80", "localhost:80" reach this machine only. */
static bool is_loopback(const char *address)
{
    return strncmp(address, "127.", 4) == 0 || strncmp(address, "[::1]:", 6) == 0 ||
           strncmp(address, "localhost:", 10) == 0;
}

static bool is_port(const char *text)
{
    char *end;
    unsigned long port = isdigit((unsigned char)*text) ? strtoul(text, &end, 10) : 0;
    return port >= 1 && port <= 65535 && *end == '\0';
}

static bool is_address(const char *address)
{
    const char *colon = strrchr(address, ':');
    return colon && colon != address && is_port(colon + 1);
}

bool config_check(const struct config *config, char *error, size_t error_bytes)
{
    const bool tcp = config->listen_tcp[0] != '\0';
    const bool tls = config->listen_tls[0] != '\0';
    const bool metrics = config->metrics_address[0] != '\0';
    const bool token = config->token_file[0] != '\0';
    const bool keys = config->tls_cert[0] != '\0' && config->tls_key[0] != '\0';
    const struct rule {
        bool broken;
        const char *text;
    } rules[] = {
        {tcp && !is_address(config->listen_tcp), "listen-tcp: not host:port"},
        {tls && !is_address(config->listen_tls), "listen-tls: not host:port"},
        {metrics && !is_port(config->metrics_address) && !is_address(config->metrics_address),
         "metrics-address: not host:port or a port"},
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
