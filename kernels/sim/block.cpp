#include "sim/block.h"

#include <algorithm>
#include <string.h>

#include "sim/machine.h"
#include "sim/ops.h"
#include "sim/shadow.h"
#include "sim/tensor.h"

namespace sim
{

namespace
{

constexpr int REGISTERS = 65536;
constexpr int REGISTERS_MAX = 255; /* of a thread at launch */

void shadow_reset(shadow *s, uint32_t bytes)
{
    s->writers.assign(bytes / 4 + 4, 0);
    s->reader_slot.assign(bytes / 16 + 1, 0);
    s->readers.assign(1, {});
    s->remote_reads.clear();
    s->copies.clear();
    s->async.resize(bytes / 128 + 1);
    s->async_used.assign(bytes / 128 + 1, 0);
    std::fill(s->async.begin(), s->async.end(), async_marks{});
    s->version.assign(bytes / 1024 + 1, version_now() + 1);
}

void warp_reset(warp *w, block *b, int index)
{
    w->owner = b;
    w->index = index;
    w->ready = 0;
    w->queued = false;
    w->elected = static_cast<int>(random_below(LANES));
    w->live = LANES;
    w->now = 1;
    w->synced = 0;
    w->meeting = {};
    w->multiplies.clear();
    w->multiplies_base = 0;
    w->multiplies_issued = 0;
    w->accumulators.clear();
    w->bulk_groups = 0;
    w->tensor_multiplies = w->tensor_loads = w->tensor_stores = 0;
    w->tensor_lane = -1;
    w->at_cluster_barrier = w->cluster_owes_wait = false;
    w->cluster_rounds = 0;
}

void thread_reset(thread *t, block *b, warp *w, int index)
{
    t->owner = b;
    t->of = w;
    t->index = index;
    t->lane = index % LANES;
    t->done = false;
    t->asleep = false;
    t->known = clock();
    t->trace = 0;
    t->waits_for = nullptr;
    t->waits_at = {"start", 0};
    t->wait_address = 0;
    t->multiply_fenced = false;
    t->fenced.clear();
    t->multiply_at = {"start", 0};
    t->multiply_groups = 0;
    t->multiply_next = 0;
    t->bulk.clear();
    t->bulk_waited = 0;
    t->waited = false;
    t->tensor_loads_waited = t->tensor_stores_waited = 0;
    t->tensor_loads_fenced = t->tensor_stores_fenced = 0;
    t->tensor_fenced = false;
    t->deliveries.clear();
    w->lanes[t->lane] = t;
}

template <typename T>
void resize_owned(std::vector<std::unique_ptr<T>> *v, size_t count)
{
    v->resize(count);
    for (auto &p : *v) {
        if (p == nullptr) {
            p = std::make_unique<T>();
        }
    }
}

} // namespace

block::block() = default;
block::~block() = default;

void block_reset(block &b, machine &m, int index, std::shared_ptr<cluster> in)
{
    const int *grid = m.shape.grid;
    b.owner = &m;
    b.index = index;
    b.at[0] = index % grid[0];
    b.at[1] = index / grid[0] % grid[1];
    b.at[2] = index / grid[0] / grid[1];
    b.smem_bytes = m.shape.smem_bytes;
    b.data.assign(b.smem_bytes + 16, 0xcd);
    shadow_reset(&b.marks, b.smem_bytes);
    b.mbarriers.clear();
    b.rank = static_cast<int>(in->blocks.size());
    b.in = std::move(in);
    b.in->blocks.push_back(&b);
    b.visited = {};
    b.from_peers = 0;
    b.tensor.reset(); /* made by the first tmem_take */
    for (named_barrier &n : b.named) {
        n = {};
    }
    int count = m.shape.threads;
    resize_owned(&b.warps, static_cast<size_t>(count / LANES));
    resize_owned(&b.threads, static_cast<size_t>(count));
    for (int w = 0; w < count / LANES; w++) {
        warp_reset(b.warps[static_cast<size_t>(w)].get(), &b, w);
    }
    for (int i = 0; i < count; i++) {
        thread_reset(b.threads[static_cast<size_t>(i)].get(), &b,
                     b.warps[static_cast<size_t>(i / LANES)].get(), i);
    }
    /* What ptxas gives a kernel with __launch_bounds__(threads, 1). */
    int each = std::min(REGISTERS_MAX, REGISTERS / count / 8 * 8);
    for (auto &w : b.warps) {
        w->registers = each;
    }
    b.registers_free = 0; /* what rounding leaves of the file is not the block's */
    b.loads = 0;
    b.waiting_for_registers.clear();
    b.live = count;
}

void thread_exit(thread &t)
{
    where end = {"the end of the kernel", 0};
    tensor_thread_exit(t);
    for (const auto &g : t.bulk) {
        if (g->number == 0) {
            fail_at(t.waits_at, "ends with bulk stores that were never committed");
        } else if (g->number > own(t).bulk[t.of->index]) {
            fail_at(t.waits_at, "ends, but nothing that it waited for says that its bulk store no "
                                "longer reads shared memory: the block's memory may be given away "
                                "(bulk_wait_read is missing)");
        }
    }
    for (const auto &a : t.of->accumulators) {
        if ((a->taken >> t.lane & 1) && !(a->given >> t.lane & 1)) {
            fail_at(a->last, "ends without a wgmma_wait for the wgmma issued here");
        }
    }
    if (t.of->meeting.arrived > 0) {
        fail_at(t.of->meeting.at, "ends while other lanes of its warp wait in %s",
                t.of->meeting.name);
    }
    t.waits_at = end;
}

void block_exit(const block &b)
{
    if (b.loads > 0) {
        fail(
            "block %d ends while TMA loads into its shared memory are in flight: nobody waited for "
            "them",
            b.index);
    }
    tensor_block_exit(b);
    cluster_block_exit(b);
    for (const auto &m : b.mbarriers) {
        if (m->missing_bytes != 0) {
            fail("block %d ends, but round %u of the mbarrier at 0x%x is %lld bytes short: "
                 "expected and "
                 "loaded bytes differ",
                 b.index, m->rounds + 1, m->address, static_cast<long long>(m->missing_bytes));
        }
    }
}

void publish(thread &t, clock *into)
{
    own(t).generic.add_lane(t.of->index, t.of->now, t.lane);
    tensor_publish(t);
    clock_join(into, t.known);
    t.of->now++;
}

} // namespace sim
