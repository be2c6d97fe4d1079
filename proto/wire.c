/*
 * wire.c: the small headers: places, results, ends of requests, credit, stats. wire_hello.c and
 * wire_request.c have the two that carry rules of their own; wire_codec.h says how all work.
 */
#include "proto/wire.h"

#include <inttypes.h>
#include <string.h>

#include <faserve.pb-c.h>

#include "proto/wire_codec.h"

size_t wire_encode_open(const struct wire_open *open, uint8_t *out)
{
    Faserve__V1__Open message = FASERVE__V1__OPEN__INIT;
    message.place = open->place;
    message.bytes = open->bytes;
    message.cuda_memory =
        codec_give_bytes(open->cuda_memory, open->has_memory ? WIRE_CUDA_HANDLE_BYTES : 0);
    message.cuda_event =
        codec_give_bytes(open->cuda_event, open->has_event ? WIRE_CUDA_HANDLE_BYTES : 0);
    message.device_uuid = codec_give_string(open->device_uuid);
    return codec_encode(&message.base, out);
}

/* A region has a size; what comes from CUDA has one handle, of memory or of an event. */
static enum fas_status check_open(const struct wire_open *open, struct fas_error *error)
{
    bool region = open->place == FAS_PLACE_REGION;
    if (region && (open->has_memory || open->has_event)) {
        return fas_fail(error, FAS_INVALID_ARGUMENT,
                        open->has_memory ? "cuda_memory" : "cuda_event",
                        "a region has no CUDA handle");
    }
    if (region && (open->bytes == 0 || open->bytes > (uint64_t)FAS_EXTENT_BYTES_MAX)) {
        return fas_fail(error, FAS_INVALID_ARGUMENT, "bytes", "%" PRIu64 " in a region",
                        open->bytes);
    }
    if (!region && open->has_memory == open->has_event) {
        return fas_fail(error, FAS_INVALID_ARGUMENT, "cuda_memory",
                        "either cuda_memory or cuda_event, one of them");
    }
    return FAS_OK;
}

static enum fas_status read_open(const void *in, void *out, struct fas_error *error)
{
    const Faserve__V1__Open *message = in;
    struct wire_open *open = out;
    const struct codec_range place = {"place", message->place, FAS_PLACE_REGION, FAS_PLACE_CUDA};
    enum fas_status status = codec_check(&place, 1, error);
    if (status != FAS_OK) {
        return status;
    }
    *open = (struct wire_open){.place = (enum fas_place)message->place, .bytes = message->bytes};
    codec_take_string(open->device_uuid, sizeof open->device_uuid, message->device_uuid);
    status = codec_take_bytes(open->cuda_memory, WIRE_CUDA_HANDLE_BYTES, &message->cuda_memory,
                              "cuda_memory", &open->has_memory, error);
    if (status == FAS_OK) {
        status = codec_take_bytes(open->cuda_event, WIRE_CUDA_HANDLE_BYTES, &message->cuda_event,
                                  "cuda_event", &open->has_event, error);
    }
    return status == FAS_OK ? check_open(open, error) : status;
}

enum fas_status wire_decode_open(const uint8_t *in, size_t bytes, struct wire_open *open,
                                 struct fas_error *error)
{
    return codec_decode(&faserve__v1__open__descriptor, in, bytes, read_open, open, error);
}

size_t wire_encode_opened(const struct wire_opened *opened, uint8_t *out)
{
    Faserve__V1__Opened message = FASERVE__V1__OPENED__INIT;
    message.id = opened->id;
    message.bytes = opened->bytes;
    return codec_encode(&message.base, out);
}

static enum fas_status read_opened(const void *in, void *out, struct fas_error *error)
{
    const Faserve__V1__Opened *message = in;
    struct wire_opened *opened = out;
    const struct codec_range id = {"id", message->id, 1, FAS_PLACE_ID_MAX};
    *opened = (struct wire_opened){.id = message->id, .bytes = message->bytes};
    return codec_check(&id, 1, error);
}

enum fas_status wire_decode_opened(const uint8_t *in, size_t bytes, struct wire_opened *opened,
                                   struct fas_error *error)
{
    return codec_decode(&faserve__v1__opened__descriptor, in, bytes, read_opened, opened, error);
}

size_t wire_encode_close(uint32_t id, uint8_t *out)
{
    Faserve__V1__Close message = FASERVE__V1__CLOSE__INIT;
    message.id = id;
    return codec_encode(&message.base, out);
}

static enum fas_status read_close(const void *in, void *out, struct fas_error *error)
{
    const Faserve__V1__Close *message = in;
    const struct codec_range id = {"id", message->id, 1, FAS_PLACE_ID_MAX};
    *(uint32_t *)out = message->id;
    return codec_check(&id, 1, error);
}

enum fas_status wire_decode_close(const uint8_t *in, size_t bytes, uint32_t *id,
                                  struct fas_error *error)
{
    return codec_decode(&faserve__v1__close__descriptor, in, bytes, read_close, id, error);
}

size_t wire_encode_result(const struct wire_result *result, uint8_t *out)
{
    Faserve__V1__Result message = FASERVE__V1__RESULT__INIT;
    message.first_row = (uint64_t)result->first_row;
    message.row_count = (uint64_t)result->row_count;
    message.first_sequence = (uint32_t)result->first_sequence;
    message.sequence_count = (uint32_t)result->sequence_count;
    message.number = result->number;
    return codec_encode(&message.base, out);
}

static enum fas_status read_result(const void *in, void *out, struct fas_error *error)
{
    const Faserve__V1__Result *message = in;
    struct wire_result *result = out;
    const struct codec_range starts[] = {
        {"first_row", message->first_row, 0, FAS_ROWS_MAX},
        {"first_sequence", message->first_sequence, 0, FAS_SEQUENCES_MAX},
    };
    enum fas_status status = codec_check(starts, COUNT(starts), error);
    if (status != FAS_OK) {
        return status;
    }
    const struct codec_range counts[] = {
        {"row_count", message->row_count, 0, (uint64_t)FAS_ROWS_MAX - message->first_row},
        {"sequence_count", message->sequence_count, 0, FAS_SEQUENCES_MAX - message->first_sequence},
    };
    *result = (struct wire_result){.first_row = (int64_t)message->first_row,
                                   .row_count = (int64_t)message->row_count,
                                   .first_sequence = (int32_t)message->first_sequence,
                                   .sequence_count = (int32_t)message->sequence_count,
                                   .number = message->number};
    return codec_check(counts, COUNT(counts), error);
}

enum fas_status wire_decode_result(const uint8_t *in, size_t bytes, struct wire_result *result,
                                   struct fas_error *error)
{
    return codec_decode(&faserve__v1__result__descriptor, in, bytes, read_result, result, error);
}

size_t wire_encode_done(const struct wire_done *done, uint8_t *out)
{
    Faserve__V1__Done message = FASERVE__V1__DONE__INIT;
    message.queue_us = done->queue_us;
    message.copy_in_us = done->copy_in_us;
    message.compute_us = done->compute_us;
    message.copy_out_us = done->copy_out_us;
    message.total_us = done->total_us;
    message.batch_id = done->batch_id;
    message.batch_requests = done->batch_requests;
    message.batch_sequences = done->batch_sequences;
    message.batch_tokens = done->batch_tokens;
    message.device = codec_give_string(done->device);
    message.kernel = codec_give_string(done->kernel);
    message.places = done->places;
    message.handle = done->handle;
    message.launches = done->launches;
    return codec_encode(&message.base, out);
}

static enum fas_status read_done(const void *in, void *out, struct fas_error *error)
{
    const Faserve__V1__Done *message = in;
    struct wire_done *done = out;
    const struct codec_range places = {"places", message->places, 0, (1u << FAS_PLACE_COUNT) - 1};
    *done = (struct wire_done){.queue_us = message->queue_us,
                               .copy_in_us = message->copy_in_us,
                               .compute_us = message->compute_us,
                               .copy_out_us = message->copy_out_us,
                               .total_us = message->total_us,
                               .batch_id = message->batch_id,
                               .batch_tokens = message->batch_tokens,
                               .batch_requests = message->batch_requests,
                               .batch_sequences = message->batch_sequences,
                               .places = message->places,
                               .handle = message->handle,
                               .launches = message->launches};
    codec_take_string(done->device, sizeof done->device, message->device);
    codec_take_string(done->kernel, sizeof done->kernel, message->kernel);
    return codec_check(&places, 1, error);
}

enum fas_status wire_decode_done(const uint8_t *in, size_t bytes, struct wire_done *done,
                                 struct fas_error *error)
{
    return codec_decode(&faserve__v1__done__descriptor, in, bytes, read_done, done, error);
}

size_t wire_encode_error(const struct fas_error *error, uint8_t *out)
{
    Faserve__V1__Error message = FASERVE__V1__ERROR__INIT;
    message.status = error->status;
    message.field = codec_give_string(error->field);
    message.text = codec_give_string(error->text);
    message.retry_after_ms = error->retry_after_ms;
    return codec_encode(&message.base, out);
}

/* A status this version does not know stays as it is: fas_status_name says UNKNOWN. */
static enum fas_status read_error(const void *in, void *out, struct fas_error *error)
{
    const Faserve__V1__Error *message = in;
    struct fas_error *decoded = out;
    const struct codec_range status = {"status", message->status, FAS_OK + 1, INT32_MAX};
    *decoded = (struct fas_error){.status = (enum fas_status)message->status,
                                  .retry_after_ms = message->retry_after_ms};
    codec_take_string(decoded->field, sizeof decoded->field, message->field);
    codec_take_string(decoded->text, sizeof decoded->text, message->text);
    return codec_check(&status, 1, error);
}

enum fas_status wire_decode_error(const uint8_t *in, size_t bytes, struct fas_error *decoded,
                                  struct fas_error *error)
{
    return codec_decode(&faserve__v1__error__descriptor, in, bytes, read_error, decoded, error);
}

size_t wire_encode_release(uint64_t handle, uint8_t *out)
{
    Faserve__V1__Release message = FASERVE__V1__RELEASE__INIT;
    message.handle = handle;
    return codec_encode(&message.base, out);
}

static enum fas_status read_release(const void *in, void *out, struct fas_error *error)
{
    const Faserve__V1__Release *message = in;
    const struct codec_range handle = {"handle", message->handle, 1, UINT64_MAX};
    *(uint64_t *)out = message->handle;
    return codec_check(&handle, 1, error);
}

enum fas_status wire_decode_release(const uint8_t *in, size_t bytes, uint64_t *handle,
                                    struct fas_error *error)
{
    return codec_decode(&faserve__v1__release__descriptor, in, bytes, read_release, handle, error);
}

size_t wire_encode_credit(uint64_t bytes, uint8_t *out)
{
    Faserve__V1__Credit message = FASERVE__V1__CREDIT__INIT;
    message.bytes = bytes;
    return codec_encode(&message.base, out);
}

static enum fas_status read_credit(const void *in, void *out, struct fas_error *error)
{
    const Faserve__V1__Credit *message = in;
    const struct codec_range bytes = {"bytes", message->bytes, 1, FAS_CREDIT_BYTES_MAX};
    *(uint64_t *)out = message->bytes;
    return codec_check(&bytes, 1, error);
}

enum fas_status wire_decode_credit(const uint8_t *in, size_t bytes, uint64_t *credit_bytes,
                                   struct fas_error *error)
{
    return codec_decode(&faserve__v1__credit__descriptor, in, bytes, read_credit, credit_bytes,
                        error);
}

size_t wire_encode_stats(const struct wire_stats *stats, uint8_t *out)
{
    assert(stats->count <= FAS_STATS_MAX);
    Faserve__V1__Stat messages[FAS_STATS_MAX], *rows[FAS_STATS_MAX];
    for (uint32_t i = 0; i < stats->count; i++) {
        Faserve__V1__Stat row = FASERVE__V1__STAT__INIT;
        row.name = codec_give_string(stats->stats[i].name);
        row.value = stats->stats[i].value;
        messages[i] = row;
        rows[i] = &messages[i];
    }
    Faserve__V1__StatsReply message = FASERVE__V1__STATS_REPLY__INIT;
    message.n_stats = stats->count;
    message.stats = rows;
    return codec_encode(&message.base, out);
}

static enum fas_status read_stats(const void *in, void *out, struct fas_error *error)
{
    const Faserve__V1__StatsReply *message = in;
    struct wire_stats *stats = out;
    const struct codec_range count = {"stats", message->n_stats, 0, FAS_STATS_MAX};
    enum fas_status status = codec_check(&count, 1, error);
    if (status != FAS_OK) {
        return status;
    }
    stats->count = (uint32_t)message->n_stats;
    for (uint32_t i = 0; i < stats->count; i++) {
        struct wire_stat *stat = &stats->stats[i];
        codec_take_string(stat->name, sizeof stat->name, message->stats[i]->name);
        stat->value = message->stats[i]->value;
    }
    return FAS_OK;
}

enum fas_status wire_decode_stats(const uint8_t *in, size_t bytes, struct wire_stats *stats,
                                  struct fas_error *error)
{
    return codec_decode(&faserve__v1__stats_reply__descriptor, in, bytes, read_stats, stats, error);
}
