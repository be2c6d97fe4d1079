#include "tests/sim/features.h"

#include "kernels/sm100/bwd_rows.h"

namespace
{

const attn_row BACKWARD_ROWS[] = {SM100_BACKWARD_ROWS};

template <typename T, size_t COUNT>
constexpr int count_of(const T (&)[COUNT])
{
    return COUNT;
}

struct dims {
    int d, dv;
};
const dims FORWARD_DIMS[] = {{64, 64}, {128, 128}, {192, 128}, {256, 256},
                             {40, 56}, {104, 72},  {168, 104}, {64, 128}};
const dims BACKWARD_DIMS[] = {{64, 64}, {128, 128}, {40, 56}, {104, 72}, {128, 64}, {64, 128}};
const struct {
    int hq, hkv;
} HEADS[] = {{1, 1}, {2, 1}, {2, 2}, {6, 1}, {6, 2}, {6, 3}};
const attn_mask FULL = {false, false, 0, 0}, CAUSAL = {false, true, 0, 0},
                LEFT = {true, false, 40, 0};
const attn_mask MASKS[] = {FULL, CAUSAL, {true, true, 100, 0}, {true, true, 17, 30}, LEFT};
/* Lengths around every edge; at most three key blocks, because a group of a deterministic backward
 * without mask needs as many CTAs at a time as it has blocks, and three is what the simulator has.
 */
const std::vector<item> LENGTHS[] = {
    {{0, 1, 1, 0, 0, 1}, {0, 63, 129, 0, 0, 2}, {1, 129, 63, 0, 0, 3}, {1, 64, 64, 0, 0, 4}},
    {{0, 255, 257, 0, 0, 1}, {0, 0, 65, 0, 0, 2}, {1, 65, 0, 0, 0, 3}, {0, 127, 128, 0, 0, 4}},
    {{0, 257, 255, 0, 0, 1}, {1, 128, 127, 0, 0, 2}, {2, 0, 0, 0, 0, 3}},
    {{0, 65, 1, 70, 0, 1}, {1, 1, 65, 0, 90, 2}, {0, 257, 64, 0, 0, 3}, {1, 129, 129, 140, 150, 4}},
};

/* In this order; the first six are both passes'. */
enum feature { DIM, HEAD, MASK, LENGTH, FP16, SOFTCAP, SINK, FORWARD_FEATURES };
enum { DETERMINISTIC = SINK, BACKWARD_SINK, DLSE, DELTA, BACKWARD_FEATURES };

void set_common(attn_shape *shape, const std::vector<int> &v)
{
    shape->mask = MASKS[v[MASK]];
    shape->softcap = v[SOFTCAP] ? 5.0f : 0.0f;
}

/* The values of the first `crossed` features; number then goes on to the others. */
std::vector<int> decode(const std::vector<int> &counts, int crossed, int number)
{
    std::vector<int> values;
    unsigned mix = static_cast<unsigned>(number) * 2654435761u >> 16;
    for (int f = 0; f < static_cast<int>(counts.size()); f++) {
        int count = counts[static_cast<size_t>(f)];
        values.push_back(f < crossed ? number % count : static_cast<int>(mix >> f) % count);
        number /= count;
    }
    return values;
}

int product(const std::vector<int> &counts, int crossed)
{
    int all = 1;
    for (int f = 0; f < crossed; f++) {
        all *= counts[static_cast<size_t>(f)];
    }
    return all;
}

std::string name_of(const char *row, const std::vector<int> &values)
{
    std::string name = row;
    for (int v : values) {
        name += " " + std::to_string(v);
    }
    return name;
}

} // namespace

std::vector<int> forward_features()
{
    return {count_of(FORWARD_DIMS), count_of(HEADS), count_of(MASKS), count_of(LENGTHS), 2, 2, 2};
}

std::vector<int> backward_features()
{
    return {count_of(BACKWARD_DIMS),
            count_of(HEADS),
            count_of(MASKS),
            count_of(LENGTHS),
            2,
            2,
            2,
            2,
            2,
            2};
}

attention_case forward_case(const std::vector<int> &v)
{
    const dims &dim = FORWARD_DIMS[v[DIM]];
    const attention_row *row = attention_rows_sm100.data();
    while (dim.d > row->d || dim.dv > row->dv) {
        row++;
    }
    attn_shape shape = shape_of(v[FP16] ? ATTN_FP16 : ATTN_BF16, HEADS[v[HEAD]].hq,
                                HEADS[v[HEAD]].hkv, dim.d, dim.dv);
    set_common(&shape, v);
    shape.has_sink = v[SINK];
    return {name_of(row->name, v), row, shape, LENGTHS[v[LENGTH]]};
}

backward_case backward_case_of(const std::vector<int> &v)
{
    attn_shape shape =
        backward_shape(v[FP16] ? ATTN_FP16 : ATTN_BF16, HEADS[v[HEAD]].hq, HEADS[v[HEAD]].hkv,
                       BACKWARD_DIMS[v[DIM]].d, BACKWARD_DIMS[v[DIM]].dv);
    set_common(&shape, v);
    shape.deterministic = v[DETERMINISTIC];
    shape.has_sink = v[BACKWARD_SINK];
    shape.has_dlse = v[DLSE];
    shape.has_delta = v[DELTA];
    const attn_row *row = backward_row(BACKWARD_ROWS, count_of(BACKWARD_ROWS), shape);
    return {name_of(row->name, v), row, shape, LENGTHS[v[LENGTH]], sim::PROCESSORS,
            SM100_BACKWARD_BLOCK};
}

std::vector<backward_case> sm100_backward_hazards()
{
    return backward_hazards(BACKWARD_ROWS, count_of(BACKWARD_ROWS), SM100_BACKWARD_BLOCK);
}

int forward_grid_count()
{
    return product(forward_features(), FORWARD_FEATURES);
}

int backward_grid_count()
{
    return product(backward_features(), BACKWARD_SINK);
}

attention_case forward_grid_case(int number)
{
    return forward_case(decode(forward_features(), FORWARD_FEATURES, number));
}

backward_case backward_grid_case(int number)
{
    return backward_case_of(decode(backward_features(), BACKWARD_SINK, number));
}
