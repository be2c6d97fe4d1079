/*
 * exchange.h: one small forward request whose answer is known: message by message, so that a test
 * can leave one out, send one twice or cut the connection between any two; and the check of what
 * comes back against attention written down plainly here (float64, one sequence and head at a
 * time). fp32, 2 q heads over 1 kv head, d 8, dv 16, full mask.
 */
#ifndef TESTS_EXCHANGE_H
#define TESTS_EXCHANGE_H

#include "tests/support/peer.h"

struct exchange {
    struct wire_request request;
    int32_t sequences, rows;
    int32_t *lengths; /* cu_seqlens_q and _k, the same: the payload of REQUEST */
    float *q, *k, *v; /* packed, as sent */
    double *o, *lse;  /* what must come back */
    uint32_t chunk_bytes;
};

struct exchange_message {
    struct frame frame;
    uint8_t header[FAS_HEADER_BYTES_MAX];
    const void *payload;
};

/* `sequences` of 1, 2, ... 7, 1, ... rows; chunks as FAS_CHUNK_BYTES_MIN. */
void exchange_open(struct exchange *exchange, int32_t sequences);
void exchange_close(struct exchange *exchange);

/* The messages of request `id`: REQUEST, then every DATA. False past the last. */
bool exchange_message(const struct exchange *exchange, uint64_t id, uint32_t index,
                      struct exchange_message *message);
uint32_t exchange_count(const struct exchange *exchange);

bool exchange_send(const struct exchange *exchange, struct peer *peer, uint64_t id);

/* What is still to come of an exchange's results. */
struct exchange_rows {
    int64_t left[FAS_TENSOR_COUNT];
};
void exchange_expect(const struct exchange *exchange, struct exchange_rows *rows);

/* Takes the peer's last message, which was not CREDIT: NULL, or what is wrong with it. */
const char *exchange_take(const struct exchange *exchange, const struct peer *peer, uint64_t id,
                          struct exchange_rows *rows, bool *done);

/* Receives up to DONE. NULL: all of it came, once, and is right; else what is wrong. */
const char *exchange_receive(const struct exchange *exchange, struct peer *peer, uint64_t id);

#endif
