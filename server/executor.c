/*
 * executor.c: pick, lay out, launch; collect, account, launch the next slice. The order of
 * functions is the order in which a batch meets them.
 */
#include "server/executor.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "server/intake.h"
#include "server/log.h"
#include "server/server.h"

/* Before the first launch: a slow core. The measured rate replaces it within a few slices. */
#define FLOPS_PER_US_FIRST 1e4
/* Weight of a new measurement of the rate. */
#define RATE_SMOOTHING 0.2
/* Slices with less work say more about the launch than about the rate. */
#define RATE_SLICE_US_MIN 200u

enum fas_status executor_open(struct executor *executor, uint32_t index, const char *device,
                              const struct config *config, uint32_t principals, device_wake *wake,
                              void *wake_context, struct fas_error *error)
{
    *executor = (struct executor){.index = index, .flops_per_us = FLOPS_PER_US_FIRST};
    enum fas_status status =
        device_open(&executor->device, device, config, wake, wake_context, error);
    if (status != FAS_OK) {
        return status;
    }
    uint32_t requests = config->batch_requests_max;
    executor->picked = calloc(requests, sizeof *executor->picked);
    executor->parts = calloc(requests, sizeof *executor->parts);
    executor->sets = calloc(requests, sizeof *executor->sets);
    executor->sums = calloc(requests, sizeof *executor->sums);
    bool opened =
        executor->picked && executor->parts && executor->sets && executor->sums &&
        arena_open(&executor->arena, executor->device.arena_bytes, config->slots + HOLDS_MAX) &&
        staging_open(&executor->staging, &executor->device, config) &&
        queue_open(&executor->queue, config->slots, principals) &&
        batch_open(&executor->batch, (int32_t)requests, (int32_t)config->batch_sequences_max);
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

struct executor *executor_choose(struct server *server)
{
    struct executor *best = NULL;
    for (uint32_t i = 0; i < server->executor_count; i++) {
        struct executor *executor = &server->executors[i];
        if (!executor->lost && (!best || executor->flops_outstanding / executor->flops_per_us <
                                             best->flops_outstanding / best->flops_per_us)) {
            best = executor;
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
                           : executor->flops_per_us * (double)config->batch_us;
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

/* The sums over sequences of the requests that end with the slice. */
static int32_t gather_sums(struct server *server, struct executor *executor, int32_t slice,
                           struct attn_dsink_sum *sums)
{
    const struct batch *batch = &executor->batch;
    int32_t count = 0;
    for (int32_t i = 0; i < batch->request_count; i++) {
        const struct slot *slot = &server->slots.entries[batch->requests[i].slot];
        if (!batch->requests[i].dropped && batch_ends(batch, slice, i) &&
            slot->request.outputs >> FAS_DSINK & 1) {
            sums[count++] = dsink_sum(executor, slot);
        }
    }
    return count;
}

static void launch_slice(struct server *server, struct executor *executor)
{
    struct batch *batch = &executor->batch;
    const struct slot *first = &server->slots.entries[batch->requests[0].slot];
    struct device_launch launch = {.row = first->request.row,
                                   .launch = batch_launch(batch, executor->slice,
                                                          executor->device.scratch,
                                                          executor->device.scratch_bytes),
                                   .sums = executor->sums};
    launch.sum_count = gather_sums(server, executor, executor->slice, executor->sums);
    executor->running = true;
    executor->device.ops->launch(&executor->device, &launch, batch->id);
}

static void lay_out(struct server *server, struct executor *executor, int32_t count)
{
    struct batch *batch = &executor->batch;
    const struct cost *cost = &executor->batch_cost;
    batch_layout(batch, ++executor->batches, &executor->shape, executor->parts, count,
                 executor->flops_per_us * (double)server->config.slice_us);
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
    executor->slice = 0;
    launch_slice(server, executor);
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
        slot->error = error;
        slot_move(slot, SLOT_REPLYING);
    }
}

uint64_t executor_start(struct server *server, struct executor *executor, uint64_t now_us)
{
    uint64_t next_us = SCHED_NEVER;
    expire(server, executor, now_us);
    while (!executor->running && !executor->lost) {
        if (executor->laid == executor->picked_count) {
            pick(server, executor, now_us, &next_us);
            if (executor->picked_count == 0) {
                break;
            }
        }
        int32_t count = gather_parts(server, executor);
        if (count > 0) {
            lay_out(server, executor, count);
        }
    }
    return next_us;
}

/* ---- a slice is done ---- */

static void measure(struct executor *executor, const struct device_completion *completion,
                    double flops)
{
    uint64_t took_us = completion->ended_us - completion->started_us;
    executor->busy_us += (double)took_us;
    executor->flops_done += flops;
    if (took_us >= RATE_SLICE_US_MIN) {
        double rate = flops / (double)took_us;
        executor->flops_per_us += RATE_SMOOTHING * (rate - executor->flops_per_us);
    }
}

static void finish(struct server *server, struct slot *slot,
                   const struct device_completion *completion)
{
    slot->times.computed = completion->ended_us;
    slot->progress.all_computed = true;
    slot_move(slot, SLOT_REPLYING);
    place_store(server, slot);
}

/* What the finished slice means for one request of the batch. */
static void account(struct server *server, struct executor *executor, int32_t index,
                    const struct device_completion *completion)
{
    struct batch *batch = &executor->batch;
    struct slot *slot = &server->slots.entries[batch->requests[index].slot];
    if (slot->state != SLOT_RUNNING || slot->batch_index != index || slot->batch.id != batch->id) {
        return; /* finished with an earlier slice, and perhaps somebody else's by now */
    }
    if (completion->failed && slot->error.status == FAS_OK) {
        fas_fail(&slot->error, FAS_DEVICE_FAULT, "", "%s failed", executor->device.name);
    }
    if (slot->error.status != FAS_OK) {
        slot_move(slot, SLOT_REPLYING);
        intake_settle(server, slot);
        return;
    }
    int32_t first, done = batch_completed(batch, executor->slice, index, &first);
    if (done > 0) {
        assert(first == slot->progress.computed);
        slot->batch.launches++;
        slot->times.started = slot->times.started ? slot->times.started : completion->started_us;
        slot->progress.computed = first + done;
    }
    if (batch_ends(batch, executor->slice, index)) {
        finish(server, slot, completion);
    }
}

static void slice_done(struct server *server, struct executor *executor,
                       const struct device_completion *completion)
{
    struct batch *batch = &executor->batch;
    measure(executor, completion, batch->slices[executor->slice].flops);
    stats_add(&server->stats, STATS_SLICES, 1);
    stats_record(&server->stats, STATS_SLICE_US, completion->ended_us - completion->started_us);
    for (int32_t i = 0; i < batch->request_count; i++) {
        account(server, executor, i, completion);
    }
    executor->running = false;
    executor->slice++;
    if (executor->slice < batch->slice_count && !completion->failed) {
        launch_slice(server, executor);
    }
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
        if (completion.lane == DEVICE_LAUNCH) {
            assert(executor->running);
            slice_done(server, executor, &completion);
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
    } else if (slot->state == SLOT_RUNNING && slot->batch_index >= 0 && executor->running) {
        /* The slice on the device still reads and writes its memory; the ones behind it need not.
         */
        batch_drop(&executor->batch, slot->batch_index, executor->slice + 1);
    }
}
