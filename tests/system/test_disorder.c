/*
 * test_disorder.c: eight clients at once that do whatever a seed says: whole requests, pieces of
 * requests, wrong chunks, cancels, deadlines, credits, garbage, listening and not listening, and
 * going away in the middle of any of it. Afterwards the daemon must hold nothing (bad_client.h),
 * and on the way it must not have said anything that is not a message. FAS_SEED picks other
 * disorders.
 */
#include <check.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>

#include "tests/support/random.h"
#include "tests/system/bad_client.h"

enum { ACTORS = 8, STEPS = 2500, IDS = 6, SEND_MS = 30, MESSAGE_MS = 5000 };

struct actor {
    struct peer peer;
    bool open;
};

static struct actor actors[ACTORS];
static struct random random_state;

static uint64_t below(uint64_t count)
{
    return random_below(&random_state, count);
}

static uint64_t an_id(void)
{
    return 1 + below(IDS);
}

/* Each of these does one thing; false: the connection is no more. */

static bool leave(struct actor *actor)
{
    (void)actor;
    return false;
}

static bool send_whole(struct actor *actor)
{
    return exchange_send(below(4) == 0 ? &large : &small, &actor->peer, an_id());
}

static bool send_pieces(struct actor *actor)
{
    const struct exchange *exchange = below(2) == 0 ? &large : &small;
    uint64_t id = an_id();
    for (uint32_t i = 0; exchange_message(exchange, id, i, &message); i++) {
        bool left_out = i > 0 && below(3) == 0;
        if (!left_out &&
            !peer_send(&actor->peer, &message.frame, message.header, message.payload)) {
            return false;
        }
    }
    return true;
}

static bool send_in_a_hurry(struct actor *actor)
{
    struct exchange hurried = below(2) == 0 ? large : small;
    hurried.request.deadline_us = 1 + below(20000);
    hurried.request.priority = (uint32_t)below(3);
    return exchange_send(&hurried, &actor->peer, an_id());
}

static bool send_refused(struct actor *actor)
{
    struct exchange refused = small;
    refused.request.has_softmax_scale = true; /* of 0; the sizes stay those of the data */
    return exchange_send(&refused, &actor->peer, an_id());
}

static bool send_wrong_chunk(struct actor *actor)
{
    static uint8_t payload[FAS_CHUNK_BYTES_MIN];
    struct frame frame = {.type = FRAME_DATA,
                          .flags = (uint16_t)below(FAS_TENSOR_COUNT),
                          .chunk = (uint32_t)below(4),
                          .request = an_id(),
                          .payload_bytes = 1 + below(sizeof payload)};
    return peer_send(&actor->peer, &frame, NULL, payload);
}

static bool cancel(struct actor *actor)
{
    struct frame frame = {.type = FRAME_CANCEL, .request = an_id()};
    return peer_send(&actor->peer, &frame, NULL, NULL);
}

static bool give_credit(struct actor *actor)
{
    uint8_t header[32];
    struct frame frame = {.type = FRAME_CREDIT};
    frame.header_bytes = (uint32_t)wire_encode_credit(1 + below(1 << 16), header);
    return peer_send(&actor->peer, &frame, header, NULL);
}

static bool ask_something(struct actor *actor)
{
    struct frame frame = {.type = below(2) == 0 ? FRAME_PING : FRAME_STATS, .request = an_id()};
    return peer_send(&actor->peer, &frame, NULL, NULL);
}

static bool talk_garbage(struct actor *actor)
{
    uint8_t garbage[64];
    for (size_t i = 0; i < sizeof garbage; i++) {
        garbage[i] = (uint8_t)below(256);
    }
    return peer_send_bytes(&actor->peer, garbage, 1 + below(sizeof garbage));
}

/* Half of a good message; the daemon sees the other half if the next thing said happens to fit. */
static bool say_half(struct actor *actor)
{
    uint8_t head[FRAME_HEAD_BYTES_MAX];
    struct frame frame = {.type = FRAME_PING, .request = 1};
    return peer_send_bytes(&actor->peer, head, frame_encode(&frame, true, head) / 2);
}

static bool listen_a_little(struct actor *actor)
{
    struct pollfd readable = {.fd = actor->peer.fd, .events = POLLIN};
    for (uint64_t count = below(12); count > 0 && poll(&readable, 1, (int)below(5)) > 0; count--) {
        if (peer_receive_any(&actor->peer, MESSAGE_MS) == PEER_CLOSED) {
            return false;
        }
    }
    return true;
}

/* How often, in a hundred. */
static const struct {
    bool (*act)(struct actor *actor);
    unsigned share;
} acts[] = {
    {listen_a_little, 36}, {send_whole, 20},      {send_pieces, 9}, {send_in_a_hurry, 9},
    {send_refused, 4},     {send_wrong_chunk, 3}, {cancel, 7},      {give_credit, 3},
    {ask_something, 3},    {talk_garbage, 1},     {say_half, 1},    {leave, 4},
};

static void step(struct actor *actor)
{
    if (!actor->open) {
        struct timeval patience = {0, SEND_MS * 1000};
        ck_assert(peer_connect(&actor->peer, server.socket));
        setsockopt(actor->peer.fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
        if (below(20) == 0) { /* goes without a greeting, or with a wrong one */
            talk_garbage(actor);
            peer_close(&actor->peer);
            return;
        }
        actor->open = peer_greet(&actor->peer);
        ck_assert_msg(actor->open, "a new client is not greeted");
        return;
    }
    uint64_t chosen = below(100);
    for (size_t i = 0; i < COUNT_OF(acts); i++) {
        if (chosen < acts[i].share) {
            actor->open = acts[i].act(actor);
            break;
        }
        chosen -= acts[i].share;
    }
    if (!actor->open) {
        peer_close(&actor->peer);
    }
}

START_TEST(whatever_eight_clients_do)
{
    random_state = random_open((uint64_t)_i + 1);
    for (int i = 0; i < STEPS; i++) {
        step(&actors[below(ACTORS)]);
        if (i % 500 == 0) {
            check_served(&good, 10 + (uint64_t)i);
        }
    }
    for (int i = 0; i < ACTORS; i++) {
        if (actors[i].open) {
            peer_close(&actors[i].peer);
        }
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("disorder");
    TCase *tcase = tcase_create("disorder");
    tcase_set_timeout(tcase, 60);
    tcase_add_unchecked_fixture(tcase, start_daemon, stop_daemon);
    tcase_add_checked_fixture(tcase, connect_both, served_as_before);
    tcase_add_loop_test(tcase, whatever_eight_clients_do, 0, 4);
    suite_add_tcase(suite, tcase);
    return run_suite(suite);
}
