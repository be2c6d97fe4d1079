/*
 * batch.h: picked requests -> launches of bounded length.
 *
 * A batch is laid out once: one set per request, all their sequences one after another, cut into
 * slices of about slice_flops at whole sequences; a sequence of more than part_flops is a slice of
 * its own, launched in parts (attn_launch.part). The device runs slice after slice; after each, the
 * results of its sequences leave; after each part, a cancel or a deadline takes effect. Light
 * requests come first, so that they leave with the first slice instead of behind a heavy one. None
 * of this can change a bit of any result: attn.h, "bits come first".
 *
 * Scratch: one region per device, for one slice at a time. A request's share of it is what the
 * request needs when launched alone; a slice needs at most the sum of its requests' shares
 * (attn_row.scratch_bytes is monotone), so who admits no more shares than the region holds never
 * fails for scratch.
 *
 * Owner: the loop thread lays out; the device thread reads a slice that was handed to it. Slices
 * not yet handed over may still be changed (batch_drop).
 */
#ifndef SERVER_BATCH_H
#define SERVER_BATCH_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/attn.h"
#include "server/cost.h"

/* Parts of a slice: with the default slice-time, a minute. */
#define BATCH_PARTS_MAX 2400

/* In: one picked request. Its sequences name set 0 and have their index in the request. */
struct batch_part {
    uint32_t slot;
    const struct attn_set *set;
    const struct attn_sequence *sequences;
    int32_t sequence_count;
    double flops;
};

/* A run of batch.sequences, [first, first + span); the first `count` of them are to be launched. */
struct batch_slice {
    int32_t first, span, count;
    int32_t first_request, request_count; /* whose sequences are in it */
    int32_t parts;                        /* more than 1 only with a single sequence */
    double flops;
};

/* A request of the batch: its sequences are [first, first + count) of batch.sequences. */
struct batch_request {
    uint32_t slot;
    int32_t first, count;
    bool dropped;
};

struct batch {
    uint64_t id;
    struct attn_shape shape;
    double flops;
    struct attn_set *sets;
    struct attn_sequence *sequences;
    struct batch_request *requests; /* requests[i] owns sets[i] */
    struct batch_slice *slices;
    int32_t request_count, sequence_count, slice_count;
    int32_t requests_max, sequences_max;
    int32_t *order; /* of parts, lightest first */
};

bool batch_open(struct batch *batch, int32_t requests_max, int32_t sequences_max);
void batch_close(struct batch *batch);

/* How much work a slice has, and a part of a sequence: slice_flops <= part_flops. */
struct batch_cut {
    double slice_flops, part_flops;
};

/* Lays out 1 to requests_max parts, which have at most sequences_max sequences together. */
void batch_layout(struct batch *batch, uint64_t id, const struct attn_shape *shape,
                  const struct batch_part *parts, int32_t count, const struct batch_cut *cut);

/* The launch of one slice: points into the batch. A slice may be empty after batch_drop. */
struct attn_launch batch_launch(const struct batch *batch, int32_t slice, void *scratch,
                                size_t scratch_bytes);

/* The sequences of a request, by their index in it, that a slice completes: [*first, + count). */
int32_t batch_completed(const struct batch *batch, int32_t slice, int32_t request, int32_t *first);

/* Whether the slice holds the request's last sequence (one without sequences ends in slice 0). */
bool batch_ends(const struct batch *batch, int32_t slice, int32_t request);

/* Takes a request out of the slices from `slice` on, which nobody else reads yet. */
void batch_drop(struct batch *batch, int32_t request, int32_t slice);

#endif
