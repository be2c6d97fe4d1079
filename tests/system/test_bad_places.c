/*
 * bad_places: shared memory and events as the library would never use them, over a plain socket:
 * regions of others, closed ones, bounds, one in the place of the other, connections that end in
 * the middle of a launch.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/proto/check_error.h"
#include "tests/support/random.h"
#include "tests/system/bad_client.h"

/* A forward of 2048 tokens of 64 fp32: its o is the second half of the region, the rest the first.
 */
enum { TOKENS = 2048, TENSOR = TOKENS * 64 * 4, REGION = 2 * TENSOR };

static struct fas_error error;

/* The descriptor of the message that comes next. */
static int take_fd(struct peer *peer)
{
    union {
        struct cmsghdr head;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control;
    char byte;
    int fd = -1;
    struct iovec iov = {&byte, 1};
    struct msghdr head = {.msg_iov = &iov,
                          .msg_iovlen = 1,
                          .msg_control = &control,
                          .msg_controllen = sizeof control};
    ck_assert_int_eq(recvmsg(peer->fd, &head, MSG_PEEK), 1);
    ck_assert_ptr_nonnull(CMSG_FIRSTHDR(&head));
    memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&head)), sizeof fd);
    return fd;
}

/* Opens a region: its id, and its memory, which can not be taken from under the daemon. */
static uint32_t open_region(struct peer *peer, uint8_t **memory)
{
    uint8_t header[FAS_HEADER_BYTES_MAX];
    struct wire_opened opened;
    const struct wire_open open = {.place = FAS_PLACE_REGION, .bytes = REGION};
    struct frame frame = {.type = FRAME_OPEN, .request = 3};
    frame.header_bytes = (uint32_t)wire_encode_open(&open, header);
    ck_assert(peer_send(peer, &frame, header, NULL));
    int fd = take_fd(peer);
    ck_assert_int_eq(peer_receive(peer, ANSWER_MS), PEER_MESSAGE);
    ck_assert_str_eq(frame_type_name(peer->frame.type), "OPENED");
    ck_assert_int_eq(wire_decode_opened(peer->header, peer->frame.header_bytes, &opened, &error),
                     FAS_OK);
    ck_assert_uint_eq(opened.bytes, REGION);
    *memory = mmap(NULL, REGION, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    ck_assert_ptr_ne(*memory, MAP_FAILED);
    ck_assert(ftruncate(fd, 0) != 0 && ftruncate(fd, REGION / 2) != 0 &&
              ftruncate(fd, 2 * (off_t)REGION) != 0);
    close(fd);
    return opened.id;
}

static void close_region(struct peer *peer, uint32_t id)
{
    uint8_t header[FAS_HEADER_BYTES_MAX];
    struct frame frame = {.type = FRAME_CLOSE, .request = ID};
    frame.header_bytes = (uint32_t)wire_encode_close(id, header);
    ck_assert(peer_send(peer, &frame, header, NULL));
}

/* All of it lies in the region: nothing travels. */
static struct wire_request forward_in(uint32_t id, uint64_t o_offset)
{
    struct wire_request request = {.pass = FAS_FORWARD,
                                   .dims = {FAS_FP32, 1, 1, 64, 64, TOKENS, TOKENS},
                                   .batch = 1,
                                   .q.max_len = TOKENS,
                                   .k.max_len = TOKENS,
                                   .no_lse = true};
    for (enum fas_tensor tensor = FAS_Q; tensor <= FAS_O; tensor++) {
        request.tensors[tensor] =
            (struct wire_tensor){FAS_PLACE_REGION, id, tensor == FAS_O ? o_offset : 0, 0, 0};
    }
    return request;
}

static void send_request(struct peer *peer, const struct wire_request *request)
{
    uint8_t header[FAS_HEADER_BYTES_MAX];
    struct frame frame = {.type = FRAME_REQUEST, .request = ID};
    frame.header_bytes = (uint32_t)wire_encode_request(request, header);
    ck_assert(peer_send(peer, &frame, header, NULL));
}

static void request_in(struct peer *peer, uint32_t id, uint64_t o_offset)
{
    const struct wire_request request = forward_in(id, o_offset);
    send_request(peer, &request);
}

START_TEST(a_region_of_another_connection)
{
    uint8_t *memory;
    ck_assert(peer_greet(&bad));
    uint32_t id = open_region(&good, &memory);
    request_in(&bad, id, TENSOR);
    check_request_refused(FAS_NOT_FOUND, "tensors.q");
    close_region(&bad, id);
    check_request_refused(FAS_NOT_FOUND, "id");
    munmap(memory, REGION);
}
END_TEST

START_TEST(bounds_of_a_region)
{
    static const uint64_t offsets[] = {TENSOR + 16, REGION, UINT64_C(1) << 56, TENSOR - 8};
    uint8_t *memory;
    ck_assert(peer_greet(&bad));
    uint32_t id = open_region(&bad, &memory);
    for (size_t i = 0; i < sizeof offsets / sizeof offsets[0]; i++) {
        request_in(&bad, id, offsets[i]);
        check_answer(ID, FAS_INVALID_ARGUMENT, "tensors.o");
    }
    request_in(&bad, id, TENSOR);
    do {
        ck_assert_int_eq(peer_receive(&bad, ANSWER_MS), PEER_MESSAGE);
    } while (bad.frame.type == FRAME_RESULT);
    ck_assert_str_eq(frame_type_name(bad.frame.type), "DONE");
    munmap(memory, REGION);
}
END_TEST

START_TEST(a_region_that_was_closed)
{
    uint8_t *memory;
    ck_assert(peer_greet(&bad));
    uint32_t id = open_region(&bad, &memory);
    close_region(&bad, id);
    ck_assert_int_eq(peer_receive(&bad, ANSWER_MS), PEER_MESSAGE);
    ck_assert_str_eq(frame_type_name(bad.frame.type), "CLOSED");
    request_in(&bad, id, TENSOR);
    check_request_refused(FAS_NOT_FOUND, "tensors.q");
    close_region(&bad, id);
    check_request_refused(FAS_NOT_FOUND, "id");
    munmap(memory, REGION);
}
END_TEST

/* The request ends, and only then is the region closed. */
START_TEST(a_region_closed_while_it_is_used)
{
    uint8_t *memory;
    ck_assert(peer_greet(&bad));
    uint32_t id = open_region(&bad, &memory);
    request_in(&bad, id, TENSOR);
    close_region(&bad, id);
    do {
        ck_assert_int_eq(peer_receive(&bad, ANSWER_MS), PEER_MESSAGE);
        ck_assert_str_ne(frame_type_name(bad.frame.type), "CLOSED");
    } while (bad.frame.type == FRAME_RESULT);
    ck_assert_str_eq(frame_type_name(bad.frame.type), "DONE");
    ck_assert_int_eq(peer_receive(&bad, ANSWER_MS), PEER_MESSAGE);
    ck_assert_str_eq(frame_type_name(bad.frame.type), "CLOSED");
    munmap(memory, REGION);
}
END_TEST

/* The peer hangs up at some moment of a launch, or breaks the protocol: once the daemon has hung
 * up, too, nothing writes. */
START_TEST(a_connection_ends_after_the_last_write)
{
    struct random random = random_open(6);
    uint8_t *memory;
    for (int round = 0; round < 30; round++) {
        ck_assert(peer_greet(&bad));
        uint32_t id = open_region(&bad, &memory);
        request_in(&bad, id, TENSOR);
        usleep((useconds_t)random_below(&random, 20000));
        if (round % 2) {
            shutdown(bad.fd, SHUT_WR);
        } else {
            say("nonsense that is no frame at all, and longer than the head of one", 64);
        }
        while (peer_receive_any(&bad, ANSWER_MS) == PEER_MESSAGE) {
        }
        memset(memory + TENSOR, 0x5a, TENSOR);
        usleep(3000);
        size_t same = TENSOR;
        while (same < REGION && memory[same] == 0x5a) {
            same++;
        }
        ck_assert_msg(same == REGION, "round %d: byte %zu was written", round, same);
        munmap(memory, REGION);
        peer_close(&bad);
        ck_assert(peer_connect(&bad, server.socket));
    }
}
END_TEST

/* A place of what stands for CUDA on a far device: an event, or memory. */
static void say_open_cuda(bool event, int device)
{
    uint8_t header[FAS_HEADER_BYTES_MAX];
    struct wire_open open = {.place = FAS_PLACE_CUDA, .has_event = event, .has_memory = !event};
    int fd = memfd_create("bad-places", MFD_CLOEXEC);
    ck_assert(fd >= 0 && ftruncate(fd, REGION) == 0);
    snprintf((char *)(event ? open.cuda_event : open.cuda_memory), WIRE_CUDA_HANDLE_BYTES, "%d %d",
             (int)getpid(), fd);
    snprintf(open.device_uuid, sizeof open.device_uuid, "GPU-fa000000-0000-0000-0000-00000000000%d",
             device);
    struct frame frame = {.type = FRAME_OPEN, .request = 3};
    frame.header_bytes = (uint32_t)wire_encode_open(&open, header);
    ck_assert(peer_send(&bad, &frame, header, NULL));
    ck_assert_int_eq(peer_receive(&bad, ANSWER_MS), PEER_MESSAGE);
    close(fd);
}

static uint32_t open_cuda(bool event)
{
    struct wire_opened opened;
    say_open_cuda(event, 0);
    ck_assert_str_eq(frame_type_name(bad.frame.type), "OPENED");
    ck_assert_int_eq(wire_decode_opened(bad.header, bad.frame.header_bytes, &opened, &error),
                     FAS_OK);
    ck_assert_uint_eq(opened.bytes, (event ? 0 : REGION));
    return opened.id;
}

START_TEST(an_event_in_the_place_of_memory)
{
    ck_assert(peer_greet(&bad));
    struct wire_request request = forward_in(open_cuda(true), TENSOR);
    for (int tensor = FAS_Q; tensor <= FAS_O; tensor++) {
        request.tensors[tensor].place = FAS_PLACE_CUDA;
    }
    send_request(&bad, &request);
    check_request_refused(FAS_INVALID_ARGUMENT, "tensors.q");
}
END_TEST

/* Of a GPU that is not there. */
START_TEST(a_false_uuid)
{
    ck_assert(peer_greet(&bad));
    for (int event = 0; event < 2; event++) {
        struct fas_error told;
        say_open_cuda(event, 7);
        ck_assert_str_eq(frame_type_name(bad.frame.type), "ERROR");
        ck_assert_int_eq(wire_decode_error(bad.header, bad.frame.header_bytes, &told, &error),
                         FAS_OK);
        ck_assert_int_eq(told.status, FAS_INVALID_ARGUMENT);
        ck_assert_str_eq(told.field, "device_uuid");
    }
}
END_TEST

START_TEST(memory_in_the_place_of_an_event)
{
    uint8_t *memory;
    ck_assert(peer_greet(&bad));
    uint32_t region = open_region(&bad, &memory);
    struct wire_request request = forward_in(region, TENSOR);
    request.wait_event = region;
    send_request(&bad, &request);
    check_answer(ID, FAS_INVALID_ARGUMENT, "wait_event");
    request.wait_event = 0;
    request.done_event = open_cuda(false);
    send_request(&bad, &request);
    check_request_refused(FAS_INVALID_ARGUMENT, "done_event");
    munmap(memory, REGION);
}
END_TEST

/* CLOSE while a request waits for the event: CLOSED follows its end. */
START_TEST(an_event_closed_while_it_is_waited_for)
{
    uint8_t *memory;
    ck_assert(peer_greet(&bad));
    uint32_t region = open_region(&bad, &memory), event = open_cuda(true);
    struct wire_request request = forward_in(region, TENSOR);
    request.wait_event = request.done_event = event;
    send_request(&bad, &request);
    close_region(&bad, event);
    bool enqueued = false;
    do {
        ck_assert_int_eq(peer_receive(&bad, ANSWER_MS), PEER_MESSAGE);
        ck_assert_str_ne(frame_type_name(bad.frame.type), "CLOSED");
        enqueued |= bad.frame.type == FRAME_ENQUEUED;
    } while (bad.frame.type == FRAME_RESULT || bad.frame.type == FRAME_ENQUEUED);
    ck_assert(enqueued);
    ck_assert_str_eq(frame_type_name(bad.frame.type), "DONE");
    ck_assert_int_eq(peer_receive(&bad, ANSWER_MS), PEER_MESSAGE);
    ck_assert_str_eq(frame_type_name(bad.frame.type), "CLOSED");
    munmap(memory, REGION);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("bad_places");
    TCase *tcase = tcase_create("bad_places");
    tcase_set_timeout(tcase, 30);
    tcase_add_unchecked_fixture(tcase, start_daemon, stop_daemon);
    tcase_add_checked_fixture(tcase, connect_both, served_as_before);
    tcase_add_test(tcase, a_region_of_another_connection);
    tcase_add_test(tcase, bounds_of_a_region);
    tcase_add_test(tcase, a_region_that_was_closed);
    tcase_add_test(tcase, a_region_closed_while_it_is_used);
    tcase_add_test(tcase, a_connection_ends_after_the_last_write);
    if (strcmp(daemon_device_kind(), "far") == 0) { /* which opens what stands for CUDA */
        tcase_add_test(tcase, an_event_in_the_place_of_memory);
        tcase_add_test(tcase, memory_in_the_place_of_an_event);
        tcase_add_test(tcase, an_event_closed_while_it_is_waited_for);
        tcase_add_test(tcase, a_false_uuid);
    }
    suite_add_tcase(suite, tcase);
    return run_suite(suite);
}
