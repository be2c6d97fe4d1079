/*
 * soak: a day of a daemon's life in minutes: many clients with requests in flight all the time, in
 * every place, some forwards retained and forgotten; clients are killed at random and others take
 * their place. Nothing may be left of them: no memory of host or device, no descriptor, no request;
 * and every reply is that of its own request. `soak --requests 1000000 --clients 16 --kill-ms 20`;
 * FASERVED_KIND says on which device.
 *
 * Every sequence has one key, so o is the bits of its row of v, whatever the kernel: v is drawn
 * anew for each request, and a reply that belongs to another one is seen. A reply that comes twice,
 * or that nobody asked for, ends the connection (the library's rule), and no client that lives may
 * lose its connection; one that never comes is waited for in vain.
 */
#include <assert.h>
#include <dlfcn.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "client/faserve.h"
#include "tests/support/daemon.h"
#include "tests/support/random.h"

enum { CLIENTS_MAX = 128, IN_FLIGHT = 4, LARGE = 512, HEADS = 2, WIDTH = 64, ANSWER_MS = 60000 };

/* One request in so many is of LARGE rows, and one is kept by the daemon. */
enum { LARGE_EVERY = 200, RETAIN_EVERY = 8 };

/* What may differ between two looks at a daemon that has no leak: entries of its tables that are
 * there since somebody needed so many at once. 16 bytes a request would be twice that in a
 * million. */
enum { SLACK_KIB = 8192, SLACK_DEVICE_KIB = 8192 };

/* A far device's arena is there page by page, as it is first used. */
enum { SLACK_FAR_KIB = 64 << 10 };

struct client {
    atomic_ullong sent, answered, turned_away;
    pid_t pid;
};

/* What is seen of the daemon from outside. */
struct look {
    double received, answered, in_flight, places, retained_bytes, region_bytes, arena_bytes;
    long resident_kib, device_free_kib;
    int descriptors;
};

/* Of all processes. */
static struct shared {
    atomic_bool stop;
    atomic_int failed;
    char why[512];
    struct client clients[CLIENTS_MAX];
    struct look look;
} * shared;

static struct options {
    unsigned long long requests;
    int clients, kill_ms;
    uint64_t seed;
} options = {2000, 6, 20, 1};

static struct daemon server;
static struct random dice;

/* ---- a client ---- */

struct slot {
    struct fas_request request;
    struct fas_call *call;
    int32_t cu_q[LARGE + 1], cu_k[LARGE + 1];
    uint16_t v[LARGE * WIDTH], o[LARGE * HEADS * WIDTH]; /* as the host sees them */
    bool may_retain;
};

static enum fas_place own_place;

static void fail(const char *what, const struct fas_error *error)
{
    if (atomic_fetch_add(&shared->failed, 1) == 0) {
        snprintf(shared->why, sizeof shared->why, "%s, %s: %s %s: %s", what,
                 fas_place_name(own_place), error ? fas_status_name(error->status) : "",
                 error ? error->field : "", error ? error->text : "");
    }
    _exit(EXIT_FAILURE);
}

static void copy(void *to, const void *from, uint64_t bytes)
{
    struct fas_error error;
    if (fas_copy(to, from, bytes, &error) != FAS_OK) {
        fail("copy", &error);
    }
}

/* A request whose tensors, for LARGE rows, lie from `memory` on. */
static void slot_open(struct slot *slot, uint8_t *memory)
{
    static const enum fas_tensor tensors[] = {FAS_Q, FAS_K, FAS_V, FAS_O, FAS_LSE};
    static const int bytes[] = {LARGE * HEADS * WIDTH * 2, LARGE * WIDTH * 2, LARGE * WIDTH * 2,
                                LARGE * HEADS * WIDTH * 2, LARGE * HEADS * 4};
    slot->request = (struct fas_request){.dims = {FAS_BF16, HEADS, 1, WIDTH, WIDTH, 0, 0},
                                         .q.cu_seqlens = slot->cu_q,
                                         .k.cu_seqlens = slot->cu_k};
    for (int i = 0; i < 5; i++) {
        slot->request.tensors[tensors[i]].data = memory;
        memory += bytes[i];
    }
}

enum { SLOT_BYTES = LARGE * (2 * HEADS * WIDTH + 2 * WIDTH) * 2 + LARGE * HEADS * 4 };

/* Other lengths and another v. */
static void slot_fill(struct slot *slot, unsigned long long number)
{
    struct fas_dims *dims = &slot->request.dims;
    bool large = number % LARGE_EVERY == 1;
    slot->request.batch = large ? LARGE : 1 + (int32_t)random_below(&dice, 4);
    for (int32_t i = 0; i < slot->request.batch; i++) {
        slot->cu_q[i + 1] = slot->cu_q[i] + (large ? 1 : (int32_t)random_below(&dice, 4));
        slot->cu_k[i + 1] = i + 1;
    }
    dims->total_q = slot->cu_q[slot->request.batch];
    dims->total_k = slot->request.batch;
    for (int64_t i = 0; i < dims->total_k * WIDTH; i++) { /* bf16 of 1 to 2, of either sign */
        slot->v[i] = (uint16_t)(0x3f80 | (random_next(&dice) & 0x807f));
    }
    slot->request.retain = slot->may_retain && number % RETAIN_EVERY == 0;
    copy(slot->request.tensors[FAS_V].data, slot->v, fas_tensor_bytes(dims, FAS_V));
}

static bool slot_right(struct slot *slot)
{
    const struct fas_dims *dims = &slot->request.dims;
    bool same = true;
    copy(slot->o, slot->request.tensors[FAS_O].data, fas_tensor_bytes(dims, FAS_O));
    for (int32_t i = 0; i < slot->request.batch; i++) {
        for (int64_t row = slot->cu_q[i] * HEADS; row < slot->cu_q[i + 1] * HEADS; row++) {
            same = same && memcmp(slot->o + row * WIDTH, slot->v + i * WIDTH, WIDTH * 2) == 0;
        }
    }
    return same;
}

/* Half of the retained are given back, the others the daemon has to find by itself. */
static void slot_end(struct slot *slot, struct client *self, struct fas_client *client)
{
    if (!fas_wait(slot->call, ANSWER_MS)) {
        fail("no reply", NULL);
    }
    const struct fas_report *report = fas_call_report(slot->call);
    if (report->error.status == FAS_RESOURCE_EXHAUSTED) {
        self->turned_away++;
        usleep(report->error.retry_after_ms * 1000);
    } else if (report->error.status != FAS_OK) {
        fail("a request", &report->error);
    } else if (!slot_right(slot)) {
        fail("another request's reply", NULL);
    }
    if (report->handle && report->handle % 2) {
        fas_release(client, report->handle, NULL);
    }
    fas_call_close(slot->call);
    slot->call = NULL;
    self->answered++;
}

static struct fas_client *connect_client(void)
{
    struct fas_connect_options connect = {.url = server.url, .connect_timeout_ms = 30000};
    struct fas_client *client = NULL;
    struct fas_error error;
    enum fas_status status;
    do { /* those who were killed are noticed a moment later */
        status = fas_connect(&connect, &client, &error);
        usleep(status == FAS_RESOURCE_EXHAUSTED ? 10000 : 0);
    } while (status == FAS_RESOURCE_EXHAUSTED);
    if (status != FAS_OK) {
        fail("connect", &error);
    }
    return client;
}

static uint8_t *allocate(struct fas_client *client, enum fas_place place)
{
    struct fas_error error;
    void *memory = NULL;
    enum fas_status status;
    do {
        status = fas_alloc(client, place, IN_FLIGHT * SLOT_BYTES, &memory, &error);
        usleep(status == FAS_RESOURCE_EXHAUSTED ? 10000 : 0);
    } while (status == FAS_RESOURCE_EXHAUSTED);
    if (status != FAS_OK) {
        fail("memory", &error);
    }
    return memory;
}

/* Until it is told to stop, or killed. */
static void run_client(int number)
{
    static struct slot slots[IN_FLIGHT];
    struct client *self = &shared->clients[number];
    int places = strcmp(daemon_device_kind(), "cuda") == 0 ? 3 : 2;
    struct fas_client *client = connect_client();
    own_place = (enum fas_place)(number % places);
    uint8_t *memory = allocate(client, own_place);
    struct fas_error error;
    dice = random_open(options.seed + (uint64_t)getpid() * 1000003);
    for (int i = 0; i < IN_FLIGHT; i++) {
        slot_open(&slots[i], memory + i * SLOT_BYTES);
        slots[i].may_retain = own_place == FAS_PLACE_INLINE;
    }
    for (unsigned long long i = 0; !shared->stop; i++) {
        struct slot *slot = &slots[i % IN_FLIGHT];
        if (slot->call) {
            slot_end(slot, self, client);
        }
        slot_fill(slot, i);
        if (fas_submit(client, &slot->request, &slot->call, &error) != FAS_OK) {
            fail("submit", &error);
        }
        self->sent++;
    }
    for (int i = 0; i < IN_FLIGHT; i++) {
        if (slots[i].call) {
            slot_end(&slots[i], self, client);
        }
    }
    fas_close(client);
    _exit(EXIT_SUCCESS);
}

static void start_client(int number)
{
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        run_client(number);
    }
    shared->clients[number].pid = pid;
}

/* ---- looking at the daemon, from a process of its own ---- */

/* Free memory of the GPU, 0: there is none. */
static long device_free_kib(void)
{
    static const char *const names[] = {"cuInit", "cuDevicePrimaryCtxRetain", "cuCtxPushCurrent_v2",
                                        "cuMemGetInfo_v2"};
    void *library = dlopen("libcuda.so.1", RTLD_NOW), *functions[4] = {NULL}, *context;
    size_t free_bytes = 0, total;
    int (*init)(unsigned), (*retain)(void **, int), (*push)(void *), (*info)(size_t *, size_t *);
    for (int i = 0; library && i < 4; i++) {
        functions[i] = dlsym(library, names[i]);
    }
    if (!functions[3]) {
        return 0;
    }
    memcpy(&init, &functions[0], sizeof init);
    memcpy(&retain, &functions[1], sizeof retain);
    memcpy(&push, &functions[2], sizeof push);
    memcpy(&info, &functions[3], sizeof info);
    bool known = init(0) == 0 && retain(&context, 0) == 0 && push(context) == 0 &&
                 info(&free_bytes, &total) == 0;
    return known ? (long)(free_bytes / 1024) : 0;
}

static void read_stats(struct fas_client *client, struct look *look)
{
    static struct fas_stat stats[512];
    struct fas_error error;
    uint32_t count;
    if (fas_stats(client, 10000, stats, 512, &count, &error) != FAS_OK) {
        fail("stats", &error);
    }
    const struct {
        const char *name;
        double *value;
    } rows[] = {
        {"requests_received", &look->received},
        {"requests_in_flight", &look->in_flight},
        {"places", &look->places},
        {"retained_bytes", &look->retained_bytes},
        {"region_bytes", &look->region_bytes},
        {daemon_arena_stat(), &look->arena_bytes},
    };
    look->answered = 0;
    for (uint32_t i = 0; i < count; i++) {
        for (size_t row = 0; row < sizeof rows / sizeof rows[0]; row++) {
            if (strcmp(stats[i].name, rows[row].name) == 0) {
                *rows[row].value = stats[i].value;
            }
        }
        bool answers = strncmp(stats[i].name, "requests_", 9) == 0 &&
                       strcmp(stats[i].name, "requests_received") != 0 &&
                       strcmp(stats[i].name, "requests_in_flight") != 0;
        look->answered += answers ? stats[i].value : 0;
    }
}

/* What those who are gone held is given back within moments. */
static void look_now(struct look *look)
{
    struct fas_client *client = connect_client();
    bool quiet = false;
    for (int tries = 0; !quiet && tries < 1000; tries++) {
        usleep(10000);
        read_stats(client, look);
        quiet = look->in_flight == 0 && look->places == 0 && look->retained_bytes == 0;
    }
    fas_close(client);
    usleep(100000);
    look->descriptors = daemon_descriptors(&server);
    look->resident_kib = daemon_resident_kib(&server);
    look->device_free_kib = strcmp(daemon_device_kind(), "cuda") == 0 ? device_free_kib() : 0;
}

static struct look look_from_outside(void)
{
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        look_now(&shared->look);
        _exit(EXIT_SUCCESS);
    }
    waitpid(pid, NULL, 0);
    return shared->look;
}

/* ---- the whole ---- */

static unsigned long long answered(void)
{
    unsigned long long sum = 0;
    for (int i = 0; i < options.clients; i++) {
        sum += shared->clients[i].answered;
    }
    return sum;
}

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static bool died_by_itself(void)
{
    for (int i = 0; i < options.clients; i++) {
        if (waitpid(shared->clients[i].pid, NULL, WNOHANG) != 0) {
            return true;
        }
    }
    return false;
}

/* Kills and starts clients until so many requests were answered; returns the kills. */
static int run_until(unsigned long long requests, int kill_ms)
{
    int kills = 0;
    while (answered() < requests && !shared->failed && !died_by_itself()) {
        usleep((useconds_t)random_below(&dice, (uint64_t)kill_ms * 2000 + 1));
        int victim = (int)random_below(&dice, (uint64_t)options.clients);
        kill(shared->clients[victim].pid, SIGKILL);
        waitpid(shared->clients[victim].pid, NULL, 0);
        start_client(victim);
        kills++;
    }
    return kills;
}

/* Starts clients, lets them run, and looks when they are gone. */
static struct look phase(unsigned long long requests, int kill_ms, int *kills)
{
    int ended = 0;
    shared->stop = false;
    for (int i = 0; i < options.clients; i++) {
        start_client(i);
    }
    *kills = run_until(requests, kill_ms);
    shared->stop = true;
    for (int i = 0; i < options.clients; i++) {
        int status = 0;
        ended += waitpid(shared->clients[i].pid, &status, 0) > 0 && status == 0;
    }
    if (ended < options.clients && !shared->failed) {
        shared->failed = 1;
        snprintf(shared->why, sizeof shared->why, "a client died by itself");
    }
    return look_from_outside();
}

static bool same(const char *what, double before, double after, double slack)
{
    bool good = after - before <= slack;
    printf("%-24s %14.0f %14.0f%s\n", what, before, after, good ? "" : "   <- grew");
    return good;
}

static bool compare(const struct look *before, const struct look *after)
{
    bool good = true, far = strcmp(daemon_device_kind(), "far") == 0;
    printf("%-24s %14s %14s\n", "", "early", "at the end");
    good &= same("resident KiB", (double)before->resident_kib, (double)after->resident_kib,
                 far ? SLACK_FAR_KIB : SLACK_KIB);
    good &= same("descriptors", before->descriptors, after->descriptors, 0);
    good &= same("device KiB in use", 0, (double)(before->device_free_kib - after->device_free_kib),
                 SLACK_DEVICE_KIB);
    good &= same("requests in flight", 0, after->in_flight, 0);
    good &= same("places", 0, after->places, 0);
    good &= same("region bytes", 0, after->region_bytes, 0);
    good &= same("retained bytes", 0, after->retained_bytes, 0);
    good &= same("arena bytes in use", 0, after->arena_bytes, 0);
    good &= same("requests not answered", 0, after->received - after->answered, 0);
    good &= same("requests answered twice", 0, after->answered - after->received, 0);
    return good;
}

static bool read_options(int argc, char **argv)
{
    bool good = argc % 2 == 1;
    for (int i = 1; i + 1 < argc; i += 2) {
        unsigned long long value = strtoull(argv[i + 1], NULL, 0);
        if (strcmp(argv[i], "--requests") == 0) {
            options.requests = value;
        } else if (strcmp(argv[i], "--clients") == 0) {
            options.clients = (int)value;
        } else if (strcmp(argv[i], "--kill-ms") == 0) {
            options.kill_ms = (int)value;
        } else if (strcmp(argv[i], "--seed") == 0) {
            options.seed = value;
        } else {
            good = false;
        }
    }
    return good && options.clients > 0 && options.clients <= CLIENTS_MAX && options.kill_ms > 0;
}

int main(int argc, char **argv)
{
    static const char *const arguments[] = {"--device",
                                            "cpu:0",
                                            "--cpu-threads",
                                            "2",
                                            "--arena-bytes",
                                            "256MiB",
                                            "--region-bytes",
                                            "1GiB",
                                            "--connections-max",
                                            "200",
                                            NULL};
    int kills_early, kills;
    if (!read_options(argc, argv)) {
        fprintf(stderr, "soak --requests N --clients N --kill-ms N --seed N\n");
        return 64;
    }
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert(shared != MAP_FAILED);
    dice = random_open(options.seed);
    daemon_start(&server, arguments);
    /* Tables of the daemon are there page by page, as clients first come to each entry: in a great
     * hurry, so that all have been used when the first look is taken. */
    struct look before = phase(options.requests / 4, 1, &kills_early);
    unsigned long long already = answered();
    double start = seconds();
    struct look after = phase(options.requests, options.kill_ms, &kills);
    double took = seconds() - start;
    printf(
        "%llu replies seen, %llu of them in %.1f s by %d clients: %.0f a second, every one right; "
        "%d clients killed\n",
        answered(), answered() - already, took, options.clients,
        (double)(answered() - already) / took, kills_early + kills);
    bool good = compare(&before, &after) && answered() >= options.requests;
    if (shared->failed) {
        fprintf(stderr, "%s\n", shared->why);
    }
    bool stopped = daemon_stop(&server) == 0;
    return good && stopped && !shared->failed ? EXIT_SUCCESS : EXIT_FAILURE;
}
