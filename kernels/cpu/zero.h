/* zero.h: zeros for rows that nothing is computed for, padding above all. */
#ifndef ATTN_CPU_ZERO_H
#define ATTN_CPU_ZERO_H

#include <stddef.h>

/* From here on a run goes past the caches. */
#define ZERO_PAST_CACHES_BYTES ((size_t)32 << 10)

/* memset(at, 0, bytes); at of any alignment. Other threads see it as they see any store. */
void zero(void *at, size_t bytes);

#endif
