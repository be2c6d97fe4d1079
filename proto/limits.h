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
#define FAS_ROW_BYTES_MAX (FAS_HEADS_MAX * FAS_HEAD_DIM_MAX * 4u)
static_assert(FAS_ROW_BYTES_MAX <= FAS_CHUNK_BYTES_MAX, "a row fits a payload");

/* One CREDIT, and the first credits of HELLO: more than any machine's memory, and small enough that
 * a sum of a million of them does not overflow. */
#define FAS_CREDIT_BYTES_MAX (UINT64_C(1) << 43)

/* A deadline counts from arrival. 30 days: "none" is 0, not a large number, and arrival + deadline
 * can not overflow. */
#define FAS_DEADLINE_US_MAX (UINT64_C(30) * 24 * 3600 * 1000000)
#define FAS_PRIORITY_MAX 2u

/* An id of a place: the server's choice, unique while the place is open. */
#define FAS_PLACE_ID_MAX 0xffffu

/* In-place tensors: bulk copies and tensor maps need 16-byte steps; statistics are read as fp32. */
#define FAS_STRIDE_STEP 16u
#define FAS_STATISTICS_STRIDE_STEP 4u

/* First to last byte of an in-place tensor: the largest packed tensor, 2^50, in a region with gaps;
 * offset + extent then stays below 2^63. */
#define FAS_EXTENT_BYTES_MAX (INT64_C(1) << 56)

/* A shared secret of 32 random bytes is 64 hex digits; room for other kinds. */
#define FAS_TOKEN_BYTES_MAX 256u
#define FAS_NAME_BYTES_MAX 64u
#define FAS_NONCE_BYTES 16u

/* Connections of one client, with the one that the others join. Four are as fast as the memory of a
 * node; more serve a link of many paths. */
#define FAS_LANES_MAX 8u

#define FAS_DEVICES_MAX 16u
#define FAS_KERNELS_MAX 64u
#define FAS_STATS_MAX 512u

#endif
