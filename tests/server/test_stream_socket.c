/*
 * The stream of a unix socket, or ("tcp") of tcp, driven as the loop drives it: what the peer sends
 * and takes, small and bulk, fast and halting, arrives whole; what it does not send or take in time
 * ends the stream; descriptors reach the peer and never stay behind.
 */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "server/clock.h"
#include "server/stream.h"
#include "tests/support/check_main.h"

enum { BULK_BYTES = 3 << 20, ROUTES = 4, WAIT_MS = 10000 };

static bool ipc = true;
static struct transport *transport;
static struct config config;
static char folder[32];
static struct stream *stream;
static int peer;
static unsigned seen; /* events of `stream` so far */

static void wake(void *context)
{
    (void)context; /* turns are taken all the time */
}

static void turn(void)
{
    static uint64_t watched_us;
    uint64_t now_us = clock_us();
    bool watch = now_us > watched_us + 10000;
    watched_us = watch ? now_us : watched_us;
    transport_poll(transport, now_us, watch);
    unsigned events;
    struct stream *ready;
    while ((ready = transport_take(transport, &events))) {
        stream = ready;
        seen |= events;
        if (events & STREAM_ACCEPTED) {
            stream_start(stream);
        }
    }
}

static void turn_until(unsigned events)
{
    uint64_t until_us = clock_us() + WAIT_MS * 1000u;
    while ((seen & events) != events && clock_us() < until_us) {
        turn();
        poll(NULL, 0, 1);
    }
    ck_assert_uint_eq(seen & events, events);
    seen &= ~events;
}

/* Below those that the kernel gives to clients; each test is a process. */
static unsigned port(void)
{
    return 10000u + (unsigned)getpid() % 20000u;
}

static void connect_peer(void)
{
    struct sockaddr_un path = {.sun_family = AF_UNIX};
    struct sockaddr_in in = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)port()),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    snprintf(path.sun_path, sizeof path.sun_path, "%s/socket", folder);
    peer = socket(ipc ? AF_UNIX : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int failed = ipc ? connect(peer, (struct sockaddr *)&path, sizeof path)
                     : connect(peer, (struct sockaddr *)&in, sizeof in);
    ck_assert_int_eq(failed, 0);
}

static void set_up(void)
{
    struct fas_error error = {0};
    snprintf(folder, sizeof folder, "/tmp/faserved-test-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(folder));
    config_default(&config);
    snprintf(config.listen_ipc, sizeof config.listen_ipc, "%s/socket", folder);
    config.progress_timeout_us = 200000;
    if (!ipc) {
        snprintf(config.listen_tcp, sizeof config.listen_tcp, "127.0.0.1:%u", port());
    }
    enum fas_status status = transport_open(&transport, &config, 2, ROUTES, wake, NULL, &error);
    ck_assert_msg(status == FAS_OK, "%s: %s", error.field, error.text);
    connect_peer();
    seen = 0;
    turn_until(STREAM_ACCEPTED);
}

static void close_stream(void)
{
    stream_close(stream);
    turn_until(STREAM_CLOSED);
    stream_release(stream);
    close(peer);
    transport_stop_accepting(transport);
    rmdir(folder); /* the socket went with the listener */
    ck_assert_int_ne(access(folder, F_OK), 0);
}

/* What close_stream closes: the listener and both ends. */
#define OF_A_STREAM 3

static int open_descriptors(void)
{
    int count = 0;
    for (int fd = 0; fd < 256; fd++) {
        count += fcntl(fd, F_GETFD) >= 0;
    }
    return count;
}

/* ---- what the peer does ---- */

static void say(const void *bytes, size_t count)
{
    for (size_t done = 0; done < count;) {
        ssize_t sent = send(peer, (const uint8_t *)bytes + done, count - done, MSG_NOSIGNAL);
        ck_assert_int_gt(sent, 0);
        done += (size_t)sent;
    }
}

static void say_frame(const struct frame *frame)
{
    uint8_t head[FRAME_HEAD_BYTES_MAX];
    say(head, frame_encode(frame, ipc, head));
}

/* Greets, and opens a request whose q is to land at `place`. */
static void open_request(uint8_t *place, uint64_t *claimed)
{
    static const struct frame hello = {.type = FRAME_HELLO};
    static const struct frame request = {.type = FRAME_REQUEST, .request = 1};
    say(frame_sp_hello, FRAME_SP_HELLO_BYTES);
    say_frame(&hello);
    turn_until(STREAM_RECEIVED);
    struct reader *reader = stream_reader(stream);
    ck_assert_int_eq(reader_next(reader)->frame.type, FRAME_HELLO);
    reader_greet(reader, FAS_CHUNK_BYTES_MAX, 4 * FAS_CHUNK_BYTES_MAX);
    stream_resume(stream);
    say_frame(&request);
    turn_until(STREAM_RECEIVED);
    ck_assert_int_eq(reader_next(reader)->frame.type, FRAME_REQUEST);
    const struct route_tensor tensors[FAS_TENSOR_COUNT] = {[FAS_Q] = {place, BULK_BYTES, 0}};
    reader_admit(reader, 1, tensors, claimed);
    stream_resume(stream);
}

struct talk {
    uint8_t *bytes;
    int halts; /* between two pieces, this many times longer than the pool waits */
};

/* Sends or takes BULK_BYTES; the peer's thread. */
static void *say_bulk(void *context)
{
    struct talk *talk = context;
    static const struct frame data = {
        .type = FRAME_DATA, .flags = FAS_Q, .request = 1, .payload_bytes = BULK_BYTES};
    say_frame(&data);
    for (int i = 0; i <= talk->halts; i++) {
        int piece = BULK_BYTES / (talk->halts + 1);
        say(talk->bytes + (size_t)i * (size_t)piece, (size_t)piece);
        poll(NULL, 0, talk->halts > 0 ? 20 : 0);
    }
    return NULL;
}

static void *take_bulk(void *context)
{
    struct talk *talk = context;
    for (size_t done = 0; done < BULK_BYTES;) {
        ssize_t got = recv(peer, talk->bytes + done, BULK_BYTES - done, 0);
        if (got <= 0) {
            return NULL;
        }
        done += (size_t)got;
        if (talk->halts > 0 && done > BULK_BYTES / 2) {
            poll(NULL, 0, 20);
            talk->halts--;
        }
    }
    return NULL;
}

static uint8_t *pattern(uint32_t seed)
{
    uint8_t *bytes = malloc(BULK_BYTES);
    for (size_t i = 0; i < BULK_BYTES; i++) {
        seed = seed * 1664525u + 1013904223u;
        bytes[i] = (uint8_t)(seed >> 24);
    }
    return bytes;
}

/* ---- tests ---- */

static void bulk_arrives(int halts)
{
    uint64_t claimed = 0;
    uint8_t *sent = pattern(1), *place = calloc(1, BULK_BYTES);
    struct talk talk = {sent, halts};
    pthread_t thread;
    set_up();
    open_request(place, &claimed);
    pthread_create(&thread, NULL, say_bulk, &talk);
    turn_until(STREAM_RECEIVED);
    pthread_join(thread, NULL);
    ck_assert_int_eq(reader_next(stream_reader(stream))->kind, INBOX_LANDED);
    ck_assert_mem_eq(place, sent, BULK_BYTES);
    close_stream();
    free(sent);
    free(place);
}

static void bulk_leaves(int halts)
{
    uint8_t *sent = pattern(2), *got = calloc(1, BULK_BYTES);
    struct talk talk = {got, halts};
    pthread_t thread;
    set_up();
    pthread_create(&thread, NULL, take_bulk, &talk);
    const struct iovec halves[] = {{sent, BULK_BYTES / 2}, {sent + BULK_BYTES / 2, BULK_BYTES / 2}};
    for (int i = 0; i < 2; i++) {
        stream_send(stream, &(struct stream_send){.iov = &halves[i], .iov_count = 1});
    }
    while (stream_sends_done(stream) < 2) {
        turn_until(STREAM_SENT);
    }
    pthread_join(thread, NULL);
    ck_assert_mem_eq(got, sent, BULK_BYTES);
    close_stream();
    free(sent);
    free(got);
}

START_TEST(bulk_lands_where_it_was_routed)
{
    bulk_arrives(0);
}
END_TEST

START_TEST(bulk_of_a_halting_peer_lands_too)
{
    bulk_arrives(5);
}
END_TEST

START_TEST(bulk_is_sent_from_where_it_lies)
{
    bulk_leaves(0);
}
END_TEST

START_TEST(a_peer_that_halts_gets_all_of_it)
{
    bulk_leaves(5);
}
END_TEST

START_TEST(a_small_send_is_over_at_once)
{
    char byte = 'x';
    set_up();
    stream_send(stream, &(struct stream_send){.iov = &(struct iovec){&byte, 1}, .iov_count = 1});
    ck_assert_uint_eq(stream_sends_done(stream), 1);
    ck_assert(transport_has_news(transport));
    ck_assert_int_eq(recv(peer, &byte, 1, MSG_DONTWAIT), 1);
    close_stream();
}
END_TEST

START_TEST(half_a_message_and_then_silence_ends_the_stream)
{
    struct fas_error error;
    set_up();
    say(frame_sp_hello, FRAME_SP_HELLO_BYTES);
    poll(NULL, 0, 300); /* between messages silence is no fault */
    turn();
    ck_assert(!(seen & STREAM_ENDED));
    say(ipc ? "\1" : "\0", 1);
    turn_until(STREAM_ENDED);
    stream_error(stream, &error);
    ck_assert_int_eq(error.status, FAS_DEADLINE_EXCEEDED);
    close_stream();
}
END_TEST

START_TEST(a_peer_that_does_not_take_ends_the_stream)
{
    uint8_t *sent = pattern(3);
    set_up();
    stream_send(stream,
                &(struct stream_send){.iov = &(struct iovec){sent, BULK_BYTES}, .iov_count = 1});
    turn_until(STREAM_ENDED);
    close_stream();
    free(sent);
}
END_TEST

START_TEST(a_hang_up_is_noticed_behind_unread_bytes)
{
    set_up();
    say(frame_sp_hello, FRAME_SP_HELLO_BYTES);
    shutdown(peer, SHUT_RDWR);
    turn_until(STREAM_ENDED);
    close_stream();
}
END_TEST

START_TEST(closing_takes_bulk_back_from_the_pool)
{
    uint8_t *sent = pattern(4);
    set_up();
    for (int i = 0; i < 2; i++) {
        stream_send(stream, &(struct stream_send){.iov = &(struct iovec){sent, BULK_BYTES},
                                                  .iov_count = 1});
    }
    close_stream();
    free(sent);
}
END_TEST

static int receive_descriptor(uint8_t *byte)
{
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec iov = {byte, 1};
    struct msghdr message = {.msg_iov = &iov,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = sizeof control};
    ck_assert_int_eq(recvmsg(peer, &message, 0), 1);
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    int fd = -1;
    if (head && head->cmsg_type == SCM_RIGHTS) {
        memcpy(&fd, CMSG_DATA(head), sizeof fd);
    }
    return fd;
}

START_TEST(a_descriptor_travels_with_the_first_byte)
{
    uint8_t *sent = pattern(5), byte = 0, word[2];
    int ends[2];
    set_up();
    int before = open_descriptors();
    ck_assert_int_eq(pipe(ends), 0);
    stream_send(stream, &(struct stream_send){.iov = &(struct iovec){sent, BULK_BYTES},
                                              .iov_count = 1,
                                              .fds = &ends[1],
                                              .fd_count = 1});
    int got = receive_descriptor(&byte);
    ck_assert_int_ge(got, 0);
    ck_assert_uint_eq(byte, sent[0]);
    ck_assert_int_eq(write(got, "ok", 2), 2);
    ck_assert_int_eq(read(ends[0], word, sizeof word), 2);
    close(got);
    close(ends[0]);
    close_stream();
    ck_assert_int_eq(open_descriptors(), before - OF_A_STREAM); /* ends[1], too, is closed */
    free(sent);
}
END_TEST

START_TEST(a_descriptor_that_can_not_leave_is_closed)
{
    uint8_t *sent = pattern(6);
    set_up();
    int before = open_descriptors();
    for (int i = 0; i < 2; i++) {
        int fd = dup(STDERR_FILENO);
        stream_send(stream, &(struct stream_send){.iov = &(struct iovec){sent, BULK_BYTES},
                                                  .iov_count = 1,
                                                  .fds = &fd,
                                                  .fd_count = 1});
    }
    close_stream();
    ck_assert_int_eq(open_descriptors(), before - OF_A_STREAM);
    free(sent);
}
END_TEST

START_TEST(the_kernel_says_who_the_peer_is)
{
    set_up();
    ck_assert(stream_peer(stream)->local);
    ck_assert_uint_eq(stream_peer(stream)->uid, getuid());
    ck_assert(stream_peer_in_group(stream, getgid()));
    ck_assert(!stream_peer_in_group(stream, 4000000));
    gid_t groups[64];
    int count = getgroups(64, groups);
    for (int i = 0; i < count; i++) {
        ck_assert(stream_peer_in_group(stream, groups[i]));
    }
    close_stream();
}
END_TEST

START_TEST(nobody_vouches_for_a_peer_over_tcp)
{
    set_up();
    ck_assert(!stream_peer(stream)->local);
    ck_assert(!stream_peer_in_group(stream, getgid()));
    ck_assert_int_eq(strncmp(stream_peer(stream)->address, "127.0.0.1:", 10), 0);
    close_stream();
}
END_TEST

static const struct check_row rows[] = {
    {"bulk lands where it was routed", &bulk_lands_where_it_was_routed},
    {"bulk of a halting peer", &bulk_of_a_halting_peer_lands_too},
    {"bulk is sent from where it lies", &bulk_is_sent_from_where_it_lies},
    {"a peer that halts", &a_peer_that_halts_gets_all_of_it},
    {"a small send is over at once", &a_small_send_is_over_at_once},
    {"half a message and then silence", &half_a_message_and_then_silence_ends_the_stream},
    {"a peer that does not take", &a_peer_that_does_not_take_ends_the_stream},
    {"a hang-up behind unread bytes", &a_hang_up_is_noticed_behind_unread_bytes},
    {"closing takes bulk back", &closing_takes_bulk_back_from_the_pool},
    {"a descriptor travels", &a_descriptor_travels_with_the_first_byte},
    {"a descriptor that can not leave", &a_descriptor_that_can_not_leave_is_closed},
    {"who the peer is", &the_kernel_says_who_the_peer_is},
};

/* The same over tcp, but for what its buffers hold and its peers can not do. */
static const struct check_row tcp_rows[] = {
    {"bulk lands where it was routed", &bulk_lands_where_it_was_routed},
    {"bulk of a halting peer", &bulk_of_a_halting_peer_lands_too},
    {"bulk is sent from where it lies", &bulk_is_sent_from_where_it_lies},
    {"a peer that halts", &a_peer_that_halts_gets_all_of_it},
    {"a small send is over at once", &a_small_send_is_over_at_once},
    {"half a message and then silence", &half_a_message_and_then_silence_ends_the_stream},
    {"a hang-up behind unread bytes", &a_hang_up_is_noticed_behind_unread_bytes},
    {"closing takes bulk back", &closing_takes_bulk_back_from_the_pool},
    {"who the peer is", &nobody_vouches_for_a_peer_over_tcp},
};

int main(int argc, char **argv)
{
    ipc = argc < 2 || strcmp(argv[1], "tcp") != 0;
    return ipc ? check_main("stream_socket", rows, sizeof rows / sizeof rows[0])
               : check_main("stream_socket_tcp", tcp_rows, sizeof tcp_rows / sizeof tcp_rows[0]);
}
