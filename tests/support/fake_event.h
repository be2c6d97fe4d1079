/*
 * fake_event.h: what stands for a CUDA event between processes: a memfd of this, made by
 * fake_cuda.c, opened by device_far.c. Recording it anew counts up; it has come to pass when what
 * was recorded last is over. Never recorded, it has.
 */
#ifndef TESTS_FAKE_EVENT_H
#define TESTS_FAKE_EVENT_H

#include <stdatomic.h>
#include <stdbool.h>

struct fake_event {
    atomic_ullong recorded, over;
};

static inline unsigned long long fake_event_record(struct fake_event *event)
{
    return atomic_fetch_add(&event->recorded, 1) + 1;
}

/* The work before that record is over. */
static inline void fake_event_end(struct fake_event *event, unsigned long long number)
{
    unsigned long long over = atomic_load(&event->over);
    while (over < number && !atomic_compare_exchange_weak(&event->over, &over, number)) {
    }
}

static inline bool fake_event_is_over(struct fake_event *event)
{
    return atomic_load(&event->over) >= atomic_load(&event->recorded);
}

#endif
