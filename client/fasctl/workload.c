/*
 * workload.c: see workload.h.
 */
#include "client/fasctl/workload.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "client/fasctl/numbers.h"

#define SEQUENCES_MAX 65536
#define ALIGN 256u
#define FILL_BYTES (UINT64_C(16) << 20)
/* Of some hundred keys, as the daemon's baseline has it: weights are neither 0 nor infinite. */
#define LSE_TYPICAL 5.0f

static bool lengths_add(int32_t **lengths, int32_t *batch, long count, long length)
{
    if (count < 1 || length < 0 || length > (1 << 30) || count > SEQUENCES_MAX - *batch) {
        return false;
    }
    int32_t *more = realloc(*lengths, sizeof(int32_t) * (size_t)(*batch + count));
    if (!more) {
        return false;
    }
    *lengths = more;
    for (long i = 0; i < count; i++) {
        more[(*batch)++] = (int32_t)length;
    }
    return true;
}

bool lengths_parse(const char *text, int32_t **lengths, int32_t *batch)
{
    *lengths = NULL;
    *batch = 0;
    bool good = true, more = true;
    while (good && more) {
        char *end;
        errno = 0;
        long count = 1, length = strtol(text, &end, 10);
        good = end != text && errno == 0;
        if (good && *end == 'x') {
            count = length;
            text = end + 1;
            length = strtol(text, &end, 10);
            good = end != text && errno == 0;
        }
        good = good && (*end == 0 || *end == ',') && lengths_add(lengths, batch, count, length);
        more = *end == ',';
        text = end + 1;
    }
    if (!good) {
        free(*lengths);
        *lengths = NULL;
    }
    return good;
}

/* fp32 or bf16 numbers around 0; the same bits read as fp16 are numbers, too. */
static void fill_once(void *data, uint64_t bytes, bool fp32, uint64_t seed)
{
    uint64_t state = seed;
    if (fp32) {
        float *to = data;
        for (uint64_t i = 0; i < bytes / 4; i++) {
            to[i] = number_uniform(&state);
        }
        return;
    }
    uint16_t *to = data;
    for (uint64_t i = 0; i < bytes / 2; i++) {
        to[i] = number_to_bf16(number_uniform(&state));
    }
}

/* Repeats itself: gigabytes of new numbers take seconds. */
static void fill(uint8_t *data, uint64_t bytes, bool fp32, uint64_t seed)
{
    uint64_t first = bytes < FILL_BYTES ? bytes : FILL_BYTES;
    fill_once(data, first, fp32, seed);
    for (uint64_t at = first; at < bytes; at += first) {
        memcpy(data + at, data, bytes - at < first ? bytes - at : first);
    }
}

/* Where each tensor of a bit set begins in one piece of memory; returns the piece's length. */
static uint64_t tensors_place(struct workload *w, uint32_t tensors, uint8_t *memory)
{
    uint64_t offset = 0;
    for (uint32_t left = tensors; left; left &= left - 1) {
        enum fas_tensor tensor = (enum fas_tensor)__builtin_ctz(left);
        w->request.tensors[tensor].data = memory ? memory + offset : NULL;
        offset += (fas_tensor_bytes(&w->request.dims, tensor) + ALIGN - 1) / ALIGN * ALIGN;
    }
    return offset > 0 ? offset : ALIGN;
}

/* Allocates and fills the tensors of both bit sets, and adds up their bytes. */
static enum fas_status tensors_open(struct workload *w, uint32_t inputs, uint32_t outputs,
                                    enum fas_place place, struct fas_error *error)
{
    const struct fas_dims *dims = &w->request.dims;
    uint64_t bytes = tensors_place(w, inputs | outputs, NULL);
    enum fas_status status = fas_alloc(w->client, place, bytes, &w->memory, error);
    if (status != FAS_OK) {
        return status;
    }
    tensors_place(w, inputs | outputs, w->memory);
    void *numbers = malloc(bytes);
    if (!numbers) {
        return fas_fail(error, FAS_RESOURCE_EXHAUSTED, "", "out of memory");
    }
    for (uint32_t left = inputs | outputs; left && status == FAS_OK; left &= left - 1) {
        enum fas_tensor tensor = (enum fas_tensor)__builtin_ctz(left);
        uint64_t tensor_bytes = fas_tensor_bytes(dims, tensor);
        bool fp32 = dims->dtype == FAS_FP32 || fas_tensor_row(tensor)->statistics;
        /* outputs, too: pages are touched */
        fill(numbers, tensor_bytes, fp32, (uint64_t)tensor + 1);
        for (uint64_t i = 0; tensor == FAS_LSE && i < tensor_bytes / 4; i++) {
            ((float *)numbers)[i] = LSE_TYPICAL;
        }
        status = fas_copy(w->request.tensors[tensor].data, numbers, tensor_bytes, error);
        *(inputs >> tensor & 1 ? &w->bytes_in : &w->bytes_out) += tensor_bytes;
    }
    free(numbers);
    return status;
}

static bool lengths_open(struct workload *w, const struct shape *shape)
{
    w->cu_seqlens = calloc((size_t)shape->batch + 1, sizeof(int32_t));
    if (!w->cu_seqlens) {
        return false;
    }
    for (int32_t i = 0; i < shape->batch; i++) {
        w->cu_seqlens[i + 1] = w->cu_seqlens[i] + shape->lengths[i];
    }
    int64_t rows = w->cu_seqlens[shape->batch];
    w->tokens = rows;
    w->request.q.cu_seqlens = w->request.k.cu_seqlens = w->cu_seqlens;
    w->request.dims.total_q = w->request.dims.total_k = rows;
    return true;
}

/* One sequence on either side, of which one row is used. */
static void bulk_open(struct workload *w, const struct shape *shape)
{
    w->used[0] = w->used[1] = 1;
    w->tokens = 1;
    w->request.q.max_len = shape->idle_q_rows;
    w->request.k.max_len = shape->idle_k_rows;
    w->request.q.seqused = &w->used[0];
    w->request.k.seqused = &w->used[1];
    w->request.dims.total_q = shape->idle_q_rows;
    w->request.dims.total_k = shape->idle_k_rows;
}

enum fas_status workload_open(struct workload *w, const struct shape *shape,
                              struct fas_client *client, enum fas_place place,
                              struct fas_error *error)
{
    memset(w, 0, sizeof(*w));
    w->client = client;
    w->request.pass = shape->pass;
    w->request.batch = shape->batch;
    w->request.dims =
        (struct fas_dims){shape->dtype, shape->hq, shape->hkv, shape->d, shape->dv, .total_q = 0};
    w->request.mask.has_right = shape->causal;
    if (shape->idle_k_rows > 0) {
        bulk_open(w, shape);
    } else if (!lengths_open(w, shape)) {
        return fas_fail(error, FAS_RESOURCE_EXHAUSTED, "", "out of memory");
    }
    const uint32_t qkv = 1u << FAS_Q | 1u << FAS_K | 1u << FAS_V;
    const uint32_t forward = 1u << FAS_O | 1u << FAS_LSE;
    const uint32_t gradients = 1u << FAS_DQ | 1u << FAS_DK | 1u << FAS_DV;
    return shape->pass == FAS_FORWARD
               ? tensors_open(w, qkv, forward, place, error)
               : tensors_open(w, qkv | forward | 1u << FAS_DO, gradients, place, error);
}

void workload_close(struct workload *w)
{
    if (w->client) {
        fas_free(w->client, w->memory);
    }
    free(w->cu_seqlens);
    memset(w, 0, sizeof(*w));
}
