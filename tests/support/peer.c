/* peer.c: see peer.h. */
#include "tests/support/peer.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { HEAD_BYTES = FRAME_HEAD_BYTES_MAX, GREET_MS = 10000 };

bool peer_connect(struct peer *peer, const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    peer->tcp = false;
    peer->payload = malloc(FAS_CHUNK_BYTES_MAX);
    peer->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    return peer->payload != NULL && peer->fd >= 0 &&
           connect(peer->fd, (struct sockaddr *)&address, sizeof address) == 0;
}

bool peer_connect_tcp(struct peer *peer, uint16_t port, const char *token)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = 1;
    peer->tcp = true;
    peer->token = token;
    peer->payload = malloc(FAS_CHUNK_BYTES_MAX);
    peer->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    return peer->payload != NULL && peer->fd >= 0 &&
           connect(peer->fd, (struct sockaddr *)&address, sizeof address) == 0 &&
           setsockopt(peer->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) == 0;
}

size_t peer_head(const struct peer *peer, const struct frame *frame,
                 uint8_t out[FRAME_HEAD_BYTES_MAX])
{
    return frame_encode(frame, !peer->tcp, out);
}

void peer_close(struct peer *peer)
{
    if (peer->fd >= 0) {
        close(peer->fd);
    }
    free(peer->payload);
    peer->payload = NULL;
    peer->fd = -1;
}

bool peer_send_bytes(struct peer *peer, const void *bytes, size_t count)
{
    const uint8_t *at = bytes;
    while (count > 0) {
        ssize_t sent = send(peer->fd, at, count, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR) {
            continue;
        }
        if (sent <= 0) {
            return false;
        }
        at += sent;
        count -= (size_t)sent;
    }
    return true;
}

bool peer_send(struct peer *peer, const struct frame *frame, const void *header,
               const void *payload)
{
    uint8_t head[FRAME_HEAD_BYTES_MAX];
    size_t bytes = peer_head(peer, frame, head);
    return peer_send_bytes(peer, head, bytes) &&
           peer_send_bytes(peer, header, frame->header_bytes) &&
           peer_send_bytes(peer, payload, frame->payload_bytes);
}

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* All `count` bytes, or why not. */
static enum peer_event receive_bytes(struct peer *peer, void *out, size_t count, int64_t until_ms)
{
    uint8_t *at = out;
    while (count > 0) {
        struct pollfd readable = {.fd = peer->fd, .events = POLLIN};
        int64_t left_ms = until_ms - now_ms();
        int ready = poll(&readable, 1, left_ms > 0 ? (int)left_ms : 0);
        if (ready == 0) {
            return PEER_SILENT;
        }
        ssize_t got = recv(peer->fd, at, count, 0);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            return PEER_CLOSED;
        }
        at += got;
        count -= (size_t)got;
    }
    return PEER_MESSAGE;
}

static enum peer_event receive_message(struct peer *peer, int64_t until_ms)
{
    uint8_t head[HEAD_BYTES];
    struct fas_error error;
    enum peer_event event =
        receive_bytes(peer, head, frame_prefix_bytes(!peer->tcp) + FAS_PREAMBLE_BYTES, until_ms);
    if (event != PEER_MESSAGE) {
        return event;
    }
    if (frame_decode(head, !peer->tcp, FRAME_SERVER, &peer->frame, &error) != FAS_OK) {
        fprintf(stderr, "the server's frame: %s: %s\n", error.field, error.text);
        abort();
    }
    event = receive_bytes(peer, peer->header, peer->frame.header_bytes, until_ms);
    if (event == PEER_MESSAGE) {
        event = receive_bytes(peer, peer->payload, peer->frame.payload_bytes, until_ms);
    }
    return event;
}

enum peer_event peer_receive_any(struct peer *peer, int timeout_ms)
{
    return receive_message(peer, now_ms() + timeout_ms);
}

enum peer_event peer_receive(struct peer *peer, int timeout_ms)
{
    int64_t until_ms = now_ms() + timeout_ms;
    for (;;) {
        enum peer_event event = receive_message(peer, until_ms);
        if (event == PEER_MESSAGE && peer->frame.type == FRAME_PING) {
            struct frame pong = {.type = FRAME_PONG, .request = peer->frame.request};
            peer_send(peer, &pong, NULL, NULL);
        } else if (event != PEER_MESSAGE || peer->frame.type != FRAME_CREDIT) {
            return event;
        }
    }
}

bool peer_greet(struct peer *peer)
{
    uint8_t sp_hello[FRAME_SP_HELLO_BYTES], header[FAS_HEADER_BYTES_MAX];
    struct wire_hello hello = {.version_min = FAS_VERSION_MIN,
                               .version_max = FAS_VERSION_MAX,
                               .client = "peer",
                               .wanted.chunk_bytes = FAS_CHUNK_BYTES_MIN,
                               .result_credit_bytes = 64 << 20};
    if (peer->token) {
        hello.token_bytes = (uint32_t)strlen(peer->token);
        memcpy(hello.token, peer->token, hello.token_bytes);
    }
    struct frame frame = {.type = FRAME_HELLO,
                          .header_bytes = (uint32_t)wire_encode_hello(&hello, header)};
    struct fas_error error;
    return peer_send_bytes(peer, frame_sp_hello, sizeof frame_sp_hello) &&
           receive_bytes(peer, sp_hello, sizeof sp_hello, now_ms() + GREET_MS) == PEER_MESSAGE &&
           memcmp(sp_hello, frame_sp_hello, sizeof sp_hello) == 0 &&
           peer_send(peer, &frame, header, NULL) && peer_receive(peer, GREET_MS) == PEER_MESSAGE &&
           peer->frame.type == FRAME_HELLO_ACK &&
           wire_decode_hello_ack(peer->header, peer->frame.header_bytes, &peer->ack, &error) ==
               FAS_OK;
}
