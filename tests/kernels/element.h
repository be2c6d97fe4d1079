/*
 * element.h: single numbers of a tensor, as double, whatever its type; written ones are rounded to
 * nearest even. Shares no code with any kernel.
 */
#ifndef TESTS_KERNELS_ELEMENT_H
#define TESTS_KERNELS_ELEMENT_H

#include "kernels/attn.h"

/* Element (row, head, c) of a tensor. */
double element(enum attn_dtype dtype, const struct attn_tensor *tensor, int64_t row, int head,
               int c);
void set_element(enum attn_dtype dtype, const struct attn_tensor *tensor, int64_t row, int head,
                 int c, double value);

#endif
