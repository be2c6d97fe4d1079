/* alloc.c: the wrapped allocator; see alloc.h. */
#include "tests/support/alloc.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

void *__real_malloc(size_t bytes);
void *__real_calloc(size_t count, size_t bytes);
void *__real_realloc(void *old, size_t bytes);
void __real_free(void *old);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);
void *__wrap_realloc(void *old, size_t bytes);
void __wrap_free(void *old);

static atomic_long countdown = -1; /* allocations until the failing one */
static atomic_bool for_ever, failed;
static atomic_long live, made;

void alloc_fail_at(long n)
{
    for_ever = false;
    failed = false;
    made = 0;
    countdown = n;
}

void alloc_fail_from(long n)
{
    alloc_fail_at(n);
    for_ever = true;
}

int alloc_failed(void)
{
    return failed;
}

long alloc_live(void)
{
    return live;
}

long alloc_count(void)
{
    return made;
}

/* Whether this allocation is to fail. */
static bool fails(void)
{
    made++;
    if (failed && for_ever) {
        return true;
    }
    if (countdown < 0 || countdown-- > 0) {
        return false;
    }
    failed = true;
    return true;
}

static void *counted(void *memory)
{
    live += memory != NULL;
    return memory;
}

void *__wrap_malloc(size_t bytes)
{
    return fails() ? NULL : counted(__real_malloc(bytes));
}

void *__wrap_calloc(size_t count, size_t bytes)
{
    return fails() ? NULL : counted(__real_calloc(count, bytes));
}

void *__wrap_realloc(void *old, size_t bytes)
{
    if (fails()) {
        return NULL;
    }
    void *memory = __real_realloc(old, bytes);
    live += old == NULL && memory != NULL;
    return memory;
}

void __wrap_free(void *old)
{
    live -= old != NULL;
    __real_free(old);
}
