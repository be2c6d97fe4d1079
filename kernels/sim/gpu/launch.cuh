/* gpu/launch on the host: see kernels/gpu/launch.cuh for what each function means. */
#ifndef SIM_GPU_LAUNCH_CUH
#define SIM_GPU_LAUNCH_CUH

#include "gpu/types.cuh"
#include "sim/device.h"

namespace gpu
{

using stream = sim::device *;

struct launch_config {
    int grid_x, grid_y, grid_z;
    int threads;
    uint32_t smem_bytes;
    int cluster;
    bool overlaps_previous;
    stream on;
};

/* Runs the kernel to its end. NULL, or what the simulator objects to (valid until the next launch).
 */
template <typename... Parameters, typename... Arguments>
inline const char *launch(const launch_config &config, void (*kernel)(Parameters...),
                          const Arguments &...arguments)
{
    auto at_least_one = [](int n) { return n > 0 ? n : 1; };
    sim::launch_shape shape = {
        {at_least_one(config.grid_x), at_least_one(config.grid_y), at_least_one(config.grid_z)},
        config.threads,
        config.smem_bytes,
        config.cluster,
        config.overlaps_previous};
    bool ran = sim::device_run(config.on, shape, [&] { kernel(Parameters(arguments)...); });
    return ran ? nullptr : config.on->error.c_str();
}

} // namespace gpu

#endif
