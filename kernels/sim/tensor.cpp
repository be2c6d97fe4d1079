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

tensor_memory &memory_of(const char *what, where at)
{
    block &b = *self().owner;
    if (b.tensor == nullptr) {
        fail_at(at, "%s, but the block took no tensor memory", what);
    }
    return *b.tensor;
}

void check_taken(const char *what, tensor_memory &m, const range &r, where at)
{
    if (r.column + r.columns > TENSOR_COLUMNS) {
        fail_at(at, "%s reaches column %u of %u", what, r.column + r.columns, TENSOR_COLUMNS);
    }
    for (uint32_t c = r.column; c < r.column + r.columns; c++) {
        if (!m.taken[c / TENSOR_GRANULE]) {
            fail_at(at, "%s touches column %u, which the block did not take", what, c);
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

/* Does this thread know that the write is done? own: its warp's stores count from their wait on. */
bool knows_write(const thread &t, const tensor_cell &c)
{
    if (c.writer == 0) {
        return true;
    }
    if (c.writer < BY_STORE) {
        return t.known.of[tensor_issuer(*t.owner)].tensor[c.writer - BY_MULTIPLY] >= c.number;
    }
    int by = c.writer - BY_STORE;
    uint32_t known = by == t.of->index ? t.tensor_stores_waited : 0;
    known = std::max(known, own(t).tensor_store[by]);
    return known >= c.number;
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

/* stream: the warp if this is a multiplication (its own come in order), else -1. */
void check_write(const char *what, const tensor_cell &c, uint32_t column, int stream, where at)
{
    const thread &t = self();
    bool in_order = c.writer < BY_STORE ? c.writer == BY_MULTIPLY + stream && stream >= 0
                                        : stream < 0 && writer_warp(c) == t.of->index;
    if (!in_order && !knows_write(t, c)) {
        refuse(what, column, writer_name(c), writer_warp(c), c.place, at);
    }
}

void check_readers(const char *what, const tensor_cell &c, uint32_t column, int stream, where at)
{
    const thread &t = self();
    for (int w = 0; w < WARPS_MAX; w++) {
        uint32_t loads = w == t.of->index && t.tensor_loads_waited > own(t).tensor_load[w]
                             ? t.tensor_loads_waited
                             : own(t).tensor_load[w];
        if (c.loads[w] > loads) {
            refuse(what, column, "tmem_load", w, c.read_place, at);
        }
        if (w != stream && c.multiplies[w] > t.known.of[tensor_issuer(*t.owner)].tensor[w]) {
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
    uint32_t m, n;
    bool bf16, a_mn, b_mn;
    where at;
};

/* Bits that are zero in kind::f16 with dense fp32 results, one block, and no negation. */
constexpr uint32_t INSTRUCTION_ZERO = 0xe080604fu | 1u << 5;

product decode_instruction(const tensor_multiply_call &call, where at)
{
    uint32_t i = call.instruction;
    uint32_t a_type = i >> 7 & 7, b_type = i >> 10 & 7;
    product p = {call,        (i >> 24 & 31) * 16, (i >> 17 & 63) * 8,
                 a_type == 1, (i >> 15 & 1) != 0,  (i >> 16 & 1) != 0,
                 at};
    if ((i & INSTRUCTION_ZERO) != 0 || (i >> 4 & 3) != 1 || a_type > 1 || a_type != b_type) {
        fail_at(at, "instruction descriptor 0x%08x is not 16-bit operands with fp32 results", i);
    }
    if ((p.m != 64 && p.m != 128) || p.n < 8 || p.n > 256) {
        fail_at(at, "instruction descriptor 0x%08x: M is %u (64 or 128), N is %u (8 to 256)", i,
                p.m, p.n);
    }
    if (call.a_in_tensor && p.a_mn) {
        fail_at(at, "A in tensor memory is k-major");
    }
    return p;
}

/* Row r of D and of an A in tensor memory lies in this lane. */
uint32_t lane_of(const product &p, uint32_t row)
{
    return p.m == 128 ? row : row % 16 + row / 16 * 32;
}

void read_a(block &b, const product &p, uint32_t first, float *a)
{
    if (!p.call.a_in_tensor) {
        operand o = decode_tcgen05("A", p.call.a, p.a_mn, p.at);
        operand_decode(b, o, {first, MULTIPLY_ROWS, p.bf16, 0, 0, p.at}, a, MULTIPLY_STEP, 1);
        return;
    }
    for (uint32_t r = 0; r < MULTIPLY_ROWS; r++) {
        for (uint32_t k = 0; k < MULTIPLY_STEP; k += 2) {
            uint32_t pair =
                b.tensor->data[(p.call.a_tensor & 0xffff) + k / 2][lane_of(p, first + r)];
            a[r * MULTIPLY_STEP + k] = half_to_float(static_cast<uint16_t>(pair), p.bf16);
            a[r * MULTIPLY_STEP + k + 1] = half_to_float(static_cast<uint16_t>(pair >> 16), p.bf16);
        }
    }
}

void compute(block &b, const product &p)
{
    alignas(32) float a[MULTIPLY_ROWS * MULTIPLY_STEP];
    alignas(32) static thread_local float right[MULTIPLY_STEP * COLUMNS_MAX];
    alignas(32) static thread_local float d[MULTIPLY_ROWS * COLUMNS_MAX];
    operand o = decode_tcgen05("B", p.call.b, p.b_mn, p.at);
    operand_decode(b, o, {0, p.n, p.bf16, 0, 0, p.at}, right, 1, COLUMNS_MAX);
    uint32_t column = p.call.d & 0xffff;
    for (uint32_t first = 0; first < p.m; first += MULTIPLY_ROWS) {
        read_a(b, p, first, a);
        for (uint32_t r = 0; r < MULTIPLY_ROWS; r++) {
            for (uint32_t c = 0; c < p.n; c++) {
                uint32_t old = b.tensor->data[column + c][lane_of(p, first + r)];
                d[r * COLUMNS_MAX + c] = p.call.add ? bits_to_float(old) : 0.0f;
            }
        }
        multiply_add(d, a, right, static_cast<int>(p.n), COLUMNS_MAX);
        for (uint32_t r = 0; r < MULTIPLY_ROWS; r++) {
            for (uint32_t c = 0; c < p.n; c++) {
                b.tensor->data[column + c][lane_of(p, first + r)] =
                    float_to_bits(d[r * COLUMNS_MAX + c]);
            }
        }
    }
    the_machine().on->multiplies += p.m / MULTIPLY_ROWS;
}

/* Multiplications of one warp run in order: one operation in flight carries them all. */
struct multiply_stream : pending {
    block *owner;
    int warp;
    struct entry {
        bool is_commit;
        product p;
        mbarrier *barrier;
        clock issuer;
        where at;
    };
    std::deque<entry> queue;

    bool step() override
    {
        entry &e = queue.front();
        if (e.is_commit) {
            mbarrier_arrive_from(*owner, *e.barrier, e.issuer, e.at);
        } else {
            compute(*owner, e.p);
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

void check_smem_operands(const product &p, thread &t)
{
    int stream = 2 * WARPS_MAX + t.of->index;
    uint32_t number = t.of->tensor_multiplies;
    if (!p.call.a_in_tensor) {
        operand_check(*t.owner, "tcgen05 A", decode_tcgen05("A", p.call.a, p.a_mn, p.at),
                      {0, p.m, p.bf16, stream, number, p.at});
    }
    operand_check(*t.owner, "tcgen05 B", decode_tcgen05("B", p.call.b, p.b_mn, p.at),
                  {0, p.n, p.bf16, stream, number, p.at});
}

void check_tensor_operands(const product &p, tensor_memory &m, thread &t)
{
    const char *what = "tcgen05_multiply";
    int warp = t.of->index;
    range d = {p.call.d & 0xffff, p.n, 0, QUARTERS};
    if (p.call.d >> 16 != 0 || (p.call.a_in_tensor && p.call.a_tensor >> 16 != 0)) {
        fail_at(p.at, "%s at lane %u: tiles start at lane 0", what, p.call.d >> 16);
    }
    check_taken(what, m, d, p.at);
    if (p.call.a_in_tensor) {
        range a = {p.call.a_tensor & 0xffff, MULTIPLY_STEP / 2, 0, QUARTERS};
        check_taken(what, m, a, p.at);
        if (a.column < d.column + d.columns && d.column < a.column + a.columns) {
            fail_at(p.at, "%s: A and D overlap in tensor memory", what);
        }
        each_cell(m, a, [&](tensor_cell &c, uint32_t column) {
            if (c.writer == 0) {
                fail_at(p.at, "%s reads tensor column %u, which was never written", what, column);
            }
            check_write(what, c, column, warp, p.at);
            c.multiplies[warp] = t.of->tensor_multiplies;
            c.read_place = where_number(p.at);
        });
    }
    each_cell(m, d, [&](tensor_cell &c, uint32_t column) {
        if (p.call.add && c.writer == 0) {
            fail_at(p.at, "%s adds to tensor column %u, which was never written", what, column);
        }
        check_write(what, c, column, warp, p.at);
        check_readers(what, c, column, warp, p.at);
    });
    mark_written(m, d, static_cast<uint8_t>(BY_MULTIPLY + warp), t.of->tensor_multiplies, p.at);
}

} // namespace

void tensor_multiply(const tensor_multiply_call &call, where at)
{
    thread &t = self();
    tensor_memory &m = memory_of("tcgen05_multiply", at);
    check_fenced("tcgen05_multiply", at);
    if (t.of->tensor_lane >= 0 && t.of->tensor_lane != t.lane) {
        fail_at(
            at,
            "lane %d of this warp has uncommitted multiplications: a commit is for the thread's "
            "own",
            t.of->tensor_lane);
    }
    t.of->tensor_lane = t.lane;
    product p = decode_instruction(call, at);
    t.of->tensor_multiplies++;
    check_smem_operands(p, t);
    check_tensor_operands(p, m, t);
    m.in_flight++;
    stream_of(t).queue.push_back({false, p, nullptr, {}, at});
}

int tensor_issuer(const block &b)
{
    return b.rank;
}

void tensor_commit(uint32_t barrier, where at)
{
    thread &t = self();
    if (dropped("tcgen05_commit", at)) {
        return;
    }
    if (t.of->tensor_lane >= 0 && t.of->tensor_lane != t.lane) {
        fail_at(at, "the multiplications were issued by lane %d: a commit is for the thread's own",
                t.of->tensor_lane);
    }
    t.of->tensor_lane = -1;
    mbarrier &m = mbarrier_at("tcgen05_commit", barrier, at);
    clock issuer = t.known; /* not this thread's own plain writes: only a release publishes those */
    issuer.of[t.owner->rank].tensor[t.of->index] = t.of->tensor_multiplies;
    memory_of("tcgen05_commit", at).in_flight++;
    stream_of(t).queue.push_back({true, {}, &m, issuer, at});
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
    check_taken("tmem_load", m, r, at);
    warp_meet("tmem_load", at, from, meet::values_only, [](warp &w, collective &c) {
        same_address(w, c);
        w.tensor_loads++;
    });
    tensor_delivery delivery = {registers, std::vector<uint32_t>(count), at};
    each_cell(m, r, [&](tensor_cell &c, uint32_t column) {
        if (c.writer == 0) {
            fail_at(at, "tmem_load reads tensor column %u, which was never written", column);
        }
        if (!knows_write(t, c)) {
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
    check_taken("tmem_store", m, r, at);
    warp_meet("tmem_store", at, to, meet::values_only, [](warp &w, collective &c) {
        same_address(w, c);
        w.tensor_stores++;
    });
    each_cell(m, r, [&](tensor_cell &c, uint32_t column) {
        check_write("tmem_store", c, column, -1, at);
        check_readers("tmem_store", c, column, -1, at);
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

void tensor_take(uint32_t columns, uint32_t smem_target, where at)
{
    thread &t = self();
    block &b = *t.owner;
    warp_meet("tmem_take", at, columns, meet::values_only);
    if (t.lane == 0) {
        if (b.tensor == nullptr) {
            b.tensor = std::make_unique<tensor_memory>();
        }
        tensor_memory &m = *b.tensor;
        if (m.no_more) {
            fail_at(at, "tmem_take after tmem_take_no_more");
        }
        uint32_t need = columns / TENSOR_GRANULE, places = 0, chosen = 0;
        for (uint32_t g = 0; g + need <= m.taken.size(); g += need) {
            bool free = true;
            for (uint32_t i = g; i < g + need; i++) {
                free = free && !m.taken[i];
            }
            if (free && random_below(++places) == 0) { /* any, so that nobody assumes column 0 */
                chosen = g;
            }
        }
        if (places == 0) {
            fail_at(at, "tmem_take of %u columns waits for ever: the block has taken too much",
                    columns);
        }
        for (uint32_t i = chosen; i < chosen + need; i++) {
            m.taken[i] = true;
        }
        uint32_t base = chosen * TENSOR_GRANULE;
        smem_write(smem_target, &base, 4, at);
    }
    warp_meet("tmem_take", at, columns, meet::orders_memory);
}

void tensor_give(uint32_t base, uint32_t columns, where at)
{
    thread &t = self();
    tensor_memory &m = memory_of("tmem_give", at);
    warp_meet("tmem_give", at, base, meet::values_only, same_address);
    if (t.lane == 0) {
        range r = {base & 0xffff, columns, 0, QUARTERS};
        check_taken("tmem_give", m, r, at);
        each_cell(m, r, [&](tensor_cell &c, uint32_t column) {
            check_write("tmem_give", c, column, -1, at);
            check_readers("tmem_give", c, column, -1, at);
            c = {};
        });
        for (uint32_t g = r.column / TENSOR_GRANULE; g < (r.column + columns) / TENSOR_GRANULE;
             g++) {
            m.taken[g] = false;
        }
    }
    warp_meet("tmem_give", at, base, meet::values_only);
}

void tensor_take_no_more(where at)
{
    warp_meet("tmem_take_no_more", at, 0, meet::values_only);
    if (self().lane == 0 && self().owner->tensor != nullptr) {
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
