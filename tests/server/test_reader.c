/* A peer's bytes, in every way they can be cut, become the same messages. */
#include "server/reader.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/wire.h"
#include "tests/support/check_main.h"
#include "tests/support/random.h"

#define ROUTES 9u
#define CHUNK FAS_CHUNK_BYTES_MIN

static struct reader reader;
static uint8_t script[1 << 20];
static size_t script_bytes;
static uint8_t arena[4 * CHUNK], expected[4 * CHUNK];
static uint64_t claimed[ROUTE_BITMAP_WORDS];

static void say(enum frame_type type, uint64_t request, uint16_t flags, uint32_t chunk,
                const void *header, size_t header_bytes, const void *payload, size_t payload_bytes)
{
    struct frame frame = {.type = type,
                          .flags = flags,
                          .chunk = chunk,
                          .request = request,
                          .header_bytes = (uint32_t)header_bytes,
                          .payload_bytes = payload_bytes};
    script_bytes += frame_encode(&frame, true, script + script_bytes);
    if (header_bytes > 0) {
        memcpy(script + script_bytes, header, header_bytes);
    }
    script_bytes += header_bytes;
    if (payload_bytes > 0) {
        memcpy(script + script_bytes, payload, payload_bytes);
    }
    script_bytes += payload_bytes;
}

/* HELLO, a REQUEST with lengths, q in three chunks, v in one, CANCEL, a PING. */
static void write_script(struct random *random)
{
    static const int32_t lengths[] = {0, 5, 8};
    script_bytes = 0;
    memcpy(script, frame_sp_hello, FRAME_SP_HELLO_BYTES);
    script_bytes += FRAME_SP_HELLO_BYTES;
    say(FRAME_HELLO, 0, 0, 0, "hello", 5, NULL, 0);
    say(FRAME_REQUEST, 7, 0, 0, "request", 7, lengths, sizeof lengths);
    for (size_t i = 0; i < sizeof expected; i++) {
        expected[i] = (uint8_t)random_next(random);
    }
    say(FRAME_DATA, 7, FAS_Q, 1, NULL, 0, expected + CHUNK, CHUNK);
    say(FRAME_DATA, 7, FAS_Q, 0, NULL, 0, expected, CHUNK);
    say(FRAME_DATA, 7, FAS_Q, 2, NULL, 0, expected + 2 * CHUNK, 100);
    say(FRAME_DATA, 7, FAS_V, 0, NULL, 0, expected + 3 * CHUNK, CHUNK);
    say(FRAME_CANCEL, 7, 0, 0, NULL, 0, NULL, 0);
    say(FRAME_PING, 99, 0, 0, NULL, 0, NULL, 0);
}

static char heard[4096];

/* What the loop would do, written down. */
static void listen_to(const struct inbox_record *record)
{
    static const char *const kinds[] = {"", "landed ", "dropped ", "refused "};
    const struct route_tensor tensors[FAS_TENSOR_COUNT] = {
        [FAS_Q] = {arena, 2 * CHUNK + 100, 0}, [FAS_V] = {arena + 3 * CHUNK, CHUNK, 3}};
    snprintf(heard + strlen(heard), sizeof heard - strlen(heard), "%s%s %.*s\n",
             kinds[record->kind], frame_type_name(record->frame.type),
             (int)record->frame.header_bytes, (const char *)record->header);
    if (record->frame.type == FRAME_HELLO) {
        reader_greet(&reader, CHUNK, 8 * CHUNK);
    } else if (record->frame.type == FRAME_REQUEST) {
        ck_assert_int_eq(((const int32_t *)(const void *)reader.lengths)[2], 8);
        reader_admit(&reader, 7, tensors, claimed);
    }
}

static size_t buffered; /* of what was given: not received in its place, but copied there */

/* Gives the reader at most `most` bytes a time, as a stream would. */
static enum reader_step play(size_t most, struct random *random)
{
    size_t given = 0;
    enum reader_step step = READER_RECEIVE;
    while (step != READER_FAILED && (given < script_bytes || step == READER_PAUSED)) {
        const struct inbox_record *record;
        while ((record = reader_next(&reader))) {
            listen_to(record);
        }
        if (step == READER_PAUSED) {
            ck_assert(reader_resume(&reader));
        } else {
            struct iovec targets[2];
            unsigned count = reader_targets(&reader, targets);
            size_t bytes = 1 + random_below(random, most), done = 0;
            bytes = bytes < script_bytes - given ? bytes : script_bytes - given;
            for (unsigned i = 0; i < count && done < bytes; i++) {
                size_t part = bytes - done < targets[i].iov_len ? bytes - done : targets[i].iov_len;
                memcpy(targets[i].iov_base, script + given + done, part);
                done += part;
                buffered += i + 1 == count ? part : 0;
            }
            reader_received(&reader, done);
            given += done;
        }
        step = reader_advance(&reader);
    }
    const struct inbox_record *record;
    while ((record = reader_next(&reader))) {
        listen_to(record);
    }
    return step;
}

static void *open_reader(void)
{
    void *memory = aligned_alloc(64, (reader_memory_bytes(ROUTES) + 63) / 64 * 64);
    ck_assert_ptr_nonnull(memory);
    reader_place(&reader, memory, ROUTES, 0);
    return memory;
}

static void begin(void)
{
    reader_reset(&reader, true);
    memset(arena, 0, sizeof arena);
    claimed[0] = 0;
    heard[0] = '\0';
}

START_TEST(any_cut_gives_the_same_messages)
{
    static const size_t most[] = {1 << 20, 100000, 70000, 3000, 100, 7};
    struct random random = random_open(1);
    void *memory = open_reader();
    write_script(&random);
    for (size_t i = 0; i < sizeof most / sizeof most[0]; i++) {
        begin();
        ck_assert_int_eq(play(most[i], &random), READER_RECEIVE);
        ck_assert_str_eq(heard, "HELLO hello\nREQUEST request\nlanded DATA \nlanded DATA \n"
                                "landed DATA \nlanded DATA \nCANCEL \nPING \n");
        ck_assert_mem_eq(arena, expected, 2 * CHUNK + 100);
        ck_assert_mem_eq(arena + 3 * CHUNK, expected + 3 * CHUNK, CHUNK);
        ck_assert(reader_between_messages(&reader));
    }
    free(memory);
}
END_TEST

static enum reader_step play_only(void)
{
    struct random random = random_open(2);
    begin();
    return play(1 << 20, &random);
}

static void start_script(bool hello)
{
    memcpy(script, frame_sp_hello, FRAME_SP_HELLO_BYTES);
    script_bytes = FRAME_SP_HELLO_BYTES;
    if (hello) {
        say(FRAME_HELLO, 0, 0, 0, "hello", 5, NULL, 0);
    }
}

static void expect_error(const char *field)
{
    struct fas_error error;
    ck_assert_int_eq(play_only(), READER_FAILED);
    reader_error(&reader, &error);
    ck_assert_int_eq(error.status, FAS_INVALID_ARGUMENT);
    ck_assert_str_eq(error.field, field);
}

START_TEST(broken_protocol_names_its_field)
{
    void *memory = open_reader();
    memcpy(script, "GET / HTTP/1.1\r\n", 16);
    script_bytes = 16;
    expect_error("hello");
    start_script(false); /* no HELLO */
    say(FRAME_PING, 1, 0, 0, NULL, 0, NULL, 0);
    expect_error("frame.type");
    start_script(true); /* HELLO twice */
    say(FRAME_HELLO, 0, 0, 0, "again", 5, NULL, 0);
    expect_error("frame.type");
    start_script(true); /* DATA for nobody */
    say(FRAME_DATA, 5, FAS_Q, 0, NULL, 0, expected, CHUNK);
    expect_error("frame.request");
    start_script(true); /* an id twice */
    say(FRAME_REQUEST, 7, 0, 0, "request", 7, (int32_t[]){0, 5, 8}, 12);
    say(FRAME_REQUEST, 7, 0, 0, "request", 7, (int32_t[]){0, 5, 8}, 12);
    expect_error("frame.request");
    free(memory);
}
END_TEST

START_TEST(data_beyond_the_credit_is_the_end)
{
    void *memory = open_reader();
    start_script(true);
    say(FRAME_REQUEST, 7, 0, 0, "request", 7, (int32_t[]){0, 5, 8}, 12);
    for (uint32_t i = 0; i < 9; i++) { /* refused ones count too */
        say(FRAME_DATA, 7, FAS_K, i, NULL, 0, expected, CHUNK);
    }
    expect_error("credit");
    free(memory);
}
END_TEST

START_TEST(data_of_a_finished_request_is_thrown_away)
{
    void *memory = open_reader();
    struct random random = random_open(3);
    start_script(true);
    say(FRAME_REQUEST, 7, 0, 0, "request", 7, (int32_t[]){0, 5, 8}, 12);
    begin();
    play(1 << 20, &random);
    ck_assert(!reader_finish(&reader, 7));
    script_bytes = 0;
    say(FRAME_DATA, 7, FAS_Q, 0, NULL, 0, expected, CHUNK);
    say(FRAME_PING, 1, 0, 0, NULL, 0, NULL, 0);
    ck_assert_int_eq(play(1000, &random), READER_RECEIVE);
    ck_assert_str_eq(heard, "HELLO hello\nREQUEST request\ndropped DATA \nPING \n");
    ck_assert_int_eq(arena[0], 0);
    free(memory);
}
END_TEST

START_TEST(bulk_is_received_in_its_place)
{
    void *memory = open_reader();
    struct random random = random_open(5);
    start_script(true);
    say(FRAME_REQUEST, 7, 0, 0, "request", 7, (int32_t[]){0, 5, 8}, 12);
    begin();
    play(1 << 20, &random);
    script_bytes = 0;
    say(FRAME_DATA, 7, FAS_Q, 0, NULL, 0, expected, CHUNK);
    say(FRAME_DATA, 7, FAS_Q, 1, NULL, 0, expected + CHUNK, CHUNK);
    say(FRAME_DATA, 7, FAS_V, 0, NULL, 0, expected + 3 * CHUNK, CHUNK);
    buffered = 0;
    ck_assert_int_eq(play(1 << 20, &random), READER_RECEIVE);
    ck_assert_uint_le(buffered, READER_FIRST_BYTES + 2 * READER_BEHIND_BULK_BYTES);
    ck_assert_mem_eq(arena, expected, 2 * CHUNK);
    free(memory);
}
END_TEST

START_TEST(a_request_that_ends_while_its_data_lands_says_so)
{
    void *memory = open_reader();
    struct random random = random_open(4);
    start_script(true);
    say(FRAME_REQUEST, 7, 0, 0, "request", 7, (int32_t[]){0, 5, 8}, 12);
    say(FRAME_DATA, 7, FAS_Q, 0, NULL, 0, expected, CHUNK);
    size_t whole = script_bytes;
    script_bytes -= 100;
    begin();
    play(1 << 20, &random);
    ck_assert(reader_finish(&reader, 7));
    memmove(script, script + script_bytes, 100);
    script_bytes = whole - script_bytes;
    play(1 << 20, &random);
    ck_assert_ptr_nonnull(strstr(heard, "landed DATA"));
    ck_assert(!reader_finish(&reader, 7));
    free(memory);
}
END_TEST

int main(void)
{
    static const struct check_row rows[] = {
        {"cuts", &any_cut_gives_the_same_messages},
        {"protocol", &broken_protocol_names_its_field},
        {"credit", &data_beyond_the_credit_is_the_end},
        {"finished", &data_of_a_finished_request_is_thrown_away},
        {"bulk", &bulk_is_received_in_its_place},
        {"landing", &a_request_that_ends_while_its_data_lands_says_so},
    };
    return check_main("reader", rows, sizeof rows / sizeof rows[0]);
}
