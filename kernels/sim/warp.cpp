#include <string.h>

#include "sim/half.h"
#include "sim/machine.h"
#include "sim/ops.h"
#include "sim/shadow.h"

namespace sim
{

namespace
{

uint32_t traced(uint32_t trace, where at)
{
    return trace * 31 + where_number(at);
}

/* The lanes met: each knows all that any did. */
void merge_lanes(warp &w)
{
    clock all;
    tensor_publish(self());
    for (thread *t : w.lanes) {
        clock_join(&all, t->known);
    }
    all.of[w.owner->rank].generic.add_all(w.index, w.now);
    for (thread *t : w.lanes) {
        t->known = all;
        t->tensor_fenced = false;
    }
    w.synced = w.now;
    w.now++;
}

} // namespace

void check_traces(const warp &w, where at)
{
    for (const thread *t : w.lanes) {
        if (t->trace != w.lanes[0]->trace) {
            fail_at(at,
                    "lanes %d and 0 of the warp meet here, but did not make the same warp-wide "
                    "calls (elect, wgmma, votes, ...) since the start",
                    t->lane);
        }
    }
}

void warp_trace(const char *name, where at)
{
    (void)name;
    self().trace = traced(self().trace, at);
}

uint64_t warp_meet(const char *name, where at, uint64_t value, meet kind,
                   void (*finish)(warp &, collective &))
{
    thread &t = self();
    warp &w = *t.of;
    collective &c = w.meeting;
    if (w.live < LANES) {
        fail_at(at, "%s needs all 32 lanes, but some have ended", name);
    }
    if (c.arrived > 0 && (c.name != name || c.at.line != at.line)) {
        fail_at(at, "%s, while other lanes of this warp are in %s at %s: the warp has diverged",
                name, c.name, where_text(c.at));
    }
    c.name = name;
    c.at = at;
    c.in[t.lane] = value;
    t.trace = traced(t.trace, at);
    if (++c.arrived < LANES) {
        sleep_until_woken(name, at);
        return c.out[t.lane];
    }
    check_traces(w, at);
    c.arrived = 0;
    if (finish != nullptr) {
        finish(w, c);
    }
    if (kind == meet::orders_memory) {
        merge_lanes(w);
    }
    for (thread *other : w.lanes) {
        if (other != &t) {
            wake(other);
        }
    }
    return c.out[t.lane];
}

bool warp_elect(where at)
{
    warp_trace("elect_one", at);
    return self().lane == self().of->elected;
}

void smem_read(uint32_t address, void *to, uint32_t bytes, where at)
{
    generic_read(*self().owner, "smem_load", address, bytes, at);
    memcpy(to, smem_data(*self().owner, address), bytes);
}

void smem_write(uint32_t address, const void *from, uint32_t bytes, where at)
{
    generic_write(*self().owner, "smem_store", address, bytes, at);
    memcpy(smem_data(*self().owner, address), from, bytes);
}

namespace
{

/* The row addresses of all lanes; each lane then moves its own part of each row. */
void gather_rows(warp &w, collective &c)
{
    (void)w;
    uint64_t rows[LANES];
    memcpy(rows, c.in, sizeof rows);
    memcpy(c.out, rows, sizeof rows);
}

/* Element pair (row, columns 2 c and 2 c + 1) of matrix i of a warp: who holds it, where it lies.
 */
struct matrix_place {
    uint32_t address;
};

uint32_t row_of(const uint64_t *rows, int matrix, int row, const char *what, where at)
{
    uint32_t address = static_cast<uint32_t>(rows[8 * matrix + row]);
    smem_in_bounds(what, address, 16, 16, at);
    return address;
}

} // namespace

/*
 * Lane t holds of each matrix the elements (t / 4, 2 (t % 4)) and + 1; transposed, it holds
 * (2 (t % 4), t / 4) and (2 (t % 4) + 1, t / 4) of the matrix in memory. Lanes move their own
 * elements, in whole 4-byte words: the transposed forms go through the warp's rows first.
 */
void matrix_store(uint32_t row_address, const uint32_t *registers, int count, bool transposed,
                  where at)
{
    thread &t = self();
    warp_meet("stmatrix", at, row_address, meet::values_only, gather_rows);
    uint64_t rows[LANES];
    memcpy(rows, t.of->meeting.out, sizeof rows);
    for (int i = 0; i < count; i++) {
        uint32_t word = registers[i];
        if (transposed) {
            /* Word (r, c) of the stored matrix: elements (r, 2c), (r, 2c+1), which are the halves
             * numbered r % 2 of the registers of lanes 4 (2c) + r / 2 and 4 (2c + 1) + r / 2. */
            warp_meet("stmatrix", at, word, meet::values_only, gather_rows);
            int r = t.lane / 4, c = t.lane % 4, shift = r % 2 * 16;
            const uint64_t *all = t.of->meeting.out;
            uint32_t low = static_cast<uint32_t>(all[8 * c + r / 2]) >> shift & 0xffff;
            uint32_t high = static_cast<uint32_t>(all[8 * c + 4 + r / 2]) >> shift & 0xffff;
            word = low | high << 16;
        }
        uint32_t row = row_of(rows, i, t.lane / 4, "stmatrix", at);
        uint32_t address = row + static_cast<uint32_t>(t.lane % 4) * 4;
        generic_write(*t.owner, "stmatrix", address, 4, at);
        memcpy(smem_data(*t.owner, address), &word, 4);
    }
    warp_meet("stmatrix", at, 0, meet::values_only);
}

void matrix_load(uint32_t row_address, uint32_t *registers, int count, bool transposed, where at)
{
    thread &t = self();
    warp_meet("ldmatrix", at, row_address, meet::values_only, gather_rows);
    uint64_t rows[LANES];
    memcpy(rows, t.of->meeting.out, sizeof rows);
    for (int i = 0; i < count; i++) {
        uint32_t row = row_of(rows, i, t.lane / 4, "ldmatrix", at);
        uint32_t address = row + static_cast<uint32_t>(t.lane % 4) * 4;
        generic_read(*t.owner, "ldmatrix", address, 4, at);
        uint32_t word;
        memcpy(&word, smem_data(*t.owner, address), 4);
        if (transposed) {
            /* Mine are (2c, r) and (2c + 1, r): halves r % 2 of words r / 2 of rows 2c, 2c + 1. */
            warp_meet("ldmatrix", at, word, meet::values_only, gather_rows);
            int r = t.lane / 4, c = t.lane % 4, shift = r % 2 * 16;
            const uint64_t *all = t.of->meeting.out;
            uint32_t low = static_cast<uint32_t>(all[8 * c + r / 2]) >> shift & 0xffff;
            uint32_t high = static_cast<uint32_t>(all[8 * c + 4 + r / 2]) >> shift & 0xffff;
            word = low | high << 16;
        }
        registers[i] = word;
    }
    warp_meet("ldmatrix", at, 0, meet::values_only);
}

namespace
{

/* Rows of 16 elements, of which lane 4 r + c brings columns 2 c, 2 c + 1 in the low word of its
 * value, 2 c + 8 and 2 c + 9 in the high one. */
struct fragment_rows {
    float row[8][16];
};

fragment_rows bring_rows(uint32_t low, uint32_t high, bool bf16, where at)
{
    warp_meet("mma", at, low | static_cast<uint64_t>(high) << 32, meet::values_only, gather_rows);
    const uint64_t *all = self().of->meeting.out;
    fragment_rows rows;
    for (int lane = 0; lane < LANES; lane++) {
        for (int i = 0; i < 4; i++) {
            uint16_t half = static_cast<uint16_t>(all[lane] >> 16 * i);
            rows.row[lane / 4][2 * (lane % 4) + i % 2 + i / 2 * 8] = half_to_float(half, bf16);
        }
    }
    return rows;
}

float dot(const float *a, const float *b)
{
    float sum = 0;
    for (int i = 0; i < 16; i++) {
        sum += a[i] * b[i];
    }
    return sum;
}

} // namespace

void warp_multiply(float *d, const uint32_t *a, const uint32_t *b, bool bf16, where at)
{
    fragment_rows low = bring_rows(a[0], a[2], bf16, at);
    fragment_rows high = bring_rows(a[1], a[3], bf16, at);
    fragment_rows columns = bring_rows(b[0], b[1], bf16, at);
    the_machine().on->multiplies += self().lane == 0 ? 1 : 0;
    int row = self().lane / 4, column = 2 * (self().lane % 4);
    for (int i = 0; i < 2; i++) {
        d[i] += dot(low.row[row], columns.row[column + i]);
        d[2 + i] += dot(high.row[row], columns.row[column + i]);
    }
}

} // namespace sim
