#include "sim/operand.h"

#include <algorithm>
#include <string.h>

#include "sim/half.h"
#include "sim/machine.h"
#include "sim/shadow.h"
#include "sim/vector.h"

namespace sim
{

namespace
{

constexpr uint64_t RESERVED = 0x3ff1c000c000c000u; /* bits 14-15, 30-31, 46-48, 52-61 */

constexpr uint64_t TCGEN05_RESERVED = 0x1ff00000c000c000u; /* 14-15, 30-31, 52-60 */

/* All chunks of 8 elements of [first, first + count) x 16, in any order. */
template <typename Visit>
void each_chunk(const operand &o, uint32_t first, uint32_t count, Visit visit)
{
    if (o.mn) {
        for (uint32_t outer = first; outer < first + count; outer += 8) {
            for (uint32_t k = 0; k < MULTIPLY_STEP; k++) {
                visit(outer, k, operand_chunk(o, outer, k));
            }
        }
    } else {
        for (uint32_t outer = first; outer < first + count; outer++) {
            for (uint32_t k = 0; k < MULTIPLY_STEP; k += 8) {
                visit(outer, k, operand_chunk(o, outer, k));
            }
        }
    }
}

} // namespace

namespace
{

operand decode_common(const char *which, uint64_t descriptor, uint32_t width, bool mn, where at)
{
    if (descriptor >> 49 & 7) {
        fail_at(at, "descriptor %s has a base offset: tiles start at multiples of the swizzle atom",
                which);
    }
    operand o;
    o.start = static_cast<uint32_t>(descriptor & 0x3fff) << 4;
    o.leading = static_cast<uint32_t>(descriptor >> 16 & 0x3fff) << 4;
    o.stride = static_cast<uint32_t>(descriptor >> 32 & 0x3fff) << 4;
    o.width = width;
    o.mn = mn;
    /* The XOR takes address bits 7 and up: inside a tile only bits below may move along a row. */
    if (o.width > 16 && o.start % (8 * o.width) >= (mn ? 16 : o.width)) {
        fail_at(at,
                "descriptor %s starts at shared 0x%x, not at the first row of a swizzle atom of "
                "%u bytes",
                which, o.start, 8 * o.width);
    }
    return o;
}

void refuse_bits(const char *which, uint64_t descriptor, where at)
{
    fail_at(at, "descriptor %s 0x%016llx has reserved bits set, or is of the other architecture",
            which, static_cast<unsigned long long>(descriptor));
}

} // namespace

operand decode_wgmma(const char *which, uint64_t descriptor, bool mn, where at)
{
    static const uint32_t WIDTHS[] = {16, 128, 64, 32};
    if (descriptor & RESERVED) {
        refuse_bits(which, descriptor, at);
    }
    return decode_common(which, descriptor, WIDTHS[descriptor >> 62], mn, at);
}

operand decode_tcgen05(const char *which, uint64_t descriptor, bool mn, where at)
{
    static const uint32_t WIDTHS[] = {16, 0, 128, 0, 64, 0, 32, 0}; /* 1: 32-byte atoms, unused */
    uint32_t width = WIDTHS[descriptor >> 61];
    if ((descriptor & TCGEN05_RESERVED) || (descriptor >> 46 & 7) != 1 || width == 0) {
        refuse_bits(which, descriptor, at);
    }
    return decode_common(which, descriptor, width, mn, at);
}

uint32_t operand_chunk(const operand &o, uint32_t outer, uint32_t k)
{
    uint32_t w = o.width, address;
    if (w == 16) {
        address = o.mn ? o.start + outer / 8 * o.stride + k / 8 * o.leading + k % 8 * 16
                       : o.start + outer / 8 * o.stride + k / 8 * o.leading + outer % 8 * 16;
        return address;
    }
    uint32_t per_row = w / 2; /* elements */
    address = o.mn ? o.start + outer / per_row * o.leading + k / 8 * o.stride + k % 8 * w +
                         outer % per_row * 2
                   : o.start + outer / 8 * o.stride + outer % 8 * w + k / 8 * 16;
    uint32_t chunk_bits = w / 16 - 1;
    return (address & ~15u) ^ ((address >> 7 & chunk_bits) << 4);
}

void operand_check(block &b, const char *what, const operand &o, const operand_read &r)
{
    each_chunk(o, r.first, r.count, [&](uint32_t, uint32_t, uint32_t address) {
        smem_in_bounds(what, address, 16, 16, r.at);
        async_read(b, what, address, 16, r.stream, r.group, r.at);
    });
}

void operand_decode(block &b, const operand &o, const operand_read &r, float *to, int outer_step,
                    int k_step)
{
    int along = o.mn ? outer_step : k_step; /* step between the 8 elements of a chunk */
    each_chunk(o, r.first, r.count, [&](uint32_t outer, uint32_t k, uint32_t address) {
        uint16_t raw[8];
        memcpy(raw, smem_data(b, address), 16);
        float *at =
            to + static_cast<int>(outer - r.first) * outer_step + static_cast<int>(k) * k_step;
        for (int i = 0; i < 8; i++) {
            at[i * along] = half_to_float(raw[i], r.bf16);
        }
    });
}

uint64_t operand_version(const block &b, const operand &o, const operand_read &r)
{
    uint64_t newest = 0;
    uint32_t last = UINT32_MAX;
    each_chunk(o, r.first, r.count, [&](uint32_t, uint32_t, uint32_t address) {
        uint32_t page = (address - SMEM_BASE) / 1024;
        if (page != last) {
            newest = std::max(newest, newest_version(b, address, 16));
            last = page;
        }
    });
    return newest;
}

} // namespace sim
