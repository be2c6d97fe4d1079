/*
 * baseline.c: a request read from JSON takes the daemon's own way (wire, shape, sequences, layout,
 * device) up to the launch, and only the launch is timed.
 */
#include "server/baseline.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/clock.h"
#include "server/device.h"
#include "server/request.h"

enum { EXIT_USAGE = 64, EXIT_DEVICE = 70 };

#define FILE_BYTES_MAX (16u << 20)
#define RUNS_MIN 3
#define RUNS_MAX 10000
#define PIECE_BYTES FAS_ROW_BYTES_MAX /* a slab has that much */
#define LSE_TYPICAL 5.0f              /* of some hundred keys: any finite value times the same */

struct timing {
    struct request request;
    int runs;
    uint64_t us[RUNS_MAX];
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

/* The next completion. */
static enum fas_status await(struct device *device, struct device_completion *completion,
                             struct fas_error *error)
{
    while (sem_wait(device->wake_context) != 0) {
    }
    if (!device->ops->take(device, completion) || completion->failed) {
        return fas_fail(error, FAS_DEVICE_FAULT, "", "%s failed: %s", device->name, device->fault);
    }
    return FAS_OK;
}

/* Random values around 0 whatever the type: the pattern's exponent is fixed. */
static void fill_halves(enum fas_dtype dtype, uint64_t *state, uint16_t *halves, uint64_t count)
{
    static const uint32_t patterns[FAS_DTYPE_COUNT] = {
        [FAS_BF16] = 0x3e00, [FAS_FP16] = 0x3000, [FAS_FP32] = 0x3e00};
    for (uint64_t i = 0; i < count; i++) { /* xorshift64, Marsaglia 2003 */
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        halves[i] = (uint16_t)(patterns[dtype] | (*state & 0x80ff));
    }
}

/* A piece of the request's span, at `offset` of it. */
static void fill_piece(const struct request *request, uint64_t *state, uint64_t offset,
                       uint8_t *piece, uint64_t bytes)
{
    uint64_t first = request->layout.offsets[FAS_LSE];
    uint64_t last = first + fas_tensor_bytes(&request->wire.dims, FAS_LSE);
    float *floats = (float *)(void *)piece;
    fill_halves(request->wire.dims.dtype, state, (uint16_t *)(void *)piece, bytes / 2);
    for (uint64_t i = 0; request->wire.pass == FAS_BACKWARD && i < bytes / 4; i++) {
        if (offset + 4 * i >= first && offset + 4 * i < last) {
            floats[i] = LSE_TYPICAL;
        }
    }
}

/* The request's span at the start of the arena, piece by piece. */
static enum fas_status fill(struct device *device, const struct request *request,
                            struct fas_error *error)
{
    uint64_t state = 88172645463325252u;
    enum fas_status status = FAS_OK;
    for (uint64_t at = 0; at < request->layout.bytes && status == FAS_OK; at += PIECE_BYTES) {
        uint64_t left = request->layout.bytes - at;
        struct device_copy copy = {
            .arena_offset = at, .width = left < PIECE_BYTES ? left : PIECE_BYTES, .height = 1};
        struct device_completion completion;
        copy.host = device->host_reaches_arena ? device->arena + at : device->staging;
        fill_piece(request, &state, at, copy.host, copy.width);
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

static enum fas_status time_launches(struct device *device, struct timing *timing, double seconds,
                                     struct fas_error *error)
{
    struct request *request = &timing->request;
    struct attn_set set = request_bind(request, device->arena, NULL, NULL);
    struct device_launch launch = {.row = request->row,
                                   .launch = {.shape = request->shape,
                                              .sets = &set,
                                              .sequences = request->sequences,
                                              .set_count = 1,
                                              .sequence_count = request->sequence_count,
                                              .scratch = device->scratch,
                                              .scratch_bytes = device->scratch_bytes}};
    if (fill(device, request, error) != FAS_OK) {
        return error->status;
    }
    uint64_t end_us = clock_us() + (uint64_t)(seconds * 1e6);
    timing->runs = -1; /* the first warms up */
    while (timing->runs < RUNS_MIN || (timing->runs < RUNS_MAX && clock_us() < end_us)) {
        struct device_completion completion;
        device->ops->launch(device, &launch, 0);
        if (await(device, &completion, error) != FAS_OK) {
            return error->status;
        }
        if (timing->runs >= 0) {
            timing->us[timing->runs] = completion.ended_us - completion.started_us;
        }
        timing->runs++;
    }
    qsort(timing->us, (size_t)timing->runs, sizeof timing->us[0], by_value);
    return FAS_OK;
}

static enum fas_status fit(const struct device *device, struct request *request,
                           struct fas_error *error)
{
    request_layout(request);
    if (request->layout.bytes > device->arena_bytes ||
        request->scratch_bytes > device->scratch_bytes) {
        return fas_fail(error, FAS_INVALID_ARGUMENT, "arena-bytes",
                        "%llu bytes and %zu of scratch do not fit",
                        (unsigned long long)request->layout.bytes, request->scratch_bytes);
    }
    return FAS_OK;
}

/* With the arrays in hand. */
static enum fas_status time_lengths(struct device *device, const cJSON *object, double seconds,
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
        status = fit(device, &timing->request, error);
    }
    return status == FAS_OK ? time_launches(device, timing, seconds, error) : status;
}

static enum fas_status time_request(struct device *device, const cJSON *object, double seconds,
                                    struct timing *timing, struct fas_error *error)
{
    int32_t count_q, count_k;
    const cJSON *lengths_q = cJSON_GetObjectItemCaseSensitive(object, "lengths_q");
    const cJSON *lengths_k = cJSON_GetObjectItemCaseSensitive(object, "lengths_k");
    int32_t *cu_q = read_lengths(lengths_q, &count_q);
    int32_t *cu_k = read_lengths(lengths_k ? lengths_k : lengths_q, &count_k);
    struct attn_sequence *sequences = calloc((size_t)count_q + 1, sizeof *sequences);
    enum fas_status status;
    if (cu_q && cu_k && sequences && count_q > 0 && count_q == count_k) {
        const struct wire_lengths lengths = {
            .batch = count_q, .cu_seqlens_q = cu_q, .cu_seqlens_k = cu_k};
        status = time_lengths(device, object, seconds, &lengths, sequences, timing, error);
    } else {
        status = fas_fail(error, FAS_INVALID_ARGUMENT, "lengths_q", "missing, or unlike lengths_k");
    }
    free(sequences);
    free(cu_q);
    free(cu_k);
    return status;
}

/* ---- file in, JSON out ---- */

static char *read_file(const char *path)
{
    FILE *file = strcmp(path, "-") == 0 ? stdin : fopen(path, "re");
    char *text = file ? calloc(1, FILE_BYTES_MAX + 1) : NULL;
    if (text && fread(text, 1, FILE_BYTES_MAX, file) == 0) {
        free(text);
        text = NULL;
    }
    if (file && file != stdin) {
        fclose(file);
    }
    return text;
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
    cJSON_AddNumberToObject(object, "sequences", request->sequence_count);
    cJSON_AddNumberToObject(object, "tokens", (double)request->cost.tokens);
    cJSON_AddNumberToObject(object, "flops", request->cost.flops);
    cJSON_AddNumberToObject(object, "runs", timing->runs);
    cJSON_AddNumberToObject(object, "min_us", quantile(timing, 0));
    cJSON_AddNumberToObject(object, "p50_us", quantile(timing, 50));
    cJSON_AddNumberToObject(object, "p90_us", quantile(timing, 90));
    cJSON_AddNumberToObject(object, "p99_us", quantile(timing, 99));
    return object;
}

static enum fas_status time_all(struct device *device, const cJSON *root, cJSON *answer,
                                struct fas_error *error)
{
    static struct timing timing;
    const cJSON *requests = cJSON_GetObjectItemCaseSensitive(root, "requests"), *object;
    cJSON *described = cJSON_AddArrayToObject(answer, "requests");
    double seconds = number(root, "seconds", 1);
    enum fas_status status = FAS_OK;
    if (!cJSON_IsArray(requests)) {
        return fas_fail(error, FAS_INVALID_ARGUMENT, "requests", "an array is needed");
    }
    cJSON_ArrayForEach(object, requests)
    {
        if (status == FAS_OK) {
            status = time_request(device, object, seconds, &timing, error);
        }
        if (status == FAS_OK) {
            cJSON_AddItemToArray(described, describe(&timing));
        }
    }
    return status;
}

static int print(cJSON *answer)
{
    char *text = cJSON_Print(answer);
    int status = text && puts(text) >= 0 ? EXIT_SUCCESS : EXIT_DEVICE;
    cJSON_free(text);
    return status;
}

static void first_device(const struct config *config, char *name, size_t room)
{
    char list[CONFIG_TEXT_BYTES_MAX];
    device_list(config->device, list, sizeof list);
    snprintf(name, room, "%.*s", (int)strcspn(list, ","), list);
}

int baseline_run(const struct config *config, const char *file)
{
    static struct device device;
    static sem_t done;
    char name[CONFIG_TEXT_BYTES_MAX];
    struct fas_error error = {0};
    char *text = read_file(file);
    cJSON *root = text ? cJSON_Parse(text) : NULL;
    free(text);
    if (!root) {
        fprintf(stderr, "faserved: --baseline: %s: not readable as JSON\n", file);
        return EXIT_USAGE;
    }
    sem_init(&done, 0, 0);
    first_device(config, name, sizeof name);
    cJSON *answer = cJSON_CreateObject();
    cJSON_AddStringToObject(answer, "device", name);
    enum fas_status status = device_open(&device, name, config, wake, &done, &error);
    if (status == FAS_OK) {
        status = time_all(&device, root, answer, &error);
    }
    int result = status == FAS_OK ? print(answer) : EXIT_USAGE;
    if (status != FAS_OK) {
        fprintf(stderr, "faserved: --baseline: %s: %s\n", error.field, error.text);
    }
    cJSON_Delete(answer);
    cJSON_Delete(root);
    return result;
}
