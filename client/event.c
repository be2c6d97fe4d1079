/*
 * event.c: CUDA events of the program's that calls name: opened by the daemon when first named,
 * found again by their address, closed by fas_event_close. The list is short, so it is walked.
 */
#include "client/client.h"
#include "client/cuda.h"

#include <stdlib.h>
#include <string.h>

/* A handle is opened at once. */
#define OPEN_TIMEOUT_MS 10000u

struct event {
    void *event; /* cudaEvent_t */
    uint32_t id; /* the daemon's */
    uint8_t handle[WIRE_CUDA_HANDLE_BYTES];
    struct event *next;
};

/* Out of the chain. Under the lock. */
static struct event *event_take(struct fas_client *client, const void *cuda_event)
{
    struct event **link = &client->events;
    while (*link && (*link)->event != cuda_event) {
        link = &(*link)->next;
    }
    struct event *event = *link;
    if (event) {
        *link = event->next;
    }
    return event;
}

/* Under the lock. */
static const struct event *event_find(const struct fas_client *client, const void *cuda_event)
{
    const struct event *event = client->events;
    while (event && event->event != cuda_event) {
        event = event->next;
    }
    return event;
}

/* Another event where one was that had been opened: the daemon forgets that. True: this very one is
 * open. */
static bool event_known(struct fas_client *client, void *cuda_event, const struct wire_open *open)
{
    struct event *stale = NULL;
    connection_lock(client->connection);
    const struct event *known = event_find(client, cuda_event);
    bool current = known && memcmp(known->handle, open->cuda_event, sizeof(known->handle)) == 0;
    stale = known && !current ? event_take(client, cuda_event) : NULL;
    connection_unlock(client->connection);
    if (stale) {
        question_release(client, 0, stale->id, NULL);
        free(stale);
    }
    return current;
}

static enum fas_status event_open(struct fas_client *client, void *cuda_event,
                                  const struct wire_open *open, struct fas_error *error)
{
    struct event *event = calloc(1, sizeof(*event));
    if (!event) {
        return fas_fail(error, FAS_RESOURCE_EXHAUSTED, "", "out of memory");
    }
    struct question question = {
        .asks = FRAME_OPEN, .answered_by = FRAME_OPENED, .open = open, .fd = -1};
    enum fas_status status = question_ask(client, &question, OPEN_TIMEOUT_MS, error);
    if (status != FAS_OK) {
        free(event);
        return status;
    }
    event->event = cuda_event;
    event->id = question.opened.id;
    memcpy(event->handle, open->cuda_event, sizeof(event->handle));
    connection_lock(client->connection);
    event->next = client->events;
    client->events = event;
    connection_unlock(client->connection);
    return FAS_OK;
}

static enum fas_status share(struct fas_client *client, void *cuda_event, struct fas_error *error)
{
    struct wire_open open;
    if (!cuda_event) {
        return FAS_OK;
    }
    if (!connection_is_ipc(client->connection)) {
        return fas_fail(error, FAS_UNSUPPORTED, "", "events are shared over ipc:// only");
    }
    enum fas_status status = cuda_export_event(cuda_event, &open, error);
    if (status != FAS_OK || event_known(client, cuda_event, &open)) {
        return status;
    }
    return event_open(client, cuda_event, &open, error);
}

/* An error of either is that field's. */
static enum fas_status share_as(struct fas_client *client, void *cuda_event, const char *field,
                                struct fas_error *error)
{
    struct fas_error why = {0};
    enum fas_status status = share(client, cuda_event, &why);
    return status == FAS_OK ? FAS_OK : fas_fail(error, status, field, "%s", why.text);
}

enum fas_status event_share(struct fas_client *client, const struct fas_request *request,
                            struct fas_error *error)
{
    enum fas_status status = share_as(client, request->wait_event, "wait_event", error);
    return status == FAS_OK ? share_as(client, request->done_event, "done_event", error) : status;
}

static enum fas_status locate(const struct fas_client *client, const void *cuda_event,
                              const char *field, uint32_t *id, struct fas_error *error)
{
    const struct event *event = cuda_event ? event_find(client, cuda_event) : NULL;
    *id = event ? event->id : 0;
    return event || !cuda_event
               ? FAS_OK
               : fas_fail(error, FAS_INVALID_ARGUMENT, field, "was closed meanwhile");
}

enum fas_status event_locate(struct fas_call *call, struct fas_error *error)
{
    const struct fas_request *request = &call->request;
    struct wire_request *wire = &call->wire;
    enum fas_status status =
        locate(call->client, request->wait_event, "wait_event", &wire->wait_event, error);
    return status == FAS_OK
               ? locate(call->client, request->done_event, "done_event", &wire->done_event, error)
               : status;
}

void fas_event_close(struct fas_client *client, void *event)
{
    connection_lock(client->connection);
    struct event *known = event_take(client, event);
    connection_unlock(client->connection);
    if (known) { /* a daemon that is gone has closed it already */
        struct question question = {
            .asks = FRAME_CLOSE, .answered_by = FRAME_CLOSED, .place = known->id, .fd = -1};
        question_ask(client, &question, OPEN_TIMEOUT_MS, NULL);
    }
    free(known);
}

void event_free_all(struct fas_client *client)
{
    struct event *event;
    while ((event = client->events)) {
        client->events = event->next;
        free(event);
    }
}
