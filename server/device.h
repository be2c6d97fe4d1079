/*
 * device.h: one device as the executor uses it: memory for the arena and the scratch, and work that
 * is done in order, each kind in its own lane: uploads, launches, downloads. Nothing orders one
 * lane against another: who needs an upload before a launch waits for its completion.
 *
 * Everything is asynchronous: upload, launch and download return at once, and the completion comes
 * from device_take after the device has called `wake` (from a thread of its own). Work that needs
 * nothing done (memory the host can reach) says so at once instead. A device that failed completes
 * everything handed to it, before and after, as failed.
 *
 * Kinds of devices are rows of ops, in order of preference: device_kinds.c. Caller: the loop
 * thread.
 */
#ifndef SERVER_DEVICE_H
#define SERVER_DEVICE_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/attn.h"
#include "proto/limits.h"
#include "proto/status.h"
#include "proto/tensor.h"
#include "server/config.h"

/* Launches handed over at once, at most: one runs, one waits behind it. */
#define DEVICE_DEPTH_MAX 2u

enum device_lane {
    DEVICE_UPLOAD,
    DEVICE_LAUNCH,
    DEVICE_DOWNLOAD,
    DEVICE_LANES,
    /* No lanes, but what else a completion may be of: a client's event. */
    DEVICE_AWAIT = DEVICE_LANES,
    DEVICE_RECORD
};

/* Rows of a copy are no further apart: CUDA fails the call beyond that (cudaDeviceProp.memPitch),
 * and what fails here is a device that failed. */
#define DEVICE_PITCH_MAX INT32_MAX

/* `depth` planes (0: one) of `height` rows of `width` bytes between the arena and other memory. */
struct device_copy {
    uint64_t arena_offset, arena_pitch, arena_plane;
    uint8_t *host; /* of device->staging, of a region, or CUDA memory that was mapped */
    uint64_t host_pitch, host_plane;
    uint64_t width;
    uint32_t height, depth;
};

/* A client's event, as the mapping has it, to be recorded. */
struct device_record {
    void *event;
    uint64_t tag;
};

/* A kernel, then the sums over the sequences of each request that ends with it, then the events of
 * such. Its arrays stay untouched until the completion. */
struct device_launch {
    const struct attn_row *row;
    struct attn_launch launch; /* without sequences: nothing to compute */
    const struct attn_dsink_sum *sums;
    int32_t sum_count, record_count;
    const struct device_record *records;
};

struct device_completion {
    enum device_lane lane;
    uint64_t tag;
    bool failed;
    bool refused; /* a launch of which nothing was begun: the device is as before */
    /* On clock.h; one that waited behind another of its lane began when that was over. */
    uint64_t started_us, ended_us;
};

struct device;

#define DEVICE_HANDLE_BYTES 64u /* cudaIpcMemHandle_t, cudaIpcEventHandle_t */

/* Memory shared with a client: a region of host memory, or an allocation of another process; or an
 * event of another process. */
struct device_mapping {
    enum fas_place kind;
    bool event;            /* CUDA: it is one, not memory */
    uint64_t bytes;        /* CUDA: filled by map, from the allocation itself */
    struct device *device; /* CUDA: that opened it; region: that copies from it; NULL: none */
    uint8_t handle[DEVICE_HANDLE_BYTES];
    char uuid[FAS_NAME_BYTES_MAX]; /* CUDA: of the device it is said to be of */
    int fd;                        /* region: to be handed over; else -1 */
    uint8_t *memory; /* region: as the host sees it; CUDA: as the device does; the event itself */
    bool own;        /* CUDA: memory of this device, not of a neighbour */
};

typedef void device_wake(void *context);

struct device_ops {
    const char *kind;   /* "cpu" of "cpu:0" */
    int (*count)(void); /* devices of this kind that this machine has for `all` */
    enum fas_status (*open)(struct device *device, const struct config *config,
                            struct fas_error *error);
    /* False: done already, no completion follows. */
    bool (*upload)(struct device *device, const struct device_copy *copy, uint64_t tag);
    bool (*download)(struct device *device, const struct device_copy *copy, uint64_t tag);
    void (*launch)(struct device *device, const struct device_launch *launch, uint64_t tag);
    bool (*take)(struct device *device, struct device_completion *completion);
    /* Events of clients. await completes (DEVICE_AWAIT) when the work that was before the event
     * where it was last recorded is over, at once where it never was; failed: it can not be known.
     * No stream waits for it: what a client keeps from happening is its own loss. resign: that
     * completion, failed, without waiting any longer, unless it is on its way already. record: the
     * event is recorded behind the downloads handed over before; that and a record of a launch
     * complete (DEVICE_RECORD) as soon as streams may wait on the event. */
    void (*await)(struct device *device, void *event, uint64_t tag);
    void (*resign)(struct device *device, uint64_t tag);
    void (*record)(struct device *device, const struct device_record *record);
    /* Makes a client's memory or event known to the device, and takes that back. From the mapper's
     * thread: they may take long. NULL: the kind needs neither, and opens nothing of CUDA's. */
    enum fas_status (*map)(struct device *device, struct device_mapping *mapping,
                           struct fas_error *error);
    void (*unmap)(struct device *device, const struct device_mapping *mapping);
};

struct device {
    const struct device_ops *ops;
    char name[16]; /* "cpu:0" */
    char uuid[FAS_NAME_BYTES_MAX];
    int ordinal;
    enum attn_arch arch;
    double flops_per_us; /* a first guess, low: measured within a few launches */
    uint32_t depth;      /* launches it takes at once: 1 to DEVICE_DEPTH_MAX */
    uint8_t *arena;      /* its first byte, as kernels see it */
    uint64_t arena_bytes;
    void *scratch;
    uint64_t scratch_bytes;
    uint64_t plan_bytes;      /* room for the tile lists of a launch */
    double peer_bytes_per_us; /* copied from memory of others of its kind; 0: it can not */
    bool host_reaches_arena;  /* payloads land in it, and are sent from it */
    uint8_t *staging; /* else: device_staging_bytes of host memory that copies are fast with */
    char fault[128];  /* why it failed; set before the first failed completion */
    device_wake *wake;
    void *wake_context;
    void *state; /* the kind's own */
};

/* Ends with NULL. */
extern const struct device_ops *const device_kinds[];
extern const struct device_ops device_cpu, device_cuda;

/* Slabs of one size, in two pools (slab.h) of equal length: first uploads', then downloads'. */
uint64_t device_slab_bytes(const struct config *config);
uint64_t device_staging_bytes(const struct config *config);

/* Work that may be handed over and not yet taken back, in one lane; and completions in all. */
uint32_t device_work_max(const struct config *config);
uint32_t device_completions_max(const struct config *config);

/* "all" -> "cuda:0,cuda:1": the devices of the first kind that has any; else the list as it is. */
void device_list(const char *option, char *list, size_t bytes);

/* "cpu:0" -> an open device. Fields of errors: "device", "arena-bytes", ... */
enum fas_status device_open(struct device *device, const char *name, const struct config *config,
                            device_wake *wake, void *wake_context, struct fas_error *error);

/* Memory for arena and scratch of so many bytes in all -> how it is divided; `scratch-bytes` that
 * leave nothing are refused. */
enum fas_status device_divide(struct device *device, const struct config *config, uint64_t bytes,
                              struct fas_error *error);

#endif
