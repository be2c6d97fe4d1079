/*
 * load.c: see load.h.
 */
#include "client/fasctl/load.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "client/fasctl/clock.h"
#include "client/fasctl/numbers.h"

#define CALLERS_MAX 256
/* Of the open loop: requests in flight; more are due but not sent, and their time runs. */
#define OPEN_MAX 64
/* Per caller, before anything counts: connections, caches and pages are warm then. */
#define WARM_UP 3

/* ---- what is counted ---- */

struct tally {
    double *us;
    int64_t count, room, failed;
    double queue_us, copy_in_us, compute_us, copy_out_us, batch_requests;
};

static void tally_add(struct tally *tally, double us, const struct fas_report *report)
{
    if (report->error.status != FAS_OK) {
        tally->failed++;
        return;
    }
    if (tally->count == tally->room) {
        int64_t room = tally->room ? 2 * tally->room : 4096;
        double *more = realloc(tally->us, sizeof(double) * (size_t)room);
        if (!more) {
            return;
        }
        tally->us = more;
        tally->room = room;
    }
    tally->us[tally->count++] = us;
    tally->queue_us += (double)report->queue_us;
    tally->copy_in_us += (double)report->copy_in_us;
    tally->compute_us += (double)report->compute_us;
    tally->copy_out_us += (double)report->copy_out_us;
    tally->batch_requests += report->batch_requests;
}

static void tally_merge(struct tally *into, struct tally *from)
{
    double *all = realloc(into->us, sizeof(double) * (size_t)(into->count + from->count + 1));
    if (all) {
        into->us = all;
    }
    if (all && from->count > 0) {
        memcpy(all + into->count, from->us, sizeof(double) * (size_t)from->count);
        into->count += from->count;
    }
    into->failed += from->failed;
    into->queue_us += from->queue_us;
    into->copy_in_us += from->copy_in_us;
    into->compute_us += from->compute_us;
    into->copy_out_us += from->copy_out_us;
    into->batch_requests += from->batch_requests;
    free(from->us);
    *from = (struct tally){0};
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double percentile(const struct tally *tally, double part)
{
    int64_t at = (int64_t)ceil(part * (double)tally->count) - 1;
    return tally->us[at < 0 ? 0 : at];
}

static void outcome_fill(struct outcome *outcome, struct tally *tally, const struct workload *w,
                         double seconds)
{
    double n = (double)tally->count;
    qsort(tally->us, (size_t)tally->count, sizeof(double), ascending);
    *outcome = (struct outcome){
        .requests = tally->count,
        .failed = tally->failed,
        .seconds = seconds,
        .p50_us = percentile(tally, 0.5),
        .p90_us = percentile(tally, 0.9),
        .p99_us = percentile(tally, 0.99),
        .p999_us = percentile(tally, 0.999),
        .queue_us = tally->queue_us / n,
        .copy_in_us = tally->copy_in_us / n,
        .compute_us = tally->compute_us / n,
        .copy_out_us = tally->copy_out_us / n,
        .batch_requests = tally->batch_requests / n,
        .tokens_per_s = n * (double)w->tokens / seconds,
        .gbytes_per_s = n * (double)(w->bytes_in + w->bytes_out) * 1e-9 / seconds,
        .bytes_in = (double)w->bytes_in,
        .bytes_out = (double)w->bytes_out,
    };
}

/* A daemon that is gone refuses what comes after at once: nothing more is measured. */
static bool is_gone(const struct fas_error *error)
{
    return error->status == FAS_UNAVAILABLE;
}

/* ---- closed loop ---- */

struct caller {
    struct load *load;
    struct fas_client *client;
    struct workload workload;
    struct tally tally;
    struct fas_error error;
    pthread_barrier_t *start;
    uint64_t end_ns;
    pthread_t thread;
};

static void *caller_run(void *context)
{
    struct caller *caller = context;
    const struct load *load = caller->load;
    struct fas_report report;
    for (int i = 0; i < (load->seconds_run > 0 ? 1 : WARM_UP); i++) {
        fas_run(caller->client, &caller->workload.request, &report);
    }
    pthread_barrier_wait(caller->start);
    int64_t share = (load->requests + load->callers - 1) / load->callers;
    uint64_t begin_ns = clock_ns();
    for (int64_t i = 0; i < share || clock_seconds(begin_ns) < load->seconds; i++) {
        uint64_t called_ns = clock_ns();
        if (fas_run(caller->client, &caller->workload.request, &report) != FAS_OK) {
            caller->error = report.error;
        }
        tally_add(&caller->tally, (double)(clock_ns() - called_ns) * 1e-3, &report);
        bool futile = caller->tally.failed > 0 && caller->tally.count == 0 && i >= share;
        if (futile || is_gone(&caller->error)) {
            break;
        }
    }
    caller->end_ns = clock_ns();
    return NULL;
}

static bool callers_open(struct load *load, struct caller *callers)
{
    for (int i = 0; i < load->callers; i++) {
        callers[i].load = load;
        callers[i].client = load->clients[i % load->client_count];
        if (workload_open(&callers[i].workload, &load->shape, callers[i].client, load->place,
                          &load->error) != FAS_OK) {
            return false;
        }
    }
    return true;
}

static double closed_loop(struct load *load, struct caller *callers, struct tally *tally)
{
    pthread_barrier_t start;
    pthread_barrier_init(&start, NULL, (unsigned)load->callers + 1);
    for (int i = 0; i < load->callers; i++) {
        callers[i].start = &start;
        if (pthread_create(&callers[i].thread, NULL, caller_run, &callers[i]) != 0) {
            abort(); /* those started wait at the barrier for ever */
        }
    }
    pthread_barrier_wait(&start);
    uint64_t begin_ns = clock_ns(), end_ns = begin_ns;
    for (int i = 0; i < load->callers; i++) {
        pthread_join(callers[i].thread, NULL);
        end_ns = callers[i].end_ns > end_ns ? callers[i].end_ns : end_ns;
        if (callers[i].tally.failed > 0) {
            load->error = callers[i].error;
        }
        tally_merge(tally, &callers[i].tally);
    }
    pthread_barrier_destroy(&start);
    return (double)(end_ns - begin_ns) * 1e-9;
}

/* ---- open loop ---- */

struct open_slot {
    struct open_loop *loop;
    struct workload workload;
    uint64_t due_ns;
    struct open_slot *next; /* free ones */
};

struct open_loop {
    struct load *load;
    struct open_slot slots[OPEN_MAX];
    struct open_slot *free;
    struct tally tally;
    int in_flight;
    pthread_mutex_t lock;
    pthread_cond_t changed;
};

static void open_on_end(struct fas_call *call, const struct fas_report *report, void *context)
{
    struct open_slot *slot = context;
    struct open_loop *loop = slot->loop;
    uint64_t now_ns = clock_ns();
    pthread_mutex_lock(&loop->lock);
    tally_add(&loop->tally, (double)(now_ns - slot->due_ns) * 1e-3, report);
    if (report->error.status != FAS_OK) {
        loop->load->error = report->error;
    }
    slot->next = loop->free;
    loop->free = slot;
    loop->in_flight--;
    pthread_cond_signal(&loop->changed);
    pthread_mutex_unlock(&loop->lock);
    fas_call_close(call);
}

static void sleep_until(uint64_t at_ns)
{
    struct timespec at = {.tv_sec = (time_t)(at_ns / 1000000000u),
                          .tv_nsec = (long)(at_ns % 1000000000u)};
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL);
}

/* A free slot, waiting for one if all are in flight. */
static struct open_slot *open_take(struct open_loop *loop)
{
    pthread_mutex_lock(&loop->lock);
    while (!loop->free) {
        pthread_cond_wait(&loop->changed, &loop->lock);
    }
    struct open_slot *slot = loop->free;
    loop->free = slot->next;
    loop->in_flight++;
    pthread_mutex_unlock(&loop->lock);
    return slot;
}

/* False: the daemon is gone. */
static bool open_arrive(struct open_loop *loop, uint64_t due_ns)
{
    struct open_slot *slot = open_take(loop);
    struct fas_client *client = slot->workload.client; /* knows its memory */
    struct fas_report refused = {0};
    slot->due_ns = due_ns;
    slot->workload.request.on_end = open_on_end;
    slot->workload.request.context = slot;
    if (fas_submit(client, &slot->workload.request, NULL, &refused.error) != FAS_OK) {
        pthread_mutex_lock(&loop->lock);
        tally_add(&loop->tally, 0, &refused);
        loop->load->error = refused.error;
        slot->next = loop->free;
        loop->free = slot;
        loop->in_flight--;
        pthread_mutex_unlock(&loop->lock);
    }
    return !is_gone(&refused.error);
}

static bool open_loop(struct load *load, struct open_loop *loop, double *seconds)
{
    for (int i = 0; i < OPEN_MAX; i++) {
        struct open_slot *slot = &loop->slots[i];
        struct fas_client *client = load->clients[i % load->client_count];
        slot->loop = loop;
        if (workload_open(&slot->workload, &load->shape, client, load->place, &load->error) !=
            FAS_OK) {
            return false;
        }
        slot->next = loop->free;
        loop->free = slot;
    }
    uint64_t begin_ns = clock_ns(), due_ns = begin_ns, state = 1;
    bool there = true;
    for (int64_t i = 0;
         there && (i < load->requests || (double)(due_ns - begin_ns) * 1e-9 < load->seconds); i++) {
        double uniform = ((double)(number_next(&state) >> 11) + 1) / 9007199254740993.0;
        due_ns += (uint64_t)(-log(uniform) / load->rate * 1e9);
        sleep_until(due_ns);
        there = open_arrive(loop, due_ns);
    }
    pthread_mutex_lock(&loop->lock);
    while (loop->in_flight > 0) {
        pthread_cond_wait(&loop->changed, &loop->lock);
    }
    pthread_mutex_unlock(&loop->lock);
    *seconds = clock_seconds(begin_ns);
    return true;
}

/* ---- either ---- */

static bool run_closed(struct load *load, struct outcome *outcome)
{
    load->seconds_run += closed_loop(load, load->opened, load->tally);
    if (load->tally->count == 0) {
        return false;
    }
    outcome_fill(outcome, load->tally, &load->opened[0].workload, load->seconds_run);
    return true;
}

static bool run_open(struct load *load, struct outcome *outcome)
{
    struct open_loop *loop = calloc(1, sizeof(*loop));
    double seconds = 0;
    if (!loop) {
        return false;
    }
    loop->load = load;
    pthread_mutex_init(&loop->lock, NULL);
    pthread_cond_init(&loop->changed, NULL);
    bool good = open_loop(load, loop, &seconds) && loop->tally.count > 0;
    if (good) {
        outcome_fill(outcome, &loop->tally, &loop->slots[0].workload, seconds);
    }
    for (int i = 0; i < OPEN_MAX; i++) {
        workload_close(&loop->slots[i].workload);
    }
    pthread_cond_destroy(&loop->changed);
    pthread_mutex_destroy(&loop->lock);
    free(loop->tally.us);
    free(loop);
    return good;
}

bool load_open(struct load *load)
{
    memset(&load->error, 0, sizeof(load->error));
    load->callers = load->callers < CALLERS_MAX ? load->callers : CALLERS_MAX;
    load->seconds_run = 0;
    load->tally = calloc(1, sizeof(*load->tally));
    load->opened = calloc((size_t)load->callers + 1, sizeof(*load->opened));
    return load->tally && load->opened && (load->rate > 0 || callers_open(load, load->opened));
}

bool load_run(struct load *load, struct outcome *outcome)
{
    memset(outcome, 0, sizeof(*outcome));
    return load->rate > 0 ? run_open(load, outcome) : run_closed(load, outcome);
}

void load_close(struct load *load)
{
    for (int i = 0; load->opened && i < load->callers; i++) {
        workload_close(&load->opened[i].workload);
    }
    free(load->opened);
    if (load->tally) {
        free(load->tally->us);
    }
    free(load->tally);
    load->opened = NULL;
    load->tally = NULL;
}
