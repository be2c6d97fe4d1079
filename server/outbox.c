/*
 * outbox.c: three buffers that change roles; a send is a list of pieces of one of them, and of
 * payloads in between.
 */
#include "server/outbox.h"

#include <assert.h>
#include <string.h>
#include <unistd.h>

/* While a send is composed, `sending` grows at filled_bytes; `filling` is empty then. */

void outbox_place(struct outbox *outbox, uint8_t *memory)
{
    outbox->filling = memory;
    outbox->sending = memory + OUTBOX_BYTES;
    outbox->before = memory + 2u * OUTBOX_BYTES;
}

void outbox_reset(struct outbox *outbox, bool ipc)
{
    outbox->ipc = ipc;
    outbox->filled_bytes = 0;
    outbox->iov_count = 0;
    while (outbox->filled_fd_count > 0) {
        close(outbox->filled_fds[--outbox->filled_fd_count]);
    }
}

bool outbox_room(const struct outbox *outbox, uint32_t copied)
{
    return outbox->filled_fd_count < OUTBOX_FDS_MAX &&
           outbox->filled_bytes + OUTBOX_MESSAGE_BYTES + copied <= OUTBOX_BYTES;
}

static void append(uint8_t *buffer, uint32_t *filled, const void *bytes, size_t count)
{
    assert(*filled + count <= OUTBOX_BYTES);
    memcpy(buffer + *filled, bytes, count);
    *filled += (uint32_t)count;
}

/* Head and header; the frame's lengths are set here and nowhere else. */
static void append_message(struct outbox *outbox, uint8_t *buffer, struct frame frame,
                           const uint8_t *header, size_t header_bytes, uint64_t payload_bytes)
{
    uint8_t head[FRAME_HEAD_BYTES_MAX];
    frame.header_bytes = (uint32_t)header_bytes;
    frame.payload_bytes = payload_bytes;
    size_t head_bytes = frame_encode(&frame, outbox->ipc, head);
    append(buffer, &outbox->filled_bytes, head, head_bytes);
    if (header_bytes > 0) {
        append(buffer, &outbox->filled_bytes, header, header_bytes);
    }
}

void outbox_put(struct outbox *outbox, struct frame frame, const uint8_t *header,
                size_t header_bytes)
{
    append_message(outbox, outbox->filling, frame, header, header_bytes, 0);
}

void outbox_put_fd(struct outbox *outbox, struct frame frame, const uint8_t *header,
                   size_t header_bytes, int fd)
{
    outbox_put(outbox, frame, header, header_bytes);
    outbox->filled_fds[outbox->filled_fd_count++] = fd;
}

void outbox_put_raw(struct outbox *outbox, const uint8_t *bytes, size_t count)
{
    append(outbox->filling, &outbox->filled_bytes, bytes, count);
}

bool outbox_empty(const struct outbox *outbox)
{
    return outbox->filled_bytes == 0;
}

/* Adds bytes just written behind `from` in `sending` to the send. */
static void include(struct outbox *outbox, uint32_t from)
{
    uint8_t *data = outbox->sending + from;
    size_t bytes = outbox->filled_bytes - from;
    struct iovec *last = outbox->iov_count ? &outbox->iov[outbox->iov_count - 1] : NULL;
    if (bytes == 0) {
        return;
    }
    if (last && (uint8_t *)last->iov_base + last->iov_len == data) {
        last->iov_len += bytes;
        return;
    }
    assert(outbox->iov_count < OUTBOX_IOV_MAX);
    outbox->iov[outbox->iov_count++] = (struct iovec){data, bytes};
}

void outbox_begin(struct outbox *outbox)
{
    uint8_t *filled = outbox->filling;
    outbox->filling = outbox->before; /* its send is over, or a third could not be composed */
    outbox->before = outbox->sending;
    outbox->sending = filled;
    outbox->iov_count = 0;
    memcpy(outbox->fds, outbox->filled_fds, sizeof outbox->fds);
    outbox->fd_count = outbox->filled_fd_count;
    outbox->filled_fd_count = 0;
    include(outbox, 0);
}

bool outbox_add_room(const struct outbox *outbox, uint32_t copied)
{
    return outbox->iov_count + 2u <= OUTBOX_IOV_MAX && outbox_room(outbox, copied);
}

void outbox_add(struct outbox *outbox, struct frame frame, const uint8_t *header,
                size_t header_bytes, const struct outbox_payload *payload)
{
    uint64_t bytes = payload ? payload->bytes * payload->pieces : 0;
    uint32_t from = outbox->filled_bytes;
    append_message(outbox, outbox->sending, frame, header, header_bytes, bytes);
    bool copy = bytes <= OUTBOX_COPY_BYTES_MAX || payload->pieces > 1;
    for (uint32_t i = 0; copy && bytes > 0 && i < payload->pieces; i++) {
        append(outbox->sending, &outbox->filled_bytes, payload->data + i * payload->pitch,
               payload->bytes);
    }
    include(outbox, from);
    if (!copy) {
        outbox->iov[outbox->iov_count++] = (struct iovec){payload->data, bytes};
    }
}

void outbox_end(struct outbox *outbox)
{
    outbox->filled_bytes = 0;
    if (outbox->iov_count == 0) { /* nothing to send: the roles stay with what is being sent */
        uint8_t *unused = outbox->sending;
        outbox->sending = outbox->before;
        outbox->before = outbox->filling;
        outbox->filling = unused;
    }
}
