#include "tests/support/job.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "kernels/attn.h"

static const enum fas_tensor forward_outputs[] = {FAS_O, FAS_LSE};
static const enum fas_tensor backward_outputs[] = {FAS_DQ, FAS_DK, FAS_DV, FAS_DSINK};

static void *poisoned(const struct fas_dims *dims, enum fas_tensor tensor)
{
    uint64_t bytes = fas_tensor_bytes(dims, tensor);
    void *memory = malloc(bytes + 1);
    assert(memory);
    memset(memory, 0xff, bytes + 1);
    return memory;
}

/* Values around 0 of any type: the top half of a float is its bf16. */
static void *random_tensor(const struct fas_dims *dims, enum fas_tensor tensor,
                           struct random *random)
{
    bool fp32 = dims->dtype == FAS_FP32 || fas_tensor_row(tensor)->statistics || tensor == FAS_SINK;
    void *memory = poisoned(dims, tensor);
    uint64_t count = fas_tensor_bytes(dims, tensor) / (fp32 ? 4 : 2);
    assert(fp32 || dims->dtype == FAS_BF16);
    for (uint64_t i = 0; i < count; i++) {
        float value = (float)(random_unit(random) * 4 - 2);
        uint32_t bits;
        memcpy(&bits, &value, 4);
        uint16_t half = (uint16_t)(bits >> 16);
        memcpy((uint8_t *)memory + i * (fp32 ? 4 : 2), fp32 ? (void *)&value : (void *)&half,
               fp32 ? 4 : 2);
    }
    return memory;
}

static int32_t *random_lengths(int32_t sequences, int32_t len_max, struct random *random)
{
    int32_t *cu = calloc((size_t)sequences + 1, sizeof *cu);
    assert(cu);
    for (int32_t i = 0; i < sequences; i++) {
        cu[i + 1] = cu[i] + (int32_t)random_below(random, (uint64_t)len_max + 1);
    }
    return cu;
}

static struct attn_tensor bind(const struct fas_dims *dims, enum fas_tensor tensor, void *data)
{
    if (fas_tensor_row(tensor)->statistics) {
        return (struct attn_tensor){data, 4, 4 * fas_tensor_rows(dims, tensor)};
    }
    int64_t head = (int64_t)fas_tensor_width(dims, tensor) * fas_dtype_bytes(dims->dtype);
    return (struct attn_tensor){data, head * fas_tensor_heads(dims, tensor), head};
}

static struct attn_set bind_set(const struct job *job)
{
    const struct fas_dims *dims = &job->request.dims;
    void *const *t = job->tensors, *const *e = job->expected;
    struct attn_set set = {.q = bind(dims, FAS_Q, t[FAS_Q]),
                           .k = bind(dims, FAS_K, t[FAS_K]),
                           .v = bind(dims, FAS_V, t[FAS_V]),
                           .sink = t[FAS_SINK]};
    if (job->request.pass == FAS_FORWARD) {
        set.o = bind(dims, FAS_O, e[FAS_O]);
        set.lse = bind(dims, FAS_LSE, e[FAS_LSE]);
    } else {
        set.o = bind(dims, FAS_O, t[FAS_O]);
        set.lse = bind(dims, FAS_LSE, t[FAS_LSE]);
        set.do_ = bind(dims, FAS_DO, t[FAS_DO]);
        set.dq = bind(dims, FAS_DQ, e[FAS_DQ]);
        set.dk = bind(dims, FAS_DK, e[FAS_DK]);
        set.dv = bind(dims, FAS_DV, e[FAS_DV]);
    }
    return set;
}

static struct attn_shape shape_of(const struct job *job)
{
    const struct fas_request *r = &job->request;
    return (struct attn_shape){.pass = (enum attn_pass)r->pass,
                               .dtype = (enum attn_dtype)r->dims.dtype,
                               .hq = r->dims.hq,
                               .hkv = r->dims.hkv,
                               .d = r->dims.d,
                               .dv = r->dims.dv,
                               .mask = {.has_right = r->mask.has_right},
                               .softmax_scale = 1.0f / sqrtf((float)r->dims.d),
                               .has_sink = job->tensors[FAS_SINK] != NULL,
                               .deterministic = r->deterministic};
}

/* The kernel itself, in this process. */
static void compute(struct job *job)
{
    struct attn_shape shape = shape_of(job);
    const char *reason;
    const struct attn_row *row = attn_select(ATTN_CPU, &shape, &reason);
    struct attn_set set = bind_set(job);
    int32_t count = job->request.batch;
    struct attn_sequence *sequences = calloc((size_t)count, sizeof *sequences);
    float *dsinks = calloc((size_t)count * (size_t)shape.hq, sizeof *dsinks);
    assert(row && sequences && dsinks);
    set.dsink = dsinks;
    for (int32_t i = 0; i < count; i++) {
        int32_t q = job->cu_q[i + 1] - job->cu_q[i], k = job->cu_k[i + 1] - job->cu_k[i];
        sequences[i] = (struct attn_sequence){.index = i,
                                              .q_first = job->cu_q[i],
                                              .k_first = job->cu_k[i],
                                              .q_len = q,
                                              .k_len = k,
                                              .q_span = q,
                                              .k_span = k};
    }
    struct attn_launch launch = {.shape = shape,
                                 .sets = &set,
                                 .sequences = sequences,
                                 .set_count = 1,
                                 .sequence_count = count};
    launch.scratch_bytes = row->scratch_bytes(&launch);
    launch.scratch = aligned_alloc(256, (launch.scratch_bytes + 511) / 256 * 256);
    struct attn_context *context = attn_cpu_open(1);
    enum attn_status status = row->launch(context, &launch);
    assert(status == ATTN_OK);
    (void)status;
    if (job->expected[FAS_DSINK]) {
        attn_sum_dsink(dsinks, count, shape.hq, job->expected[FAS_DSINK]);
    }
    attn_cpu_close(context);
    free(launch.scratch);
    free(dsinks);
    free(sequences);
}

static void add_outputs(struct job *job, const enum fas_tensor *outputs, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (outputs[i] != FAS_DSINK || job->tensors[FAS_SINK]) {
            job->tensors[outputs[i]] = poisoned(&job->request.dims, outputs[i]);
            job->expected[outputs[i]] = poisoned(&job->request.dims, outputs[i]);
        }
    }
    for (int tensor = 0; tensor < FAS_TENSOR_COUNT; tensor++) {
        job->request.tensors[tensor].data = job->tensors[tensor];
    }
    compute(job);
}

void job_forward(struct job *job, const struct job_shape *shape, struct random *random)
{
    *job = (struct job){.cu_q = random_lengths(shape->sequences, shape->len_max, random),
                        .cu_k = random_lengths(shape->sequences, shape->len_max, random)};
    struct fas_request *request = &job->request;
    request->pass = FAS_FORWARD;
    request->dims = (struct fas_dims){.dtype = shape->dtype,
                                      .hq = shape->hq,
                                      .hkv = shape->hkv,
                                      .d = shape->d,
                                      .dv = shape->dv,
                                      .total_q = job->cu_q[shape->sequences],
                                      .total_k = job->cu_k[shape->sequences]};
    request->batch = shape->sequences;
    request->q.cu_seqlens = job->cu_q;
    request->k.cu_seqlens = job->cu_k;
    request->mask.has_right = shape->causal;
    for (enum fas_tensor tensor = FAS_Q; tensor <= FAS_V; tensor++) {
        job->tensors[tensor] = random_tensor(&request->dims, tensor, random);
    }
    if (shape->sink) {
        job->tensors[FAS_SINK] = random_tensor(&request->dims, FAS_SINK, random);
    }
    add_outputs(job, forward_outputs, 2);
}

static void *copy_of(const struct fas_dims *dims, enum fas_tensor tensor, const void *from)
{
    void *copy = poisoned(dims, tensor);
    memcpy(copy, from, fas_tensor_bytes(dims, tensor));
    return copy;
}

void job_backward(struct job *job, const struct job *forward, struct random *random)
{
    const struct fas_dims *dims = &forward->request.dims;
    size_t lengths_bytes = ((size_t)forward->request.batch + 1) * sizeof(int32_t);
    *job = (struct job){
        .request = forward->request, .cu_q = malloc(lengths_bytes), .cu_k = malloc(lengths_bytes)};
    assert(job->cu_q && job->cu_k);
    memcpy(job->cu_q, forward->cu_q, lengths_bytes);
    memcpy(job->cu_k, forward->cu_k, lengths_bytes);
    job->request.pass = FAS_BACKWARD;
    job->request.deterministic = true;
    job->request.q.cu_seqlens = job->cu_q;
    job->request.k.cu_seqlens = job->cu_k;
    static const enum fas_tensor inputs[] = {FAS_Q, FAS_K, FAS_V, FAS_SINK};
    for (size_t i = 0; i < sizeof inputs / sizeof inputs[0]; i++) {
        if (forward->tensors[inputs[i]]) {
            job->tensors[inputs[i]] = copy_of(dims, inputs[i], forward->tensors[inputs[i]]);
        }
    }
    job->tensors[FAS_O] = copy_of(dims, FAS_O, forward->expected[FAS_O]);
    job->tensors[FAS_LSE] = copy_of(dims, FAS_LSE, forward->expected[FAS_LSE]);
    job->tensors[FAS_DO] = random_tensor(dims, FAS_DO, random);
    add_outputs(job, backward_outputs, 4);
}

uint8_t *job_place(struct job *job, uint32_t tensors, uint8_t *memory)
{
    for (int tensor = 0; tensor < FAS_TENSOR_COUNT; tensor++) {
        if (tensors >> tensor & 1 && job->tensors[tensor]) {
            uint64_t bytes = fas_tensor_bytes(&job->request.dims, (enum fas_tensor)tensor);
            memcpy(memory, job->tensors[tensor], bytes);
            free(job->tensors[tensor]);
            job->tensors[tensor] = job->request.tensors[tensor].data = memory;
            job->placed |= 1u << tensor;
            memory += (bytes + 63) / 64 * 64;
        }
    }
    return memory;
}

bool job_right(const struct job *job)
{
    for (int tensor = 0; tensor < FAS_TENSOR_COUNT; tensor++) {
        if (job->expected[tensor] && memcmp(job->expected[tensor], job->tensors[tensor],
                                            fas_tensor_bytes(&job->request.dims, tensor)) != 0) {
            fprintf(stderr, "%s differs\n", fas_tensor_row(tensor)->name);
            return false;
        }
    }
    return true;
}

void job_reset(struct job *job)
{
    for (int tensor = 0; tensor < FAS_TENSOR_COUNT; tensor++) {
        if (job->expected[tensor]) {
            memset(job->tensors[tensor], 0xff, fas_tensor_bytes(&job->request.dims, tensor));
        }
    }
}

void job_close(struct job *job)
{
    for (int tensor = 0; tensor < FAS_TENSOR_COUNT; tensor++) {
        if (!(job->placed >> tensor & 1)) {
            free(job->tensors[tensor]);
        }
        free(job->expected[tensor]);
    }
    free(job->cu_q);
    free(job->cu_k);
}
