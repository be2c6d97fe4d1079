/*
 * batch.c: order, then concatenate, then cut. Everything is arithmetic on arrays that open sized.
 */
#include "server/batch.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

bool batch_open(struct batch *batch, int32_t requests_max, int32_t sequences_max)
{
    *batch = (struct batch){.requests_max = requests_max, .sequences_max = sequences_max};
    /* A slice has a sequence at least; a batch without any has one slice. */
    batch->slices = calloc((size_t)sequences_max + 1, sizeof(batch->slices[0]));
    batch->sequences = calloc((size_t)sequences_max + 1, sizeof(batch->sequences[0]));
    batch->sets = calloc((size_t)requests_max, sizeof(batch->sets[0]));
    batch->requests = calloc((size_t)requests_max, sizeof(batch->requests[0]));
    batch->order = calloc((size_t)requests_max, sizeof(batch->order[0]));
    if (!batch->slices || !batch->sequences || !batch->sets || !batch->requests || !batch->order) {
        batch_close(batch);
        return false;
    }
    return true;
}

void batch_close(struct batch *batch)
{
    free(batch->slices);
    free(batch->sequences);
    free(batch->sets);
    free(batch->requests);
    free(batch->order);
    *batch = (struct batch){0};
}

/* Lightest first, in the order given among equals: insertion, for some hundreds at most. */
static void sort_parts(struct batch *batch, const struct batch_part *parts, int32_t count)
{
    for (int32_t i = 0; i < count; i++) {
        int32_t at = i;
        while (at > 0 && parts[batch->order[at - 1]].flops > parts[i].flops) {
            batch->order[at] = batch->order[at - 1];
            at--;
        }
        batch->order[at] = i;
    }
}

static void concatenate(struct batch *batch, const struct batch_part *parts, int32_t count)
{
    int32_t first = 0;
    for (int32_t i = 0; i < count; i++) {
        const struct batch_part *part = &parts[batch->order[i]];
        assert(first + part->sequence_count <= batch->sequences_max);
        batch->sets[i] = *part->set;
        batch->requests[i] = (struct batch_request){
            .slot = part->slot, .first = first, .count = part->sequence_count};
        if (part->sequence_count > 0) {
            memcpy(&batch->sequences[first], part->sequences,
                   (size_t)part->sequence_count * sizeof(batch->sequences[0]));
        }
        first += part->sequence_count;
    }
    batch->request_count = count;
    batch->sequence_count = first;
}

/* Opens the next slice at a sequence of a request. */
static struct batch_slice *slice_open(struct batch *batch, int32_t sequence, int32_t request)
{
    struct batch_slice *slice = &batch->slices[batch->slice_count++];
    *slice = (struct batch_slice){.first = sequence, .first_request = request, .parts = 1};
    return slice;
}

/* How many parts a sequence of that much work is launched in. */
static int32_t parts_of(double flops, double part_flops)
{
    double parts = flops > part_flops ? ceil(flops / part_flops) : 1;
    return parts < BATCH_PARTS_MAX ? (int32_t)parts : BATCH_PARTS_MAX;
}

/*
 * Cuts where the next sequence would take a slice past slice_flops. Sequences name their set
 * relative to their slice's first request, so that a launch sees only the sets it reads. Requests
 * without FLOPs come first, so all of them are in slice 0.
 */
static void cut_slices(struct batch *batch, const struct batch_cut *cut)
{
    batch->slice_count = 0;
    batch->flops = 0;
    struct batch_slice *slice = slice_open(batch, 0, 0);
    for (int32_t r = 0; r < batch->request_count; r++) {
        const struct batch_request *request = &batch->requests[r];
        slice->request_count = r - slice->first_request + 1;
        for (int32_t s = request->first; s < request->first + request->count; s++) {
            struct attn_sequence *sequence = &batch->sequences[s];
            double flops = attn_flops(&batch->shape, sequence->q_len, sequence->k_len);
            int32_t parts = parts_of(flops, cut->part_flops);
            if (slice->span > 0 && (parts > 1 || slice->flops + flops > cut->slice_flops)) {
                slice->request_count -= s == request->first ? 1 : 0;
                slice = slice_open(batch, s, r);
                slice->request_count = 1;
            }
            sequence->set = r - slice->first_request;
            slice->parts = parts;
            slice->span++;
            slice->count++;
            slice->flops += flops;
            batch->flops += flops;
        }
    }
}

void batch_layout(struct batch *batch, uint64_t id, const struct attn_shape *shape,
                  const struct batch_part *parts, int32_t count, const struct batch_cut *cut)
{
    assert(count >= 1 && count <= batch->requests_max);
    batch->id = id;
    batch->shape = *shape;
    sort_parts(batch, parts, count);
    concatenate(batch, parts, count);
    cut_slices(batch, cut);
}

struct attn_launch batch_launch(const struct batch *batch, int32_t slice, void *scratch,
                                size_t scratch_bytes)
{
    assert(slice >= 0 && slice < batch->slice_count);
    const struct batch_slice *it = &batch->slices[slice];
    return (struct attn_launch){.shape = batch->shape,
                                .sets = batch->sets + it->first_request,
                                .sequences = batch->sequences + it->first,
                                .set_count = it->request_count,
                                .sequence_count = it->count,
                                .scratch = scratch,
                                .scratch_bytes = scratch_bytes};
}

int32_t batch_completed(const struct batch *batch, int32_t slice, int32_t request, int32_t *first)
{
    const struct batch_slice *it = &batch->slices[slice];
    const struct batch_request *of = &batch->requests[request];
    int32_t from = it->first > of->first ? it->first : of->first;
    int32_t slice_end = it->first + it->span;
    int32_t request_end = of->first + of->count;
    int32_t to = slice_end < request_end ? slice_end : request_end;
    *first = from - of->first;
    return of->dropped || to < from ? 0 : to - from;
}

bool batch_ends(const struct batch *batch, int32_t slice, int32_t request)
{
    const struct batch_slice *it = &batch->slices[slice];
    const struct batch_request *of = &batch->requests[request];
    if (of->count == 0) {
        return slice == 0;
    }
    int32_t last = of->first + of->count - 1;
    return it->first <= last && last < it->first + it->span;
}

void batch_drop(struct batch *batch, int32_t request, int32_t slice)
{
    batch->requests[request].dropped = true;
    for (int32_t s = slice; s < batch->slice_count; s++) {
        struct batch_slice *it = &batch->slices[s];
        int32_t set = request - it->first_request;
        int32_t kept = it->first;
        for (int32_t i = it->first; i < it->first + it->count; i++) {
            if (batch->sequences[i].set == set) {
                continue;
            }
            if (kept < i) { /* what stays is not written: earlier parts may be reading it */
                batch->sequences[kept] = batch->sequences[i];
            }
            kept++;
        }
        it->count = kept - it->first;
    }
}
