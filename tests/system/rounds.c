/*
 * rounds: calls that end in every way there is at every moment of their lives, and the caller puts
 * something else into their outputs in the very callback that says so: no byte of them changes any
 * more. `rounds --place inline|region|cuda --rounds 300 --kills 5`; FASERVED_KIND says on which
 * device. `--stream 1`: the calls are on a CUDA stream, which goes on behind each, and some have a
 * done event, which comes to pass once it is said to be recorded.
 *
 * The memory of the last SETS calls is looked at again just before it is used anew, and all of it
 * before a connection is closed, so a late write has some tens of calls' time to be seen.
 */
#include <assert.h>
#include <dlfcn.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "client/faserve.h"
#include "tests/support/daemon.h"
#include "tests/support/random.h"

enum { SETS = 12, CALLS_MAX = 3, WORKS = 4, SEQUENCES_MAX = 8, TENTHS = 13, ANSWER_MS = 30000 };

/* Longer than any launch or copy that a dead daemon could have left with its device. */
enum { AFTER_CUT_US = 3000, AFTER_KILL_US = 60000 };

struct shape {
    enum fas_pass pass;
    struct fas_dims dims; /* its totals are filled in */
    int32_t batch, len;
    int forward; /* BACKWARD: the work that has its o and lse */
};

/* Sizes with which a request takes a few ms on either kind of device. */
static const struct shape shapes_cpu[WORKS] = {
    {FAS_FORWARD, {FAS_BF16, 2, 1, 64, 64, 0, 0}, 3, 40, 0},
    {FAS_FORWARD, {FAS_FP32, 2, 2, 64, 64, 0, 0}, 8, 300, 0},
    {FAS_BACKWARD, {FAS_FP32, 2, 2, 64, 64, 0, 0}, 8, 300, 1},
    {FAS_FORWARD, {FAS_BF16, 16, 16, 128, 128, 0, 0}, 6, 60, 0},
};
static const struct shape shapes_cuda[WORKS] = {
    {FAS_FORWARD, {FAS_BF16, 2, 1, 64, 64, 0, 0}, 3, 40, 0},
    {FAS_FORWARD, {FAS_BF16, 4, 2, 128, 128, 0, 0}, 2, 2000, 0},
    {FAS_BACKWARD, {FAS_BF16, 4, 2, 128, 128, 0, 0}, 2, 2000, 1},
    {FAS_FORWARD, {FAS_FP16, 2, 2, 128, 128, 0, 0}, 1, 9000, 0},
};

struct work {
    struct fas_request request; /* without memory */
    int32_t cu[SEQUENCES_MAX + 1];
    uint32_t inputs, outputs;
    void *host[FAS_TENSOR_COUNT]; /* inputs; outputs as they should be */
    uint8_t *shared[FAS_TENSOR_COUNT];
    uint64_t output_bytes;
    uint64_t usual_us; /* undisturbed */
};

/* The outputs of one call. */
struct set {
    uint8_t *outputs, *mirror; /* in the place; of the host */
    const struct work *work;
    struct fas_call *call;
    void *done; /* cudaEvent_t; NULL: there is no stream */
    uint8_t fill;
    bool used, judged, has_done;
    atomic_bool wrong;
    enum fas_status status;
};

enum ending { CANCEL, DEADLINE, HALF, NONSENSE, KILL, ENDINGS };
static const char *const ending_names[ENDINGS] = {"cancel", "deadline", "half closed", "nonsense",
                                                  "killed daemon"};

static struct options {
    enum fas_place place;
    int rounds, kills;
    uint64_t seed, seconds; /* seconds: at most */
    bool stream;
} options = {FAS_PLACE_INLINE, 300, 5, 1, 86400, false};

static struct count {
    int rounds, calls, done, early;
    int tenths[TENTHS]; /* of the early: when, in tenths of the usual time */
} counts[ENDINGS];

static struct daemon server;
static struct fas_client *client;
static struct work works[WORKS];
static struct set sets[SETS];
static uint64_t set_bytes;
static struct random dice;
static int next_set, round_now;
static void *stream; /* NULL: none */
static int (*query_stream)(void *stream), (*query_event)(void *event);

static _Noreturn void die(const char *what, const struct fas_error *error)
{
    fprintf(stderr, "round %d: %s%s%s %s\n", round_now, what, error ? ": " : "",
            error ? error->field : "", error ? error->text : "");
    if (server.pid > 0) { /* 0 is the test's own group, and who runs it with it */
        daemon_print_log(&server);
        kill(server.pid, SIGKILL);
    }
    exit(EXIT_FAILURE);
}

static uint64_t now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000u + (uint64_t)now.tv_nsec / 1000u;
}

static void copy(void *to, const void *from, uint64_t bytes)
{
    struct fas_error error;
    if (fas_copy(to, from, bytes, &error) != FAS_OK) {
        die("fas_copy", &error);
    }
}

/* ---- the stream ---- */

enum { NON_BLOCKING = 1, INTERPROCESS = 6, NOT_READY = 600 };

static void open_stream(void)
{
    int (*init)(unsigned flags), (*retain)(void **context, int device), (*push)(void *context);
    int (*create)(void **stream, unsigned flags), (*create_event)(void **event, unsigned flags);
    void *context, *library = dlopen("libcuda.so.1", RTLD_NOW);
    *(void **)&init = library ? dlsym(library, "cuInit") : NULL;
    *(void **)&retain = library ? dlsym(library, "cuDevicePrimaryCtxRetain") : NULL;
    *(void **)&push = library ? dlsym(library, "cuCtxPushCurrent_v2") : NULL;
    *(void **)&create = library ? dlsym(library, "cuStreamCreate") : NULL;
    *(void **)&create_event = library ? dlsym(library, "cuEventCreate") : NULL;
    *(void **)&query_stream = library ? dlsym(library, "cuStreamQuery") : NULL;
    *(void **)&query_event = library ? dlsym(library, "cuEventQuery") : NULL;
    if (!library || init(0) != 0 || retain(&context, 0) != 0 || push(context) != 0 ||
        create(&stream, NON_BLOCKING) != 0) {
        die("no stream", NULL);
    }
    for (int i = 0; i < SETS; i++) {
        if (create_event(&sets[i].done, INTERPROCESS) != 0) {
            die("no event", NULL);
        }
    }
}

/* It is recorded. */
static void event_comes_to_pass(void *event)
{
    int waited_ms = 0;
    while (query_event(event) == NOT_READY && waited_ms++ < ANSWER_MS) {
        usleep(1000);
    }
    if (query_event(event) != 0) {
        die("the done event does not come to pass", NULL);
    }
}

/* All its calls have ended. */
static void stream_goes_on(void)
{
    int waited_ms = 0;
    while (stream && query_stream(stream) == NOT_READY && waited_ms++ < ANSWER_MS) {
        usleep(1000);
    }
    if (stream && query_stream(stream) != 0) {
        die("the stream does not go on", NULL);
    }
}

/* ---- what is computed ---- */

static uint64_t round_up(uint64_t bytes)
{
    return (bytes + 255) / 256 * 256;
}

/* Values of -2 to 2 of any type but fp16, whose bits are cut to small numbers. */
static void *random_values(uint64_t bytes, enum fas_dtype dtype)
{
    uint8_t *memory = malloc(bytes);
    assert(memory);
    for (uint64_t i = 0; i < bytes; i += fas_dtype_bytes(dtype)) {
        float value = (float)(random_unit(&dice) * 4 - 2);
        uint32_t bits;
        memcpy(&bits, &value, 4);
        uint16_t half =
            dtype == FAS_FP16 ? (uint16_t)(bits >> 16 & 0xbbff) : (uint16_t)(bits >> 16);
        memcpy(memory + i, dtype == FAS_FP32 ? (void *)&bits : (void *)&half,
               fas_dtype_bytes(dtype));
    }
    return memory;
}

static uint32_t set_of(const enum fas_tensor *tensors, int count)
{
    uint32_t set = 0;
    for (int i = 0; i < count; i++) {
        set |= 1u << tensors[i];
    }
    return set;
}

/* Inputs of a backward that its forward has or gives are that forward's. */
static void work_open(struct work *work, const struct shape *shape)
{
    static const enum fas_tensor in[] = {FAS_Q, FAS_K, FAS_V, FAS_O, FAS_LSE, FAS_DO};
    static const enum fas_tensor out[] = {FAS_O, FAS_LSE}, gradients[] = {FAS_DQ, FAS_DK, FAS_DV};
    bool backward = shape->pass == FAS_BACKWARD;
    work->inputs = set_of(in, backward ? 6 : 3);
    work->outputs = backward ? set_of(gradients, 3) : set_of(out, 2);
    for (int32_t i = 0; i < shape->batch; i++) {
        work->cu[i + 1] = work->cu[i] + shape->len - i * 5;
    }
    work->request = (struct fas_request){.pass = shape->pass,
                                         .dims = shape->dims,
                                         .batch = shape->batch,
                                         .mask.has_right = true,
                                         .deterministic = backward,
                                         .q.cu_seqlens = work->cu,
                                         .k.cu_seqlens = work->cu};
    struct fas_dims *dims = &work->request.dims;
    dims->total_q = dims->total_k = work->cu[shape->batch];
    for (int tensor = 0; tensor < FAS_TENSOR_COUNT; tensor++) {
        uint64_t bytes = fas_tensor_bytes(dims, (enum fas_tensor)tensor);
        if (work->outputs >> tensor & 1) {
            work->host[tensor] = calloc(1, bytes);
            work->output_bytes += round_up(bytes);
        } else if (work->inputs >> tensor & 1) {
            work->host[tensor] = backward && tensor != FAS_DO ? works[shape->forward].host[tensor]
                                                              : random_values(bytes, dims->dtype);
        }
    }
    set_bytes = work->output_bytes > set_bytes ? work->output_bytes : set_bytes;
}

/* The request with its outputs in a set. */
static struct fas_request request_in(const struct work *work, uint8_t *outputs)
{
    struct fas_request request = work->request;
    for (int tensor = 0; tensor < FAS_TENSOR_COUNT; tensor++) {
        if (work->inputs >> tensor & 1) {
            request.tensors[tensor].data = work->shared[tensor];
        } else if (work->outputs >> tensor & 1) {
            request.tensors[tensor].data = outputs;
            outputs += round_up(fas_tensor_bytes(&request.dims, (enum fas_tensor)tensor));
        }
    }
    return request;
}

/* Outputs, in the mirror, against what they should be; `learn`: they are what they should be. */
static bool right(const struct work *work, const uint8_t *outputs, bool learn)
{
    bool same = true;
    for (int tensor = 0; tensor < FAS_TENSOR_COUNT; tensor++) {
        if (work->outputs >> tensor & 1) {
            uint64_t bytes = fas_tensor_bytes(&work->request.dims, (enum fas_tensor)tensor);
            if (learn) {
                memcpy(work->host[tensor], outputs, bytes);
            }
            same = same && memcmp(work->host[tensor], outputs, bytes) == 0;
            outputs += round_up(bytes);
        }
    }
    return same;
}

/* ---- a connection and its memory ---- */

static uint8_t *take(uint8_t **memory, uint64_t bytes)
{
    uint8_t *taken = *memory;
    *memory += round_up(bytes);
    return taken;
}

static uint64_t bytes_in_all(void)
{
    uint64_t bytes = SETS * round_up(set_bytes);
    for (int i = 0; i < WORKS; i++) {
        for (uint32_t left = works[i].inputs; left; left &= left - 1) {
            enum fas_tensor tensor = (enum fas_tensor)__builtin_ctz(left);
            bytes += round_up(fas_tensor_bytes(&works[i].request.dims, tensor));
        }
    }
    return bytes;
}

static void share_inputs(struct work *work, uint8_t **memory)
{
    for (uint32_t left = work->inputs; left; left &= left - 1) {
        int tensor = __builtin_ctz(left);
        uint64_t bytes = fas_tensor_bytes(&work->request.dims, (enum fas_tensor)tensor);
        work->shared[tensor] = take(memory, bytes);
        copy(work->shared[tensor], work->host[tensor], bytes);
    }
}

/* Undisturbed, twice: the first time says what is right, the second how long it takes. */
static void run_once(struct work *work)
{
    struct fas_report report;
    struct set *set = &sets[0];
    for (int time = 0; time < 2; time++) {
        struct fas_request request = request_in(work, set->outputs);
        if (fas_run(client, &request, &report) != FAS_OK) {
            die("undisturbed", &report.error);
        }
        copy(set->mirror, set->outputs, work->output_bytes);
        if (!right(work, set->mirror, time == 0)) {
            die("undisturbed, and other bits than the last time", NULL);
        }
    }
    if (report.places != 1u << options.place) {
        die("the tensors were elsewhere", NULL);
    }
    work->usual_us = report.client_us;
}

static void connect_and_share(bool learn)
{
    struct fas_connect_options connect = {.url = server.url, .connections = daemon_connections()};
    struct fas_error error;
    void *memory = NULL;
    if (fas_connect(&connect, &client, &error) != FAS_OK ||
        fas_alloc(client, options.place, bytes_in_all(), &memory, &error) != FAS_OK) {
        die("connect", &error);
    }
    uint8_t *left = memory;
    for (int i = 0; i < SETS; i++) {
        sets[i] = (struct set){
            .outputs = take(&left, set_bytes), .mirror = sets[i].mirror, .done = sets[i].done};
    }
    for (int i = 0; i < WORKS; i++) {
        share_inputs(&works[i], &left);
        if (learn) {
            run_once(&works[i]);
        }
    }
}

static void start_daemon(void)
{
    static const char *const arguments[] = {"--device",
                                            "cpu:0",
                                            "--cpu-threads",
                                            "1",
                                            "--arena-bytes",
                                            "512MiB",
                                            "--region-bytes",
                                            "1GiB",
                                            "--slice-time",
                                            "2ms",
                                            NULL};
    daemon_start(&server, arguments);
}

/* ---- a call's outputs after its end ---- */

static void refill(struct fas_call *call, const struct fas_report *report, void *context)
{
    struct set *set = context;
    (void)call;
    set->status = report->error.status;
    if (set->status == FAS_OK && set->judged) {
        copy(set->mirror, set->outputs, set->work->output_bytes);
        set->wrong = !right(set->work, set->mirror, false);
    }
    memset(set->mirror, set->fill, set_bytes);
    copy(set->outputs, set->mirror, set_bytes);
}

static void look_again(struct set *set)
{
    if (!set->used) {
        return;
    }
    copy(set->mirror, set->outputs, set_bytes);
    bool same =
        set->mirror[0] == set->fill && memcmp(set->mirror, set->mirror + 1, set_bytes - 1) == 0;
    if (!same) {
        uint64_t i = 0;
        while (set->mirror[i] == set->fill) {
            i++;
        }
        fprintf(stderr, "byte %llu of %llu is %02x, not %02x; the call had ended with %s\n",
                (unsigned long long)i, (unsigned long long)set_bytes, set->mirror[i], set->fill,
                fas_status_name(set->status));
        die("memory was written after the call's end", NULL);
    }
    set->used = false;
}

static void look_at_all(void)
{
    for (int i = 0; i < SETS; i++) {
        look_again(&sets[i]);
    }
}

/* ---- endings ---- */

/* The client's end of its connection: the socket whose other end is the daemon's. */
static int find_socket(void)
{
    int found = -1;
    for (int fd = 3; fd < 1024 && found < 0; fd++) {
        struct sockaddr_un peer = {0};
        socklen_t length = sizeof peer;
        if (getpeername(fd, (struct sockaddr *)&peer, &length) == 0 && peer.sun_family == AF_UNIX &&
            strcmp(peer.sun_path, server.socket) == 0) {
            found = fd;
        }
    }
    return found;
}

static void end_calls(enum ending ending, struct set **ended, int count)
{
    static const char nonsense[64] = "no frame begins like this, and the daemon hangs up";
    if (ending == CANCEL) {
        for (int i = 0; i < count; i++) {
            fas_cancel(ended[i]->call);
        }
    } else if (ending == KILL) {
        kill(server.pid, SIGKILL);
    } else if (ending == HALF || ending == NONSENSE) {
        int fd = find_socket();
        if (fd >= 0 && ending == NONSENSE) {
            send(fd, nonsense, sizeof nonsense, MSG_DONTWAIT | MSG_NOSIGNAL);
        }
        if (fd >= 0) { /* what was said is heard first */
            shutdown(fd, SHUT_WR);
        }
    }
}

static bool may_end(enum ending ending, enum fas_status status)
{
    static const enum fas_status statuses[ENDINGS] = {FAS_CANCELLED, FAS_DEADLINE_EXCEEDED,
                                                      FAS_UNAVAILABLE, FAS_INVALID_ARGUMENT,
                                                      FAS_UNAVAILABLE};
    return status == FAS_OK || status == statuses[ending] ||
           (ending == NONSENSE && status == FAS_UNAVAILABLE);
}

static void reconnect(enum ending ending)
{
    usleep(ending == KILL ? AFTER_KILL_US : AFTER_CUT_US);
    look_at_all();
    fas_close(client);
    if (ending == KILL) {
        daemon_wait(&server);
        start_daemon();
    }
    connect_and_share(false);
}

/* ---- a round ---- */

static void wait_until(uint64_t when_us)
{
    uint64_t now = now_us();
    if (when_us > now + 100) {
        usleep((useconds_t)(when_us - now - 60));
    }
    while (now_us() < when_us) {
    }
}

static void submit(struct set *set, const struct work *work, enum ending ending, uint64_t after_us)
{
    struct fas_error error;
    look_again(set);
    set->used = true;
    set->work = work;
    set->wrong = false;
    set->judged = ending != NONSENSE; /* which may land among the inputs */
    set->fill = (uint8_t)(1 + random_below(&dice, 254));
    struct fas_request request = request_in(work, set->outputs);
    request.on_end = refill;
    request.context = set;
    request.stream = stream;
    request.done_event = set->done && random_below(&dice, 2) ? set->done : NULL;
    set->has_done = request.done_event != NULL;
    request.deadline_us = ending == DEADLINE ? after_us + 1 : 0;
    if (fas_submit(client, &request, &set->call, &error) != FAS_OK) {
        die("submit", &error);
    }
}

static void account(enum ending ending, struct set *set, uint64_t after_us, uint64_t usual_us)
{
    struct count *count = &counts[ending];
    uint64_t tenth = after_us * 10 / usual_us;
    if (!fas_wait(set->call, ANSWER_MS)) {
        die("a call does not end", NULL);
    }
    const struct fas_report *report = fas_call_report(set->call);
    if (!may_end(ending, report->error.status) || set->wrong) {
        die(set->wrong ? "wrong results" : ending_names[ending], &report->error);
    }
    /* That of a daemon that was killed may be pending for ever. */
    if (set->has_done && ending != KILL && fas_enqueued(set->call, 0)) {
        event_comes_to_pass(set->done);
    }
    count->calls++;
    count->done += report->error.status == FAS_OK;
    if (report->error.status != FAS_OK) {
        count->early++;
        count->tenths[tenth < TENTHS ? tenth : TENTHS - 1]++;
    }
    fas_call_close(set->call);
}

static void run_round(enum ending ending)
{
    struct set *mine[CALLS_MAX];
    int calls = 1 + (int)random_below(&dice, CALLS_MAX);
    const struct work *chosen[CALLS_MAX];
    uint64_t usual_us = 0;
    for (int i = 0; i < calls; i++) {
        chosen[i] = &works[random_below(&dice, WORKS)];
        usual_us += chosen[i]->usual_us;
    }
    uint64_t after_us = (uint64_t)(random_unit(&dice) * 1.2 * (double)usual_us);
    uint64_t start_us = now_us();
    for (int i = 0; i < calls; i++) {
        mine[i] = &sets[next_set++ % SETS];
        submit(mine[i], chosen[i], ending, after_us);
    }
    wait_until(start_us + (ending == DEADLINE ? 0 : after_us));
    end_calls(ending, mine, calls);
    for (int i = 0; i < calls; i++) {
        account(ending, mine[i], after_us, usual_us);
    }
    stream_goes_on();
    counts[ending].rounds++;
    if (ending >= HALF) {
        reconnect(ending);
    }
}

/* ---- the whole ---- */

static void print_counts(void)
{
    printf("%-14s %7s %7s %7s %7s   when they ended early, in tenths of the usual time\n", "ending",
           "rounds", "calls", "done", "early");
    for (int i = 0; i < ENDINGS; i++) {
        const struct count *count = &counts[i];
        printf("%-14s %7d %7d %7d %7d  ", ending_names[i], count->rounds, count->calls, count->done,
               count->early);
        for (int t = 0; t < TENTHS; t++) {
            printf(" %d", count->tenths[t]);
        }
        printf("\n");
    }
}

static bool read_options(int argc, char **argv)
{
    static const char *const places[] = {"inline", "region", "cuda"};
    for (int i = 1; i + 1 < argc; i += 2) {
        const char *name = argv[i], *value = argv[i + 1];
        if (strcmp(name, "--rounds") == 0) {
            options.rounds = atoi(value);
        } else if (strcmp(name, "--kills") == 0) {
            options.kills = atoi(value);
        } else if (strcmp(name, "--seed") == 0) {
            options.seed = strtoull(value, NULL, 0);
        } else if (strcmp(name, "--seconds") == 0) {
            options.seconds = strtoull(value, NULL, 0);
        } else if (strcmp(name, "--stream") == 0) {
            options.stream = atoi(value) != 0;
        } else if (strcmp(name, "--place") == 0) {
            for (int place = 0; place < 3; place++) {
                if (strcmp(value, places[place]) == 0) {
                    options.place = (enum fas_place)place;
                }
            }
        } else {
            return false;
        }
    }
    return argc % 2 == 1 && options.rounds > options.kills;
}

int main(int argc, char **argv)
{
    /* A cut takes another connection, and more time than the others together. */
    static const enum ending likely[8] = {CANCEL, CANCEL,   CANCEL, CANCEL,
                                          CANCEL, DEADLINE, HALF,   NONSENSE};
    bool cuda = strcmp(daemon_device_kind(), "cuda") == 0;
    const struct shape *shapes = cuda ? shapes_cuda : shapes_cpu;
    if (!read_options(argc, argv)) {
        fprintf(stderr, "rounds --place inline|region|cuda --rounds N --kills N --seed N "
                        "--seconds N --stream 0|1\n");
        return 64;
    }
    dice = random_open(options.seed);
    for (int i = 0; i < WORKS; i++) {
        work_open(&works[i], &shapes[i]);
    }
    for (int i = 0; i < SETS; i++) {
        sets[i].mirror = malloc(set_bytes);
        assert(sets[i].mirror);
    }
    if (options.stream) {
        open_stream();
    }
    start_daemon();
    connect_and_share(true);
    uint64_t end_us = now_us() + options.seconds * 1000000u;
    for (round_now = 0; round_now < options.rounds && now_us() < end_us; round_now++) {
        bool kill_now = options.kills > 0 && round_now % (options.rounds / options.kills) == 1;
        run_round(kill_now ? KILL : likely[random_below(&dice, 8)]);
    }
    usleep(AFTER_KILL_US);
    look_at_all();
    fas_close(client);
    print_counts();
    return daemon_stop(&server) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
