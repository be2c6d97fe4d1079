/* wire_codec.c: see wire_codec.h. */
#include "proto/wire_codec.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>

#include "proto/budget.h"
#include "proto/limits.h"

static enum fas_status fail_unpack(const struct budget *budget, const char *message,
                                   struct fas_error *error)
{
    if (budget->starved) {
        return fas_fail(error, FAS_RESOURCE_EXHAUSTED, "header", "no memory to decode a %s",
                        message);
    }
    if (budget->overdrawn) {
        return fas_fail(error, FAS_INVALID_ARGUMENT, "header",
                        "decoding this %s takes more than %u bytes", message, FAS_DECODE_BYTES_MAX);
    }
    return fas_fail(error, FAS_INVALID_ARGUMENT, "header", "is not a %s", message);
}

enum fas_status codec_decode(const ProtobufCMessageDescriptor *descriptor, const uint8_t *in,
                             size_t bytes, codec_read read, void *out, struct fas_error *error)
{
    if (bytes > FAS_HEADER_BYTES_MAX) {
        return fas_fail(error, FAS_INVALID_ARGUMENT, "header", "%zu bytes, at most %u", bytes,
                        FAS_HEADER_BYTES_MAX);
    }
    struct budget budget;
    budget_open(&budget, FAS_DECODE_BYTES_MAX);
    ProtobufCAllocator allocator = {budget_alloc, budget_free, &budget};
    ProtobufCMessage *message = protobuf_c_message_unpack(descriptor, &allocator, bytes, in);
    if (message == NULL) {
        return fail_unpack(&budget, descriptor->short_name, error);
    }
    enum fas_status status = read(message, out, error);
    protobuf_c_message_free_unpacked(message, &allocator);
    return status;
}

enum fas_status codec_check(const struct codec_range *ranges, size_t count, struct fas_error *error)
{
    for (size_t i = 0; i < count; i++) {
        const struct codec_range *range = &ranges[i];
        if (range->value < range->min || range->value > range->max) {
            return fas_fail(error, FAS_INVALID_ARGUMENT, range->field,
                            "%" PRIu64 " is not in %" PRIu64 " .. %" PRIu64, range->value,
                            range->min, range->max);
        }
    }
    return FAS_OK;
}

uint64_t codec_clamp(uint64_t value, uint64_t min, uint64_t max)
{
    return value < min ? min : value > max ? max : value;
}

void codec_take_string(char *out, size_t room, const char *in)
{
    size_t length = strnlen(in, room);
    if (length == room) {
        length = room - 1;
        while (length > 0 && ((unsigned char)in[length] & 0xc0) == 0x80) {
            length--;
        }
    }
    memcpy(out, in, length);
    memset(out + length, 0, room - length);
}

enum fas_status codec_take_bytes(uint8_t *out, size_t bytes, const ProtobufCBinaryData *in,
                                 const char *field, bool *has, struct fas_error *error)
{
    *has = in->len != 0;
    if (in->len != 0 && in->len != bytes) {
        return fas_fail(error, FAS_INVALID_ARGUMENT, field, "%zu bytes, not %zu", in->len, bytes);
    }
    memset(out, 0, bytes);
    if (*has) {
        memcpy(out, in->data, bytes);
    }
    return FAS_OK;
}

ProtobufCBinaryData codec_give_bytes(const uint8_t *bytes, size_t count)
{
    return (ProtobufCBinaryData){.len = count, .data = (uint8_t *)bytes};
}

char *codec_give_string(const char *string)
{
    return (char *)string;
}

size_t codec_encode(const ProtobufCMessage *message, uint8_t *out)
{
    assert(protobuf_c_message_get_packed_size(message) <= FAS_HEADER_BYTES_MAX);
    return protobuf_c_message_pack(message, out);
}
