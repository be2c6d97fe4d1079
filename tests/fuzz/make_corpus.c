/*
 * make_corpus.c: usage: make_corpus FOLDER: writes the seeds of the fuzzers, FOLDER/frame, /wire
 * and /lengths, from real encodings. Run it when the wire changes; what a fuzzer finds is added by
 * hand.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "proto/frame.h"
#include "tests/proto/codecs.h"
#include "tests/proto/samples.h"

static const char *root;

static void write_seed(const char *target, const char *name, uint8_t first, const void *data,
                       size_t bytes)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", root, target);
    mkdir(path, 0755);
    snprintf(path, sizeof path, "%s/%s/%s", root, target, name);
    FILE *file = fopen(path, "wb");
    if (file == NULL || fputc(first, file) == EOF || fwrite(data, 1, bytes, file) != bytes ||
        fclose(file) != 0) {
        perror(path);
        exit(EXIT_FAILURE);
    }
}

static void write_frame(const struct frame *frame, const char *name, bool ipc,
                        enum frame_sender sender)
{
    uint8_t head[FRAME_HEAD_BYTES_MAX];
    size_t bytes = frame_encode(frame, ipc, head);
    write_seed("frame", name, (uint8_t)(ipc | (sender == FRAME_SERVER ? 2 : 0)), head, bytes);
}

static void write_frames(void)
{
    write_frame(&(struct frame){.type = FRAME_HELLO, .header_bytes = 60}, "hello", true,
                FRAME_CLIENT);
    write_frame(
        &(struct frame){
            .type = FRAME_REQUEST, .request = 1, .header_bytes = 50, .payload_bytes = 24},
        "request", true, FRAME_CLIENT);
    write_frame(&(struct frame){.type = FRAME_DATA,
                                .request = 1,
                                .flags = FAS_V,
                                .chunk = 2,
                                .payload_bytes = FAS_CHUNK_BYTES_MAX},
                "data", false, FRAME_CLIENT);
    write_frame(&(struct frame){.type = FRAME_RESULT,
                                .request = 1,
                                .flags = FAS_LSE,
                                .header_bytes = 9,
                                .payload_bytes = 4096},
                "result", false, FRAME_SERVER);
    write_frame(&(struct frame){.type = FRAME_PING, .request = UINT64_MAX}, "ping", true,
                FRAME_SERVER);
}

static void write_header(int codec, const char *name, const union header *header)
{
    static uint8_t out[FAS_HEADER_BYTES_MAX];
    write_seed("wire", name, (uint8_t)codec, out, codecs[codec].encode(header, out));
}

static void write_headers(void)
{
    static union header header;
    for (int i = 0; i < CODEC_COUNT; i++) {
        codecs[i].sample(&header);
        if (i == CODEC_HELLO_ACK) { /* a seed is read by people too: a few rows are enough */
            header.hello_ack.device_count = 2;
            header.hello_ack.kernel_count = 2;
        }
        if (i == CODEC_STATS) {
            header.stats.count = 3;
        }
        write_header(i, codecs[i].name, &header);
    }
    header.request = sample_forward();
    write_header(CODEC_REQUEST, "request_forward", &header);
    header.request = sample_handle();
    write_header(CODEC_REQUEST, "request_handle", &header);
    header.open = sample_region();
    write_header(CODEC_OPEN, "open_region", &header);
}

static void write_lengths(void)
{
    /* batch 3; flags; totals 10 and 12; max_len 5 and 4: the head of fuzz_lengths.c */
    static const struct {
        const char *name;
        uint8_t flags;
        int32_t payload[14];
        size_t count;
    } seeds[] = {
        {"padded", 0, {0}, 0},
        {"cu_both", 3, {0, 3, 3, 10, 0, 5, 6, 12}, 8},
        {"used_both", 12, {5, 0, 2, 4, 1, 0}, 6},
        {"all", 15, {0, 3, 3, 10, 0, 5, 6, 12, 3, 0, 6, 5, 1, 0}, 14},
    };
    for (size_t i = 0; i < sizeof seeds / sizeof seeds[0]; i++) {
        uint8_t data[15 + sizeof seeds[i].payload] = {
            0, seeds[i].flags, 0, 10, 0, 0, 0, 12, 0, 0, 0, 5, 0, 4, 0};
        memcpy(data + 15, seeds[i].payload, 4 * seeds[i].count);
        write_seed("lengths", seeds[i].name, 3, data, 15 + 4 * seeds[i].count);
    }
}

/* Messages as fuzz_reader.c reads them: type, flags, chunk, request, header / 16, payload (2), 0.
 */
static void write_conversations(void)
{
    static const uint8_t admitted[] = {
        FRAME_REQUEST, 0,     0, 1, 2, 40, 0, 0, FRAME_DATA, FAS_Q, 0, 1, 0, 64, 0, 0,
        FRAME_DATA,    FAS_K, 2, 1, 0, 22, 0, 0, FRAME_DATA, FAS_Q, 1, 1, 0, 64, 0, 0,
        FRAME_CANCEL,  0,     0, 1, 0, 0,  0, 0};
    static const uint8_t refused[] = {
        FRAME_REQUEST, 0, 0, 2, 1, 0, 1, 0, FRAME_DATA,    FAS_V, 0, 2, 0,   64, 4,   0,
        FRAME_PING,    0, 0, 7, 0, 0, 0, 0, FRAME_REQUEST, 0,     0, 3, 255, 0,  255, 0};
    static const uint8_t wrong[] = {
        FRAME_REQUEST, 0,     0, 5, 0, 0,  0, 0, FRAME_DATA, FAS_Q, 0, 5, 0, 64, 0, 0,
        FRAME_DATA,    FAS_Q, 0, 5, 0, 64, 0, 0, FRAME_DATA, FAS_Q, 9, 5, 0, 1,  0, 0,
        FRAME_DATA,    FAS_O, 0, 5, 0, 1,  0, 0, FRAME_PING, 0,     0, 0, 0, 0,  0, 0x8d};
    write_seed("reader", "admitted", 6, admitted, sizeof admitted);
    write_seed("reader", "refused", 200, refused, sizeof refused);
    write_seed("reader", "wrong", 0, wrong, sizeof wrong);
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: make_corpus FOLDER\n");
        return 2;
    }
    root = argv[1];
    mkdir(root, 0755);
    write_frames();
    write_headers();
    write_lengths();
    write_conversations();
    return EXIT_SUCCESS;
}
