#include "tests/sim/features.h"

#include "kernels/sm100/bwd_rows.h"

namespace
{

const attn_row ALONE_ROWS[] = {SM100_BACKWARD_ROWS}, PAIR_ROWS[] = {SM100_BACKWARD_PAIR_ROW},
               WIDE_ROWS[] = {SM100_BACKWARD_WIDE_ROWS};
constexpr int Q_BLOCK = 128;

template <typename T, size_t COUNT>
constexpr int count_of(const T (&)[COUNT])
{
    return COUNT;
}

template <typename T>
int of(const std::vector<T> &values)
{
    return static_cast<int>(values.size());
}

using pair = backward_space::pair;
const pair FORWARD_DIMS[] = {{64, 64}, {128, 128}, {192, 128}, {256, 256},
                             {40, 56}, {104, 72},  {168, 104}, {64, 128}};
const std::vector<pair> HEADS = {{1, 1}, {2, 1}, {2, 2}, {6, 1}, {6, 2}, {6, 3}};
const attn_mask FULL = {false, false, 0, 0}, CAUSAL = {false, true, 0, 0},
                LEFT = {true, false, 40, 0};
const attn_mask MASKS[] = {FULL, CAUSAL, {true, true, 100, 0}, {true, true, 17, 30}, LEFT};
/* Lengths around every edge; at most three key blocks, because a group of a deterministic backward
 * without mask needs as many CTAs at a time as it has blocks, and three is what the simulator has.
 */
const std::vector<std::vector<item>> LENGTHS = {
    {{0, 1, 1, 0, 0, 1}, {0, 63, 129, 0, 0, 2}, {1, 129, 63, 0, 0, 3}, {1, 64, 64, 0, 0, 4}},
    {{0, 255, 257, 0, 0, 1}, {0, 0, 65, 0, 0, 2}, {1, 65, 0, 0, 0, 3}, {0, 127, 128, 0, 0, 4}},
    {{0, 257, 255, 0, 0, 1}, {1, 128, 127, 0, 0, 2}, {2, 0, 0, 0, 0, 3}},
    {{0, 65, 1, 70, 0, 1}, {1, 1, 65, 0, 90, 2}, {0, 257, 64, 0, 0, 3}, {1, 129, 129, 140, 150, 4}},
};

/*
 * Around every edge of a CTA's 128 keys and of a pair's 256: tiles whose second CTA has no key, one
 * key, and all; steps whose second half has no query.
 */
const std::vector<std::vector<item>> PAIR_LENGTHS = {
    {{0, 1, 1, 0, 0, 1}, {0, 63, 129, 0, 0, 2}, {1, 129, 63, 0, 0, 3}, {1, 64, 127, 0, 0, 4}},
    {{0, 255, 257, 0, 0, 1}, {0, 0, 65, 0, 0, 2}, {1, 65, 0, 0, 0, 3}, {0, 127, 128, 0, 0, 4}},
    {{0, 257, 255, 0, 0, 1}, {1, 128, 256, 0, 0, 2}, {2, 0, 0, 0, 0, 3}},
    {{0, 65, 1, 70, 0, 1},
     {1, 1, 65, 0, 290, 2},
     {0, 130, 400, 0, 0, 3},
     {1, 129, 130, 140, 150, 4}},
};

/* The same of a CTA's 64 keys and a pair's 128. */
const std::vector<std::vector<item>> WIDE_LENGTHS = {
    {{0, 1, 1, 0, 0, 1}, {0, 63, 65, 0, 0, 2}, {1, 129, 63, 0, 0, 3}, {1, 64, 127, 0, 0, 4}},
    {{0, 257, 129, 0, 0, 1}, {0, 0, 65, 0, 0, 2}, {1, 65, 0, 0, 0, 3}, {0, 127, 128, 0, 0, 4}},
    {{0, 255, 191, 0, 0, 1}, {1, 128, 64, 0, 0, 2}, {2, 0, 0, 0, 0, 3}},
    {{0, 65, 1, 70, 0, 1}, {1, 1, 65, 0, 140, 2}, {0, 130, 260, 0, 0, 3}},
};

/* As backward_few in fewer steps, which cost more here: three tiles; two, of whose last the second
 * CTA has no key; two, of whose step it has no query. */
const std::vector<item> WIDE_FEW = {{0, 200, 380, 0, 0, 1},
                                    {0, 0, 128, 0, 0, 2},
                                    {1, 130, 0, 0, 70, 3},
                                    {1, 129, 150, 150, 0, 4},
                                    {1, 60, 130, 0, 0, 5}};

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

std::string name_of(const std::vector<int> &values)
{
    std::string name;
    for (int v : values) {
        name += (name.empty() ? "" : " ") + std::to_string(v);
    }
    return name;
}

} // namespace

const backward_space sm100_backward = {
    {ALONE_ROWS, count_of(ALONE_ROWS), Q_BLOCK, true, 1, sim::PROCESSORS},
    {{64, 64}, {128, 128}},
    {{64, 64}, {128, 128}, {40, 56}, {104, 72}, {128, 64}, {64, 128}},
    HEADS,
    LENGTHS,
    {}};
const backward_space sm100_backward_pairs = {{PAIR_ROWS, count_of(PAIR_ROWS), Q_BLOCK, false, 2, 4},
                                             {{128, 128}},
                                             {{128, 128}, {104, 72}, {72, 128}},
                                             {{1, 1}, {2, 1}, {6, 3}, {3, 1}},
                                             PAIR_LENGTHS,
                                             {}};
const backward_space sm100_backward_wide = {
    {WIDE_ROWS, count_of(WIDE_ROWS), Q_BLOCK, false, 2, 4},
    {{192, 128}, {256, 256}},
    {{192, 128}, {256, 256}, {136, 40}, {72, 256}, {200, 136}},
    {{1, 1}, {2, 1}, {2, 2}, {3, 1}},
    WIDE_LENGTHS,
    WIDE_FEW};

std::vector<int> forward_features()
{
    return {count_of(FORWARD_DIMS), of(HEADS), count_of(MASKS), of(LENGTHS), 2, 2, 2};
}

std::vector<int> backward_features(const backward_space &space)
{
    return {of(space.dims), of(space.heads), count_of(MASKS), of(space.lengths), 2, 2, 2, 2, 2, 2};
}

attention_case forward_feature_case(const std::vector<int> &v)
{
    const pair &dim = FORWARD_DIMS[v[DIM]], &heads = HEADS[static_cast<size_t>(v[HEAD])];
    const attention_row *row = attention_rows_sm100.data();
    while (dim.first > row->d || dim.second > row->dv) {
        row++;
    }
    attn_shape shape =
        shape_of(v[FP16] ? ATTN_FP16 : ATTN_BF16, heads.first, heads.second, dim.first, dim.second);
    set_common(&shape, v);
    shape.has_sink = v[SINK];
    return {row->name + (" " + name_of(v)), row, shape, LENGTHS[static_cast<size_t>(v[LENGTH])]};
}

backward_case backward_feature_case(const backward_space &space, const std::vector<int> &v)
{
    const pair &dim = space.dims[static_cast<size_t>(v[DIM])];
    const pair &heads = space.heads[static_cast<size_t>(v[HEAD])];
    attn_shape shape = backward_shape(v[FP16] ? ATTN_FP16 : ATTN_BF16, heads.first, heads.second,
                                      dim.first, dim.second);
    set_common(&shape, v);
    shape.deterministic = v[DETERMINISTIC];
    shape.has_sink = v[BACKWARD_SINK];
    shape.has_dlse = v[DLSE];
    shape.has_delta = v[DELTA];
    return backward_case_of(space.kind, name_of(v), shape,
                            space.lengths[static_cast<size_t>(v[LENGTH])]);
}

std::vector<backward_case> backward_hazards(const backward_space &space)
{
    const std::vector<item> &items =
        space.hazard_lengths.empty() ? backward_few : space.hazard_lengths;
    std::vector<backward_case> cases;
    for (const pair &dims : space.hazard_dims) {
        for (const backward_case &c :
             backward_hazards(space.kind, dims.first, dims.second, items)) {
            cases.push_back(c);
        }
    }
    return cases;
}

int forward_grid_count()
{
    return product(forward_features(), FORWARD_FEATURES);
}

int backward_grid_count(const backward_space &space)
{
    return product(backward_features(space), BACKWARD_SINK);
}

attention_case forward_grid_case(int number)
{
    return forward_feature_case(decode(forward_features(), FORWARD_FEATURES, number));
}

backward_case backward_grid_case(const backward_space &space, int number)
{
    return backward_feature_case(space, decode(backward_features(space), BACKWARD_SINK, number));
}
