#include <string.h>

#include "sim/copy.h"
#include "sim/machine.h"
#include "sim/ops.h"
#include "sim/shadow.h"

/*
 * Tensor copies. Independent of gpu/descriptor on purpose: addresses are computed here from the
 * definition of a swizzled box (chunk number XOR row number inside an atom), so that a mistake in
 * one of the two shows.
 */
namespace sim
{

namespace
{

/* Bytes of a box row and its place: row r of the box starts at r * width in shared memory. */
uint32_t box_row_bytes(const gpu::tensor_shape &s)
{
    return s.box[0] * gpu::element_bytes(s.type);
}

/* Shared offset of byte `column` of box row `row`; an atom is 8 rows of the swizzle's width. */
uint32_t box_place(const gpu::tensor_shape &s, uint32_t base, uint32_t row, uint32_t column)
{
    uint32_t offset = row * box_row_bytes(s) + column;
    uint32_t address = base + offset;
    uint32_t chunk = address / 16;
    switch (s.pattern) {
    case gpu::swizzle::b128: /* 8 chunks a row, XOR with the row of 128 bytes, mod 8 */
        chunk = (chunk & ~7u) | ((chunk & 7) ^ (address / 128 % 8));
        break;
    case gpu::swizzle::b64: /* 4 chunks, changing every 128 bytes */
        chunk = (chunk & ~3u) | ((chunk & 3) ^ (address / 128 % 4));
        break;
    case gpu::swizzle::b32:
        chunk = (chunk & ~1u) | ((chunk & 1) ^ (address / 128 % 2));
        break;
    case gpu::swizzle::none:
        break;
    }
    return chunk * 16 + address % 16;
}

/* Where the swizzle's pattern begins anew. */
uint32_t atom_bytes(gpu::swizzle s)
{
    return s == gpu::swizzle::b128  ? 1024
           : s == gpu::swizzle::b64 ? 512
           : s == gpu::swizzle::b32 ? 256
                                    : 128;
}

struct tensor_copy : pending {
    gpu::tensor_shape map;
    int32_t at_coordinate[gpu::TENSOR_RANK_MAX];
    block *owner;
    uint32_t smem;
    where at;
    std::string trouble;

    uint32_t rows() const
    {
        uint32_t n = 1;
        for (int i = 1; i < map.rank; i++) {
            n *= map.box[i];
        }
        return n;
    }

    /* Global address of the first element of box row r, and how many of its elements exist from
     * `first` on. */
    bool row_address(uint32_t r, uint64_t *address) const
    {
        *address = map.base;
        for (int i = 1; i < map.rank; i++) {
            int64_t c = static_cast<int64_t>(at_coordinate[i]) + r % map.box[i];
            r /= map.box[i];
            if (c < 0 || c >= static_cast<int64_t>(map.extent[i])) {
                return false;
            }
            *address += static_cast<uint64_t>(c) * map.stride_bytes[i];
        }
        return true;
    }

    /* Calls move(global byte address, shared address, bytes) for the existing 16-byte-or-less
     * pieces, zero(shared address, bytes) for the rest. */
    template <typename Move, typename Zero>
    void walk(Move move, Zero zero)
    {
        uint32_t size = gpu::element_bytes(map.type);
        int64_t extent = static_cast<int64_t>(map.extent[0]);
        uint32_t per_chunk = 16 / size;
        for (uint32_t r = 0; r < rows(); r++) {
            uint64_t address;
            bool exists = row_address(r, &address);
            for (uint32_t e = 0; e < map.box[0]; e += per_chunk) {
                uint32_t to = box_place(map, smem, r, e * size);
                int64_t first = at_coordinate[0] + static_cast<int64_t>(e);
                int64_t here = exists ? extent - first : 0;
                here = first < 0 ? 0 : here < 0 ? 0 : here > per_chunk ? per_chunk : here;
                uint32_t bytes = static_cast<uint32_t>(here) * size;
                if (bytes > 0) {
                    move(address + static_cast<uint64_t>(first) * size, to, bytes);
                }
                if (bytes < 16) {
                    zero(to + bytes, 16 - bytes);
                }
            }
        }
    }

    void usable(uint64_t address, uint32_t bytes, bool write) const
    {
        std::string why;
        if (!global_usable(reinterpret_cast<const void *>(address), bytes, write, &why)) {
            fail("the TMA copy issued at %s (box at %d, %d, %d, %d, %d) %s", where_text(at),
                 at_coordinate[0], at_coordinate[1], at_coordinate[2], at_coordinate[3],
                 at_coordinate[4], why.c_str());
        }
    }
};

struct load_operation : tensor_copy {
    block *with; /* whose mbarrier */
    mbarrier *barrier;
    uint32_t round;
    clock issuer;

    bool step() override
    {
        walk(
            [this](uint64_t from, uint32_t to, uint32_t bytes) {
                usable(from, bytes, false);
                memcpy(smem_data(*owner, to), reinterpret_cast<const void *>(from), bytes);
            },
            [this](uint32_t to, uint32_t bytes) { memset(smem_data(*owner, to), 0, bytes); });
        uint32_t bytes = gpu::tensor_box_bytes(map);
        touch(*owner, smem, bytes);
        owner->loads--;
        mbarrier_bytes(*with, *barrier, bytes, round, issuer, at);
        return true;
    }
};

void add_elements(gpu::element type, uint8_t *to, const uint8_t *from, uint32_t bytes);

/* First the source is read (bulk_wait_read ends there), then the target is written. */
struct store_operation : tensor_copy {
    std::shared_ptr<bulk_group> group;
    bool add;
    std::vector<uint8_t> copy;

    bool step() override
    {
        if (copy.empty()) {
            uint32_t bytes = gpu::tensor_box_bytes(map);
            copy.assign(smem_data(*owner, smem), smem_data(*owner, smem) + bytes);
            bulk_read_done(*group);
            return false;
        }
        walk(
            [this](uint64_t to, uint32_t from, uint32_t bytes) {
                usable(to, bytes, true);
                uint8_t *target = reinterpret_cast<uint8_t *>(to);
                const uint8_t *source = copy.data() + (from - smem);
                if (add) {
                    add_elements(map.type, target, source, bytes);
                } else {
                    memcpy(target, source, bytes);
                }
            },
            [](uint32_t, uint32_t) {});
        bulk_write_done(*group);
        return true;
    }
};

void add_elements(gpu::element type, uint8_t *to, const uint8_t *from, uint32_t bytes)
{
    if (type == gpu::element::f32) {
        add_floats(reinterpret_cast<float *>(to), from, bytes);
        return;
    }
    for (uint32_t i = 0; i < bytes; i += 2) {
        uint16_t a, b;
        memcpy(&a, to + i, 2);
        memcpy(&b, from + i, 2);
        bool bf16 = type == gpu::element::bf16;
        float sum = half_to_float(a, bf16) + half_to_float(b, bf16);
        a = bf16 ? float_to_bf16(sum) : float_to_fp16(sum);
        memcpy(to + i, &a, 2);
    }
}

void fill(tensor_copy *c, const char *what, const gpu::tensor_shape &map, uint32_t smem,
          const int32_t *coordinates, int rank, where at)
{
    const char *wrong = gpu::tensor_shape_error(map);
    memory_use(reinterpret_cast<uintptr_t>(&map), sizeof map, false);
    if (wrong != nullptr) {
        fail_at(at, "%s with a bad tensor map: %s", what, wrong);
    }
    if (map.rank != rank) {
        fail_at(at, "%s with %d coordinates on a tensor map of rank %d", what, rank, map.rank);
    }
    smem_in_bounds(what, smem, gpu::tensor_box_bytes(map), atom_bytes(map.pattern), at);
    c->map = map;
    memset(c->at_coordinate, 0, sizeof c->at_coordinate);
    memcpy(c->at_coordinate, coordinates, sizeof(int32_t) * static_cast<size_t>(rank));
    c->owner = self().owner;
    c->smem = smem;
    c->at = at;
}

} // namespace

namespace
{

/*
 * Not all of a box that is loaded may lie beyond the tensor's end. Seen on an H200 through ragged
 * maps, whose base is no memory: an illegal address, for some rows and not for others.
 */
void begins_inside(const char *what, const gpu::tensor_shape &map, const int32_t *coordinates,
                   where at)
{
    for (int i = 0; i < map.rank; i++) {
        if (coordinates[i] >= static_cast<int64_t>(map.extent[i])) {
            fail_at(at, "%s of a box that begins at %s %d of %lu: all of it lies beyond", what,
                    i == 0   ? "column"
                    : i == 1 ? "row"
                             : "place",
                    coordinates[i], static_cast<unsigned long>(map.extent[i]));
        }
    }
}

/* Into `to`; the bytes count on the mbarrier of block `with`. */
void load_into(block &to, block &with, const char *what, uint32_t target,
               const gpu::tensor_shape &map, uint32_t barrier, const int32_t *coordinates, int rank,
               where at)
{
    auto c = std::make_unique<load_operation>();
    fill(c.get(), what, map, target, coordinates, rank, at);
    begins_inside(what, map, coordinates, at);
    c->owner = &to;
    c->with = &with;
    c->barrier = &tma_barrier(with, what, barrier, at);
    cluster_check_round(what, with, *c->barrier, at);
    c->round = c->barrier->rounds + 1;
    c->issuer = self().known;
    async_write(to, what, target, gpu::tensor_box_bytes(map), with,
                mbarrier_number(with, *c->barrier), c->round, at);
    cluster_visit_barrier(with, *c->barrier, c->round, at);
    to.loads++;
    start(std::move(c));
}

} // namespace

void tensor_load(uint32_t target, const gpu::tensor_shape &map, uint32_t barrier,
                 const int32_t *coordinates, int rank, where at)
{
    block &b = *self().owner;
    load_into(b, b, "tma_load", target, map, barrier, coordinates, rank, at);
}

void tensor_load_pair(uint32_t target, const gpu::tensor_shape &map, gpu::cluster_address barrier,
                      const int32_t *coordinates, int rank, where at)
{
    const char *what = "tma_load_pair";
    block &b = *self().owner;
    uint32_t of = cluster_rank_of(barrier);
    if (of / 2 != static_cast<uint32_t>(b.rank) / 2) {
        fail_at(at, "%s from rank %d counts on an mbarrier of rank %u, which is of another pair",
                what, b.rank, of);
    }
    load_into(b, cluster_peer(what, of, at), what, target, map, cluster_offset_of(barrier),
              coordinates, rank, at);
}

void tensor_load_multicast(uint32_t target, const gpu::tensor_shape &map, uint32_t barrier,
                           uint32_t mask, const int32_t *coordinates, int rank, where at)
{
    const char *what = "tma_load_multicast";
    cluster_each(what, mask, at, [&](block &to) {
        load_into(to, to, what, target, map, barrier, coordinates, rank, at);
    });
}

void tensor_store(const gpu::tensor_shape &map, uint32_t source, const int32_t *coordinates,
                  int rank, bool add, where at)
{
    auto c = std::make_unique<store_operation>();
    fill(c.get(), add ? "tma_reduce_add" : "tma_store", map, source, coordinates, rank, at);
    c->add = add;
    c->group = bulk_open();
    async_read(*c->owner, add ? "tma_reduce_add" : "tma_store", source, gpu::tensor_box_bytes(map),
               WARPS_MAX + self().of->index, bulk_next_number(), at);
    start(std::move(c));
}

} // namespace sim
