/*
 * sched.c: leader, class, followers. Each step is a walk over busy principals or lanes, of which
 * there are few; no step depends on how many requests wait behind the heads of the lists.
 */
#include "server/sched.h"

#include <assert.h>
#include <stdbool.h>

/* A request that may be next, and what it is compared by. */
struct candidate {
    uint32_t slot; /* QUEUE_NONE: none */
    double virtual_flops;
    uint32_t level; /* 0 goes first */
    uint64_t arrival_us;
};

/* A new request's level by its priority. */
static const uint32_t levels[QUEUE_PRIORITIES] = {
    [QUEUE_HIGH] = 0, [QUEUE_NORMAL] = 1, [QUEUE_LOW] = 2};

/* Waiting ageing_us raises a request by one level, so that low does not mean never. */
static uint32_t level_at(const struct queue_item *item, uint64_t ageing_us, uint64_t now_us)
{
    uint32_t level = levels[item->priority];
    uint64_t waited_us = now_us > item->arrival_us ? now_us - item->arrival_us : 0;
    uint64_t risen = ageing_us == 0 ? 0 : waited_us / ageing_us;
    return risen >= level ? 0 : level - (uint32_t)risen;
}

/* Inside a lane or share: level, then age. */
static bool goes_first(const struct candidate *a, const struct candidate *b)
{
    if (b->slot == QUEUE_NONE || a->slot == QUEUE_NONE) {
        return a->slot != QUEUE_NONE;
    }
    return a->level != b->level ? a->level < b->level : a->arrival_us < b->arrival_us;
}

/* Between shares: furthest behind, then age. */
static bool is_behind(const struct candidate *a, const struct candidate *b)
{
    if (b->slot == QUEUE_NONE || a->slot == QUEUE_NONE) {
        return a->slot != QUEUE_NONE;
    }
    return a->virtual_flops != b->virtual_flops ? a->virtual_flops < b->virtual_flops
                                                : a->arrival_us < b->arrival_us;
}

/* The lane's best request: the oldest of each priority compete. */
static struct candidate best_of_lane(const struct queue *queue, uint32_t lane, uint64_t ageing_us,
                                     uint64_t now_us)
{
    struct candidate best = {.slot = QUEUE_NONE};
    for (int p = 0; p < QUEUE_PRIORITIES; p++) {
        uint32_t slot = queue->lanes[lane].waiting[p].head;
        if (slot == QUEUE_NONE) {
            continue;
        }
        const struct queue_item *item = &queue->entries[slot].item;
        struct candidate it = {.slot = slot,
                               .virtual_flops = queue->shares[item->principal].virtual_flops,
                               .level = level_at(item, ageing_us, now_us),
                               .arrival_us = item->arrival_us};
        best = goes_first(&it, &best) ? it : best;
    }
    return best;
}

/* When the class's oldest request has waited delay_us. */
static uint64_t delay_ends_us(const struct queue *queue, const struct queue_class *class,
                              uint64_t delay_us)
{
    uint64_t oldest_us = UINT64_MAX;
    for (uint32_t i = class->lanes.head; i != QUEUE_NONE; i = queue->lane_peer_links[i].next) {
        for (int p = 0; p < QUEUE_PRIORITIES; p++) {
            uint32_t slot = queue->lanes[i].waiting[p].head;
            if (slot != QUEUE_NONE && queue->entries[slot].item.arrival_us < oldest_us) {
                oldest_us = queue->entries[slot].item.arrival_us;
            }
        }
    }
    return oldest_us + delay_us;
}

static bool is_full(const struct cost *cost, const struct cost *caps)
{
    return cost->requests >= caps->requests || cost->sequences >= caps->sequences ||
           cost->tokens >= caps->tokens || cost->flops >= caps->flops;
}

static bool is_ready(const struct queue *queue, uint32_t index, const struct sched_limits *limits,
                     uint64_t now_us)
{
    const struct queue_class *class = &queue->classes[index];
    return limits->delay_us == 0 || is_full(&class->cost, &limits->batch) ||
           delay_ends_us(queue, class, limits->delay_us) <= now_us;
}

static struct candidate find_leader(const struct queue *queue, const struct sched_limits *limits,
                                    uint64_t now_us)
{
    struct candidate leader = {.slot = QUEUE_NONE};
    for (uint32_t s = queue->busy_shares.head; s != QUEUE_NONE; s = queue->share_links[s].next) {
        struct candidate own = {.slot = QUEUE_NONE};
        for (uint32_t l = queue->shares[s].lanes.head; l != QUEUE_NONE;
             l = queue->lane_links[l].next) {
            struct candidate it = best_of_lane(queue, l, limits->ageing_us, now_us);
            if (goes_first(&it, &own) && is_ready(queue, queue->lanes[l].class, limits, now_us)) {
                own = it;
            }
        }
        leader = is_behind(&own, &leader) ? own : leader;
    }
    return leader;
}

/* The lane of the class whose principal is furthest behind, of those not passed over in this pick.
 */
static struct candidate find_follower(const struct queue *queue, uint32_t class,
                                      const struct sched_limits *limits, uint64_t now_us)
{
    struct candidate follower = {.slot = QUEUE_NONE};
    for (uint32_t l = queue->classes[class].lanes.head; l != QUEUE_NONE;
         l = queue->lane_peer_links[l].next) {
        if (queue->lanes[l].passed == queue->picks) {
            continue;
        }
        struct candidate it = best_of_lane(queue, l, limits->ageing_us, now_us);
        follower = is_behind(&it, &follower) ? it : follower;
    }
    return follower;
}

static bool fits(const struct cost *sum, const struct cost *part, const struct cost *caps)
{
    return sum->requests + part->requests <= caps->requests &&
           sum->sequences + part->sequences <= caps->sequences &&
           sum->tokens + part->tokens <= caps->tokens && sum->flops + part->flops <= caps->flops;
}

static void join(struct queue *queue, uint32_t slot, struct sched_batch *batch)
{
    cost_add(&batch->cost, &queue_item(queue, slot)->cost);
    batch->slots[batch->count++] = slot;
    queue_take(queue, slot);
}

void sched_pick(struct queue *queue, const struct sched_limits *limits, uint64_t now_us,
                struct sched_batch *batch)
{
    assert(limits->batch.requests > 0);
    batch->count = 0;
    batch->cost = (struct cost){0};
    struct candidate leader = find_leader(queue, limits, now_us);
    if (leader.slot == QUEUE_NONE) {
        batch->next_us = sched_next_us(queue, limits);
        return;
    }
    if (leader.virtual_flops > queue->clock) {
        queue->clock = leader.virtual_flops;
    }
    uint32_t class = queue->lanes[queue->entries[leader.slot].lane].class;
    batch->shape = queue->classes[class].shape;
    batch->next_us = now_us;
    queue->picks++;
    join(queue, leader.slot, batch);

    /* The class is gone with its last request; its number is not given out before the next push. */
    while (queue->classes[class].lanes.head != QUEUE_NONE &&
           !is_full(&batch->cost, &limits->batch)) {
        struct candidate next = find_follower(queue, class, limits, now_us);
        if (next.slot == QUEUE_NONE) {
            break;
        }
        if (fits(&batch->cost, &queue_item(queue, next.slot)->cost, &limits->batch)) {
            join(queue, next.slot, batch);
        } else {
            queue->lanes[queue->entries[next.slot].lane].passed = queue->picks;
        }
    }
}

uint64_t sched_next_us(const struct queue *queue, const struct sched_limits *limits)
{
    uint64_t next_us = queue->first_deadline_us;
    for (uint32_t c = queue->busy_classes.head; c != QUEUE_NONE; c = queue->class_links[c].next) {
        uint64_t end_us = delay_ends_us(queue, &queue->classes[c], limits->delay_us);
        next_us = end_us < next_us ? end_us : next_us;
    }
    return next_us;
}
