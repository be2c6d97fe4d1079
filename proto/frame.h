/*
 * frame.h: bytes on a stream <-> messages.
 *
 * The outermost layer is that of an ordinary nng PAIR0 socket, so that any nng binding can be a
 * client: both ends send the SP hello 00 'S' 'P' 00 00 10 00 00, then every message is a u64
 * big-endian body length (on ipc preceded by one byte 0x01) and the body.
 *
 * A body is   preamble, 32 bytes little-endian | protobuf header | raw payload
 *
 *   0 u32 magic "FASV"      4 u8 version   5 u8 type   6 u16 flags    8 u32 header_bytes
 *  12 u32 chunk            16 u64 request             24 u64 payload_bytes
 *
 * The preamble, HELLO and ERROR never change shape, so that peers of any two versions can tell each
 * other that they do not match. What each type carries stands in one table (frame.c): who may send
 * it, whether it has a header, a payload, a request. A frame that breaks its row is refused.
 *
 * client -> server
 *   HELLO       header Hello. First message, once.
 *   OPEN        header Open: makes or opens a place; request = the caller's id for the answer.
 *   CLOSE       header Close: gives a place back; request as in OPEN.
 *   REQUEST     header Request; payload: the length arrays (wire.h). request = id, chosen by the
 *               client, unique among its unfinished requests, not 0.
 *   DATA        no header; flags = tensor, chunk = n: bytes [n * chunk_bytes, ...) of the packed
 *               tensor; every chunk but a tensor's last is exactly chunk_bytes long (HELLO_ACK says
 *               how long), so chunks can neither overlap nor hide a gap. Any order.
 *   CANCEL      request = id. The request still ends in exactly one DONE or ERROR.
 *   RELEASE     header Release: a retained handle is no longer needed. Not answered.
 *   STATS, DRAIN   request = the caller's id for the answer.
 *
 * server -> client
 *   HELLO_ACK   header HelloAck.
 *   OPENED      header Opened. Of a region: its descriptor (SCM_RIGHTS on the unix socket) arrives
 *               with the message or before it; descriptors keep the order of their messages.
 *   CLOSED      request = id of the CLOSE.
 *   ENQUEUED    of a request that names events, before its DONE: the wait event has come to pass
 *               and may be recorded anew, the done event is recorded and streams may wait on it.
 *               A request that fails without has not recorded it.
 *   RESULT      header Result; flags = tensor; payload: whole rows; of statistics: for each head
 *               the strip of those rows. Without payload: only says that sequences are complete.
 *   DONE        header Done: the request succeeded, nothing more follows for it.
 *   ERROR       header Error: it failed, nothing more follows. request = 0: the connection failed
 *               and is closed next.
 *   STATS_REPLY header StatsReply.
 *   DRAIN_ACK   draining has begun.
 *
 * A client may have up to FAS_LANES_MAX connections. The first is greeted as ever; HELLO of each
 * further one names in `join` the nonce of the first one's HELLO_ACK. What joined carries, to the
 * server, DATA of the first one's requests, and from it, RESULT of them; beside those only CREDIT
 * (each connection has its own), PING and PONG. Everything else is the first one's. Connections are
 * not ordered among each other:
 *   DATA     may come before its REQUEST, and then waits for it. Ids of requests grow, so that the
 *            server can tell DATA of a request that is over, and is dropped, from such; once one
 *            has joined, an id that is not larger than all before ends the connection.
 *   RESULT   may come after the DONE, which ends the request when all rows have come, or after the
 *            ERROR, and then is dropped.
 * With one of its connections the client loses all.
 *
 * both
 *   CREDIT      header Credit: bytes of DATA (to the client) or RESULT (to the server) payload the
 *               sender of CREDIT can take more. Initial credits are in HELLO and HELLO_ACK.
 *   PING, PONG  request is echoed.
 *
 * What a row of the table does not name (flags, chunk, request) is 0.
 */
#ifndef FAS_FRAME_H
#define FAS_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/limits.h"
#include "proto/status.h"

enum frame_type {
    FRAME_HELLO = 1,
    FRAME_HELLO_ACK = 2,
    FRAME_OPEN = 3,
    FRAME_OPENED = 4,
    FRAME_CLOSE = 5,
    FRAME_CLOSED = 6,
    FRAME_REQUEST = 7,
    FRAME_DATA = 8,
    FRAME_ENQUEUED = 9,
    FRAME_RESULT = 10,
    FRAME_DONE = 11,
    FRAME_ERROR = 12,
    FRAME_RELEASE = 13,
    FRAME_CREDIT = 14,
    FRAME_CANCEL = 15,
    FRAME_PING = 16,
    FRAME_PONG = 17,
    FRAME_STATS = 18,
    FRAME_STATS_REPLY = 19,
    FRAME_DRAIN = 20,
    FRAME_DRAIN_ACK = 21,
    FRAME_TYPE_COUNT
};

enum frame_sender { FRAME_CLIENT, FRAME_SERVER };

struct frame {
    enum frame_type type;
    uint16_t flags;
    uint32_t header_bytes;
    uint32_t chunk;
    uint64_t request;
    uint64_t payload_bytes;
};

#define FRAME_MAGIC UINT32_C(0x56534146) /* "FASV" as little-endian bytes */
#define FRAME_VERSION 1u

/* The SP hello of a PAIR0 socket, sent by both ends before anything else. */
#define FRAME_SP_HELLO_BYTES 8u
extern const uint8_t frame_sp_hello[FRAME_SP_HELLO_BYTES];

/* Length prefix of a message: 8 bytes on tcp and tls, 9 on ipc. */
#define FRAME_PREFIX_BYTES_MAX 9u
#define FRAME_HEAD_BYTES_MAX (FRAME_PREFIX_BYTES_MAX + FAS_PREAMBLE_BYTES)
size_t frame_prefix_bytes(bool ipc);

/* Prefix and preamble of `frame` into out; returns their length. Never fails. */
size_t frame_encode(const struct frame *frame, bool ipc, uint8_t out[FRAME_HEAD_BYTES_MAX]);

/*
 * The reverse, from exactly frame_prefix_bytes(ipc) + FAS_PREAMBLE_BYTES bytes sent by `sender`.
 * Checks all that can be checked before the header: prefix against lengths, magic, version, type,
 * sender, and the type's row. Fields of errors: "frame.magic", "frame.payload_bytes", ...
 */
enum fas_status frame_decode(const uint8_t *in, bool ipc, enum frame_sender sender,
                             struct frame *frame, struct fas_error *error);

const char *frame_type_name(enum frame_type type); /* "REQUEST" */

#endif
