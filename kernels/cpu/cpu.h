/* cpu.h: the CPU's entries in the table of attn.c. Contracts: struct attn_row in attn.h. */
#ifndef ATTN_CPU_CPU_H
#define ATTN_CPU_CPU_H

#include "kernels/attn.h"

#define ATTN_CPU_DTYPES (1u << ATTN_BF16 | 1u << ATTN_FP16 | 1u << ATTN_FP32)

size_t attn_cpu_forward_scratch(const struct attn_launch *launch);
enum attn_status attn_cpu_forward(struct attn_context *context, const struct attn_launch *launch);

size_t attn_cpu_backward_scratch(const struct attn_launch *launch);
enum attn_status attn_cpu_backward(struct attn_context *context, const struct attn_launch *launch);

#endif
