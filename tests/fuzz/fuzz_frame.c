/*
 * fuzz_frame.c: byte 0 says the transport and the sender, the rest is a message's head. What is
 * accepted is written back to the same bytes; what is refused names a field.
 */
#include "tests/fuzz/fuzz.h"

#include <string.h>

#include "proto/frame.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    if (bytes == 0) {
        return 0;
    }
    bool ipc = data[0] & 1;
    enum frame_sender sender = data[0] & 2 ? FRAME_SERVER : FRAME_CLIENT;
    size_t head = frame_prefix_bytes(ipc) + FAS_PREAMBLE_BYTES;
    if (bytes - 1 < head) {
        return 0;
    }
    struct frame frame;
    struct fas_error error = {.status = FAS_OK};
    enum fas_status status = frame_decode(data + 1, ipc, sender, &frame, &error);
    if (status != FAS_OK) {
        must(error.status == status, "the error has the status");
        must(strncmp(error.field, "frame.", 6) == 0, "the error names a field of the frame");
        return 0;
    }
    uint8_t out[FRAME_HEAD_BYTES_MAX];
    must(frame_encode(&frame, ipc, out) == head, "the head has its length");
    must(memcmp(out, data + 1, head) == 0, "what was accepted is written back");
    must(frame.payload_bytes <= FAS_CHUNK_BYTES_MAX, "payloads are bounded");
    must(frame.header_bytes <= FAS_HEADER_BYTES_MAX, "headers are bounded");
    return 0;
}
