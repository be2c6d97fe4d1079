/*
 * queue.c: lists of indices in fixed tables. The tables are sized so that nothing here can fail: a
 * waiting request needs one entry, and at most one lane and one class of its own.
 */
#include "server/queue.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/*
 * What serving costs besides the FLOPs of attention, in FLOPs of a CPU core (about 1e11 a second):
 * 10 us a request, 10 ns a row for its copies. Without it requests that compute nothing, such as
 * those without keys, would be free.
 */
#define QUEUE_REQUEST_FLOPS 1e6
#define QUEUE_TOKEN_FLOPS 1e3

static const struct queue_list empty_list = {QUEUE_NONE, QUEUE_NONE};

static void list_push(struct queue_list *list, struct queue_link *links, uint32_t i)
{
    links[i] = (struct queue_link){.prev = list->tail, .next = QUEUE_NONE};
    if (list->tail == QUEUE_NONE) {
        list->head = i;
    } else {
        links[list->tail].next = i;
    }
    list->tail = i;
}

static void list_remove(struct queue_list *list, struct queue_link *links, uint32_t i)
{
    struct queue_link link = links[i];
    if (link.prev == QUEUE_NONE) {
        list->head = link.next;
    } else {
        links[link.prev].next = link.next;
    }
    if (link.next == QUEUE_NONE) {
        list->tail = link.prev;
    } else {
        links[link.next].prev = link.prev;
    }
}

static uint32_t list_pop(struct queue_list *list, struct queue_link *links)
{
    uint32_t i = list->head;
    assert(i != QUEUE_NONE && "tables have room for every slot");
    list_remove(list, links, i);
    return i;
}

bool queue_open(struct queue *queue, uint32_t slots, uint32_t principals)
{
    *queue = (struct queue){.slots = slots,
                            .principals = principals,
                            .free_lanes = empty_list,
                            .free_classes = empty_list,
                            .busy_classes = empty_list,
                            .busy_shares = empty_list,
                            .first_deadline_us = UINT64_MAX};
    queue->entries = calloc(slots, sizeof(queue->entries[0]));
    queue->lanes = calloc(slots, sizeof(queue->lanes[0]));
    queue->classes = calloc(slots, sizeof(queue->classes[0]));
    queue->shares = calloc(principals, sizeof(queue->shares[0]));
    queue->entry_links = calloc(slots, sizeof(queue->entry_links[0]));
    queue->lane_links = calloc(slots, sizeof(queue->lane_links[0]));
    queue->lane_peer_links = calloc(slots, sizeof(queue->lane_peer_links[0]));
    queue->class_links = calloc(slots, sizeof(queue->class_links[0]));
    queue->share_links = calloc(principals, sizeof(queue->share_links[0]));
    if (!queue->entries || !queue->lanes || !queue->classes || !queue->shares ||
        !queue->entry_links || !queue->lane_links || !queue->lane_peer_links ||
        !queue->class_links || !queue->share_links) {
        queue_close(queue);
        return false;
    }
    for (uint32_t i = 0; i < slots; i++) {
        list_push(&queue->free_lanes, queue->lane_links, i);
        list_push(&queue->free_classes, queue->class_links, i);
    }
    for (uint32_t i = 0; i < principals; i++) {
        queue->shares[i] = (struct queue_share){.weight = 1, .lanes = empty_list};
    }
    return true;
}

void queue_close(struct queue *queue)
{
    free(queue->entries);
    free(queue->lanes);
    free(queue->classes);
    free(queue->shares);
    free(queue->entry_links);
    free(queue->lane_links);
    free(queue->lane_peer_links);
    free(queue->class_links);
    free(queue->share_links);
    *queue = (struct queue){0};
}

void queue_weigh(struct queue *queue, uint32_t principal, double weight, bool fresh)
{
    assert(principal < queue->principals && weight > 0);
    struct queue_share *share = &queue->shares[principal];
    share->weight = weight;
    if (fresh) {
        assert(share->lanes.head == QUEUE_NONE && "the one before left nothing waiting");
        share->virtual_flops = queue->clock;
    }
}

/* The class of that shape, made if nobody of it waits. */
static uint32_t class_find(struct queue *queue, const struct attn_shape *shape)
{
    uint32_t i = queue->busy_classes.head;
    while (i != QUEUE_NONE && !attn_shape_equal(&queue->classes[i].shape, shape)) {
        i = queue->class_links[i].next;
    }
    if (i == QUEUE_NONE) {
        i = list_pop(&queue->free_classes, queue->class_links);
        queue->classes[i] = (struct queue_class){.shape = *shape, .lanes = empty_list};
        list_push(&queue->busy_classes, queue->class_links, i);
    }
    return i;
}

/* The principal's lane of that class, made if need be; a first lane makes the principal busy. */
static uint32_t lane_find(struct queue *queue, uint32_t principal, uint32_t class)
{
    struct queue_share *share = &queue->shares[principal];
    uint32_t i = share->lanes.head;
    if (i == QUEUE_NONE) {
        list_push(&queue->busy_shares, queue->share_links, principal);
        if (share->virtual_flops < queue->clock) {
            share->virtual_flops = queue->clock;
        }
    }
    while (i != QUEUE_NONE && queue->lanes[i].class != class) {
        i = queue->lane_links[i].next;
    }
    if (i == QUEUE_NONE) {
        i = list_pop(&queue->free_lanes, queue->lane_links);
        queue->lanes[i] = (struct queue_lane){.principal = principal,
                                              .class = class,
                                              .waiting = {empty_list, empty_list, empty_list}};
        list_push(&share->lanes, queue->lane_links, i);
        list_push(&queue->classes[class].lanes, queue->lane_peer_links, i);
    }
    return i;
}

void queue_push(struct queue *queue, uint32_t slot, const struct queue_item *item)
{
    assert(slot < queue->slots && !queue->entries[slot].waiting);
    assert(item->principal < queue->principals && item->priority < QUEUE_PRIORITIES);
    uint32_t class = class_find(queue, &item->shape);
    uint32_t lane = lane_find(queue, item->principal, class);
    queue->entries[slot] = (struct queue_entry){.waiting = true, .lane = lane, .item = *item};
    list_push(&queue->lanes[lane].waiting[item->priority], queue->entry_links, slot);
    queue->lanes[lane].count++;
    cost_add(&queue->classes[class].cost, &item->cost);
    cost_add(&queue->waiting, &item->cost);
    if (item->deadline_us != 0 && item->deadline_us < queue->first_deadline_us) {
        queue->first_deadline_us = item->deadline_us;
    }
}

bool queue_holds(const struct queue *queue, uint32_t slot)
{
    return slot < queue->slots && queue->entries[slot].waiting;
}

const struct queue_item *queue_item(const struct queue *queue, uint32_t slot)
{
    assert(queue_holds(queue, slot));
    return &queue->entries[slot].item;
}

/* Undoes lane_find and class_find when the lane's last request went. */
static void lane_close(struct queue *queue, uint32_t i)
{
    struct queue_lane *lane = &queue->lanes[i];
    struct queue_share *share = &queue->shares[lane->principal];
    struct queue_class *class = &queue->classes[lane->class];
    list_remove(&share->lanes, queue->lane_links, i);
    if (share->lanes.head == QUEUE_NONE) {
        list_remove(&queue->busy_shares, queue->share_links, lane->principal);
    }
    list_remove(&class->lanes, queue->lane_peer_links, i);
    if (class->lanes.head == QUEUE_NONE) {
        list_remove(&queue->busy_classes, queue->class_links, lane->class);
        list_push(&queue->free_classes, queue->class_links, lane->class);
    }
    list_push(&queue->free_lanes, queue->lane_links, i);
}

bool queue_remove(struct queue *queue, uint32_t slot)
{
    if (!queue_holds(queue, slot)) {
        return false;
    }
    struct queue_entry *entry = &queue->entries[slot];
    struct queue_lane *lane = &queue->lanes[entry->lane];
    entry->waiting = false;
    list_remove(&lane->waiting[entry->item.priority], queue->entry_links, slot);
    cost_sub(&queue->classes[lane->class].cost, &entry->item.cost);
    cost_sub(&queue->waiting, &entry->item.cost);
    lane->count--;
    if (lane->count == 0) {
        lane_close(queue, entry->lane);
    }
    return true;
}

uint32_t queue_expire(struct queue *queue, uint64_t now_us)
{
    if (now_us < queue->first_deadline_us) {
        return QUEUE_NONE;
    }
    uint64_t first = UINT64_MAX;
    for (uint32_t slot = 0; slot < queue->slots; slot++) {
        const struct queue_entry *entry = &queue->entries[slot];
        uint64_t deadline_us = entry->item.deadline_us;
        if (!entry->waiting || deadline_us == 0) {
            continue;
        }
        if (deadline_us <= now_us) {
            queue_remove(queue, slot);
            return slot;
        }
        first = deadline_us < first ? deadline_us : first;
    }
    queue->first_deadline_us = first;
    return QUEUE_NONE;
}

void queue_take(struct queue *queue, uint32_t slot)
{
    const struct queue_item *item = queue_item(queue, slot);
    struct queue_share *share = &queue->shares[item->principal];
    double flops = item->cost.flops + QUEUE_REQUEST_FLOPS * item->cost.requests +
                   QUEUE_TOKEN_FLOPS * (double)item->cost.tokens;
    share->virtual_flops += flops / share->weight;
    queue_remove(queue, slot);
}
