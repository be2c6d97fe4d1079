#include "sim/tensor.h"

#include <algorithm>
#include <string.h>

#include "sim/half.h"
#include "sim/machine.h"
#include "sim/operand.h"
#include "sim/ops.h"
#include "sim/shadow.h"
#include "sim/vector.h"

namespace sim
{

namespace
{

constexpr uint8_t BY_MULTIPLY = 1, BY_STORE = BY_MULTIPLY + WARPS_MAX;
constexpr uint32_t NOT_LOADED = 0x7fcbadbd; /* NaN: a load before its wait */

/* Cells [column, column + columns) of some quarters, as an instruction touches them. */
struct range {
    uint32_t column, columns;
    uint32_t first_quarter, quarters;
};

tensor_memory &memory_of(const char *what, block &b, where at)
{
    if (b.tensor == nullptr) {
        fail_at(at, "%s, but block %d took no tensor memory", what, b.index);
    }
    return *b.tensor;
}

tensor_memory &memory_of(const char *what, where at)
{
    return memory_of(what, *self().owner, at);
}

/* A kernel's tcgen05 instructions are all of one kind. */
void check_group(const char *what, tensor_memory &m, int group, where at)
{
    if (m.group != 0 && m.group != group) {
        fail_at(at,
                "%s for %d block%s (cta_group::%d), but the block took its tensor memory for %d: "
                "one kind in all of a kernel",
                what, group, group == 1 ? "" : "s", group, m.group);
    }
    m.group = group;
}

void check_taken(const char *what, const block &b, const range &r, where at)
{
    if (r.column + r.columns > TENSOR_COLUMNS) {
        fail_at(at, "%s reaches column %u of %u", what, r.column + r.columns, TENSOR_COLUMNS);
    }
    for (uint32_t c = r.column; c < r.column + r.columns; c++) {
        if (!b.tensor->taken[c / TENSOR_GRANULE]) {
            fail_at(at, "%s touches column %u, which block %d did not take", what, c, b.index);
        }
    }
}

void check_fenced(const char *what, where at)
{
    if (!self().tensor_fenced) {
        fail_at(at, "%s without a tcgen05_fence_after since this thread last met others", what);
    }
}

const char *writer_name(const tensor_cell &c)
{
    return c.writer < BY_STORE ? "tcgen05_multiply" : "tmem_store";
}

/* Does this thread know that the write to b's memory is done? Its warp's own stores count from
 * their wait on. */
bool knows_write(const thread &t, const block &b, const tensor_cell &c)
{
    if (c.writer == 0) {
        return true;
    }
    if (c.writer < BY_STORE) {
        return t.known.of[tensor_issuer(b)].tensor[c.writer - BY_MULTIPLY] >= c.number;
    }
    int by = c.writer - BY_STORE;
    bool mine = &b == t.owner && by == t.of->index;
    uint32_t known = t.known.of[b.rank].tensor_store[by];
    return (mine ? std::max(known, t.tensor_stores_waited) : known) >= c.number;
}

void refuse(const char *what, uint32_t column, const char *other, int warp, uint16_t place,
            where at)
{
    fail_at(at,
            "%s touches tensor column %u while the %s of warp %d at %s may still use it: nothing "
            "this thread waited for says that it is done",
            what, column, other, warp, where_text(where_of(place)));
}

int writer_warp(const tensor_cell &c)
{
    return c.writer < BY_STORE ? c.writer - BY_MULTIPLY : c.writer - BY_STORE;
}

/* stream: the warp if this is a multiplication (its own come in order), else -1. b: whose memory.
 */
void check_write(const char *what, const block &b, const tensor_cell &c, uint32_t column,
                 int stream, where at)
{
    const thread &t = self();
    bool in_order = c.writer < BY_STORE
                        ? c.writer == BY_MULTIPLY + stream && stream >= 0
                        : stream < 0 && &b == t.owner && writer_warp(c) == t.of->index;
    if (!in_order && !knows_write(t, b, c)) {
        refuse(what, column, writer_name(c), writer_warp(c), c.place, at);
    }
}

void check_readers(const char *what, const block &b, const tensor_cell &c, uint32_t column,
                   int stream, where at)
{
    const thread &t = self();
    const clock_part &known = t.known.of[b.rank], &issuer = t.known.of[tensor_issuer(b)];
    for (int w = 0; w < WARPS_MAX; w++) {
        bool mine = &b == t.owner && w == t.of->index;
        uint32_t loads =
            mine ? std::max(t.tensor_loads_waited, known.tensor_load[w]) : known.tensor_load[w];
        if (c.loads[w] > loads) {
            refuse(what, column, "tmem_load", w, c.read_place, at);
        }
        if (w != stream && c.multiplies[w] > issuer.tensor[w]) {
            refuse(what, column, "tcgen05_multiply", w, c.read_place, at);
        }
    }
}

template <typename Visit>
void each_cell(tensor_memory &m, const range &r, Visit visit)
{
    for (uint32_t c = r.column; c < r.column + r.columns; c++) {
        for (uint32_t q = r.first_quarter; q < r.first_quarter + r.quarters; q++) {
            visit(m.cells[c][q], c);
        }
    }
}

void mark_written(tensor_memory &m, const range &r, uint8_t writer, uint32_t number, where at)
{
    each_cell(m, r, [&](tensor_cell &c, uint32_t) {
        c = {};
        c.writer = writer;
        c.number = number;
        c.place = where_number(at);
    });
}

/* ------------------------------------------------------------------ multiplication */

struct product {
    tensor_multiply_call call;
    uint32_t m, n; /* over all blocks */
    bool bf16, a_mn, b_mn;
    block *blocks[2]; /* the second one of a pair, or NULL */
    where at;
};

int count_of(const product &p)
{
    return p.call.group;
}

/* Bits that are zero in kind::f16 with dense fp32 results and no negation. */
constexpr uint32_t INSTRUCTION_ZERO = 0xe080604fu | 1u << 5;

void check_shape(const product &p, where at)
{
    uint32_t i = p.call.instruction;
    bool pair = p.call.group == 2;
    uint32_t small = pair ? 128 : 64, step = !pair ? 8 : p.call.a_in_tensor ? 32 : 16;
    if ((p.m != small && p.m != 2 * small) || p.n < step || p.n > 256 || p.n % step != 0) {
        fail_at(at,
                "instruction descriptor 0x%08x: M is %u (%u or %u), N is %u (%u to 256 in steps of "
                "that)",
                i, p.m, small, 2 * small, p.n, step);
    }
    if (p.call.a_in_tensor && p.a_mn) {
        fail_at(at, "A in tensor memory is k-major");
    }
    if (pair && p.call.a_in_tensor && p.m == small) {
        fail_at(at, "A in tensor memory with M 128 over a pair is not modelled");
    }
}

product decode_instruction(const tensor_multiply_call &call, where at)
{
    uint32_t i = call.instruction;
    uint32_t a_type = i >> 7 & 7, b_type = i >> 10 & 7;
    product p = {call,
                 (i >> 24 & 31) * 16,
                 (i >> 17 & 63) * 8,
                 a_type == 1,
                 (i >> 15 & 1) != 0,
                 (i >> 16 & 1) != 0,
                 {self().owner, nullptr},
                 at};
    if ((i & INSTRUCTION_ZERO) != 0 || (i >> 4 & 3) != 1 || a_type > 1 || a_type != b_type) {
        fail_at(at, "instruction descriptor 0x%08x is not 16-bit operands with fp32 results", i);
    }
    check_shape(p, at);
    return p;
}

uint32_t columns_of(const product &p)
{
    return p.call.group == 2 && p.m == 128 ? p.n / 2 : p.n;
}

/* Where a row of D, or of an A in tensor memory, begins. */
struct place {
    block *of;
    uint32_t lane;
};

/*
 * Of one block: M 128 has a row per lane, M 64 16 rows in each quarter. Of a pair: each block has
 * half of the rows; with M 128 its lanes 64 and up have the right half of D's columns.
 */
place place_of(const product &p, uint32_t row)
{
    if (p.call.group == 1) {
        return {p.blocks[0], p.m == 128 ? row : row % 16 + row / 16 * 32};
    }
    return {p.blocks[row / (p.m / 2)], row % (p.m / 2)};
}

/* Calls visit(column of the product, cell) along a row of D. */
template <typename Visit>
void each_of_row(const product &p, uint32_t row, Visit visit)
{
    place at = place_of(p, row);
    uint32_t start = p.call.d & 0xffff, width = columns_of(p);
    for (uint32_t first = 0; first < p.n; first += width) {
        for (uint32_t c = 0; c < width; c++) {
            visit(first + c, at.of->tensor->data[start + c][at.lane + first / width * 64]);
        }
    }
}

void read_a(const product &p, uint32_t first, float *a)
{
    if (!p.call.a_in_tensor) {
        uint32_t rows = p.m / static_cast<uint32_t>(count_of(p));
        operand o = decode_tcgen05("A", p.call.a, p.a_mn, p.at);
        operand_decode(*p.blocks[first / rows], o,
                       {first % rows, MULTIPLY_ROWS, p.bf16, 0, 0, p.at}, a, MULTIPLY_STEP, 1);
        return;
    }
    for (uint32_t r = 0; r < MULTIPLY_ROWS; r++) {
        place from = place_of(p, first + r);
        for (uint32_t k = 0; k < MULTIPLY_STEP; k += 2) {
            uint32_t pair = from.of->tensor->data[(p.call.a_tensor & 0xffff) + k / 2][from.lane];
            a[r * MULTIPLY_STEP + k] = half_to_float(static_cast<uint16_t>(pair), p.bf16);
            a[r * MULTIPLY_STEP + k + 1] = half_to_float(static_cast<uint16_t>(pair >> 16), p.bf16);
        }
    }
}

void compute(const product &p)
{
    alignas(32) float a[MULTIPLY_ROWS * MULTIPLY_STEP];
    alignas(32) static thread_local float right[MULTIPLY_STEP * COLUMNS_MAX];
    alignas(32) static thread_local float d[MULTIPLY_ROWS * COLUMNS_MAX];
    operand o = decode_tcgen05("B", p.call.b, p.b_mn, p.at);
    uint32_t share = p.n / static_cast<uint32_t>(count_of(p));
    for (int i = 0; i < count_of(p); i++) {
        operand_decode(*p.blocks[i], o, {0, share, p.bf16, 0, 0, p.at},
                       right + static_cast<uint32_t>(i) * share, 1, COLUMNS_MAX);
    }
    for (uint32_t first = 0; first < p.m; first += MULTIPLY_ROWS) {
        read_a(p, first, a);
        for (uint32_t r = 0; r < MULTIPLY_ROWS; r++) {
            float *row = d + r * COLUMNS_MAX;
            each_of_row(p, first + r, [&](uint32_t c, const uint32_t &cell) {
                row[c] = p.call.add ? bits_to_float(cell) : 0.0f;
            });
        }
        multiply_add(d, a, right, static_cast<int>(p.n), COLUMNS_MAX);
        for (uint32_t r = 0; r < MULTIPLY_ROWS; r++) {
            const float *row = d + r * COLUMNS_MAX;
            each_of_row(p, first + r,
                        [&](uint32_t c, uint32_t &cell) { cell = float_to_bits(row[c]); });
        }
    }
    the_machine().on->multiplies += p.m / MULTIPLY_ROWS;
}

/* An mbarrier that a commit arrives on. */
struct commit_target {
    block *of;
    mbarrier *barrier;
};

/* Multiplications of one warp run in order: one operation in flight carries them all. */
struct multiply_stream : pending {
    block *owner;
    int warp;
    struct entry {
        product p;
        std::vector<commit_target> targets; /* of a commit; none: a multiplication */
        clock issuer;
        where at;
    };
    std::deque<entry> queue;

    void arrive(const entry &e)
    {
        for (const commit_target &to : e.targets) {
            if (to.of != owner) {
                to.of->from_peers--;
                int n = mbarrier_number(*to.of, *to.barrier);
                to.of->visited.by.of[to.of->rank].barrier[n] = to.barrier->rounds + 1;
                to.of->visited.barrier[n] = where_number(e.at);
            }
            mbarrier_arrive_from(*to.of, *to.barrier, e.issuer, e.at);
        }
    }

    bool step() override
    {
        entry &e = queue.front();
        if (e.targets.empty()) {
            compute(e.p);
            for (int i = 1; i < count_of(e.p); i++) {
                e.p.blocks[i]->tensor->in_flight--;
            }
        } else {
            arrive(e);
        }
        owner->tensor->in_flight--;
        queue.pop_front();
        return queue.empty();
    }
};

/* The stream of this warp that is in flight, or a new one. */
multiply_stream &stream_of(thread &t)
{
    for (auto &operation : the_machine().operations) {
        auto *s = dynamic_cast<multiply_stream *>(operation.get());
        if (s != nullptr && s->owner == t.owner && s->warp == t.of->index) {
            return *s;
        }
    }
    auto s = std::make_unique<multiply_stream>();
    multiply_stream &result = *s;
    s->owner = t.owner;
    s->warp = t.of->index;
    start(std::move(s));
    return result;
}

/* In each block its half, or all: the descriptors mean the same offsets in both. */
void check_smem_operands(const product &p, block &b, thread &t)
{
    uint32_t blocks = static_cast<uint32_t>(count_of(p));
    int stream = 2 * WARPS_MAX + t.of->index;
    uint32_t number = t.of->tensor_multiplies;
    if (!p.call.a_in_tensor) {
        operand_check(b, "tcgen05 A", decode_tcgen05("A", p.call.a, p.a_mn, p.at),
                      {0, p.m / blocks, p.bf16, stream, number, p.at});
    }
    operand_check(b, "tcgen05 B", decode_tcgen05("B", p.call.b, p.b_mn, p.at),
                  {0, p.n / blocks, p.bf16, stream, number, p.at});
}

void check_a_cells(const product &p, block &b, const range &a, thread &t)
{
    const char *what = "tcgen05_multiply";
    int warp = t.of->index;
    each_cell(*b.tensor, a, [&](tensor_cell &c, uint32_t column) {
        if (c.writer == 0) {
            fail_at(p.at, "%s reads tensor column %u of block %d, which was never written", what,
                    column, b.index);
        }
        check_write(what, b, c, column, warp, p.at);
        c.multiplies[warp] = t.of->tensor_multiplies;
        c.read_place = where_number(p.at);
    });
}

void check_tensor_operands(const product &p, block &b, thread &t)
{
    const char *what = "tcgen05_multiply";
    int warp = t.of->index;
    tensor_memory &m = memory_of(what, b, p.at);
    range d = {p.call.d & 0xffff, columns_of(p), 0, QUARTERS};
    check_taken(what, b, d, p.at);
    if (p.call.a_in_tensor) {
        range a = {p.call.a_tensor & 0xffff, MULTIPLY_STEP / 2, 0, QUARTERS};
        check_taken(what, b, a, p.at);
        if (a.column < d.column + d.columns && d.column < a.column + a.columns) {
            fail_at(p.at, "%s: A and D overlap in tensor memory", what);
        }
        check_a_cells(p, b, a, t);
    }
    each_cell(m, d, [&](tensor_cell &c, uint32_t column) {
        if (p.call.add && c.writer == 0) {
            fail_at(p.at, "%s adds to tensor column %u of block %d, which was never written", what,
                    column, b.index);
        }
        check_write(what, b, c, column, warp, p.at);
        check_readers(what, b, c, column, warp, p.at);
    });
    mark_written(m, d, static_cast<uint8_t>(BY_MULTIPLY + warp), t.of->tensor_multiplies, p.at);
}

void check_issuer(const tensor_multiply_call &call, where at)
{
    const thread &t = self();
    if (call.group == 2 && t.owner->rank % 2 != 0) {
        fail_at(at, "a pair's multiplications are issued by its even block; this is rank %d",
                t.owner->rank);
    }
    if (call.d >> 16 != 0 || (call.a_in_tensor && call.a_tensor >> 16 != 0)) {
        fail_at(at, "tcgen05_multiply at lane %u: tiles start at lane 0", call.d >> 16);
    }
    if (t.of->tensor_lane >= 0 && t.of->tensor_lane != t.lane) {
        fail_at(
            at,
            "lane %d of this warp has uncommitted multiplications: a commit is for the thread's "
            "own",
            t.of->tensor_lane);
    }
}

} // namespace

int tensor_issuer(const block &b)
{
    return b.tensor != nullptr && b.tensor->group == 2 ? b.rank & ~1 : b.rank;
}

void tensor_multiply(const tensor_multiply_call &call, where at)
{
    const char *what = "tcgen05_multiply";
    thread &t = self();
    check_group(what, memory_of(what, at), call.group, at);
    check_fenced(what, at);
    check_issuer(call, at);
    product p = decode_instruction(call, at);
    if (call.group == 2) {
        p.blocks[1] = &cluster_peer(what, cluster_rank() ^ 1, at);
        check_group(what, memory_of(what, *p.blocks[1], at), call.group, at);
    }
    t.of->tensor_lane = t.lane;
    t.of->tensor_multiplies++;
    for (int i = 0; i < count_of(p); i++) {
        check_smem_operands(p, *p.blocks[i], t);
        check_tensor_operands(p, *p.blocks[i], t);
        cluster_visit(*p.blocks[i], visit::by_tensor_stream, t.of->tensor_multiplies, at);
        p.blocks[i]->tensor->in_flight++;
    }
    stream_of(t).queue.push_back({p, {}, {}, at});
}

void tensor_commit(uint32_t barrier, uint32_t mask, int group, where at)
{
    const char *what = "tcgen05_commit";
    thread &t = self();
    if (dropped(what, at)) {
        return;
    }
    if (t.of->tensor_lane >= 0 && t.of->tensor_lane != t.lane) {
        fail_at(at, "the multiplications were issued by lane %d: a commit is for the thread's own",
                t.of->tensor_lane);
    }
    t.of->tensor_lane = -1;
    check_group(what, memory_of(what, at), group, at);
    multiply_stream::entry e = {{}, {}, t.known, at}; /* not this thread's own plain writes: only
                                                         a release publishes those */
    e.issuer.of[t.owner->rank].tensor[t.of->index] = t.of->tensor_multiplies;
    cluster_each(what, mask == 0 ? 1u << t.owner->rank : mask, at, [&](block &b) {
        e.targets.push_back({&b, &mbarrier_of(b, what, barrier, at)});
        b.from_peers += &b != t.owner;
    });
    t.owner->tensor->in_flight++;
    stream_of(t).queue.push_back(std::move(e));
}

/* ------------------------------------------------------------------ loads and stores */

namespace
{

range quarter_range(const char *what, uint32_t address, uint32_t count, where at)
{
    uint32_t quarter = static_cast<uint32_t>(self().of->index) % QUARTERS;
    if (address >> 16 != quarter * LANES) {
        fail_at(at, "%s at lane %u: warp %d reaches lanes %u and up", what, address >> 16,
                self().of->index, quarter * LANES);
    }
    return {address & 0xffff, count, quarter, 1};
}

void same_address(warp &w, collective &c)
{
    (void)w;
    for (uint64_t in : c.in) {
        if (in != c.in[0]) {
            fail_at(c.at, "the lanes of the warp give %s different addresses", c.name);
        }
    }
}

} // namespace

void tensor_load(uint32_t *registers, uint32_t count, uint32_t from, where at)
{
    thread &t = self();
    tensor_memory &m = memory_of("tmem_load", at);
    check_fenced("tmem_load", at);
    range r = quarter_range("tmem_load", from, count, at);
    check_taken("tmem_load", *t.owner, r, at);
    warp_meet("tmem_load", at, from, meet::values_only, [](warp &w, collective &c) {
        same_address(w, c);
        w.tensor_loads++;
    });
    tensor_delivery delivery = {registers, std::vector<uint32_t>(count), at};
    each_cell(m, r, [&](tensor_cell &c, uint32_t column) {
        if (c.writer == 0) {
            fail_at(at, "tmem_load reads tensor column %u, which was never written", column);
        }
        if (!knows_write(t, *t.owner, c)) {
            refuse("tmem_load", column, writer_name(c), writer_warp(c), c.place, at);
        }
        c.loads[t.of->index] = t.of->tensor_loads;
        c.read_place = where_number(at);
        delivery.values[column - r.column] =
            m.data[column][r.first_quarter * LANES + static_cast<uint32_t>(t.lane)];
    });
    for (uint32_t i = 0; i < count; i++) {
        registers[i] = NOT_LOADED;
    }
    t.deliveries.push_back(std::move(delivery));
    t.multiply_at = at;
    warp_meet("tmem_load", at, 0, meet::values_only); /* numbers stay those of one load */
}

void tensor_load_wait(const register_array *arrays, int count)
{
    thread &t = self();
    where at = t.multiply_at;
    if (dropped("tmem_load_wait", at)) {
        return;
    }
    warp_trace("tmem_load_wait", at);
    for (const tensor_delivery &d : t.deliveries) {
        bool passed = false;
        size_t bytes = d.values.size() * 4;
        for (int i = 0; i < count; i++) {
            const char *base = static_cast<const char *>(arrays[i].at);
            const char *want = reinterpret_cast<const char *>(d.registers);
            passed = passed || (want >= base && want + bytes <= base + arrays[i].bytes);
        }
        if (!passed) {
            fail_at(d.at, "the registers loaded here are not among the arguments of the next "
                          "tmem_load_wait: the compiler may use them too early");
        }
        memcpy(d.registers, d.values.data(), bytes);
    }
    t.deliveries.clear();
    t.tensor_loads_waited = t.of->tensor_loads;
}

void tensor_store(uint32_t to, const uint32_t *registers, uint32_t count, where at)
{
    thread &t = self();
    tensor_memory &m = memory_of("tmem_store", at);
    check_fenced("tmem_store", at);
    range r = quarter_range("tmem_store", to, count, at);
    check_taken("tmem_store", *t.owner, r, at);
    warp_meet("tmem_store", at, to, meet::values_only, [](warp &w, collective &c) {
        same_address(w, c);
        w.tensor_stores++;
    });
    each_cell(m, r, [&](tensor_cell &c, uint32_t column) {
        check_write("tmem_store", *t.owner, c, column, -1, at);
        check_readers("tmem_store", *t.owner, c, column, -1, at);
        m.data[column][r.first_quarter * LANES + static_cast<uint32_t>(t.lane)] =
            registers[column - r.column];
    });
    warp_meet("tmem_store", at, 0, meet::values_only);
    if (t.lane == 0) {
        mark_written(m, r, static_cast<uint8_t>(BY_STORE + t.of->index), t.of->tensor_stores, at);
    }
    warp_meet("tmem_store", at, 0, meet::values_only);
}

void tensor_store_wait(where at)
{
    if (dropped("tmem_store_wait", at)) {
        return;
    }
    warp_trace("tmem_store_wait", at);
    self().tensor_stores_waited = self().of->tensor_stores;
}

void tensor_fence_before(where at)
{
    thread &t = self();
    if (dropped("tcgen05_fence_before", at)) {
        return;
    }
    t.tensor_loads_fenced = t.tensor_loads_waited;
    t.tensor_stores_fenced = t.tensor_stores_waited;
}

/*
 * Loads and stores are the warp's, waits and fences each lane's: what a lane may tell others is
 * what all lanes have waited for and fenced. A leader that did not meet its warp tells too little.
 */
void tensor_publish(thread &t)
{
    uint32_t loads = UINT32_MAX, stores = UINT32_MAX;
    for (const thread *lane : t.of->lanes) {
        loads = std::min(loads, lane->tensor_loads_fenced);
        stores = std::min(stores, lane->tensor_stores_fenced);
    }
    own(t).tensor_load[t.of->index] = loads;
    own(t).tensor_store[t.of->index] = stores;
}

void tensor_fence_after(where at)
{
    if (!dropped("tcgen05_fence_after", at)) {
        self().tensor_fenced = true;
    }
}

/* ------------------------------------------------------------------ allocation */

namespace
{

constexpr uint32_t NOWHERE = UINT32_MAX;

/* Columns that are free in all of these; any, so that nobody assumes column 0. */
uint32_t choose_columns(const std::vector<tensor_memory *> &of, uint32_t columns)
{
    uint32_t need = columns / TENSOR_GRANULE, places = 0, chosen = NOWHERE;
    for (uint32_t g = 0; g + need <= TENSOR_COLUMNS / TENSOR_GRANULE; g += need) {
        bool free = true;
        for (uint32_t i = g; i < g + need; i++) {
            for (const tensor_memory *m : of) {
                free = free && !m->taken[i];
            }
        }
        if (free && random_below(++places) == 0) {
            chosen = g;
        }
    }
    for (uint32_t i = chosen; chosen != NOWHERE && i < chosen + need; i++) {
        for (tensor_memory *m : of) {
            m->taken[i] = true;
        }
    }
    return chosen == NOWHERE ? NOWHERE : chosen * TENSOR_GRANULE;
}

tensor_memory &memory_to_take(block &b)
{
    if (b.tensor == nullptr) {
        b.tensor = std::make_unique<tensor_memory>();
    }
    return *b.tensor;
}

/* Both blocks of a pair take at the same place: the first one waits for the other. */
uint32_t take_with_peer(thread &t, uint32_t columns, where at)
{
    size_t peer = static_cast<size_t>(t.owner->rank ^ 1);
    if (peer >= t.owner->in->blocks.size()) {
        fail_at(at, "tmem_take_pair in a cluster of one block");
    }
    tensor_memory &mine = *t.owner->tensor, &other = memory_to_take(*t.owner->in->blocks[peer]);
    if (other.pair_wanted == 0) {
        mine.pair_wanted = columns;
        mine.pair_waits = &t;
        sleep_until_woken("tmem_take_pair of the other block of its pair", at);
        return mine.pair_base;
    }
    if (other.pair_wanted != columns) {
        fail_at(at, "tmem_take_pair of %u columns, but the other block takes %u", columns,
                other.pair_wanted);
    }
    uint32_t base = choose_columns({&mine, &other}, columns);
    other.pair_base = base;
    other.pair_wanted = 0;
    wake(other.pair_waits);
    return base;
}

} // namespace

void tensor_take(uint32_t columns, uint32_t smem_target, int group, where at)
{
    thread &t = self();
    const char *what = group == 2 ? "tmem_take_pair" : "tmem_take";
    warp_meet(what, at, columns, meet::values_only);
    if (t.lane == 0) {
        tensor_memory &m = memory_to_take(*t.owner);
        check_group(what, m, group, at);
        if (m.no_more) {
            fail_at(at, "%s after tmem_take_no_more", what);
        }
        uint32_t base = group == 2 ? take_with_peer(t, columns, at) : choose_columns({&m}, columns);
        if (base == NOWHERE) {
            fail_at(at, "%s of %u columns waits for ever: the block has taken too much", what,
                    columns);
        }
        smem_write(smem_target, &base, 4, at);
    }
    warp_meet(what, at, columns, meet::orders_memory);
}

void tensor_give(uint32_t base, uint32_t columns, int group, where at)
{
    thread &t = self();
    tensor_memory &m = memory_of("tmem_give", at);
    check_group("tmem_give", m, group, at);
    warp_meet("tmem_give", at, base, meet::values_only, same_address);
    if (t.lane == 0) {
        range r = {base & 0xffff, columns, 0, QUARTERS};
        check_taken("tmem_give", *t.owner, r, at);
        each_cell(m, r, [&](tensor_cell &c, uint32_t column) {
            check_write("tmem_give", *t.owner, c, column, -1, at);
            check_readers("tmem_give", *t.owner, c, column, -1, at);
            c = {};
        });
        for (uint32_t g = r.column / TENSOR_GRANULE; g < (r.column + columns) / TENSOR_GRANULE;
             g++) {
            m.taken[g] = false;
        }
    }
    warp_meet("tmem_give", at, base, meet::values_only);
}

void tensor_take_no_more(int group, where at)
{
    warp_meet("tmem_take_no_more", at, 0, meet::values_only);
    if (self().lane == 0 && self().owner->tensor != nullptr) {
        check_group("tmem_take_no_more", *self().owner->tensor, group, at);
        self().owner->tensor->no_more = true;
    }
}

void tensor_thread_exit(const thread &t)
{
    if (!t.deliveries.empty()) {
        fail_at(t.deliveries[0].at, "ends without a tmem_load_wait for the tmem_load issued here");
    }
}

void tensor_block_exit(const block &b)
{
    if (b.tensor == nullptr) {
        return;
    }
    if (b.tensor->in_flight > 0) {
        fail("block %d ends while tcgen05 multiplications or commits are in flight: they would "
             "reach memory that is the next block's",
             b.index);
    }
    for (bool taken : b.tensor->taken) {
        if (taken) {
            fail("block %d ends without giving its tensor memory back (tmem_give)", b.index);
        }
    }
}

} // namespace sim
