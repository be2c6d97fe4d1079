/*
 * arena.c: two-level segregated fit over offsets.
 *
 * Blocks tile the whole range, each free or taken, linked to the blocks before and after it; two
 * free neighbours never stand side by side. Free blocks are also in the list of their size class.
 * Sizes are counted in units of ARENA_ALIGN. Class (f, s) holds sizes with highest bit f and the
 * next four bits s; for sizes under 16 units each size has its own class.
 */
#include "server/arena.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define NONE UINT32_MAX
#define SUBCLASS_LOG2 4u
static_assert(ARENA_SUBCLASSES == 1u << SUBCLASS_LOG2, "subclasses are the bits below the first");

struct arena_block {
    uint64_t first, units;  /* position and size */
    uint32_t before, after; /* neighbours in the range */
    uint32_t prev, next;    /* in the list of its class; next also links unused entries */
    bool taken;
};

struct size_class {
    uint32_t f, s;
};

/* The class whose list a free block of `units` is in. */
static struct size_class class_of(uint64_t units)
{
    if (units < ARENA_SUBCLASSES) {
        return (struct size_class){0, (uint32_t)units};
    }
    uint32_t top = 63u - (uint32_t)__builtin_clzll(units);
    return (struct size_class){top - SUBCLASS_LOG2 + 1u,
                               (uint32_t)(units >> (top - SUBCLASS_LOG2)) % ARENA_SUBCLASSES};
}

static void list_add(struct arena *arena, uint32_t index)
{
    struct arena_block *block = &arena->blocks[index];
    struct size_class c = class_of(block->units);
    uint32_t head = arena->heads[c.f][c.s];
    block->taken = false;
    block->prev = NONE;
    block->next = head;
    if (head != NONE) {
        arena->blocks[head].prev = index;
    }
    arena->heads[c.f][c.s] = index;
    arena->class_bits |= UINT64_C(1) << c.f;
    arena->subclass_bits[c.f] |= 1u << c.s;
}

static void list_remove(struct arena *arena, uint32_t index)
{
    struct arena_block *block = &arena->blocks[index];
    struct size_class c = class_of(block->units);
    if (block->next != NONE) {
        arena->blocks[block->next].prev = block->prev;
    }
    if (block->prev != NONE) {
        arena->blocks[block->prev].next = block->next;
        return;
    }
    arena->heads[c.f][c.s] = block->next;
    if (block->next == NONE) {
        arena->subclass_bits[c.f] &= ~(1u << c.s);
        if (arena->subclass_bits[c.f] == 0) {
            arena->class_bits &= ~(UINT64_C(1) << c.f);
        }
    }
}

static uint32_t entry_take(struct arena *arena)
{
    uint32_t index = arena->unused;
    if (index != NONE) {
        arena->unused = arena->blocks[index].next;
    }
    return index;
}

static void entry_give(struct arena *arena, uint32_t index)
{
    arena->blocks[index].next = arena->unused;
    arena->blocks[index].units = 0;
    arena->unused = index;
}

bool arena_open(struct arena *arena, uint64_t bytes, uint32_t spans_max)
{
    /* Taken spans can have a free one on each side. */
    uint64_t entries = 2u * (uint64_t)spans_max + 1u;
    memset(arena, 0, sizeof(*arena));
    memset(arena->heads, 0xff, sizeof(arena->heads));
    uint64_t units = bytes / ARENA_ALIGN;
    if (entries >= NONE || class_of(units).f >= ARENA_CLASSES) {
        return false;
    }
    arena->blocks = calloc(entries, sizeof(arena->blocks[0]));
    if (!arena->blocks) {
        return false;
    }
    arena->block_count = (uint32_t)entries;
    arena->bytes = units * ARENA_ALIGN;
    arena->unused = NONE;
    for (uint32_t i = arena->block_count; i-- > 0;) {
        entry_give(arena, i);
    }
    if (units > 0) {
        uint32_t whole = entry_take(arena);
        arena->blocks[whole] = (struct arena_block){.units = units, .before = NONE, .after = NONE};
        list_add(arena, whole);
    }
    return true;
}

void arena_close(struct arena *arena)
{
    free(arena->blocks);
    memset(arena, 0, sizeof(*arena));
}

/* The first block of the smallest class that lies wholly above c, or NONE. */
static uint32_t find_above(const struct arena *arena, struct size_class c)
{
    uint32_t subclasses = arena->subclass_bits[c.f] & ~((2u << c.s) - 1u);
    if (subclasses != 0) {
        return arena->heads[c.f][__builtin_ctz(subclasses)];
    }
    uint64_t classes = arena->class_bits & ~((UINT64_C(2) << c.f) - 1u);
    if (classes == 0) {
        return NONE;
    }
    uint32_t f = (uint32_t)__builtin_ctzll(classes);
    return arena->heads[f][__builtin_ctz(arena->subclass_bits[f])];
}

/* A free block of at least `units`. The request's own class first: it wastes least. */
static uint32_t find(const struct arena *arena, uint64_t units)
{
    struct size_class c = class_of(units);
    for (uint32_t i = arena->heads[c.f][c.s]; i != NONE; i = arena->blocks[i].next) {
        if (arena->blocks[i].units >= units) {
            return i;
        }
    }
    return find_above(arena, c);
}

/* Cuts what is over `units` off a block that is in no list. */
static void split(struct arena *arena, uint32_t index, uint64_t units)
{
    struct arena_block *block = &arena->blocks[index];
    if (block->units == units) {
        return;
    }
    uint32_t rest = entry_take(arena);
    assert(rest != NONE && "2 * spans + 1 entries tile any range");
    arena->blocks[rest] = (struct arena_block){.first = block->first + units,
                                               .units = block->units - units,
                                               .before = index,
                                               .after = block->after};
    if (block->after != NONE) {
        arena->blocks[block->after].before = rest;
    }
    block->after = rest;
    block->units = units;
    list_add(arena, rest);
}

enum arena_status arena_take(struct arena *arena, uint64_t bytes, struct arena_span *span)
{
    *span = (struct arena_span){0};
    if (bytes == 0) {
        return ARENA_OK;
    }
    if (bytes > arena->bytes) {
        return ARENA_NEVER;
    }
    uint64_t units = (bytes + ARENA_ALIGN - 1) / ARENA_ALIGN;
    uint32_t index = find(arena, units);
    if (index == NONE || arena->spans == (arena->block_count - 1) / 2) {
        return ARENA_FULL;
    }
    list_remove(arena, index);
    split(arena, index, units);
    arena->blocks[index].taken = true;
    *span = (struct arena_span){.offset = arena->blocks[index].first * ARENA_ALIGN,
                                .bytes = units * ARENA_ALIGN,
                                .block = index};
    arena->spans++;
    arena->used_bytes += span->bytes;
    if (arena->used_bytes > arena->high_water_bytes) {
        arena->high_water_bytes = arena->used_bytes;
    }
    return ARENA_OK;
}

/* Makes `right`, the free neighbour after `left`, part of it. Neither is in a list. */
static void merge(struct arena *arena, uint32_t left, uint32_t right)
{
    uint32_t after = arena->blocks[right].after;
    arena->blocks[left].units += arena->blocks[right].units;
    arena->blocks[left].after = after;
    if (after != NONE) {
        arena->blocks[after].before = left;
    }
    entry_give(arena, right);
}

void arena_give(struct arena *arena, struct arena_span *span)
{
    if (span->bytes == 0) {
        return;
    }
    uint32_t index = span->block;
    struct arena_block *block = &arena->blocks[index];
    assert(index < arena->block_count && block->taken &&
           block->first * ARENA_ALIGN == span->offset &&
           block->units * ARENA_ALIGN == span->bytes && "a span taken from this arena, once");
    arena->spans--;
    arena->used_bytes -= span->bytes;
    *span = (struct arena_span){0};

    uint32_t after = block->after;
    if (after != NONE && !arena->blocks[after].taken) {
        list_remove(arena, after);
        merge(arena, index, after);
    }
    uint32_t before = block->before;
    if (before != NONE && !arena->blocks[before].taken) {
        list_remove(arena, before);
        block->taken = false;
        merge(arena, before, index);
        index = before;
    }
    list_add(arena, index);
}

uint64_t arena_largest_free(const struct arena *arena)
{
    if (arena->class_bits == 0) {
        return 0;
    }
    uint32_t f = 63u - (uint32_t)__builtin_clzll(arena->class_bits);
    uint32_t s = 31u - (uint32_t)__builtin_clz(arena->subclass_bits[f]);
    uint64_t units = 0;
    for (uint32_t i = arena->heads[f][s]; i != NONE; i = arena->blocks[i].next) {
        units = arena->blocks[i].units > units ? arena->blocks[i].units : units;
    }
    return units * ARENA_ALIGN;
}
