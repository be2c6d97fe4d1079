/*
 * sim/vector: the loops that take the time, built for AVX2 and for any x86-64; the choice is made
 * once at run time.
 */
#ifndef SIM_VECTOR_H
#define SIM_VECTOR_H

#include <stddef.h>
#include <stdint.h>

namespace sim
{

constexpr int MULTIPLY_ROWS = 16; /* of a warp's part of a tile */
constexpr int MULTIPLY_STEP = 16; /* reduction length of one 16-bit instruction */

/* d[16][stride] (first n columns, a multiple of 8) += a[16][16] * b[16][stride]. */
void multiply_add(float *d, const float *a, const float *b, int n, int stride);

/* Are all count (a multiple of 4) values equal to value? */
bool all_equal(const uint64_t *values, size_t count, uint64_t value);

} // namespace sim

#endif
