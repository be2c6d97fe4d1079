/*
 * codecs.h: every header's encoder and decoder behind one shape, so that what holds for all of them
 * is written once: in the tests and in the fuzzer.
 */
#ifndef CODECS_H
#define CODECS_H

#include "proto/wire.h"

union header {
    struct wire_hello hello;
    struct wire_hello_ack hello_ack;
    struct wire_open open;
    struct wire_opened opened;
    uint32_t close;
    struct wire_request request;
    struct wire_result result;
    struct wire_done done;
    struct fas_error error;
    uint64_t release;
    uint64_t credit;
    struct wire_stats stats;
};

enum codec_index {
    CODEC_HELLO,
    CODEC_HELLO_ACK,
    CODEC_OPEN,
    CODEC_OPENED,
    CODEC_CLOSE,
    CODEC_REQUEST,
    CODEC_RESULT,
    CODEC_DONE,
    CODEC_ERROR,
    CODEC_RELEASE,
    CODEC_CREDIT,
    CODEC_STATS,
    CODEC_COUNT
};

struct codec {
    const char *name;
    void (*sample)(union header *header); /* samples.h */
    size_t (*encode)(const union header *header, uint8_t *out);
    enum fas_status (*decode)(const uint8_t *in, size_t bytes, union header *header,
                              struct fas_error *error);
};

extern const struct codec codecs[CODEC_COUNT];

#endif
