/*
 * baseline.c: a request read from JSON takes the daemon's own way (wire, shape, sequences, layout,
 * device) up to the launch, and only the launch is timed; then, if asked for, copies of as many
 * bytes as it would bring and take along.
 */
#include "server/baseline.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <math.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/clock.h"
#include "server/device.h"
#include "server/exit.h"
#include "server/request.h"

#define FILE_BYTES_MAX (16u << 20)
#define RUNS_MIN 3
#define RUNS_MAX 10000
#define PIECE_BYTES FAS_ROW_BYTES_MAX /* a slab has that much */
#define NUMBERS_BYTES (16 * PIECE_BYTES)
#define LSE_TYPICAL 5.0f /* of some hundred keys: any finite value times the same */
#define SETS_MAX 256
/* Not counted, after the GPU has rested while its memory was filled: no load that goes on rests. */
#define WARM_SECONDS 0.25
/* Some dozens of a large request's copies. */
#define COPY_SECONDS_MAX 0.3
/* Of a request each way, each as large as half of the device's pinned memory. */
#define COPY_PIECES_MAX 32

/* How a request is timed. */
struct pace {
    double seconds;
    int ahead; /* launches with the device at once */
    int parts; /* launches of a request (attn_launch.part) */
};

/* What crosses the bus for a request, both ways at once. */
struct copies {
    uint64_t in_bytes, out_bytes;
    double us; /* of a request's, one after the other; 0: nothing is copied */
};

struct timing {
    struct pace pace;
    struct request request;
    int32_t sets; /* as many requests, one after the other in the arena */
    int runs;
    uint64_t us[RUNS_MAX];
    uint64_t began_us, ended_us; /* all runs */
};

/* ---- JSON -> request ---- */

static double number(const cJSON *object, const char *name, double absent)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);
    return cJSON_IsNumber(item) ? item->valuedouble : absent;
}

static bool text_is(const cJSON *object, const char *name, const char *value)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);
    return cJSON_IsString(item) && strcmp(item->valuestring, value) == 0;
}

static enum fas_dtype dtype_of(const cJSON *object)
{
    for (int dtype = 0; dtype < FAS_DTYPE_COUNT; dtype++) {
        if (text_is(object, "dtype", fas_dtype_name((enum fas_dtype)dtype))) {
            return (enum fas_dtype)dtype;
        }
    }
    return FAS_BF16;
}

/* Lengths -> cu_seqlens, allocated; NULL if they are missing or no lengths. */
static int32_t *read_lengths(const cJSON *array, int32_t *count)
{
    const cJSON *item;
    int64_t total = 0;
    *count = cJSON_IsArray(array) ? cJSON_GetArraySize(array) : 0;
    int32_t *cu = calloc((size_t)*count + 1, sizeof *cu);
    int32_t i = 0;
    cJSON_ArrayForEach(item, array)
    {
        if (!cu || !cJSON_IsNumber(item) || item->valuedouble < 0 ||
            item->valuedouble > FAS_ROWS_MAX || (total += item->valueint) > FAS_ROWS_MAX) {
            free(cu);
            return NULL;
        }
        cu[++i] = (int32_t)total;
    }
    return cu;
}

/* Decoded as if it had come over the wire, so that the same rules judge it. */
static enum fas_status read_request(const cJSON *object, struct wire_request *wire,
                                    const int32_t *cu_q, const int32_t *cu_k,
                                    struct fas_error *error)
{
    uint8_t header[FAS_HEADER_BYTES_MAX];
    *wire = (struct wire_request){
        .pass = text_is(object, "pass", "backward") ? FAS_BACKWARD : FAS_FORWARD,
        .batch = wire->batch,
        .q.has_cu_seqlens = true,
        .k.has_cu_seqlens = true,
        .softcap = (float)number(object, "softcap", 0),
        .deterministic = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(object, "deterministic")),
    };
    double hq = number(object, "hq", 0), d = number(object, "d", 0);
    wire->dims = (struct fas_dims){.dtype = dtype_of(object),
                                   .hq = (int32_t)hq,
                                   .hkv = (int32_t)number(object, "hkv", hq),
                                   .d = (int32_t)d,
                                   .dv = (int32_t)number(object, "dv", d),
                                   .total_q = cu_q[wire->batch],
                                   .total_k = cu_k[wire->batch]};
    double left = number(object, "left", -1), right = number(object, "right", -1);
    wire->mask = (struct wire_mask){.has_left = left >= 0,
                                    .has_right = right >= 0,
                                    .left = left >= 0 ? (int32_t)left : 0,
                                    .right = right >= 0 ? (int32_t)right : 0};
    size_t bytes = wire_encode_request(wire, header);
    return wire_decode_request(header, bytes, wire, error);
}

/* ---- running it ---- */

static void wake(void *context)
{
    sem_post(context);
}

/* The next completion: a wake may be for several, and some then come without one. */
static enum fas_status await(struct device *device, struct device_completion *completion,
                             struct fas_error *error)
{
    while (!device->ops->take(device, completion)) {
        sem_wait(device->wake_context);
    }
    if (completion->failed) {
        return fas_fail(error, FAS_DEVICE_FAULT, "", "%s failed: %s", device->name, device->fault);
    }
    return FAS_OK;
}

/* splitmix64 (Vigna 2015). */
static uint64_t random_next(uint64_t *state)
{
    uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/* Uniform in [-1, 1), as fasctl's loads are: what a GPU at its power cap reaches depends on the
 * bits. Types of 16 bits get those of bf16, which fp16 reads as numbers, too. */
static void fill_numbers(bool fp32, uint64_t *state, uint8_t *piece, uint64_t bytes)
{
    uint16_t *halves = (uint16_t *)(void *)piece;
    float *floats = (float *)(void *)piece;
    for (uint64_t i = 0; i < bytes / (fp32 ? 4 : 2); i++) {
        float value = (float)(int32_t)(random_next(state) >> 32) * (1.0f / 2147483648.0f);
        uint32_t bits;
        memcpy(&bits, &value, sizeof bits);
        if (fp32) {
            floats[i] = value;
        } else {
            halves[i] = (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
        }
    }
}

/* A piece of them. Gigabytes of new numbers take seconds, so pieces are cut from the same ones,
 * each from a place of its own: where q met itself in k, weights would be other than usual. */
static const uint8_t *some_numbers(bool fp32, uint64_t offset)
{
    static uint8_t *numbers[2];
    uint64_t state = 88172645463325252u;
    if (!numbers[fp32]) {
        numbers[fp32] = malloc(NUMBERS_BYTES + PIECE_BYTES);
        if (!numbers[fp32]) {
            abort();
        }
        fill_numbers(fp32, &state, numbers[fp32], NUMBERS_BYTES + PIECE_BYTES);
    }
    state = offset;
    return numbers[fp32] + random_next(&state) % NUMBERS_BYTES / 4 * 4;
}

/* A piece of the request's span, at `offset` of it. */
static void fill_piece(const struct request *request, uint64_t offset, uint8_t *piece,
                       uint64_t bytes)
{
    uint64_t first = request->layout.offsets[FAS_LSE];
    uint64_t last = first + fas_tensor_bytes(&request->wire.dims, FAS_LSE);
    float *floats = (float *)(void *)piece;
    memcpy(piece, some_numbers(request->wire.dims.dtype == FAS_FP32, offset), bytes);
    for (uint64_t i = 0; request->wire.pass == FAS_BACKWARD && i < bytes / 4; i++) {
        if (offset + 4 * i >= first && offset + 4 * i < last) {
            floats[i] = LSE_TYPICAL;
        }
    }
}

/* The request's span in the arena, piece by piece. */
static enum fas_status fill(struct device *device, const struct request *request, uint64_t span,
                            struct fas_error *error)
{
    enum fas_status status = FAS_OK;
    for (uint64_t at = 0; at < request->layout.bytes && status == FAS_OK; at += PIECE_BYTES) {
        uint64_t left = request->layout.bytes - at;
        struct device_copy copy = {.arena_offset = span + at,
                                   .width = left < PIECE_BYTES ? left : PIECE_BYTES,
                                   .height = 1};
        struct device_completion completion;
        copy.host = device->host_reaches_arena ? device->arena + span + at : device->staging;
        fill_piece(request, at, copy.host, copy.width);
        if (device->ops->upload(device, &copy, 0)) {
            status = await(device, &completion, error);
        }
    }
    return status;
}

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* The end of a launch, `number` counting from 0: the first run warms up and does not count. */
static void record(struct timing *timing, int64_t number,
                   const struct device_completion *completion)
{
    int64_t run = number / timing->pace.parts, part = number % timing->pace.parts;
    timing->began_us =
        number == 0 || (run == 1 && part == 0) ? completion->started_us : timing->began_us;
    timing->ended_us = completion->ended_us;
    if (run > 0) {
        uint64_t *us = &timing->us[run - 1];
        *us = (part > 0 ? *us : 0) + completion->ended_us - completion->started_us;
        timing->runs = (int)run;
    }
}

/* Whether to begin another run. */
static bool more(int64_t runs, uint64_t end_us)
{
    return runs <= RUNS_MIN || (runs <= RUNS_MAX - 1 && clock_us() < end_us);
}

/* Runs of `parts` launches each, so many launches ahead. */
static enum fas_status pace_launches(struct device *device, struct device_launch *launch,
                                     double seconds, struct timing *timing, struct fas_error *error)
{
    const struct pace *pace = &timing->pace;
    uint64_t end_us = clock_us() + (uint64_t)(seconds * 1e6);
    int64_t issued = 0, ended = 0;
    timing->runs = 0;
    for (;;) {
        while (issued - ended < pace->ahead &&
               (issued % pace->parts > 0 || more(issued / pace->parts, end_us))) {
            launch->launch.part = (int32_t)(issued++ % pace->parts);
            device->ops->launch(device, launch, 0);
        }
        if (issued == ended) {
            return FAS_OK;
        }
        struct device_completion completion;
        if (await(device, &completion, error) != FAS_OK) {
            return error->status;
        }
        record(timing, ended++, &completion);
    }
}

/* Fills the spans, and binds them. */
static enum fas_status open_sets(struct device *device, const struct timing *timing, bool filled,
                                 struct attn_set sets[SETS_MAX], struct fas_error *error)
{
    const struct request *request = &timing->request;
    enum fas_status status = FAS_OK;
    for (int32_t i = 0; i < timing->sets && status == FAS_OK; i++) {
        uint64_t span = (uint64_t)i * request->layout.bytes;
        sets[i] = request_bind(request, device->arena + span, NULL, NULL);
        status = filled ? FAS_OK : fill(device, request, span, error);
    }
    return status;
}

static enum fas_status time_launches(struct device *device, struct timing *timing, bool filled,
                                     struct fas_error *error)
{
    static struct attn_set sets[SETS_MAX];
    struct request *request = &timing->request;
    struct device_launch launch = {
        .row = request->row,
        .launch = {.shape = request->shape,
                   .sets = sets,
                   .sequences = request->sequences,
                   .set_count = timing->sets,
                   .sequence_count = request->sequence_count * timing->sets,
                   .scratch = device->scratch,
                   .scratch_bytes = device->scratch_bytes,
                   .parts = timing->pace.parts}};
    const double seconds = timing->pace.seconds;
    enum fas_status status = open_sets(device, timing, filled, sets, error);
    if (status == FAS_OK && !filled) {
        const double warm = seconds < WARM_SECONDS ? seconds : WARM_SECONDS;
        status = pace_launches(device, &launch, warm, timing, error);
    }
    if (status == FAS_OK) {
        status = pace_launches(device, &launch, seconds, timing, error);
    }
    qsort(timing->us, (size_t)timing->runs, sizeof timing->us[0], by_value);
    return status;
}

static enum fas_status fit(const struct device *device, struct timing *timing,
                           struct fas_error *error)
{
    struct request *request = &timing->request;
    uint64_t sets = (uint64_t)timing->sets;
    request_layout(request);
    if (sets * request->layout.bytes > device->arena_bytes ||
        sets * request->scratch_bytes > device->scratch_bytes) {
        return fas_fail(error, FAS_INVALID_ARGUMENT, "arena-bytes",
                        "%llu bytes and %llu of scratch do not fit",
                        (unsigned long long)(sets * request->layout.bytes),
                        (unsigned long long)(sets * request->scratch_bytes));
    }
    return FAS_OK;
}

/* ---- copies beside nothing else ---- */

/* Rounds of copies of one request: begun, and of each lane's copies how many are over. */
struct rounds {
    uint64_t begun, copies[2], over[2]; /* copies: of a round, up and down */
};

/* Of copies one way: each over the same bytes again. */
struct ends {
    uint64_t arena_offset;
    uint8_t *host;
};

static uint64_t rounds_over(const struct rounds *rounds)
{
    uint64_t over = rounds->begun;
    for (int lane = 0; lane < 2; lane++) {
        uint64_t of_lane = rounds->copies[lane] ? rounds->over[lane] / rounds->copies[lane] : over;
        over = of_lane < over ? of_lane : over;
    }
    return over;
}

/* `bytes` in pieces between the host and a place in the arena; returns how many. */
static uint64_t begin_copies(struct device *device, bool up, uint64_t bytes, uint64_t piece_bytes,
                             const struct ends *ends)
{
    uint64_t count = 0;
    for (uint64_t at = 0; at < bytes; at += piece_bytes, count++) {
        const struct device_copy copy = {.arena_offset = ends->arena_offset,
                                         .host = ends->host,
                                         .width =
                                             bytes - at < piece_bytes ? bytes - at : piece_bytes,
                                         .height = 1};
        if (up) {
            device->ops->upload(device, &copy, 0);
        } else {
            device->ops->download(device, &copy, 0);
        }
    }
    return count;
}

/* Two rounds are with the device at once, as of a client with two requests in flight. */
static enum fas_status pace_copies(struct device *device, uint64_t piece_bytes,
                                   const struct ends ends[2], double seconds, struct copies *copies,
                                   struct fas_error *error)
{
    struct rounds rounds = {0};
    struct device_completion completion;
    uint64_t end_us = clock_us() + (uint64_t)(seconds * 1e6), began_us = 0, over = 0;
    while (over < rounds.begun || more((int64_t)rounds.begun, end_us)) {
        if (rounds.begun - over < 2 && more((int64_t)rounds.begun, end_us)) {
            rounds.copies[0] = begin_copies(device, true, copies->in_bytes, piece_bytes, &ends[0]);
            rounds.copies[1] =
                begin_copies(device, false, copies->out_bytes, piece_bytes, &ends[1]);
            rounds.begun++;
            continue;
        }
        if (await(device, &completion, error) != FAS_OK) {
            return error->status;
        }
        rounds.over[completion.lane == DEVICE_DOWNLOAD]++;
        over = rounds_over(&rounds);
        began_us = over >= 1 && began_us == 0 ? completion.ended_us : began_us;
    }
    copies->us = (double)(completion.ended_us - began_us) / (double)(over - 1);
    return FAS_OK;
}

/* The host's side is the device's own pinned memory, half of it each way, the other the end of the
 * arena, where no request lies; a piece is as large as may be. */
static enum fas_status time_copies(struct device *device, uint64_t half_bytes, uint64_t used_bytes,
                                   double seconds, struct copies *copies, struct fas_error *error)
{
    uint64_t most = copies->in_bytes > copies->out_bytes ? copies->in_bytes : copies->out_bytes;
    uint64_t piece_bytes = most < half_bytes ? most : half_bytes;
    if (most == 0 || device->host_reaches_arena) {
        return FAS_OK;
    }
    if (used_bytes + 2 * piece_bytes > device->arena_bytes) {
        return fas_fail(error, FAS_INVALID_ARGUMENT, "arena-bytes",
                        "no room for copies of %llu bytes each way",
                        (unsigned long long)piece_bytes);
    }
    const struct ends ends[2] = {
        {device->arena_bytes - 2 * piece_bytes, device->staging},
        {device->arena_bytes - piece_bytes, device->staging + half_bytes},
    };
    return pace_copies(device, piece_bytes, ends, seconds, copies, error);
}

/* ---- a request of the spec ---- */

/* The sequences of the first set are there: those of the others are like them. */
static void repeat_sequences(struct attn_sequence *sequences, int32_t count, int32_t sets)
{
    for (int32_t i = count; i < count * sets; i++) {
        sequences[i] = sequences[i % count];
        sequences[i].set = i / count;
    }
}

/* With the arrays in hand. */
static enum fas_status time_lengths(struct device *device, const cJSON *object, bool filled,
                                    const struct wire_lengths *lengths,
                                    struct attn_sequence *sequences, struct timing *timing,
                                    struct fas_error *error)
{
    struct wire_request wire = {.batch = lengths->batch};
    enum fas_status status =
        read_request(object, &wire, lengths->cu_seqlens_q, lengths->cu_seqlens_k, error);
    if (status == FAS_OK) {
        status = request_shape(&timing->request, &wire, device->arch, error);
    }
    if (status == FAS_OK) {
        request_sequences(&timing->request, lengths, sequences);
        repeat_sequences(sequences, lengths->batch, timing->sets);
        status = fit(device, timing, error);
    }
    return status == FAS_OK ? time_launches(device, timing, filled, error) : status;
}

static enum fas_status time_request(struct device *device, const cJSON *object, bool filled,
                                    struct timing *timing, struct fas_error *error)
{
    int32_t count_q, count_k;
    const cJSON *lengths_q = cJSON_GetObjectItemCaseSensitive(object, "lengths_q");
    const cJSON *lengths_k = cJSON_GetObjectItemCaseSensitive(object, "lengths_k");
    int32_t *cu_q = read_lengths(lengths_q, &count_q);
    int32_t *cu_k = read_lengths(lengths_k ? lengths_k : lengths_q, &count_k);
    double sets = number(object, "sets", 1);
    timing->sets = sets >= 1 && sets <= SETS_MAX ? (int32_t)sets : 0;
    size_t room = (size_t)count_q * (size_t)timing->sets + 1;
    struct attn_sequence *sequences = calloc(room, sizeof *sequences);
    enum fas_status status;
    if (timing->sets == 0) {
        status = fas_fail(error, FAS_INVALID_ARGUMENT, "sets", "not 1 to %d", SETS_MAX);
    } else if (cu_q && cu_k && sequences && count_q > 0 && count_q == count_k) {
        const struct wire_lengths lengths = {
            .batch = count_q, .cu_seqlens_q = cu_q, .cu_seqlens_k = cu_k};
        status = time_lengths(device, object, filled, &lengths, sequences, timing, error);
    } else {
        status = fas_fail(error, FAS_INVALID_ARGUMENT, "lengths_q", "missing, or unlike lengths_k");
    }
    free(sequences);
    free(cu_q);
    free(cu_k);
    return status;
}

/* ---- specs in, answers out ---- */

/* The next spec: lines up to where they are JSON. NULL: no more; *text says what was left. */
static cJSON *read_spec(FILE *file, char *text)
{
    cJSON *spec = NULL;
    size_t used = 0;
    text[0] = '\0';
    while (!spec && used < FILE_BYTES_MAX &&
           fgets(text + used, (int)(FILE_BYTES_MAX - used), file)) {
        used += strlen(text + used);
        used = strspn(text, " \t\r\n") == used ? 0 : used;
        text[used] = '\0';
        spec = used > 0 && strchr(text + used - 1, '\n') ? cJSON_Parse(text) : NULL;
    }
    return spec ? spec : cJSON_Parse(text); /* the last line may end with the file */
}

static double quantile(const struct timing *timing, int percent)
{
    int index = timing->runs * percent / 100;
    return (double)timing->us[index];
}

static cJSON *describe(const struct timing *timing)
{
    const struct request *request = &timing->request;
    cJSON *object = cJSON_CreateObject();
    cJSON_AddStringToObject(object, "kernel", request->row->name);
    const double sets = timing->sets;
    cJSON_AddNumberToObject(object, "sequences", sets * request->sequence_count);
    cJSON_AddNumberToObject(object, "tokens", sets * (double)request->cost.tokens);
    cJSON_AddNumberToObject(object, "flops", sets * request->cost.flops);
    cJSON_AddNumberToObject(object, "runs", timing->runs);
    cJSON_AddNumberToObject(object, "mean_us",
                            (double)(timing->ended_us - timing->began_us) / timing->runs);
    cJSON_AddNumberToObject(object, "min_us", quantile(timing, 0));
    cJSON_AddNumberToObject(object, "p50_us", quantile(timing, 50));
    cJSON_AddNumberToObject(object, "p90_us", quantile(timing, 90));
    cJSON_AddNumberToObject(object, "p99_us", quantile(timing, 99));
    return object;
}

static struct pace read_pace(const struct device *device, const cJSON *spec)
{
    int ahead = (int)number(spec, "in_flight", 1), parts = (int)number(spec, "parts", 1);
    struct pace pace = {.seconds = number(spec, "seconds", 1),
                        .ahead = ahead > 1 || parts > 1 ? (int)device->depth : 1,
                        .parts = parts > 1 ? parts : 1};
    return pace;
}

static enum fas_status answer_copies(struct device *device, const struct config *config,
                                     const cJSON *spec, uint64_t used_bytes, cJSON *answer,
                                     struct fas_error *error)
{
    double in = number(spec, "copy_in_bytes", 0), out = number(spec, "copy_out_bytes", 0);
    double seconds = number(spec, "seconds", 1);
    uint64_t half_bytes = device_staging_bytes(config) / 2;
    double most = (double)(COPY_PIECES_MAX * half_bytes);
    if (!(in >= 0 && in <= most && out >= 0 && out <= most)) {
        return fas_fail(error, FAS_INVALID_ARGUMENT,
                        in >= 0 && in <= most ? "copy_out_bytes" : "copy_in_bytes", "not 0 to %.0f",
                        most);
    }
    struct copies copies = {.in_bytes = (uint64_t)in, .out_bytes = (uint64_t)out};
    enum fas_status status =
        time_copies(device, half_bytes, used_bytes,
                    seconds < COPY_SECONDS_MAX ? seconds : COPY_SECONDS_MAX, &copies, error);
    if (status == FAS_OK && copies.us > 0) {
        cJSON_AddNumberToObject(answer, "copies_us", copies.us);
    }
    return status;
}

/* `filled`: whether the arena holds this spec's one request, from the time before. */
static enum fas_status time_all(struct device *device, const struct config *config,
                                const cJSON *spec, bool filled, cJSON *answer,
                                struct fas_error *error)
{
    static struct timing timing;
    const cJSON *requests = cJSON_GetObjectItemCaseSensitive(spec, "requests"), *object;
    cJSON *described = cJSON_AddArrayToObject(answer, "requests");
    enum fas_status status = FAS_OK;
    if (!cJSON_IsArray(requests)) {
        return fas_fail(error, FAS_INVALID_ARGUMENT, "requests", "an array is needed");
    }
    timing.pace = read_pace(device, spec);
    cJSON_ArrayForEach(object, requests)
    {
        if (status == FAS_OK) {
            status = time_request(device, object, filled, &timing, error);
        }
        if (status == FAS_OK) {
            cJSON_AddItemToArray(described, describe(&timing));
        }
    }
    uint64_t used_bytes = (uint64_t)timing.sets * timing.request.layout.bytes;
    return status == FAS_OK ? answer_copies(device, config, spec, used_bytes, answer, error)
                            : status;
}

/* One line. */
static bool print(const cJSON *answer)
{
    char *text = cJSON_PrintUnformatted(answer);
    bool printed = text && puts(text) >= 0 && fflush(stdout) == 0;
    cJSON_free(text);
    return printed;
}

/* Whether both have the same single request. */
static bool same_request(const cJSON *a, const cJSON *b)
{
    const cJSON *of_a = cJSON_GetObjectItemCaseSensitive(a, "requests");
    const cJSON *of_b = cJSON_GetObjectItemCaseSensitive(b, "requests");
    return cJSON_GetArraySize(of_a) == 1 && cJSON_Compare(of_a, of_b, true);
}

/* Answers spec after spec. */
static int answer_all(struct device *device, const struct config *config, FILE *file,
                      struct fas_error *error)
{
    static char text[FILE_BYTES_MAX + 1];
    cJSON *last = NULL, *spec;
    bool answered = true, any = false;
    while (answered && (spec = read_spec(file, text))) {
        cJSON *answer = cJSON_CreateObject();
        cJSON_AddStringToObject(answer, "device", device->name);
        answered =
            time_all(device, config, spec, same_request(last, spec), answer, error) == FAS_OK &&
            print(answer);
        cJSON_Delete(answer);
        cJSON_Delete(last);
        last = spec;
        any = true;
    }
    cJSON_Delete(last);
    if (answered && (!any || text[strspn(text, " \t\r\n")] != '\0')) {
        fas_fail(error, FAS_INVALID_ARGUMENT, "baseline", "not readable as JSON");
        answered = false;
    }
    return answered ? EXIT_SUCCESS : EXIT_USAGE;
}

static void first_device(const struct config *config, char *name, size_t room)
{
    char list[CONFIG_TEXT_BYTES_MAX];
    device_list(config->device, list, sizeof list);
    snprintf(name, room, "%.*s", (int)strcspn(list, ","), list);
}

int baseline_run(const struct config *config, const char *path)
{
    static struct device device;
    static sem_t done;
    char name[CONFIG_TEXT_BYTES_MAX];
    struct fas_error error = {0};
    FILE *file = strcmp(path, "-") == 0 ? stdin : fopen(path, "re");
    if (!file) {
        fprintf(stderr, "faserved: --baseline: %s: %s\n", path, strerror(errno));
        return EXIT_USAGE;
    }
    sem_init(&done, 0, 0);
    first_device(config, name, sizeof name);
    int result = device_open(&device, name, config, wake, &done, &error) == FAS_OK
                     ? answer_all(&device, config, file, &error)
                     : EXIT_USAGE;
    if (result != EXIT_SUCCESS) {
        fprintf(stderr, "faserved: --baseline: %s: %s\n", error.field, error.text);
    }
    if (file != stdin) {
        fclose(file);
    }
    return result;
}
