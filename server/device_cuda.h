/* device_cuda.h: what the two files of a GPU's device share. */
#ifndef SERVER_DEVICE_CUDA_H
#define SERVER_DEVICE_CUDA_H

#include "server/device.h"

/* Of the device of that number, as the daemon sees them; "": there is none. */
void device_cuda_uuid(int ordinal, char uuid[FAS_NAME_BYTES_MAX]);

enum fas_status device_cuda_map(struct device *device, struct device_mapping *mapping,
                                struct fas_error *error);
void device_cuda_unmap(struct device *device, const struct device_mapping *mapping);

#endif
