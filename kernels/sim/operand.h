/*
 * sim/operand: what a shared memory matrix descriptor means, for wgmma and tcgen05. Both
 * architectures share the address rule; the bits around it differ, so each has its own decoder.
 */
#ifndef SIM_OPERAND_H
#define SIM_OPERAND_H

#include <stdint.h>

#include "sim/block.h"

namespace sim
{

struct operand {
    uint32_t start, leading, stride; /* bytes */
    uint32_t width;                  /* of the swizzle: 128, 64, 32, or 16 for none */
    bool mn;                         /* rows are the reduction index */
};

/* Refuses reserved bits and misplaced tiles. */
operand decode_wgmma(const char *which, uint64_t descriptor, bool mn, where at);
operand decode_tcgen05(const char *which, uint64_t descriptor, bool mn, where at);

/* Address of the 16-byte chunk that holds (outer index, k): outer is M or N; along the contiguous
 * direction the chunk's first element is a multiple of 8. */
uint32_t operand_chunk(const operand &o, uint32_t outer, uint32_t k);

/*
 * Elements [first, first + count) x 16 as floats: to[outer * outer_step + k * k_step]. Checks and
 * marks the reads for the stream's group. count is a multiple of 8.
 */
struct operand_read {
    uint32_t first, count;
    bool bf16;
    int stream;
    uint32_t group;
    where at;
};
void operand_check(block &b, const char *what, const operand &o, const operand_read &r);
void operand_decode(block &b, const operand &o, const operand_read &r, float *to, int outer_step,
                    int k_step);
/* The newest change of the shared memory that the operand covers. */
uint64_t operand_version(const block &b, const operand &o, const operand_read &r);

} // namespace sim

#endif
