/* exchange.c: see exchange.h. */
#include "tests/support/exchange.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/random.h"

enum { HQ = 2, D = 8, DV = 16, RECEIVE_MS = 20000 };

static void fill(float *values, size_t count, struct random *random)
{
    for (size_t i = 0; i < count; i++) {
        values[i] = (float)(2 * random_unit(random) - 1);
    }
}

static double score(const float *q, const float *k)
{
    double sum = 0;
    for (int c = 0; c < D; c++) {
        sum += (double)q[c] * (double)k[c];
    }
    return sum / sqrt(D);
}

/* One row of one head over keys [first, end). */
static void attend(struct exchange *exchange, int32_t row, int head, int32_t first, int32_t end)
{
    const float *q = exchange->q + ((size_t)row * HQ + (size_t)head) * D;
    double *o = exchange->o + ((size_t)row * HQ + (size_t)head) * DV;
    double sum = 0;
    for (int32_t j = first; j < end; j++) {
        double weight = exp(score(q, exchange->k + (size_t)j * D));
        sum += weight;
        for (int c = 0; c < DV; c++) {
            o[c] += weight * (double)exchange->v[(size_t)j * DV + (size_t)c];
        }
    }
    for (int c = 0; c < DV; c++) {
        o[c] /= sum > 0 ? sum : 1;
    }
    exchange->lse[(size_t)head * (size_t)exchange->rows + (size_t)row] =
        sum > 0 ? log(sum) : -INFINITY;
}

static void solve(struct exchange *exchange)
{
    for (int32_t s = 0; s < exchange->sequences; s++) {
        int32_t first = exchange->lengths[s], end = exchange->lengths[s + 1];
        for (int32_t row = first; row < end; row++) {
            for (int head = 0; head < HQ; head++) {
                attend(exchange, row, head, first, end);
            }
        }
    }
}

void exchange_open(struct exchange *exchange, int32_t sequences)
{
    size_t count = (size_t)sequences + 1;
    *exchange = (struct exchange){.sequences = sequences, .chunk_bytes = FAS_CHUNK_BYTES_MIN};
    exchange->lengths = calloc(2 * count, sizeof *exchange->lengths);
    for (int32_t s = 0; s < sequences; s++) {
        exchange->lengths[s + 1] = exchange->lengths[s] + 1 + s % 7;
    }
    memcpy(exchange->lengths + count, exchange->lengths, count * sizeof *exchange->lengths);
    exchange->rows = exchange->lengths[sequences];
    size_t rows = (size_t)exchange->rows;
    exchange->q = calloc(rows * HQ * D, sizeof *exchange->q);
    exchange->k = calloc(rows * D, sizeof *exchange->k);
    exchange->v = calloc(rows * DV, sizeof *exchange->v);
    exchange->o = calloc(rows * HQ * DV, sizeof *exchange->o);
    exchange->lse = calloc(rows * HQ, sizeof *exchange->lse);
    struct random random = random_open((uint64_t)sequences);
    fill(exchange->q, rows * HQ * D, &random);
    fill(exchange->k, rows * D, &random);
    fill(exchange->v, rows * DV, &random);
    solve(exchange);
    exchange->request = (struct wire_request){
        .pass = FAS_FORWARD,
        .dims = {FAS_FP32, HQ, 1, D, DV, exchange->rows, exchange->rows},
        .batch = sequences,
        .q = {.has_cu_seqlens = true},
        .k = {.has_cu_seqlens = true},
    };
}

void exchange_close(struct exchange *exchange)
{
    free(exchange->lengths);
    free(exchange->q);
    free(exchange->k);
    free(exchange->v);
    free(exchange->o);
    free(exchange->lse);
    *exchange = (struct exchange){0};
}

static const float *input(const struct exchange *exchange, enum fas_tensor tensor)
{
    return tensor == FAS_Q ? exchange->q : tensor == FAS_K ? exchange->k : exchange->v;
}

static uint32_t chunks_of(const struct exchange *exchange, enum fas_tensor tensor)
{
    uint64_t bytes = fas_tensor_bytes(&exchange->request.dims, tensor);
    return (uint32_t)((bytes + exchange->chunk_bytes - 1) / exchange->chunk_bytes);
}

uint32_t exchange_count(const struct exchange *exchange)
{
    return 1 + chunks_of(exchange, FAS_Q) + chunks_of(exchange, FAS_K) + chunks_of(exchange, FAS_V);
}

bool exchange_message(const struct exchange *exchange, uint64_t id, uint32_t index,
                      struct exchange_message *message)
{
    if (index == 0) {
        message->frame = (struct frame){
            .type = FRAME_REQUEST,
            .request = id,
            .header_bytes = (uint32_t)wire_encode_request(&exchange->request, message->header),
            .payload_bytes = wire_lengths_bytes(&exchange->request)};
        message->payload = exchange->lengths;
        return true;
    }
    uint32_t chunk = index - 1;
    for (enum fas_tensor tensor = FAS_Q; tensor <= FAS_V; tensor++) {
        uint32_t chunks = chunks_of(exchange, tensor);
        if (chunk < chunks) {
            uint64_t at = (uint64_t)chunk * exchange->chunk_bytes;
            uint64_t left = fas_tensor_bytes(&exchange->request.dims, tensor) - at;
            bool last = left < exchange->chunk_bytes;
            message->frame = (struct frame){.type = FRAME_DATA,
                                            .flags = (uint16_t)tensor,
                                            .chunk = chunk,
                                            .request = id,
                                            .payload_bytes = last ? left : exchange->chunk_bytes};
            message->payload = (const uint8_t *)input(exchange, tensor) + at;
            return true;
        }
        chunk -= chunks;
    }
    return false;
}

bool exchange_send(const struct exchange *exchange, struct peer *peer, uint64_t id)
{
    static struct exchange_message message;
    for (uint32_t i = 0; exchange_message(exchange, id, i, &message); i++) {
        if (!peer_send(peer, &message.frame, message.header, message.payload)) {
            return false;
        }
    }
    return true;
}

/* ---- what comes back ---- */

static const char *check_o(const struct exchange *exchange, const struct wire_result *result,
                           const float *payload)
{
    const double *expected = exchange->o + (size_t)result->first_row * HQ * DV;
    for (size_t i = 0; i < (size_t)result->row_count * HQ * DV; i++) {
        if (!(fabs((double)payload[i] - expected[i]) <= 1e-5)) {
            return "o is wrong";
        }
    }
    return NULL;
}

static const char *check_lse(const struct exchange *exchange, const struct wire_result *result,
                             const float *payload)
{
    for (int64_t i = 0; i < result->row_count * HQ; i++) {
        int64_t head = i / result->row_count, row = result->first_row + i % result->row_count;
        double expected = exchange->lse[head * exchange->rows + row];
        if (!(fabs((double)payload[i] - expected) <= 1e-4)) {
            return "lse is wrong";
        }
    }
    return NULL;
}

static const char *check_result(const struct exchange *exchange, const struct peer *peer,
                                struct exchange_rows *rows)
{
    struct wire_result result;
    struct fas_error error;
    enum fas_tensor tensor = (enum fas_tensor)peer->frame.flags;
    if (wire_decode_result(peer->header, peer->frame.header_bytes, &result, &error) != FAS_OK) {
        return "a RESULT does not decode";
    }
    if (tensor != FAS_O && tensor != FAS_LSE) {
        return "a RESULT of a tensor nobody asked for";
    }
    uint64_t row_bytes = fas_tensor_row_bytes(&exchange->request.dims, tensor);
    if (result.first_row + result.row_count > exchange->rows ||
        peer->frame.payload_bytes != (uint64_t)result.row_count * row_bytes) {
        return "a RESULT beyond its tensor, or of another size";
    }
    rows->left[tensor] -= result.row_count;
    const float *payload = (const float *)(const void *)peer->payload;
    return tensor == FAS_O ? check_o(exchange, &result, payload)
                           : check_lse(exchange, &result, payload);
}

static const char *describe_error(const struct peer *peer)
{
    static char text[400];
    struct fas_error decoded = {.status = FAS_OK}, error;
    wire_decode_error(peer->header, peer->frame.header_bytes, &decoded, &error);
    snprintf(text, sizeof text, "ERROR %s, %s: %s", fas_status_name(decoded.status), decoded.field,
             decoded.text);
    return text;
}

/* Credit for what was taken, so that results larger than the first credit come too. */
static void give_credit(struct peer *peer)
{
    uint8_t header[32];
    struct frame credit = {.type = FRAME_CREDIT};
    if (peer->frame.payload_bytes > 0) {
        credit.header_bytes = (uint32_t)wire_encode_credit(peer->frame.payload_bytes, header);
        peer_send(peer, &credit, header, NULL);
    }
}

void exchange_expect(const struct exchange *exchange, struct exchange_rows *rows)
{
    *rows = (struct exchange_rows){{[FAS_O] = exchange->rows, [FAS_LSE] = exchange->rows}};
}

const char *exchange_take(const struct exchange *exchange, const struct peer *peer, uint64_t id,
                          struct exchange_rows *rows, bool *done)
{
    if (peer->frame.type == FRAME_ERROR) {
        return describe_error(peer);
    }
    if (peer->frame.request != id) {
        return "a message of another request";
    }
    if (peer->frame.type == FRAME_RESULT) {
        return check_result(exchange, peer, rows);
    }
    *done = peer->frame.type == FRAME_DONE;
    if (!*done) {
        return "an unexpected message";
    }
    return rows->left[FAS_O] == 0 && rows->left[FAS_LSE] == 0 ? NULL : "rows missing, or twice";
}

const char *exchange_receive(const struct exchange *exchange, struct peer *peer, uint64_t id)
{
    struct exchange_rows rows;
    exchange_expect(exchange, &rows);
    for (bool done = false; !done;) {
        enum peer_event event = peer_receive(peer, RECEIVE_MS);
        if (event != PEER_MESSAGE) {
            return event == PEER_CLOSED ? "the connection was closed" : "silence";
        }
        const char *wrong = exchange_take(exchange, peer, id, &rows, &done);
        if (wrong != NULL) {
            return wrong;
        }
        give_credit(peer);
    }
    return NULL;
}
