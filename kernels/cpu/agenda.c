/*
 * agenda.c: a counting sort of sequences by work (2^(1/8) steps, which is as fine as balance
 * needs), then running sums. O(sequences), no allocation; an item is found by binary search.
 */
#include "kernels/cpu/agenda.h"

#include <math.h>
#include <string.h>

#include "kernels/cpu/tile.h"

enum { STEPS_PER_OCTAVE = 8, BUCKETS = 100 * STEPS_PER_OCTAVE };

/* Bucket 0 holds the most work; 2^100 FLOPs are more than any launch has. */
static int bucket_of(const struct attn_shape *shape, const struct attn_sequence *s)
{
    double octaves = log2(1 + attn_flops(shape, s->q_len, s->k_len));
    return BUCKETS - 1 - (int)fmin(octaves * STEPS_PER_OCTAVE, BUCKETS - 1);
}

size_t agenda_bytes(const struct attn_launch *launch)
{
    return (size_t)launch->sequence_count * sizeof(struct agenda_entry);
}

static void sort_by_work(const struct attn_launch *launch, struct agenda_entry *entries)
{
    int32_t place[BUCKETS + 1] = {0};
    for (int32_t s = 0; s < launch->sequence_count; s++) {
        place[bucket_of(&launch->shape, &launch->sequences[s]) + 1]++;
    }
    for (int b = 0; b < BUCKETS; b++) {
        place[b + 1] += place[b];
    }
    for (int32_t s = 0; s < launch->sequence_count; s++) {
        entries[place[bucket_of(&launch->shape, &launch->sequences[s])]++].sequence = s;
    }
}

struct agenda agenda_make(const struct attn_launch *launch, void *memory, agenda_items *items_of)
{
    struct agenda agenda = {launch, memory, 0};
    sort_by_work(launch, agenda.entries);
    int64_t rows = 0;
    int64_t tiles = 0;
    for (int32_t e = 0; e < launch->sequence_count; e++) {
        struct agenda_entry *entry = &agenda.entries[e];
        const struct attn_sequence *s = &launch->sequences[entry->sequence];
        entry->first_item = agenda.items;
        entry->first_row = rows;
        entry->first_tile = tiles;
        agenda.items += items_of(&launch->shape, s);
        rows += s->q_len;
        tiles += tiles_of(s->q_len, TILE_ROWS);
    }
    return agenda;
}

const struct agenda_entry *agenda_find(const struct agenda *agenda, int64_t item)
{
    int32_t low = 0;
    int32_t high = agenda->launch->sequence_count;
    while (high - low > 1) {
        int32_t middle = low + (high - low) / 2;
        if (agenda->entries[middle].first_item <= item) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return &agenda->entries[low];
}

struct agenda_part agenda_part(const struct agenda *agenda, agenda_work *work_of)
{
    const struct attn_launch *launch = agenda->launch;
    struct agenda_part part = {0, agenda->items};
    if (launch->parts <= 1) {
        return part;
    }
    double total = 0;
    for (int64_t i = 0; i < agenda->items; i++) {
        total += (double)work_of(agenda, i);
    }
    double share = total / launch->parts;
    double before = 0;
    part.first = launch->part == 0 ? 0 : agenda->items;
    for (int64_t i = 0; i < agenda->items; i++) {
        if (part.first > i && before >= share * launch->part) {
            part.first = i;
        }
        if (launch->part + 1 < launch->parts && before >= share * (launch->part + 1)) {
            part.end = i;
            break;
        }
        before += (double)work_of(agenda, i);
    }
    return part;
}
