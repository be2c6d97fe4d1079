/*
 * attn_run.c: kernels for a program in another language. Reads launches from standard input, runs
 * each on the CPU device, and writes its outputs to standard output, until the input ends. Used by
 * test_attn_torch.py; numbers are in the machine's own byte order.
 *
 *   in    struct request, then sequences (6 int64 each: q_first, k_first, q_len, k_len, q_span,
 *         k_span), then the inputs, packed (row, head, c):
 *         forward   q k v [sink]
 *         backward  q k v do lse (o | delta) [dlse] [sink]
 *   out   forward   o lse            backward   dq dk dv [dsink]
 *
 * Outputs and scratch are full of NaN before the launch; a row that no sequence owns stays so.
 */
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/attn.h"

struct request {
    int64_t pass, dtype, hq, hkv, d, dv;
    int64_t has_left, left, has_right, right;
    int64_t has_sink, has_dlse, has_delta;
    int64_t total_q, total_k, sequences;
    double softmax_scale, softcap;
};

static void fail(const char *why)
{
    fprintf(stderr, "attn_run: %s\n", why);
    exit(1);
}

static void read_all(void *to, size_t bytes)
{
    if (bytes && fread(to, 1, bytes, stdin) != bytes) {
        fail("the input ends early");
    }
}

static void write_all(const void *from, size_t bytes)
{
    if (bytes && fwrite(from, 1, bytes, stdout) != bytes) {
        fail("the output is closed");
    }
}

static void *poisoned(size_t bytes)
{
    size_t rounded = (bytes / 256 + 1) * 256;
    void *memory = aligned_alloc(256, rounded);
    if (!memory) {
        fail("out of memory");
    }
    return memset(memory, 0xff, rounded);
}

/* A tensor of rows x heads x width elements, and how many bytes it has. */
struct buffer {
    struct attn_tensor *tensor;
    size_t bytes;
};

static struct buffer make(struct attn_tensor *tensor, int64_t rows, int64_t heads, int64_t width,
                          size_t element)
{
    size_t bytes = (size_t)(rows * heads * width) * element;
    *tensor = (struct attn_tensor){poisoned(bytes), heads * width * (int64_t)element,
                                   width * (int64_t)element};
    return (struct buffer){tensor, bytes};
}

static struct buffer make_statistic(struct attn_tensor *tensor, int64_t rows, int64_t heads)
{
    size_t bytes = (size_t)(rows * heads) * sizeof(float);
    *tensor = (struct attn_tensor){poisoned(bytes), (int64_t)sizeof(float),
                                   rows * (int64_t)sizeof(float)};
    return (struct buffer){tensor, bytes};
}

static struct attn_shape shape_of(const struct request *r)
{
    return (struct attn_shape){.pass = (enum attn_pass)r->pass,
                               .dtype = (enum attn_dtype)r->dtype,
                               .hq = (int32_t)r->hq,
                               .hkv = (int32_t)r->hkv,
                               .d = (int32_t)r->d,
                               .dv = (int32_t)r->dv,
                               .mask = {.has_left = r->has_left != 0,
                                        .has_right = r->has_right != 0,
                                        .left = (int32_t)r->left,
                                        .right = (int32_t)r->right},
                               .softmax_scale = (float)r->softmax_scale,
                               .softcap = (float)r->softcap,
                               .has_sink = r->has_sink != 0,
                               .has_dlse = r->has_dlse != 0,
                               .has_delta = r->has_delta != 0,
                               .deterministic = true};
}

static struct attn_sequence *read_sequences(const struct request *r)
{
    struct attn_sequence *all = calloc((size_t)r->sequences + 1, sizeof *all);
    if (!all) {
        fail("out of memory");
    }
    for (int64_t i = 0; i < r->sequences; i++) {
        int64_t n[6];
        read_all(n, sizeof n);
        all[i] = (struct attn_sequence){.index = (int32_t)i,
                                        .q_first = n[0],
                                        .k_first = n[1],
                                        .q_len = (int32_t)n[2],
                                        .k_len = (int32_t)n[3],
                                        .q_span = (int32_t)n[4],
                                        .k_span = (int32_t)n[5]};
    }
    return all;
}

enum { BUFFERS = 11, FORWARD_INPUTS = 3, BACKWARD_INPUTS = 6 };

/* The tensors of a pass, inputs first, in the order of the top of the file. */
static int make_buffers(const struct request *r, struct attn_set *set, struct buffer *b,
                        int *inputs)
{
    size_t e = attn_dtype_bytes((enum attn_dtype)r->dtype);
    int n = 0;
    b[n++] = make(&set->q, r->total_q, r->hq, r->d, e);
    b[n++] = make(&set->k, r->total_k, r->hkv, r->d, e);
    b[n++] = make(&set->v, r->total_k, r->hkv, r->dv, e);
    if (r->pass == ATTN_FORWARD) {
        *inputs = n;
        b[n++] = make(&set->o, r->total_q, r->hq, r->dv, e);
        b[n++] = make_statistic(&set->lse, r->total_q, r->hq);
        return n;
    }
    b[n++] = make(&set->do_, r->total_q, r->hq, r->dv, e);
    b[n++] = make_statistic(&set->lse, r->total_q, r->hq);
    b[n++] = r->has_delta ? make_statistic(&set->delta, r->total_q, r->hq)
                          : make(&set->o, r->total_q, r->hq, r->dv, e);
    if (r->has_dlse) {
        b[n++] = make_statistic(&set->dlse, r->total_q, r->hq);
    }
    *inputs = n;
    b[n++] = make(&set->dq, r->total_q, r->hq, r->d, e);
    b[n++] = make(&set->dk, r->total_k, r->hkv, r->d, e);
    b[n++] = make(&set->dv, r->total_k, r->hkv, r->dv, e);
    return n;
}

static void launch_one(struct attn_context *context, const struct request *r,
                       const struct attn_set *set, const struct attn_sequence *sequences)
{
    const char *reason;
    struct attn_launch launch = {.shape = shape_of(r),
                                 .sets = set,
                                 .sequences = sequences,
                                 .set_count = 1,
                                 .sequence_count = (int32_t)r->sequences};
    const struct attn_row *row = attn_select(ATTN_CPU, &launch.shape, &reason);
    if (!row) {
        fail(reason);
    }
    launch.scratch_bytes = row->scratch_bytes(&launch);
    launch.scratch = poisoned(launch.scratch_bytes);
    if (row->launch(context, &launch) != ATTN_OK) {
        fail("the launch failed");
    }
    free(launch.scratch);
}

static void serve(struct attn_context *context, const struct request *r)
{
    struct attn_set set = {0};
    struct buffer buffers[BUFFERS];
    int inputs;
    struct attn_sequence *sequences = read_sequences(r);
    int count = make_buffers(r, &set, buffers, &inputs);
    float *sink = poisoned((size_t)r->hq * sizeof(float));
    float *dsink = poisoned((size_t)(r->hq * (r->sequences + 1)) * sizeof(float));
    float *dsink_sum = poisoned((size_t)r->hq * sizeof(float));
    for (int i = 0; i < inputs; i++) {
        read_all(buffers[i].tensor->data, buffers[i].bytes);
    }
    if (r->has_sink) {
        read_all(sink, (size_t)r->hq * sizeof(float));
    }
    set.sink = sink;
    set.dsink = dsink;
    launch_one(context, r, &set, sequences);
    for (int i = inputs; i < count; i++) {
        write_all(buffers[i].tensor->data, buffers[i].bytes);
    }
    if (r->has_sink && r->pass == ATTN_BACKWARD) {
        attn_sum_dsink(dsink, r->sequences, (int32_t)r->hq, dsink_sum);
        write_all(dsink_sum, (size_t)r->hq * sizeof(float));
    }
    fflush(stdout);
    for (int i = 0; i < count; i++) {
        free(buffers[i].tensor->data);
    }
    free(sequences);
    free(sink);
    free(dsink);
    free(dsink_sum);
}

int main(int argc, char **argv)
{
    struct attn_context *context = attn_cpu_open(argc > 1 ? atoi(argv[1]) : 2);
    if (!context) {
        fail("no context");
    }
    struct request request;
    while (fread(&request, sizeof request, 1, stdin) == 1) {
        serve(context, &request);
    }
    attn_cpu_close(context);
    return 0;
}
