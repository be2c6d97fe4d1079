/*
 * Chunks on their way into an arena that the host does not reach: each rests until the next one has
 * landed on its connection, but not once its request is complete, nor while somebody waits for a
 * slab; those of a request that is over go nowhere.
 */
#include <stdlib.h>
#include <string.h>

#include "server/server.h"
#include "tests/support/check_main.h"

enum { SLOTS = 2, CHUNK_BYTES = 4096, WORK_MAX = 64 };

static struct server server;
static struct staging *staging;
static struct slot *slots[SLOTS];
static uint64_t uploads[WORK_MAX]; /* arena offsets */
static uint32_t upload_count, tags[WORK_MAX], collected;

static bool upload(struct device *device, const struct device_copy *copy, uint64_t tag)
{
    (void)device;
    ck_assert_uint_lt(upload_count, WORK_MAX);
    tags[upload_count] = (uint32_t)tag;
    uploads[upload_count++] = copy->arena_offset;
    return true;
}

static const struct device_ops ops = {.kind = "still", .upload = upload};

static void open_all(void)
{
    struct fas_error error = {0};
    config_default(&server.config);
    ck_assert(config_set(&server.config, "connections-max", "2", error.text, sizeof error.text));
    ck_assert(config_set(&server.config, "chunk-bytes", "64KiB", error.text, sizeof error.text));
    server.executors = calloc(1, sizeof *server.executors);
    server.executor_count = 1;
    struct device *device = &server.executors[0].device;
    device->ops = &ops;
    device->staging = malloc(device_staging_bytes(&server.config));
    staging = &server.executors[0].staging;
    ck_assert(staging_open(staging, device, &server.config));
    ck_assert(connections_open(&server.connections, config_connections(&server.config)));
    ck_assert(slots_open(&server.slots, SLOTS));
    for (int i = 0; i < SLOTS; i++) {
        slots[i] = slot_take(&server.slots);
        slots[i]->bytes_missing = UINT64_C(100) * CHUNK_BYTES;
    }
}

static void land(struct slot *slot, uint32_t owner, uint64_t arena_offset)
{
    uint8_t *slab = slab_take(&staging->in, owner);
    ck_assert_ptr_nonnull(slab);
    ck_assert(staging_upload(&server, slot, slab, arena_offset, CHUNK_BYTES));
}

/* All uploads that were begun are over. */
static void collect(void)
{
    for (; collected < upload_count; collected++) {
        const struct device_completion over = {.lane = DEVICE_UPLOAD, .tag = tags[collected]};
        staging_collect(&server, staging, &over, 1);
    }
}

static uint32_t taken(void)
{
    return staging->in.count - staging->in.free_count;
}

START_TEST(it_rests_until_the_next_has_landed)
{
    open_all();
    land(slots[0], 0, 1);
    land(slots[0], 1, 77); /* on another connection */
    ck_assert_uint_eq(upload_count, 0);
    ck_assert_uint_eq(slots[0]->copies, 2);
    for (uint64_t i = 0; i < 5; i++) {
        land(slots[1], 0, 2 + i);
        ck_assert_uint_eq(upload_count, i + 1);
        ck_assert_uint_eq(uploads[i], 1 + i);
    }
    collect();
    ck_assert_uint_eq(taken(), 2);
    ck_assert_uint_eq(slots[0]->bytes_missing, UINT64_C(99) * CHUNK_BYTES);
    ck_assert_uint_eq(slots[1]->bytes_missing, UINT64_C(96) * CHUNK_BYTES);
}
END_TEST

START_TEST(a_complete_request_rests_no_longer)
{
    open_all();
    slots[0]->bytes_missing = UINT64_C(2) * CHUNK_BYTES;
    slots[0]->events.passed = false; /* so that it is not queued */
    land(slots[0], 0, 1);
    ck_assert_uint_eq(upload_count, 0);
    land(slots[0], 1, 2);
    ck_assert_uint_eq(upload_count, 2);
    land(slots[1], 0, 50);
    collect();
    ck_assert_uint_eq(slots[0]->bytes_missing, 0);
    ck_assert_uint_eq(slots[0]->copies, 0);
    ck_assert_uint_eq(upload_count, 2);
    ck_assert_uint_eq(taken(), 1);
}
END_TEST

/* By a copy from a region, say. */
START_TEST(nor_when_other_bytes_complete_it)
{
    open_all();
    slots[0]->bytes_missing = 2u * CHUNK_BYTES;
    land(slots[0], 0, 1);
    ck_assert_uint_eq(upload_count, 0);
    slots[0]->bytes_missing -= CHUNK_BYTES;
    staging_hasten(&server, slots[0]);
    ck_assert_uint_eq(upload_count, 1);
}
END_TEST

START_TEST(nothing_rests_while_somebody_waits)
{
    open_all();
    land(slots[0], 0, 1);
    while (slab_take(&staging->in, 1)) {
    }
    ck_assert_uint_eq(upload_count, 0);
    staging_resume(&server, staging);
    ck_assert_uint_eq(upload_count, 1);
}
END_TEST

START_TEST(who_is_over_leaves_nothing)
{
    open_all();
    land(slots[0], 0, 1);
    land(slots[1], 1, 50);
    staging_drop(&server, slots[0]);
    ck_assert_uint_eq(upload_count, 0);
    ck_assert_uint_eq(slots[0]->copies, 0);
    ck_assert_uint_eq(slots[0]->bytes_landed, 0);
    ck_assert_uint_eq(taken(), 1);
    land(slots[1], 0, 51);
    ck_assert_uint_eq(upload_count, 0);
    land(slots[1], 1, 52);
    ck_assert_uint_eq(upload_count, 1);
    ck_assert_uint_eq(uploads[0], 50);
}
END_TEST

static const struct check_row tests[] = {
    {"it_rests_until_the_next_has_landed", &it_rests_until_the_next_has_landed},
    {"a_complete_request_rests_no_longer", &a_complete_request_rests_no_longer},
    {"nor_when_other_bytes_complete_it", &nor_when_other_bytes_complete_it},
    {"nothing_rests_while_somebody_waits", &nothing_rests_while_somebody_waits},
    {"who_is_over_leaves_nothing", &who_is_over_leaves_nothing},
};
CHECK_MAIN("staging", tests)
