/*
 * config.h: what an operator may choose. Each option is one row of the table in config.c (name,
 * kind, default, range, help with the reason of the default); the row alone makes it a flag, a line
 * of the file, a line of --print-config and of --help.
 *
 *   defaults  <  file (--config FILE, else /etc/faserve/faserved.conf if it exists)  <  flags
 *
 * A file has lines `name = value`; # starts a comment. An unknown option, or a value of the wrong
 * kind or out of range, is refused with file and line (or the flag) and the daemon does not start.
 * Kinds and their spellings:
 *   bytes     4096, 64KiB, 1GiB       duration  250us, 25ms, 5s, 10min, 1h (a unit is needed)
 *   count     1000, 64k, 1M, 2e15     bool      true, false (a flag alone means true)
 *   mode      0660 (octal)            string    to the end of the line
 *
 * Read once, at start, by main; constant afterwards. config_read.c reads, config_print.c writes.
 */
#ifndef SERVER_CONFIG_H
#define SERVER_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define CONFIG_TEXT_BYTES_MAX 256u /* a path; unix sockets end at 108 anyway */

struct config {
    /* Who may connect. Empty text: off. */
    char listen_ipc[CONFIG_TEXT_BYTES_MAX]; /* "auto": config_ipc_path */
    char ipc_group[CONFIG_TEXT_BYTES_MAX];
    uint32_t ipc_mode;
    char listen_tcp[CONFIG_TEXT_BYTES_MAX]; /* host:port */
    char listen_tls[CONFIG_TEXT_BYTES_MAX]; /* host:port */
    char tls_cert[CONFIG_TEXT_BYTES_MAX], tls_key[CONFIG_TEXT_BYTES_MAX];
    char tls_ca[CONFIG_TEXT_BYTES_MAX]; /* set: clients must show a certificate it signed */
    char token_file[CONFIG_TEXT_BYTES_MAX];
    char share_with[CONFIG_TEXT_BYTES_MAX]; /* share.h */
    bool insecure;
    char metrics_address[CONFIG_TEXT_BYTES_MAX]; /* host:port or port of /metrics and health */

    /* What it runs on. */
    char device[CONFIG_TEXT_BYTES_MAX]; /* "all", or a comma separated list: cpu:0,cuda:1 */
    uint32_t cpu_threads;               /* 0: one per core */
    uint64_t arena_bytes;               /* per device; 0: by the device's memory */
    uint64_t scratch_bytes;             /* per device, out of the arena; 0: an eighth of it */
    uint64_t plan_bytes;                /* per GPU, and pinned on the host */
    uint64_t spin_us;                   /* 0: by processors and devices */

    /* How much is held at once. */
    uint32_t slots; /* requests, of all clients, from REQUEST to DONE */
    uint32_t connections_max;
    uint32_t io_threads;
    uint32_t requests_per_connection;
    uint32_t requests_per_principal;
    uint64_t bytes_per_principal; /* of each arena; 0: three quarters of it */
    uint64_t request_bytes_max;   /* 0: what the arena can hold */
    uint32_t sequences_max;
    uint64_t queue_tokens_max;
    double queue_flops_max;
    uint32_t chunk_bytes;
    uint64_t upload_credit_bytes;        /* per connection */
    uint64_t region_bytes;               /* 0: a quarter of the host's memory */
    uint64_t region_bytes_per_principal; /* 0: three quarters of that */
    uint32_t cuda_mappings_max;

    /* How work is cut. */
    uint64_t batch_delay_us;
    uint32_t batch_requests_max;
    uint32_t batch_sequences_max;
    uint64_t batch_tokens_max;
    double batch_flops_max; /* 0: batch_us worth of work at the measured rate */
    uint64_t batch_us;
    uint64_t slice_us;
    uint64_t ageing_us;

    /* How long is too long. */
    uint64_t hello_timeout_us;
    uint64_t progress_timeout_us;
    uint64_t result_timeout_us;
    uint64_t ping_us;
    uint64_t drain_timeout_us;
    uint64_t launch_timeout_us; /* 0: never */

    /* Retained forwards. */
    uint64_t retain_bytes; /* per device, out of the arena; 0: half of it */
    uint64_t retain_bytes_per_principal;
    uint64_t retain_ttl_us;

    char log_level[16];
};

enum config_action {
    CONFIG_RUN,
    CONFIG_PRINT, /* --print-config: the effective options, as a file that reads back the same */
    CONFIG_CHECK, /* --check-config: exit 0, all is well */
    CONFIG_HELP,
    CONFIG_VERSION,
    CONFIG_BASELINE, /* --baseline SPEC: time the kernels in process; baseline.h */
    CONFIG_REFUSED   /* error says why */
};

struct config_command {
    enum config_action action;
    const char *baseline; /* argument of --baseline: points into argv */
    char error[512];      /* "faserved.conf:12: ..." */
};

/* Places beyond connections-max, for peers that are greeted only to be told that it is reached.
 * Once one of these is taken, who has not said HELLO makes way; with all of them taken, a newcomer
 * is closed without a word. Who stays may be in any of them. */
#define CONNECTIONS_SPARE 8u

static inline uint32_t config_connections(const struct config *config)
{
    return config->connections_max + CONNECTIONS_SPARE;
}

/* Defaults, then the file, then the flags, then the rules between options. */
struct config_command config_open(struct config *config, int argc, char **argv);

/* All defaults. */
void config_default(struct config *config);

/* Sets one option from text; false with *error filled if it is unknown or ill-typed. */
bool config_set(struct config *config, const char *name, const char *value, char *error,
                size_t error_bytes);

/*
 * Rules between options (tcp needs a token file, a slice is no longer than a batch, ...): false
 * with the error naming the option.
 */
bool config_check(const struct config *config, char *error, size_t error_bytes);

/*
 * Path of the unix socket with "auto" resolved; false if there is no place for one (then say
 * --listen-ipc) or it does not fit.
 */
bool config_ipc_path(const struct config *config, char *path, size_t bytes);

/* --print-config: with comments, deploy/faserved.conf is this output for the defaults. */
void config_print(const struct config *config, FILE *out);
void config_help(FILE *out);

#endif
