/* A slot's one way, and when it may be given back. */
#include "server/slot.h"

#include <stdlib.h>

#include "tests/support/check_main.h"

START_TEST(slots_are_taken_and_given_back)
{
    struct slots slots;
    ck_assert(slots_open(&slots, 2));
    struct slot *a = slot_take(&slots), *b = slot_take(&slots);
    ck_assert(a && b && a != b);
    ck_assert_ptr_null(slot_take(&slots));
    slot_move(a, SLOT_REPLYING);
    slot_give(&slots, a);
    ck_assert_uint_eq(slots.free_count, 1);
    ck_assert_ptr_eq(slot_take(&slots), a);
    ck_assert_int_eq(a->state, SLOT_RECEIVING);
    free(slots.entries);
}
END_TEST

START_TEST(nothing_that_can_be_touched_is_idle)
{
    struct slots slots;
    ck_assert(slots_open(&slots, 1));
    struct slot *slot = slot_take(&slots);
    struct connection *peer = (struct connection *)(void *)slot; /* anybody */
    slot->connection = peer;
    ck_assert(!slot_idle(slot));
    slot_move(slot, SLOT_REPLYING);
    ck_assert(!slot_idle(slot)); /* not answered */
    slot->answered = true;
    ck_assert(slot_idle(slot));
    slot->sends[3] = 1;
    ck_assert(!slot_idle(slot));
    slot->sends[3] = 0;
    slot->landing = true;
    ck_assert(!slot_idle(slot));
    slot->landing = false;
    slot->answered = false;
    slot->connection = NULL; /* nobody to be answered */
    ck_assert(slot_idle(slot));
    free(slots.entries);
}
END_TEST

int main(void)
{
    static const struct check_row rows[] = {
        {"take", &slots_are_taken_and_given_back},
        {"idle", &nothing_that_can_be_touched_is_idle},
    };
    return check_main("slot", rows, sizeof rows / sizeof rows[0]);
}
