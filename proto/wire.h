/*
 * wire.h: protobuf headers <-> checked C structs. Only wire_*.c know protobuf-c.
 *
 * encode: struct -> bytes in the caller's buffer; returns their length. The buffer of
 *         FAS_HEADER_BYTES_MAX always suffices, so encoding can not fail.
 * decode: bytes of a peer nobody trusts -> struct, or a status whose error names the field. Memory
 *         for protobuf-c comes from a budget of FAS_DECODE_BYTES_MAX per call (budget.h), all freed
 *         before return; strings are copied, cut to their arrays and terminated. After a successful
 *         decode every number obeys limits.h and every enum is in its range: parse once at the
 *         door, then trust. After a failed one the struct's contents are unspecified.
 * Both are pure, reentrant, and used by both ends: the reader of a message refuses what its writer
 * would never send.
 */
#ifndef FAS_WIRE_H
#define FAS_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/limits.h"
#include "proto/status.h"
#include "proto/tensor.h"

struct wire_limits {
    uint32_t requests_in_flight;
    uint32_t chunk_bytes;
    uint64_t request_bytes;
    uint32_t sequences;
    uint64_t retain_bytes;
};

struct wire_hello {
    uint32_t version_min, version_max;
    char client[FAS_NAME_BYTES_MAX];
    uint8_t token[FAS_TOKEN_BYTES_MAX];
    uint32_t token_bytes;
    struct wire_limits wanted;
    uint64_t result_credit_bytes;
    bool has_join;
    uint8_t join[FAS_NONCE_BYTES];
};

struct wire_device {
    char name[FAS_NAME_BYTES_MAX], uuid[FAS_NAME_BYTES_MAX], arch[FAS_NAME_BYTES_MAX];
    uint64_t arena_bytes;
};

struct wire_kernel {
    char name[FAS_NAME_BYTES_MAX], arch[FAS_NAME_BYTES_MAX];
    enum fas_pass pass;
    uint32_t dtypes;
    int32_t d_min, d_max, dv_min, dv_max;
};

struct wire_hello_ack {
    uint32_t version;
    char server[FAS_NAME_BYTES_MAX];
    struct wire_limits limits;
    uint64_t upload_credit_bytes;
    uint32_t device_count, kernel_count;
    struct wire_device devices[FAS_DEVICES_MAX];
    struct wire_kernel kernels[FAS_KERNELS_MAX];
    uint8_t nonce[FAS_NONCE_BYTES];
};

#define WIRE_CUDA_HANDLE_BYTES 64u

struct wire_open {
    enum fas_place place;
    uint64_t bytes;
    bool has_memory, has_event;
    uint8_t cuda_memory[WIRE_CUDA_HANDLE_BYTES], cuda_event[WIRE_CUDA_HANDLE_BYTES];
    char device_uuid[FAS_NAME_BYTES_MAX];
};

struct wire_opened {
    uint32_t id;
    uint64_t bytes;
};

struct wire_mask {
    bool has_left, has_right;
    int32_t left, right;
};

/* Where a tensor is: inline and packed unless the request says otherwise. */
struct wire_tensor {
    enum fas_place place;
    uint32_t place_id;
    uint64_t offset;
    int64_t row_stride, head_stride;
};

struct wire_side {
    bool has_cu_seqlens, has_seqused;
    int32_t max_len; /* without cu_seqlens */
};

struct wire_request {
    enum fas_pass pass;
    struct fas_dims dims;
    int32_t batch;
    struct wire_side q, k;
    struct wire_mask mask;
    bool has_softmax_scale;
    float softmax_scale;
    float softcap;
    bool has_sink, has_dlse, has_delta, deterministic, no_lse;
    struct wire_tensor tensors[FAS_TENSOR_COUNT];
    uint64_t deadline_us;
    uint32_t priority;
    bool retain;
    uint64_t handle; /* 0: none */
    uint32_t wait_event, done_event;
};

/*
 * Tensors the caller sends and gets back, as bit sets of 1u << fas_tensor. With a handle the
 * forward's tensors (its sink included) are at the server already: only do and dlse are sent.
 */
uint32_t wire_request_inputs(const struct wire_request *request);
uint32_t wire_request_outputs(const struct wire_request *request);

/*
 * The rules that tie the fields of a request to each other: heads, sides, mask, what goes with
 * which pass, tensors in place. wire_decode_request has called it; a client may, before it sends.
 */
enum fas_status wire_request_check(const struct wire_request *request, struct fas_error *error);

/* "tensors.q", as errors name it. Static. */
const char *wire_tensor_field(enum fas_tensor tensor);

/* First to last byte of a tensor in its place, from its offset on: as its strides say, or packed.
 * Of a checked request. 0 when it has no rows. */
uint64_t wire_tensor_extent(const struct wire_request *request, enum fas_tensor tensor);

/*
 * The highest version both ends speak, or UNSUPPORTED with both ranges in the text.
 */
enum fas_status wire_version_pick(const struct wire_hello *hello, uint32_t *version,
                                  struct fas_error *error);

/*
 * The payload of REQUEST: int32 little-endian arrays, in this order, each only if its side has it:
 * cu_seqlens_q (batch + 1), cu_seqlens_k (batch + 1), seqused_q (batch), seqused_k (batch).
 */
struct wire_lengths {
    int32_t batch;
    const int32_t *cu_seqlens_q, *cu_seqlens_k, *seqused_q, *seqused_k; /* NULL: absent */
    int32_t max_len_q, max_len_k; /* rows of the longest span of the side */
};

/* One sequence on one side: rows [first, first + span) are its own, the first len of them count. */
struct wire_span {
    int64_t first;
    int32_t len, span;
};

uint32_t wire_lengths_bytes(const struct wire_request *request);

/*
 * Points into payload (4-byte aligned, which must outlive *lengths) after checking every number:
 * cu_seqlens starts at 0, never falls, ends at total; 0 <= seqused <= room. O(batch).
 */
enum fas_status wire_lengths_decode(const struct wire_request *request, const void *payload,
                                    uint64_t payload_bytes, struct wire_lengths *lengths,
                                    struct fas_error *error);
struct wire_span wire_span_q(const struct wire_lengths *lengths, int32_t sequence);
struct wire_span wire_span_k(const struct wire_lengths *lengths, int32_t sequence);

struct wire_result {
    int64_t first_row, row_count;
    int32_t first_sequence, sequence_count;
    uint32_t number;
};

struct wire_done {
    uint64_t queue_us, copy_in_us, compute_us, copy_out_us, total_us;
    uint64_t batch_id, batch_tokens;
    uint32_t batch_requests, batch_sequences;
    char device[FAS_NAME_BYTES_MAX], kernel[FAS_NAME_BYTES_MAX];
    uint32_t places;
    uint64_t handle;
    uint32_t launches;
};

struct wire_stat {
    char name[FAS_NAME_BYTES_MAX];
    double value;
};

struct wire_stats {
    uint32_t count;
    struct wire_stat stats[FAS_STATS_MAX];
};

/* Encoders: out holds FAS_HEADER_BYTES_MAX bytes. */
size_t wire_encode_hello(const struct wire_hello *hello, uint8_t *out);
size_t wire_encode_hello_ack(const struct wire_hello_ack *ack, uint8_t *out);
size_t wire_encode_open(const struct wire_open *open, uint8_t *out);
size_t wire_encode_opened(const struct wire_opened *opened, uint8_t *out);
size_t wire_encode_close(uint32_t id, uint8_t *out);
size_t wire_encode_request(const struct wire_request *request, uint8_t *out);
size_t wire_encode_result(const struct wire_result *result, uint8_t *out);
size_t wire_encode_done(const struct wire_done *done, uint8_t *out);
size_t wire_encode_error(const struct fas_error *error, uint8_t *out);
size_t wire_encode_release(uint64_t handle, uint8_t *out);
size_t wire_encode_credit(uint64_t bytes, uint8_t *out);
size_t wire_encode_stats(const struct wire_stats *stats, uint8_t *out);

/* Decoders. HELLO's wishes are brought into limits.h rather than refused: a newer client may wish
 * for more than this version knows. *error names the field as in faserve.proto ("q.total",
 * "mask.left"). */
enum fas_status wire_decode_hello(const uint8_t *in, size_t bytes, struct wire_hello *hello,
                                  struct fas_error *error);
enum fas_status wire_decode_hello_ack(const uint8_t *in, size_t bytes, struct wire_hello_ack *ack,
                                      struct fas_error *error);
enum fas_status wire_decode_open(const uint8_t *in, size_t bytes, struct wire_open *open,
                                 struct fas_error *error);
enum fas_status wire_decode_opened(const uint8_t *in, size_t bytes, struct wire_opened *opened,
                                   struct fas_error *error);
enum fas_status wire_decode_close(const uint8_t *in, size_t bytes, uint32_t *id,
                                  struct fas_error *error);
enum fas_status wire_decode_request(const uint8_t *in, size_t bytes, struct wire_request *request,
                                    struct fas_error *error);
enum fas_status wire_decode_result(const uint8_t *in, size_t bytes, struct wire_result *result,
                                   struct fas_error *error);
enum fas_status wire_decode_done(const uint8_t *in, size_t bytes, struct wire_done *done,
                                 struct fas_error *error);
/* *decoded is the peer's error; *error why it could not be read. */
enum fas_status wire_decode_error(const uint8_t *in, size_t bytes, struct fas_error *decoded,
                                  struct fas_error *error);
enum fas_status wire_decode_release(const uint8_t *in, size_t bytes, uint64_t *handle,
                                    struct fas_error *error);
enum fas_status wire_decode_credit(const uint8_t *in, size_t bytes, uint64_t *credit_bytes,
                                   struct fas_error *error);
enum fas_status wire_decode_stats(const uint8_t *in, size_t bytes, struct wire_stats *stats,
                                  struct fas_error *error);

#endif
