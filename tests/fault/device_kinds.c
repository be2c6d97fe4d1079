/* device_kinds.c: the kinds of devices of the daemon that tests make fail. */
#include <stddef.h>

#include "server/device.h"

extern const struct device_ops device_far;

const struct device_ops *const device_kinds[] = {&device_cpu, &device_far, NULL};
