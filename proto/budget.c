/* budget.c: see budget.h. */
#include "proto/budget.h"

#include <stdlib.h>

void budget_open(struct budget *budget, size_t bytes)
{
    budget->left = bytes;
    budget->near_used = 0;
    budget->overdrawn = false;
    budget->starved = false;
}

static size_t rounded(size_t bytes)
{
    size_t step = alignof(max_align_t);
    return bytes > SIZE_MAX - step ? SIZE_MAX : (bytes + step - 1) / step * step;
}

void *budget_alloc(void *opened, size_t bytes)
{
    struct budget *budget = opened;
    size_t need = rounded(bytes == 0 ? 1 : bytes);
    if (need > budget->left) {
        budget->overdrawn = true;
        return NULL;
    }
    budget->left -= need;
    if (need <= BUDGET_NEAR_BYTES - budget->near_used) {
        void *memory = budget->near + budget->near_used;
        budget->near_used += need;
        return memory;
    }
    void *memory = malloc(need);
    budget->starved = budget->starved || memory == NULL;
    return memory;
}

void budget_free(void *opened, void *memory)
{
    const struct budget *budget = opened;
    uintptr_t at = (uintptr_t)memory, near = (uintptr_t)budget->near;
    bool is_near = at >= near && at < near + BUDGET_NEAR_BYTES;
    if (!is_near) {
        free(memory);
    }
}
