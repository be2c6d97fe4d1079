/*
 * vector.h: the element-wise arithmetic of the CPU kernels over contiguous floats.
 *
 * One table of functions per instruction set; vector.c is plain C, compiled once for each. A table
 * is chosen when a context is opened and stays for its life, so bits depend on the machine but
 * never on the batch or the number of threads. Stateless; any thread.
 */
#ifndef ATTN_CPU_VECTOR_H
#define ATTN_CPU_VECTOR_H

#include <stdint.h>

struct vector {
    const char *name;
    void (*from_bf16)(float *out, const uint16_t *in, int n);
    void (*from_fp16)(float *out, const uint16_t *in, int n);
    /* Round to nearest, ties to even; NaN stays NaN. */
    void (*to_bf16)(uint16_t *out, const float *in, int n);
    void (*to_fp16)(uint16_t *out, const float *in, int n);
    /* The largest element, -inf of none. A NaN is skipped. */
    float (*max)(const float *x, int n);
    float (*dot)(const float *x, const float *y, int n);
    void (*scale)(float *x, float factor, int n);
    /* x += factor * y */
    void (*add_scaled)(float *x, float factor, const float *y, int n);
    /* x = exp(x - shift); the sum of the results. */
    float (*exp_shifted)(float *x, float shift, int n);
    /* x = c tanh(x) */
    void (*softcap)(float *x, float c, int n);
    /* x = c tanh(x), slope = 1 - tanh(x)^2 */
    void (*softcap_slope)(float *x, float *slope, float c, int n);
    /* dp = p (dp - delta) */
    void (*ds)(float *dp, const float *p, float delta, int n);
    /* x *= y */
    void (*multiply)(float *x, const float *y, int n);
    /* 1 if no element is inf or NaN. */
    int (*all_finite)(const float *x, int n);
};

/* The best table this machine can run. */
const struct vector *vector_best(void);

#endif
