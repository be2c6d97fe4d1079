/*
 * fuzz_reader.c: a whole conversation through the daemon's reader. The input is a list of messages,
 * eight bytes each, some of them spoilt; the reader gets them once in large pieces and once in
 * small ones, while a loop as simple as can be admits or refuses every request. Both times it must
 * say the same to the loop; every byte of a chunk must lie in its place, and none beside it; and a
 * pause must end when the loop has done its part.
 */
#include "tests/fuzz/fuzz.h"

#include <endian.h>
#include <string.h>

#include "proto/wire.h"
#include "server/reader.h"

enum {
    OP_BYTES = 8,
    OPS_MAX = 40,
    HEADER_UNIT_BYTES = 16,
    MESSAGE_BYTES_MAX = FRAME_HEAD_BYTES_MAX + UINT8_MAX * HEADER_UNIT_BYTES + UINT16_MAX,
    STREAM_BYTES_MAX = FRAME_SP_HELLO_BYTES + FRAME_HEAD_BYTES_MAX + OPS_MAX * MESSAGE_BYTES_MAX,
    CHUNK_BYTES = 64, /* the reader does not care that the protocol wants more */
    TENSOR_BYTES = 150,
    ROUTES = 6,
    REQUESTS = 8,
    EVENTS_MAX = 4 * OPS_MAX,
};

/* One message: type, flags, chunk, request, header bytes / 16, payload bytes (2), what is spoilt.
 */
struct op {
    uint8_t type, flags, chunk, request, header, payload_low, payload_high, spoil;
};

/* ---- the bytes of a conversation ---- */

struct stream {
    uint8_t *bytes;
    size_t count;
};

static void append(struct stream *stream, const void *bytes, size_t count)
{
    must(stream->count + count <= STREAM_BYTES_MAX, "the stream has room");
    memcpy(stream->bytes + stream->count, bytes, count);
    stream->count += count;
}

static void append_fill(struct stream *stream, int value, size_t count)
{
    must(stream->count + count <= STREAM_BYTES_MAX, "the stream has room");
    memset(stream->bytes + stream->count, value, count);
    stream->count += count;
}

/* Written by hand, because frame_encode asserts that a message keeps the rules. */
static void append_message(struct stream *stream, const struct op *op, size_t index)
{
    uint32_t header_bytes = op->header * (uint32_t)HEADER_UNIT_BYTES, chunk = op->chunk;
    uint64_t payload_bytes = op->payload_low | (uint64_t)op->payload_high << 8;
    uint64_t length = htobe64(FAS_PREAMBLE_BYTES + header_bytes + payload_bytes);
    uint32_t magic = htole32(FRAME_MAGIC);
    uint64_t request = op->request % REQUESTS;
    uint8_t head[FRAME_HEAD_BYTES_MAX] = {1};
    memcpy(head + 1, &length, 8);
    memcpy(head + 9, &magic, 4);
    head[13] = FRAME_VERSION;
    head[14] = op->type;
    head[15] = op->flags;
    memcpy(head + 17, &header_bytes, 4);
    memcpy(head + 21, &chunk, 4);
    memcpy(head + 25, &request, 8);
    memcpy(head + 33, &payload_bytes, 8);
    if (op->spoil >= 0x80) { /* rare: the conversation ends here */
        head[op->spoil % sizeof head] ^= 1;
    }
    append(stream, head, sizeof head);
    append_fill(stream, 0x55, header_bytes);
    append_fill(stream, (int)(index + 1), payload_bytes);
}

static void append_hello(struct stream *stream)
{
    uint8_t head[FRAME_HEAD_BYTES_MAX];
    struct frame hello = {.type = FRAME_HELLO};
    append(stream, frame_sp_hello, sizeof frame_sp_hello);
    append(stream, head, frame_encode(&hello, true, head));
}

/* ---- a loop ---- */

struct event {
    int kind, type;
    uint64_t request, payload_bytes;
    uint32_t chunk, flags;
};

/* Requests of odd ids are admitted, others refused. Each has memory of its own, exactly as large as
 * its tensors, so that a byte too far is seen. */
struct loop {
    struct reader reader;
    struct event events[EVENTS_MAX];
    size_t event_count;
    uint8_t *tensors[REQUESTS][2];
    uint64_t claimed[REQUESTS];
    bool failed;
    struct fas_error error;
};

static void admit(struct loop *loop, uint64_t id)
{
    struct route_tensor tensors[FAS_TENSOR_COUNT] = {{NULL, 0, 0}};
    loop->claimed[id] = 0;
    for (int i = 0; i < 2; i++) {
        memset(loop->tensors[id][i], 0, TENSOR_BYTES);
        tensors[FAS_Q + i] =
            (struct route_tensor){loop->tensors[id][i], TENSOR_BYTES, (uint32_t)(3 * i)};
    }
    reader_admit(&loop->reader, id, tensors, &loop->claimed[id]);
}

/* All bytes of a chunk are of its message: no other one wrote here. */
static void check_landed(const struct inbox_record *record)
{
    for (uint64_t i = 0; i < record->frame.payload_bytes; i++) {
        must(record->landed[i] == record->landed[0] && record->landed[i] != 0,
             "a chunk lies in its place whole");
    }
}

static void act(struct loop *loop, const struct inbox_record *record)
{
    const struct frame *frame = &record->frame;
    must(loop->event_count < EVENTS_MAX, "each message is told once");
    loop->events[loop->event_count++] =
        (struct event){(int)record->kind,    (int)frame->type, frame->request,
                       frame->payload_bytes, frame->chunk,     frame->flags};
    for (uint32_t i = 0; i < frame->header_bytes; i++) {
        must(record->header[i] == 0x55, "a header arrives whole");
    }
    if (frame->type == FRAME_HELLO) {
        reader_greet(&loop->reader, CHUNK_BYTES, UINT64_C(1) << 40);
    } else if (frame->type == FRAME_REQUEST && frame->request % 2 == 1 &&
               frame->request < REQUESTS) {
        admit(loop, frame->request);
    } else if (frame->type == FRAME_REQUEST) {
        reader_refuse(&loop->reader, frame->request);
    } else if (record->kind == INBOX_LANDED) {
        check_landed(record);
    }
}

/* Goes on until the reader wants bytes or has given up. */
static void turn(struct loop *loop)
{
    for (;;) {
        enum reader_step step = reader_advance(&loop->reader);
        size_t before = loop->event_count;
        for (const struct inbox_record *record; (record = reader_next(&loop->reader)) != NULL;) {
            act(loop, record);
        }
        if (step == READER_RECEIVE) {
            return;
        }
        if (step == READER_FAILED) {
            loop->failed = true;
            reader_error(&loop->reader, &loop->error);
            must(loop->error.field[0] != '\0', "the error names a field");
            return;
        }
        must(loop->event_count > before, "a pause has a reason in the inbox");
        must(reader_resume(&loop->reader), "the loop ends a pause");
    }
}

/* At most `piece` bytes at a time. */
static void feed(struct loop *loop, const struct stream *stream, size_t piece)
{
    struct iovec targets[2];
    turn(loop);
    for (size_t at = 0; at < stream->count && !loop->failed;) {
        unsigned count = reader_targets(&loop->reader, targets);
        size_t given = 0;
        for (unsigned i = 0; i < count && given < piece; i++) {
            size_t bytes = targets[i].iov_len;
            bytes = bytes < piece - given ? bytes : piece - given;
            bytes = bytes < stream->count - at ? bytes : stream->count - at;
            memcpy(targets[i].iov_base, stream->bytes + at, bytes);
            at += bytes;
            given += bytes;
            if (bytes < targets[i].iov_len) {
                break;
            }
        }
        must(given > 0, "a receive has room");
        reader_received(&loop->reader, given);
        turn(loop);
    }
}

static void open_loop(struct loop *loop)
{
    void *memory = malloc(reader_memory_bytes(ROUTES));
    must(memory != NULL, "memory");
    reader_place(&loop->reader, memory, ROUTES, 0);
    for (int id = 0; id < REQUESTS; id++) {
        loop->tensors[id][0] = malloc(TENSOR_BYTES);
        loop->tensors[id][1] = malloc(TENSOR_BYTES);
    }
}

static void run(struct loop *loop, const struct stream *stream, size_t piece)
{
    reader_reset(&loop->reader, true);
    loop->event_count = 0;
    loop->failed = false;
    memset(&loop->error, 0, sizeof loop->error);
    feed(loop, stream, piece);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    static struct loop whole, pieces;
    static struct stream stream;
    if (stream.bytes == NULL) {
        stream.bytes = malloc(STREAM_BYTES_MAX);
        open_loop(&whole);
        open_loop(&pieces);
    }
    if (bytes < 1) {
        return 0;
    }
    stream.count = 0;
    append_hello(&stream);
    size_t ops = (bytes - 1) / OP_BYTES;
    for (size_t i = 0; i < ops && i < OPS_MAX; i++) {
        struct op op;
        memcpy(&op, data + 1 + i * OP_BYTES, sizeof op);
        append_message(&stream, &op, i);
    }
    run(&whole, &stream, SIZE_MAX);
    run(&pieces, &stream, 1 + data[0]);
    must(whole.event_count == pieces.event_count && whole.failed == pieces.failed,
         "how the bytes were cut does not matter");
    must(memcmp(whole.events, pieces.events, whole.event_count * sizeof whole.events[0]) == 0,
         "how the bytes were cut does not matter to what is said");
    must(strcmp(whole.error.field, pieces.error.field) == 0, "nor to the error");
    return 0;
}
