#include "tests/sim/bed.h"

#include <math.h>

#include "sim/half.h"
#include "tests/sim/kernels/multiply.cuh"
#include "tests/sim/kernels/reduce.cuh"

namespace
{

/* Small multiples of 1/8: sums are exact enough to compare tightly. */
std::vector<uint16_t> random_matrix(size_t count, uint32_t seed)
{
    std::vector<uint16_t> m(count);
    for (uint16_t &x : m) {
        seed = seed * 1664525u + 1013904223u;
        x = sim::float_to_bf16(static_cast<float>(static_cast<int>(seed >> 16) % 17 - 8) / 8);
    }
    return m;
}

std::string compare(const std::vector<uint16_t> &a, const std::vector<uint16_t> &b,
                    const std::vector<uint16_t> &c, size_t n, size_t k)
{
    for (size_t i = 0; i < c.size(); i++) {
        float want = 0;
        for (size_t x = 0; x < k; x++) {
            want += sim::bf16_to_float(a[i / n * k + x]) * sim::bf16_to_float(b[i % n * k + x]);
        }
        float got = sim::bf16_to_float(c[i]);
        if (!(fabsf(got - want) <= 0.005f * fabsf(want) + 0.001f)) {
            return "c[" + std::to_string(i / n) + "][" + std::to_string(i % n) + "] is " +
                   std::to_string(got) + ", not " + std::to_string(want);
        }
    }
    return "";
}

bed_result finish(const sim::device &d, const char *error)
{
    return {error ? error : "", d.recorded, d.switches, d.multiplies};
}

void prepare(sim::device *d, uint64_t seed, const bed_setup &setup)
{
    d->seed = seed;
    d->resident = 1 + static_cast<int>(seed % 4);
    setup(*d);
}

} // namespace

bed_result bed_multiply(uint64_t seed, const bed_setup &setup)
{
    constexpr size_t M = 256, N = 64, K = 320;
    std::vector<uint16_t> a = random_matrix(M * K, 1), b = random_matrix(N * K, 2);
    std::vector<uint16_t> c(M * N, 0x7fff);
    sim::device d;
    prepare(&d, seed, setup);
    sim::device_add(&d, "a", a.data(), a.size() * 2, sim::usage::input);
    sim::device_add(&d, "b", b.data(), b.size() * 2, sim::usage::input);
    sim::device_add(&d, "c", c.data(), c.size() * 2, sim::usage::output);
    bed_result r =
        finish(d, multiply_test::start<gpu::bf16>(&d, a.data(), b.data(), c.data(), M, N, K));
    if (r.error.empty()) {
        r.error = compare(a, b, c, N, K);
    }
    return r;
}

bed_result bed_reduce(uint64_t seed, const bed_setup &setup)
{
    using namespace reduce_test;
    std::vector<gpu::f32x4> in(CHUNKS * CHUNK / 4), out(CHUNKS * CHUNK / 4); /* aligned to 16 */
    std::vector<int32_t> flags(CHUNKS);
    float *source = &in[0].x, *sum = &out[0].x;
    for (int i = 0; i < CHUNKS * CHUNK; i++) {
        source[i] = static_cast<float>(i % 251) / 7; /* sums depend on their order */
    }
    sim::device d;
    prepare(&d, seed, setup);
    sim::device_add(&d, "in", source, in.size() * 16, sim::usage::input);
    sim::device_add(&d, "out", sum, out.size() * 16, sim::usage::scratch);
    sim::device_add(&d, "flags", flags.data(), flags.size() * 4, sim::usage::scratch);
    bed_result r = finish(d, start(&d, source, sum, flags.data()));
    for (int i = 0; i < CHUNKS * CHUNK && r.error.empty(); i++) {
        float want = 0;
        for (int b = 0; b < BLOCKS; b++) {
            want += source[i] * static_cast<float>(b + 1);
        }
        if (sum[i] != want) {
            r.error = "out[" + std::to_string(i) + "] is " + std::to_string(sum[i]) + ", not " +
                      std::to_string(want);
        }
    }
    return r;
}

const std::vector<bed_case> bed_cases = {
    {"multiply", bed_multiply},
    {"reduce", bed_reduce},
};
