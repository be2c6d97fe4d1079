#include "tests/sim/bed.h"

#include <math.h>

#include "sim/half.h"
#include "tests/sim/kernels/multiply.cuh"
#include "tests/sim/kernels/reduce.cuh"
#include "tests/sim/kernels/tensor.cuh"

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
    sim::device_add(&d, "out", sum, out.size() * 16, sim::usage::ordered);
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

namespace
{

/* One row of tensor_test's answer, scores rounded as its kernel rounds them. */
void tensor_answer(const uint16_t *q, const std::vector<uint16_t> &k, float *row)
{
    constexpr size_t D = tensor_test::DIM;
    for (size_t key = 0; key < k.size() / D; key++) {
        float score = 0;
        for (size_t c = 0; c < D; c++) {
            score += sim::bf16_to_float(q[c]) * sim::bf16_to_float(k[key * D + c]);
        }
        score = sim::bf16_to_float(sim::float_to_bf16(score * tensor_test::SCALE));
        for (size_t c = 0; c < D; c++) {
            row[c] += score * sim::bf16_to_float(k[key * D + c]);
        }
    }
}

} // namespace

bed_result bed_tensor(uint64_t seed, const bed_setup &setup)
{
    constexpr size_t ROWS = 256, STEPS = 5, D = tensor_test::DIM;
    std::vector<uint16_t> q = random_matrix(ROWS * D, 3);
    std::vector<uint16_t> k = random_matrix(STEPS * tensor_test::KEYS * D, 4);
    std::vector<gpu::f32x4> out(ROWS * D / 4); /* aligned to 16 */
    sim::device d;
    prepare(&d, seed, setup);
    sim::device_add(&d, "q", q.data(), q.size() * 2, sim::usage::input);
    sim::device_add(&d, "k", k.data(), k.size() * 2, sim::usage::input);
    sim::device_add(&d, "out", out.data(), out.size() * 16, sim::usage::output);
    bed_result r = finish(d, tensor_test::start(&d, q.data(), k.data(), &out[0].x, ROWS, STEPS));
    for (size_t row = 0; row < ROWS && r.error.empty(); row += 5) {
        float want[D] = {};
        tensor_answer(&q[row * D], k, want);
        for (size_t c = 0; c < D; c++) {
            float got = (&out[row * D / 4 + c / 4].x)[c % 4];
            if (!(fabsf(got - want[c]) <= 1e-3f * (1 + fabsf(want[c])))) {
                r.error = "out[" + std::to_string(row) + "][" + std::to_string(c) + "] is " +
                          std::to_string(got) + ", not " + std::to_string(want[c]);
            }
        }
    }
    return r;
}

const std::vector<bed_case> bed_cases = {
    {"multiply", bed_multiply},
    {"reduce", bed_reduce},
    {"tensor", bed_tensor},
};
