/* cuda/context.cu: see context.cuh. */
#include "cuda/context.cuh"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "gpu/tensor_shape.cuh"

namespace
{

constexpr size_t PIECE_ALIGNMENT = 256;
static_assert(gpu::RAGGED_ROWS == ATTN_GPU_SPAN_MAX, "one number, said to both sides");
static_assert(ATTN_CUDA_SMS_MIN >= PLAN_GROUP, "who waits in a group finds all of it");

size_t round_up(size_t bytes)
{
    return (bytes + PIECE_ALIGNMENT - 1) / PIECE_ALIGNMENT * PIECE_ALIGNMENT;
}

/* FNV-1a, eight bytes at a time: lists are compared byte by byte before they are used again. */
uint64_t hash_bytes(uint64_t hash, const void *data, size_t bytes)
{
    const uint8_t *at = static_cast<const uint8_t *>(data);
    for (size_t i = 0; i < bytes; i += 8) {
        uint64_t word = 0;
        memcpy(&word, at + i, bytes - i < 8 ? bytes - i : 8);
        hash = (hash ^ word) * 0x100000001b3u;
        hash ^= hash >> 29;
    }
    return hash;
}

void forget(cuda_plan_entry *entry)
{
    free(entry->sequences);
    free(entry->cuts);
    *entry = {};
}

/* plan_shape has padding: compare and hash a copy whose padding is zero. */
plan_shape clean_shape(const plan_shape *shape)
{
    plan_shape clean;
    memset(&clean, 0, sizeof(clean));
    clean.pass = shape->pass;
    clean.mask.has_left = shape->mask.has_left;
    clean.mask.has_right = shape->mask.has_right;
    clean.mask.left = shape->mask.has_left ? shape->mask.left : 0;
    clean.mask.right = shape->mask.has_right ? shape->mask.right : 0;
    clean.hq = shape->hq;
    clean.hkv = shape->hkv;
    clean.q_block = shape->q_block;
    clean.k_block = shape->k_block;
    clean.walked_bytes = shape->walked_bytes;
    clean.deterministic = shape->deterministic;
    clean.tile_heads = shape->tile_heads;
    clean.stripe_rows = shape->stripe_rows;
    clean.ordered_keys = shape->ordered_keys;
    clean.other_q_block = shape->other_q_block;
    clean.other_k_block = shape->other_k_block;
    return clean;
}

int32_t parts_of(const attn_launch *launch)
{
    return launch->parts > 1 ? launch->parts : 1;
}

cuda_plan_entry *find_plan(attn_context *context, const plan_shape *shape,
                           const attn_launch *launch, uint64_t hash)
{
    size_t bytes = static_cast<size_t>(launch->sequence_count) * sizeof(attn_sequence);
    for (cuda_plan_entry &entry : context->plans) {
        if (entry.sequences != nullptr && entry.hash == hash &&
            entry.sequence_count == launch->sequence_count && entry.parts == parts_of(launch) &&
            memcmp(&entry.shape, shape, sizeof(*shape)) == 0 &&
            memcmp(entry.sequences, launch->sequences, bytes) == 0) {
            return &entry;
        }
    }
    return nullptr;
}

/* All that was launched before has ended; what was taken before may be overwritten. */
bool end_round(attn_context *context)
{
    context->round++;
    return cudaStreamSynchronize(context->stream) == cudaSuccess;
}

/* Lists of this round that the ring has still to come to may be read while it does. */
bool retire(attn_context *context, cuda_plan_entry *entry)
{
    bool in_use = entry->sequences != nullptr && entry->round == context->round &&
                  entry->last > context->ring_head;
    forget(entry);
    return !in_use || end_round(context);
}

/* Lists whose bytes the new piece takes are gone, once no kernel reads them any more. */
bool retire_overlapping(attn_context *context, size_t first, size_t last)
{
    bool retired = true;
    for (cuda_plan_entry &entry : context->plans) {
        if (entry.sequences != nullptr && entry.first < last && first < entry.last) {
            retired = retire(context, &entry) && retired;
        }
    }
    return retired;
}

int64_t count_stripes(const plan_shape *shape, const attn_launch *launch)
{
    return shape->pass == ATTN_BACKWARD
               ? plan_stripe_count(shape, launch->sequences, launch->sequence_count)
               : 0;
}

/* The list moves forward, part by part, from where plan_make wrote it: behind room for the marks of
 * all parts. */
void spread_tiles(plan_tile *tiles, const int64_t *cuts, int32_t parts, int64_t marks)
{
    const plan_tile *from = tiles + parts * marks;
    for (int32_t p = 0; p < parts; p++) {
        int64_t count = cuts[p + 1] - cuts[p];
        plan_tile *to = tiles + cuts[p] + p * marks;
        memmove(to, from + cuts[p], static_cast<size_t>(count) * sizeof(plan_tile));
        memset(to + count, 0, static_cast<size_t>(marks) * sizeof(plan_tile));
    }
}

/* Tiles with their end marks, fills, stripes and the numbers of loose ones, in this order, in a new
 * piece of the ring. */
bool write_lists(attn_context *context, const plan_shape *shape, const attn_launch *launch,
                 cuda_plan_entry *entry)
{
    plan_size size = plan_measure(shape, launch->sequences, launch->sequence_count);
    int64_t marks = context->sms, stripe_count = count_stripes(shape, launch), loose_count = 0;
    size_t records = static_cast<size_t>(size.tiles + entry->parts * marks);
    size_t fills = records * sizeof(plan_tile);
    size_t stripes = fills + static_cast<size_t>(size.fills) * sizeof(plan_fill);
    size_t loose = stripes + static_cast<size_t>(stripe_count) * sizeof(plan_stripe);
    cuda_piece piece =
        cuda_piece_take(context, loose + static_cast<size_t>(stripe_count) * sizeof(int32_t));
    if (piece.host == nullptr || size.tiles > INT32_MAX / 2 || size.fills > INT32_MAX ||
        stripe_count > INT32_MAX) {
        return false;
    }
    plan_tile *tiles = reinterpret_cast<plan_tile *>(piece.host);
    plan_tile *made = tiles + entry->parts * marks;
    plan_make(shape, launch->sequences, launch->sequence_count, made,
              reinterpret_cast<plan_fill *>(piece.host + fills));
    plan_cut(shape, made, size.tiles, entry->parts, cuda_ctas(context, INT32_MAX), entry->cuts);
    spread_tiles(tiles, entry->cuts, entry->parts, marks);
    if (stripe_count > 0) {
        loose_count = plan_stripes(shape, launch->sequences, launch->sequence_count,
                                   reinterpret_cast<plan_stripe *>(piece.host + stripes),
                                   reinterpret_cast<int32_t *>(piece.host + loose));
    }
    entry->plan = {reinterpret_cast<const plan_tile *>(piece.device),
                   reinterpret_cast<const plan_fill *>(piece.device + fills),
                   reinterpret_cast<const plan_stripe *>(piece.device + stripes),
                   reinterpret_cast<const int32_t *>(piece.device + loose),
                   static_cast<int32_t>(size.tiles),
                   static_cast<int32_t>(size.fills),
                   static_cast<int32_t>(stripe_count),
                   static_cast<int32_t>(loose_count)};
    entry->first = static_cast<size_t>(piece.device - context->ring.device);
    entry->last = entry->first + piece.bytes;
    return cuda_piece_send(context, &piece);
}

/* What of the entry's lists the launch is for. */
cuda_plan part_of(const attn_context *context, const cuda_plan_entry *entry, int32_t part)
{
    cuda_plan plan = entry->plan;
    plan.tiles += entry->cuts[part] + int64_t{part} * context->sms;
    plan.tile_count = static_cast<int32_t>(entry->cuts[part + 1] - entry->cuts[part]);
    plan.fill_count = part == 0 ? plan.fill_count : 0;
    return plan;
}

/* An entry for the launch, without lists; nullptr: no memory, or the stream failed. */
cuda_plan_entry *new_entry(attn_context *context, const plan_shape *shape,
                           const attn_launch *launch, uint64_t hash)
{
    size_t bytes = static_cast<size_t>(launch->sequence_count) * sizeof(attn_sequence);
    cuda_plan_entry *entry = &context->plans[context->next_plan];
    context->next_plan = (context->next_plan + 1) % CUDA_PLANS;
    if (!retire(context, entry)) {
        return nullptr;
    }
    entry->shape = *shape;
    entry->sequence_count = launch->sequence_count;
    entry->hash = hash;
    entry->parts = parts_of(launch);
    entry->sequences = static_cast<attn_sequence *>(malloc(bytes > 0 ? bytes : 1));
    entry->cuts =
        static_cast<int64_t *>(malloc((static_cast<size_t>(entry->parts) + 1) * sizeof(int64_t)));
    if (entry->sequences == nullptr || entry->cuts == nullptr) {
        forget(entry);
        return nullptr;
    }
    memcpy(entry->sequences, launch->sequences, bytes);
    return entry;
}

} // namespace

cuda_piece cuda_piece_take(attn_context *context, size_t bytes)
{
    bytes = round_up(bytes);
    if (bytes > context->ring.bytes) {
        return {};
    }
    if (context->ring_head + bytes > context->ring.bytes) {
        if (!end_round(context)) {
            return {};
        }
        context->ring_head = 0;
    }
    size_t first = context->ring_head;
    if (!retire_overlapping(context, first, first + bytes)) {
        return {};
    }
    context->ring_head = first + bytes;
    return {context->ring.host + first, context->ring.device + first, bytes};
}

bool cuda_piece_send(attn_context *context, const cuda_piece *piece)
{
    return cudaMemcpyAsync(piece->device, piece->host, piece->bytes, cudaMemcpyHostToDevice,
                           context->copies) == cudaSuccess &&
           cudaEventRecord(context->copied, context->copies) == cudaSuccess &&
           cudaStreamWaitEvent(context->stream, context->copied, 0) == cudaSuccess;
}

bool cuda_plan_take(attn_context *context, const plan_shape *wanted, const attn_launch *launch,
                    cuda_plan *plan)
{
    plan_shape shape = clean_shape(wanted);
    size_t bytes = static_cast<size_t>(launch->sequence_count) * sizeof(attn_sequence);
    uint64_t hash = hash_bytes(hash_bytes(0, &shape, sizeof(shape)), launch->sequences, bytes);
    cuda_plan_entry *entry = find_plan(context, &shape, launch, hash);
    if (entry == nullptr) {
        entry = new_entry(context, &shape, launch, hash);
        if (entry == nullptr) {
            return false;
        }
        if (!write_lists(context, &shape, launch, entry)) {
            forget(entry);
            return false;
        }
    }
    entry->round = context->round;
    *plan = part_of(context, entry, launch->part);
    return true;
}

bool cuda_launch_fits(const attn_launch *launch)
{
    for (int32_t i = 0; i < launch->sequence_count; i++) {
        const attn_sequence &s = launch->sequences[i];
        bool fits = s.q_span <= gpu::RAGGED_ROWS && s.k_span <= gpu::RAGGED_ROWS &&
                    s.q_first + s.q_span <= INT32_MAX && s.k_first + s.k_span <= INT32_MAX;
        if (!fits) {
            return false;
        }
    }
    return true;
}

int32_t cuda_ctas(const attn_context *context, int32_t tiles)
{
    int32_t most = context->cta_limit > 0 && context->cta_limit < context->sms ? context->cta_limit
                                                                               : context->sms;
    return tiles < most ? tiles : most;
}

struct attn_context *attn_cuda_open(void *stream, size_t plan_bytes)
{
    int device = 0, sms = 0;
    attn_context *context = static_cast<attn_context *>(calloc(1, sizeof(*context)));
    if (context == nullptr) {
        return nullptr;
    }
    context->stream = static_cast<cudaStream_t>(stream);
    context->ring.bytes = round_up(plan_bytes);
    bool usable =
        cudaGetDevice(&device) == cudaSuccess &&
        cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, device) == cudaSuccess &&
        cudaMalloc(&context->counters, PIECE_ALIGNMENT) == cudaSuccess &&
        cudaMemsetAsync(context->counters, 0, PIECE_ALIGNMENT, context->stream) == cudaSuccess &&
        cudaMalloc(&context->ring.device, context->ring.bytes) == cudaSuccess &&
        cudaMallocHost(&context->ring.host, context->ring.bytes) == cudaSuccess &&
        cudaStreamCreateWithFlags(&context->copies, cudaStreamNonBlocking) == cudaSuccess &&
        cudaEventCreateWithFlags(&context->copied, cudaEventDisableTiming) == cudaSuccess;
    context->sms = sms;
    if (!usable) {
        attn_cuda_close(context);
        return nullptr;
    }
    return context;
}

void attn_cuda_close(struct attn_context *context)
{
    if (context == nullptr) {
        return;
    }
    cudaStreamSynchronize(context->stream);
    if (context->copied != nullptr) {
        cudaEventDestroy(context->copied);
    }
    if (context->copies != nullptr) {
        cudaStreamDestroy(context->copies);
    }
    for (cuda_plan_entry &entry : context->plans) {
        forget(&entry);
    }
    cudaFree(context->counters);
    cudaFree(context->ring.device);
    cudaFreeHost(context->ring.host);
    free(context);
}

void attn_cuda_limit(struct attn_context *context, int32_t ctas)
{
    context->cta_limit = ctas;
}

enum attn_arch attn_cuda_arch(void)
{
    int device = 0, major = 0, minor = 0;
    if (cudaGetDevice(&device) != cudaSuccess ||
        cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess ||
        cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) != cudaSuccess) {
        return ATTN_CPU;
    }
    return major == 9 && minor == 0 ? ATTN_SM90 : major == 10 ? ATTN_SM100 : ATTN_CPU;
}
