/*
 * sim/device: a GPU for tests. Register the buffers that a kernel may touch, launch with the
 * ordinary gpu::launch (its stream is a device), and read `error`: empty, or a message that names
 * the rule, the kernel's line and the other party. Same seed, same run. One host thread at a time.
 */
#ifndef SIM_DEVICE_H
#define SIM_DEVICE_H

#include <functional>
#include <memory>
#include <stddef.h>
#include <stdint.h>
#include <string>
#include <vector>

#include "sim/where.h"

namespace sim
{

/* What kernels may do to a buffer. */
enum class usage {
    input,   /* read only */
    output,  /* each 4 bytes written at most once in the buffer's life; see device_unwritten */
    scratch, /* anything */
    ordered, /* anything, but each access must come after the write before it, by barriers and
                flags: sums whose order is fixed */
};

/* The newest write of 16 bytes of an ordered buffer. */
struct global_tag {
    uint64_t launch;
    int block, warp, lane;
    bool bulk; /* stamp is a bulk group's number */
    uint32_t stamp;
    uint16_t place;
};

struct buffer {
    const char *name;
    uintptr_t base;
    size_t bytes;
    usage use;
    std::vector<uint8_t> writes;   /* per 4 bytes, stops counting at 255 */
    std::vector<uint64_t> writers; /* per 4 bytes: the launch that wrote them last */
    std::vector<global_tag> tags;  /* ordered: per 16 bytes */
};

/* A protocol step of a kernel: what it calls and where. */
struct step {
    const char *name;
    where at;
};

struct block;

struct device {
    uint64_t seed = 1;
    int resident = 2; /* blocks that run at a time */

    /*
     * Mutation tests: a run with `record` notes every call of a wait, arrive, fence, commit or
     * barrier; a run with one of these places as `dropped` leaves that call out, and something must
     * object. Kernels need no hook for it.
     */
    bool record = false;
    std::vector<step> recorded;
    step dropped = {"", {"", 0}};

    std::string error;
    uint64_t launches = 0;
    uint64_t overlapping = 0; /* of them might have begun before the one ahead had ended */
    uint64_t ahead = 0;       /* the first that may still run while the newest one does */
    uint64_t switches = 0;    /* fiber switches of all launches */
    uint64_t multiplies = 0;  /* 16 x N x 16 products of all launches */

    std::vector<buffer> buffers;
    std::vector<std::unique_ptr<block>> spare; /* shared memory and shadows, reused */

    device();
    ~device();
};

void device_add(device *d, const char *name, const void *base, size_t bytes, usage use);

/* Offset of the first 4 bytes of the buffer that no kernel wrote, or -1. */
int64_t device_unwritten(const device *d, const void *base);

/*
 * Memory that every kernel may touch (the host side's lists and scratch), all bytes 0xff. Aligned
 * to 256 like cudaMalloc's.
 */
void *memory_take(size_t bytes);
void memory_give(void *memory);
/* A kernel uses such memory: per 4 bytes the launch that wrote them last; nullptr: it is none. */
uint64_t *memory_use(uintptr_t address, size_t bytes, bool write);

/*
 * Kernels run at once, but what a stream of copies does not wait for may still run on a GPU. A copy
 * on such a stream is refused, with an error of the device, where a kernel since the last settle
 * has read what it would overwrite.
 */
bool memory_copy(void *to, const void *from, size_t bytes);
void memory_settle();

constexpr int PROCESSORS = 3;       /* that the host side is told of, */
extern thread_local int processors; /* unless a test wants others */

struct launch_shape {
    int grid[3];
    int threads;
    uint32_t smem_bytes;
    int cluster;           /* blocks of one, along x; 0 or 1: none */
    bool overlaps = false; /* may begin before the launch ahead has ended */
};

/* Runs the grid to its end; body is called once in each thread. False: see d->error. */
bool device_run(device *d, const launch_shape &shape, const std::function<void()> &body);

} // namespace sim

#endif
