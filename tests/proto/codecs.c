/* codecs.c: see codecs.h. */
#include "tests/proto/codecs.h"

#include "tests/proto/samples.h"

static void sample_of_hello(union header *header)
{
    header->hello = sample_hello();
}

static size_t encode_hello(const union header *header, uint8_t *out)
{
    return wire_encode_hello(&header->hello, out);
}

static enum fas_status decode_hello(const uint8_t *in, size_t bytes, union header *header,
                                    struct fas_error *error)
{
    return wire_decode_hello(in, bytes, &header->hello, error);
}

static void sample_of_hello_ack(union header *header)
{
    header->hello_ack = sample_hello_ack();
}

static size_t encode_hello_ack(const union header *header, uint8_t *out)
{
    return wire_encode_hello_ack(&header->hello_ack, out);
}

static enum fas_status decode_hello_ack(const uint8_t *in, size_t bytes, union header *header,
                                        struct fas_error *error)
{
    return wire_decode_hello_ack(in, bytes, &header->hello_ack, error);
}

static void sample_of_open(union header *header)
{
    header->open = sample_cuda();
}

static size_t encode_open(const union header *header, uint8_t *out)
{
    return wire_encode_open(&header->open, out);
}

static enum fas_status decode_open(const uint8_t *in, size_t bytes, union header *header,
                                   struct fas_error *error)
{
    return wire_decode_open(in, bytes, &header->open, error);
}

static void sample_of_opened(union header *header)
{
    header->opened = (struct wire_opened){.id = 3, .bytes = 1 << 20};
}

static size_t encode_opened(const union header *header, uint8_t *out)
{
    return wire_encode_opened(&header->opened, out);
}

static enum fas_status decode_opened(const uint8_t *in, size_t bytes, union header *header,
                                     struct fas_error *error)
{
    return wire_decode_opened(in, bytes, &header->opened, error);
}

static void sample_of_close(union header *header)
{
    header->close = 77;
}

static size_t encode_close(const union header *header, uint8_t *out)
{
    return wire_encode_close(header->close, out);
}

static enum fas_status decode_close(const uint8_t *in, size_t bytes, union header *header,
                                    struct fas_error *error)
{
    return wire_decode_close(in, bytes, &header->close, error);
}

static void sample_of_request(union header *header)
{
    header->request = sample_backward();
}

static size_t encode_request(const union header *header, uint8_t *out)
{
    return wire_encode_request(&header->request, out);
}

static enum fas_status decode_request(const uint8_t *in, size_t bytes, union header *header,
                                      struct fas_error *error)
{
    return wire_decode_request(in, bytes, &header->request, error);
}

static void sample_of_result(union header *header)
{
    header->result = sample_result();
}

static size_t encode_result(const union header *header, uint8_t *out)
{
    return wire_encode_result(&header->result, out);
}

static enum fas_status decode_result(const uint8_t *in, size_t bytes, union header *header,
                                     struct fas_error *error)
{
    return wire_decode_result(in, bytes, &header->result, error);
}

static void sample_of_done(union header *header)
{
    header->done = sample_done();
}

static size_t encode_done(const union header *header, uint8_t *out)
{
    return wire_encode_done(&header->done, out);
}

static enum fas_status decode_done(const uint8_t *in, size_t bytes, union header *header,
                                   struct fas_error *error)
{
    return wire_decode_done(in, bytes, &header->done, error);
}

static void sample_of_error(union header *header)
{
    header->error = sample_error();
}

static size_t encode_error(const union header *header, uint8_t *out)
{
    return wire_encode_error(&header->error, out);
}

static enum fas_status decode_error(const uint8_t *in, size_t bytes, union header *header,
                                    struct fas_error *error)
{
    return wire_decode_error(in, bytes, &header->error, error);
}

static void sample_of_release(union header *header)
{
    header->release = UINT64_MAX;
}

static size_t encode_release(const union header *header, uint8_t *out)
{
    return wire_encode_release(header->release, out);
}

static enum fas_status decode_release(const uint8_t *in, size_t bytes, union header *header,
                                      struct fas_error *error)
{
    return wire_decode_release(in, bytes, &header->release, error);
}

static void sample_of_credit(union header *header)
{
    header->credit = FAS_CREDIT_BYTES_MAX;
}

static size_t encode_credit(const union header *header, uint8_t *out)
{
    return wire_encode_credit(header->credit, out);
}

static enum fas_status decode_credit(const uint8_t *in, size_t bytes, union header *header,
                                     struct fas_error *error)
{
    return wire_decode_credit(in, bytes, &header->credit, error);
}

static void sample_of_stats(union header *header)
{
    sample_stats(&header->stats, FAS_STATS_MAX);
}

static size_t encode_stats(const union header *header, uint8_t *out)
{
    return wire_encode_stats(&header->stats, out);
}

static enum fas_status decode_stats(const uint8_t *in, size_t bytes, union header *header,
                                    struct fas_error *error)
{
    return wire_decode_stats(in, bytes, &header->stats, error);
}

const struct codec codecs[CODEC_COUNT] = {
    [CODEC_HELLO] = {"hello", sample_of_hello, encode_hello, decode_hello},
    [CODEC_HELLO_ACK] = {"hello_ack", sample_of_hello_ack, encode_hello_ack, decode_hello_ack},
    [CODEC_OPEN] = {"open", sample_of_open, encode_open, decode_open},
    [CODEC_OPENED] = {"opened", sample_of_opened, encode_opened, decode_opened},
    [CODEC_CLOSE] = {"close", sample_of_close, encode_close, decode_close},
    [CODEC_REQUEST] = {"request", sample_of_request, encode_request, decode_request},
    [CODEC_RESULT] = {"result", sample_of_result, encode_result, decode_result},
    [CODEC_DONE] = {"done", sample_of_done, encode_done, decode_done},
    [CODEC_ERROR] = {"error", sample_of_error, encode_error, decode_error},
    [CODEC_RELEASE] = {"release", sample_of_release, encode_release, decode_release},
    [CODEC_CREDIT] = {"credit", sample_of_credit, encode_credit, decode_credit},
    [CODEC_STATS] = {"stats", sample_of_stats, encode_stats, decode_stats},
};
