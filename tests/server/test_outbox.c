/*
 * While a send is under way its bytes stay as they are, whatever is put, composed or found to be
 * nothing meanwhile.
 */
#include <check.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "server/outbox.h"
#include "tests/support/check_main.h"

static struct outbox outbox;
static uint8_t *memory;

/* Puts a message of this id and composes a send of it; its bytes are copied to `kept`. */
static struct iovec compose(uint64_t id, uint8_t kept[64])
{
    outbox_put(&outbox, (struct frame){.type = FRAME_PONG, .request = id}, NULL, 0);
    outbox_begin(&outbox);
    outbox_end(&outbox);
    ck_assert_uint_eq(outbox.iov_count, 1);
    ck_assert_uint_le(outbox.iov[0].iov_len, 64);
    memcpy(kept, outbox.iov[0].iov_base, outbox.iov[0].iov_len);
    return outbox.iov[0];
}

static void compose_nothing(void)
{
    outbox_begin(&outbox);
    outbox_end(&outbox);
    ck_assert_uint_eq(outbox.iov_count, 0);
}

START_TEST(two_sends_under_way_are_left_alone)
{
    uint8_t first_kept[64], second_kept[64];
    memory = calloc(OUTBOX_BUFFERS, OUTBOX_BYTES);
    outbox_place(&outbox, memory);
    outbox_reset(&outbox, true);
    struct iovec second = {0};
    for (int nothings = 0; nothings < 5; nothings++) {
        struct iovec first = compose(1000 + (uint64_t)nothings, first_kept);
        for (int i = 0; i < nothings; i++) {
            compose_nothing();
        }
        second = compose(2000 + (uint64_t)nothings, second_kept);
        outbox_put(&outbox, (struct frame){.type = FRAME_PING, .request = 3}, NULL, 0);
        ck_assert_mem_eq(first.iov_base, first_kept, first.iov_len);
        ck_assert_mem_eq(second.iov_base, second_kept, second.iov_len);
        outbox_reset(&outbox, true);
    }
    free(memory);
}
END_TEST

START_TEST(a_descriptor_goes_with_its_message_or_is_closed)
{
    memory = calloc(OUTBOX_BUFFERS, OUTBOX_BYTES);
    outbox_place(&outbox, memory);
    outbox_reset(&outbox, true);
    int sent = dup(STDERR_FILENO), left = dup(STDERR_FILENO);
    outbox_put_fd(&outbox, (struct frame){.type = FRAME_OPENED, .request = 1}, NULL, 0, sent);
    outbox_begin(&outbox);
    outbox_end(&outbox);
    ck_assert_uint_eq(outbox.fd_count, 1);
    ck_assert_int_eq(outbox.fds[0], sent);
    outbox_put_fd(&outbox, (struct frame){.type = FRAME_OPENED, .request = 2}, NULL, 0, left);
    outbox_reset(&outbox, true);
    ck_assert_int_eq(fcntl(left, F_GETFD), -1);
    ck_assert_int_ge(fcntl(sent, F_GETFD), 0); /* the sender's */
    close(sent);
    free(memory);
}
END_TEST

START_TEST(there_is_room_for_so_many_descriptors)
{
    memory = calloc(OUTBOX_BUFFERS, OUTBOX_BYTES);
    outbox_place(&outbox, memory);
    outbox_reset(&outbox, true);
    for (unsigned i = 0; i < OUTBOX_FDS_MAX; i++) {
        ck_assert(outbox_room(&outbox, 0));
        outbox_put_fd(&outbox, (struct frame){.type = FRAME_OPENED, .request = 1}, NULL, 0,
                      dup(STDERR_FILENO));
    }
    ck_assert(!outbox_room(&outbox, 0));
    outbox_reset(&outbox, true);
    ck_assert(outbox_room(&outbox, 0));
    free(memory);
}
END_TEST

static const struct check_row rows[] = {
    {"two sends under way are left alone", &two_sends_under_way_are_left_alone},
    {"a descriptor goes with its message", &a_descriptor_goes_with_its_message_or_is_closed},
    {"room for descriptors", &there_is_room_for_so_many_descriptors},
};

CHECK_MAIN("outbox", rows)
