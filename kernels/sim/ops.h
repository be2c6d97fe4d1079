/*
 * sim/ops: what the host versions of kernels/gpu/ call. One function per protocol step; each checks
 * its rules, does its work or starts it, and says in `at` which kernel line it came from.
 */
#ifndef SIM_OPS_H
#define SIM_OPS_H

#include <functional>
#include <memory>
#include <stddef.h>
#include <stdint.h>

#include "gpu/tensor_shape.cuh"
#include "gpu/types.cuh"
#include "sim/block.h"
#include "sim/device.h"

namespace sim
{

/* life of a block and of a thread (block.cpp) */
void block_reset(block &b, machine &m, int index, std::shared_ptr<cluster> in);
void thread_exit(thread &t);
/* After its last thread. */
void block_exit(const block &b);

/*
 * This thread lets others know what it did: its clock joins *into. Its later accesses are newer
 * than what was published.
 */
void publish(thread &t, clock *into);

/* warp-wide meetings (warp.cpp). finish computes out from in when all 32 lanes are there. */
enum class meet { values_only, orders_memory };
uint64_t warp_meet(const char *name, where at, uint64_t value, meet kind,
                   void (*finish)(warp &, collective &) = nullptr);
/* A warp-wide call that does not wait; lanes must make the same calls in the same order. */
void warp_trace(const char *name, where at);
void check_traces(const warp &w, where at);
bool warp_elect(where at);
void matrix_store(uint32_t row_address, const uint32_t *registers, int count, bool transposed,
                  where at);
void matrix_load(uint32_t row_address, uint32_t *registers, int count, bool transposed, where at);
void warp_multiply(float *d, const uint32_t *a, const uint32_t *b, bool bf16, where at);

/* barriers of the block (barrier.cpp) */
void named_sync(int id, int threads, where at);
void named_arrive(int id, int threads, where at);
void registers_change(int count, bool take, where at);

/* mbarriers (mbarrier.cpp) */
mbarrier &mbarrier_at(const char *what, uint32_t address, where at);
int mbarrier_number(const block &b, const mbarrier &m);
/* The same in another block of the cluster, which it may be reached from. */
mbarrier &mbarrier_of(block &b, const char *what, uint32_t address, where at);
void mbarrier_open(uint32_t address, uint32_t arrivals, where at);
void mbarrier_fence(where at);
void mbarrier_arrive(uint32_t address, uint32_t expected_bytes, where at);
void mbarrier_arrive_at(block &b, const char *what, uint32_t address, uint32_t expected_bytes,
                        where at);
bool mbarrier_try(uint32_t address, uint32_t rounds, where at);
void mbarrier_wait(uint32_t address, uint32_t rounds, where at);
/* Learns of ordinary accesses by other blocks, too. */
void mbarrier_wait_cluster(uint32_t address, uint32_t rounds, where at);
/* From the engine: bytes arrived, issued by a thread that knew this. */
void mbarrier_bytes(block &b, mbarrier &m, uint32_t bytes, uint32_t round, const clock &issuer,
                    where at);

/* From the engine: one arrival for a thread that knew this. */
void mbarrier_arrive_from(block &b, mbarrier &m, const clock &issuer, where at);

/* clusters (cluster.cpp) */
uint32_t cluster_rank();
uint32_t cluster_blocks();
void cluster_arrive(where at);
void cluster_wait(where at);
void cluster_warp_exit(warp &w);
/* Before the block's last thread ends: nobody else still uses its memory. */
void cluster_block_exit(const block &b);
/* A block of the running thread's cluster, which must run and not have ended. */
block &cluster_peer(const char *what, uint32_t rank, where at);
/* Those of a multicast. */
void cluster_each(const char *what, uint32_t mask, where at,
                  const std::function<void(block &)> &visit_block);
/* An access by this thread to b, if that is not its own block: b must outlive it. */
enum class visit { by_thread, by_tensor_stream };
void cluster_visit(block &b, visit how, uint32_t stamp, where at);
void cluster_visit_barrier(block &b, const mbarrier &m, uint32_t round, where at);
/* Bytes from another block count for the round that the issuer has in mind, if it knows that the
 * one before is complete. */
void cluster_check_round(const char *what, const block &b, const mbarrier &m, where at);
gpu::cluster_address cluster_map(uint32_t address, uint32_t rank);
uint32_t cluster_rank_of(gpu::cluster_address a);
uint32_t cluster_offset_of(gpu::cluster_address a);
void mbarrier_arrive_cluster(gpu::cluster_address barrier, uint32_t expected_bytes, where at);
void smem_read_cluster(gpu::cluster_address from, void *to, uint32_t bytes, where at);
void smem_write_cluster(gpu::cluster_address to, const void *from, uint32_t bytes, where at);
void bulk_copy_cluster(gpu::cluster_address target, uint32_t source, uint32_t bytes,
                       gpu::cluster_address barrier, where at);

/* fences (barrier.cpp) */
void fence_async(where at);

/* shared memory by ordinary instructions (warp.cpp) */
void smem_read(uint32_t address, void *to, uint32_t bytes, where at);
void smem_write(uint32_t address, const void *from, uint32_t bytes, where at);

/* asynchronous copies (tma.cpp, bulk.cpp) */
void tensor_load(uint32_t target, const gpu::tensor_shape &map, uint32_t barrier,
                 const int32_t *coordinates, int rank, where at);
/* To the same place in every block of the mask; each gets the bytes on its own mbarrier. */
void tensor_load_multicast(uint32_t target, const gpu::tensor_shape &map, uint32_t barrier,
                           uint32_t mask, const int32_t *coordinates, int rank, where at);
void tensor_store(const gpu::tensor_shape &map, uint32_t source, const int32_t *coordinates,
                  int rank, bool add, where at);
/* The bytes count on an mbarrier of either block of the pair. */
void tensor_load_pair(uint32_t target, const gpu::tensor_shape &map, gpu::cluster_address barrier,
                      const int32_t *coordinates, int rank, where at);
void bulk_load(uint32_t target, const void *source, uint32_t bytes, uint32_t barrier, where at);
void bulk_load_multicast(uint32_t target, const void *source, uint32_t bytes, uint32_t barrier,
                         uint32_t mask, where at);
void bulk_store(void *target, uint32_t source, uint32_t bytes, bool add, where at);
void bulk_commit(where at);
void bulk_wait(int pending, bool only_reads, where at);

/* wgmma (wgmma.cpp) */
struct multiply_call {
    float *d;
    int columns;
    const uint32_t *a_registers; /* or NULL and the descriptor */
    uint64_t a_descriptor, b_descriptor;
    bool bf16, a_mn, b_mn, add;
};
struct register_array {
    void *at;
    size_t bytes;
};
void wgmma_fence(const register_array *arrays, int count);
void wgmma_issue(const multiply_call &call, where at);
void wgmma_commit(where at);
void wgmma_wait(int pending, const register_array *arrays, int count);

/* tensor memory (tensor.cpp) */
/* group: 1, or 2: with the other block of the pair (ranks 2 i and 2 i + 1). */
void tensor_take(uint32_t columns, uint32_t smem_target, int group, where at);
void tensor_give(uint32_t base, uint32_t columns, int group, where at);
void tensor_take_no_more(int group, where at);
void tensor_fence_before(where at);
void tensor_fence_after(where at);
struct tensor_multiply_call {
    uint32_t d, a_tensor; /* a_tensor counts if a_in_tensor */
    bool a_in_tensor;
    uint64_t a, b;
    uint32_t instruction;
    bool add;
    int group;
};
void tensor_multiply(const tensor_multiply_call &call, where at);
/* mask: ranks that get an arrival on the mbarrier at this place; 0: this block. */
void tensor_commit(uint32_t barrier, uint32_t mask, int group, where at);
/* The rank whose tcgen05 streams read this block's memories: its own, or that of its pair's even
 * block. */
int tensor_issuer(const block &b);
void tensor_load(uint32_t *registers, uint32_t count, uint32_t from, where at);
void tensor_load_wait(const register_array *arrays, int count);
void tensor_store(uint32_t to, const uint32_t *registers, uint32_t count, where at);
void tensor_store_wait(where at);
/* Before this thread's clock is given to others. */
void tensor_publish(thread &t);
/* At the end of a thread; at the end of a block. */
void tensor_thread_exit(const thread &t);
void tensor_block_exit(const block &b);

/*
 * Order in global memory, for buffers that ask for it (order.cpp). Flags carry clocks from block to
 * block. bulk_number: the access is that bulk group's; 0: this thread's own.
 */
buffer *global_buffer(uintptr_t address, size_t bytes);
void order_access(const char *what, const void *at_address, size_t bytes, bool writes,
                  uint32_t bulk_number, where at);
void order_release(const int32_t *flag);
void order_acquire(const int32_t *flag);
void fence_async_global(where at);

/* global memory (global.cpp) */
void grid_wait_previous(where at);
void global_read(const void *from, void *to, size_t bytes, where at);
void global_write(void *to, const void *from, size_t bytes, where at);
void global_discard(void *line, where at); /* which holds NaN then */
/* From any context; only the range and the buffer's use are checked. */
bool global_usable(const void *at_address, size_t bytes, bool write, std::string *why);
int32_t global_fetch_add(int32_t *at_address, int32_t value, bool orders, where at);
void global_add(float *at_address, const float *values, int count, where at);
int32_t flag_load(const int32_t *flag, where at);
void flag_store(int32_t *flag, int32_t value, where at);
void flag_wait(const int32_t *flag, int32_t value, where at);

} // namespace sim

#endif
