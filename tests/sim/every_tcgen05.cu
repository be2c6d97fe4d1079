/* The device build of gpu/tcgen05: compiled for sm_100a when there is an nvcc. */
#include "every_tcgen05.cuh"

extern "C" const char *every_tcgen05_start(float *out)
{
    return every_tcgen05::start(out);
}
