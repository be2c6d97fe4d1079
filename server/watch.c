/* watch.c: a table in no order, walked round and round. */
#include "server/watch.h"

#include <assert.h>
#include <stdlib.h>

bool watch_open(struct watches *watches, uint32_t room)
{
    *watches = (struct watches){.room = room, .entries = calloc(room, sizeof *watches->entries)};
    pthread_mutex_init(&watches->lock, NULL);
    return watches->entries != NULL;
}

void watch_add(struct watches *watches, void *event, uint64_t tag)
{
    pthread_mutex_lock(&watches->lock);
    assert(watches->count < watches->room);
    watches->entries[watches->count++] = (struct watch){.event = event, .tag = tag};
    pthread_mutex_unlock(&watches->lock);
}

void watch_resign(struct watches *watches, uint64_t tag)
{
    pthread_mutex_lock(&watches->lock);
    for (uint32_t i = 0; i < watches->count; i++) {
        watches->entries[i].resigned |= watches->entries[i].tag == tag;
    }
    pthread_mutex_unlock(&watches->lock);
}

bool watch_any(struct watches *watches)
{
    pthread_mutex_lock(&watches->lock);
    bool any = watches->count > 0;
    pthread_mutex_unlock(&watches->lock);
    return any;
}

/* Without the lock while it asks: only this thread removes entries, and others add at the end. */
static enum watch_answer ask(struct watches *watches, uint32_t index, watch_query *query,
                             uint64_t *tag)
{
    pthread_mutex_lock(&watches->lock);
    const struct watch watch = watches->entries[index];
    pthread_mutex_unlock(&watches->lock);
    *tag = watch.tag;
    return watch.resigned ? WATCH_BROKEN : query(watch.event);
}

static void remove_at(struct watches *watches, uint32_t index)
{
    pthread_mutex_lock(&watches->lock);
    watches->entries[index] = watches->entries[--watches->count];
    pthread_mutex_unlock(&watches->lock);
}

uint32_t watch_ask(struct watches *watches, watch_query *query, struct watch_end *ends)
{
    pthread_mutex_lock(&watches->lock);
    uint32_t left = watches->count < WATCH_ASKED ? watches->count : WATCH_ASKED;
    uint32_t count = watches->count, ended = 0;
    pthread_mutex_unlock(&watches->lock);
    for (; left > 0; left--) {
        uint64_t tag;
        watches->next = watches->next < count ? watches->next : 0;
        enum watch_answer answer = ask(watches, watches->next, query, &tag);
        if (answer == WATCH_PENDING) {
            watches->next++;
        } else { /* the last one takes its place, and is next */
            remove_at(watches, watches->next);
            count--;
            ends[ended++] = (struct watch_end){tag, answer == WATCH_BROKEN};
        }
    }
    return ended;
}
