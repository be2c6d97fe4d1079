/*
 * Every GPU row of this device against the fp64 answer of problem.h: all masks, softcap and sink,
 * both 16-bit types, odd head dims, lengths of zero, spans longer than lengths, sets of different
 * layout, gaps full of NaN; canaries around everything, and the same bits alone and in a batch.
 *
 * A problem lives in host memory. It is mirrored: each tensor's rows, gaps included, are copied to
 * the device, the row runs there in poisoned scratch, and everything is copied back, so that the
 * host's checks see every byte the kernel touched. Skipped without a GPU.
 */
#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/kernels/gpu_suite.h"
#include "tests/kernels/problem.h"

enum { PLAN_BYTES = 1 << 22, RANGES_MAX = 256, POISON_BYTE = 0xff };

struct range {
    unsigned char *host, *device;
    size_t bytes;
};

struct mirror {
    struct range ranges[RANGES_MAX];
    int count;
};

static const struct attn_row *real_row;
static struct mirror mirror;

static void must(cudaError_t error)
{
    ck_assert_msg(error == cudaSuccess, "%s", cudaGetErrorString(error));
}

static void add_range(void *argument, void *memory, size_t bytes, int written)
{
    (void)written;
    struct mirror *m = argument;
    ck_assert_int_lt(m->count, RANGES_MAX);
    struct range *range = &m->ranges[m->count++];
    *range = (struct range){.host = memory, .bytes = bytes};
    must(cudaMalloc((void **)&range->device, bytes + 1));
    must(cudaMemcpy(range->device, memory, bytes, cudaMemcpyHostToDevice));
}

/* The device's address of a byte of the problem. */
static void *on_device(const void *host)
{
    const unsigned char *at = host;
    for (int i = 0; i < mirror.count; i++) {
        struct range *range = &mirror.ranges[i];
        if (at >= range->host && at < range->host + range->bytes) {
            return range->device + (at - range->host);
        }
    }
    return NULL;
}

static struct attn_set set_on_device(const struct attn_set *host)
{
    struct attn_set set = *host;
    struct attn_tensor *tensors[] = {&set.q,  &set.k,  &set.v,  &set.o,    &set.lse,  &set.do_,
                                     &set.dq, &set.dk, &set.dv, &set.dlse, &set.delta};
    for (size_t i = 0; i < sizeof tensors / sizeof tensors[0]; i++) {
        tensors[i]->data = on_device(tensors[i]->data);
    }
    set.sink = on_device(set.sink);
    set.dsink = on_device(set.dsink);
    return set;
}

static enum attn_status launch_mirrored(struct attn_context *context,
                                        const struct attn_launch *launch)
{
    struct attn_launch there = *launch;
    struct attn_set *sets = calloc((size_t)launch->set_count + 1, sizeof *sets);
    ck_assert_ptr_nonnull(sets);
    for (int i = 0; i < launch->set_count; i++) {
        sets[i] = set_on_device(&launch->sets[i]);
    }
    there.sets = sets;
    there.scratch_bytes = real_row->scratch_bytes(&there);
    must(cudaMalloc(&there.scratch, there.scratch_bytes + 1));
    must(cudaMemset(there.scratch, POISON_BYTE, there.scratch_bytes + 1));
    enum attn_status status = real_row->launch(context, &there);
    must(cudaDeviceSynchronize());
    must(cudaFree(there.scratch));
    free(sets);
    return status;
}

static size_t no_scratch(const struct attn_launch *launch)
{
    (void)launch;
    return 0;
}

/* spoiled: the sequence whose inputs are not finite; NOBODY: every result is checked; STEEP: as
 * well, of steep scores. */
enum { NOBODY = -1, STEEP = -2 };

static struct problem *run_spoiled(const struct attn_shape *shape, const struct item *items,
                                   int count, int spoiled)
{
    struct attn_context *context = attn_cuda_open(NULL, PLAN_BYTES);
    ck_assert_ptr_nonnull(context);
    struct problem *p = problem_open(shape, items, count);
    p->rounding = shape->dtype == ATTN_BF16 ? 0x1p-8 : 0x1p-11;
    if (spoiled == STEEP) {
        problem_steepen(p);
    } else if (spoiled != NOBODY) {
        problem_spoil(p, spoiled);
    }
    mirror.count = 0;
    problem_visit(p, add_range, &mirror);
    struct attn_row row = *real_row;
    row.launch = launch_mirrored;
    row.scratch_bytes = no_scratch;
    problem_run_row(p, &row, context);
    for (int i = 0; i < mirror.count; i++) {
        struct range *range = &mirror.ranges[i];
        must(cudaMemcpy(range->host, range->device, range->bytes, cudaMemcpyDeviceToHost));
        must(cudaFree(range->device));
    }
    attn_cuda_close(context);
    if (spoiled < 0) {
        problem_check(p);
    }
    return p;
}

static struct problem *run(const struct attn_shape *shape, const struct item *items, int count)
{
    return run_spoiled(shape, items, count, NOBODY);
}

static void check(const struct attn_shape *shape, const struct item *items, int count)
{
    problem_close(run(shape, items, count));
}

static const struct item ragged[] = {
    {0, 0, 37, 5, 0, 1},  {0, 129, 200, 0, 210, 2}, {1, 70, 21, 80, 0, 3}, {2, 1, 600, 0, 0, 4},
    {1, 0, 0, 0, 0, 5},   {2, 33, 0, 0, 9, 6},      {0, 1, 1, 0, 0, 7},    {2, 257, 130, 0, 0, 8},
    {0, 63, 64, 0, 0, 9}, {0, 65, 385, 0, 0, 10},
};
static const struct item few[] = {
    {0, 200, 333, 0, 0, 1}, {1, 77, 700, 90, 0, 2}, {0, 0, 5, 3, 0, 3}};

enum { RAGGED = sizeof ragged / sizeof ragged[0], FEW = sizeof few / sizeof few[0] };

static const struct attn_mask masks[] = {
    {false, false, 0, 0}, {false, true, 0, 0},  {true, true, 17, 0},
    {true, true, 0, 5},   {true, false, 40, 0},
};

enum { MASKS = sizeof masks / sizeof masks[0] };

static struct attn_shape shape_for(enum attn_dtype dtype, int hq, int hkv)
{
    struct attn_shape shape = shape_of(dtype, hq, hkv, real_row->d_max, real_row->dv_max);
    shape.pass = real_row->pass;
    return shape;
}

START_TEST(ragged_batches_under_every_mask)
{
    real_row = gpu_suite_row(_i);
    for (int m = 0; m < MASKS; m++) {
        static const int heads[][2] = {{2, 2}, {4, 2}, {6, 2}, {8, 2}, {8, 1}};
        for (size_t i = 0; i < sizeof heads / sizeof heads[0]; i++) {
            struct attn_shape shape =
                shape_for(m % 2 ? ATTN_FP16 : ATTN_BF16, heads[i][0], heads[i][1]);
            shape.mask = masks[m];
            check(&shape, ragged, RAGGED);
        }
    }
}
END_TEST

START_TEST(softcap_and_sink)
{
    real_row = gpu_suite_row(_i);
    for (int m = 0; m < MASKS; m++) {
        struct attn_shape shape = shape_for(ATTN_BF16, 3, 3);
        shape.mask = masks[m];
        shape.softcap = m % 2 ? 5.0f : 0.0f;
        shape.has_sink = true;
        if (!real_row->refuse || !real_row->refuse(&shape)) {
            check(&shape, ragged, RAGGED);
        }
    }
}
END_TEST

/* Narrower than the row's, also by whole panels of 64 columns, on either side. */
START_TEST(odd_head_dims)
{
    real_row = gpu_suite_row(_i);
    const int dims[][2] = {{real_row->d_max - 16, real_row->dv_max - 24},
                           {8, real_row->dv_max},
                           {real_row->d_max, 8},
                           {real_row->d_max / 2, real_row->dv_max}};
    for (size_t i = 0; i < sizeof dims / sizeof dims[0]; i++) {
        struct attn_shape shape = shape_for(ATTN_BF16, 2, 2);
        shape.d = dims[i][0];
        shape.dv = dims[i][1];
        if (!real_row->refuse || !real_row->refuse(&shape)) {
            check(&shape, few, FEW);
        }
    }
}
END_TEST

/* No queries, no keys or neither: in the whole launch, and first, in the middle and last in it. */
START_TEST(nothing_on_one_side)
{
    static const struct item batches[][3] = {
        {{0, 0, 300, 0, 0, 1}, {0, 0, 7, 0, 9, 2}, {0, 0, 0, 0, 0, 3}},
        {{0, 300, 0, 0, 0, 1}, {0, 7, 0, 9, 0, 2}, {0, 0, 0, 0, 0, 3}},
        {{0, 0, 90, 0, 0, 1}, {0, 300, 200, 0, 0, 2}, {0, 0, 90, 0, 0, 3}},
        {{0, 90, 0, 0, 0, 1}, {0, 0, 300, 0, 0, 2}, {0, 90, 200, 0, 0, 3}},
    };
    real_row = gpu_suite_row(_i);
    for (size_t b = 0; b < sizeof batches / sizeof batches[0]; b++) {
        for (int causal = 0; causal < 2; causal++) {
            struct attn_shape shape = shape_for(ATTN_BF16, 4, 2);
            shape.mask.has_right = causal;
            shape.deterministic = true;
            check(&shape, batches[b], 3);
        }
    }
}
END_TEST

START_TEST(scores_that_outgrow_exp)
{
    real_row = gpu_suite_row(_i);
    for (int m = 0; m < MASKS; m++) {
        struct attn_shape shape = shape_for(m % 2 ? ATTN_FP16 : ATTN_BF16, 4, 2);
        shape.d -= m % 2 * 24;
        shape.mask = masks[m];
        if (!real_row->refuse || !real_row->refuse(&shape)) {
            problem_close(run_spoiled(&shape, few, FEW, STEEP));
        }
    }
}
END_TEST

START_TEST(bits_are_the_sequences_own)
{
    real_row = gpu_suite_row(_i);
    for (int m = 0; m < 2; m++) {
        struct attn_shape shape = shape_for(ATTN_BF16, 4, 2);
        shape.mask = masks[m];
        shape.deterministic = true;
        struct problem *all = run(&shape, ragged, RAGGED);
        struct problem *again = run(&shape, ragged, RAGGED);
        for (int i = 0; i < RAGGED; i++) {
            struct problem *alone = run(&shape, &ragged[i], 1);
            problem_check_same(all, i, alone, 0);
            problem_check_same(all, i, again, i);
            problem_close(alone);
        }
        problem_close(all);
        problem_close(again);
    }
}
END_TEST

/* Gaps and unused rows are NaN in every test; here the neighbour's own rows are, too. */
START_TEST(a_neighbour_that_is_not_finite_does_not_leak)
{
    static const int neighbours[] = {1, 7};
    real_row = gpu_suite_row(_i);
    for (int m = 0; m < MASKS; m++) {
        struct attn_shape shape = shape_for(m % 2 ? ATTN_FP16 : ATTN_BF16, 4, 2);
        shape.mask = masks[m];
        shape.deterministic = true;
        struct problem *healthy = run(&shape, ragged, RAGGED);
        for (size_t n = 0; n < sizeof neighbours / sizeof neighbours[0]; n++) {
            struct problem *spoiled = run_spoiled(&shape, ragged, RAGGED, neighbours[n]);
            for (int i = 0; i < RAGGED; i++) {
                if (i != neighbours[n]) {
                    problem_check_same(healthy, i, spoiled, i);
                }
            }
            problem_close(spoiled);
        }
        problem_close(healthy);
    }
}
END_TEST

int main(int argc, char **argv)
{
    const struct gpu_test tests[] = {
        {ragged_batches_under_every_mask, false},
        {softcap_and_sink, false},
        {odd_head_dims, false},
        {nothing_on_one_side, false},
        {scores_that_outgrow_exp, true},
        {bits_are_the_sequences_own, false},
        {a_neighbour_that_is_not_finite_does_not_leak, false},
    };
    return gpu_suite_main("attn_gpu", tests, sizeof tests / sizeof tests[0], argc, argv);
}
