/*
 * limits.h: the numbers both sides agree on, each with its reason, tied together by static asserts.
 * What an operator may tune is an option of the daemon; what stands here is the protocol's.
 */
#ifndef FAS_LIMITS_H
#define FAS_LIMITS_H

#include <assert.h>
#include <stdint.h>

/* Protocol versions this build speaks. A HELLO carries a range, HELLO_ACK the choice. */
#define FAS_VERSION_MIN 1u
#define FAS_VERSION_MAX 1u

/* The fixed part of every message body; frame.h. */
#define FAS_PREAMBLE_BYTES 32u

/* Protobuf header: names, dims and places only; lengths and tensors travel raw. The largest real
 * header, a STATS reply, is some 20 KiB. */
#define FAS_HEADER_BYTES_MAX (64u << 10)

/* Memory protobuf-c may take to decode one header. Decoding can cost 80 times the input (empty
 * sub-messages); 32 times is what an honest header can need. */
#define FAS_DECODE_BYTES_MAX (32u * FAS_HEADER_BYTES_MAX)

/* One payload. 1 to 4 MiB is where streams are fastest (2.6 to 3.8 GB/s a connection, against 1.8
 * at 64 KiB) and bounds how long a cancel waits behind data: 3.4 ms at 10 Gbit/s. */
#define FAS_CHUNK_BYTES_MAX (4u << 20)
#define FAS_CHUNK_BYTES_DEFAULT (1u << 20)
#define FAS_CHUNK_BYTES_MIN (64u << 10)

/* Sequences of one request. The four length arrays (cu_seqlens and seqused of both sides) travel as
 * the payload of REQUEST and must fit one chunk. */
#define FAS_SEQUENCES_MAX 65536u
#define FAS_LENGTHS_BYTES_MAX (4u * 4u * (FAS_SEQUENCES_MAX + 1u))
static_assert(FAS_LENGTHS_BYTES_MAX <= FAS_CHUNK_BYTES_MAX, "lengths travel in one payload");

/* Rows of one side of a request: cu_seqlens are int32, and ragged tensor maps need rows <= 2^30. */
#define FAS_ROWS_MAX (INT64_C(1) << 30)
#define FAS_HEADS_MAX 1024
#define FAS_HEAD_DIM_MIN 8
#define FAS_HEAD_DIM_MAX 256
#define FAS_HEAD_DIM_STEP 8

/* No product of rows, heads, dim and element size overflows: 2^30 * 2^10 * 2^8 * 2^2 = 2^50. */
static_assert(FAS_ROWS_MAX * FAS_HEADS_MAX * FAS_HEAD_DIM_MAX * 4 <= (INT64_C(1) << 50),
              "no overflow");

/* RESULT carries whole rows: a payload of at most chunk_bytes, or one row where a row is longer. */
static_assert(FAS_HEADS_MAX * FAS_HEAD_DIM_MAX * 4u <= FAS_CHUNK_BYTES_MAX, "a row fits a payload");

/* A shared secret of 32 random bytes is 64 hex digits; room for other kinds. */
#define FAS_TOKEN_BYTES_MAX 256u
#define FAS_NAME_BYTES_MAX 64u
#define FAS_NONCE_BYTES 16u
#define FAS_DEVICES_MAX 16u
#define FAS_KERNELS_MAX 64u
#define FAS_STATS_MAX 512u

#endif
