/*
 * reference.h: causal grouped-query attention and its gradients, in this process and in fp32, as
 * the judge of what the daemon returns. It is written out from the definition and shares no code
 * with the daemon; no BLAS either.
 *
 * `low` is the same mathematics in the input's type, as a framework does it eagerly: scores,
 * probabilities and their gradients are rounded to bf16 between the steps, and so are the results.
 * Its distance from the reference is what the type costs; the tolerance is a multiple of it.
 */
#ifndef FASCTL_REFERENCE_H
#define FASCTL_REFERENCE_H

#include <stdbool.h>
#include <stdint.h>

#define REFERENCE_D 64 /* the one head dim it serves */

/* One document: bf16 bits, packed (tokens, heads, REFERENCE_D). */
struct reference_input {
    int32_t tokens, hq, hkv;
    const uint16_t *q, *k, *v, *d_o;
};

/* fp32; lse is (hq, tokens), the others are like their inputs. */
struct reference_output {
    float *o, *lse, *dq, *dk, *dv;
};

/* One kv head and the q heads that read it. Any thread; heads can be done at the same time. */
void reference_head(const struct reference_input *in, int32_t kv_head, bool low,
                    const struct reference_output *out);

#endif
