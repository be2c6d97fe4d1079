/*
 * libfaserve without memory: whichever allocation fails, of connect, of a call, of a question or of
 * a release, the caller gets its results or a clear error, nothing hangs, nothing is leaked, and
 * the next client is served.
 */
#include <stdio.h>
#include <string.h>

#include "client/faserve.h"
#include "tests/support/alloc.h"
#include "tests/support/check_main.h"
#include "tests/support/daemon.h"

enum {
    ROWS = 100,
    HEADS = 2,
    D = 16,
    BYTES = ROWS * HEADS * D * 4,
    WAIT_MS = 20000,
    STATS_MAX = 512
};

static struct daemon server;
static float q[BYTES / 4], o[BYTES / 4], lse[ROWS * HEADS], expected[BYTES / 4];

static const struct fas_request forward = {
    .dims = {FAS_FP32, HEADS, HEADS, D, D, ROWS, ROWS},
    .batch = 1,
    .q = {.max_len = ROWS},
    .k = {.max_len = ROWS},
    .retain = true,
    .tensors = {[FAS_Q] = {q}, [FAS_K] = {q}, [FAS_V] = {q}, [FAS_O] = {o}, [FAS_LSE] = {lse}},
};

/* The first thing that was not as it should be; all are asserted when memory is back. */
struct outcome {
    const char *what;
    struct fas_error error;
    bool failed; /* some call said so */
};

static bool note(struct outcome *outcome, const char *what, enum fas_status status,
                 const struct fas_error *error)
{
    if (status == FAS_OK) {
        return true;
    }
    bool clear = error->status == status && error->text[0] != '\0';
    bool expected_status = status == FAS_RESOURCE_EXHAUSTED || status == FAS_UNAVAILABLE;
    outcome->failed = true;
    outcome->error = *error;
    if (!clear || !expected_status) {
        outcome->what = what;
    }
    return false;
}

static void compute(struct fas_client *client, struct outcome *outcome)
{
    struct fas_error error = {0};
    struct fas_call *call;
    memset(o, 0xff, sizeof(o));
    if (!note(outcome, "submit", fas_submit(client, &forward, &call, &error), &error)) {
        return;
    }
    if (!fas_wait(call, WAIT_MS)) {
        outcome->what = "the call does not end";
        return;
    }
    const struct fas_report *report = fas_call_report(call);
    uint64_t handle = report->handle;
    if (note(outcome, "wait", report->error.status, &report->error)) {
        if (memcmp((const uint8_t *)o, (const uint8_t *)expected, sizeof(o)) != 0) {
            outcome->what = "wrong results";
        }
        note(outcome, "release", fas_release(client, handle, &error), &error);
    }
    fas_call_close(call);
}

/* All that a client does, once. */
static void use(struct outcome *outcome)
{
    const struct fas_connect_options options = {.url = server.url, .calls_max = 4};
    struct fas_client *client = NULL;
    struct fas_error error = {0};
    static struct fas_stat stats[STATS_MAX];
    uint32_t count;
    if (!note(outcome, "connect", fas_connect(&options, &client, &error), &error)) {
        outcome->what = client ? "a client that failed" : outcome->what;
        return;
    }
    compute(client, outcome);
    note(outcome, "stats", fas_stats(client, WAIT_MS, stats, STATS_MAX, &count, &error), &error);
    fas_close(client);
}

START_TEST(every_allocation_that_fails_is_a_clear_error)
{
    const char *const arguments[] = {"--device", "cpu:0", "--arena-bytes", "32MiB", NULL};
    struct outcome outcome = {0};
    daemon_start(&server, arguments);
    for (int i = 0; i < BYTES / 4; i++) {
        q[i] = (float)(i % 23) * 0.1f - 1;
    }
    use(&outcome); /* wrong results: nothing to compare with yet */
    ck_assert(!outcome.failed);
    memcpy(expected, o, sizeof(o));
    int refused = 0;
    for (long n = 0; n >= 0; n++) {
        outcome = (struct outcome){0};
        long before = alloc_live();
        alloc_fail_at(n);
        use(&outcome);
        int failed = alloc_failed();
        alloc_fail_at(-1);
        long leaked = alloc_live() - before;
        ck_assert_msg(!outcome.what, "allocation %ld, %s: %s %s: %s", n, outcome.what,
                      fas_status_name(outcome.error.status), outcome.error.field,
                      outcome.error.text);
        ck_assert_msg(leaked == 0, "allocation %ld: %ld are left (%s)", n, leaked,
                      outcome.error.text);
        ck_assert_msg(failed || !outcome.failed, "it failed for nothing: %s", outcome.error.text);
        refused += outcome.failed;
        if (!failed) {
            break;
        }
    }
    ck_assert_int_ge(refused, 8);
    ck_assert_int_eq(daemon_stop(&server), 0);
}
END_TEST

static const struct check_row tests[] = {
    {"memory", &every_allocation_that_fails_is_a_clear_error},
};

CHECK_MAIN("memory_client", tests)
