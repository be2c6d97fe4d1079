/* device.c: from a name to an open device: the table of kinds. */
#include "server/device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct device_ops *const kinds[] = {&device_cpu};

enum fas_status device_open(struct device *device, const char *name, const struct config *config,
                            device_wake *wake, void *wake_context, struct fas_error *error)
{
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        size_t bytes = strlen(kinds[i]->kind);
        char *end;
        if (strncmp(name, kinds[i]->kind, bytes) != 0 || name[bytes] != ':') {
            continue;
        }
        long ordinal = strtol(name + bytes + 1, &end, 10);
        if (end == name + bytes + 1 || *end != '\0' || ordinal < 0 || ordinal > 255) {
            break;
        }
        *device = (struct device){
            .ops = kinds[i], .ordinal = (int)ordinal, .wake = wake, .wake_context = wake_context};
        snprintf(device->name, sizeof device->name, "%s:%ld", kinds[i]->kind, ordinal);
        return device->ops->open(device, config, error);
    }
    return fas_fail(error, FAS_INVALID_ARGUMENT, "device", "no device \"%s\" in this build", name);
}
