/*
 * pass.c: fasctl forward and backward: attention of the tensors of a safetensors file, through the
 * daemon, into another.
 *
 *   q, k, v       (rows, heads, width) with cu_seqlens_q, cu_seqlens_k (sequences + 1), or padded:
 *                 (sequences, rows, heads, width); seqused_q, seqused_k (sequences) go with either
 *   sink          F32 (heads)
 *   o, lse, do    backward; as forward gives them, lse F32 (heads, rows); dlse like it
 *
 * Each side chooses for itself; rows without cu_seqlens are one sequence.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/fasctl/fasctl.h"
#include "client/fasctl/progress.h"
#include "client/fasctl/safetensors.h"
#include "client/fasctl/table.h"
#include "proto/limits.h"

struct pass {
    const char *in, *out;
    struct safetensors tensors;
    struct fas_request request;
    int32_t *arrays[4]; /* aligned copies of the length arrays */
    void *results[FAS_TENSOR_COUNT];
    bool padded_q, padded_k;
};

static bool refuse(const struct pass *pass, const char *what, const char *why)
{
    fprintf(stderr, "fasctl: %s: %s: %s\n", pass->in, what, why);
    return false;
}

/* ---- from the file to the request ---- */

/* A 1-d array of integers, I32 or I64, as int32; NULL in *to when the file has none. */
static bool load_array(struct pass *pass, const char *name, int slot, int64_t *count,
                       const int32_t **to)
{
    const struct safetensor *tensor = safetensors_find(&pass->tensors, name);
    *to = NULL;
    if (!tensor) {
        return true;
    }
    if (tensor->rank != 1 || (tensor->type != TYPE_I32 && tensor->type != TYPE_I64)) {
        return refuse(pass, name, "is not a list of I32 or I64");
    }
    *count = tensor->shape[0];
    int32_t *copy = malloc(sizeof(int32_t) * ((size_t)*count + 1));
    pass->arrays[slot] = copy;
    for (int64_t i = 0; copy && i < *count; i++) {
        int64_t wide = 0;
        if (tensor->type == TYPE_I32) {
            memcpy(&copy[i], tensor->data + 4 * i, 4);
            continue;
        }
        memcpy(&wide, tensor->data + 8 * i, 8);
        copy[i] = (int32_t)wide;
        if (wide != copy[i]) {
            return refuse(pass, name, "has a number beyond 32 bits");
        }
    }
    *to = copy;
    return copy ? true : refuse(pass, name, "out of memory");
}

/* The sequences that one source speaks of must be those of the others. */
static bool agree(const struct pass *pass, const char *name, int64_t count, int32_t *batch)
{
    if (count < 0 || count > INT32_MAX || (*batch >= 0 && *batch != count)) {
        char why[96];
        snprintf(why, sizeof(why), "is of %lld sequence%s, others are of %d", (long long)count,
                 table_plural((double)count), *batch);
        return refuse(pass, name, why);
    }
    *batch = (int32_t)count;
    return true;
}

/* Rows, and how they form sequences, of the side that `tensor` (q or k) leads. */
static bool load_side(struct pass *pass, bool q, const struct safetensor *tensor,
                      struct fas_lengths *lengths, int64_t *total)
{
    const char *cu_name = q ? "cu_seqlens_q" : "cu_seqlens_k";
    const char *used_name = q ? "seqused_q" : "seqused_k";
    int64_t cu = 0, used = 0;
    int32_t *batch = &pass->request.batch;
    if (!load_array(pass, cu_name, q ? 0 : 1, &cu, &lengths->cu_seqlens) ||
        !load_array(pass, used_name, q ? 2 : 3, &used, &lengths->seqused)) {
        return false;
    }
    bool padded = tensor->rank == 4;
    *(q ? &pass->padded_q : &pass->padded_k) = padded;
    if (padded && lengths->cu_seqlens) {
        return refuse(pass, cu_name, "goes with tensors of three dimensions");
    }
    if (lengths->cu_seqlens && cu == 0) {
        return refuse(pass, cu_name, "is empty: its first number is 0, its last the rows");
    }
    int64_t sequences = lengths->cu_seqlens ? cu - 1 : padded ? tensor->shape[0] : 1;
    int64_t rows = padded ? tensor->shape[1] : tensor->shape[0];
    if (rows > FAS_ROWS_MAX || (padded && tensor->shape[0] > FAS_ROWS_MAX)) {
        return refuse(pass, tensor->name, "has more rows than there can be");
    }
    *total = padded ? tensor->shape[0] * rows : rows;
    if (*total > FAS_ROWS_MAX) {
        return refuse(pass, tensor->name, "has more rows than there can be");
    }
    lengths->max_len = lengths->cu_seqlens ? 0 : (int32_t)rows;
    return agree(pass, lengths->cu_seqlens ? cu_name : tensor->name, sequences, batch) &&
           (!lengths->seqused || agree(pass, used_name, used, batch));
}

static const struct safetensor *needed(const struct pass *pass, const char *name)
{
    const struct safetensor *tensor = safetensors_find(&pass->tensors, name);
    if (!tensor) {
        refuse(pass, name, "is missing");
    } else if (tensor->rank != 3 && tensor->rank != 4) {
        refuse(pass, name, "has neither three nor four dimensions");
        tensor = NULL;
    } else if (tensor->type > TYPE_F32) {
        refuse(pass, name, "is none of BF16, F16, F32");
        tensor = NULL;
    }
    return tensor;
}

static const struct {
    enum safetensors_type type;
    enum fas_dtype dtype;
} dtypes[] = {{TYPE_BF16, FAS_BF16}, {TYPE_F16, FAS_FP16}, {TYPE_F32, FAS_FP32}};

static bool load_dims(struct pass *pass)
{
    const struct safetensor *q = needed(pass, "q"), *k = q ? needed(pass, "k") : NULL;
    const struct safetensor *v = k ? needed(pass, "v") : NULL;
    if (!v) {
        return false;
    }
    struct fas_dims *dims = &pass->request.dims;
    dims->dtype = dtypes[q->type].dtype;
    const int64_t numbers[] = {q->shape[q->rank - 2], k->shape[k->rank - 2], q->shape[q->rank - 1],
                               v->shape[v->rank - 1]};
    int32_t *const to[] = {&dims->hq, &dims->hkv, &dims->d, &dims->dv};
    static const char *const names[] = {"q", "k", "q", "v"};
    for (int i = 0; i < 4; i++) {
        if (numbers[i] > (i < 2 ? FAS_HEADS_MAX : FAS_HEAD_DIM_MAX)) {
            return refuse(pass, names[i], "has more heads, or wider ones, than there can be");
        }
        *to[i] = (int32_t)numbers[i];
    }
    pass->request.batch = -1;
    return load_side(pass, true, q, &pass->request.q, &dims->total_q) &&
           load_side(pass, false, k, &pass->request.k, &dims->total_k);
}

/* What the tensor must look like; shapes of results follow, too. */
static struct safetensor expected(const struct pass *pass, enum fas_tensor tensor)
{
    const struct fas_dims *dims = &pass->request.dims;
    const struct fas_tensor_row *row = fas_tensor_row(tensor);
    bool fp32 = row->statistics || row->side == FAS_SIDE_NONE;
    int64_t rows = fas_tensor_rows(dims, tensor), heads = fas_tensor_heads(dims, tensor);
    struct safetensor wanted = {.type = fp32 ? TYPE_F32 : (enum safetensors_type)dims->dtype,
                                .bytes = fas_tensor_bytes(dims, tensor)};
    snprintf(wanted.name, sizeof(wanted.name), "%s", row->name);
    bool padded = row->side == FAS_SIDE_Q ? pass->padded_q : pass->padded_k;
    const struct fas_lengths *side = row->side == FAS_SIDE_Q ? &pass->request.q : &pass->request.k;
    if (row->side == FAS_SIDE_NONE) {
        wanted.shape[wanted.rank++] = heads;
    } else if (row->statistics) {
        wanted.shape[wanted.rank++] = heads;
        wanted.shape[wanted.rank++] = rows;
    } else {
        if (padded) {
            wanted.shape[wanted.rank++] = pass->request.batch;
        }
        wanted.shape[wanted.rank++] = padded ? side->max_len : rows;
        wanted.shape[wanted.rank++] = heads;
        wanted.shape[wanted.rank++] = fas_tensor_width(dims, tensor);
    }
    return wanted;
}

static bool load_tensor(struct pass *pass, enum fas_tensor tensor, bool optional)
{
    const struct safetensor wanted = expected(pass, tensor);
    const struct safetensor *have = safetensors_find(&pass->tensors, wanted.name);
    if (!have) {
        return optional ? true : refuse(pass, wanted.name, "is missing");
    }
    if (have->type != wanted.type || have->rank != wanted.rank ||
        memcmp(have->shape, wanted.shape, sizeof(int64_t) * (size_t)wanted.rank) != 0) {
        char why[256];
        snprintf(why, sizeof(why), "is %s %s, but with this q, k and v it must be %s %s",
                 safetensors_type_name(have->type), safetensors_shape_text(have),
                 safetensors_type_name(wanted.type), safetensors_shape_text(&wanted));
        return refuse(pass, wanted.name, why);
    }
    pass->request.tensors[tensor].data = (void *)(uintptr_t)have->data; /* only read */
    return true;
}

static bool pass_load(struct pass *pass)
{
    static const enum fas_tensor forward[] = {FAS_Q, FAS_K, FAS_V};
    static const enum fas_tensor backward[] = {FAS_LSE, FAS_DO};
    char why[256];
    if (!safetensors_read(pass->in, &pass->tensors, why)) {
        fprintf(stderr, "fasctl: %s: %s\n", pass->in, why);
        return false;
    }
    bool good = load_dims(pass);
    for (int i = 0; good && i < 3; i++) {
        good = load_tensor(pass, forward[i], false);
    }
    good = good && load_tensor(pass, FAS_SINK, true);
    if (!good || pass->request.pass == FAS_FORWARD) {
        return good;
    }
    for (int i = 0; good && i < 2; i++) {
        good = load_tensor(pass, backward[i], false);
    }
    bool has_delta = safetensors_find(&pass->tensors, "delta") != NULL;
    return good && load_tensor(pass, FAS_DLSE, true) && load_tensor(pass, FAS_DELTA, true) &&
           load_tensor(pass, FAS_O, has_delta);
}

/* ---- to the daemon and into the other file ---- */

static int results_of(const struct pass *pass, enum fas_tensor *results)
{
    int count = 0;
    if (pass->request.pass == FAS_FORWARD) {
        results[count++] = FAS_O;
        results[count++] = FAS_LSE;
        return count;
    }
    results[count++] = FAS_DQ;
    results[count++] = FAS_DK;
    results[count++] = FAS_DV;
    if (pass->request.tensors[FAS_SINK].data) {
        results[count++] = FAS_DSINK;
    }
    return count;
}

static bool pass_alloc(struct pass *pass, const enum fas_tensor *results, int count)
{
    for (int i = 0; i < count; i++) {
        uint64_t bytes = fas_tensor_bytes(&pass->request.dims, results[i]);
        pass->results[results[i]] = malloc(bytes ? bytes : 1);
        pass->request.tensors[results[i]].data = pass->results[results[i]];
        if (!pass->results[results[i]]) {
            fprintf(stderr, "fasctl: out of memory\n");
            return false;
        }
    }
    return true;
}

static void on_progress(struct fas_call *call, int32_t first, int32_t count, void *context)
{
    (void)call, (void)first;
    progress_step(context, count);
}

static bool pass_compute(struct pass *pass, struct fas_client *client)
{
    struct fas_report report;
    struct progress *progress = progress_open("sequences", pass->request.batch);
    pass->request.on_progress = on_progress;
    pass->request.context = progress;
    enum fas_status status = fas_run(client, &pass->request, &report);
    progress_close(progress);
    if (status != FAS_OK) {
        complain(pass->in, &report.error);
        return false;
    }
    printf("%d sequence%s on %s (%s): %s, of it queue %s, copy in %s, compute %s, copy out %s\n",
           pass->request.batch, table_plural(pass->request.batch), report.device, report.kernel,
           table_us((double)report.client_us), table_us((double)report.queue_us),
           table_us((double)report.copy_in_us), table_us((double)report.compute_us),
           table_us((double)report.copy_out_us));
    return true;
}

static bool pass_store(struct pass *pass, const enum fas_tensor *results, int count)
{
    struct safetensor items[FAS_TENSOR_COUNT];
    char why[256];
    for (int i = 0; i < count; i++) {
        items[i] = expected(pass, results[i]);
        items[i].data = pass->results[results[i]];
    }
    if (!safetensors_write(pass->out, items, count, why)) {
        fprintf(stderr, "fasctl: %s: %s\n", pass->out, why);
        return false;
    }
    return true;
}

static int pass_run(struct pass *pass)
{
    enum fas_tensor results[FAS_TENSOR_COUNT];
    if (!pass_load(pass)) {
        return EXIT_FAILED;
    }
    int count = results_of(pass, results);
    if (!pass_alloc(pass, results, count)) {
        return EXIT_FAILED;
    }
    struct fas_client *client = target_connect(0, 1);
    if (!client) {
        return EXIT_NO_SERVER;
    }
    bool good = pass_compute(pass, client) && pass_store(pass, results, count);
    fas_close(client);
    return good ? EXIT_OK : EXIT_FAILED;
}

static void pass_free(struct pass *pass)
{
    for (int i = 0; i < FAS_TENSOR_COUNT; i++) {
        free(pass->results[i]);
    }
    for (int i = 0; i < 4; i++) {
        free(pass->arrays[i]);
    }
    safetensors_free(&pass->tensors);
}

/* `more`: its tensors, beside those that both passes have. */
static int command_pass(const char *name, enum fas_pass which, const char *more, int argc,
                        char **argv)
{
    static const char given[] =
        "  in   q, k, v (rows, heads, width), BF16, F16 or F32; cu_seqlens_q and\n"
        "       cu_seqlens_k (sequences + 1), or all rows are one sequence; or padded:\n"
        "       (sequences, rows, heads, width). seqused_q and seqused_k (sequences)\n"
        "       go with either; sink F32 (heads)\n";
    char usage[640];
    snprintf(usage, sizeof(usage), "%s --in FILE --out FILE [OPTIONS]\n%s%s", name, given, more);
    struct pass pass = {.request.pass = which};
    bool causal = false;
    int64_t left = -1, right = -1, deadline_ms = 0;
    double scale = 0, softcap = 0;
    const struct option_row rows[] = {
        {"in", OPTION_TEXT, &pass.in, "FILE", "safetensors: q, k, v, cu_seqlens_q, ...", 0, 0},
        {"out", OPTION_TEXT, &pass.out, "FILE", "safetensors with the results", 0, 0},
        {"causal", OPTION_FLAG, &causal, NULL, "a query sees its own and earlier keys", 0, 0},
        {"window-left", OPTION_INT, &left, "N", "and at most N keys before its own", 0, INT32_MAX},
        {"window-right", OPTION_INT, &right, "N", "and at most N keys after its own", 0, INT32_MAX},
        {"scale", OPTION_REAL, &scale, "X", "of the scores (default 1 / sqrt(d))", 0, 0},
        {"softcap", OPTION_REAL, &softcap, "X", "scores become X tanh(score / X)", 0, 0},
        {"deterministic", OPTION_FLAG, &pass.request.deterministic, NULL,
         "gradients bitwise equal, run after run", 0, 0},
        {"deadline-ms", OPTION_INT, &deadline_ms, "MS", "give up after so long", 0, 1e9},
        TARGET_ROWS,
        {0}};
    int code;
    if (!command_options(usage, rows, argc, argv, &code)) {
        return code;
    }
    if (!pass.in || !pass.out) {
        fprintf(stderr, "fasctl: --%s is needed\n", pass.in ? "out" : "in");
        return EXIT_USAGE;
    }
    pass.request.mask = (struct fas_mask){.has_left = left >= 0,
                                          .has_right = causal || right >= 0,
                                          .left = left >= 0 ? (int32_t)left : 0,
                                          .right = causal || right < 0 ? 0 : (int32_t)right};
    pass.request.softmax_scale = (float)scale;
    pass.request.softcap = (float)softcap;
    pass.request.deadline_us = (uint64_t)deadline_ms * 1000;
    code = pass_run(&pass);
    pass_free(&pass);
    return code;
}

int command_forward(int argc, char **argv)
{
    return command_pass("forward", FAS_FORWARD, "  out  o like q, lse F32 (heads, rows)\n", argc,
                        argv);
}

int command_backward(int argc, char **argv)
{
    return command_pass("backward", FAS_BACKWARD,
                        "       o and lse as forward gave them, do like o; dlse like lse;\n"
                        "       delta, like lse, in place of o\n"
                        "  out  dq, dk, dv like q, k, v; dsink\n",
                        argc, argv);
}
