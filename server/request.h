/*
 * request.h: a request as the client put it -> attention as the kernels take it. The only place
 * where proto and kernels meet.
 *
 * In steps, each pure: request_shape (may it run here at all?), request_place (tensors the kernels
 * use where the client put them), request_sequences (lengths -> sequences and cost), request_layout
 * (offsets of the other tensors in one span of the arena), request_bind (the kernels' view of
 * both).
 */
#ifndef SERVER_REQUEST_H
#define SERVER_REQUEST_H

#include "kernels/attn.h"
#include "proto/wire.h"
#include "server/cost.h"
#include "server/device.h"

/* Where each tensor that is not in place lies inside the request's span of the arena, packed. */
struct request_layout {
    uint64_t offsets[FAS_TENSOR_COUNT];
    uint64_t dsink_rows_offset; /* dsink per sequence, as the kernels write it */
    uint64_t bytes;             /* of the whole span */
};

struct request {
    struct wire_request wire;
    struct attn_shape shape;
    const struct attn_row *row;
    uint32_t inputs, outputs; /* bit sets of 1u << fas_tensor */
    uint32_t travelling;      /* of both: in messages; the others lie in places */
    uint32_t in_place; /* of those: where the kernels use them; the span has no room for them */
    uint32_t copied;   /* of those: to or from the span, as the device does not reach them */
    struct attn_tensor placed[FAS_TENSOR_COUNT]; /* where both are */
    struct attn_sequence *sequences;
    int32_t sequence_count;
    struct cost cost;
    size_t scratch_bytes; /* when launched alone */
    uint64_t plan_bytes;  /* its tile lists, at most */
    struct request_layout layout;
};

/* Fills wire, shape, row, inputs, outputs, travelling. */
enum fas_status request_shape(struct request *request, const struct wire_request *wire,
                              enum attn_arch arch, struct fas_error *error);

/* Are its sequences short enough for its row's device? */
enum fas_status request_check_spans(const struct request *request,
                                    const struct wire_lengths *lengths, struct fas_error *error);

/* The tensor is at `data`, with the strides the request says: where the kernels use it, or else
 * (copied) where it is copied from or to. */
void request_place(struct request *request, enum fas_tensor tensor, uint8_t *data, bool copied);

struct request_rows {
    int64_t first, count;
};

/* What that copy is for some rows of the tensor, with the span at `arena_offset`. */
struct device_copy request_copy(const struct request *request, enum fas_tensor tensor,
                                struct request_rows rows, uint64_t arena_offset);

/* Bytes of host memory its sequences take. */
uint64_t request_sequences_bytes(const struct request *request);

/* Fills sequences (into memory of that size), all of cost but bytes, scratch_bytes, plan_bytes. */
void request_sequences(struct request *request, const struct wire_lengths *lengths,
                       struct attn_sequence *sequences);

/*
 * Fills layout and cost.bytes: room for every input and output, but for those in place and, of a
 * backward with a handle, for what the handle holds.
 */
void request_layout(struct request *request);

/* One of its tensors as the kernels see it, with its span at `base`. */
struct attn_tensor request_tensor(const struct request *request, uint8_t *base,
                                  enum fas_tensor tensor);

/* Tensors of `request` at `base`; those of a retained forward (NULL: none) at `retained_base`. */
struct attn_set request_bind(const struct request *request, uint8_t *base,
                             const struct request *retained, uint8_t *retained_base);

/* Why a backward can not use this retained forward: the field, or NULL if it can. Both have their
 * sequences. */
const char *request_handle_mismatch(const struct request *backward, const struct request *forward);

/* "sm90"; and the rows of the table that serve this arch, as HELLO_ACK lists them. */
const char *request_arch_name(enum attn_arch arch);
uint32_t request_describe_kernels(enum attn_arch arch, struct wire_kernel *kernels, uint32_t room);

/* First row behind sequence `sequence` on the tensor's side: ranges of results are rows between
 * two of these. sequence 0 starts at row 0. */
int64_t request_rows_before(const struct request *request, enum fas_tensor tensor,
                            int32_t sequence);

#endif
