/*
 * test_wire.c: every header there and back; what each decoder refuses, by field; peers of other
 * versions; and headers made to hurt: decoding stays in its budget and loses nothing, whichever
 * allocation fails. REQUEST's own rules are in test_request.c.
 */
#include "proto/wire.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <faserve.pb-c.h>

#include "tests/proto/check_error.h"
#include "tests/proto/codecs.h"
#include "tests/proto/samples.h"

static uint8_t out[FAS_HEADER_BYTES_MAX];

/* ---- malloc, watched: the linker gives us every call of the code under test (--wrap) ---- */

void *__real_malloc(size_t bytes);
void __real_free(void *memory);
void *__wrap_malloc(size_t bytes);
void __wrap_free(void *memory);

static struct {
    bool on;
    long calls, live, fail_at; /* fail_at: this call (from 1) returns NULL; 0: none */
    size_t bytes;
} heap;

void *__wrap_malloc(size_t bytes)
{
    if (!heap.on) {
        return __real_malloc(bytes);
    }
    heap.calls++;
    if (heap.calls == heap.fail_at) {
        return NULL;
    }
    heap.live++;
    heap.bytes += bytes;
    return __real_malloc(bytes);
}

void __wrap_free(void *memory)
{
    if (heap.on && memory != NULL) {
        heap.live--;
    }
    __real_free(memory);
}

static void watch_heap(long fail_at)
{
    memset(&heap, 0, sizeof heap);
    heap.fail_at = fail_at;
    heap.on = true;
}

static union header decoded;

/* ---- there and back ---- */

static size_t encode_sample(const struct codec *codec)
{
    static union header sample;
    codec->sample(&sample);
    return codec->encode(&sample, out);
}

static void check_decodes(const struct codec *codec, size_t bytes)
{
    struct fas_error error = fresh_error();
    enum fas_status status = codec->decode(out, bytes, &decoded, &error);
    ck_assert_msg(status == FAS_OK, "%s: %s: %s", codec->name, error.field, error.text);
}

static void check_limits(const struct wire_limits *a, const struct wire_limits *b)
{
    ck_assert_uint_eq(a->requests_in_flight, b->requests_in_flight);
    ck_assert_uint_eq(a->chunk_bytes, b->chunk_bytes);
    ck_assert_uint_eq(a->request_bytes, b->request_bytes);
    ck_assert_uint_eq(a->sequences, b->sequences);
    ck_assert_uint_eq(a->retain_bytes, b->retain_bytes);
}

START_TEST(hello_there_and_back)
{
    struct wire_hello sent = sample_hello();
    check_decodes(&codecs[CODEC_HELLO], wire_encode_hello(&sent, out));
    const struct wire_hello *got = &decoded.hello;
    ck_assert_uint_eq(got->version_min, sent.version_min);
    ck_assert_uint_eq(got->version_max, sent.version_max);
    ck_assert_str_eq(got->client, sent.client);
    ck_assert_uint_eq(got->token_bytes, sent.token_bytes);
    ck_assert_mem_eq(got->token, sent.token, sizeof sent.token);
    check_limits(&got->wanted, &sent.wanted);
    ck_assert_uint_eq(got->result_credit_bytes, sent.result_credit_bytes);
    ck_assert(got->has_join);
    ck_assert_mem_eq(got->join, sent.join, sizeof sent.join);

    sent = (struct wire_hello){.version_min = 1, .version_max = 1};
    check_decodes(&codecs[CODEC_HELLO], wire_encode_hello(&sent, out));
    ck_assert(!got->has_join);
    ck_assert_uint_eq(got->token_bytes, 0);
    ck_assert_str_eq(got->client, "");
}
END_TEST

START_TEST(hello_ack_there_and_back)
{
    struct wire_hello_ack sent = sample_hello_ack();
    check_decodes(&codecs[CODEC_HELLO_ACK], wire_encode_hello_ack(&sent, out));
    const struct wire_hello_ack *got = &decoded.hello_ack;
    ck_assert_uint_eq(got->version, sent.version);
    ck_assert_str_eq(got->server, sent.server);
    check_limits(&got->limits, &sent.limits);
    ck_assert_uint_eq(got->upload_credit_bytes, sent.upload_credit_bytes);
    ck_assert_mem_eq(got->nonce, sent.nonce, sizeof sent.nonce);
    ck_assert_uint_eq(got->device_count, sent.device_count);
    ck_assert_uint_eq(got->kernel_count, sent.kernel_count);
    for (uint32_t i = 0; i < sent.device_count; i++) {
        ck_assert_str_eq(got->devices[i].name, sent.devices[i].name);
        ck_assert_str_eq(got->devices[i].uuid, sent.devices[i].uuid);
        ck_assert_str_eq(got->devices[i].arch, sent.devices[i].arch);
        ck_assert_uint_eq(got->devices[i].arena_bytes, sent.devices[i].arena_bytes);
    }
    for (uint32_t i = 0; i < sent.kernel_count; i++) {
        const struct wire_kernel *a = &got->kernels[i], *b = &sent.kernels[i];
        ck_assert_str_eq(a->name, b->name);
        ck_assert_str_eq(a->arch, b->arch);
        ck_assert_int_eq(a->pass, b->pass);
        ck_assert_uint_eq(a->dtypes, b->dtypes);
        ck_assert_int_eq(a->d_min, b->d_min);
        ck_assert_int_eq(a->d_max, b->d_max);
        ck_assert_int_eq(a->dv_min, b->dv_min);
        ck_assert_int_eq(a->dv_max, b->dv_max);
    }
}
END_TEST

START_TEST(places_there_and_back)
{
    struct wire_open sent = sample_cuda();
    check_decodes(&codecs[CODEC_OPEN], wire_encode_open(&sent, out));
    ck_assert_int_eq(decoded.open.place, FAS_PLACE_CUDA);
    ck_assert(decoded.open.has_memory && !decoded.open.has_event);
    ck_assert_mem_eq(decoded.open.cuda_memory, sent.cuda_memory, sizeof sent.cuda_memory);
    ck_assert_str_eq(decoded.open.device_uuid, sent.device_uuid);
    sent.has_memory = false;
    sent.has_event = true;
    memset(sent.cuda_event, 0xab, sizeof sent.cuda_event);
    check_decodes(&codecs[CODEC_OPEN], wire_encode_open(&sent, out));
    ck_assert(!decoded.open.has_memory && decoded.open.has_event);
    ck_assert_mem_eq(decoded.open.cuda_event, sent.cuda_event, sizeof sent.cuda_event);
    sent = sample_region();
    check_decodes(&codecs[CODEC_OPEN], wire_encode_open(&sent, out));
    ck_assert_int_eq(decoded.open.place, FAS_PLACE_REGION);
    ck_assert_uint_eq(decoded.open.bytes, sent.bytes);

    check_decodes(&codecs[CODEC_OPENED], encode_sample(&codecs[CODEC_OPENED]));
    ck_assert_uint_eq(decoded.opened.id, 3);
    ck_assert_uint_eq(decoded.opened.bytes, 1 << 20);
    check_decodes(&codecs[CODEC_CLOSE], encode_sample(&codecs[CODEC_CLOSE]));
    ck_assert_uint_eq(decoded.close, 77);
}
END_TEST

START_TEST(results_and_ends_there_and_back)
{
    check_decodes(&codecs[CODEC_RESULT], encode_sample(&codecs[CODEC_RESULT]));
    struct wire_result result = sample_result();
    ck_assert_int_eq(decoded.result.first_row, result.first_row);
    ck_assert_int_eq(decoded.result.row_count, result.row_count);
    ck_assert_int_eq(decoded.result.first_sequence, result.first_sequence);
    ck_assert_int_eq(decoded.result.sequence_count, result.sequence_count);

    check_decodes(&codecs[CODEC_DONE], encode_sample(&codecs[CODEC_DONE]));
    struct wire_done a = sample_done();
    const struct wire_done *b = &decoded.done;
    ck_assert_uint_eq(a.queue_us, b->queue_us);
    ck_assert_uint_eq(a.copy_in_us, b->copy_in_us);
    ck_assert_uint_eq(a.compute_us, b->compute_us);
    ck_assert_uint_eq(a.copy_out_us, b->copy_out_us);
    ck_assert_uint_eq(a.total_us, b->total_us);
    ck_assert_uint_eq(a.batch_id, b->batch_id);
    ck_assert_uint_eq(a.batch_tokens, b->batch_tokens);
    ck_assert_uint_eq(a.batch_requests, b->batch_requests);
    ck_assert_uint_eq(a.batch_sequences, b->batch_sequences);
    ck_assert_str_eq(a.device, b->device);
    ck_assert_str_eq(a.kernel, b->kernel);
    ck_assert_uint_eq(a.places, b->places);
    ck_assert_uint_eq(a.handle, b->handle);
    ck_assert_uint_eq(a.launches, b->launches);

    check_decodes(&codecs[CODEC_ERROR], encode_sample(&codecs[CODEC_ERROR]));
    struct fas_error error = sample_error();
    ck_assert_int_eq(decoded.error.status, error.status);
    ck_assert_uint_eq(decoded.error.retry_after_ms, error.retry_after_ms);
    ck_assert_str_eq(decoded.error.field, error.field);
    ck_assert_str_eq(decoded.error.text, error.text);
}
END_TEST

START_TEST(numbers_and_stats_there_and_back)
{
    check_decodes(&codecs[CODEC_RELEASE], encode_sample(&codecs[CODEC_RELEASE]));
    ck_assert_uint_eq(decoded.release, UINT64_MAX);
    check_decodes(&codecs[CODEC_CREDIT], encode_sample(&codecs[CODEC_CREDIT]));
    ck_assert_uint_eq(decoded.credit, FAS_CREDIT_BYTES_MAX);

    size_t bytes = encode_sample(&codecs[CODEC_STATS]);
    ck_assert_uint_le(bytes, FAS_HEADER_BYTES_MAX);
    check_decodes(&codecs[CODEC_STATS], bytes);
    ck_assert_uint_eq(decoded.stats.count, FAS_STATS_MAX);
    static struct wire_stats sent;
    sample_stats(&sent, FAS_STATS_MAX);
    for (uint32_t i = 0; i < FAS_STATS_MAX; i++) {
        ck_assert_str_eq(decoded.stats.stats[i].name, sent.stats[i].name);
        ck_assert(decoded.stats.stats[i].value == sent.stats[i].value);
    }
}
END_TEST

/* ---- what is refused ---- */

static void check_refused(const struct codec *codec, size_t bytes, enum fas_status expected,
                          const char *field)
{
    struct fas_error error = fresh_error();
    check_error(codec->decode(out, bytes, &decoded, &error), &error, expected, field);
}

START_TEST(hello_refuses)
{
    struct wire_hello bad = sample_hello();
    bad.version_min = 0;
    check_refused(&codecs[CODEC_HELLO], wire_encode_hello(&bad, out), FAS_INVALID_ARGUMENT,
                  "version_min");
    bad = sample_hello();
    bad.version_min = bad.version_max + 1;
    check_refused(&codecs[CODEC_HELLO], wire_encode_hello(&bad, out), FAS_INVALID_ARGUMENT,
                  "version_max");

    uint8_t bytes[FAS_TOKEN_BYTES_MAX + 1] = {0};
    Faserve__V1__Hello message = FASERVE__V1__HELLO__INIT;
    message.version_min = message.version_max = 1;
    message.token = (ProtobufCBinaryData){sizeof bytes, bytes};
    check_refused(&codecs[CODEC_HELLO], faserve__v1__hello__pack(&message, out),
                  FAS_INVALID_ARGUMENT, "token");
    message.token.len = 0;
    for (size_t len = 1; len <= FAS_NONCE_BYTES + 1; len++) {
        message.join = (ProtobufCBinaryData){len, bytes};
        if (len != FAS_NONCE_BYTES) {
            check_refused(&codecs[CODEC_HELLO], faserve__v1__hello__pack(&message, out),
                          FAS_INVALID_ARGUMENT, "join");
        }
    }
}
END_TEST

START_TEST(wishes_of_hello_are_brought_into_the_limits)
{
    struct wire_hello wish = sample_hello();
    wish.wanted.chunk_bytes = UINT32_MAX;
    wish.wanted.sequences = UINT32_MAX;
    wish.result_credit_bytes = UINT64_MAX;
    check_decodes(&codecs[CODEC_HELLO], wire_encode_hello(&wish, out));
    ck_assert_uint_eq(decoded.hello.wanted.chunk_bytes, FAS_CHUNK_BYTES_MAX);
    ck_assert_uint_eq(decoded.hello.wanted.sequences, FAS_SEQUENCES_MAX);
    ck_assert_uint_eq(decoded.hello.result_credit_bytes, FAS_CREDIT_BYTES_MAX);
    wish.wanted.chunk_bytes = 1;
    check_decodes(&codecs[CODEC_HELLO], wire_encode_hello(&wish, out));
    ck_assert_uint_eq(decoded.hello.wanted.chunk_bytes, FAS_CHUNK_BYTES_MIN);
    wish.wanted.chunk_bytes = 0;
    check_decodes(&codecs[CODEC_HELLO], wire_encode_hello(&wish, out));
    ck_assert_uint_eq(decoded.hello.wanted.chunk_bytes, 0);
}
END_TEST

START_TEST(hello_ack_refuses)
{
    struct wire_hello_ack bad = sample_hello_ack();
    bad.limits.requests_in_flight = 0;
    check_refused(&codecs[CODEC_HELLO_ACK], wire_encode_hello_ack(&bad, out), FAS_INVALID_ARGUMENT,
                  "limits.requests_in_flight");
    const uint32_t chunks[] = {0, FAS_CHUNK_BYTES_MIN - 1, FAS_CHUNK_BYTES_MAX + 1};
    for (size_t i = 0; i < COUNT_OF(chunks); i++) {
        bad = sample_hello_ack();
        bad.limits.chunk_bytes = chunks[i];
        check_refused(&codecs[CODEC_HELLO_ACK], wire_encode_hello_ack(&bad, out),
                      FAS_INVALID_ARGUMENT, "limits.chunk_bytes");
    }
    bad = sample_hello_ack();
    bad.limits.sequences = FAS_SEQUENCES_MAX + 1;
    check_refused(&codecs[CODEC_HELLO_ACK], wire_encode_hello_ack(&bad, out), FAS_INVALID_ARGUMENT,
                  "limits.sequences");
    bad = sample_hello_ack();
    bad.upload_credit_bytes = UINT64_MAX;
    check_refused(&codecs[CODEC_HELLO_ACK], wire_encode_hello_ack(&bad, out), FAS_INVALID_ARGUMENT,
                  "upload_credit_bytes");
    bad = sample_hello_ack();
    bad.kernels[5].pass = (enum fas_pass)2;
    check_refused(&codecs[CODEC_HELLO_ACK], wire_encode_hello_ack(&bad, out), FAS_INVALID_ARGUMENT,
                  "kernels.pass");
    bad = sample_hello_ack();
    bad.kernels[63].dv_max = 8;
    check_refused(&codecs[CODEC_HELLO_ACK], wire_encode_hello_ack(&bad, out), FAS_INVALID_ARGUMENT,
                  "kernels.dv_max");
}
END_TEST

/* What our own encoder can not say: a list too long, a nonce too short, no limits. */
START_TEST(hello_ack_refuses_a_server_that_is_not_ours)
{
    Faserve__V1__Device device = FASERVE__V1__DEVICE__INIT, *devices[FAS_DEVICES_MAX + 1];
    Faserve__V1__Kernel kernel = FASERVE__V1__KERNEL__INIT, *kernels[FAS_KERNELS_MAX + 1];
    for (size_t i = 0; i < COUNT_OF(devices); i++) {
        devices[i] = &device;
    }
    for (size_t i = 0; i < COUNT_OF(kernels); i++) {
        kernels[i] = &kernel;
    }
    uint8_t nonce[FAS_NONCE_BYTES] = {1};
    Faserve__V1__Limits limits = FASERVE__V1__LIMITS__INIT;
    limits.requests_in_flight = 1;
    limits.chunk_bytes = FAS_CHUNK_BYTES_MIN;
    limits.sequences = 1;
    Faserve__V1__HelloAck message = FASERVE__V1__HELLO_ACK__INIT;
    message.version = 1;
    message.nonce = (ProtobufCBinaryData){FAS_NONCE_BYTES - 1, nonce};
    check_refused(&codecs[CODEC_HELLO_ACK], faserve__v1__hello_ack__pack(&message, out),
                  FAS_INVALID_ARGUMENT, "limits");
    message.limits = &limits;
    check_refused(&codecs[CODEC_HELLO_ACK], faserve__v1__hello_ack__pack(&message, out),
                  FAS_INVALID_ARGUMENT, "nonce");
    message.nonce.len = FAS_NONCE_BYTES;
    check_decodes(&codecs[CODEC_HELLO_ACK], faserve__v1__hello_ack__pack(&message, out));
    message.devices = devices;
    message.n_devices = COUNT_OF(devices);
    check_refused(&codecs[CODEC_HELLO_ACK], faserve__v1__hello_ack__pack(&message, out),
                  FAS_INVALID_ARGUMENT, "devices");
    message.n_devices = 0;
    message.kernels = kernels;
    message.n_kernels = COUNT_OF(kernels);
    check_refused(&codecs[CODEC_HELLO_ACK], faserve__v1__hello_ack__pack(&message, out),
                  FAS_INVALID_ARGUMENT, "kernels");
}
END_TEST

START_TEST(open_refuses)
{
    struct wire_open bad = sample_region();
    bad.place = FAS_PLACE_INLINE;
    check_refused(&codecs[CODEC_OPEN], wire_encode_open(&bad, out), FAS_INVALID_ARGUMENT, "place");
    bad.place = FAS_PLACE_COUNT;
    check_refused(&codecs[CODEC_OPEN], wire_encode_open(&bad, out), FAS_INVALID_ARGUMENT, "place");
    bad = sample_region();
    bad.bytes = 0;
    check_refused(&codecs[CODEC_OPEN], wire_encode_open(&bad, out), FAS_INVALID_ARGUMENT, "bytes");
    bad.bytes = UINT64_MAX;
    check_refused(&codecs[CODEC_OPEN], wire_encode_open(&bad, out), FAS_INVALID_ARGUMENT, "bytes");
    bad = sample_region();
    bad.has_event = true;
    check_refused(&codecs[CODEC_OPEN], wire_encode_open(&bad, out), FAS_INVALID_ARGUMENT,
                  "cuda_event");
    bad.has_memory = true;
    check_refused(&codecs[CODEC_OPEN], wire_encode_open(&bad, out), FAS_INVALID_ARGUMENT,
                  "cuda_memory");
    bad = sample_cuda();
    bad.has_event = true;
    check_refused(&codecs[CODEC_OPEN], wire_encode_open(&bad, out), FAS_INVALID_ARGUMENT,
                  "cuda_memory");
    bad.has_event = bad.has_memory = false;
    check_refused(&codecs[CODEC_OPEN], wire_encode_open(&bad, out), FAS_INVALID_ARGUMENT,
                  "cuda_memory");

    uint8_t handle[WIRE_CUDA_HANDLE_BYTES + 1] = {0};
    Faserve__V1__Open message = FASERVE__V1__OPEN__INIT;
    message.place = FAS_PLACE_CUDA;
    message.cuda_event = (ProtobufCBinaryData){sizeof handle, handle};
    check_refused(&codecs[CODEC_OPEN], faserve__v1__open__pack(&message, out), FAS_INVALID_ARGUMENT,
                  "cuda_event");
    message.cuda_memory = (ProtobufCBinaryData){1, handle};
    check_refused(&codecs[CODEC_OPEN], faserve__v1__open__pack(&message, out), FAS_INVALID_ARGUMENT,
                  "cuda_memory");
}
END_TEST

START_TEST(small_messages_refuse)
{
    struct wire_opened opened = {.id = 0};
    check_refused(&codecs[CODEC_OPENED], wire_encode_opened(&opened, out), FAS_INVALID_ARGUMENT,
                  "id");
    opened.id = FAS_PLACE_ID_MAX + 1;
    check_refused(&codecs[CODEC_OPENED], wire_encode_opened(&opened, out), FAS_INVALID_ARGUMENT,
                  "id");
    check_refused(&codecs[CODEC_CLOSE], wire_encode_close(0, out), FAS_INVALID_ARGUMENT, "id");
    check_refused(&codecs[CODEC_RELEASE], wire_encode_release(0, out), FAS_INVALID_ARGUMENT,
                  "handle");
    check_refused(&codecs[CODEC_CREDIT], wire_encode_credit(0, out), FAS_INVALID_ARGUMENT, "bytes");
    check_refused(&codecs[CODEC_CREDIT], wire_encode_credit(FAS_CREDIT_BYTES_MAX + 1, out),
                  FAS_INVALID_ARGUMENT, "bytes");
    struct wire_done done = sample_done();
    done.places = 1u << FAS_PLACE_COUNT;
    check_refused(&codecs[CODEC_DONE], wire_encode_done(&done, out), FAS_INVALID_ARGUMENT,
                  "places");
    struct fas_error ok = {.status = FAS_OK};
    check_refused(&codecs[CODEC_ERROR], wire_encode_error(&ok, out), FAS_INVALID_ARGUMENT,
                  "status");
    ck_assert_int_eq(wire_decode_credit(out, 0, &decoded.credit, NULL), FAS_INVALID_ARGUMENT);
}
END_TEST

START_TEST(result_refuses_rows_and_sequences_past_the_limits)
{
    const struct {
        struct wire_result result;
        const char *field;
    } cases[] = {
        {{.first_row = FAS_ROWS_MAX + 1}, "first_row"},
        {{.first_row = -1}, "first_row"},
        {{.first_row = FAS_ROWS_MAX, .row_count = 1}, "row_count"},
        {{.first_row = 1, .row_count = INT64_MAX}, "row_count"},
        {{.first_sequence = FAS_SEQUENCES_MAX + 1}, "first_sequence"},
        {{.first_sequence = -1}, "first_sequence"},
        {{.first_sequence = 5, .sequence_count = FAS_SEQUENCES_MAX - 4}, "sequence_count"},
        {{.sequence_count = -1}, "sequence_count"},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        check_refused(&codecs[CODEC_RESULT], wire_encode_result(&cases[i].result, out),
                      FAS_INVALID_ARGUMENT, cases[i].field);
    }
}
END_TEST

START_TEST(stats_refuse_one_too_many)
{
    Faserve__V1__Stat stat = FASERVE__V1__STAT__INIT, *stats[FAS_STATS_MAX + 1];
    for (size_t i = 0; i < COUNT_OF(stats); i++) {
        stats[i] = &stat;
    }
    Faserve__V1__StatsReply message = FASERVE__V1__STATS_REPLY__INIT;
    message.stats = stats;
    message.n_stats = COUNT_OF(stats);
    check_refused(&codecs[CODEC_STATS], faserve__v1__stats_reply__pack(&message, out),
                  FAS_INVALID_ARGUMENT, "stats");
    message.n_stats--;
    check_decodes(&codecs[CODEC_STATS], faserve__v1__stats_reply__pack(&message, out));
}
END_TEST

START_TEST(strings_are_cut_at_a_character)
{
    char text[300] = "";
    for (size_t i = 0; i + 3 < sizeof text; i += 3) {
        memcpy(text + i, "\xe2\x82\xac", 4); /* a euro sign: three bytes */
    }
    Faserve__V1__Error message = FASERVE__V1__ERROR__INIT;
    message.status = FAS_INTERNAL;
    message.field = message.text = text;
    check_decodes(&codecs[CODEC_ERROR], faserve__v1__error__pack(&message, out));
    ck_assert_uint_eq(strlen(decoded.error.field), 45); /* 47 bytes of room, 15 whole signs */
    ck_assert_uint_eq(strlen(decoded.error.text), 207);
    ck_assert_mem_eq(decoded.error.text, text, 207);
}
END_TEST

/* ---- peers of other versions ---- */

/* Fields no version of ours has, in each wire type a parser must be able to step over. */
static size_t add_unknown_fields(size_t bytes)
{
    static const uint8_t unknown[] = {
        0xf8, 0x7f, 0x96, 0x01,                       /* 2047: varint */
        0xf1, 0x7f, 1,    2,    3,   4,   5, 6, 7, 8, /* 2046: 64 bit */
        0xea, 0x7f, 3,    'n',  'e', 'w',             /* 2045: bytes */
        0xe5, 0x7f, 1,    2,    3,   4,               /* 2044: 32 bit */
    };
    memcpy(out + bytes, unknown, sizeof unknown);
    return bytes + sizeof unknown;
}

START_TEST(unknown_fields_of_a_newer_peer_are_ignored)
{
    const struct codec *codec = &codecs[_i];
    size_t bytes = encode_sample(codec);
    check_decodes(codec, add_unknown_fields(bytes));
}
END_TEST

START_TEST(the_highest_common_version_is_picked)
{
    const struct {
        uint32_t min, max;
        enum fas_status status;
    } cases[] = {
        {1, 1, FAS_OK},
        {1, 9, FAS_OK},
        {FAS_VERSION_MAX + 1, FAS_VERSION_MAX + 1, FAS_UNSUPPORTED},
        {7, UINT32_MAX, FAS_UNSUPPORTED},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct wire_hello hello = {.version_min = cases[i].min, .version_max = cases[i].max};
        check_decodes(&codecs[CODEC_HELLO], wire_encode_hello(&hello, out));
        uint32_t version = 0;
        struct fas_error error = fresh_error();
        enum fas_status status = wire_version_pick(&decoded.hello, &version, &error);
        if (cases[i].status == FAS_OK) {
            ck_assert_int_eq(status, FAS_OK);
            ck_assert_uint_eq(version, FAS_VERSION_MAX);
        } else {
            check_error(status, &error, FAS_UNSUPPORTED, "version_min");
            char both[32];
            snprintf(both, sizeof both, "%u to %u", cases[i].min, cases[i].max);
            ck_assert_ptr_nonnull(strstr(error.text, both));
            ck_assert_ptr_nonnull(strstr(error.text, "server 1 to 1"));
        }
    }
}
END_TEST

START_TEST(a_version_nobody_offered_is_refused)
{
    struct wire_hello_ack ack = sample_hello_ack();
    ack.version = FAS_VERSION_MAX + 1;
    check_refused(&codecs[CODEC_HELLO_ACK], wire_encode_hello_ack(&ack, out), FAS_UNSUPPORTED,
                  "version");
    ack.version = 0;
    check_refused(&codecs[CODEC_HELLO_ACK], wire_encode_hello_ack(&ack, out), FAS_UNSUPPORTED,
                  "version");
}
END_TEST

START_TEST(a_newer_status_reaches_the_caller_as_it_is)
{
    struct fas_error newer = {.status = (enum fas_status)42, .field = "q", .text = "too blue"};
    check_decodes(&codecs[CODEC_ERROR], add_unknown_fields(wire_encode_error(&newer, out)));
    ck_assert_int_eq(decoded.error.status, 42);
    ck_assert_str_eq(fas_status_name(decoded.error.status), "UNKNOWN");
    ck_assert_str_eq(decoded.error.text, "too blue");
}
END_TEST

/* ---- headers made to hurt ---- */

static void fill(const void *unit, size_t bytes)
{
    for (size_t i = 0; i < sizeof out; i++) {
        out[i] = ((const uint8_t *)unit)[i % bytes];
    }
}

/* Messages within messages, innermost empty: each length covers all the rest. */
static size_t nest(uint8_t tag)
{
    size_t at = 0;
    while (at + 4 <= sizeof out) {
        size_t rest = sizeof out - at - 4;
        out[at++] = tag;
        out[at++] = (uint8_t)(0x80 | (rest & 0x7f));
        out[at++] = (uint8_t)(0x80 | ((rest >> 7) & 0x7f));
        out[at++] = (uint8_t)(rest >> 14);
    }
    return at;
}

static void check_harmless(const char *what)
{
    struct fas_error error;
    for (size_t i = 0; i < CODEC_COUNT; i++) {
        watch_heap(0);
        codecs[i].decode(out, sizeof out, &decoded, &error);
        heap.on = false;
        ck_assert_msg(heap.live == 0, "%s as %s: %ld leaked", what, codecs[i].name, heap.live);
        ck_assert_msg(heap.bytes <= FAS_DECODE_BYTES_MAX, "%s as %s: %zu bytes", what,
                      codecs[i].name, heap.bytes);
    }
}

START_TEST(a_full_header_of_anything_stays_in_the_budget)
{
    /* Every field number a header has, as empty message, as zero, and nested to the end. */
    for (int field = 1; field <= 15; field++) {
        uint8_t empty[] = {(uint8_t)(field << 3 | 2), 0}, zero[] = {(uint8_t)(field << 3), 0};
        fill(empty, sizeof empty);
        check_harmless("empty messages");
        fill(zero, sizeof zero);
        check_harmless("zeros");
        nest((uint8_t)(field << 3 | 2));
        check_harmless("nesting");
    }
    fill("\x9a\x01", 3); /* empty tensor entries, field 19 */
    check_harmless("empty tensor entries");
    fill("\xf8\x7f", 3);
    check_harmless("unknown zeros");
    fill("\xff", 1);
    check_harmless("ones");
    fill("", 1);
    check_harmless("zero bytes");
}
END_TEST

START_TEST(what_costs_more_than_the_budget_is_refused_as_a_header)
{
    fill("\x0a\x00", 2); /* 32768 empty rows of stats */
    struct fas_error error = fresh_error();
    watch_heap(0);
    enum fas_status status = wire_decode_stats(out, sizeof out, &decoded.stats, &error);
    heap.on = false;
    check_error(status, &error, FAS_INVALID_ARGUMENT, "header");
    ck_assert_ptr_nonnull(strstr(error.text, "takes more than"));
    ck_assert_int_eq(heap.live, 0);
}
END_TEST

START_TEST(garbage_and_oversize_are_refused_as_a_header)
{
    static const uint8_t http[] = "GET / HTTP/1.1\r\n";
    memcpy(out, http, sizeof http);
    check_refused(&codecs[CODEC_HELLO], sizeof http - 1, FAS_INVALID_ARGUMENT, "header");
    static uint8_t huge[FAS_HEADER_BYTES_MAX + 1];
    struct fas_error error = fresh_error();
    check_error(wire_decode_hello(huge, sizeof huge, &decoded.hello, &error), &error,
                FAS_INVALID_ARGUMENT, "header");
}
END_TEST

START_TEST(a_header_cut_anywhere_is_decoded_or_refused_and_leaks_nothing)
{
    const struct codec *codec = &codecs[_i];
    size_t bytes = encode_sample(codec), step = bytes > 4096 ? 61 : 1;
    for (size_t cut = 0; cut < bytes; cut += step) {
        uint8_t *exact = __real_malloc(cut == 0 ? 1 : cut); /* reading past its end shows in asan */
        memcpy(exact, out, cut);
        struct fas_error error = fresh_error();
        watch_heap(0);
        enum fas_status status = codec->decode(exact, cut, &decoded, &error);
        heap.on = false;
        __real_free(exact);
        ck_assert(status == FAS_OK || error.status == status);
        ck_assert_int_eq(heap.live, 0);
    }
}
END_TEST

START_TEST(an_ordinary_request_costs_no_malloc)
{
    struct fas_error error;
    size_t bytes = encode_sample(&codecs[CODEC_REQUEST]);
    watch_heap(0);
    enum fas_status status = wire_decode_request(out, bytes, &decoded.request, &error);
    heap.on = false;
    ck_assert_int_eq(status, FAS_OK);
    ck_assert_int_eq(heap.calls, 0);
}
END_TEST

START_TEST(whichever_allocation_fails_nothing_is_lost)
{
    const struct codec *codec = &codecs[_i];
    size_t bytes = encode_sample(codec);
    bool failed = true;
    for (long n = 1; failed; n++) {
        struct fas_error error = fresh_error();
        watch_heap(n);
        enum fas_status status = codec->decode(out, bytes, &decoded, &error);
        heap.on = false;
        failed = heap.calls >= n;
        ck_assert_int_eq(heap.live, 0);
        if (failed) {
            check_error(status, &error, FAS_RESOURCE_EXHAUSTED, "header");
        } else {
            ck_assert_int_eq(status, FAS_OK);
        }
        ck_assert_int_lt(n, 5000);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("wire");
    TCase *tcase = tcase_create("wire");
    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, hello_there_and_back);
    tcase_add_test(tcase, hello_ack_there_and_back);
    tcase_add_test(tcase, places_there_and_back);
    tcase_add_test(tcase, results_and_ends_there_and_back);
    tcase_add_test(tcase, numbers_and_stats_there_and_back);
    tcase_add_test(tcase, hello_refuses);
    tcase_add_test(tcase, wishes_of_hello_are_brought_into_the_limits);
    tcase_add_test(tcase, hello_ack_refuses);
    tcase_add_test(tcase, hello_ack_refuses_a_server_that_is_not_ours);
    tcase_add_test(tcase, open_refuses);
    tcase_add_test(tcase, small_messages_refuse);
    tcase_add_test(tcase, result_refuses_rows_and_sequences_past_the_limits);
    tcase_add_test(tcase, stats_refuse_one_too_many);
    tcase_add_test(tcase, strings_are_cut_at_a_character);
    tcase_add_loop_test(tcase, unknown_fields_of_a_newer_peer_are_ignored, 0, CODEC_COUNT);
    tcase_add_test(tcase, the_highest_common_version_is_picked);
    tcase_add_test(tcase, a_version_nobody_offered_is_refused);
    tcase_add_test(tcase, a_newer_status_reaches_the_caller_as_it_is);
    tcase_add_test(tcase, a_full_header_of_anything_stays_in_the_budget);
    tcase_add_test(tcase, what_costs_more_than_the_budget_is_refused_as_a_header);
    tcase_add_test(tcase, garbage_and_oversize_are_refused_as_a_header);
    tcase_add_loop_test(tcase, a_header_cut_anywhere_is_decoded_or_refused_and_leaks_nothing, 0,
                        CODEC_COUNT);
    tcase_add_test(tcase, an_ordinary_request_costs_no_malloc);
    tcase_add_loop_test(tcase, whichever_allocation_fails_nothing_is_lost, 0, CODEC_COUNT);
    suite_add_tcase(suite, tcase);
    return run_suite(suite);
}
