/* slot.c: a free list, and the one-way rule. */
#include "server/slot.h"

#include <assert.h>
#include <stdlib.h>

bool slots_open(struct slots *slots, uint32_t count)
{
    *slots = (struct slots){.count = count, .free_count = count};
    slots->entries = calloc(count, sizeof *slots->entries);
    if (!slots->entries) {
        return false;
    }
    for (uint32_t i = 0; i < count; i++) {
        slots->entries[i].index = i;
        slots->entries[i].next = i + 1 < count ? i + 1 : SLOT_NONE;
    }
    return true;
}

struct slot *slot_take(struct slots *slots)
{
    if (slots->first_free == SLOT_NONE) {
        return NULL;
    }
    struct slot *slot = &slots->entries[slots->first_free];
    assert(slot->state == SLOT_FREE);
    slots->first_free = slot->next;
    slots->free_count--;
    *slot = (struct slot){.index = slot->index,
                          .state = SLOT_RECEIVING,
                          .next = SLOT_NONE,
                          .previous = SLOT_NONE,
                          .hold = SLOT_NONE,
                          .batch_index = -1};
    return slot;
}

void slot_move(struct slot *slot, enum slot_state to)
{
    assert(slot->state != SLOT_FREE && to > slot->state);
    slot->state = to;
}

bool slot_sent(const struct slot *slot)
{
    uint64_t sends = 0;
    for (uint32_t lane = 0; lane < FAS_LANES_MAX; lane++) {
        sends |= slot->sends[lane];
    }
    return sends == 0;
}

bool slot_has_event_out(const struct slot *slot)
{
    return slot->events.waiting || slot->events.recording;
}

bool slot_idle(const struct slot *slot)
{
    return slot->state == SLOT_REPLYING && !slot->landing && slot_sent(slot) && slot->copies == 0 &&
           !slot_has_event_out(slot) && (slot->answered || !slot->connection);
}

void slot_give(struct slots *slots, struct slot *slot)
{
    assert(slot_idle(slot) && slot->span.bytes == 0 && slot->notes.bytes == 0);
    assert(!slot->fetches.first);
    slot->state = SLOT_FREE;
    slot->next = slots->first_free;
    slots->first_free = slot->index;
    slots->free_count++;
}

const char *slot_state_name(enum slot_state state)
{
    static const char *const names[] = {"free", "receiving", "queued", "running", "replying"};
    return names[state];
}
