/* Places: opened within their bounds, used where they are, given back by the last who uses them. */
#include "server/place.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "server/server.h"
#include "tests/support/check_main.h"

enum { REGION = 1 << 20, ALL = 4 * REGION, OWN = 3 * REGION };

static struct server server;
static struct connection connections[2];
static struct slot slots[2];
static struct executor executors[2]; /* the second: of a device that host memory is copied to */
static uint8_t outboxes[2][OUTBOX_BUFFERS * OUTBOX_BYTES];
static struct fas_error error;

/* Stands for CUDA: any handle is memory, at an address of no use, unless it is to fail. */
static bool fails;

static enum fas_status map(struct device *device, struct device_mapping *mapping,
                           struct fas_error *why)
{
    static uint8_t somewhere[1];
    (void)device;
    if (fails) {
        return fas_fail(why, FAS_INVALID_ARGUMENT, "cuda_memory", "fails");
    }
    if (mapping->kind == FAS_PLACE_CUDA) {
        mapping->memory = somewhere;
        mapping->bytes = UINT64_C(1) << 40;
    }
    return FAS_OK;
}

static void unmap(struct device *device, const struct device_mapping *mapping)
{
    (void)device, (void)mapping;
}

static const struct device_ops host_ops = {.kind = "host"};
static const struct device_ops cuda_ops = {.kind = "cuda", .map = map, .unmap = unmap};

static void no_wake(void *context)
{
    (void)context;
}

/* Until the mapper has done what it was asked for. */
static void settle(void)
{
    for (uint32_t i = 0; i < PLACES_MAX; i++) {
        while (server.places.entries[i].state != PLACE_FREE && server.places.entries[i].working) {
            usleep(100);
            place_collect(&server);
        }
    }
}

static void open_server(void)
{
    memset(&server, 0, sizeof server);
    ck_assert(places_open(&server.places, &(struct places_limits){ALL, OWN, 4}, no_wake, NULL));
    ck_assert(principals_open(&server.principals, PLACES_MAX + 2));
    server.slots = (struct slots){.entries = slots, .count = 2};
    server.executors = executors;
    executors[0].device.host_reaches_arena = true;
    for (uint32_t i = 0; i < 2; i++) {
        connections[i] = (struct connection){.first_slot = SLOT_NONE};
        bool fresh;
        connections[i].principal =
            principal_take(&server.principals, i ? "uid:2" : "uid:1", 1, &fresh);
        outbox_place(&connections[i].outbox, outboxes[i]);
        outbox_reset(&connections[i].outbox, true);
        slots[i] = (struct slot){.index = i};
    }
}

static void close_server(void)
{
    for (uint32_t i = 0; i < 2; i++) {
        place_close_all(&server, &connections[i]);
    }
    settle();
    settle(); /* what was still being opened is now closed */
    ck_assert_uint_eq(server.places.count, 0);
    ck_assert_uint_eq(server.places.bytes, 0);
    ck_assert_uint_eq(server.principals.entries[0].references, 1);
    places_close(&server.places);
    principals_close(&server.principals);
}

static enum fas_status ask(uint32_t connection, uint64_t bytes)
{
    const struct wire_open open = {.place = FAS_PLACE_REGION, .bytes = bytes};
    return place_open(&server, &connections[connection], &open, 77, &error);
}

/* The next answer to the connection: a message in its outbox, and a descriptor beside it. */
static struct frame answer(uint32_t connection, int *fd, struct wire_opened *opened)
{
    struct outbox *outbox = &connections[connection].outbox;
    struct frame frame = {0};
    settle();
    ck_assert(place_answer(&server, &connections[connection]));
    outbox_begin(outbox);
    outbox_end(outbox);
    const uint8_t *bytes = outbox->iov[0].iov_base;
    ck_assert_int_eq(frame_decode(bytes, true, FRAME_SERVER, &frame, &error), FAS_OK);
    ck_assert_uint_le(outbox->fd_count, frame.type == FRAME_OPENED);
    *fd = outbox->fd_count ? outbox->fds[0] : -1;
    if (frame.type == FRAME_OPENED) {
        bytes += frame_prefix_bytes(true) + FAS_PREAMBLE_BYTES;
        ck_assert_int_eq(wire_decode_opened(bytes, frame.header_bytes, opened, &error), FAS_OK);
    }
    return frame;
}

/* An open region: its id; the client's mapping of it in *memory. */
static uint32_t region(uint32_t connection, uint64_t bytes, uint8_t **memory)
{
    int fd = -1;
    struct wire_opened opened = {0};
    ck_assert_int_eq(ask(connection, bytes), FAS_OK);
    struct frame frame = answer(connection, &fd, &opened);
    ck_assert_int_eq(frame.type, FRAME_OPENED);
    ck_assert_uint_eq(frame.request, 77);
    ck_assert_int_ge(fd, 0);
    *memory = mmap(NULL, opened.bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    ck_assert_ptr_ne(*memory, MAP_FAILED);
    close(fd);
    return opened.id;
}

/* An open piece of CUDA memory, of the second executor's device. */
static uint32_t cuda_memory(uint32_t connection)
{
    const struct wire_open open = {.place = FAS_PLACE_CUDA, .has_memory = true};
    struct wire_opened opened = {0};
    int fd = -1;
    server.executor_count = 2;
    executors[0].device.ops = &host_ops;
    executors[1].device.ops = &cuda_ops;
    ck_assert_int_eq(place_open(&server, &connections[connection], &open, 77, &error), FAS_OK);
    struct frame frame = answer(connection, &fd, &opened);
    ck_assert_int_eq(frame.type, FRAME_OPENED);
    ck_assert_int_eq(fd, -1);
    return opened.id;
}

/* A forward of 4 tokens, two heads of 16 fp32, whose k lies in a place. */
static enum fas_status use(uint32_t slot, uint32_t connection, struct wire_tensor k)
{
    struct request *request = &slots[slot].request;
    *request = (struct request){
        .wire = {.pass = FAS_FORWARD, .dims = {FAS_FP32, 2, 2, 16, 16, 4, 4}, .batch = 1}};
    request->wire.tensors[FAS_K] = k;
    request->inputs = 1u << FAS_K;
    slots[slot].connection = &connections[connection];
    return place_enter(&server, &slots[slot], &error);
}

START_TEST(a_region_is_the_same_memory_on_both_sides)
{
    uint8_t *memory;
    open_server();
    uint32_t id = region(0, 100, &memory);
    ck_assert_int_eq(use(0, 0, (struct wire_tensor){FAS_PLACE_REGION, id, 64, 0, 0}), FAS_OK);
    uint8_t *seen = slots[0].request.placed[FAS_K].data;
    memory[64] = 17;
    ck_assert_uint_eq(*seen, 17);
    seen[1] = 18;
    ck_assert_uint_eq(memory[65], 18);
    place_leave(&server, &slots[0]);
    munmap(memory, 4096);
    close_server();
}
END_TEST

START_TEST(a_region_neither_shrinks_nor_grows)
{
    int fd = -1;
    struct wire_opened opened = {0};
    struct stat stat;
    open_server();
    ck_assert_int_eq(ask(0, 100), FAS_OK);
    answer(0, &fd, &opened);
    ck_assert_int_eq(fstat(fd, &stat), 0);
    ck_assert_int_eq(stat.st_size, (int64_t)opened.bytes);
    ck_assert_int_ge(stat.st_size, 100);
    ck_assert(ftruncate(fd, 0) != 0 && errno == EPERM);
    ck_assert(ftruncate(fd, 1 << 20) != 0 && errno == EPERM);
    ck_assert(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE) != 0 && errno == EPERM);
    close(fd);
    close_server();
}
END_TEST

START_TEST(bounds_of_one_client_and_of_all)
{
    open_server();
    ck_assert_int_eq(ask(0, OWN + 1), FAS_INVALID_ARGUMENT);
    ck_assert_str_eq(error.field, "bytes");
    ck_assert_int_eq(ask(0, 2 * REGION), FAS_OK);
    ck_assert_int_eq(ask(0, REGION + 1), FAS_RESOURCE_EXHAUSTED);
    ck_assert_int_eq(ask(1, 2 * REGION + 1), FAS_RESOURCE_EXHAUSTED);
    ck_assert_str_eq(error.field, "bytes");
    ck_assert_int_eq(ask(1, 2 * REGION), FAS_OK);
    settle();
    place_close_all(&server, &connections[0]);
    settle();
    ck_assert_int_eq(ask(1, REGION), FAS_OK);
    close_server();
}
END_TEST

START_TEST(a_number_of_places_each)
{
    open_server();
    for (uint32_t i = 0; i < OWN / 4096 && i < PLACES_PER_PRINCIPAL; i++) {
        ck_assert_int_eq(ask(0, 1), FAS_OK);
    }
    ck_assert_int_eq(ask(0, 1), FAS_RESOURCE_EXHAUSTED);
    ck_assert_int_eq(ask(1, 1), FAS_OK);
    close_server();
}
END_TEST

START_TEST(only_tensors_inside_are_used)
{
    uint8_t *memory;
    open_server();
    uint32_t id = region(0, 4096, &memory);
    const uint64_t packed = 4 * 2 * 16 * 4;
    const struct {
        struct wire_tensor at;
        enum fas_status status;
    } rows[] = {
        {{FAS_PLACE_REGION, id, 4096 - packed, 0, 0}, FAS_OK},
        {{FAS_PLACE_REGION, id, 4096 - packed + 16, 0, 0}, FAS_INVALID_ARGUMENT},
        {{FAS_PLACE_REGION, id, 4096, 0, 0}, FAS_INVALID_ARGUMENT},
        {{FAS_PLACE_REGION, id, UINT64_MAX - 15, 0, 0}, FAS_INVALID_ARGUMENT},
        {{FAS_PLACE_REGION, id, 0, 1024, 64}, FAS_OK},
        {{FAS_PLACE_REGION, id, 4096 - (3 * 1024 + 128), 1024, 64}, FAS_OK},
        {{FAS_PLACE_REGION, id, 4096 - (3 * 1024 + 112), 1024, 64}, FAS_INVALID_ARGUMENT},
        {{FAS_PLACE_REGION, id, 0, 64, 4032 - 192}, FAS_OK},
        {{FAS_PLACE_REGION, id, 0, 64, 4048 - 192}, FAS_INVALID_ARGUMENT},
        {{FAS_PLACE_CUDA, id, 0, 0, 0}, FAS_NOT_FOUND},
        {{FAS_PLACE_REGION, id + 1, 0, 0, 0}, FAS_NOT_FOUND},
        {{FAS_PLACE_REGION, FAS_PLACE_ID_MAX, 0, 0, 0}, FAS_NOT_FOUND},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        enum fas_status status = use(0, 0, rows[i].at);
        ck_assert_msg(status == rows[i].status, "row %zu: %s", i, fas_status_name(status));
        ck_assert(status == FAS_OK || strcmp(error.field, "tensors.k") == 0);
        place_leave(&server, &slots[0]);
    }
    munmap(memory, 4096);
    close_server();
}
END_TEST

START_TEST(a_device_that_does_not_reach_the_host_copies)
{
    uint8_t *memory;
    open_server();
    uint32_t id = region(0, 4096, &memory);
    slots[0].executor = 1;
    ck_assert_int_eq(use(0, 0, (struct wire_tensor){FAS_PLACE_REGION, id, 0, 0, 0}), FAS_OK);
    ck_assert_uint_eq(slots[0].request.in_place, 0);
    ck_assert_uint_eq(slots[0].request.copied, 1u << FAS_K);
    place_leave(&server, &slots[0]);
    ck_assert_int_eq(use(1, 0, (struct wire_tensor){FAS_PLACE_REGION, id, 0, 0, 0}), FAS_OK);
    ck_assert_uint_eq(slots[1].request.in_place, 1u << FAS_K);
    ck_assert_uint_eq(slots[1].request.copied, 0);
    place_leave(&server, &slots[1]);
    munmap(memory, 4096);
    close_server();
}
END_TEST

START_TEST(nobody_uses_a_place_of_another)
{
    uint8_t *memory;
    open_server();
    uint32_t id = region(0, 4096, &memory);
    ck_assert_int_eq(use(0, 1, (struct wire_tensor){FAS_PLACE_REGION, id, 0, 0, 0}), FAS_NOT_FOUND);
    ck_assert_int_eq(place_close(&server, &connections[1], id, 5, &error), FAS_NOT_FOUND);
    ck_assert_int_eq(place_close(&server, &connections[0], 0, 5, &error), FAS_NOT_FOUND);
    munmap(memory, 4096);
    close_server();
}
END_TEST

START_TEST(closed_is_said_when_the_last_request_has_left)
{
    uint8_t *memory;
    int fd = -1;
    struct wire_opened opened = {0};
    open_server();
    uint32_t id = region(0, 4096, &memory);
    const struct wire_tensor k = {FAS_PLACE_REGION, id, 0, 0, 0};
    ck_assert_int_eq(use(0, 0, k), FAS_OK);
    ck_assert_int_eq(use(1, 0, k), FAS_OK);
    ck_assert_int_eq(place_close(&server, &connections[0], id, 5, &error), FAS_OK);
    ck_assert_int_eq(place_close(&server, &connections[0], id, 6, &error), FAS_NOT_FOUND);
    place_leave(&server, &slots[1]);
    ck_assert_int_eq(use(1, 0, k), FAS_NOT_FOUND);
    ck_assert(!place_answer(&server, &connections[0]));
    memset(slots[0].request.placed[FAS_K].data, 1, 512); /* the launch that runs goes on */
    ck_assert_uint_eq(memory[511], 1);
    place_leave(&server, &slots[0]);
    struct frame frame = answer(0, &fd, &opened);
    ck_assert_int_eq(frame.type, FRAME_CLOSED);
    ck_assert_uint_eq(frame.request, 5);
    ck_assert_int_eq(fd, -1);
    ck_assert_uint_eq(server.places.bytes, 0);
    munmap(memory, 4096);
    close_server();
}
END_TEST

START_TEST(memory_outlives_its_connection_while_it_is_used)
{
    uint8_t *memory;
    open_server();
    uint32_t id = region(0, 4096, &memory);
    ck_assert_int_eq(use(0, 0, (struct wire_tensor){FAS_PLACE_REGION, id, 0, 0, 0}), FAS_OK);
    place_close_all(&server, &connections[0]);
    ck_assert_uint_eq(server.places.count, 1);
    memset(slots[0].request.placed[FAS_K].data, 1, 512);
    slots[0].connection = NULL;
    place_leave(&server, &slots[0]);
    settle();
    ck_assert_uint_eq(server.places.count, 0);
    munmap(memory, 4096);
    close_server();
}
END_TEST

/* More than this machine can map: told as the answer to OPEN, and nothing is held. */
START_TEST(a_region_that_can_not_be_had)
{
    struct wire_opened opened = {0};
    int fd;
    open_server();
    server.places.bytes_max = server.places.bytes_per_principal = UINT64_MAX / 2;
    ck_assert_int_eq(ask(0, UINT64_C(1) << 56), FAS_OK);
    struct frame frame = answer(0, &fd, &opened);
    ck_assert_str_eq(frame_type_name(frame.type), "ERROR");
    ck_assert_uint_eq(server.places.count, 0);
    ck_assert_uint_eq(server.places.bytes, 0);
    close_server();
}
END_TEST

START_TEST(a_connection_that_goes_before_its_answers_leaves_nothing)
{
    uint8_t *memory;
    open_server();
    uint32_t id = region(0, 4096, &memory);
    ck_assert_int_eq(ask(0, 4096), FAS_OK); /* its descriptor was not handed over */
    ck_assert_int_eq(place_close(&server, &connections[0], id, 5, &error), FAS_OK);
    munmap(memory, 4096);
    close_server();
}
END_TEST

/* CUDA refuses a copy whose rows lie further apart, and the device would count as failed. */
START_TEST(rows_too_far_apart_to_be_copied)
{
    const int64_t far = INT64_C(1) << 31;
    open_server();
    uint32_t id = cuda_memory(0);
    slots[0].executor = 1; /* not memory of its own device, so it is copied */
    ck_assert_int_eq(use(0, 0, (struct wire_tensor){FAS_PLACE_CUDA, id, 0, far, 64}),
                     FAS_UNSUPPORTED);
    ck_assert_str_eq(error.field, "tensors.k");
    place_leave(&server, &slots[0]);
    ck_assert_int_eq(use(0, 0, (struct wire_tensor){FAS_PLACE_CUDA, id, 0, 64, far}),
                     FAS_UNSUPPORTED);
    place_leave(&server, &slots[0]);
    ck_assert_int_eq(use(0, 0, (struct wire_tensor){FAS_PLACE_CUDA, id, 0, far - 16, 64}), FAS_OK);
    place_leave(&server, &slots[0]);
    close_server();
}
END_TEST

/* Where the retained forward of a backward is, for one: on a CPU beside a GPU. */
START_TEST(cuda_memory_beyond_the_reach_of_the_device)
{
    open_server();
    uint32_t id = cuda_memory(0);
    slots[0].executor = 0;
    ck_assert_int_eq(use(0, 0, (struct wire_tensor){FAS_PLACE_CUDA, id, 0, 0, 0}), FAS_UNSUPPORTED);
    ck_assert_str_eq(error.field, "tensors.k");
    place_leave(&server, &slots[0]);
    close_server();
}
END_TEST

/* A driver does nothing more for a device that failed: another one has to be asked. */
START_TEST(a_lost_device_opens_nothing)
{
    static struct executor three[3];
    struct wire_opened opened = {0};
    int fd;
    open_server();
    server.executors = three;
    server.executor_count = 3;
    for (uint32_t i = 0; i < 3; i++) {
        three[i] = (struct executor){.lost = i == 1, .device.ops = i > 0 ? &cuda_ops : &host_ops};
        snprintf(three[i].device.uuid, sizeof three[i].device.uuid, "GPU-%u", i);
    }
    ck_assert_int_eq(ask(0, 4096), FAS_OK);
    answer(0, &fd, &opened);
    close(fd);
    ck_assert_ptr_eq(server.places.entries[opened.id - 1].mapping.device, &three[2].device);
    const struct wire_open lost = {
        .place = FAS_PLACE_CUDA, .has_memory = true, .device_uuid = "GPU-1"};
    ck_assert_int_eq(place_open(&server, &connections[0], &lost, 77, &error), FAS_OK);
    answer(0, &fd, &opened);
    ck_assert_ptr_eq(server.places.entries[opened.id - 1].mapping.device, &three[2].device);
    close_server();
}
END_TEST

/* Of two pieces that one request names neither is unmapped for the other, though only one may be
 * mapped: else they would take turns for ever. */
START_TEST(what_a_request_names_is_mapped_together)
{
    open_server();
    server.places.mappings_max = 1;
    struct wire_request wire = {0};
    wire.tensors[FAS_Q] = (struct wire_tensor){.place = FAS_PLACE_CUDA, .place_id = cuda_memory(0)};
    wire.tensors[FAS_K] = (struct wire_tensor){.place = FAS_PLACE_CUDA, .place_id = cuda_memory(0)};
    ck_assert_uint_eq(server.places.mappings, 1);
    ck_assert(place_recall(&server, &connections[0], &wire));
    settle();
    ck_assert(!place_recall(&server, &connections[0], &wire));
    ck_assert_uint_eq(server.places.mappings, 2);
    cuda_memory(0); /* nobody uses them now: both may go */
    ck_assert_uint_eq(server.places.mappings, 1);
    close_server();
}
END_TEST

/* What was to be told to a request that named it is not told to who closes it. */
START_TEST(memory_that_can_not_be_mapped_again_is_closed)
{
    struct wire_opened opened;
    int fd;
    open_server();
    server.places.mappings_max = 1;
    uint32_t id = cuda_memory(0);
    struct wire_request wire = {0};
    wire.tensors[FAS_Q] = (struct wire_tensor){.place = FAS_PLACE_CUDA, .place_id = id};
    cuda_memory(0);
    fails = true;
    ck_assert(place_recall(&server, &connections[0], &wire));
    settle();
    ck_assert(!place_recall(&server, &connections[0], &wire));
    ck_assert_int_eq(place_close(&server, &connections[0], id, 5, &error), FAS_OK);
    struct frame frame = answer(0, &fd, &opened);
    ck_assert_str_eq(frame_type_name(frame.type), "CLOSED");
    ck_assert_uint_eq(frame.request, 5);
    close_server();
}
END_TEST

int main(void)
{
    static const struct check_row rows[] = {
        {"same_memory", &a_region_is_the_same_memory_on_both_sides},
        {"sealed", &a_region_neither_shrinks_nor_grows},
        {"bounds", &bounds_of_one_client_and_of_all},
        {"number", &a_number_of_places_each},
        {"inside", &only_tensors_inside_are_used},
        {"copies", &a_device_that_does_not_reach_the_host_copies},
        {"foreign", &nobody_uses_a_place_of_another},
        {"closed", &closed_is_said_when_the_last_request_has_left},
        {"gone", &memory_outlives_its_connection_while_it_is_used},
        {"not_had", &a_region_that_can_not_be_had},
        {"pitch", &rows_too_far_apart_to_be_copied},
        {"reach", &cuda_memory_beyond_the_reach_of_the_device},
        {"lost", &a_lost_device_opens_nothing},
        {"together", &what_a_request_names_is_mapped_together},
        {"not_again", &memory_that_can_not_be_mapped_again_is_closed},
        {"unanswered", &a_connection_that_goes_before_its_answers_leaves_nothing},
    };
    return check_main("place", rows, sizeof rows / sizeof rows[0]);
}
