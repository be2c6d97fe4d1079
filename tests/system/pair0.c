/*
 * pair0.c: usage: pair0 SOCKET_PATH: an ordinary nng PAIR0 program is a client of faserved. Nothing
 * but nng_pair0_open, nng_dial, nng_send and nng_recv: nng adds the SP hello and the lengths, so
 * that a message's body begins with the preamble. Completes a forward and checks what came back.
 */
#include <nng/nng.h>
#include <nng/protocol/pair0/pair.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/frame.h"
#include "proto/wire.h"
#include "tests/support/exchange.h"

enum { TIMEOUT_MS = 20000, SEQUENCES = 40, REQUEST_ID = 1 };

static void check(int result, const char *what)
{
    if (result != 0) {
        fprintf(stderr, "pair0: %s: %s\n", what, nng_strerror(result));
        exit(EXIT_FAILURE);
    }
}

static void refuse(const char *what)
{
    fprintf(stderr, "pair0: %s\n", what);
    exit(EXIT_FAILURE);
}

/* frame_encode writes nng's length too; what nng_send takes begins behind it. */
static void send_message(nng_socket socket, const struct frame *frame, const void *header,
                         const void *payload)
{
    uint8_t head[FRAME_HEAD_BYTES_MAX];
    size_t prefix = frame_prefix_bytes(false), bytes = frame_encode(frame, false, head) - prefix;
    nng_msg *message;
    check(nng_msg_alloc(&message, 0), "nng_msg_alloc");
    check(nng_msg_append(message, head + prefix, bytes), "preamble");
    check(nng_msg_append(message, header, frame->header_bytes), "header");
    check(nng_msg_append(message, payload, frame->payload_bytes), "payload");
    check(nng_sendmsg(socket, message, 0), "nng_sendmsg");
}

/* Into the peer struct, so that the exchange's own check reads it. */
static void receive_message(nng_socket socket, struct peer *peer)
{
    uint8_t head[FRAME_HEAD_BYTES_MAX] = {0};
    struct fas_error error;
    nng_msg *message;
    check(nng_recvmsg(socket, &message, 0), "nng_recvmsg");
    size_t bytes = nng_msg_len(message);
    const uint8_t *body = nng_msg_body(message);
    for (int i = 0; i < 8; i++) { /* the length nng took away, for frame_decode to compare */
        head[i] = (uint8_t)((uint64_t)bytes >> (56 - 8 * i));
    }
    if (bytes < FAS_PREAMBLE_BYTES) {
        refuse("a message without preamble");
    }
    memcpy(head + 8, body, FAS_PREAMBLE_BYTES);
    if (frame_decode(head, false, FRAME_SERVER, &peer->frame, &error) != FAS_OK) {
        refuse(error.text);
    }
    body += FAS_PREAMBLE_BYTES;
    memcpy(peer->header, body, peer->frame.header_bytes);
    memcpy(peer->payload, body + peer->frame.header_bytes, peer->frame.payload_bytes);
    nng_msg_free(message);
}

static void greet(nng_socket socket, struct peer *peer)
{
    uint8_t header[FAS_HEADER_BYTES_MAX];
    struct wire_hello hello = {.version_min = FAS_VERSION_MIN,
                               .version_max = FAS_VERSION_MAX,
                               .client = "pair0",
                               .wanted.chunk_bytes = FAS_CHUNK_BYTES_MIN,
                               .result_credit_bytes = 64 << 20};
    struct frame frame = {.type = FRAME_HELLO,
                          .header_bytes = (uint32_t)wire_encode_hello(&hello, header)};
    struct fas_error error;
    send_message(socket, &frame, header, NULL);
    receive_message(socket, peer);
    if (peer->frame.type != FRAME_HELLO_ACK ||
        wire_decode_hello_ack(peer->header, peer->frame.header_bytes, &peer->ack, &error) !=
            FAS_OK) {
        refuse("no HELLO_ACK");
    }
}

static void forward(nng_socket socket, struct peer *peer)
{
    static struct exchange_message message;
    struct exchange exchange;
    struct exchange_rows rows;
    exchange_open(&exchange, SEQUENCES);
    for (uint32_t i = 0; exchange_message(&exchange, REQUEST_ID, i, &message); i++) {
        send_message(socket, &message.frame, message.header, message.payload);
    }
    exchange_expect(&exchange, &rows);
    const char *wrong = NULL;
    for (bool done = false; !done && wrong == NULL;) {
        receive_message(socket, peer);
        if (peer->frame.type != FRAME_CREDIT) {
            wrong = exchange_take(&exchange, peer, REQUEST_ID, &rows, &done);
        }
    }
    if (wrong != NULL) {
        refuse(wrong);
    }
    printf("pair0: %d rows of o and lse from %s\n", exchange.rows, peer->ack.server);
    exchange_close(&exchange);
}

int main(int argc, char **argv)
{
    static struct peer peer;
    nng_socket socket;
    char url[256];
    if (argc != 2) {
        fprintf(stderr, "usage: pair0 SOCKET_PATH\n");
        return 2;
    }
    snprintf(url, sizeof url, "ipc://%s", argv[1]);
    peer.payload = malloc(FAS_CHUNK_BYTES_MAX);
    if (peer.payload == NULL) {
        refuse("no memory");
    }
    check(nng_pair0_open(&socket), "nng_pair0_open");
    check(nng_socket_set_ms(socket, NNG_OPT_RECVTIMEO, TIMEOUT_MS), "receive timeout");
    check(nng_socket_set_ms(socket, NNG_OPT_SENDTIMEO, TIMEOUT_MS), "send timeout");
    check(nng_dial(socket, url, NULL, 0), url);
    greet(socket, &peer);
    forward(socket, &peer);
    free(peer.payload);
    nng_close(socket);
    return EXIT_SUCCESS;
}
