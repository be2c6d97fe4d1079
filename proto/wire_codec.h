/*
 * wire_codec.h: what the wire_*.c files share: one protobuf header in, one out. Private to them;
 * these files are the only home of protobuf-c.
 *
 * Encoding: a generated message on the stack points into the caller's struct and is packed.
 * Decoding: codec_decode unpacks within a budget, hands the message to one read function, which
 * checks it into the caller's struct, and frees it. Ranges are rows.
 */
#ifndef FAS_WIRE_CODEC_H
#define FAS_WIRE_CODEC_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <protobuf-c/protobuf-c.h>

#include "proto/status.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* From an unpacked message to a struct of wire.h. */
typedef enum fas_status (*codec_read)(const void *message, void *out, struct fas_error *error);

enum fas_status codec_decode(const ProtobufCMessageDescriptor *descriptor, const uint8_t *in,
                             size_t bytes, codec_read read, void *out, struct fas_error *error);
size_t codec_encode(const ProtobufCMessage *message, uint8_t *out);

/* One number and what it may be. */
struct codec_range {
    const char *field;
    uint64_t value, min, max;
};

/* The first number out of its range is the error. */
enum fas_status codec_check(const struct codec_range *ranges, size_t count,
                            struct fas_error *error);
uint64_t codec_clamp(uint64_t value, uint64_t min, uint64_t max);

/* Cut to the room there is, at a character: strings in protobuf are UTF-8 or nothing. */
void codec_take_string(char *out, size_t room, const char *in);

/* Exactly `bytes` bytes, or none; *has says which. */
enum fas_status codec_take_bytes(uint8_t *out, size_t bytes, const ProtobufCBinaryData *in,
                                 const char *field, bool *has, struct fas_error *error);

/* For messages to be packed: protobuf-c packs from pointers to non-const and writes to none. */
ProtobufCBinaryData codec_give_bytes(const uint8_t *bytes, size_t count);
char *codec_give_string(const char *string);

#endif
