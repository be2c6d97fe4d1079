/*
 * Launches that only a GPU is fast enough for, forward and deterministic backward, every row of
 * this device: the same bits from grids of any size, a thousand times over and with nothing between
 * two launches, an end with the fewest CTAs that a launch is promised to end with, and tensors of
 * more than 2^31 elements.
 * Results are compared with each other; test_attn_gpu compares them with the answer. Skipped
 * without a GPU.
 */
#include <cuda_runtime_api.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tests/kernels/gpu_suite.h"

enum { PLAN_BYTES = 1 << 24, SEQUENCES_MAX = 4096, REPEATS = 1000, WATCHDOG_MS = 20000 };
enum { CHAIN = 6, CHAIN_SEQUENCES = 64, CHAIN_REPEATS = 10 };
enum { HQ = 4, HKV = 2, TENSORS = 9, OUTPUTS_MAX = 3 };

static const struct attn_row *row;

static void must(cudaError_t error)
{
    ck_assert_msg(error == cudaSuccess, "%s", cudaGetErrorString(error));
}

/* The fewest CTAs that a launch ends with: forward tiles wait for nobody. */
static int32_t fewest_ctas(void)
{
    return row->pass == ATTN_FORWARD ? 1 : ATTN_CUDA_SMS_MIN;
}

/* One set of packed sequences of equal lengths on both sides, in device memory. */
struct batch {
    struct attn_launch launch;
    struct attn_set set;
    struct attn_sequence sequences[SEQUENCES_MAX];
    int64_t tokens;
};

/* Values in (-1, 1): a block of them, again and again; its length is no multiple of a row's. */
static void *random_rows(size_t bytes, unsigned seed)
{
    enum { BLOCK = 1 << 20 };
    static uint16_t block[BLOCK - 24];
    for (size_t i = 0; i < sizeof block / sizeof block[0]; i++) {
        seed = seed * 1664525u + 1013904223u;
        float x = (float)(seed >> 8) * 0x1p-23f - 1;
        uint32_t bits;
        memcpy(&bits, &x, sizeof bits);
        block[i] = (uint16_t)(bits >> 16);
    }
    unsigned char *there;
    must(cudaMalloc((void **)&there, bytes + 1));
    for (size_t at = 0; at < bytes; at += sizeof block) {
        size_t part = bytes - at < sizeof block ? bytes - at : sizeof block;
        must(at == 0 ? cudaMemcpy(there, block, part, cudaMemcpyHostToDevice)
                     : cudaMemcpy(there + at, there, part, cudaMemcpyDeviceToDevice));
    }
    return there;
}

static struct attn_tensor tensor_of(int64_t tokens, int heads, int columns, unsigned seed)
{
    int64_t head_bytes = (int64_t)columns * 2;
    return (struct attn_tensor){random_rows((size_t)(tokens * heads * head_bytes), seed),
                                heads * head_bytes, head_bytes};
}

/*
 * lse, a row's heads side by side as those of the other tensors are. 0x3f3f3f3f is 0.747: with
 * scores around 0, probabilities of the backward around a half.
 */
static struct attn_tensor statistics_of(int64_t tokens)
{
    struct attn_tensor lse = {NULL, (int64_t)HQ * 4, 4};
    must(cudaMalloc(&lse.data, (size_t)(tokens * lse.row_stride)));
    must(cudaMemset(lse.data, 0x3f, (size_t)(tokens * lse.row_stride)));
    return lse;
}

static void open_tensors(struct attn_set *s, int64_t tokens)
{
    int d = row->d_max, dv = row->dv_max;
    s->q = tensor_of(tokens, HQ, d, 1);
    s->k = tensor_of(tokens, HKV, d, 2);
    s->v = tensor_of(tokens, HKV, dv, 3);
    s->o = tensor_of(tokens, HQ, dv, 4);
    s->lse = statistics_of(tokens);
    if (row->pass == ATTN_BACKWARD) {
        s->do_ = tensor_of(tokens, HQ, dv, 5);
        s->dq = tensor_of(tokens, HQ, d, 6);
        s->dk = tensor_of(tokens, HKV, d, 7);
        s->dv = tensor_of(tokens, HKV, dv, 8);
    }
}

static void open_batch(struct batch *b, const int *lengths, int count, bool causal)
{
    *b = (struct batch){0};
    for (int i = 0; i < count; i++) {
        b->sequences[i] = (struct attn_sequence){.index = i,
                                                 .q_first = b->tokens,
                                                 .k_first = b->tokens,
                                                 .q_len = lengths[i],
                                                 .k_len = lengths[i],
                                                 .q_span = lengths[i],
                                                 .k_span = lengths[i]};
        b->tokens += lengths[i];
    }
    open_tensors(&b->set, b->tokens);
    b->launch = (struct attn_launch){.shape = {.pass = row->pass,
                                               .dtype = ATTN_BF16,
                                               .hq = HQ,
                                               .hkv = HKV,
                                               .d = row->d_max,
                                               .dv = row->dv_max,
                                               .mask = {.has_right = causal},
                                               .softmax_scale = 1 / sqrtf((float)row->d_max),
                                               .deterministic = true},
                                     .sets = &b->set,
                                     .sequences = b->sequences,
                                     .set_count = 1,
                                     .sequence_count = count};
    b->launch.scratch_bytes = row->scratch_bytes(&b->launch);
    must(cudaMalloc(&b->launch.scratch, b->launch.scratch_bytes + 1));
    must(cudaMemset(b->launch.scratch, 0xff, b->launch.scratch_bytes));
}

static void close_batch(struct batch *b)
{
    struct attn_set *s = &b->set;
    void *all[TENSORS + 1] = {s->q.data,  s->k.data,  s->v.data,  s->o.data,   s->do_.data,
                              s->dq.data, s->dk.data, s->dv.data, s->lse.data, b->launch.scratch};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        must(cudaFree(all[i]));
    }
}

/* What the launch writes; returned: how many. */
static int outputs_of(const struct batch *b, const struct attn_tensor *outputs[OUTPUTS_MAX])
{
    const struct attn_set *s = &b->set;
    bool forward = row->pass == ATTN_FORWARD;
    outputs[0] = forward ? &s->o : &s->dq;
    outputs[1] = forward ? &s->lse : &s->dk;
    outputs[2] = &s->dv;
    return forward ? 2 : 3;
}

/* NaN in rows [first, tokens) of the outputs: what is equal afterwards was written. */
static void poison(const struct batch *b, int64_t first)
{
    const struct attn_tensor *outputs[OUTPUTS_MAX];
    int count = outputs_of(b, outputs);
    for (int i = 0; i < count; i++) {
        must(cudaMemset((unsigned char *)outputs[i]->data + first * outputs[i]->row_stride, 0xff,
                        (size_t)((b->tokens - first) * outputs[i]->row_stride)));
    }
}

/* What was launched has to end: where it does not, nothing on this GPU would any more. */
static void wait_for_end(void)
{
    cudaEvent_t done;
    must(cudaEventCreate(&done));
    must(cudaEventRecord(done, NULL));
    cudaError_t state = cudaErrorNotReady;
    for (int ms = 0; ms < WATCHDOG_MS && state == cudaErrorNotReady; ms++) {
        state = cudaEventQuery(done);
        struct timespec pause = {0, state == cudaErrorNotReady ? 1000000 : 0};
        nanosleep(&pause, NULL);
    }
    if (state == cudaErrorNotReady) {
        fprintf(stderr, "%s: a launch did not end\n", row->name);
        _Exit(EXIT_FAILURE);
    }
    must(state);
    must(cudaEventDestroy(done));
}

static void run(struct attn_context *context, const struct batch *b)
{
    ck_assert_int_eq(row->launch(context, &b->launch), ATTN_OK);
    wait_for_end();
}

/* FNV-1a of the results of rows [first, tokens). */
static uint64_t bits_of(const struct batch *b, int64_t first)
{
    const struct attn_tensor *outputs[OUTPUTS_MAX];
    int count = outputs_of(b, outputs);
    uint64_t hash = 0;
    for (int i = 0; i < count; i++) {
        size_t bytes = (size_t)((b->tokens - first) * outputs[i]->row_stride);
        uint64_t *words = malloc(bytes + 8);
        ck_assert_ptr_nonnull(words);
        must(cudaMemcpy(words, (unsigned char *)outputs[i]->data + first * outputs[i]->row_stride,
                        bytes, cudaMemcpyDeviceToHost));
        for (size_t w = 0; w < bytes / 8; w++) {
            hash = (hash ^ words[w]) * 0x100000001b3u;
            hash ^= hash >> 29;
        }
        free(words);
    }
    return hash;
}

static uint64_t run_and_hash(const struct batch *b, int32_t ctas)
{
    struct attn_context *context = attn_cuda_open(NULL, PLAN_BYTES);
    ck_assert_ptr_nonnull(context);
    attn_cuda_limit(context, ctas);
    poison(b, 0);
    run(context, b);
    uint64_t bits = bits_of(b, 0);
    attn_cuda_close(context);
    return bits;
}

START_TEST(bits_do_not_depend_on_the_grid)
{
    static struct batch b;
    const int32_t grids[] = {64, 114, 132};
    row = gpu_suite_row(_i);
    for (int i = 0; i < 4; i++) {
        bool causal = i % 2 == 1;
        const int lengths[] = {i < 2 ? 5000 : 7500, 130, 1, 2049, 64};
        open_batch(&b, lengths, 5, causal);
        uint64_t all = run_and_hash(&b, 0);
        ck_assert(run_and_hash(&b, fewest_ctas()) == all);
        for (size_t g = 0; g < sizeof grids / sizeof grids[0]; g++) {
            ck_assert(grids[g] < fewest_ctas() || run_and_hash(&b, grids[g]) == all);
        }
        close_batch(&b);
    }
}
END_TEST

START_TEST(a_thousand_runs_give_the_same_bits)
{
    static struct batch b;
    const int lengths[] = {700, 130, 1, 320};
    row = gpu_suite_row(_i);
    for (int causal = 0; causal < 2; causal++) {
        open_batch(&b, lengths, 4, causal);
        struct attn_context *context = attn_cuda_open(NULL, PLAN_BYTES);
        ck_assert_ptr_nonnull(context);
        run(context, &b);
        uint64_t first = bits_of(&b, 0);
        for (int i = 1; i < REPEATS; i++) {
            poison(&b, 0);
            run(context, &b);
            ck_assert_msg(bits_of(&b, 0) == first, "%s: run %d differs", row->name, i);
        }
        attn_cuda_close(context);
        close_batch(&b);
    }
}
END_TEST

/*
 * A chain: each launch reads what the one ahead wrote, as v or dO. Every other one has sequences of
 * 256 only, for which tiles of 128 rows cost less than taller ones (plan.c, suits): its forward
 * without mask is one kernel where others are two.
 */
static void open_chain(struct batch chain[CHAIN], bool causal)
{
    int lengths[2][CHAIN_SEQUENCES];
    for (int i = 0; i < CHAIN_SEQUENCES; i++) {
        lengths[0][i] = 256;
        lengths[1][i] = i == 0 ? 256 * CHAIN_SEQUENCES / 2 : i % 2 == 0 ? 200 : 312;
    }
    for (int i = 0; i < CHAIN; i++) {
        int count = i % 2 == 0 ? CHAIN_SEQUENCES : CHAIN_SEQUENCES / 2 + 1;
        open_batch(&chain[i], lengths[i % 2], count, causal);
        if (i > 0) {
            struct attn_set *s = &chain[i].set;
            struct attn_tensor *read = row->pass == ATTN_FORWARD ? &s->v : &s->do_;
            must(cudaFree(read->data));
            *read = row->pass == ATTN_FORWARD ? chain[i - 1].set.o : chain[i - 1].set.dq;
        }
    }
}

static void close_chain(struct batch chain[CHAIN])
{
    for (int i = 0; i < CHAIN; i++) {
        if (i > 0) {
            (row->pass == ATTN_FORWARD ? &chain[i].set.v : &chain[i].set.do_)->data = NULL;
        }
        close_batch(&chain[i]);
    }
}

/* With nothing between two launches, an early start of one is seen: its bits are others. */
START_TEST(launches_back_to_back_wait_for_each_other)
{
    static struct batch chain[CHAIN];
    row = gpu_suite_row(_i);
    for (int causal = 0; causal < 2; causal++) {
        uint64_t alone[CHAIN];
        open_chain(chain, causal);
        struct attn_context *context = attn_cuda_open(NULL, PLAN_BYTES);
        ck_assert_ptr_nonnull(context);
        for (int i = 0; i < CHAIN; i++) {
            poison(&chain[i], 0);
            run(context, &chain[i]);
            alone[i] = bits_of(&chain[i], 0);
        }
        for (int repeat = 0; repeat < CHAIN_REPEATS; repeat++) {
            for (int i = 0; i < CHAIN; i++) {
                poison(&chain[i], 0);
            }
            for (int i = 0; i < CHAIN; i++) {
                ck_assert_int_eq(row->launch(context, &chain[i].launch), ATTN_OK);
            }
            wait_for_end();
            for (int i = 0; i < CHAIN; i++) {
                ck_assert_msg(bits_of(&chain[i], 0) == alone[i], "%s: launch %d of a chain differs",
                              row->name, i);
            }
        }
        attn_cuda_close(context);
        close_chain(chain);
    }
}
END_TEST

START_TEST(the_fewest_ctas_end_the_longest_sequence)
{
    static struct batch b;
    const int length = 32768;
    row = gpu_suite_row(_i);
    for (int causal = 0; causal < 2; causal++) {
        open_batch(&b, &length, 1, causal);
        ck_assert(run_and_hash(&b, fewest_ctas()) == run_and_hash(&b, 0));
        close_batch(&b);
    }
}
END_TEST

/* The last sequence has the bits that it has alone. */
static void check_last_alone(struct batch *b)
{
    static struct attn_sequence last;
    last = b->sequences[b->launch.sequence_count - 1];
    struct attn_context *context = attn_cuda_open(NULL, PLAN_BYTES);
    ck_assert_ptr_nonnull(context);
    run(context, b);
    uint64_t together = bits_of(b, last.q_first);
    last.index = 0;
    b->launch.sequences = &last;
    b->launch.sequence_count = 1;
    poison(b, last.q_first);
    run(context, b);
    ck_assert(bits_of(b, last.q_first) == together);
    attn_cuda_close(context);
}

/* Which kernel a deterministic backward takes is up to where most of the work is. */
START_TEST(bits_do_not_depend_on_a_longer_neighbour)
{
    static struct batch b;
    const int lengths[] = {8000, 2049};
    row = gpu_suite_row(_i);
    for (int causal = 0; causal < 2; causal++) {
        open_batch(&b, lengths, 2, causal);
        check_last_alone(&b);
        close_batch(&b);
    }
}
END_TEST

/* The last of many sequences lies past 2^31 elements of q. */
START_TEST(offsets_beyond_two_to_the_31_elements)
{
    static struct batch b;
    static int lengths[SEQUENCES_MAX];
    row = gpu_suite_row(_i);
    int count = (int)(((int64_t)1 << 31) / (HQ * row->d_max) / 4096) + 2;
    for (int i = 0; i < count; i++) {
        lengths[i] = i == count - 1 ? 300 : 4096;
    }
    open_batch(&b, lengths, count, true);
    ck_assert_int_gt((b.tokens - 300) * HQ * row->d_max, (int64_t)1 << 31);
    check_last_alone(&b);
    close_batch(&b);
}
END_TEST

int main(int argc, char **argv)
{
    const struct gpu_test tests[] = {
        {bits_do_not_depend_on_the_grid, false},
        {a_thousand_runs_give_the_same_bits, false},
        {launches_back_to_back_wait_for_each_other, false},
        {the_fewest_ctas_end_the_longest_sequence, false},
        {bits_do_not_depend_on_a_longer_neighbour, false},
        {offsets_beyond_two_to_the_31_elements, false},
    };
    return gpu_suite_main("attn_gpu_long", tests, sizeof tests / sizeof tests[0], argc, argv);
}
