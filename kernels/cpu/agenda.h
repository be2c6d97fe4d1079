/*
 * agenda.h: the items of a launch in the order in which threads take them: longest sequence first,
 * and within a sequence as the pass wishes. It lives in the launch's scratch.
 */
#ifndef ATTN_CPU_AGENDA_H
#define ATTN_CPU_AGENDA_H

#include "kernels/attn.h"

struct agenda_entry {
    int32_t sequence;
    int64_t first_item; /* of this sequence, among all items */
    int64_t first_row;  /* live q rows of the sequences before: where its scratch begins */
    int64_t first_tile; /* tiles of live q rows of the sequences before */
};

struct agenda {
    const struct attn_launch *launch;
    struct agenda_entry *entries; /* launch->sequence_count */
    int64_t items;
};

/* How many items a sequence has. */
typedef int64_t agenda_items(const struct attn_shape *shape, const struct attn_sequence *sequence);

size_t agenda_bytes(const struct attn_launch *launch);

/* memory: agenda_bytes, 8-byte aligned. */
struct agenda agenda_make(const struct attn_launch *launch, void *memory, agenda_items *items_of);

/* How much work an item is, in any unit. */
typedef int64_t agenda_work(const struct agenda *agenda, int64_t item);

/* Items [first, end) of the launch's part: cut where the work before is the part's share. */
struct agenda_part {
    int64_t first, end;
};
struct agenda_part agenda_part(const struct agenda *agenda, agenda_work *work_of);

/* Whose item it is; item - first_item is its number within the sequence. */
const struct agenda_entry *agenda_find(const struct agenda *agenda, int64_t item);

#endif
