/*
 * cpu.c: the context of the CPU: its threads and each thread's own memory, all of it allocated
 * here, so that a launch allocates nothing.
 */
#include <stdlib.h>
#include <string.h>

#include "kernels/attn.h"
#include "kernels/cpu/tile.h"

enum { ALIGNMENT = 64 };

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

static void give_each(float **slots, size_t count, size_t floats, float **next)
{
    for (size_t i = 0; i < count; i++) {
        slots[i] = *next;
        *next += floats;
    }
}

static bool worker_open(struct worker *w)
{
    size_t rows = (size_t)TILE_ROWS_MAX * ATTN_HEAD_DIM_MAX;
    size_t keys = (size_t)TILE_KEYS_MAX * ATTN_HEAD_DIM_MAX;
    size_t scores = (size_t)TILE_ROWS_MAX * TILE_KEYS_MAX;
    size_t floats =
        COUNT_OF(w->rows) * rows + COUNT_OF(w->keys) * keys + COUNT_OF(w->scores) * scores;
    float *next = w->memory = aligned_alloc(ALIGNMENT, floats * sizeof(float));
    if (!next) {
        return false;
    }
    give_each(w->rows, COUNT_OF(w->rows), rows, &next);
    give_each(w->keys, COUNT_OF(w->keys), keys, &next);
    give_each(w->scores, COUNT_OF(w->scores), scores, &next);
    return true;
}

struct attn_context *attn_cpu_open(int threads)
{
    if (threads < 1 || !blas_open()) {
        return NULL;
    }
    struct attn_context *context =
        calloc(1, sizeof *context + (size_t)threads * sizeof context->workers[0]);
    if (!context) {
        return NULL;
    }
    if (!turn_room_open(&context->turns)) {
        free(context);
        return NULL;
    }
    context->vector = vector_best();
    context->worker_count = threads;
    for (int i = 0; i < threads; i++) {
        if (!worker_open(&context->workers[i])) {
            attn_cpu_close(context);
            return NULL;
        }
    }
    context->pool = pool_open(threads);
    if (!context->pool) {
        attn_cpu_close(context);
        return NULL;
    }
    return context;
}

void attn_cpu_close(struct attn_context *context)
{
    if (!context) {
        return;
    }
    pool_close(context->pool);
    turn_room_close(&context->turns);
    for (int i = 0; i < context->worker_count; i++) {
        free(context->workers[i].memory);
    }
    free(context);
}
