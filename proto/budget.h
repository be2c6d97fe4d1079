/*
 * budget.h: memory for decoding one message of a peer nobody trusts.
 *
 * A few KiB lie in the budget itself (on the decoder's stack), so that an ordinary header costs no
 * malloc; what does not fit there comes from malloc, and all of it together stays within the bytes
 * granted at open. Freeing gives nothing back to the grant: it bounds work as well as memory.
 * The signatures are those of protobuf-c's allocator. One owner, one thread, one message.
 */
#ifndef FAS_BUDGET_H
#define FAS_BUDGET_H

#include <stdalign.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A REQUEST with every field and six tensor entries takes 1.5 KiB (tests/proto/test_wire.c). */
#define BUDGET_NEAR_BYTES 4096u

struct budget {
    size_t left;      /* of the grant */
    size_t near_used; /* of near */
    bool overdrawn;   /* refused because the grant was spent */
    bool starved;     /* refused because malloc failed */
    alignas(max_align_t) uint8_t near[BUDGET_NEAR_BYTES];
};

void budget_open(struct budget *budget, size_t bytes);

/* opened: a struct budget. NULL when the grant is spent or malloc fails; the flags say which. */
void *budget_alloc(void *opened, size_t bytes);

/* Of what budget_alloc returned, or NULL. */
void budget_free(void *opened, void *memory);

#endif
