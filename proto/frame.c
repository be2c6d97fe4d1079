/*
 * frame.c: the one table of message types, and the prefix and preamble written and read by it.
 * Both ends check with the same row: the writer by assert, the reader with a status.
 */
#include "proto/frame.h"

#include <endian.h>
#include <inttypes.h>
#include <string.h>

#include "proto/tensor.h"

#define IPC_MESSAGE 0x01u /* nng's ipc transport puts this byte before the length */

const uint8_t frame_sp_hello[FRAME_SP_HELLO_BYTES] = {0x00, 'S', 'P', 0x00, 0x00, 0x10, 0x00, 0x00};

enum presence { NONE, MAY, MUST };

enum { CLIENT = 1u << FRAME_CLIENT, SERVER = 1u << FRAME_SERVER, BOTH = CLIENT | SERVER };

/* What a type carries. request NONE: it is 0, MUST: it is not 0. tensor: flags is a fas_tensor. */
struct frame_row {
    const char *name;
    unsigned senders;
    enum presence request, header, payload;
    uint32_t payload_bytes_max;
    bool tensor, chunk;
};

static const struct frame_row frame_rows[FRAME_TYPE_COUNT] = {
    [FRAME_HELLO] = {"HELLO", CLIENT, NONE, MAY, NONE, 0, false, false},
    [FRAME_HELLO_ACK] = {"HELLO_ACK", SERVER, NONE, MAY, NONE, 0, false, false},
    [FRAME_OPEN] = {"OPEN", CLIENT, MUST, MAY, NONE, 0, false, false},
    [FRAME_OPENED] = {"OPENED", SERVER, MUST, MAY, NONE, 0, false, false},
    [FRAME_CLOSE] = {"CLOSE", CLIENT, MUST, MAY, NONE, 0, false, false},
    [FRAME_CLOSED] = {"CLOSED", SERVER, MUST, NONE, NONE, 0, false, false},
    [FRAME_REQUEST] = {"REQUEST", CLIENT, MUST, MAY, MAY, FAS_LENGTHS_BYTES_MAX, false, false},
    [FRAME_DATA] = {"DATA", CLIENT, MUST, NONE, MUST, FAS_CHUNK_BYTES_MAX, true, true},
    [FRAME_ENQUEUED] = {"ENQUEUED", SERVER, MUST, NONE, NONE, 0, false, false},
    [FRAME_RESULT] = {"RESULT", SERVER, MUST, MAY, MAY, FAS_CHUNK_BYTES_MAX, true, false},
    [FRAME_DONE] = {"DONE", SERVER, MUST, MAY, NONE, 0, false, false},
    [FRAME_ERROR] = {"ERROR", SERVER, MAY, MAY, NONE, 0, false, false},
    [FRAME_RELEASE] = {"RELEASE", CLIENT, NONE, MAY, NONE, 0, false, false},
    [FRAME_CREDIT] = {"CREDIT", BOTH, NONE, MAY, NONE, 0, false, false},
    [FRAME_CANCEL] = {"CANCEL", CLIENT, MUST, NONE, NONE, 0, false, false},
    [FRAME_PING] = {"PING", BOTH, MAY, NONE, NONE, 0, false, false},
    [FRAME_PONG] = {"PONG", BOTH, MAY, NONE, NONE, 0, false, false},
    [FRAME_STATS] = {"STATS", CLIENT, MUST, NONE, NONE, 0, false, false},
    [FRAME_STATS_REPLY] = {"STATS_REPLY", SERVER, MUST, MAY, NONE, 0, false, false},
    [FRAME_DRAIN] = {"DRAIN", CLIENT, MUST, NONE, NONE, 0, false, false},
    [FRAME_DRAIN_ACK] = {"DRAIN_ACK", SERVER, MUST, NONE, NONE, 0, false, false},
};

const char *frame_type_name(enum frame_type type)
{
    bool known = (unsigned)type < FRAME_TYPE_COUNT && frame_rows[type].name != NULL;
    return known ? frame_rows[type].name : "UNKNOWN";
}

size_t frame_prefix_bytes(bool ipc)
{
    return ipc ? 9 : 8;
}

static enum fas_status check_presence(enum presence presence, uint64_t value, const char *type,
                                      const char *field, struct fas_error *error)
{
    if (presence == NONE && value != 0) {
        return fas_fail(error, FAS_INVALID_ARGUMENT, field, "%" PRIu64 " in a %s, which has none",
                        value, type);
    }
    if (presence == MUST && value == 0) {
        return fas_fail(error, FAS_INVALID_ARGUMENT, field, "0 in a %s, which must have one", type);
    }
    return FAS_OK;
}

/* Everything a row says about one frame. */
static enum fas_status check_row(const struct frame *frame, struct fas_error *error)
{
    const struct frame_row *row = &frame_rows[frame->type];
    const struct {
        const char *field;
        enum presence presence;
        uint64_t value, max;
    } checks[] = {
        {"frame.flags", row->tensor ? MAY : NONE, frame->flags, FAS_TENSOR_COUNT - 1},
        {"frame.chunk", row->chunk ? MAY : NONE, frame->chunk, UINT32_MAX},
        {"frame.request", row->request, frame->request, UINT64_MAX},
        {"frame.header_bytes", row->header, frame->header_bytes, FAS_HEADER_BYTES_MAX},
        {"frame.payload_bytes", row->payload, frame->payload_bytes, row->payload_bytes_max},
    };
    for (size_t i = 0; i < sizeof checks / sizeof checks[0]; i++) {
        enum fas_status status =
            check_presence(checks[i].presence, checks[i].value, row->name, checks[i].field, error);
        if (status != FAS_OK) {
            return status;
        }
        if (checks[i].value > checks[i].max) {
            return fas_fail(error, FAS_INVALID_ARGUMENT, checks[i].field,
                            "%" PRIu64 " is over the %" PRIu64 " of a %s", checks[i].value,
                            checks[i].max, row->name);
        }
    }
    return FAS_OK;
}

static void put(uint8_t **out, const void *value, size_t bytes)
{
    memcpy(*out, value, bytes);
    *out += bytes;
}

static void take(const uint8_t **in, void *value, size_t bytes)
{
    memcpy(value, *in, bytes);
    *in += bytes;
}

size_t frame_encode(const struct frame *frame, bool ipc, uint8_t out[FRAME_HEAD_BYTES_MAX])
{
    assert((unsigned)frame->type < FRAME_TYPE_COUNT && frame_rows[frame->type].name != NULL);
    assert(check_row(frame, NULL) == FAS_OK);

    uint64_t length = htobe64(FAS_PREAMBLE_BYTES + frame->header_bytes + frame->payload_bytes);
    uint32_t magic = htole32(FRAME_MAGIC), header_bytes = htole32(frame->header_bytes);
    uint32_t chunk = htole32(frame->chunk);
    uint16_t flags = htole16(frame->flags);
    uint64_t request = htole64(frame->request), payload_bytes = htole64(frame->payload_bytes);

    uint8_t *at = out;
    if (ipc) {
        *at++ = IPC_MESSAGE;
    }
    put(&at, &length, 8);
    put(&at, &magic, 4);
    *at++ = FRAME_VERSION;
    *at++ = (uint8_t)frame->type;
    put(&at, &flags, 2);
    put(&at, &header_bytes, 4);
    put(&at, &chunk, 4);
    put(&at, &request, 8);
    put(&at, &payload_bytes, 8);
    assert((size_t)(at - out) == frame_prefix_bytes(ipc) + FAS_PREAMBLE_BYTES);
    return (size_t)(at - out);
}

/* That this is our protocol at all, before any number in it is believed. */
static enum fas_status check_identity(const uint8_t *in, bool ipc, struct fas_error *error)
{
    if (ipc && in[0] != IPC_MESSAGE) {
        return fas_fail(error, FAS_INVALID_ARGUMENT, "frame.prefix",
                        "0x%02x where an ipc message begins with 0x01", in[0]);
    }
    const uint8_t *preamble = in + frame_prefix_bytes(ipc);
    uint32_t magic;
    memcpy(&magic, preamble, sizeof magic);
    if (le32toh(magic) != FRAME_MAGIC) {
        return fas_fail(error, FAS_INVALID_ARGUMENT, "frame.magic", "0x%08" PRIx32 " is not FASV",
                        le32toh(magic));
    }
    if (preamble[4] != FRAME_VERSION) {
        return fas_fail(error, FAS_UNSUPPORTED, "frame.version",
                        "preamble version %u, this side speaks %u", preamble[4], FRAME_VERSION);
    }
    return FAS_OK;
}

enum fas_status frame_decode(const uint8_t *in, bool ipc, enum frame_sender sender,
                             struct frame *frame, struct fas_error *error)
{
    enum fas_status status = check_identity(in, ipc, error);
    if (status != FAS_OK) {
        return status;
    }
    const uint8_t *at = in + (ipc ? 1 : 0);
    uint64_t length, request, payload_bytes;
    uint32_t magic, header_bytes, chunk;
    uint16_t flags;
    uint8_t version, type;
    take(&at, &length, 8);
    take(&at, &magic, 4);
    take(&at, &version, 1);
    take(&at, &type, 1);
    take(&at, &flags, 2);
    take(&at, &header_bytes, 4);
    take(&at, &chunk, 4);
    take(&at, &request, 8);
    take(&at, &payload_bytes, 8);

    if (type >= FRAME_TYPE_COUNT || frame_rows[type].name == NULL) {
        return fas_fail(error, FAS_UNSUPPORTED, "frame.type", "unknown type %u", type);
    }
    if ((frame_rows[type].senders & (1u << sender)) == 0) {
        return fas_fail(error, FAS_INVALID_ARGUMENT, "frame.type", "a %s does not come from a %s",
                        frame_rows[type].name, sender == FRAME_CLIENT ? "client" : "server");
    }
    *frame = (struct frame){.type = (enum frame_type)type,
                            .flags = le16toh(flags),
                            .header_bytes = le32toh(header_bytes),
                            .chunk = le32toh(chunk),
                            .request = le64toh(request),
                            .payload_bytes = le64toh(payload_bytes)};
    status = check_row(frame, error);
    if (status != FAS_OK) {
        return status;
    }
    uint64_t body = (uint64_t)FAS_PREAMBLE_BYTES + frame->header_bytes + frame->payload_bytes;
    if (be64toh(length) != body) {
        return fas_fail(error, FAS_INVALID_ARGUMENT, "frame.length",
                        "%" PRIu64 " around a body of %" PRIu64 " bytes", be64toh(length), body);
    }
    return FAS_OK;
}
