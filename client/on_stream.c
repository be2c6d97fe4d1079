/*
 * on_stream.c: calls on a CUDA stream of the program's. Before: an event of the library's, recorded
 * on the stream, is the call's wait event. Behind: the stream waits for a word of the host's, which
 * the library writes when the call ends, however it ends.
 *
 * A word, and not an event that the daemon records: a stream that waits for an event of a process
 * that was killed, or whose GPU failed, waits for ever, whoever records it anew (H200, driver 580).
 * The word costs the way from the daemon to this process, and lets go of the stream in any case.
 *
 * Words are never freed, as a stream may come by its wait long after the client is closed; a word
 * only counts up, so that it is free for another call as soon as its call has ended.
 */
#include "client/client.h"
#include "client/cuda.h"

#include <stdlib.h>

#define OPEN_TIMEOUT_MS 10000u
/* Calls on streams in flight, of the process. */
#define WORDS 1024u

/* What a call on a stream needs, one call after the other. */
struct follow {
    void *context, *event;
    uint32_t id; /* the daemon's, of the event */
    uint32_t *word, turn;
    struct follow *next;
};

static struct words {
    pthread_mutex_t lock;
    uint32_t *memory; /* NULL: not yet */
    uint32_t used;
    uint32_t *returned[WORDS];
    uint32_t returned_count;
} words = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* NULL: none is left. In a context. */
static uint32_t *word_take(void)
{
    uint32_t *word = NULL;
    pthread_mutex_lock(&words.lock);
    words.memory = words.memory ? words.memory : cuda_words(WORDS);
    if (words.returned_count > 0) {
        word = words.returned[--words.returned_count];
    } else if (words.memory && words.used < WORDS) {
        word = &words.memory[words.used++];
    }
    pthread_mutex_unlock(&words.lock);
    return word;
}

static void word_give(uint32_t *word)
{
    pthread_mutex_lock(&words.lock);
    words.returned[words.returned_count++] = word;
    pthread_mutex_unlock(&words.lock);
}

/* One of the context's that no call has, or NULL. */
static struct follow *take(struct fas_client *client, const void *context)
{
    connection_lock(client->connection);
    struct follow **link = &client->follows;
    while (*link && (*link)->context != context) {
        link = &(*link)->next;
    }
    struct follow *follow = *link;
    if (follow) {
        *link = follow->next;
    }
    connection_unlock(client->connection);
    return follow;
}

/* Without the lock: CUDA may take its time. */
static void discard(struct follow *follow)
{
    if (follow->event) {
        cuda_destroy_event(follow->context, follow->event);
    }
    if (follow->word) {
        word_give(follow->word);
    }
    free(follow);
}

static enum fas_status open_event(struct fas_client *client, struct follow *follow,
                                  struct fas_error *error)
{
    struct wire_open open;
    enum fas_status status = cuda_export_event(follow->event, &open, error);
    if (status == FAS_OK) {
        struct question question = {
            .asks = FRAME_OPEN, .answered_by = FRAME_OPENED, .open = &open, .fd = -1};
        status = question_ask(client, &question, OPEN_TIMEOUT_MS, error);
        follow->id = question.opened.id;
    }
    return status;
}

/* In the context. */
static enum fas_status make(struct fas_client *client, void *context, struct follow **made,
                            struct fas_error *error)
{
    struct follow *follow = calloc(1, sizeof(*follow));
    if (!follow) {
        return fas_fail(error, FAS_RESOURCE_EXHAUSTED, "stream", "out of memory");
    }
    follow->context = context;
    follow->word = word_take();
    follow->event = cuda_make_event();
    struct fas_error why = {0};
    enum fas_status status =
        follow->word && follow->event
            ? open_event(client, follow, &why)
            : fas_fail(&why, FAS_RESOURCE_EXHAUSTED, "", "no event, or no word to wait for");
    if (status != FAS_OK) {
        discard(follow);
        return fas_fail(error, status, "stream", "%s", why.text);
    }
    follow->turn = *follow->word;
    *made = follow;
    return FAS_OK;
}

/* The event, then the wait: what was given to the stream before is before the call, what comes from
 * here on is behind it. In the context. */
static bool put_on(struct follow *follow, void *stream)
{
    return cuda_record(follow->event, stream) &&
           cuda_wait_word(stream, follow->word, ++follow->turn);
}

static enum fas_status check(const struct fas_client *client, const struct fas_request *request,
                             struct fas_error *error)
{
    if (request->wait_event) {
        return fas_fail(error, FAS_INVALID_ARGUMENT, "wait_event", "beside a stream");
    }
    return connection_is_ipc(client->connection)
               ? FAS_OK
               : fas_fail(error, FAS_UNSUPPORTED, "stream", "over ipc:// only");
}

enum fas_status stream_begin(struct fas_client *client, const struct fas_request *request,
                             struct follow **follow, struct fas_error *error)
{
    void *stream = request->stream, *context;
    *follow = NULL;
    enum fas_status status = stream ? check(client, request, error) : FAS_OK;
    if (!stream || status != FAS_OK) {
        return status;
    }
    if (!cuda_enter_stream(stream, &context)) {
        return fas_fail(error, FAS_INVALID_ARGUMENT, "stream", "is not one of this process");
    }
    *follow = take(client, context);
    status = *follow ? FAS_OK : make(client, context, follow, error);
    if (status == FAS_OK && !put_on(*follow, stream)) {
        connection_lock(client->connection);
        stream_release(client, *follow);
        connection_unlock(client->connection);
        *follow = NULL;
        status = fas_fail(error, FAS_INVALID_ARGUMENT, "stream", "takes no event, or no wait");
    }
    cuda_leave();
    return status;
}

void stream_place(struct fas_call *call, struct follow *follow)
{
    call->follow = follow;
    if (follow) {
        call->wire.wait_event = follow->id;
    }
}

void stream_release(struct fas_client *client, struct follow *follow)
{
    if (follow) {
        __atomic_store_n(follow->word, follow->turn, __ATOMIC_RELEASE);
        follow->next = client->follows;
        client->follows = follow;
    }
}

void stream_free_all(struct fas_client *client)
{
    struct follow *follow;
    while ((follow = client->follows)) {
        client->follows = follow->next;
        discard(follow);
    }
}
