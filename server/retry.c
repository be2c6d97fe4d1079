#include "server/retry.h"

#include <math.h>

double retry_part(const struct retry_use *uses, size_t count)
{
    double most = 0;
    for (size_t i = 0; i < count; i++) {
        double excess = uses[i].held + uses[i].wanted - uses[i].limit;
        if (excess > 0 && uses[i].held > 0) {
            most = fmax(most, fmin(excess / uses[i].held, 1));
        }
    }
    return most;
}

uint32_t retry_after_ms(double part, double work_us)
{
    double ms = ceil(part * work_us / 1000);
    return (uint32_t)fmin(fmax(ms, RETRY_MS_MIN), RETRY_MS_MAX);
}
