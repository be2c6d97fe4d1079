/*
 * alloc.h: memory that runs out on purpose. Link `test_alloc` and the program's malloc, calloc,
 * realloc and free go through here (ld --wrap): the test says which allocation fails, and sees what
 * was not given back. Only code linked into the program is wrapped, not shared libraries.
 *
 * Debian's Check is linked statically: its asserts allocate through here too. So take readings, and
 * end the failing with alloc_fail_at(-1), before asserting anything.
 */
#ifndef TESTS_ALLOC_H
#define TESTS_ALLOC_H

/* The n-th allocation from now (0: the next) fails, once; -1: none does. */
void alloc_fail_at(long n);

/* Every allocation fails from the n-th on, as when memory is really gone. */
void alloc_fail_from(long n);

/* Whether an allocation failed since the last alloc_fail_*. */
int alloc_failed(void);

/* Allocations made and not freed by now; allocations made since the last alloc_fail_*. */
long alloc_live(void);
long alloc_count(void);

#endif
