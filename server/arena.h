/*
 * arena.h: who has which part of one fixed block of memory (a device's, or the host's).
 *
 * Pure bookkeeping in offsets: the block itself is never touched, so the same code serves memory
 * the host can not reach. Two-level segregated lists (Masmano et al., TLSF, ECRTS 2004): taking and
 * giving cost a few bit operations and, at worst, a walk of one size class; free neighbours always
 * merge. All tables are allocated by open; afterwards nothing is.
 *
 * Spans are multiples of ARENA_ALIGN, at multiples of it. Owner: the loop thread.
 */
#ifndef SERVER_ARENA_H
#define SERVER_ARENA_H

#include <stdbool.h>
#include <stdint.h>

/* TMA and vector loads need 128; scratch of kernels 256. */
#define ARENA_ALIGN UINT64_C(256)

enum arena_status {
    ARENA_OK,
    ARENA_FULL, /* not now: no free piece is large enough, or all spans are in use */
    ARENA_NEVER /* not even when empty */
};

/* What one taker holds. Zero: nothing. */
struct arena_span {
    uint64_t offset;
    uint64_t bytes; /* rounded up to ARENA_ALIGN */
    uint32_t block; /* the arena's own */
};

#define ARENA_CLASSES 40u    /* powers of two from ARENA_ALIGN: up to 2^48 bytes */
#define ARENA_SUBCLASSES 16u /* per power of two: a class is within 1/16 of its sizes */

struct arena_block;

struct arena {
    uint64_t bytes; /* the block's size, rounded down to ARENA_ALIGN */
    uint64_t used_bytes, high_water_bytes;
    uint32_t spans; /* taken now */

    /* private */
    struct arena_block *blocks;
    uint32_t block_count, unused;
    uint64_t class_bits;
    uint32_t subclass_bits[ARENA_CLASSES];
    uint32_t heads[ARENA_CLASSES][ARENA_SUBCLASSES];
};

/* Keeps book of a block of `bytes`, of at most spans_max spans at once. False: no memory for it. */
bool arena_open(struct arena *arena, uint64_t bytes, uint32_t spans_max);
void arena_close(struct arena *arena);

/* Takes `bytes` (0 takes nothing and is OK). Succeeds whenever some free piece is large enough. */
enum arena_status arena_take(struct arena *arena, uint64_t bytes, struct arena_span *span);

/* Gives a span back and zeroes *span; a zero span is fine. Anything else not taken is a bug. */
void arena_give(struct arena *arena, struct arena_span *span);

/* The largest `bytes` arena_take would grant now. */
uint64_t arena_largest_free(const struct arena *arena);

#endif
