/*
 * sim/fiber: stacks and the switch between them. A CUDA thread is a fiber; nothing unwinds across a
 * switch, and a fiber that will not run again is simply forgotten with its stack.
 */
#ifndef SIM_FIBER_H
#define SIM_FIBER_H

#include <stddef.h>

namespace sim
{

struct fiber {
    void *stack_pointer; /* where the six saved registers lie while it does not run */
    char *stack;
};

/* A fiber that calls entry(argument) on first switch; entry must never return. Its stack comes from
 * a pool of this host thread. */
void fiber_open(fiber *f, void (*entry)(void *), void *argument);
void fiber_close(fiber *f);

/* Save the running context in *from and continue *to. About 3 ns; ucontext's system calls cost
 * 285 ns a switch. */
void fiber_switch(fiber *from, fiber *to);

} // namespace sim

#endif
