/*
 * blas.h: products of small matrices; the one home of OpenBLAS.
 *
 * Row-major fp32. ld is in elements, at least the width, and fits int (block.h sees to it). The
 * bits of a product depend only on its sizes and its data. Any thread, once blas_open said true.
 */
#ifndef ATTN_CPU_BLAS_H
#define ATTN_CPU_BLAS_H

#include <stdbool.h>

struct matrix {
    float *data;
    int ld;
};

/* Finds the library, once per process; false when there is none that is safe to call. */
bool blas_open(void);

/* c (m, n) = alpha a (m, k) b (n, k)^T */
void blas_multiply_nt(int m, int n, int k, float alpha, struct matrix a, struct matrix b,
                      struct matrix c);

/* c (m, n) += a (m, k) b (k, n) */
void blas_add_nn(int m, int n, int k, struct matrix a, struct matrix b, struct matrix c);

/* c (m, n) += a (k, m)^T b (k, n) */
void blas_add_tn(int m, int n, int k, struct matrix a, struct matrix b, struct matrix c);

#endif
