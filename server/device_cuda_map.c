/*
 * device_cuda_map.c: what clients share with a GPU: regions are pinned, allocations and events of
 * theirs are opened by IPC handle. On the mapper's thread.
 */
#include "server/device_cuda.h"

#include <assert.h>
#include <cuda_runtime_api.h>
#include <stdio.h>
#include <string.h>

#include "server/log.h"

void device_cuda_uuid(int ordinal, char uuid[FAS_NAME_BYTES_MAX])
{
    struct cudaDeviceProp properties;
    uuid[0] = '\0';
    if (cudaGetDeviceProperties(&properties, ordinal) != cudaSuccess) {
        cudaGetLastError();
        return;
    }
    const uint8_t *u = (const uint8_t *)properties.uuid.bytes;
    snprintf(uuid, FAS_NAME_BYTES_MAX,
             "GPU-%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", u[0], u[1],
             u[2], u[3], u[4], u[5], u[6], u[7], u[8], u[9], u[10], u[11], u[12], u[13], u[14],
             u[15]);
}

/* Of this device, or of another one that is here. That memory is where its client says can not be
 * known: the driver names the device that opened the handle. */
static enum fas_status check_uuid(const struct device *device, const char *uuid,
                                  struct fas_error *error)
{
    char there[FAS_NAME_BYTES_MAX];
    int count = 0;
    bool found = strcmp(device->uuid, uuid) == 0;
    if (!found && cudaGetDeviceCount(&count) != cudaSuccess) {
        cudaGetLastError();
    }
    for (int i = 0; i < count && !found; i++) {
        device_cuda_uuid(i, there);
        found = strcmp(there, uuid) == 0;
    }
    return found ? FAS_OK
                 : fas_fail(error, FAS_INVALID_ARGUMENT, "device_uuid",
                            "no GPU that this server sees is \"%s\"", uuid);
}

/* How long an allocation is: the driver's word. The runtime has no name for that. */
static bool measure(uint8_t *memory, uint64_t *bytes)
{
    typedef int range(uintptr_t * base, size_t * bytes, uintptr_t memory);
    void *entry = NULL;
    range *function = NULL;
    uintptr_t base = 0;
    size_t length = 0;
    if (cudaGetDriverEntryPointByVersion("cuMemGetAddressRange", &entry, 12000, cudaEnableDefault,
                                         NULL) != cudaSuccess ||
        !entry) {
        return false;
    }
    memcpy(&function, &entry, sizeof function);
    bool known = function(&base, &length, (uintptr_t)memory) == 0;
    *bytes = length - ((uintptr_t)memory - base);
    return known;
}

static enum fas_status open_allocation(struct device *device, struct device_mapping *mapping,
                                       struct fas_error *error)
{
    cudaIpcMemHandle_t handle;
    void *memory = NULL;
    static_assert(sizeof handle == DEVICE_HANDLE_BYTES, "the runtime's handle");
    memcpy(&handle, mapping->handle, sizeof handle);
    cudaError_t result = cudaIpcOpenMemHandle(&memory, handle, cudaIpcMemLazyEnablePeerAccess);
    if (result != cudaSuccess) {
        cudaGetLastError(); /* it is the client's, and not to be found by the next launch */
        return fas_fail(error, FAS_INVALID_ARGUMENT, "cuda_memory", "%s can not open it: %s",
                        device->name, cudaGetErrorString(result));
    }
    /* Kernels that take a neighbour's memory for their own are 14 times slower (H200). */
    mapping->own = strcmp(mapping->uuid, device->uuid) == 0;
    if (!measure(memory, &mapping->bytes)) {
        cudaIpcCloseMemHandle(memory);
        return fas_fail(error, FAS_INVALID_ARGUMENT, "cuda_memory", "%s does not know its length",
                        device->name);
    }
    mapping->memory = memory;
    return FAS_OK;
}

static enum fas_status open_event(struct device *device, struct device_mapping *mapping,
                                  struct fas_error *error)
{
    cudaIpcEventHandle_t handle;
    cudaEvent_t event = NULL;
    static_assert(sizeof handle == DEVICE_HANDLE_BYTES, "the runtime's handle");
    memcpy(&handle, mapping->handle, sizeof handle);
    cudaError_t result = cudaIpcOpenEventHandle(&event, handle);
    if (result != cudaSuccess) {
        cudaGetLastError();
        return fas_fail(error, FAS_INVALID_ARGUMENT, "cuda_event", "%s can not open it: %s",
                        device->name, cudaGetErrorString(result));
    }
    mapping->memory = (uint8_t *)(void *)event;
    return FAS_OK;
}

enum fas_status device_cuda_map(struct device *device, struct device_mapping *mapping,
                                struct fas_error *error)
{
    cudaSetDevice(device->ordinal);
    if (mapping->kind == FAS_PLACE_CUDA && check_uuid(device, mapping->uuid, error) != FAS_OK) {
        return error->status;
    }
    if (mapping->kind == FAS_PLACE_CUDA) {
        return mapping->event ? open_event(device, mapping, error)
                              : open_allocation(device, mapping, error);
    }
    cudaError_t result =
        cudaHostRegister(mapping->memory, mapping->bytes, cudaHostRegisterPortable);
    if (result != cudaSuccess) {
        cudaGetLastError();
        return fas_fail(error, FAS_RESOURCE_EXHAUSTED, "bytes", "%llu can not be pinned: %s",
                        (unsigned long long)mapping->bytes, cudaGetErrorString(result));
    }
    return FAS_OK;
}

void device_cuda_unmap(struct device *device, const struct device_mapping *mapping)
{
    cudaSetDevice(device->ordinal);
    cudaError_t result = mapping->event ? cudaEventDestroy((cudaEvent_t)(void *)mapping->memory)
                         : mapping->kind == FAS_PLACE_CUDA ? cudaIpcCloseMemHandle(mapping->memory)
                                                           : cudaHostUnregister(mapping->memory);
    if (result != cudaSuccess) {
        cudaGetLastError();
        log_warn("unmap_failed", log_str("device", device->name),
                 log_str("reason", cudaGetErrorString(result)));
    }
}
