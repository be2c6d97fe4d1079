/* device_kinds.c: the kinds of devices of this build, best first. */
#include <stddef.h>

#include "server/device.h"

const struct device_ops *const device_kinds[] = {
#ifdef FAS_HAVE_CUDA
    &device_cuda,
#endif
    &device_cpu,
    NULL,
};
