/* sim/copy: what tensor and plain bulk copies share. */
#ifndef SIM_COPY_H
#define SIM_COPY_H

#include <memory>

#include "sim/block.h"
#include "sim/half.h"

namespace sim
{

/* The mbarrier of a load into b: its init must have been made visible to TMA. */
mbarrier &tma_barrier(block &b, const char *what, uint32_t barrier, where at);

/* The open bulk group of this thread, with one more operation in it. */
std::shared_ptr<bulk_group> bulk_open();
/* The number the open group will get in its warp's stream. */
uint32_t bulk_next_number();
void bulk_read_done(bulk_group &g);
void bulk_write_done(bulk_group &g);

void add_floats(float *to, const uint8_t *from, uint32_t bytes);

} // namespace sim

#endif
