/*
 * cost.h: what a request takes, in the four units the daemon counts in. Equal tokens are not equal
 * work, equal work is not equal memory, so admission, quotas, fair shares and batch caps each look
 * at the unit that is scarce there.
 *
 * FLOPs are doubles (attn_flops): 2^53 exact steps, sums far past 2^64 without overflow.
 */
#ifndef SERVER_COST_H
#define SERVER_COST_H

#include <stdint.h>

struct cost {
    uint64_t bytes;    /* of arena: inputs not read in place, outputs */
    uint64_t tokens;   /* rows of q and of k */
    uint32_t requests; /* 1 for one request */
    uint32_t sequences;
    double flops;
};

static inline void cost_add(struct cost *sum, const struct cost *part)
{
    sum->bytes += part->bytes;
    sum->tokens += part->tokens;
    sum->requests += part->requests;
    sum->sequences += part->sequences;
    sum->flops += part->flops;
}

/* Emptied sums are exactly zero: rounding of FLOPs must not leave a quota half taken for ever. */
static inline void cost_sub(struct cost *sum, const struct cost *part)
{
    sum->bytes -= part->bytes;
    sum->tokens -= part->tokens;
    sum->requests -= part->requests;
    sum->sequences -= part->sequences;
    sum->flops = sum->requests == 0 || sum->flops < part->flops ? 0 : sum->flops - part->flops;
}

#endif
