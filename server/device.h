/*
 * device.h: one device as the executor uses it: memory for the arena and the scratch, and a queue
 * of work that is done in order and reported when done.
 *
 * Everything is asynchronous: upload, launch and download return at once, and the completion comes
 * from device_take after the device has called `wake` (from a thread of its own). Work that needs
 * nothing done (memory the host can reach) says so at once instead.
 *
 * Kinds of devices are rows of ops: device_cpu.c; a CUDA device has the same face.
 * Caller: the loop thread.
 */
#ifndef SERVER_DEVICE_H
#define SERVER_DEVICE_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/attn.h"
#include "proto/limits.h"
#include "proto/status.h"
#include "server/config.h"

/* Work handed over and not yet taken back: slices run one or two ahead, copies by the chunk. */
#define DEVICE_WORK_MAX 64u

enum device_kind { DEVICE_UPLOAD, DEVICE_LAUNCH, DEVICE_DOWNLOAD };

/* Rows of memory between host and arena: `height` pieces of `width` bytes. */
struct device_copy {
    uint64_t arena_offset, arena_pitch;
    uint8_t *host; /* download: where to, or NULL: a place of the device's choice */
    uint64_t width;
    uint32_t height;
};

struct device_launch {
    const struct attn_row *row;
    struct attn_launch launch; /* its arrays stay untouched until the completion */
};

struct device_completion {
    enum device_kind kind;
    uint64_t tag;
    bool failed;
    uint64_t started_us, ended_us; /* DEVICE_LAUNCH: on clock.h */
};

struct device;
typedef void device_wake(void *context);

struct device_ops {
    const char *kind; /* "cpu" of "cpu:0" */
    enum fas_status (*open)(struct device *device, const struct config *config,
                            struct fas_error *error);
    /* False: done already, no completion follows. */
    bool (*upload)(struct device *device, const struct device_copy *copy, uint64_t tag);
    bool (*download)(struct device *device, struct device_copy *copy, uint64_t tag);
    void (*launch)(struct device *device, const struct device_launch *launch, uint64_t tag);
    bool (*take)(struct device *device, struct device_completion *completion);
};

struct device {
    const struct device_ops *ops;
    char name[16]; /* "cpu:0" */
    char uuid[FAS_NAME_BYTES_MAX];
    int ordinal;
    enum attn_arch arch;
    uint8_t *arena; /* its first byte, as kernels see it */
    uint64_t arena_bytes;
    void *scratch;
    uint64_t scratch_bytes;
    bool host_reaches_arena; /* payloads land in it, and are sent from it */
    device_wake *wake;
    void *wake_context;
    void *state; /* the kind's own */
};

extern const struct device_ops device_cpu;

/* "cpu:0" -> an open device. Fields of errors: "device", "arena-bytes", ... */
enum fas_status device_open(struct device *device, const char *name, const struct config *config,
                            device_wake *wake, void *wake_context, struct fas_error *error);

#endif
