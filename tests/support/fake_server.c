/*
 * fake_server.c: see fake_server.h. One thread: accept, serve until the peer is gone, again.
 */
#include "tests/support/fake_server.h"

#include <assert.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "proto/frame.h"
#include "proto/wire.h"

#define OPEN_MAX_REQUESTS 256

struct open_request {
    uint64_t id, bytes_left, sum;
    struct wire_request request;
};

struct fake_server {
    enum fake_fault fault;
    int listener;
    atomic_int peer;
    atomic_bool closing;
    pthread_t thread;
    char path[108];
    struct open_request requests[OPEN_MAX_REQUESTS];
    uint8_t header[FAS_HEADER_BYTES_MAX], payload[FAS_CHUNK_BYTES_MAX];
};

uint8_t fake_byte(int tensor, uint64_t offset)
{
    return (uint8_t)(offset * 7 + (offset >> 8) + (uint64_t)tensor * 13 + 1);
}

uint64_t fake_sum(int tensor, uint64_t offset, const uint8_t *data, size_t bytes)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < bytes; i++) {
        sum += (offset + i + 1) * (uint64_t)(data[i] + 1) * (uint64_t)(tensor + 1);
    }
    return sum & 0xffffffffffff;
}

/* ---- bytes ---- */

static bool read_all(int fd, void *data, size_t bytes)
{
    return bytes == 0 || recv(fd, data, bytes, MSG_WAITALL) == (ssize_t)bytes;
}

static bool write_all(int fd, const void *data, size_t bytes)
{
    return bytes == 0 || send(fd, data, bytes, MSG_NOSIGNAL) == (ssize_t)bytes;
}

static bool send_frame(struct fake_server *s, struct frame frame, const void *payload)
{
    uint8_t head[FRAME_HEAD_BYTES_MAX];
    size_t bytes = frame_encode(&frame, true, head);
    if (s->fault == FAKE_LYING_PREFIX && frame.type == FRAME_RESULT) {
        head[8] ^= 1;
    }
    return write_all(s->peer, head, bytes) && write_all(s->peer, s->header, frame.header_bytes) &&
           write_all(s->peer, payload, frame.payload_bytes);
}

static bool send_bare(struct fake_server *s, enum frame_type type, uint64_t id)
{
    return send_frame(s, (struct frame){.type = type, .request = id}, NULL);
}

static bool send_error(struct fake_server *s, uint64_t id, enum fas_status status,
                       const char *field)
{
    struct fas_error error;
    fas_fail(&error, status, field, "the fake says no");
    error.retry_after_ms = status == FAS_RESOURCE_EXHAUSTED ? 7 : 0;
    struct frame frame = {.type = FRAME_ERROR, .request = id};
    frame.header_bytes = (uint32_t)wire_encode_error(&error, s->header);
    return send_frame(s, frame, NULL);
}

static bool send_credit(struct fake_server *s, uint64_t bytes)
{
    struct frame frame = {.type = FRAME_CREDIT};
    frame.header_bytes = (uint32_t)wire_encode_credit(bytes, s->header);
    return send_frame(s, frame, NULL);
}

static bool send_ack(struct fake_server *s)
{
    static const struct wire_hello_ack usual = {
        .version = FAS_VERSION_MAX,
        .server = "fake",
        .limits = {.requests_in_flight = 64,
                   .chunk_bytes = FAKE_CHUNK_BYTES,
                   .request_bytes = 1u << 30,
                   .sequences = FAS_SEQUENCES_MAX},
        .upload_credit_bytes = 4 * FAKE_CHUNK_BYTES,
        .device_count = 1,
        .devices = {{.name = "fake:0", .arch = "cpu", .arena_bytes = 1u << 30}},
    };
    struct wire_hello_ack ack = usual;
    if (s->fault == FAKE_NEWER) {
        ack.version = 99;
    }
    struct frame frame = {.type = FRAME_HELLO_ACK};
    frame.header_bytes = (uint32_t)wire_encode_hello_ack(&ack, s->header);
    return send_frame(s, frame, NULL);
}

/* ---- results ---- */

/* Rows [first, first + count) of a tensor, as they travel. */
static void fill_rows(uint8_t *out, const struct fas_dims *dims, enum fas_tensor tensor,
                      int64_t first, int64_t count)
{
    uint64_t row_bytes = fas_tensor_row_bytes(dims, tensor);
    if (!fas_tensor_row(tensor)->statistics) {
        for (uint64_t i = 0; i < (uint64_t)count * row_bytes; i++) {
            out[i] = fake_byte((int)tensor, (uint64_t)first * row_bytes + i);
        }
        return;
    }
    int64_t rows = fas_tensor_rows(dims, tensor);
    for (int32_t head = 0; head < fas_tensor_heads(dims, tensor); head++) {
        for (int64_t i = 0; i < 4 * count; i++) {
            *out++ = fake_byte((int)tensor, (uint64_t)(4 * (head * rows + first) + i));
        }
    }
}

static bool send_rows(struct fake_server *s, const struct open_request *open,
                      enum fas_tensor tensor, struct wire_result result)
{
    const struct fas_dims *dims = &open->request.dims;
    uint32_t row_bytes = fas_tensor_row_bytes(dims, tensor);
    fill_rows(s->payload, dims, tensor, result.first_row, result.row_count);
    struct frame frame = {.type = FRAME_RESULT, .flags = (uint16_t)tensor, .request = open->id};
    frame.payload_bytes = (uint64_t)result.row_count * row_bytes;
    if (s->fault == FAKE_ROWS_OUTSIDE) {
        result.first_row = fas_tensor_rows(dims, tensor) - result.row_count + 1;
    } else if (s->fault == FAKE_LIES_LENGTH) {
        frame.payload_bytes += row_bytes;
    } else if (s->fault == FAKE_INPUT_TENSOR) {
        frame.flags = FAS_Q;
    }
    frame.header_bytes = (uint32_t)wire_encode_result(&result, s->header);
    if (s->fault == FAKE_DIES) {
        uint8_t head[FRAME_HEAD_BYTES_MAX];
        write_all(s->peer, head, frame_encode(&frame, true, head));
        write_all(s->peer, s->header, frame.header_bytes);
        write_all(s->peer, s->payload, frame.payload_bytes / 2);
        return false;
    }
    bool again = s->fault == FAKE_ROWS_TWICE;
    return send_frame(s, frame, s->payload) && (!again || send_frame(s, frame, s->payload));
}

/* The last rows of the last tensor complete all sequences. */
static bool send_results(struct fake_server *s, const struct open_request *open)
{
    const struct fas_dims *dims = &open->request.dims;
    uint32_t outputs = wire_request_outputs(&open->request);
    for (int t = 0; t < FAS_TENSOR_COUNT; t++) {
        if (!(outputs & (1u << t))) {
            continue;
        }
        int64_t rows = fas_tensor_rows(dims, (enum fas_tensor)t);
        uint32_t row_bytes = fas_tensor_row_bytes(dims, (enum fas_tensor)t);
        int64_t step = FAKE_CHUNK_BYTES / row_bytes ? FAKE_CHUNK_BYTES / row_bytes : 1;
        for (int64_t row = 0; row < rows; row += step) {
            int64_t count = rows - row < step ? rows - row : step;
            bool last = (outputs >> (t + 1)) == 0 && row + count == rows;
            struct wire_result result = {row, count, 0, last ? open->request.batch : 0};
            if (!send_rows(s, open, (enum fas_tensor)t, result)) {
                return false;
            }
        }
    }
    return true;
}

static bool answer(struct fake_server *s, struct open_request *open)
{
    if ((s->fault == FAKE_ENQUEUED && !send_bare(s, FRAME_ENQUEUED, open->id)) ||
        (s->fault != FAKE_DONE_EARLY && !send_results(s, open))) {
        return false;
    }
    struct wire_done done = {.device = "fake:0",
                             .kernel = "fake",
                             .batch_requests = 1,
                             .places = 1u << FAS_PLACE_INLINE,
                             .batch_tokens = open->sum & 0xffffffffffff};
    struct frame frame = {.type = FRAME_DONE, .request = open->id};
    frame.request += s->fault == FAKE_UNKNOWN_ID ? UINT64_C(1) << 32 : 0;
    frame.header_bytes = (uint32_t)wire_encode_done(&done, s->header);
    if (s->fault == FAKE_BAD_HEADER) {
        memset(s->header, 0xff, frame.header_bytes);
    }
    open->id = 0;
    return send_frame(s, frame, NULL);
}

/* ---- what arrives ---- */

static struct open_request *find(struct fake_server *s, uint64_t id)
{
    for (size_t i = 0; i < OPEN_MAX_REQUESTS; i++) {
        if (s->requests[i].id == id) {
            return &s->requests[i];
        }
    }
    return NULL;
}

static bool on_request(struct fake_server *s, const struct frame *frame)
{
    struct fas_error error;
    struct open_request *open = find(s, 0);
    assert(open);
    if (wire_decode_request(s->header, frame->header_bytes, &open->request, &error) != FAS_OK) {
        return send_error(s, frame->request, error.status, error.field);
    }
    if (s->fault == FAKE_REJECTS) {
        return send_error(s, frame->request, FAS_RESOURCE_EXHAUSTED, "batch");
    }
    open->id = frame->request;
    open->sum = open->bytes_left = 0;
    uint32_t inputs = wire_request_inputs(&open->request);
    for (int t = 0; t < FAS_TENSOR_COUNT; t++) {
        bool input = inputs & (1u << t);
        open->bytes_left += input ? fas_tensor_bytes(&open->request.dims, (enum fas_tensor)t) : 0;
    }
    bool now = open->bytes_left == 0 && s->fault != FAKE_WAITS_CANCEL;
    return !now || answer(s, open);
}

static bool on_data(struct fake_server *s, const struct frame *frame)
{
    struct open_request *open = find(s, frame->request);
    if (!send_credit(s, frame->payload_bytes) || !open) {
        return !!open || s->fault == FAKE_REJECTS;
    }
    open->sum += fake_sum(frame->flags, (uint64_t)frame->chunk * FAKE_CHUNK_BYTES, s->payload,
                          frame->payload_bytes);
    open->bytes_left -= frame->payload_bytes;
    bool now = open->bytes_left == 0 && s->fault != FAKE_WAITS_CANCEL;
    return !now || answer(s, open);
}

static bool on_cancel(struct fake_server *s, const struct frame *frame)
{
    struct open_request *open = find(s, frame->request);
    if (!open) {
        return true;
    }
    open->id = 0;
    return send_error(s, frame->request, FAS_CANCELLED, "");
}

static bool on_stats(struct fake_server *s, const struct frame *frame)
{
    struct wire_stats *stats = calloc(1, sizeof(*stats));
    stats->count = 1;
    snprintf(stats->stats[0].name, sizeof(stats->stats[0].name), "fakes");
    stats->stats[0].value = 1.5;
    struct frame reply = {.type = FRAME_STATS_REPLY, .request = frame->request};
    reply.header_bytes = (uint32_t)wire_encode_stats(stats, s->header);
    free(stats);
    return send_frame(s, reply, NULL);
}

static int region_of(const struct fake_server *s, uint64_t bytes)
{
    int fd = memfd_create("fake-region", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    int failed = ftruncate(fd, (off_t)(s->fault == FAKE_HALF_REGION ? bytes / 2 : bytes));
    if (!failed && s->fault != FAKE_LOOSE_REGION) {
        failed = fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK);
    }
    assert(fd >= 0 && !failed);
    return fd;
}

/* The frame's head, and with its first byte the descriptor. */
static bool send_with_fd(struct fake_server *s, const struct frame *frame, int fd)
{
    uint8_t head[FRAME_HEAD_BYTES_MAX];
    struct iovec iov = {head, frame_encode(frame, true, head)};
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(sizeof(int))];
    } control = {.head = {.cmsg_len = CMSG_LEN(sizeof(int)),
                          .cmsg_level = SOL_SOCKET,
                          .cmsg_type = SCM_RIGHTS}};
    memcpy(CMSG_DATA(&control.head), &fd, sizeof(fd));
    struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};
    if (s->fault != FAKE_NO_REGION) {
        message.msg_control = &control;
        message.msg_controllen = sizeof(control);
    }
    return sendmsg(s->peer, &message, MSG_NOSIGNAL) == (ssize_t)iov.iov_len &&
           write_all(s->peer, s->header, frame->header_bytes);
}

static bool on_open(struct fake_server *s, const struct frame *frame)
{
    struct wire_open open;
    struct fas_error error;
    if (wire_decode_open(s->header, frame->header_bytes, &open, &error) != FAS_OK) {
        return send_error(s, frame->request, error.status, error.field);
    }
    const struct wire_opened opened = {.id = 1, .bytes = open.bytes};
    struct frame reply = {.type = FRAME_OPENED, .request = frame->request};
    reply.header_bytes = (uint32_t)wire_encode_opened(&opened, s->header);
    int fd = region_of(s, open.bytes);
    bool sent = send_with_fd(s, &reply, fd);
    close(fd);
    return sent;
}

static void be_slow(const struct fake_server *s)
{
    if (s->fault == FAKE_SLOW) {
        usleep(FAKE_SLOW_MS * 1000);
    }
}

static bool on_frame(struct fake_server *s, const struct frame *frame)
{
    switch (frame->type) {
    case FRAME_HELLO:
        be_slow(s);
        return s->fault == FAKE_REFUSES ? send_error(s, 0, FAS_UNAUTHENTICATED, "token")
                                        : send_ack(s) && s->fault != FAKE_LEAVES;
    case FRAME_REQUEST:
        return on_request(s, frame);
    case FRAME_DATA:
        return on_data(s, frame);
    case FRAME_CANCEL:
        return on_cancel(s, frame);
    case FRAME_OPEN:
        return on_open(s, frame);
    case FRAME_CLOSE:
        return send_bare(s, FRAME_CLOSED, frame->request);
    case FRAME_PING:
        return send_bare(s, FRAME_PONG, frame->request);
    case FRAME_STATS:
        return on_stats(s, frame);
    case FRAME_DRAIN:
        return send_error(s, frame->request, FAS_UNAUTHENTICATED, "drain");
    default:
        return true;
    }
}

static bool read_frame(struct fake_server *s, struct frame *frame)
{
    uint8_t head[FRAME_HEAD_BYTES_MAX];
    struct fas_error error;
    if (!read_all(s->peer, head, frame_prefix_bytes(true) + FAS_PREAMBLE_BYTES)) {
        return false;
    }
    if (frame_decode(head, true, FRAME_CLIENT, frame, &error) != FAS_OK) {
        fprintf(stderr, "fake_server: %s: %s\n", error.field, error.text);
        abort(); /* the client under test broke the protocol */
    }
    return read_all(s->peer, s->header, frame->header_bytes) &&
           read_all(s->peer, s->payload, frame->payload_bytes);
}

static void wait_for_close(struct fake_server *s)
{
    while (!s->closing) {
        usleep(1000);
    }
}

static void serve(struct fake_server *s)
{
    struct frame frame;
    uint8_t hello[FRAME_SP_HELLO_BYTES];
    memset(s->requests, 0, sizeof(s->requests));
    if (s->fault == FAKE_MUTE) {
        wait_for_close(s);
    } else if (s->fault == FAKE_GARBAGE) {
        write_all(s->peer, "SSH-2.0-OpenSSH_9.2\r\n", 21);
        wait_for_close(s);
    } else if (read_all(s->peer, hello, sizeof(hello)) &&
               write_all(s->peer, frame_sp_hello, sizeof(frame_sp_hello))) {
        while (read_frame(s, &frame) && on_frame(s, &frame)) {
            if (s->fault == FAKE_STALLS && frame.type == FRAME_HELLO) {
                wait_for_close(s);
                return;
            }
        }
    }
}

static void *run(void *context)
{
    struct fake_server *s = context;
    int peer;
    be_slow(s);
    while (!s->closing && (peer = accept(s->listener, NULL, NULL)) >= 0) {
        s->peer = peer;
        serve(s);
        s->peer = -1;
        close(peer);
    }
    return NULL;
}

struct fake_server *fake_server_open(const char *path, enum fake_fault fault)
{
    struct fake_server *s = calloc(1, sizeof(*s));
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    assert(s && strlen(path) < sizeof(address.sun_path));
    s->fault = fault;
    s->peer = -1;
    memcpy(s->path, path, strlen(path) + 1);
    memcpy(address.sun_path, path, strlen(path) + 1);
    unlink(path);
    s->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int failed = bind(s->listener, (struct sockaddr *)&address, sizeof(address));
    failed = failed ? failed : listen(s->listener, fault == FAKE_SLOW ? 0 : 8);
    failed = failed ? failed : pthread_create(&s->thread, NULL, run, s);
    assert(!failed);
    (void)failed;
    return s;
}

void fake_server_close(struct fake_server *s)
{
    s->closing = true;
    shutdown(s->listener, SHUT_RDWR);
    int peer = s->peer;
    if (peer >= 0) {
        shutdown(peer, SHUT_RDWR);
    }
    pthread_join(s->thread, NULL);
    close(s->listener);
    unlink(s->path);
    free(s);
}
