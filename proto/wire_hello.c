/*
 * wire_hello.c: HELLO and HELLO_ACK: who speaks which versions, within which limits. HELLO never
 * changes shape, so that any two versions can find out that they do not match.
 */
#include "proto/wire.h"

#include <inttypes.h>
#include <string.h>

#include <faserve.pb-c.h>

#include "proto/wire_codec.h"

static Faserve__V1__Limits limits_message(const struct wire_limits *limits)
{
    Faserve__V1__Limits message = FASERVE__V1__LIMITS__INIT;
    message.requests_in_flight = limits->requests_in_flight;
    message.chunk_bytes = limits->chunk_bytes;
    message.request_bytes = limits->request_bytes;
    message.sequences = limits->sequences;
    message.retain_bytes = limits->retain_bytes;
    return message;
}

static void read_limits(const Faserve__V1__Limits *message, struct wire_limits *limits)
{
    limits->requests_in_flight = message->requests_in_flight;
    limits->chunk_bytes = message->chunk_bytes;
    limits->request_bytes = message->request_bytes;
    limits->sequences = message->sequences;
    limits->retain_bytes = message->retain_bytes;
}

size_t wire_encode_hello(const struct wire_hello *hello, uint8_t *out)
{
    Faserve__V1__Limits wanted = limits_message(&hello->wanted);
    Faserve__V1__Hello message = FASERVE__V1__HELLO__INIT;
    message.version_min = hello->version_min;
    message.version_max = hello->version_max;
    message.client = codec_give_string(hello->client);
    message.token = codec_give_bytes(hello->token, hello->token_bytes);
    message.wanted = &wanted;
    message.result_credit_bytes = hello->result_credit_bytes;
    message.join = codec_give_bytes(hello->join, hello->has_join ? FAS_NONCE_BYTES : 0);
    return codec_encode(&message.base, out);
}

static enum fas_status read_hello(const void *in, void *out, struct fas_error *error)
{
    const Faserve__V1__Hello *message = in;
    struct wire_hello *hello = out;
    const struct codec_range ranges[] = {
        {"version_min", message->version_min, 1, UINT32_MAX},
        {"version_max", message->version_max, message->version_min, UINT32_MAX},
        {"token", message->token.len, 0, FAS_TOKEN_BYTES_MAX},
    };
    enum fas_status status = codec_check(ranges, COUNT(ranges), error);
    if (status != FAS_OK) {
        return status;
    }
    *hello = (struct wire_hello){.version_min = message->version_min,
                                 .version_max = message->version_max,
                                 .token_bytes = (uint32_t)message->token.len};
    codec_take_string(hello->client, sizeof hello->client, message->client);
    if (message->token.len != 0) {
        memcpy(hello->token, message->token.data, message->token.len);
    }
    if (message->wanted != NULL) {
        read_limits(message->wanted, &hello->wanted);
    }
    struct wire_limits *wanted = &hello->wanted;
    if (wanted->chunk_bytes != 0) {
        wanted->chunk_bytes =
            (uint32_t)codec_clamp(wanted->chunk_bytes, FAS_CHUNK_BYTES_MIN, FAS_CHUNK_BYTES_MAX);
    }
    wanted->sequences = (uint32_t)codec_clamp(wanted->sequences, 0, FAS_SEQUENCES_MAX);
    hello->result_credit_bytes = codec_clamp(message->result_credit_bytes, 0, FAS_CREDIT_BYTES_MAX);
    return codec_take_bytes(hello->join, FAS_NONCE_BYTES, &message->join, "join", &hello->has_join,
                            error);
}

enum fas_status wire_decode_hello(const uint8_t *in, size_t bytes, struct wire_hello *hello,
                                  struct fas_error *error)
{
    return codec_decode(&faserve__v1__hello__descriptor, in, bytes, read_hello, hello, error);
}

enum fas_status wire_version_pick(const struct wire_hello *hello, uint32_t *version,
                                  struct fas_error *error)
{
    if (hello->version_min > FAS_VERSION_MAX || hello->version_max < FAS_VERSION_MIN) {
        return fas_fail(error, FAS_UNSUPPORTED, "version_min",
                        "the client speaks versions %" PRIu32 " to %" PRIu32
                        ", the server %u to %u",
                        hello->version_min, hello->version_max, FAS_VERSION_MIN, FAS_VERSION_MAX);
    }
    *version = (uint32_t)codec_clamp(hello->version_max, 0, FAS_VERSION_MAX);
    return FAS_OK;
}

static Faserve__V1__Device device_message(const struct wire_device *device)
{
    Faserve__V1__Device message = FASERVE__V1__DEVICE__INIT;
    message.name = codec_give_string(device->name);
    message.uuid = codec_give_string(device->uuid);
    message.arch = codec_give_string(device->arch);
    message.arena_bytes = device->arena_bytes;
    return message;
}

static Faserve__V1__Kernel kernel_message(const struct wire_kernel *kernel)
{
    Faserve__V1__Kernel message = FASERVE__V1__KERNEL__INIT;
    message.name = codec_give_string(kernel->name);
    message.arch = codec_give_string(kernel->arch);
    message.pass = kernel->pass;
    message.dtypes = kernel->dtypes;
    message.d_min = (uint32_t)kernel->d_min;
    message.d_max = (uint32_t)kernel->d_max;
    message.dv_min = (uint32_t)kernel->dv_min;
    message.dv_max = (uint32_t)kernel->dv_max;
    return message;
}

size_t wire_encode_hello_ack(const struct wire_hello_ack *ack, uint8_t *out)
{
    assert(ack->device_count <= FAS_DEVICES_MAX && ack->kernel_count <= FAS_KERNELS_MAX);
    Faserve__V1__Device devices[FAS_DEVICES_MAX], *device_rows[FAS_DEVICES_MAX];
    for (uint32_t i = 0; i < ack->device_count; i++) {
        devices[i] = device_message(&ack->devices[i]);
        device_rows[i] = &devices[i];
    }
    Faserve__V1__Kernel kernels[FAS_KERNELS_MAX], *kernel_rows[FAS_KERNELS_MAX];
    for (uint32_t i = 0; i < ack->kernel_count; i++) {
        kernels[i] = kernel_message(&ack->kernels[i]);
        kernel_rows[i] = &kernels[i];
    }
    Faserve__V1__Limits limits = limits_message(&ack->limits);
    Faserve__V1__HelloAck message = FASERVE__V1__HELLO_ACK__INIT;
    message.version = ack->version;
    message.server = codec_give_string(ack->server);
    message.limits = &limits;
    message.upload_credit_bytes = ack->upload_credit_bytes;
    message.n_devices = ack->device_count;
    message.devices = device_rows;
    message.n_kernels = ack->kernel_count;
    message.kernels = kernel_rows;
    message.nonce = codec_give_bytes(ack->nonce, FAS_NONCE_BYTES);
    return codec_encode(&message.base, out);
}

static enum fas_status read_kernel(const Faserve__V1__Kernel *message, struct wire_kernel *kernel,
                                   struct fas_error *error)
{
    const struct codec_range ranges[] = {
        {"kernels.pass", message->pass, FAS_FORWARD, FAS_BACKWARD},
        {"kernels.d_min", message->d_min, FAS_HEAD_DIM_MIN, FAS_HEAD_DIM_MAX},
        {"kernels.d_max", message->d_max, message->d_min, FAS_HEAD_DIM_MAX},
        {"kernels.dv_min", message->dv_min, FAS_HEAD_DIM_MIN, FAS_HEAD_DIM_MAX},
        {"kernels.dv_max", message->dv_max, message->dv_min, FAS_HEAD_DIM_MAX},
    };
    kernel->pass = (enum fas_pass)message->pass;
    kernel->dtypes = message->dtypes;
    kernel->d_min = (int32_t)message->d_min;
    kernel->d_max = (int32_t)message->d_max;
    kernel->dv_min = (int32_t)message->dv_min;
    kernel->dv_max = (int32_t)message->dv_max;
    codec_take_string(kernel->name, sizeof kernel->name, message->name);
    codec_take_string(kernel->arch, sizeof kernel->arch, message->arch);
    return codec_check(ranges, COUNT(ranges), error);
}

static enum fas_status check_hello_ack(const Faserve__V1__HelloAck *message,
                                       struct fas_error *error)
{
    if (message->version < FAS_VERSION_MIN || message->version > FAS_VERSION_MAX) {
        return fas_fail(error, FAS_UNSUPPORTED, "version",
                        "the server chose %" PRIu32 ", this side speaks %u to %u", message->version,
                        FAS_VERSION_MIN, FAS_VERSION_MAX);
    }
    if (message->limits == NULL) {
        return fas_fail(error, FAS_INVALID_ARGUMENT, "limits", "missing");
    }
    const struct codec_range ranges[] = {
        {"limits.requests_in_flight", message->limits->requests_in_flight, 1, UINT32_MAX},
        {"limits.chunk_bytes", message->limits->chunk_bytes, FAS_CHUNK_BYTES_MIN,
         FAS_CHUNK_BYTES_MAX},
        {"limits.sequences", message->limits->sequences, 1, FAS_SEQUENCES_MAX},
        {"upload_credit_bytes", message->upload_credit_bytes, 0, FAS_CREDIT_BYTES_MAX},
        {"devices", message->n_devices, 0, FAS_DEVICES_MAX},
        {"kernels", message->n_kernels, 0, FAS_KERNELS_MAX},
        {"nonce", message->nonce.len, FAS_NONCE_BYTES, FAS_NONCE_BYTES},
    };
    return codec_check(ranges, COUNT(ranges), error);
}

static enum fas_status read_hello_ack(const void *in, void *out, struct fas_error *error)
{
    const Faserve__V1__HelloAck *message = in;
    struct wire_hello_ack *ack = out;
    enum fas_status status = check_hello_ack(message, error);
    if (status != FAS_OK) {
        return status;
    }
    *ack = (struct wire_hello_ack){.version = message->version,
                                   .upload_credit_bytes = message->upload_credit_bytes,
                                   .device_count = (uint32_t)message->n_devices,
                                   .kernel_count = (uint32_t)message->n_kernels};
    codec_take_string(ack->server, sizeof ack->server, message->server);
    memcpy(ack->nonce, message->nonce.data, FAS_NONCE_BYTES);
    read_limits(message->limits, &ack->limits);
    for (size_t i = 0; i < message->n_devices; i++) {
        struct wire_device *device = &ack->devices[i];
        codec_take_string(device->name, sizeof device->name, message->devices[i]->name);
        codec_take_string(device->uuid, sizeof device->uuid, message->devices[i]->uuid);
        codec_take_string(device->arch, sizeof device->arch, message->devices[i]->arch);
        device->arena_bytes = message->devices[i]->arena_bytes;
    }
    for (size_t i = 0; status == FAS_OK && i < message->n_kernels; i++) {
        status = read_kernel(message->kernels[i], &ack->kernels[i], error);
    }
    return status;
}

enum fas_status wire_decode_hello_ack(const uint8_t *in, size_t bytes, struct wire_hello_ack *ack,
                                      struct fas_error *error)
{
    return codec_decode(&faserve__v1__hello_ack__descriptor, in, bytes, read_hello_ack, ack, error);
}
