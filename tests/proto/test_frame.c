/*
 * test_frame.c: the bytes of a message's head, written out once by hand; every row of the table of
 * types, restated here; and every way a head can be wrong.
 */
#include "proto/frame.h"

#include <endian.h>
#include <string.h>

#include "proto/tensor.h"
#include "tests/proto/check_error.h"

enum { NO, MAY, MUST };

/* The contract, as frame.h tells it. */
static const struct {
    enum frame_type type;
    const char *name;
    bool client, server;
    int request, header, payload;
    bool flags, chunk;
    uint64_t payload_max;
} table[] = {
    {FRAME_HELLO, "HELLO", true, false, NO, MAY, NO, false, false, 0},
    {FRAME_HELLO_ACK, "HELLO_ACK", false, true, NO, MAY, NO, false, false, 0},
    {FRAME_OPEN, "OPEN", true, false, MUST, MAY, NO, false, false, 0},
    {FRAME_OPENED, "OPENED", false, true, MUST, MAY, NO, false, false, 0},
    {FRAME_CLOSE, "CLOSE", true, false, MUST, MAY, NO, false, false, 0},
    {FRAME_CLOSED, "CLOSED", false, true, MUST, NO, NO, false, false, 0},
    {FRAME_REQUEST, "REQUEST", true, false, MUST, MAY, MAY, false, false, FAS_LENGTHS_BYTES_MAX},
    {FRAME_DATA, "DATA", true, false, MUST, NO, MUST, true, true, FAS_CHUNK_BYTES_MAX},
    {FRAME_ENQUEUED, "ENQUEUED", false, true, MUST, NO, NO, false, false, 0},
    {FRAME_RESULT, "RESULT", false, true, MUST, MAY, MAY, true, false, FAS_CHUNK_BYTES_MAX},
    {FRAME_DONE, "DONE", false, true, MUST, MAY, NO, false, false, 0},
    {FRAME_ERROR, "ERROR", false, true, MAY, MAY, NO, false, false, 0},
    {FRAME_RELEASE, "RELEASE", true, false, NO, MAY, NO, false, false, 0},
    {FRAME_CREDIT, "CREDIT", true, true, NO, MAY, NO, false, false, 0},
    {FRAME_CANCEL, "CANCEL", true, false, MUST, NO, NO, false, false, 0},
    {FRAME_PING, "PING", true, true, MAY, NO, NO, false, false, 0},
    {FRAME_PONG, "PONG", true, true, MAY, NO, NO, false, false, 0},
    {FRAME_STATS, "STATS", true, false, MUST, NO, NO, false, false, 0},
    {FRAME_STATS_REPLY, "STATS_REPLY", false, true, MUST, MAY, NO, false, false, 0},
    {FRAME_DRAIN, "DRAIN", true, false, MUST, NO, NO, false, false, 0},
    {FRAME_DRAIN_ACK, "DRAIN_ACK", false, true, MUST, NO, NO, false, false, 0},
};

/* A head as a peer that checks nothing would write it. */
struct raw {
    uint64_t length, request, payload_bytes;
    uint32_t magic, header_bytes, chunk;
    uint16_t flags;
    uint8_t prefix, version, type;
};

static struct raw raw_of(const struct frame *frame)
{
    return (struct raw){.length = 32 + frame->header_bytes + frame->payload_bytes,
                        .request = frame->request,
                        .payload_bytes = frame->payload_bytes,
                        .magic = FRAME_MAGIC,
                        .header_bytes = frame->header_bytes,
                        .chunk = frame->chunk,
                        .flags = frame->flags,
                        .prefix = 1,
                        .version = FRAME_VERSION,
                        .type = (uint8_t)frame->type};
}

static void write_raw(const struct raw *raw, bool ipc, uint8_t out[FRAME_HEAD_BYTES_MAX])
{
    uint8_t *at = out;
    if (ipc) {
        *at++ = raw->prefix;
    }
    uint64_t length = htobe64(raw->length), request = htole64(raw->request);
    uint64_t payload_bytes = htole64(raw->payload_bytes);
    uint32_t magic = htole32(raw->magic), header_bytes = htole32(raw->header_bytes);
    uint32_t chunk = htole32(raw->chunk);
    uint16_t flags = htole16(raw->flags);
    memcpy(at, &length, 8);
    memcpy(at + 8, &magic, 4);
    at[12] = raw->version;
    at[13] = raw->type;
    memcpy(at + 14, &flags, 2);
    memcpy(at + 16, &header_bytes, 4);
    memcpy(at + 20, &chunk, 4);
    memcpy(at + 24, &request, 8);
    memcpy(at + 32, &payload_bytes, 8);
}

static enum fas_status decode_raw(const struct raw *raw, enum frame_sender sender,
                                  struct fas_error *error)
{
    uint8_t bytes[FRAME_HEAD_BYTES_MAX];
    struct frame frame;
    write_raw(raw, true, bytes);
    *error = fresh_error();
    return frame_decode(bytes, true, sender, &frame, error);
}

static void refused(const struct raw *raw, enum frame_sender sender, enum fas_status expected,
                    const char *field)
{
    struct fas_error error;
    check_error(decode_raw(raw, sender, &error), &error, expected, field);
}

static enum frame_sender sender_of(size_t row)
{
    return table[row].client ? FRAME_CLIENT : FRAME_SERVER;
}

/* The fullest frame a row allows. */
static struct frame fullest(size_t row)
{
    return (struct frame){.type = table[row].type,
                          .flags = table[row].flags ? FAS_TENSOR_COUNT - 1 : 0,
                          .header_bytes = table[row].header == NO ? 0 : FAS_HEADER_BYTES_MAX,
                          .chunk = table[row].chunk ? UINT32_MAX : 0,
                          .request = table[row].request == NO ? 0 : UINT64_MAX,
                          .payload_bytes = table[row].payload == NO ? 0 : table[row].payload_max};
}

START_TEST(the_bytes_of_a_data_frame)
{
    const struct frame frame = {.type = FRAME_DATA,
                                .flags = FAS_V,
                                .chunk = 3,
                                .request = 0x0102030405060708,
                                .payload_bytes = 0x1000};
    const uint8_t expected[] = {
        1,                                     /* ipc */
        0,   0,    0,   0,   0, 0, 0x10, 0x20, /* 32 + 0x1000, big-endian */
        'F', 'A',  'S', 'V', 1, 8, 2,    0,    /* magic, version, type, flags */
        0,   0,    0,   0,   3, 0, 0,    0,    /* header_bytes, chunk */
        8,   7,    6,   5,   4, 3, 2,    1,    /* request */
        0,   0x10, 0,   0,   0, 0, 0,    0,    /* payload_bytes */
    };
    uint8_t out[FRAME_HEAD_BYTES_MAX];
    ck_assert_uint_eq(frame_encode(&frame, true, out), sizeof expected);
    ck_assert_mem_eq(out, expected, sizeof expected);
    ck_assert_uint_eq(frame_encode(&frame, false, out), sizeof expected - 1);
    ck_assert_mem_eq(out, expected + 1, sizeof expected - 1);
    ck_assert_mem_eq(frame_sp_hello, "\0SP\0\0\x10\0\0", FRAME_SP_HELLO_BYTES);
}
END_TEST

START_TEST(every_type_survives_the_way_there)
{
    struct frame frame = fullest((size_t)_i), back;
    for (int ipc = 0; ipc < 2; ipc++) {
        uint8_t out[FRAME_HEAD_BYTES_MAX];
        struct fas_error error = fresh_error();
        size_t bytes = frame_encode(&frame, ipc, out);
        ck_assert_uint_eq(bytes, frame_prefix_bytes(ipc) + FAS_PREAMBLE_BYTES);
        ck_assert_int_eq(frame_decode(out, ipc, sender_of((size_t)_i), &back, &error), FAS_OK);
        ck_assert_int_eq(back.type, frame.type);
        ck_assert_uint_eq(back.flags, frame.flags);
        ck_assert_uint_eq(back.header_bytes, frame.header_bytes);
        ck_assert_uint_eq(back.chunk, frame.chunk);
        ck_assert_uint_eq(back.request, frame.request);
        ck_assert_uint_eq(back.payload_bytes, frame.payload_bytes);
    }
    ck_assert_str_eq(frame_type_name(frame.type), table[_i].name);
}
END_TEST

START_TEST(a_frame_that_breaks_its_row_is_refused)
{
    size_t row = (size_t)_i;
    struct frame full = fullest(row);
    enum frame_sender sender = sender_of(row);
    struct raw raw = raw_of(&full);

    raw.flags = table[row].flags ? FAS_TENSOR_COUNT : 1;
    refused(&raw, sender, FAS_INVALID_ARGUMENT, "frame.flags");
    raw = raw_of(&full);
    if (!table[row].chunk) {
        raw.chunk = 1;
        refused(&raw, sender, FAS_INVALID_ARGUMENT, "frame.chunk");
    }
    raw = raw_of(&full);
    if (table[row].request != MAY) {
        raw.request = table[row].request == NO ? 1 : 0;
        refused(&raw, sender, FAS_INVALID_ARGUMENT, "frame.request");
    }
    raw = raw_of(&full);
    raw.header_bytes = table[row].header == NO ? 1 : FAS_HEADER_BYTES_MAX + 1;
    refused(&raw, sender, FAS_INVALID_ARGUMENT, "frame.header_bytes");
    raw = raw_of(&full);
    raw.payload_bytes = table[row].payload == NO ? 1 : table[row].payload_max + 1;
    refused(&raw, sender, FAS_INVALID_ARGUMENT, "frame.payload_bytes");
    if (table[row].payload == MUST) {
        raw.payload_bytes = 0;
        refused(&raw, sender, FAS_INVALID_ARGUMENT, "frame.payload_bytes");
    }
}
END_TEST

START_TEST(a_frame_from_the_wrong_end_is_refused)
{
    struct frame full = fullest((size_t)_i);
    struct raw raw = raw_of(&full);
    if (!table[_i].server) {
        refused(&raw, FRAME_SERVER, FAS_INVALID_ARGUMENT, "frame.type");
    }
    if (!table[_i].client) {
        refused(&raw, FRAME_CLIENT, FAS_INVALID_ARGUMENT, "frame.type");
    }
}
END_TEST

START_TEST(lengths_that_lie_are_refused)
{
    struct frame data = {.type = FRAME_DATA, .request = 1, .payload_bytes = 100};
    const uint64_t lies[] = {0, 31, 131, 133, UINT64_C(1) << 62, UINT64_MAX};
    for (size_t i = 0; i < COUNT_OF(lies); i++) {
        struct raw raw = raw_of(&data);
        raw.length = lies[i];
        refused(&raw, FRAME_CLIENT, FAS_INVALID_ARGUMENT, "frame.length");
    }
    struct raw raw = raw_of(&data);
    raw.payload_bytes = UINT64_MAX - 31; /* 32 + this wraps to 0 */
    raw.length = 0;
    refused(&raw, FRAME_CLIENT, FAS_INVALID_ARGUMENT, "frame.payload_bytes");
}
END_TEST

START_TEST(what_is_not_this_protocol_is_told_apart)
{
    struct frame ping = {.type = FRAME_PING};
    struct raw raw = raw_of(&ping);
    raw.prefix = 0;
    refused(&raw, FRAME_CLIENT, FAS_INVALID_ARGUMENT, "frame.prefix");
    raw = raw_of(&ping);
    raw.magic = 0x20544547; /* "GET " */
    refused(&raw, FRAME_CLIENT, FAS_INVALID_ARGUMENT, "frame.magic");
    raw = raw_of(&ping);
    raw.version = FRAME_VERSION + 1;
    refused(&raw, FRAME_CLIENT, FAS_UNSUPPORTED, "frame.version");
    raw.version = 0;
    refused(&raw, FRAME_CLIENT, FAS_UNSUPPORTED, "frame.version");
    const uint8_t unknown[] = {0, FRAME_TYPE_COUNT, 255};
    for (size_t i = 0; i < COUNT_OF(unknown); i++) {
        raw = raw_of(&ping);
        raw.type = unknown[i];
        refused(&raw, FRAME_CLIENT, FAS_UNSUPPORTED, "frame.type");
    }
}
END_TEST

START_TEST(a_newer_preamble_is_refused_before_its_numbers_are_believed)
{
    struct frame ping = {.type = FRAME_PING};
    struct raw raw = raw_of(&ping);
    raw.version = FRAME_VERSION + 1;
    raw.type = 200;
    raw.length = UINT64_MAX;
    raw.header_bytes = UINT32_MAX;
    struct fas_error error;
    check_error(decode_raw(&raw, FRAME_CLIENT, &error), &error, FAS_UNSUPPORTED, "frame.version");
    ck_assert_ptr_nonnull(strstr(error.text, "preamble version 2"));
}
END_TEST

START_TEST(types_have_names_and_unknown_ones_too)
{
    ck_assert_uint_eq(COUNT_OF(table), FRAME_TYPE_COUNT - 1);
    ck_assert_str_eq(frame_type_name((enum frame_type)0), "UNKNOWN");
    ck_assert_str_eq(frame_type_name(FRAME_TYPE_COUNT), "UNKNOWN");
    ck_assert_str_eq(frame_type_name((enum frame_type)255), "UNKNOWN");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("frame");
    TCase *tcase = tcase_create("frame");
    tcase_add_test(tcase, the_bytes_of_a_data_frame);
    tcase_add_loop_test(tcase, every_type_survives_the_way_there, 0, COUNT_OF(table));
    tcase_add_loop_test(tcase, a_frame_that_breaks_its_row_is_refused, 0, COUNT_OF(table));
    tcase_add_loop_test(tcase, a_frame_from_the_wrong_end_is_refused, 0, COUNT_OF(table));
    tcase_add_test(tcase, lengths_that_lie_are_refused);
    tcase_add_test(tcase, what_is_not_this_protocol_is_told_apart);
    tcase_add_test(tcase, a_newer_preamble_is_refused_before_its_numbers_are_believed);
    tcase_add_test(tcase, types_have_names_and_unknown_ones_too);
    suite_add_tcase(suite, tcase);
    return run_suite(suite);
}
