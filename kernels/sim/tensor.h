/*
 * sim/tensor: tensor memory of one block, and who wrote and read which of its cells.
 * Multiplications of a warp run in order, asynchronously, at moments that the seed picks; loads
 * deliver their registers at tmem_load_wait.
 */
#ifndef SIM_TENSOR_H
#define SIM_TENSOR_H

#include <array>
#include <deque>
#include <stdint.h>

#include "sim/block.h"

namespace sim
{

constexpr uint32_t TENSOR_COLUMNS = 512, TENSOR_LANES = 128, TENSOR_GRANULE = 32, QUARTERS = 4;

/* One column of one quarter (32 lanes). */
struct tensor_cell {
    /* Who wrote it: 0 nobody, 1 + warp a multiplication, 17 + warp a store; its number. */
    uint8_t writer;
    uint32_t number;
    uint16_t place;
    uint32_t loads[WARPS_MAX];      /* newest load by each warp */
    uint32_t multiplies[WARPS_MAX]; /* newest multiplication of each stream that reads it */
    uint16_t read_place;
};

struct tensor_memory {
    uint32_t data[TENSOR_COLUMNS][TENSOR_LANES];
    tensor_cell cells[TENSOR_COLUMNS][QUARTERS];
    std::array<bool, TENSOR_COLUMNS / TENSOR_GRANULE> taken;
    bool no_more;
    int group;            /* blocks that use it together: 1, or 2 for a pair; 0: not known yet */
    uint32_t pair_wanted; /* columns this block waits for its peer to take as well; 0: none */
    uint32_t pair_base;   /* what both were given */
    thread *pair_waits;
    int in_flight; /* multiplications and commits */
};

} // namespace sim

#endif
