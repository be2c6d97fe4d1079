/* gpu/grid: order between a kernel and the one before it in the stream (programmatic launch). */
#ifndef GPU_GRID_CUH
#define GPU_GRID_CUH

#include "gpu/types.cuh"

namespace gpu
{

/* The kernel before has finished and its writes are visible. Nothing of it is read before this. */
GPU_INLINE void grid_wait_previous()
{
    asm volatile("griddepcontrol.wait;" ::: "memory");
}

/* The next kernel may start its prologue. */
GPU_INLINE void grid_start_next()
{
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

} // namespace gpu

#endif
