/* inbox.c: records one behind another in two buffers that change roles. */
#include "server/inbox.h"

#include <assert.h>
#include <string.h>

static uint32_t record_bytes(uint32_t header_bytes)
{
    return ((uint32_t)sizeof(struct inbox_record) + header_bytes + 7u) & ~7u;
}

bool inbox_room(const struct inbox *inbox, uint32_t header_bytes)
{
    return inbox->filled_bytes + record_bytes(header_bytes) <= INBOX_BYTES;
}

void inbox_push(struct inbox *inbox, const struct inbox_record *record, const uint8_t *header)
{
    assert(inbox_room(inbox, record->frame.header_bytes));
    uint8_t *at = inbox->filling + inbox->filled_bytes;
    struct inbox_record pushed = *record;
    pushed.header = at + sizeof pushed;
    memcpy(at, &pushed, sizeof pushed);
    if (record->frame.header_bytes > 0) {
        memcpy(at + sizeof pushed, header, record->frame.header_bytes);
    }
    inbox->filled_bytes += record_bytes(record->frame.header_bytes);
}

void inbox_swap(struct inbox *inbox)
{
    if (inbox->read_bytes < inbox->reading_bytes) {
        return;
    }
    uint8_t *emptied = inbox->reading;
    inbox->reading = inbox->filling;
    inbox->reading_bytes = inbox->filled_bytes;
    inbox->read_bytes = 0;
    inbox->filling = emptied;
    inbox->filled_bytes = 0;
}

const struct inbox_record *inbox_next(struct inbox *inbox)
{
    if (inbox->read_bytes == inbox->reading_bytes) {
        return NULL;
    }
    const struct inbox_record *record =
        (const struct inbox_record *)(const void *)(inbox->reading + inbox->read_bytes);
    inbox->read_bytes += record_bytes(record->frame.header_bytes);
    return record;
}
