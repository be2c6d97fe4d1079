/*
 * attn.h: attention on any silicon, as one interface.
 *
 * A launch computes one pass (forward or backward) over many sequences. Who asked, how bytes
 * travelled and what was batched with what is nobody's business here: this folder knows only
 *
 *   shape     what all sequences of a launch share: pass, dtype, heads, head_dim, mask, scale
 *   set       the tensors of one request: base pointers with row and head strides
 *   sequence  a range of q rows and of k rows of one set
 *   row       one kernel: what it serves, how much scratch it needs, how it is launched
 *
 * Packing is assigning rows: a classic cu_seqlens batch is one set with many sequences, and sets of
 * several requests, in different allocations, mix in one launch. Padded batches and seqused are
 * sequences too (first row = b * max_len; length = seqused[b]), so no kernel has modes for them.
 *
 * What attention means (the contract every row is tested against, and kernels/cpu defines):
 *   s_ij  = softmax_scale * <q_i, k_j>;  with softcap c > 0: s_ij = c * tanh(s_ij / c)
 *   key j is seen by query i iff
 *           (!has_right || j <= i + len_k - len_q + right) &&
 *           (!has_left  || j >= i + len_k - len_q - left)         (bottom-right aligned)
 *           causal is has_right with right = 0
 *   lse_i = ln( sum_j exp(s_ij) + [sink] exp(sink_h) )            natural logarithm, fp32
 *   o_i   = sum_j exp(s_ij - lse_i) v_j
 *   A row that sees no key: o = 0, lse = -inf; with a sink: o = 0, lse = sink.
 *   q head h reads kv head h / (hq / hkv).
 *   Backward: with delta_i = sum_c do_ic o_ic - dlse_i, p_ij = exp(s_ij - lse_i),
 *           ds_ij = p_ij (<do_i, v_j> - delta_i) (1 - (s_ij/c)^2 with softcap)
 *           dq_i = scale sum_j ds_ij k_j, dk_j = scale sum_i ds_ij q_i, dv_j = sum_i p_ij do_i
 *           dsink_h = - sum_i exp(sink_h - lse_i) delta_i
 *   (FlashAttention-2, arXiv 2307.08691, section 3.1; sinks: arXiv 2309.17453.)
 *
 * Every row of a sequence's span is written: rows from its length up to its span get o = 0,
 * lse = -inf, gradients 0. Nothing outside a span is touched.
 *
 * Bits come first: the bits of a sequence's results are a function of its own lengths, data and the
 * shape; never of the other sequences of the launch, their order, the number of threads or SMs. For
 * the backward this holds when shape.deterministic is set.
 */
#ifndef ATTN_H
#define ATTN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum attn_pass { ATTN_FORWARD, ATTN_BACKWARD };

enum attn_dtype { ATTN_BF16, ATTN_FP16, ATTN_FP32 };

/* Silicon a row runs on. ATTN_CPU rows are offered only to a CPU device. */
enum attn_arch { ATTN_CPU, ATTN_SM90, ATTN_SM100 };

struct attn_mask {
    bool has_left, has_right;
    int32_t left, right; /* >= 0, in keys; ignored without has_ */
};

enum { ATTN_HEAD_DIM_STEP = 8, ATTN_HEAD_DIM_MAX = 256 };

/* Rows of the longest span that a kernel on a GPU reaches (gpu/tensor_shape.cuh): a launch with a
 * longer one is ATTN_INVALID there. The CPU has no such limit. */
enum { ATTN_GPU_SPAN_MAX = 1 << 24 };

/* Requests whose shapes compare equal (attn_shape_equal) may share a launch. */
struct attn_shape {
    enum attn_pass pass;
    enum attn_dtype dtype;
    int32_t hq, hkv; /* hq is a multiple of hkv */
    int32_t d, dv;   /* multiples of ATTN_HEAD_DIM_STEP, up to ATTN_HEAD_DIM_MAX */
    struct attn_mask mask;
    float softmax_scale; /* > 0, finite */
    float softcap;       /* 0: none */
    bool has_sink;
    bool has_dlse;      /* backward: set.dlse is read */
    bool has_delta;     /* backward: set.delta, sum_c do_ic o_ic, replaces set.o */
    bool deterministic; /* backward */
};

/*
 * One tensor in memory the device reaches. Element (row, head, c) of a tensor of element size e is
 * at data + row * row_stride + head * head_stride + c * e; strides are in bytes, multiples of 16
 * (of 4 for the fp32 statistics), the last dimension is contiguous. 64-bit throughout: tensors past
 * 2^31 elements are ordinary.
 */
struct attn_tensor {
    void *data;
    int64_t row_stride;
    int64_t head_stride;
};

/*
 * The tensors of one request. Unused ones are zero. In the backward o, lse and do_ are inputs.
 * q, o, do_, dq: hq heads; k, v, dk, dv: hkv heads. lse, dlse, delta: fp32, (hq, total_q) as
 * row_stride = 4, head_stride = 4 * total_q. sink: fp32 (hq). dsink: fp32 (sequences, hq), one row
 * per sequence in the order of attn_sequence.index; attn_sum_dsink adds them up in that order, so
 * that the sum, too, does not depend on how a request was cut into launches.
 */
struct attn_set {
    struct attn_tensor q, k, v, o, lse;
    struct attn_tensor do_, dq, dk, dv, dlse, delta;
    const float *sink;
    float *dsink;
};

/* A range of rows on either side of one set. span >= length; see "every row is written" above. */
struct attn_sequence {
    int32_t set;
    int32_t index; /* of the sequence in its set: the row of dsink */
    int64_t q_first, k_first;
    int32_t q_len, k_len;
    int32_t q_span, k_span;
};

/*
 * A launch of one long sequence can be cut into parts, so that others get their turn in between:
 * `parts` launches that differ in `part` only, 0 to parts - 1 in order, on one context, with
 * nothing else launched on their scratch in between. Together they do what one launch does, bit for
 * bit; results are complete with the last. Parts are of about equal work; any may be empty.
 */
struct attn_launch {
    struct attn_shape shape;
    const struct attn_set *sets;
    const struct attn_sequence *sequences;
    int32_t set_count, sequence_count;
    void *
        scratch; /* at least attn_row.scratch_bytes(launch), 256-byte aligned, contents arbitrary */
    size_t scratch_bytes;
    int32_t part, parts; /* parts 0 or 1: whole */
};

enum attn_status {
    ATTN_OK,
    ATTN_UNSUPPORTED,   /* no row serves the shape */
    ATTN_INVALID,       /* a field breaks the contract above */
    ATTN_LAUNCH_FAILED, /* the device refused the launch */
};

/*
 * Where a launch runs. A CPU context owns its threads; a GPU context wraps a stream, and launch
 * returns before the work is done. One context is used by one thread at a time.
 */
struct attn_context;

/* One kernel. The table in attn.c lists them all; tests and benches walk it. */
struct attn_row {
    const char *name; /* "cpu", "sm90_fwd_128", ... */
    enum attn_arch arch;
    enum attn_pass pass;
    uint32_t dtypes; /* bit set of 1u << attn_dtype */
    int32_t d_min, d_max, dv_min, dv_max;
    /* NULL when the shape is served, else the reason, for an error message ("head_dim over 128").
     */
    const char *(*refuse)(const struct attn_shape *shape);
    /* Scratch for the launch; monotone in sequences, so a batch needs at most the sum of its parts.
     */
    size_t (*scratch_bytes)(const struct attn_launch *launch);
    enum attn_status (*launch)(struct attn_context *context, const struct attn_launch *launch);
};

/* All rows of this build, in order of preference. */
const struct attn_row *attn_rows(size_t *count);

/*
 * The first row of the arch that serves the shape, or NULL with *reason set to a static text that
 * names the field at fault. Pure; any thread.
 */
const struct attn_row *attn_select(enum attn_arch arch, const struct attn_shape *shape,
                                   const char **reason);

/* NULL if the shape obeys the contract, else a static text naming the field. */
const char *attn_shape_check(const struct attn_shape *shape);

bool attn_shape_equal(const struct attn_shape *a, const struct attn_shape *b);

size_t attn_dtype_bytes(enum attn_dtype dtype);

/*
 * The work of one sequence in FLOPs: 2 per multiply-add over the visible (query, key) pairs,
 * forward 2 (d + dv) hq per pair, backward 2.5 times that (the field's rule, FlashAttention's
 * benchmarks). Fair queues charge it, benches divide by it. O(1).
 */
double attn_flops(const struct attn_shape *shape, int32_t q_len, int32_t k_len);

/* out[h] = sum over sequences, in order, in fp64: per_sequence is (sequences, hq). */
void attn_sum_dsink(const float *per_sequence, int64_t sequences, int32_t hq, float *out);

/* One request's sum, as work of a device. */
struct attn_dsink_sum {
    const float *per_sequence;
    int64_t sequences;
    int32_t hq;
    float *out;
};

/*
 * A context on the host with its own threads (>= 1). Created and destroyed off the hot path; NULL
 * if threads or memory can not be had.
 */
struct attn_context *attn_cpu_open(int threads);
void attn_cpu_close(struct attn_context *context);

#ifdef __cplusplus
}
#endif

#endif
