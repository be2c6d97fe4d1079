/*
 * question.c: ping, stats, drain and open: a thread asks the daemon and waits for the answer, at
 * most so long. A question lives on its thread's stack and is in the client's list meanwhile; an
 * answer that comes too late finds nobody and is dropped.
 */
#include "client/client.h"

#include <stdlib.h>

/* A daemon's loop answers in microseconds; seconds mean that it hangs or is far away. */
#define TIMEOUT_MS_DEFAULT 5000u

struct question *question_find(struct fas_client *client, uint64_t id, enum frame_type answered_by)
{
    struct question *question;
    TAILQ_FOREACH(question, &client->questions, link)
    {
        if (question->id == id && !question->answered &&
            (question->answered_by == answered_by || answered_by == FRAME_ERROR)) {
            return question;
        }
    }
    return NULL;
}

void question_answer(struct question *question, const struct fas_error *error)
{
    if (error) {
        question->error = *error;
    }
    question->answered = true;
    pthread_cond_signal(&question->done);
}

static bool question_over(const void *context)
{
    const struct question *question = context;
    return question->answered || question->client->lost;
}

/* Under the lock. */
static void question_wait(struct fas_client *client, struct question *question, uint32_t timeout_ms)
{
    struct waiter waiter = {.woken = &question->done, .done = question_over, .context = question};
    connection_wait(client->connection, &waiter, ns_in_ms(timeout_ms));
    if (!question->answered) {
        if (client->lost) {
            question->error = client->failure;
        } else {
            fas_fail(&question->error, FAS_DEADLINE_EXCEEDED, "timeout_ms",
                     "no answer to %s in %u ms", frame_type_name(question->asks), timeout_ms);
        }
    }
}

enum fas_status question_ask(struct fas_client *client, struct question *question,
                             uint32_t timeout_ms, struct fas_error *error)
{
    question->client = client;
    client_cond_init(&question->done);
    bool region = question->open && question->open->place == FAS_PLACE_REGION;
    connection_lock(client->connection);
    question->id = QUESTION_BIT | (region ? REGION_BIT : 0) | ++client->next_id;
    TAILQ_INSERT_TAIL(&client->questions, question, link);
    connection_unlock(client->connection);
    connection_push(client->connection);
    connection_lock(client->connection);
    question_wait(client, question, timeout_ms ? timeout_ms : TIMEOUT_MS_DEFAULT);
    TAILQ_REMOVE(&client->questions, question, link);
    connection_unlock(client->connection);
    pthread_cond_destroy(&question->done);
    if (error) {
        *error = question->error;
    }
    return question->error.status;
}

enum fas_status fas_ping(struct fas_client *client, uint32_t timeout_ms, uint64_t *round_trip_us,
                         struct fas_error *error)
{
    uint64_t begin_ns = now_ns();
    struct question question = {.asks = FRAME_PING, .answered_by = FRAME_PONG};
    enum fas_status status = question_ask(client, &question, timeout_ms, error);
    if (round_trip_us) {
        *round_trip_us = (now_ns() - begin_ns) / 1000;
    }
    return status;
}

enum fas_status fas_stats(struct fas_client *client, uint32_t timeout_ms, struct fas_stat *stats,
                          uint32_t room, uint32_t *count, struct fas_error *error)
{
    struct wire_stats *all = calloc(1, sizeof(*all));
    *count = 0;
    if (!all) {
        return fas_fail(error, FAS_RESOURCE_EXHAUSTED, "", "out of memory");
    }
    struct question question = {
        .asks = FRAME_STATS, .answered_by = FRAME_STATS_REPLY, .stats = all};
    enum fas_status status = question_ask(client, &question, timeout_ms, error);
    for (uint32_t i = 0; status == FAS_OK && i < all->count && i < room; i++) {
        _Static_assert(sizeof(stats[i].name) == sizeof(all->stats[i].name), "same room");
        __builtin_memcpy(stats[i].name, all->stats[i].name, sizeof(stats[i].name));
        stats[i].value = all->stats[i].value;
        *count = i + 1;
    }
    free(all);
    return status;
}

enum fas_status fas_drain(struct fas_client *client, uint32_t timeout_ms, struct fas_error *error)
{
    struct question question = {.asks = FRAME_DRAIN, .answered_by = FRAME_DRAIN_ACK};
    return question_ask(client, &question, timeout_ms, error);
}

enum fas_status fas_release(struct fas_client *client, uint64_t handle, struct fas_error *error)
{
    return question_release(client, handle, 0, error);
}

/* Something the daemon need not keep is queued; nobody waits for what comes of it. */
enum fas_status question_release(struct fas_client *client, uint64_t handle, uint32_t place,
                                 struct fas_error *error)
{
    struct release *release = malloc(sizeof(*release));
    if (!release) {
        return fas_fail(error, FAS_RESOURCE_EXHAUSTED, "", "out of memory");
    }
    release->handle = handle;
    release->place = place;
    connection_lock(client->connection);
    enum fas_status status = client->failure.status; /* OK: the connection is not lost */
    if (status == FAS_OK) {
        STAILQ_INSERT_TAIL(&client->releases, release, link);
    } else if (error) {
        *error = client->failure;
    }
    connection_unlock(client->connection);
    if (status != FAS_OK) {
        free(release);
        return status;
    }
    connection_push(client->connection);
    return FAS_OK;
}
