/*
 * executor.c: pick, lay out, launch; collect, account, launch the next slice. The order of
 * functions is the order in which a batch meets them.
 */
#include "server/executor.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "server/clock.h"
#include "server/event.h"
#include "server/intake.h"
#include "server/log.h"
#include "server/server.h"

/* Results that are copied leave after each slice, under the kernels of the next one; only those of
 * the last slice leave alone. 25 ms become 3: at the bus's 55 GB/s an output of 170 MB. */
#define COPIED_SLICES 8.0
/* A launch is late after so many times its estimate, which others on the device can make wrong; and
 * the daemon not ready after this part of launch-timeout. */
#define STALL_ESTIMATES 100.0
#define STALL_PART 10u

enum fas_status executor_open(struct executor *executor, uint32_t index, const char *device,
                              const struct config *config, uint32_t principals, device_wake *wake,
                              void *wake_context, struct fas_error *error)
{
    *executor = (struct executor){.index = index};
    enum fas_status status =
        device_open(&executor->device, device, config, wake, wake_context, error);
    if (status != FAS_OK) {
        return status;
    }
    rate_open(&executor->rate, executor->device.flops_per_us);
    uint32_t requests = config->batch_requests_max;
    executor->picked = calloc(requests, sizeof *executor->picked);
    executor->parts = calloc(requests, sizeof *executor->parts);
    executor->sets = calloc(requests, sizeof *executor->sets);
    bool opened =
        executor->picked && executor->parts && executor->sets &&
        arena_open(&executor->arena, executor->device.arena_bytes, config->slots + HOLDS_MAX) &&
        staging_open(&executor->staging, &executor->device, config) &&
        queue_open(&executor->queue, config->slots, principals);
    for (uint32_t i = 0; opened && i < executor->device.depth; i++) {
        opened = flight_open(&executor->flights[i], (int32_t)requests,
                             (int32_t)config->batch_sequences_max);
    }
    if (!opened) {
        return fas_fail(error, FAS_RESOURCE_EXHAUSTED, "slots", "no memory for tables of %s",
                        device);
    }
    log_info("device_open", log_str("device", executor->device.name),
             log_u64("arena_bytes", executor->device.arena_bytes),
             log_u64("scratch_bytes", executor->device.scratch_bytes),
             log_u64("staging_bytes",
                     executor->device.host_reaches_arena ? 0 : device_staging_bytes(config)));
    return FAS_OK;
}

static double busy_for_us(const struct executor *executor)
{
    return executor->flops_outstanding / executor->rate.flops_per_us;
}

static bool runs_sooner(const struct executor *a, const struct executor *b)
{
    return a->stalled != b->stalled ? b->stalled : busy_for_us(a) < busy_for_us(b);
}

struct executor *executor_choose(struct server *server)
{
    struct executor *best = NULL;
    for (uint32_t i = 0; i < server->executor_count; i++) {
        struct executor *executor = &server->executors[i];
        if (!executor->lost && (!best || runs_sooner(executor, best))) {
            best = executor;
        }
    }
    return best;
}

struct executor *executor_choose_near(struct server *server, struct executor *home, uint64_t bytes)
{
    struct executor *best = home->lost ? NULL : home;
    double best_us = home->stalled ? HUGE_VAL : busy_for_us(home);
    for (uint32_t i = 0; i < server->executor_count; i++) {
        struct executor *executor = &server->executors[i];
        const struct device *device = &executor->device;
        if (executor == home || executor->lost || executor->stalled ||
            device->ops != home->device.ops || device->peer_bytes_per_us == 0) {
            continue;
        }
        double us = busy_for_us(executor) + (double)bytes / device->peer_bytes_per_us;
        if (!best || us < best_us) {
            best = executor;
            best_us = us;
        }
    }
    return best;
}

void executor_enqueue(struct server *server, struct slot *slot, uint64_t now_us)
{
    struct executor *executor = &server->executors[slot->executor];
    const struct queue_item item = {
        .principal = slot->principal,
        .priority = (enum queue_priority)slot->request.wire.priority,
        .arrival_us = now_us,
        .deadline_us = slot->deadline_us,
        .shape = slot->request.shape,
        .cost = slot->request.cost,
    };
    slot->times.complete = now_us;
    slot_move(slot, SLOT_QUEUED);
    queue_push(&executor->queue, slot->index, &item);
}

/* ---- starting a batch ---- */

static void pick(struct server *server, struct executor *executor, uint64_t now_us,
                 uint64_t *next_us)
{
    const struct config *config = &server->config;
    double flops_max = config->batch_flops_max > 0
                           ? config->batch_flops_max
                           : executor->rate.flops_per_us * (double)config->batch_us;
    const struct sched_limits limits = {.delay_us = config->batch_delay_us,
                                        .ageing_us = config->ageing_us,
                                        .batch = {.requests = config->batch_requests_max,
                                                  .sequences = config->batch_sequences_max,
                                                  .tokens = config->batch_tokens_max,
                                                  .flops = flops_max}};
    struct sched_batch picked = {.slots = executor->picked};
    sched_pick(&executor->queue, &limits, now_us, &picked);
    *next_us = picked.count > 0 ? SCHED_NEVER : picked.next_us;
    executor->picked_count = picked.count;
    executor->laid = 0;
    executor->shape = picked.shape;
    for (uint32_t i = 0; i < picked.count; i++) {
        struct slot *slot = &server->slots.entries[executor->picked[i]];
        slot->times.picked = now_us;
        slot_move(slot, SLOT_RUNNING);
    }
}

static struct attn_set bind_slot(struct server *server, struct executor *executor,
                                 const struct slot *slot)
{
    uint8_t *arena = executor->device.arena;
    const struct hold *hold = slot->hold == SLOT_NONE ? NULL : &server->holds.entries[slot->hold];
    return request_bind(&slot->request, arena + slot->span.offset, hold ? &hold->request : NULL,
                        hold ? arena + hold->span.offset : NULL);
}

/* The next picked requests, as many as scratch and tile lists serve at once: a batch needs at most
 * the sum of what its requests do, and each alone fits (admission checked). */
static int32_t gather_parts(struct server *server, struct executor *executor)
{
    int32_t count = 0;
    uint64_t scratch_bytes = 0, plan_bytes = 0;
    executor->batch_cost = (struct cost){0};
    for (; executor->laid < executor->picked_count; executor->laid++) {
        struct slot *slot = &server->slots.entries[executor->picked[executor->laid]];
        if (slot->error.status != FAS_OK) {
            slot_move(slot, SLOT_REPLYING);
            intake_settle(server, slot);
            continue;
        }
        scratch_bytes += slot->request.scratch_bytes + ARENA_ALIGN;
        plan_bytes += slot->request.plan_bytes;
        if (count > 0 && (scratch_bytes > executor->device.scratch_bytes ||
                          plan_bytes > executor->device.plan_bytes)) {
            break;
        }
        executor->sets[count] = bind_slot(server, executor, slot);
        executor->parts[count] = (struct batch_part){.slot = slot->index,
                                                     .set = &executor->sets[count],
                                                     .sequences = slot->request.sequences,
                                                     .sequence_count = slot->request.sequence_count,
                                                     .flops = slot->request.cost.flops};
        cost_add(&executor->batch_cost, &slot->request.cost);
        count++;
    }
    return count;
}

static struct attn_dsink_sum dsink_sum(const struct executor *executor, const struct slot *slot)
{
    const struct request *request = &slot->request;
    uint8_t *base = executor->device.arena + slot->span.offset;
    return (struct attn_dsink_sum){
        .per_sequence = (const float *)(const void *)(base + request->layout.dsink_rows_offset),
        .sequences = request->sequence_count,
        .hq = request->shape.hq,
        .out = request_tensor(request, base, FAS_DSINK).data};
}

/* The sums over sequences of the requests that end with the next launch. */
static int32_t gather_sums(struct server *server, const struct executor *executor,
                           struct flight *flight)
{
    int32_t count = 0;
    for (int32_t i = 0; i < flight->batch.request_count; i++) {
        const struct batch_request *request = &flight->batch.requests[i];
        if (request->dropped || !flight_launch_ends(flight, i)) {
            continue;
        }
        const struct slot *slot = &server->slots.entries[request->slot];
        if (slot->request.outputs >> FAS_DSINK & 1) {
            flight->sums[flight->sum_count + count++] = dsink_sum(executor, slot);
        }
    }
    return count;
}

/* The done events of the requests that end with the next launch. */
static int32_t gather_records(struct server *server, const struct executor *executor,
                              struct flight *flight)
{
    int32_t count = 0;
    for (int32_t i = 0; i < flight->batch.request_count; i++) {
        const struct batch_request *request = &flight->batch.requests[i];
        if (!request->dropped && flight_launch_ends(flight, i) &&
            event_record_with_launch(server, &server->slots.entries[request->slot], executor,
                                     &flight->records[flight->record_count + count])) {
            count++;
        }
    }
    return count;
}

static void launch_step(struct server *server, struct executor *executor, struct flight *flight)
{
    int32_t sums = gather_sums(server, executor, flight);
    int32_t records = gather_records(server, executor, flight);
    struct device_launch launch = flight_launch(flight, &executor->device, sums, records);
    executor->launch_since_us = executor->launches++ == 0 ? clock_us() : executor->launch_since_us;
    executor->device.ops->launch(&executor->device, &launch, flight->batch.id);
}

/* Whether results of the picked requests leave by copy. */
static bool any_copied(const struct server *server, const struct executor *executor, int32_t count)
{
    bool any = false;
    for (int32_t i = 0; i < count && !executor->device.host_reaches_arena; i++) {
        const struct request *request = &server->slots.entries[executor->parts[i].slot].request;
        any |= (request->outputs & (request->travelling | request->copied)) != 0;
    }
    return any;
}

static void lay_out(struct server *server, struct executor *executor, struct flight *flight,
                    int32_t count)
{
    struct batch *batch = &flight->batch;
    const struct cost *cost = &executor->batch_cost;
    double part_flops = executor->rate.flops_per_us * (double)server->config.slice_us;
    bool copied = any_copied(server, executor, count);
    const struct batch_cut cut = {.slice_flops = copied ? part_flops / COPIED_SLICES : part_flops,
                                  .part_flops = part_flops};
    batch_layout(batch, ++executor->batches, &executor->shape, executor->parts, count, &cut);
    flight_begin(flight, server->slots.entries[batch->requests[0].slot].request.row);
    for (int32_t i = 0; i < batch->request_count; i++) {
        struct slot *slot = &server->slots.entries[batch->requests[i].slot];
        slot->batch_index = i;
        slot->batch = (struct slot_batch){.id = batch->id,
                                          .tokens = cost->tokens,
                                          .requests = cost->requests,
                                          .sequences = cost->sequences};
    }
    stats_add(&server->stats, STATS_BATCHES, 1);
    stats_record(&server->stats, STATS_BATCH_REQUESTS, cost->requests);
    stats_record(&server->stats, STATS_BATCH_TOKENS, cost->tokens);
}

/* The oldest flight is number 0. */
static struct flight *flight_at(struct executor *executor, uint32_t number)
{
    return &executor->flights[(executor->first_flight + number) % executor->device.depth];
}

/* The flight to launch from: the newest, or a new one; NULL: nothing is there. */
static struct flight *next_flight(struct server *server, struct executor *executor, uint64_t now_us,
                                  uint64_t *next_us)
{
    if (executor->flight_count > 0) {
        struct flight *newest = flight_at(executor, executor->flight_count - 1);
        if (!flight_all_launched(newest)) {
            return newest;
        }
    }
    for (;;) {
        if (executor->laid == executor->picked_count) {
            pick(server, executor, now_us, next_us);
            if (executor->picked_count == 0) {
                return NULL;
            }
        }
        int32_t count = gather_parts(server, executor);
        if (count > 0) { /* each flight has a launch with the device, which has room for more */
            struct flight *flight = flight_at(executor, executor->flight_count++);
            lay_out(server, executor, flight, count);
            return flight;
        }
    }
}

/* Requests whose deadline passed while they waited. */
static void expire(struct server *server, struct executor *executor, uint64_t now_us)
{
    uint32_t index;
    while ((index = queue_expire(&executor->queue, now_us)) != QUEUE_NONE) {
        struct slot *slot = &server->slots.entries[index];
        struct fas_error error;
        fas_fail(&error, FAS_DEADLINE_EXCEEDED, "deadline_us", "passed while waiting for %s",
                 executor->device.name);
        intake_end(server, slot, &error);
    }
}

uint64_t executor_start(struct server *server, struct executor *executor, uint64_t now_us)
{
    uint64_t next_us = SCHED_NEVER;
    expire(server, executor, now_us);
    while (executor->launches < executor->device.depth && !executor->lost) {
        struct flight *flight = next_flight(server, executor, now_us, &next_us);
        if (!flight) {
            break;
        }
        launch_step(server, executor, flight);
    }
    return next_us;
}

/* ---- a launch is done ---- */

static void measure(struct executor *executor, const struct device_completion *completion,
                    double flops)
{
    executor->flops_done += flops;
    rate_measure(&executor->rate, flops, completion->ended_us - completion->started_us);
}

static void finish(struct slot *slot, const struct device_completion *completion)
{
    slot->times.computed = completion->ended_us;
    slot->progress.all_computed = true;
    slot_move(slot, SLOT_REPLYING);
}

/* The sequences of a request that a finished slice completes. */
static void progress(struct server *server, struct slot *slot, const struct batch *batch,
                     int32_t slice, const struct device_completion *completion)
{
    int32_t first, count = batch_completed(batch, slice, slot->batch_index, &first);
    if (count > 0) {
        assert(first == slot->progress.computed);
        slot->progress.computed = first + count;
    }
    if (batch_ends(batch, slice, slot->batch_index)) {
        finish(slot, completion);
    }
    place_store(server, slot);
}

/* Whether any part of the request was in a slice. */
static bool took_part(const struct flight *flight, int32_t index)
{
    const struct batch_slice *slice = &flight->batch.slices[flight->done.slice];
    return index >= slice->first_request && index < slice->first_request + slice->request_count;
}

/* What a finished launch means for one request of its batch. */
static void account(struct server *server, struct executor *executor, struct flight *flight,
                    int32_t index, const struct device_completion *completion)
{
    struct slot *slot = &server->slots.entries[flight->batch.requests[index].slot];
    int32_t slice = flight_completes(flight);
    if (slot->state != SLOT_RUNNING || slot->executor != executor->index ||
        slot->batch_index != index || slot->batch.id != flight->batch.id) {
        return; /* over with an earlier launch, and perhaps somebody else's by now */
    }
    if (completion->failed || completion->refused) {
        struct fas_error error;
        fas_fail(&error, completion->failed ? FAS_DEVICE_FAULT : FAS_INTERNAL, "",
                 completion->failed ? "%s failed" : "%s refused the launch", executor->device.name);
        intake_end(server, slot, &error); /* if it has not ended before */
    }
    if (slot->error.status != FAS_OK) {
        if (flight_left(flight, index)) {
            slot_move(slot, SLOT_REPLYING);
            intake_settle(server, slot);
        }
        return;
    }
    if (took_part(flight, index)) {
        slot->batch.launches++;
        slot->times.started = slot->times.started ? slot->times.started : completion->started_us;
    }
    if (slice >= 0) {
        progress(server, slot, &flight->batch, slice, completion);
    }
}

static void launch_done(struct server *server, struct executor *executor,
                        const struct device_completion *completion)
{
    struct flight *flight = flight_at(executor, 0);
    assert(executor->launches > 0 && flight->batch.id == completion->tag);
    if (completion->refused) {
        log_warn("launch_refused", log_str("device", executor->device.name),
                 log_u64("batch", flight->batch.id));
    } else {
        measure(executor, completion, flight_step_flops(flight));
    }
    stats_add(&server->stats, STATS_SLICES, 1);
    stats_record(&server->stats, STATS_SLICE_US, completion->ended_us - completion->started_us);
    for (int32_t i = 0; i < flight->batch.request_count; i++) {
        account(server, executor, flight, i, completion);
    }
    executor->launches--;
    executor->launch_since_us = clock_us();
    flight_advance(flight);
    if (flight_all_done(flight)) {
        executor->first_flight = (executor->first_flight + 1) % executor->device.depth;
        executor->flight_count--;
    }
}

/* ---- one that does not end ---- */

bool executor_watch(struct server *server, struct executor *executor, uint64_t now_us)
{
    uint64_t timeout_us = server->config.launch_timeout_us;
    bool runs = executor->launches > 0 && !executor->lost && timeout_us > 0;
    uint64_t took_us =
        runs && now_us > executor->launch_since_us ? now_us - executor->launch_since_us : 0;
    double estimate_us =
        runs ? flight_step_flops(flight_at(executor, 0)) / executor->rate.flops_per_us : 0;
    bool late = (double)took_us > STALL_ESTIMATES * estimate_us;
    bool stalled = late && took_us > timeout_us / STALL_PART;
    if (stalled != executor->stalled) {
        executor->stalled = stalled;
        log_warn(stalled ? "device_stalled" : "device_resumed",
                 log_str("device", executor->device.name), log_u64("launch_us", took_us),
                 log_f64("estimate_us", estimate_us));
    }
    if (late && took_us > timeout_us) {
        log_error("device_hung", log_str("device", executor->device.name),
                  log_u64("launch_us", took_us), log_f64("estimate_us", estimate_us));
        return false;
    }
    return true;
}

/* The device is of no use any more: everything that waits for it is answered now. */
static void lose(struct server *server, struct executor *executor)
{
    log_error("device_lost", log_str("device", executor->device.name),
              log_str("reason", executor->device.fault));
    executor->lost = true;
    for (uint32_t i = 0; i < server->slots.count; i++) {
        struct slot *slot = &server->slots.entries[i];
        if (slot->state != SLOT_FREE && slot->executor == executor->index) {
            struct fas_error error;
            fas_fail(&error, FAS_DEVICE_FAULT, "", "%s failed", executor->device.name);
            intake_end(server, slot, &error);
            if (slot->state == SLOT_RUNNING) { /* picked, and never to be launched */
                slot_move(slot, SLOT_REPLYING);
                intake_settle(server, slot);
            }
        }
    }
}

void executor_collect(struct server *server, struct executor *executor, uint64_t now_us)
{
    struct device_completion completion;
    while (executor->device.ops->take(&executor->device, &completion)) {
        if (completion.lane >= DEVICE_LANES) {
            event_collect(server, &completion, now_us);
            continue;
        }
        executor->lane_us[completion.lane] += (double)(completion.ended_us - completion.started_us);
        if (completion.lane == DEVICE_LAUNCH) {
            launch_done(server, executor, &completion);
        } else if (place_copies(&completion)) {
            place_copied(server, &completion, now_us);
        } else {
            staging_collect(server, &executor->staging, &completion, now_us);
        }
        if (completion.failed && !executor->lost) {
            lose(server, executor);
        }
    }
    if (!executor->device.host_reaches_arena) {
        staging_resume(server, &executor->staging);
    }
}

void executor_drop(struct server *server, struct slot *slot)
{
    struct executor *executor = &server->executors[slot->executor];
    if (slot->state == SLOT_QUEUED) {
        queue_remove(&executor->queue, slot->index);
        slot_move(slot, SLOT_REPLYING);
        return;
    }
    for (uint32_t i = 0; i < executor->flight_count; i++) {
        struct flight *flight = flight_at(executor, i);
        if (slot->state == SLOT_RUNNING && slot->batch_index >= 0 &&
            slot->batch.id == flight->batch.id) {
            flight_drop(flight, slot->batch_index); /* what was launched still uses its memory */
        }
    }
}
