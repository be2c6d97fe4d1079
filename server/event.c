/* event.c: entering, waiting, recording; what a device says of either. A tag is a slot's number. */
#include "server/event.h"

#include "server/intake.h"
#include "server/server.h"

static const char *const fields[SLOT_EVENTS] = {"wait_event", "done_event"};

static enum fas_status enter(struct server *server, struct slot *slot, enum slot_event which,
                             uint32_t id, struct fas_error *error)
{
    struct place *place = id ? place_find(server, slot->connection, id) : NULL;
    if (id && !place) {
        return fas_fail(error, FAS_NOT_FOUND, fields[which],
                        "event %u is not open on this connection", id);
    }
    if (place && !place->mapping.event) {
        return fas_fail(error, FAS_INVALID_ARGUMENT, fields[which],
                        "place %u is memory, not an event", id);
    }
    if (place) {
        place_use(server, slot, FAS_TENSOR_COUNT + which, place);
    }
    return FAS_OK;
}

enum fas_status event_enter(struct server *server, struct slot *slot, struct fas_error *error)
{
    uint32_t wait = slot->request.wire.wait_event, done = slot->request.wire.done_event;
    slot->events = (struct slot_events){
        .passed = wait == 0, .recorded = done == 0, .told = wait == 0 && done == 0};
    enum fas_status status = enter(server, slot, SLOT_AWAITED, wait, error);
    return status == FAS_OK ? enter(server, slot, SLOT_DONE, done, error) : status;
}

/* Used by the slot, so it is mapped, whoever may name it still. NULL: none. */
static const struct device_mapping *mapping_of(const struct server *server, const struct slot *slot,
                                               enum slot_event which)
{
    uint16_t id = slot->places[FAS_TENSOR_COUNT + which];
    return id ? &server->places.entries[id - 1].mapping : NULL;
}

/* ---- waiting ---- */

bool event_await(struct server *server, struct slot *slot)
{
    const struct device_mapping *mapping = mapping_of(server, slot, SLOT_AWAITED);
    if (mapping) {
        slot->events.waiting = true;
        mapping->device->ops->await(mapping->device, mapping->memory, slot->index);
    }
    return mapping != NULL;
}

void event_resign(struct server *server, struct slot *slot)
{
    const struct device_mapping *mapping = mapping_of(server, slot, SLOT_AWAITED);
    if (slot->events.waiting) {
        mapping->device->ops->resign(mapping->device, slot->index);
    }
}

static void passed(struct server *server, struct slot *slot, bool failed, uint64_t now_us)
{
    slot->events.waiting = false;
    if (slot->state != SLOT_RECEIVING) {
        intake_settle(server, slot);
        return;
    }
    if (failed) {
        struct fas_error error;
        fas_fail(&error, FAS_INVALID_ARGUMENT, fields[SLOT_AWAITED],
                 "the driver knows nothing of it any more");
        intake_end(server, slot, &error);
        return;
    }
    slot->events.passed = true;
    slot->times.progress = now_us;
    place_load(server, slot);
    intake_uploaded(server, slot, 0, now_us);
}

/* ---- recording ---- */

static bool to_be_recorded(const struct slot *slot)
{
    return !slot->events.recorded && !slot->events.recording && slot->error.status == FAS_OK;
}

bool event_record_with_launch(struct server *server, struct slot *slot,
                              const struct executor *executor, struct device_record *record)
{
    const struct device_mapping *mapping = mapping_of(server, slot, SLOT_DONE);
    const struct request *request = &slot->request;
    if (!mapping || mapping->device != &executor->device || !to_be_recorded(slot) ||
        (request->copied & request->outputs) != 0) {
        return false;
    }
    slot->events.recording = true;
    *record = (struct device_record){mapping->memory, slot->index};
    return true;
}

void event_stored(struct server *server, struct slot *slot)
{
    const struct device_mapping *mapping = mapping_of(server, slot, SLOT_DONE);
    const struct slot_progress *progress = &slot->progress;
    if (!mapping || !to_be_recorded(slot) || !progress->all_computed ||
        progress->storing < progress->computed) {
        return;
    }
    /* Downloads of that device go before its record; those of another have to be over. */
    bool same = mapping->device == &server->executors[slot->executor].device;
    if (same || progress->stores == 0) {
        slot->events.recording = true;
        mapping->device->ops->record(mapping->device,
                                     &(struct device_record){mapping->memory, slot->index});
    }
}

static void recorded(struct server *server, struct slot *slot, bool failed)
{
    slot->events.recording = false;
    slot->events.recorded = !failed;
    if (failed && slot->error.status == FAS_OK) {
        struct fas_error error;
        fas_fail(&error, FAS_INVALID_ARGUMENT, fields[SLOT_DONE],
                 "it can not be recorded on the device that computes");
        intake_end(server, slot, &error);
    }
    intake_settle(server, slot);
}

void event_collect(struct server *server, const struct device_completion *completion,
                   uint64_t now_us)
{
    struct slot *slot = &server->slots.entries[completion->tag];
    if (completion->lane == DEVICE_AWAIT) {
        passed(server, slot, completion->failed, now_us);
    } else {
        recorded(server, slot, completion->failed);
    }
}
