/* device.c: from a name to an open device, and what all kinds agree on. */
#include "server/device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/arena.h"
#include "server/slab.h"

/* A slow core. */
#define FLOPS_PER_US_FIRST 1e4
/* Without scratch-bytes: as the option's help says. */
#define SCRATCH_PART 8u

uint64_t device_slab_bytes(const struct config *config)
{
    return config->chunk_bytes > FAS_ROW_BYTES_MAX ? config->chunk_bytes : FAS_ROW_BYTES_MAX;
}

uint64_t device_staging_bytes(const struct config *config)
{
    return 2u * slab_count(config_connections(config)) * device_slab_bytes(config);
}

uint32_t device_work_max(const struct config *config)
{
    return slab_count(config_connections(config)) + (FAS_TENSOR_COUNT + 1u) * config->slots +
           DEVICE_DEPTH_MAX; /* 1: a done event behind the downloads */
}

uint32_t device_completions_max(const struct config *config)
{
    return DEVICE_LANES * device_work_max(config) + 2u * config->slots;
}

void device_list(const char *option, char *list, size_t bytes)
{
    size_t used = 0;
    snprintf(list, bytes, "%s", option);
    if (strcmp(option, "all") != 0) {
        return;
    }
    for (size_t i = 0; device_kinds[i] && used == 0; i++) {
        int count = device_kinds[i]->count();
        for (int n = 0; n < count && used < bytes; n++) {
            used += (size_t)snprintf(list + used, bytes - used, "%s%s:%d", n > 0 ? "," : "",
                                     device_kinds[i]->kind, n);
        }
    }
}

enum fas_status device_divide(struct device *device, const struct config *config, uint64_t bytes,
                              struct fas_error *error)
{
    bytes &= ~(ARENA_ALIGN - 1);
    uint64_t scratch = config->scratch_bytes ? config->scratch_bytes : bytes / SCRATCH_PART;
    scratch = (scratch + ARENA_ALIGN - 1) & ~(ARENA_ALIGN - 1);
    if (scratch >= bytes) {
        return fas_fail(error, FAS_INVALID_ARGUMENT, "scratch-bytes",
                        "leaves nothing of the arena");
    }
    device->arena_bytes = bytes - scratch;
    device->scratch_bytes = scratch;
    return FAS_OK;
}

enum fas_status device_open(struct device *device, const char *name, const struct config *config,
                            device_wake *wake, void *wake_context, struct fas_error *error)
{
    for (size_t i = 0; device_kinds[i]; i++) {
        size_t bytes = strlen(device_kinds[i]->kind);
        char *end;
        if (strncmp(name, device_kinds[i]->kind, bytes) != 0 || name[bytes] != ':') {
            continue;
        }
        long ordinal = strtol(name + bytes + 1, &end, 10);
        if (end == name + bytes + 1 || *end != '\0' || ordinal < 0 || ordinal > 255) {
            break;
        }
        *device = (struct device){.ops = device_kinds[i],
                                  .ordinal = (int)ordinal,
                                  .flops_per_us = FLOPS_PER_US_FIRST,
                                  .depth = 1,
                                  .plan_bytes = UINT64_MAX,
                                  .wake = wake,
                                  .wake_context = wake_context};
        snprintf(device->name, sizeof device->name, "%s:%ld", device_kinds[i]->kind, ordinal);
        return device->ops->open(device, config, error);
    }
    return fas_fail(error, FAS_INVALID_ARGUMENT, "device", "no device \"%s\" in this build", name);
}
