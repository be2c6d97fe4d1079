/*
 * sim/shadow: every access to shared memory passes here and is judged against what the accessing
 * thread knows (sim/clock). Reads and writes by ordinary instructions are "generic"; TMA, bulk
 * copies and wgmma are "async" and see generic writes only after fence_async_smem.
 */
#ifndef SIM_SHADOW_H
#define SIM_SHADOW_H

#include "sim/block.h"

namespace sim
{

/* Bytes [address, address + bytes) lie in the block's shared memory and are aligned. */
bool smem_in_bounds(const char *what, uint32_t address, uint32_t bytes, uint32_t alignment,
                    where at);

/* b: whose shared memory; the running thread's own, or another block's of its cluster. */
void generic_read(block &b, const char *what, uint32_t address, uint32_t bytes, where at);
void generic_write(block &b, const char *what, uint32_t address, uint32_t bytes, where at);

/* stream: a warp for its wgmma stream, WARPS_MAX + warp for its bulk stream,
 * 2 * WARPS_MAX + warp for its tcgen05 stream. Multiples of 16. */
void async_read(block &b, const char *what, uint32_t address, uint32_t bytes, int stream,
                uint32_t group, where at);

/* Bytes of this block, read by a copy until `round` of the mbarrier in the block it goes to. */
void copy_reads(const char *what, uint32_t address, uint32_t bytes, const block &to, int barrier,
                uint32_t round, where at);

/* The bytes will arrive with this round of the mbarrier `barrier` of block `with` (mostly b
 * itself); until then they read as NaN. */
void async_write(block &b, const char *what, uint32_t address, uint32_t bytes, const block &with,
                 int barrier, uint32_t round, where at);

/* An mbarrier takes 8 bytes. */
void reserve(uint32_t address, where at);

/* Memory changed: decoded operands are stale. */
void touch(block &b, uint32_t address, uint32_t bytes);
uint64_t newest_version(const block &b, uint32_t address, uint32_t bytes);
uint64_t version_now();

uint8_t *smem_data(block &b, uint32_t address);

} // namespace sim

#endif
