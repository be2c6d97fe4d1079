/*
 * queue and sched: shares by FLOPs, nobody starves, a batch is what is there. Time is a number, so
 * minutes of many clients are simulated in milliseconds.
 */
#include "server/sched.h"

#include <math.h>
#include <stdio.h>

#include "tests/support/check_main.h"
#include "tests/support/random.h"

enum { SLOTS = 256, PRINCIPALS = 16 };

static struct queue queue;
static uint32_t picked[SLOTS];
static struct sched_batch batch = {.slots = picked};
static struct sched_limits limits;

static void setup(void)
{
    ck_assert(queue_open(&queue, SLOTS, PRINCIPALS));
    limits = (struct sched_limits){
        .ageing_us = 1000000,
        .batch = {.requests = SLOTS, .sequences = 65536, .tokens = 1u << 20, .flops = 1e12}};
}

/* Classes differ by their scale. */
static struct queue_item item(uint32_t principal, int class, double flops)
{
    return (struct queue_item){
        .principal = principal,
        .shape = {.hq = 1, .softmax_scale = 1 + (float)class},
        .cost = {.requests = 1, .sequences = 1, .tokens = 100, .flops = flops}};
}

static void push_at(uint32_t slot, struct queue_item it, uint64_t now_us)
{
    it.arrival_us = now_us;
    queue_push(&queue, slot, &it);
}

static uint32_t pick(uint64_t now_us)
{
    sched_pick(&queue, &limits, now_us, &batch);
    return batch.count;
}

START_TEST(a_batch_is_what_is_there)
{
    setup();
    ck_assert_uint_eq(pick(0), 0);
    ck_assert_uint_eq(batch.next_us, SCHED_NEVER);
    for (uint32_t i = 0; i < 5; i++) {
        push_at(i, item(i, 0, 1e6), 0);
    }
    ck_assert_uint_eq(queue.waiting.requests, 5);
    ck_assert_uint_eq(pick(1), 5);
    ck_assert_double_eq(batch.cost.flops, 5e6);
    ck_assert_uint_eq(batch.cost.tokens, 500);
    ck_assert_uint_eq(queue.waiting.requests, 0);
    queue_close(&queue);
}
END_TEST

START_TEST(only_equal_shapes_share_a_batch)
{
    setup();
    push_at(0, item(0, 0, 1e6), 0);
    push_at(1, item(1, 1, 1e6), 1);
    push_at(2, item(2, 0, 1e6), 2);
    ck_assert_uint_eq(pick(3), 2);
    ck_assert_uint_eq(picked[0], 0);
    ck_assert_uint_eq(picked[1], 2);
    ck_assert_uint_eq(pick(3), 1);
    ck_assert_uint_eq(picked[0], 1);
    queue_close(&queue);
}
END_TEST

START_TEST(each_cap_closes_a_batch)
{
    const struct cost caps[] = {
        {.requests = 3, .sequences = 99, .tokens = 9999, .flops = 1e12},
        {.requests = 99, .sequences = 3, .tokens = 9999, .flops = 1e12},
        {.requests = 99, .sequences = 99, .tokens = 399, .flops = 1e12},
        {.requests = 99, .sequences = 99, .tokens = 9999, .flops = 3.5e6},
    };
    for (size_t c = 0; c < sizeof(caps) / sizeof(caps[0]); c++) {
        setup();
        limits.batch = caps[c];
        for (uint32_t i = 0; i < 10; i++) {
            push_at(i, item(0, 0, 1e6), i);
        }
        ck_assert_uint_eq(pick(10), 3);
        queue_close(&queue);
    }
}
END_TEST

START_TEST(a_request_over_the_caps_runs_alone)
{
    setup();
    limits.batch.flops = 1e6;
    push_at(0, item(0, 0, 5e6), 0);
    push_at(1, item(1, 0, 1e5), 1);
    ck_assert_uint_eq(pick(2), 1);
    ck_assert_uint_eq(picked[0], 0);
    ck_assert_uint_eq(pick(2), 1);
    queue_close(&queue);
}
END_TEST

START_TEST(what_does_not_fit_is_passed_over_and_leads_next)
{
    setup();
    limits.batch.flops = 10e6;
    push_at(0, item(0, 0, 6e6), 0);
    push_at(1, item(1, 0, 6e6), 1);
    push_at(2, item(2, 0, 1e6), 2);
    ck_assert_uint_eq(pick(3), 2);
    ck_assert_uint_eq(picked[1], 2);
    push_at(3, item(2, 0, 1e6), 3);
    ck_assert_uint_ge(pick(4), 1);
    ck_assert_uint_eq(picked[0], 1);
    queue_close(&queue);
}
END_TEST

START_TEST(priority_orders_a_principals_own_requests_only)
{
    setup();
    limits.batch.requests = 1;
    struct queue_item high = item(0, 0, 1e6);
    struct queue_item low = high;
    high.priority = QUEUE_HIGH;
    low.priority = QUEUE_LOW;
    push_at(0, low, 0);
    push_at(1, item(0, 0, 1e6), 1);
    push_at(2, high, 2);
    push_at(3, item(1, 0, 1e6), 3);
    uint32_t order[4];
    for (int i = 0; i < 4; i++) {
        ck_assert_uint_eq(pick(4), 1);
        order[i] = picked[0];
    }
    ck_assert_uint_eq(order[0], 2); /* principal 0: high */
    ck_assert_uint_eq(order[1], 3); /* principal 1's turn, though not high */
    ck_assert_uint_eq(order[2], 1);
    ck_assert_uint_eq(order[3], 0);
    queue_close(&queue);
}
END_TEST

START_TEST(waiting_raises_priority)
{
    setup();
    limits.batch.requests = 1;
    struct queue_item low = item(0, 0, 1e6);
    low.priority = QUEUE_LOW;
    push_at(0, low, 0);
    struct queue_item high = item(0, 0, 1e6);
    high.priority = QUEUE_HIGH;
    for (uint32_t i = 1; i < 100; i++) {
        push_at(i, high, 30000u * i);
        pick(30000u * i);
        if (picked[0] == 0) {
            ck_assert_uint_ge(30000u * i, 2 * limits.ageing_us);
            queue_close(&queue);
            return;
        }
    }
    ck_abort_msg("low was never served");
}
END_TEST

START_TEST(a_delay_holds_its_class_and_no_other)
{
    setup();
    limits.delay_us = 100;
    limits.batch.requests = 2;
    push_at(0, item(0, 0, 1e6), 1000);
    ck_assert_uint_eq(pick(1000), 0);
    ck_assert_uint_eq(batch.next_us, 1100);
    push_at(1, item(1, 1, 1e6), 1010);
    push_at(2, item(2, 1, 1e6), 1020);
    ck_assert_uint_eq(pick(1020), 2); /* class 1 is full */
    ck_assert_uint_eq(picked[0], 1);
    ck_assert_uint_eq(pick(1099), 0);
    ck_assert_uint_eq(pick(1100), 1);
    ck_assert_uint_eq(picked[0], 0);
    queue_close(&queue);
}
END_TEST

START_TEST(deadlines_and_cancels_leave_the_queue)
{
    setup();
    struct queue_item it = item(0, 0, 1e6);
    it.deadline_us = 500;
    push_at(0, it, 0);
    it.deadline_us = 300;
    push_at(1, it, 0);
    push_at(2, item(0, 0, 1e6), 0);
    ck_assert_uint_eq(sched_next_us(&queue, &limits), 0);
    ck_assert_uint_eq(queue_expire(&queue, 299), QUEUE_NONE);
    ck_assert_uint_eq(queue_expire(&queue, 300), 1);
    ck_assert_uint_eq(queue_expire(&queue, 300), QUEUE_NONE);
    ck_assert(queue_remove(&queue, 0));
    ck_assert(!queue_remove(&queue, 0));
    ck_assert(!queue_holds(&queue, 1));
    ck_assert_uint_eq(pick(400), 1);
    ck_assert_uint_eq(picked[0], 2);
    ck_assert_uint_eq(queue.waiting.requests, 0);
    ck_assert_double_eq(queue.waiting.flops, 0);
    queue_close(&queue);
}
END_TEST

START_TEST(absence_saves_nothing_up)
{
    setup();
    limits.batch.requests = 1;
    for (uint32_t i = 0; i < 100; i++) { /* principal 0 works alone for long */
        push_at(i, item(0, 0, 1e9), i);
        ck_assert_uint_eq(pick(i), 1);
    }
    for (uint32_t i = 0; i < 20; i++) { /* then both are busy */
        push_at(i, item(0, 0, 1e9), 200);
        push_at(100 + i, item(1, 0, 1e9), 200);
    }
    int own[2] = {0};
    for (int i = 0; i < 20; i++) {
        pick(300);
        own[picked[0] >= 100]++;
    }
    ck_assert_int_le(abs(own[0] - own[1]), 1);
    queue_close(&queue);
}
END_TEST

/* A client of the simulation: keeps `depth` requests waiting, or sends one now and then. */
struct client {
    double weight, flops_min, flops_max;
    uint32_t depth;
    int classes;
    double served;
    uint64_t worst_wait_us;
};

struct simulation {
    struct client clients[PRINCIPALS];
    uint32_t count;
    uint32_t owner[SLOTS];
    uint32_t free_slots[SLOTS], free_count;
    uint32_t waiting[PRINCIPALS];
    uint64_t now_us;
    struct random random;
};

static void simulation_fill(struct simulation *sim)
{
    for (uint32_t c = 0; c < sim->count; c++) {
        struct client *client = &sim->clients[c];
        while (sim->waiting[c] < client->depth) {
            double span = log(client->flops_max / client->flops_min);
            double flops = client->flops_min * exp(span * random_unit(&sim->random));
            int class = (int)random_below(&sim->random, (uint64_t)client->classes);
            uint32_t slot = sim->free_slots[--sim->free_count];
            struct queue_item it = item(c, class, flops);
            it.priority = (enum queue_priority)random_below(&sim->random, QUEUE_PRIORITIES);
            push_at(slot, it, sim->now_us);
            sim->owner[slot] = c;
            sim->waiting[c]++;
        }
    }
}

/* Runs a device of 1e12 FLOP/s until it has done `batches` batches. */
static void simulation_run(struct simulation *sim, int batches)
{
    sim->free_count = 0;
    for (uint32_t i = 0; i < SLOTS; i++) {
        sim->free_slots[sim->free_count++] = i;
    }
    for (uint32_t c = 0; c < sim->count; c++) {
        queue_weigh(&queue, c, sim->clients[c].weight, true);
    }
    for (int b = 0; b < batches; b++) {
        simulation_fill(sim);
        ck_assert_uint_gt(pick(sim->now_us), 0);
        for (uint32_t i = 0; i < batch.count; i++) {
            const struct queue_item *it = &queue.entries[picked[i]].item;
            struct client *client = &sim->clients[sim->owner[picked[i]]];
            uint64_t wait_us = sim->now_us - it->arrival_us;
            client->served += it->cost.flops;
            client->worst_wait_us =
                wait_us > client->worst_wait_us ? wait_us : client->worst_wait_us;
            sim->waiting[sim->owner[picked[i]]]--;
            sim->free_slots[sim->free_count++] = picked[i];
        }
        sim->now_us += (uint64_t)(batch.cost.flops / 1e6) + 10;
    }
}

START_TEST(busy_clients_get_flops_by_weight)
{
    static const double weights[] = {1, 1, 1, 1, 2, 0.5};
    for (uint64_t seed = 1; seed <= 10; seed++) {
        setup();
        limits.batch.flops = 5e10;
        struct simulation sim = {.count = 6, .random = random_open(seed)};
        for (uint32_t c = 0; c < sim.count; c++) {
            /* From many small requests to few large ones, in one to three classes. */
            sim.clients[c] = (struct client){.weight = weights[c],
                                             .flops_min = 1e8 * (1 << c),
                                             .flops_max = 1e10,
                                             .depth = 32,
                                             .classes = 1 + (int)(c % 3)};
        }
        simulation_run(&sim, 20000);
        double unit = 0;
        for (uint32_t c = 0; c < sim.count; c++) {
            unit += sim.clients[c].served / 6.5;
        }
        for (uint32_t c = 0; c < sim.count; c++) {
            double share = sim.clients[c].served / (unit * weights[c]);
            ck_assert_msg(fabs(share - 1) < 0.03, "seed %d client %u: %.3f of its share", (int)seed,
                          c, share);
        }
        queue_close(&queue);
    }
}
END_TEST

START_TEST(a_flood_does_not_slow_a_light_client)
{
    setup();
    limits.batch.flops = 2e10; /* 20 ms */
    struct simulation sim = {.count = 3, .random = random_open(11)};
    sim.clients[0] = (struct client){
        .weight = 1, .flops_min = 1e10, .flops_max = 2e10, .depth = 200, .classes = 4};
    sim.clients[1] =
        (struct client){.weight = 1, .flops_min = 1e7, .flops_max = 1e8, .depth = 1, .classes = 1};
    sim.clients[2] =
        (struct client){.weight = 1, .flops_min = 1e9, .flops_max = 1e10, .depth = 2, .classes = 9};
    simulation_run(&sim, 5000);
    /* Behind the batch that runs and at most one in between. */
    ck_assert_uint_le(sim.clients[1].worst_wait_us, 50000);
    ck_assert_double_gt(sim.clients[0].served, 0);
    queue_close(&queue);
}
END_TEST

START_TEST(many_connections_of_one_principal_gain_nothing)
{
    setup();
    limits.batch.flops = 1e10;
    struct simulation sim = {.count = 2, .random = random_open(12)};
    sim.clients[0] = (struct client){
        .weight = 1, .flops_min = 1e9, .flops_max = 1e9, .depth = 240, .classes = 1};
    sim.clients[1] =
        (struct client){.weight = 1, .flops_min = 1e9, .flops_max = 1e9, .depth = 12, .classes = 1};
    simulation_run(&sim, 2000);
    ck_assert_double_lt(fabs(sim.clients[0].served / sim.clients[1].served - 1), 0.03);
    queue_close(&queue);
}
END_TEST

START_TEST(any_order_of_operations_keeps_the_books)
{
    struct random random = random_open(13);
    for (int round = 0; round < 20; round++) {
        setup();
        limits.batch =
            (struct cost){.requests = 8, .sequences = 8, .tokens = 1u << 20, .flops = 1e9};
        limits.delay_us = random_below(&random, 2) * 50;
        bool waits[SLOTS] = {false};
        uint32_t count = 0;
        for (uint64_t now = 1; now < 4000; now++) {
            uint32_t slot = (uint32_t)random_below(&random, SLOTS);
            switch (random_below(&random, 8)) {
            case 0:
                sched_pick(&queue, &limits, now, &batch);
                for (uint32_t i = 0; i < batch.count; i++) {
                    ck_assert(waits[picked[i]]);
                    waits[picked[i]] = false;
                    ck_assert(attn_shape_equal(&batch.shape, &queue.entries[picked[i]].item.shape));
                }
                count -= batch.count;
                break;
            case 1:
                ck_assert(queue_remove(&queue, slot) == waits[slot]);
                count -= waits[slot];
                waits[slot] = false;
                break;
            case 2:
                slot = queue_expire(&queue, now);
                if (slot != QUEUE_NONE) {
                    ck_assert(waits[slot]);
                    waits[slot] = false;
                    count--;
                }
                break;
            default:
                if (!waits[slot]) {
                    struct queue_item it = item((uint32_t)random_below(&random, PRINCIPALS),
                                                (int)random_below(&random, 30), 1e8);
                    it.priority = (enum queue_priority)random_below(&random, QUEUE_PRIORITIES);
                    it.deadline_us = random_below(&random, 3) ? 0 : now + random_below(&random, 99);
                    push_at(slot, it, now);
                    waits[slot] = true;
                    count++;
                }
            }
            ck_assert_uint_eq(queue.waiting.requests, count);
        }
        queue_close(&queue);
    }
}
END_TEST

static const struct check_row tests[] = {
    {"what is there", &a_batch_is_what_is_there},
    {"classes", &only_equal_shapes_share_a_batch},
    {"caps", &each_cap_closes_a_batch},
    {"over the caps", &a_request_over_the_caps_runs_alone},
    {"passed over", &what_does_not_fit_is_passed_over_and_leads_next},
    {"priority", &priority_orders_a_principals_own_requests_only},
    {"ageing", &waiting_raises_priority},
    {"delay", &a_delay_holds_its_class_and_no_other},
    {"deadline", &deadlines_and_cancels_leave_the_queue},
    {"absence", &absence_saves_nothing_up},
    {"shares", &busy_clients_get_flops_by_weight},
    {"flood", &a_flood_does_not_slow_a_light_client},
    {"connections", &many_connections_of_one_principal_gain_nothing},
    {"books", &any_order_of_operations_keeps_the_books},
};

CHECK_MAIN("sched", tests)
