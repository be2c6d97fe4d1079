/*
 * Where bytes lie: TMA boxes, swizzles, descriptors and register fragments against models written
 * here from their definitions, sharing no code with kernels/gpu/descriptor or the simulator.
 */
#include <stdlib.h>
#include <string>
#include <vector>

#include "gpu/barrier.cuh"
#include "gpu/bulk.cuh"
#include "gpu/descriptor.cuh"
#include "gpu/fence.cuh"
#include "gpu/index.cuh"
#include "gpu/launch.cuh"
#include "gpu/math.cuh"
#include "gpu/mbarrier.cuh"
#include "gpu/mma.cuh"
#include "gpu/smem.cuh"
#include "gpu/tma.cuh"
#include "gpu/warp.cuh"
#include "gpu/wgmma.cuh"
#include "sim/half.h"

#include <check.h> /* last: it has a macro named fail */

using namespace gpu;

namespace
{

constexpr uint32_t TILE = sim::SMEM_BASE;
constexpr uint32_t SECOND = TILE + 64 * 1024;
constexpr uint32_t BARRIER = TILE + 160 * 1024;
constexpr uint32_t ALL_SMEM = 200 * 1024;

const swizzle SWIZZLES[] = {swizzle::b128, swizzle::b64, swizzle::b32};

void ran(const sim::device &d, bool ok)
{
    ck_assert_msg(ok, "%s", d.error.c_str());
}

bool run(sim::device *d, int threads, const std::function<void()> &body)
{
    return sim::device_run(d, {{1, 1, 1}, threads, ALL_SMEM, 0}, body);
}

/* One thread loads boxes; everybody waits. */
void load_boxes(const std::function<void(uint32_t barrier)> &loads, uint32_t bytes)
{
    if (thread_index() == 0) {
        mbarrier_init(BARRIER, 1);
        mbarrier_init_fence();
        mbarrier_arrive_expect(BARRIER, bytes);
        loads(BARRIER);
    }
    block_sync();
    mbarrier_wait(BARRIER, 1);
}

/* Bytes of a row of the swizzle, by its name. */
uint32_t width_of(swizzle s)
{
    return s == swizzle::b128 ? 128 : s == swizzle::b64 ? 64 : 32;
}

/* The documented pattern: 16-byte chunk c of row r, rows `width` bytes long. 128: c ^ r % 8. 64:
 * two rows share 128 bytes, c ^ r / 2 % 4. 32: four rows do, c ^ r / 4 % 2. */
uint32_t documented(swizzle s, uint32_t row, uint32_t column_byte)
{
    uint32_t width = width_of(s), c = column_byte / 16;
    uint32_t with = s == swizzle::b128 ? row % 8 : s == swizzle::b64 ? row / 2 % 4 : row / 4 % 2;
    return row * width + (c ^ with) * 16 + column_byte % 16;
}

START_TEST(tma_boxes_and_tile_address_follow_the_documented_swizzle)
{
    constexpr int ROWS = 40, COLUMNS = 64, BOX_ROWS = 24, FIRST = 7;
    std::vector<u32x4> memory(ROWS * COLUMNS / 8);
    uint16_t *data = reinterpret_cast<uint16_t *>(memory.data());
    for (int i = 0; i < ROWS * COLUMNS; i++) {
        data[i] = static_cast<uint16_t>(i + 1);
    }
    for (swizzle s : SWIZZLES) {
        int panel = static_cast<int>(width_of(s)) / 2;
        tensor_map map;
        ck_assert(tensor_map_encode(&map, tensor_rows(element::bf16, s, data, COLUMNS * 2, 16, ROWS,
                                                      1, COLUMNS, BOX_ROWS)));
        for (int column = 0; column < COLUMNS; column += panel) {
            sim::device d;
            sim::device_add(&d, "data", data, memory.size() * 16, sim::usage::input);
            ran(d, run(&d, 32, [&] {
                    uint32_t bytes = BOX_ROWS * width_of(s);
                    load_boxes(
                        [&](uint32_t b) { tma_load(TILE, &map, b, l2::normal, column, FIRST, 0); },
                        bytes);
                    for (uint32_t r = 0; r < BOX_ROWS && lane_index() == 3; r++) {
                        for (uint32_t c = 0; c < width_of(s); c += 4) {
                            uint32_t at = documented(s, r, c);
                            ck_assert_uint_eq(tile_address(s, TILE, BOX_ROWS, r, c), TILE + at);
                            uint32_t pair = smem_load<uint32_t>(TILE + at);
                            uint32_t want =
                                (FIRST + r) * COLUMNS + static_cast<uint32_t>(column) + c / 2 + 1;
                            ck_assert_uint_eq(pair & 0xffff, want);
                            ck_assert_uint_eq(pair >> 16, want + 1);
                        }
                    }
                }));
        }
    }
}
END_TEST

START_TEST(ragged_loads_read_zeros_and_stores_write_nothing_past_the_sequence)
{
    constexpr int ROWS = 48, COLUMNS = 64, FIRST = 10, LENGTH = 21, BOX = 16;
    std::vector<u32x4> memory(ROWS * COLUMNS / 8), target(ROWS * COLUMNS / 8, {9, 9, 9, 9});
    uint16_t *data = reinterpret_cast<uint16_t *>(memory.data());
    for (int i = 0; i < ROWS * COLUMNS; i++) {
        data[i] = static_cast<uint16_t>(i + 1);
    }
    tensor_map from, to;
    auto shape = [](const void *p) {
        return tensor_ragged(
            tensor_panels(element::bf16, swizzle::b128, p, COLUMNS * 2, 16, ROWS, 1, COLUMNS, BOX));
    };
    ck_assert(tensor_map_encode(&from, shape(memory.data())));
    ck_assert(tensor_map_encode(&to, shape(target.data())));
    sim::device d;
    sim::device_add(&d, "data", data, memory.size() * 16, sim::usage::input);
    sim::device_add(&d, "target", target.data(), target.size() * 16, sim::usage::output);
    ran(d, run(&d, 32, [&] {
            load_boxes(
                [&](uint32_t b) {
                    tma_load(TILE, &from, b, l2::normal, 0, ragged_row(LENGTH, BOX), 0, 0,
                             ragged_shift(FIRST, LENGTH));
                },
                BOX * 128);
            if (thread_index() == 0) {
                tma_store(&to, TILE, l2::normal, 0, ragged_row(LENGTH, BOX), 0, 0,
                          ragged_shift(FIRST, LENGTH));
                bulk_commit();
                bulk_wait<0>();
                for (uint32_t r = 0; r < BOX; r++) {
                    uint32_t word = smem_load<uint32_t>(TILE + documented(swizzle::b128, r, 0));
                    uint32_t row = FIRST + BOX + r;
                    ck_assert_uint_eq(word & 0xffff, BOX + r < LENGTH ? row * COLUMNS + 1 : 0);
                }
            }
        }));
    const uint16_t *wrote = reinterpret_cast<uint16_t *>(target.data());
    for (int row = 0; row < ROWS; row++) {
        bool inside = row >= FIRST + BOX && row < FIRST + LENGTH;
        ck_assert_uint_eq(wrote[row * COLUMNS], inside ? data[row * COLUMNS] : 9);
    }
}
END_TEST

/* ---- wgmma ---- */

float small(int i)
{
    return static_cast<float>((i * 7 + i / 13 * 5) % 9 - 4) / 4;
}

struct problem {
    swizzle s;
    bool a_mn, b_mn, registers;
    int n;
};

/* A: 64 x 32 (two steps), B: 32 x N; element (outer, k) of an operand in a tile as TMA leaves it.
 */
constexpr int LENGTH = 32;

uint32_t place(swizzle s, bool mn, int rows, int outer, int k)
{
    int row = mn ? k : outer, column = mn ? outer : k;
    int panel = static_cast<int>(width_of(s)) / 2;
    return static_cast<uint32_t>(column / panel * rows) * width_of(s) +
           documented(s, static_cast<uint32_t>(row), static_cast<uint32_t>(column % panel) * 2);
}

/* One thread writes pairs; 16-bit stores do not exist, so pairs along the contiguous direction. */
void write_operand(swizzle s, bool mn, uint32_t tile, int rows, int outers, int salt)
{
    for (int o = 0; o < outers; o += mn ? 2 : 1) {
        for (int k = 0; k < LENGTH; k += mn ? 1 : 2) {
            int o2 = mn ? o + 1 : o, k2 = mn ? k : k + 1;
            smem_store(tile + place(s, mn, rows, o, k),
                       pack<bf16>(small(salt + o * LENGTH + k), small(salt + o2 * LENGTH + k2)));
        }
    }
}

template <int N, major A, major B>
void multiply(const problem &p, float (&d)[N / 2])
{
    uint32_t a_rows = p.a_mn ? LENGTH : 64, b_rows = p.b_mn ? LENGTH : N;
    uint64_t a = p.a_mn ? wgmma_descriptor_mn(p.s, TILE, a_rows) : wgmma_descriptor_k(p.s, TILE);
    uint64_t b =
        p.b_mn ? wgmma_descriptor_mn(p.s, SECOND, b_rows) : wgmma_descriptor_k(p.s, SECOND);
    uint32_t fragment[2][4];
    int row = warp_index() % 4 * 16 + lane_index() / 4, k = 2 * (lane_index() % 4);
    for (int step = 0; step < 2; step++) {
        for (int i = 0; i < 4; i++) {
            int at = (row + i % 2 * 8) * LENGTH + 16 * step + k + i / 2 * 8;
            fragment[step][i] = pack<bf16>(small(at), small(at + 1));
        }
    }
    wgmma_fence(d, fragment);
    for (uint32_t step = 0; step < 2; step++) {
        uint64_t as = descriptor_advance(a, p.a_mn ? step_bytes_mn(p.s, step)
                                                   : step_bytes_k(p.s, a_rows, step));
        uint64_t bs = descriptor_advance(b, p.b_mn ? step_bytes_mn(p.s, step)
                                                   : step_bytes_k(p.s, b_rows, step));
        if (p.registers) {
            wgmma<N, bf16, B>(d, fragment[step], bs, step > 0);
        } else {
            wgmma<N, bf16, A, B>(d, as, bs, step > 0);
        }
    }
    wgmma_commit();
    wgmma_wait<0>(d, fragment);
}

template <int N>
void check_product(const float (&d)[N / 2])
{
    for (int i = 0; i < N / 2; i++) {
        int row = warp_index() % 4 * 16 + lane_index() / 4 + i / 2 % 2 * 8;
        int column = i / 4 * 8 + 2 * (lane_index() % 4) + i % 2;
        float want = 0;
        for (int k = 0; k < LENGTH; k++) {
            want += small(row * LENGTH + k) * small(1000 + column * LENGTH + k);
        }
        ck_assert_msg(d[i] == want, "d[%d][%d] is %g, not %g", row, column,
                      static_cast<double>(d[i]), static_cast<double>(want));
    }
}

template <int N, major A, major B>
void run_product(const problem &p)
{
    sim::device d;
    ran(d, run(&d, 128, [&] {
            if (thread_index() == 0) {
                write_operand(p.s, p.a_mn, TILE, p.a_mn ? LENGTH : 64, 64, 0);
                write_operand(p.s, p.b_mn, SECOND, p.b_mn ? LENGTH : N, N, 1000);
            }
            fence_async_smem();
            block_sync();
            float acc[N / 2];
            multiply<N, A, B>(p, acc);
            check_product<N>(acc);
        }));
}

template <int N>
void run_forms(swizzle s)
{
    run_product<N, major::k, major::k>({s, false, false, false, N});
    run_product<N, major::k, major::k>({s, false, false, true, N});
    if (N * 2 % static_cast<int>(width_of(s)) == 0 || N * 2 < static_cast<int>(width_of(s))) {
        run_product<N, major::k, major::mn>({s, false, true, false, N});
        run_product<N, major::k, major::mn>({s, false, true, true, N});
        run_product<N, major::mn, major::mn>({s, true, true, false, N});
    }
    run_product<N, major::mn, major::k>({s, true, false, false, N});
}

START_TEST(wgmma_multiplies_every_layout)
{
    for (swizzle s : SWIZZLES) {
        run_forms<8>(s);
        run_forms<64>(s);
        run_forms<80>(s);
        run_forms<96>(s);
        run_forms<128>(s);
        run_forms<176>(s);
        run_forms<256>(s);
    }
}
END_TEST

/* ---- stmatrix and ldmatrix ---- */

START_TEST(stmatrix_and_ldmatrix_place_fragments)
{
    for (int transposed = 0; transposed < 2; transposed++) {
        sim::device d;
        ran(d, run(&d, 32, [&] {
                int lane = lane_index();
                /* matrix i, element (r, c) has value 100 i + 8 r + c; rows of 16 bytes */
                uint32_t r[4], got[4];
                for (int i = 0; i < 4; i++) {
                    uint32_t e = 100 * i + lane / 4 * 8 + lane % 4 * 2;
                    r[i] = e | (e + 1) << 16;
                }
                uint32_t row = TILE + static_cast<uint32_t>(lane) * 16;
                if (transposed) {
                    stmatrix_transposed(row, r);
                } else {
                    stmatrix(row, r);
                }
                warp_sync();
                for (uint32_t i = 0; i < 4 && lane == 0; i++) {
                    for (uint32_t a = 0; a < 8; a++) {
                        for (uint32_t c = 0; c < 8; c += 2) {
                            uint32_t pair = smem_load<uint32_t>(TILE + (8 * i + a) * 16 + c * 2);
                            uint32_t low = transposed ? 8 * c + a : 8 * a + c;
                            uint32_t high = transposed ? 8 * (c + 1) + a : 8 * a + c + 1;
                            ck_assert_uint_eq(pair, (100 * i + low) | (100 * i + high) << 16);
                        }
                    }
                }
                if (transposed) {
                    ldmatrix_transposed(row, got);
                } else {
                    ldmatrix(row, got);
                }
                for (int i = 0; i < 4; i++) {
                    ck_assert_uint_eq(got[i], r[i]);
                }
            }));
    }
}
END_TEST

/* Element (r, c) of A is r + c / 16, of B r - c / 4, all exact: lanes bring what gpu/mma says. */
START_TEST(mma_places_fragments)
{
    sim::device d;
    ran(d, run(&d, 32, [] {
            auto a = [](int r, int c) {
                return static_cast<float>(r) + static_cast<float>(c) / 16;
            };
            auto b = [](int r, int c) { return static_cast<float>(r) - static_cast<float>(c) / 4; };
            int row = lane_index() / 4, column = lane_index() % 4 * 2;
            uint32_t left[4], right[2];
            for (int i = 0; i < 4; i++) {
                int r = row + i % 2 * 8, c = column + i / 2 * 8;
                left[i] = pack<fp16>(a(r, c), a(r, c + 1));
            }
            for (int i = 0; i < 2; i++) {
                right[i] = pack<fp16>(b(row, column + 8 * i), b(row, column + 8 * i + 1));
            }
            float got[4] = {1, 2, 3, 4};
            mma_16x8x16<fp16>(got, left, right);
            for (int i = 0; i < 4; i++) {
                float want = static_cast<float>(i + 1);
                for (int k = 0; k < 16; k++) {
                    want += a(row + i / 2 * 8, k) * b(column + i % 2, k);
                }
                ck_assert_float_eq_tol(got[i], want, 1e-3f);
            }
        }));
}
END_TEST

START_TEST(sixteen_bit_floats_round_like_the_hardware)
{
    ck_assert_uint_eq(pack<bf16>(1.0f, -2.0f), 0xc0003f80);
    ck_assert_uint_eq(pack<bf16>(1.00390625f, 1.01171875f) & 0xffff, 0x3f80); /* tie to even */
    ck_assert_uint_eq(pack<bf16>(1.00390625f, 1.01171875f) >> 16, 0x3f82);
    ck_assert_uint_eq(pack<fp16>(1.0f, -2.0f), 0xc0003c00);
    ck_assert_uint_eq(pack<fp16>(65519.0f, 65520.0f), 0x7c007bff);
    ck_assert_uint_eq(pack<fp16>(0x1p-24f, 0x1p-25f), 0x00000001);
    for (uint32_t h = 0; h < 0x7c00; h++) {
        float f = unpack<fp16>(h).x;
        ck_assert_uint_eq(pack<fp16>(f, -f), h | (h | 0x8000) << 16);
    }
    for (float x = -20; x < 20; x += 0.37f) {
        ck_assert_float_eq_tol(exp2_approx(x) / exp2f(x), 1.0f, 1e-6f);
    }
    ck_assert_float_eq(exp2_approx(-infinity()), 0);
}
END_TEST

} // namespace

int main()
{
    Suite *suite = suite_create("sim_layouts");
    TCase *tests = tcase_create("layouts");
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, tma_boxes_and_tile_address_follow_the_documented_swizzle);
    tcase_add_test(tests, ragged_loads_read_zeros_and_stores_write_nothing_past_the_sequence);
    tcase_add_test(tests, wgmma_multiplies_every_layout);
    tcase_add_test(tests, stmatrix_and_ldmatrix_place_fragments);
    tcase_add_test(tests, mma_places_fragments);
    tcase_add_test(tests, sixteen_bit_floats_round_like_the_hardware);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
