/*
 * sim/machine: the scheduler of one launch. It runs the ready lanes of a randomly chosen warp until
 * each blocks, and between warps lets asynchronous operations make progress, late and in an order
 * that the seed picks. Nothing ready and nothing pending is a deadlock.
 */
#ifndef SIM_MACHINE_H
#define SIM_MACHINE_H

#include <map>
#include <memory>
#include <stdint.h>
#include <string>
#include <vector>

#include "sim/block.h"
#include "sim/device.h"

namespace sim
{

/* An asynchronous operation in flight. */
struct pending {
    bool waited = false; /* its thread had, see thread */
    virtual ~pending() = default;
    /* Do the next part; true when nothing is left. */
    virtual bool step() = 0;
};

struct machine {
    device *on;
    launch_shape shape;
    const std::function<void()> *body;
    uint64_t random_state;
    int eagerness; /* percent: how readily pending operations proceed while threads can run */
    uint32_t lag;  /* how long lanes that fall behind their warp stay there, in turns; 0: none do */
    fiber scheduler, engine;
    bool in_engine;
    thread *running;
    std::vector<warp *> ready;
    std::vector<std::unique_ptr<pending>> operations;
    pending *stepping;
    bool step_result;
    std::vector<std::unique_ptr<block>> blocks; /* resident */
    std::vector<thread *> late;                 /* can run, but are held back */
    std::map<const int32_t *, std::shared_ptr<const published>> flags;
    std::vector<thread *> polling; /* wait for a change of global memory */
    bool waited;                   /* a thread has called grid_wait_previous */
    std::string error;
    uint64_t version; /* of shared memory, unique over all blocks */
};

/* The machine that runs on this host thread, and the thread that it runs. */
machine &the_machine();
thread &self();
bool inside_kernel();

uint64_t random_bits();
/* 0 <= result < bound */
uint32_t random_below(uint32_t bound);

/* Give up the processor until someone wakes this thread. */
void sleep_until_woken(const char *waits_for, where at, uint32_t address = 0, uint32_t value = 0);
void wake(thread *t);
/* Let others run first. */
void yield();
void start(std::unique_ptr<pending> operation);

/* Asked by each protocol step when it begins: true when this run leaves it out. */
bool dropped(const char *name, where at);

/* Ends the launch with a message and does not return to the caller (its stack is abandoned). The
 * overload with a thread begins with who it is. */
void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
void fail_at(where at, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* "block 3 warp 5 lane 17" */
std::string name_of(const thread &t);

} // namespace sim

#endif
